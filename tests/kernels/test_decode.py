"""kernels/decode.py, the kernel to read: right, in the steps of its NumPy twin, and to the bit what the model runs."""

import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from kvproof.bench.judge.contract.op import to_numpy, to_torch
from kvproof.gpt2 import generate, load
from kvproof.kernels import attention, decode, ptx
from kvproof.kernels.backend import interpreting
from kvproof.reference import decode as twin
from kvproof.reference.judge.cases import Case, check, draw
from kvproof.reference.judge.features import plain_cache
from kvproof.reference.judge.rounding import attention_gate, in_gates

from .._attention_battery import CASES as BATTERY
from .._attention_battery import check_attention
from .attention._planted_kernels import decode_op

ROOT = Path(__file__).parents[2]
DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CASES = (
    Case("float32", (300, 129, 33, 1, 0), 320, D=20, append=True),
    Case("float64", (140, 128, 0), 160, D=5),
    Case("float16", (300, 257, 1, 0), 320, D=64, page=16, append=True),
    Case("bfloat16", (300, 129, 33, 1), 320, D=80, page=48),
    Case("float16", (1300, 1), 1300, D=16, H_kv=1, append=True, std=4.0),  # more splits than are combined at a time
)
MORE = tuple(
    Case(dtype, (385, 256, 130, 20, 1, 0), 400, D, page=page, append=append, std=std, seed=D)
    for dtype, D, (page, append, std) in product(
        DTYPES, (1, 3, 16, 64, 100, 256), ((None, True, 1.0), (24, False, 4.0), (128, True, 4.0))
    )
)
on_the_ptx_machine = pytest.mark.skipif(interpreting(), reason="bits are those of what Triton compiles")
exhaustive = pytest.mark.exhaustive


def steps(path: Path) -> list[tuple[str, str]]:
    return re.findall(r"^ *# (\d+)\. (.*)$", path.read_text(encoding="utf-8"), re.M)


def functions(path: Path) -> list[str]:
    return re.findall(r"^def (\w+)", path.read_text(encoding="utf-8"), re.M)


def test_kernel_and_twin_take_the_same_steps_in_the_same_words_and_order():
    kernel, numpy = ROOT / "kernels" / "decode.py", ROOT / "reference" / "decode.py"
    assert [int(number) for number, _ in steps(kernel)] == list(range(1, 11))
    assert steps(kernel) == steps(numpy)
    only_the_machine_needs = {"check", "strides"}
    assert [name for name in functions(kernel) if name not in only_the_machine_needs] == functions(numpy)
    for name in ("SPLIT_LEN", "CHUNK", "LOG2E", "LOWEST"):
        assert getattr(decode, name).value == getattr(twin, name)


@pytest.mark.parametrize("path", ["kernels/decode.py", "reference/decode.py"])
def test_each_is_read_without_another_file(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    found = set(re.findall(r"^ *(?:import|from) ([\w.]+)", text, re.M))
    assert found <= ({"torch", "triton", "triton.language"} if path.startswith("kernels") else {"numpy"})


@pytest.mark.parametrize("case", [*CASES, *(pytest.param(case, marks=exhaustive) for case in MORE)], ids=str)
def test_the_kernel_is_right_and_writes_only_the_new_rows(case):
    if interpreting() and case.dtype in ("float16", "bfloat16"):
        pytest.skip("the interpreter truncates what it stores in 16 bits")
    check(decode_op(decode), case)


@on_the_ptx_machine
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_and_twin_agree_and_write_the_same_cache(case):
    ours, theirs = draw(case), draw(case)
    o, expected = decode_op(decode)(**ours)[0], decode_op(twin)(**theirs)[0]
    assert ours["k"].tobytes() == theirs["k"].tobytes()
    assert ours["v"].tobytes() == theirs["v"].tobytes()
    q, (k, v) = ours["q"], plain_cache(ours["k"], ours["v"], ours.get("block_table"))
    assert in_gates(o, expected.astype(np.float64), 2 * attention_gate(q, k, v, ours["lengths"])) <= 1  # one for each


@on_the_ptx_machine
@exhaustive
def test_the_kernel_passes_the_battery():
    def op(q, k, v, lengths):
        return to_numpy(decode.decode_attention(*map(to_torch, (q, k, v, lengths))))

    check_attention(op, [x for x in BATTERY if not x.scale])


@dataclass(frozen=True)
class Call:
    """A decode step's attention as GPT-2 asks for it: q, k_new and v_new are parts of one projection (B, 3 * H * D)."""

    dtype: str
    D: int
    page: int | None = None
    lengths: tuple[int, ...] = (600, 129, 0, 1, 257)
    T: int = 600
    append: bool = True
    H: int = 2
    tokens_first: bool = False  # v is (B, T, H, D) in memory, so that its strides are others than k's

    def draw(self) -> dict[str, torch.Tensor]:
        rng, dtype = torch.Generator().manual_seed(self.D), DTYPES[self.dtype]
        B, H, D = len(self.lengths), self.H, self.D
        q, k_new, v_new = (x.view(B, H, D) for x in normal(rng, B, 3 * H * D).to(dtype).split(H * D, 1))
        call = {"q": q, "lengths": torch.tensor(self.lengths, dtype=torch.int32)}
        call |= {"k_new": k_new, "v_new": v_new} if self.append else {}
        if self.page:
            N = -(-self.T // self.page)
            call["block_table"] = torch.randperm(B * N, generator=rng).int().view(B, N)
            shape = (B * N, H, self.page, D)
        else:
            shape = (B, H, self.T, D)
        call["k"] = normal(rng, *shape).to(dtype)
        call["v"] = normal(rng, *shape).to(dtype)
        if self.tokens_first:
            call["v"] = call["v"].transpose(1, 2).contiguous().transpose(1, 2)
        return call


def normal(rng, *shape):
    return torch.randn(shape, generator=rng, dtype=torch.float64)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def compare(call: dict[str, torch.Tensor], engine: str | None = "simt"):
    """Both kernels on copies of the same call: the results and the caches must be equal to the bit."""
    ours, theirs = ({name: x.clone() if name in ("k", "v") else x for name, x in call.items()} for _ in range(2))
    out, expected = decode.decode_attention(**ours), attention.decode_attention(**theirs, engine=engine)
    assert not out.isnan().any()
    for name, a, b in (("out", out, expected), ("k", ours["k"], theirs["k"]), ("v", ours["v"], theirs["v"])):
        assert same_bits(a, b), f"{name} differs by up to {(a.double() - b.double()).abs().max():.3g}"


SAMPLE = (
    Call("float32", 64),
    Call("float16", 64, page=16),
    Call("bfloat16", 80, page=32, append=False),
    Call("float64", 32, page=256),
    Call("float16", 20, T=33, lengths=(33, 1, 0), tokens_first=True),  # rows of 40 bytes
    Call("float32", 1, T=200, lengths=(200, 130)),
    Call("float32", 16, T=5120, lengths=(5120,), H=1),  # 40 splits
)
PAGES = (16, 32, 64, 128, 256)
DIMS = (1, 5, 20, 32, 64, 80, 100, 128, 256)
UNALIGNED = (1, 5, 20, 100)  # the others' rows begin at multiples of 16 bytes in any cache
GRID = (
    *(Call(dtype, D, append=append) for dtype, D, append in product(DTYPES, DIMS, (True, False))),
    *(Call(dtype, D, tokens_first=True) for dtype, D in product(DTYPES, UNALIGNED)),
    *(Call(dtype, D, T=33, lengths=(33, 1, 0), H=1) for dtype, D in product(DTYPES, UNALIGNED)),
    *(
        Call(dtype, D, page=PAGES[(i + 2 * j) % 5])
        for (j, dtype), (i, D) in product(enumerate(DTYPES), enumerate(DIMS))
    ),
    *(Call(dtype, 64, page=page, append=append) for dtype, page, append in product(DTYPES, PAGES, (True, False))),
    *(Call(dtype, 64, page=page, T=5120, lengths=(5120,), H=1) for dtype, page in product(DTYPES, (None, 16, 256))),
)


@on_the_ptx_machine
@pytest.mark.parametrize("call", [*SAMPLE, *(pytest.param(call, marks=exhaustive) for call in GRID)], ids=str)
def test_it_has_the_bits_of_the_general_op(call):
    compare(call.draw())


@on_the_ptx_machine
@exhaustive
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_has_the_bits_of_the_general_op_with_any_number_of_splits(dtype):
    for n in range(1, 41):
        compare(Call(dtype, 8, T=128 * n, lengths=(128 * n, 128 * n - 127), H=1, append=False).draw())


@on_the_ptx_machine
@pytest.mark.parametrize("page", [None, 16])
def test_it_has_the_bits_of_every_call_that_gpt2_makes(page, monkeypatch):
    calls, usual = [], attention.decode_attention

    def recorded(q, k, v, lengths, *, workspace=None, engine=None, **rest):
        call = {"q": q, "k": k, "v": v, "lengths": lengths} | {n: x for n, x in rest.items() if x is not None}
        calls.append({name: x.clone() for name, x in call.items()})
        return usual(q, k, v, lengths, workspace=workspace, engine=engine, **rest)

    monkeypatch.setattr(attention, "decode_attention", recorded)  # where the model finds it
    model = load("tiny", impl="triton")
    generate(model, ["Once", "Once upon a time"], max_new_tokens=3, cache=model.new_cache(2, 160, page=page))
    monkeypatch.undo()
    assert len(calls) >= 4
    for call in calls:
        compare(call, None)


@on_the_ptx_machine
def test_a_slot_past_the_length_is_never_read_nor_a_partial_that_was_not_stored():
    call = Call("float16", 64, page=16, lengths=(200, 129, 0, 1), T=256, append=False).draw()
    unused = 16 * torch.arange(16) >= call["lengths"][:, None]
    live = torch.zeros(call["k"].shape, dtype=torch.bool)
    for b, n in enumerate(call["lengths"].tolist()):
        for slot in range(n):
            live[call["block_table"][b, slot // 16], :, slot % 16] = True
    call["block_table"][unused] = -1  # no page: nothing may look there

    def readable(kernel, parameters):
        known = {"k": live.numpy(), "v": live.numpy(), "block_table": ~unused.numpy(), "out": False}
        partials = dict.fromkeys(("part_m", "part_l", "part_acc"), False) if "k" in parameters else {}
        return {name: may for name, may in {**known, **partials}.items() if name in parameters}

    with ptx.route(target="sm_90", readable=readable) as reports:
        out = decode.decode_attention(**call)
    assert not out.isnan().any()
    assert [report.disagreeing for report in reports] == [0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.zeros(2, 2, 300)}, r"q is torch.float32 \[2, 2, 300\].*D from 1 to 256"),
        ({"q": torch.zeros(2, 2, 16).int()}, r"q is torch.int32.*in float64, float32, float16 or bfloat16"),
        ({"k": torch.zeros(2, 1, 8, 16)}, r"k is torch.float32 \[2, 1, 8, 16\].*must be torch.float32 \[2, 2, 8, 16\]"),
        ({"v": torch.zeros(2, 2, 8, 16).half()}, r"v is torch.float16.*it must be torch.float32"),
        ({"v": torch.zeros(2, 2, 16, 8).mT}, r"v has strides .*; the last must be 1; store it with that axis last"),
        ({"lengths": torch.tensor([1, 9], dtype=torch.int32)}, r"lengths are \[1, 9\]; the cache has 8 slots"),
        ({"lengths": torch.tensor([-1, 1], dtype=torch.int32)}, r"lengths are \[-1, 1\].*from 0 to 8"),
        ({"lengths": torch.tensor([1, 2])}, r"lengths is torch.int64 \[2\].*must be torch.int32 \[2\]"),
        ({"k_new": torch.zeros(2, 2, 16)}, r"only one of k_new and v_new is given; pass both"),
        ({"block_table": torch.zeros(1, 1, dtype=torch.int32)}, r"block_table is torch.int32 \[1, 1\].*\[2, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(changes, message):
    q, k = torch.zeros(2, 2, 16), torch.zeros(2, 2, 8, 16)
    call = {"q": q, "k": k, "v": k, "lengths": torch.tensor([8, 1], dtype=torch.int32)}
    with pytest.raises(ValueError, match=message):
        decode.decode_attention(**(call | changes))
