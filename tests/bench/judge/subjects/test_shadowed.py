"""Triton kernels in bfloat16 alone: with their shadow the judge tells rounding from a bug, and without it does not."""

import importlib

import pytest

from kvproof.bench.judge import __main__ as verify
from kvproof.bench.judge.subjects.shadowed import shadowed
from kvproof.kernels.attention import launch
from kvproof.kernels.backend import interpreting
from kvproof.kernels.ptx import OutOfBounds, PtxError, Race, Uninitialised
from kvproof.reference.judge.verdict import BUG, INCONCLUSIVE, ROUNDING

from ....kernels.attention._planted_faults import FAULTS, Fault
from ....kernels.attention._planted_kernels import load_kernels
from ._kernels import decode_path, general_path, in_bfloat16, judged

pytestmark = pytest.mark.skipif(interpreting(), reason="shadows are the PTX machine's")
IN_THE_SUITE = 6
# What these break is the cache or the log-sum-exp: the attention of this call is that of the kernel without them.
ATTENTION_IS_RIGHT = {
    "append_one_slot_late", "append_the_first_token_only", "append_keys_as_values", "lse_as_a_power_of_two",
}  # fmt: skip
# What the machine finds on the way.
STOPPED: dict[str, type[PtxError]] = {
    "splits_after_the_last_live": OutOfBounds, "tile_without_its_last_row": Uninitialised,
    "new_rows_from_the_cache": Race, "partials_of_all_sequences_in_one_place": Uninitialised,
    "combine_mixes_sequences": Race, "decode: length_short": Uninitialised,
    "decode: splits_after_the_last_live": Uninitialised, "decode: append_after_attending": Uninitialised,
    "decode: partials_of_all_sequences_in_one_place": Race,
}  # fmt: skip


def engine(fault: Fault) -> str:
    """The engine that the fault's own case takes."""
    return "mma" if fault.case.rounded_weights else "simt"


CALLS = list(dict.fromkeys((in_bfloat16(fault.case), engine(fault)) for fault in FAULTS.values()))


def sample(names) -> list:
    every = -(-len(names) // IN_THE_SUITE)
    return [pytest.param(x, marks=[] if i % every == 0 else pytest.mark.exhaustive) for i, x in enumerate(names)]


@pytest.mark.parametrize("call", sample(CALLS), ids=str)
def test_a_right_kernel_is_rounding(call):
    case, engine = call
    before, after = judged(general_path(launch, case, engine), case)
    assert after.verdict == ROUNDING, after.reason
    assert before.verdict == (INCONCLUSIVE if before.rungs[0].error else ROUNDING)


@pytest.mark.parametrize("name", sample(FAULTS))
def test_a_planted_fault_is_a_bug(name, tmp_path):
    fault = FAULTS[name]
    case, own = in_bfloat16(fault.case), fault.file == "decode"
    module = load_kernels(tmp_path, fault[1:], module="decode" if own else "attention.launch")
    path = decode_path(module, case) if own else general_path(module, case, engine(fault))
    if name in STOPPED:
        with pytest.raises(STOPPED[name]):
            judged(path, case)
        return
    _, after = judged(path, case)
    assert after.verdict == (ROUNDING if name in ATTENTION_IS_RIGHT else BUG), after.reason


KERNEL = """
import torch, triton, triton.language as tl

x = torch.randn(3, 40, 64, generator=torch.Generator().manual_seed(0)).bfloat16()

@triton.jit
def norm(x, out, EPS: tl.constexpr, N: tl.constexpr):
    at = tl.program_id(0) * N + tl.arange(0, N)
    v = tl.load(x + at).to(tl.float32)
    tl.store(out + at, v * tl.rsqrt(tl.sum(v * v, 0) / N + EPS))

def right(dtype, eps=1e-5):
    if dtype != "bfloat16":
        raise NotImplementedError
    out = torch.empty_like(x)
    norm[(120,)](x, out, eps, 64)
    return out

def wrong(dtype):
    return right(dtype, 1e-3)

def formula(dtype):
    v = x.to(getattr(torch, dtype))
    return v * torch.rsqrt((v * v).mean(-1, keepdim=True) + 1e-5)
"""


@pytest.mark.parametrize(("name", "code", "word"), [("right", 0, "ROUNDING"), ("wrong", 1, "BUG")])
def test_the_command_judges_anybody_s_kernel(name, code, word, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_norm.py").write_text(KERNEL, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    call = ["--callable", f"own_norm:{name}", "--against", "own_norm:formula", "--dtype", "bfloat16"]
    assert verify.main(call) == 2
    assert verify.main([*call, "--shadow", "sm_90"]) == code
    inconclusive, out = capsys.readouterr().out.split(f"{word}: own_norm")
    assert inconclusive.startswith("INCONCLUSIVE")
    assert "in float64" in out


BETWEEN = (
    KERNEL
    + """
def between(dtype):
    return right_of(right(dtype) * 2)

def copied(dtype):
    return right_of(right(dtype).clone())

def looked_at(dtype):
    return right(dtype, 1e-5 if right(dtype).sum() > 1e9 else 1e-4)

def inside(dtype):
    return right_of(x * 0.3)

def right_of(y):
    out = torch.empty_like(y)
    norm[(120,)](y, out, 1e-5, 64)
    return out
"""
)


@pytest.mark.parametrize(
    ("name", "words"),
    [("between", "x of norm comes from mul"), ("copied", "x of norm comes from clone"),
     ("inside", "x of norm comes from mul"), ("looked_at", "_local_scalar_dense looks at a kernel's numbers")],
)  # fmt: skip
def test_what_torch_computes_between_kernels_is_named(name, words, tmp_path, monkeypatch):
    (tmp_path / "own_steps.py").write_text(BETWEEN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NotImplementedError, match=words):
        shadowed(getattr(importlib.import_module("own_steps"), name))("float64")
