"""The PTX machine against Triton's interpreter on random kernels and on ours, and both against what is computed apart.

Three answers to each: integers agree bit for bit, floats lie within the bound of their own expression.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from kvproof.kernels import ptx
from kvproof.reference.judge.cases import Case, draw_qkv
from kvproof.reference.judge.rounding import attention, gate_around

from ... import _child
from . import _random as ptx_random
from ._mutants import decode_attention
from ._planted_text import load_text

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
RESULTS = {"real": False, "whole": False}  # may not be read before they are written


def interpreted(*command) -> None:
    """Run a Python program whose kernels are interpreted."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    child = _child.run([sys.executable, *map(str, command)], capture_output=True, text=True, env=environment)
    assert child.returncode == 0, child.stderr


def differences(seeds: range, folder: Path) -> list[str]:
    """What is wrong with either side, over the kernels of these seeds."""
    module, results, found = folder / f"kernels_{seeds.start}.py", folder / f"results_{seeds.start}.npz", []
    kernels = load_text(module, ptx_random.source(seeds), module.stem)
    interpreted(*_child.words(ptx_random.__file__), module, results, seeds.start, seeds.stop)
    for seed in seeds:
        k = ptx_random.kernel(seed)
        real, bound, whole = ptx_random.truth(k)
        target = TARGETS[seed % len(TARGETS)]
        ptx.run(getattr(kernels, k.name), k.grid, target=target, readable=RESULTS, **k.arguments)
        with np.load(results) as theirs:
            sides = {"machine": k.arguments, "interpreter": {name: theirs[f"{k.name}.{name}"] for name in RESULTS}}
        for side, values in sides.items():
            wrong = np.sum(~(np.abs(values["real"] - real) <= bound)), np.sum(values["whole"] != whole)
            found += [f"{side}, seed {seed}: {wrong} wrong of {k.real} and {k.whole}"] if any(wrong) else []
    return found


MORE = [pytest.param(range(n, n + 40), marks=pytest.mark.exhaustive) for n in range(8, 208, 40)]


@pytest.mark.parametrize("seeds", [range(8), *MORE], ids=str)
def test_random_kernels_agree(seeds, tmp_path):
    assert differences(seeds, tmp_path) == []


def test_the_bound_is_too_small_for_most_wrong_operations():
    """The others have operands for which both operations give the same, such as two that are one."""
    rejected, exchanges = [], ((" + ", " - "), (" * ", " + "), ("minimum", "maximum"), (" // ", " % "), (" & ", " | "))
    for k in map(ptx_random.kernel, range(12)):
        real, bound, whole = ptx_random.truth(k)
        assert bound.max() <= 1e-3 * max(1.0, np.abs(real).max())
        for old, new in exchanges:
            with np.errstate(divide="ignore"):  # a wrong operation may make a divisor 0
                if old in k.real:
                    other, _, _ = ptx_random.truth(k._replace(real=k.real.replace(old, new)))
                    rejected.append(bool(np.any(np.abs(other - real) > bound)))
                if old in k.whole:
                    _, _, other = ptx_random.truth(k._replace(whole=k.whole.replace(old, new)))
                    rejected.append(bool(np.any(other != whole)))
    assert len(rejected) >= 12
    assert np.mean(rejected) >= 0.75


SHAPES = np.random.default_rng(6)
OURS = [
    Case(dtype, H_kv=int(SHAPES.integers(1, 3)), T=T, D=int(SHAPES.integers(1, 100)),
         lengths=(T, int(SHAPES.integers(0, T + 1))))
    for n, (dtype, T) in enumerate((d, int(SHAPES.integers(90, 200))) for d in ("float32", "float64") for _ in range(2))
]  # fmt: skip


def interpret_ours(out: str) -> None:
    import torch

    from kvproof.kernels.attention.op import decode_attention as ours

    np.savez(out, *(ours(*map(torch.from_numpy, draw_qkv(case))).numpy() for case in OURS))


def test_our_kernels_agree(tmp_path):
    out = tmp_path / "ours.npz"
    interpreted(*_child.words(__file__), out)
    with np.load(out) as theirs:
        for i, case in enumerate(OURS):
            q, k, v, lengths = draw_qkv(case)
            subject = decode_attention(case, TARGETS[i])
            subject.run()
            subject.check()
            exact = attention(q, k, v, lengths)
            gate = gate_around(exact, q, k, v, lengths)
            assert (np.abs(subject.arrays["out"][:, 0] - theirs[f"arr_{i}"]) <= gate).all(), case
            assert (np.abs(theirs[f"arr_{i}"] - exact) <= gate).all(), case


if __name__ == "__main__":
    interpret_ours(sys.argv[1])
