"""The kernels on a GPU, against the same cases as everywhere; without one, a few of them on the PTX machine instead.

    pytest -m gpu tests/kernels/attention/test_gpu.py

What runs on the CPU shows that these tests work, and nothing of a GPU.
"""

import numpy as np
import pytest
import torch

from kvproof.bench.judge.contract.op import to_numpy, to_torch
from kvproof.kernels.attention import decode_attention, make_workspace, merge_state
from kvproof.kernels.ptx import route
from kvproof.reference.judge.cases import check

from ..._attention_grid import CASES
from .test_features import Multiplied

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
DEVICES = [GPU, "cpu"]
FEW = (4,)  # cases that are rehearsed on the CPU


def on(device, **options):
    """decode_attention on a device, for `check`: arrays in and out, what it appends in the arrays that came."""

    def op(**arrays):
        tensors = {k: to_torch(x).to(device) if isinstance(x, np.ndarray) else x for k, x in arrays.items()}
        o, lse = decode_attention(**tensors, **options)
        for name in ("k", "v", "k_scale", "v_scale"):
            if arrays.get(name) is not None:
                arrays[name][...] = to_numpy(tensors[name])
        return to_numpy(o), to_numpy(lse)

    return op


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("engine", ["simt", "mma"])
@pytest.mark.parametrize(("device", "number"), [
    *(pytest.param("cuda", i, marks=pytest.mark.gpu) for i in range(len(CASES))), *(("cpu", i) for i in FEW)
])  # fmt: skip
def test_every_feature_agrees_with_the_formula(device, number, engine, fused):
    case = CASES[number]
    if engine == "mma":
        if case.dtype not in ("float16", "bfloat16"):
            pytest.skip("the tensor cores take 16 bits")
        case = Multiplied(**{name: getattr(case, name) for name in case.__dataclass_fields__})
    check(on(device, engine=engine, fused=fused), case)


def call(device, B, n=300, H=4, seed=0, dtype=torch.float16):
    """q, k, v and lengths of B sequences; row b is the same whatever B is."""
    rows = [torch.Generator().manual_seed(seed + b) for b in range(B)]
    q, k, v = (torch.stack([torch.randn(s, generator=g) for g in rows]) for s in ((H, 64), (H, n, 64), (H, n, 64)))
    lengths = torch.tensor([n - 37 * b for b in range(B)], dtype=torch.int32)
    return (*(x.to(device, dtype) for x in (q, k, v)), lengths.to(device))


@pytest.mark.parametrize("device", DEVICES)
def test_a_row_has_the_same_bits_alone_and_in_company(device):
    q, k, v, lengths = call(device, 3)
    together = decode_attention(q, k, v, lengths)
    for b in range(3):
        assert torch.equal(together[b : b + 1], decode_attention(*(x[b : b + 1] for x in (q, k, v, lengths))))


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_that_is_replayed_reads_lengths_anew_and_leaves_its_workspace_clean(device):
    steps = 64 if device == "cuda" else 3
    q, k, v, lengths = call(device, 2, n=200)
    lengths.fill_(100)
    partials, out = make_workspace(2, 4, 200, 64, q.dtype, q.device), torch.empty_like(q)
    k_new, v_new = torch.empty_like(q), torch.empty_like(q)

    def step():
        decode_attention(q, k, v, lengths, k_new=k_new, v_new=v_new, workspace=partials, out=out)

    replay = step
    if device == "cuda":
        step()  # compiles
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        replay = graph.replay
    for _ in range(steps):
        lengths += 1
        k_new.normal_()
        v_new.normal_()
        replay()
        assert torch.equal(out, decode_attention(q, k, v, lengths, fused=False))
    partials.check()
    assert not partials.counters.any()


@pytest.mark.parametrize("device", DEVICES)
def test_a_workspace_left_in_disorder_is_reported(device):
    q, k, v, lengths = call(device, 1)
    partials = make_workspace(1, 4, 300, 64, q.dtype, q.device)
    partials.counters.fill_(2**30)
    with route(checks=False):  # the machine would stop at the first read of a part that is not there yet
        assert decode_attention(q, k, v, lengths, workspace=partials).isnan().all()
    with pytest.raises(RuntimeError, match=r"reset\(\)"):
        partials.check()
    partials.reset()
    assert torch.equal(decode_attention(q, k, v, lengths, workspace=partials), decode_attention(q, k, v, lengths))


@pytest.mark.parametrize("device", DEVICES)
def test_two_halves_of_a_context_merge_to_the_whole(device):
    q, k, v, _ = call(device, 1, dtype=torch.float64)
    halves = []
    for part in (slice(0, 128), slice(128, 300)):
        n = torch.tensor([part.stop - part.start], dtype=torch.int32, device=q.device)
        halves += decode_attention(q, k[:, :, part], v[:, :, part], n, return_lse=True)
    o, lse = merge_state(*halves)
    whole = torch.tensor([300], dtype=torch.int32, device=q.device)
    exact, exact_lse = decode_attention(q, k, v, whole, return_lse=True)
    assert (o - exact).abs().max() < 1e-13
    assert (lse - exact_lse).abs().max() < 1e-13
