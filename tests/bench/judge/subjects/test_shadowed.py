"""Triton kernels in bfloat16 alone: with their shadow the judge tells rounding from a bug, and without it does not."""

import pytest

from kvproof.bench.judge import __main__ as verify
from kvproof.kernels.attention import launch
from kvproof.kernels.backend import interpreting
from kvproof.kernels.ptx import PtxError
from kvproof.reference.judge.verdict import BUG, INCONCLUSIVE, ROUNDING

from ....kernels.attention._planted_faults import FAULTS, Fault
from ....kernels.attention._planted_kernels import load_kernels
from ._kernels import decode_path, general_path, in_bfloat16, judged

pytestmark = pytest.mark.skipif(interpreting(), reason="shadows are the PTX machine's")
IN_THE_SUITE = 6
# What these break is the cache or the log-sum-exp: the attention of this call is that of the kernel without them.
ATTENTION_IS_RIGHT = {
    "append_one_slot_late", "append_the_first_token_only", "append_the_first_head", "append_keys_as_values",
    "lse_as_a_power_of_two",
}  # fmt: skip
SEEN = {name: fault for name, fault in FAULTS.items() if name not in ATTENTION_IS_RIGHT}


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


@pytest.mark.parametrize("name", sample(SEEN))
def test_a_planted_fault_is_a_bug(name, tmp_path):
    fault = SEEN[name]
    case, own = in_bfloat16(fault.case), fault.file == "decode"
    module = load_kernels(tmp_path, fault[1:], module="decode" if own else "attention.launch")
    path = decode_path(module, case) if own else general_path(module, case, engine(fault))
    try:
        _, after = judged(path, case)
    except PtxError:
        return  # the machine has found it on the way
    assert after.verdict == BUG, after.reason


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
