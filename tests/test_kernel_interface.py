"""What the kernel refuses, what it promises torch, and how it finds a machine to run on."""

import importlib
import os
import subprocess
import sys

import pytest
import torch

from kvproof.kernels.decode_attention import decode_attention
from kvproof.kernels.workspace import workspace


def op_arguments(device, dtype=torch.float32, B=2, H=2, T=140, D=16):
    q, out = torch.ones(B, H, D, dtype=dtype, device=device), torch.empty(B, H, D, dtype=dtype, device=device)
    k = torch.ones(B, H, T, D, dtype=dtype, device=device)
    lengths = torch.tensor([140, 3], dtype=torch.int32, device=device)
    return q, k, k.clone(), lengths, 0.25, out, torch.empty(B, H, device=device), *workspace(B, H, T, D, dtype, device)


def test_the_registered_op_keeps_its_promises_to_torch(device):
    torch.library.opcheck(torch.ops.kvproof.decode_attention.default, op_arguments(device))


def test_the_op_compiles_into_one_graph(device):
    q, k, v, lengths, *_ = op_arguments(device)

    def step(q, k, v, lengths):
        o, lse = decode_attention(2 * q, k, v, lengths, return_lse=True)
        return o + 1, lse

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for x, y in zip(step(q, k, v, lengths), compiled(q, k, v, lengths), strict=True):
        assert torch.equal(x, y)


def test_calling_the_module_calls_the_function(device):
    module = importlib.import_module("kvproof.kernels.decode_attention")
    q, k, v, lengths, *_ = op_arguments(device)
    o = module(q, k, v, lengths)  # pyright: ignore[reportCallIssue]
    assert torch.equal(o, decode_attention(q, k, v, lengths))


def changed(**changes):
    """Arguments of a good call, some replaced: a tensor, or a function of the good one."""
    q, k, v, lengths, *_ = op_arguments("cpu")
    good = {"q": q, "k": k, "v": v, "lengths": lengths}
    return good | {name: change(good.get(name)) for name, change in changes.items()}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"q": lambda q: q[0]}, r"q is \[2, 16\].*must be \(B, H, D\)"),
        ({"k": lambda k: k[:, :1], "v": lambda v: v[:, :1]}, "same B, H and D"),
        ({"v": lambda v: v[:, :, 1:]}, r"v \[2, 2, 139, 16\]"),
        ({"q": lambda q: q.half()}, "q is torch.float16.*convert q"),
        ({name: lambda x: x.int() for name in "qkv"}, "same one of float16"),
        ({"lengths": lambda n: n.long()}, "lengths is torch.int64.*contiguous int32"),
        ({"lengths": lambda n: n[:1]}, r"of shape \[2\]"),
        ({"lengths": lambda n: n.to("meta")}, "lengths on meta; they must share one"),
        ({"lengths": lambda n: n + 1}, r"lengths are \[141, 4\]; the cache has 140 slots, so each must be 0..140"),
        ({"lengths": lambda n: -n}, r"lengths are \[-140, -3\]"),
        ({"k": lambda k: k.mT.contiguous().mT}, "k has strides.*last axis must be contiguous"),
        ({name: lambda x: x.repeat_interleave(17, -1) for name in "qkv"}, 'has head_dim 272.*1..256; use impl="sdpa"'),
        ({"out": lambda _: torch.empty(2, 2, 8)}, r"out is torch.float32 \[2, 2, 8\]"),
        ({"out": lambda _: torch.empty(2, 2, 32)[:, :, ::2]}, "strides.*it must be contiguous"),
        ({"workspace": lambda _: workspace(2, 2, 128, 16, torch.float32, "cpu")}, r"k needs \[2, 2, 2, 16\]"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_words(changes, says):
    with pytest.raises(ValueError, match=says):
        decode_attention(**changed(**changes))


def test_a_layout_that_32_bit_offsets_cannot_reach_is_refused():
    q, k, _, lengths = (x.to("meta") for x in op_arguments("cpu")[:4])
    far = torch.empty_strided(k.shape, (16, 16, 2**24, 1), device="meta")
    with pytest.raises(ValueError, match="v has 16777216 elements from one slot to the next, 128 slots to a split"):
        decode_attention(q, k, far, lengths)


def test_more_sequences_than_a_grid_holds_are_refused():
    k = torch.empty(65536, 1, 2, 4, device="meta")
    with pytest.raises(ValueError, match="k has B=65536, H=1; the kernel takes up to 65535 of each; split the batch"):
        decode_attention(k[:, :, 0], k, k, torch.empty(65536, dtype=torch.int32, device="meta"))


@pytest.mark.gpu
def test_a_bad_length_on_the_gpu_answers_nan_for_its_row_alone():
    q, k, v, lengths, *_ = op_arguments("cuda")
    good = decode_attention(q, k, v, lengths)
    for bad in (-1, 141, 2**31 - 1):
        o = decode_attention(q, k, v, torch.tensor([bad, 3], dtype=torch.int32, device="cuda"))
        assert o[0].isnan().all()
        assert torch.equal(o[1], good[1])


def test_an_empty_batch_or_cache_needs_no_launch(device):
    lengths = torch.zeros(0, dtype=torch.int32, device=device)
    k = torch.empty(0, 2, 4, 8, device=device)
    assert decode_attention(torch.empty(0, 2, 8, device=device), k, k, lengths).shape == (0, 2, 8)
    k = torch.empty(1, 2, 0, 8, device=device)
    o = decode_attention(torch.ones(1, 2, 8, device=device), k, k, torch.zeros(1, dtype=torch.int32, device=device))
    assert torch.equal(o, torch.zeros(1, 2, 8, device=device))


def python(code):
    """Run `code` in a process of its own, where Triton compiles."""
    environment = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


def test_cpu_tensors_without_a_route_or_the_interpreter_are_refused_with_four_ways_out():
    done = python(
        "import torch; from kvproof.kernels.decode_attention import decode_attention as f\n"
        "x = torch.ones(1, 1, 1, 4); f(x[0], x, x, torch.ones(1, dtype=torch.int32))"
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert all(way in last for way in ("TRITON_INTERPRET=1", "ptx.route()", 'impl="sdpa"', "cuda"))


def test_importing_the_kernels_sets_nothing_and_the_interpreter_can_come_too_late():
    done = python(
        "import os, torch\n"
        "from kvproof.kernels.backend import interpreting, use_interpreter\n"
        "import kvproof.kernels.decode_attention\n"
        "assert 'TRITON_INTERPRET' not in os.environ and not interpreting()\n"
        "try: use_interpreter()\n"
        "except ValueError as error: assert 'already imported' in str(error)\n"
        "else: raise SystemExit('use_interpreter said nothing')\n"
        "assert 'TRITON_INTERPRET' not in os.environ"
    )
    assert done.returncode == 0, done.stderr


def test_a_machine_without_triton_is_told_what_to_use_instead():
    done = python(
        "import sys; sys.modules['triton'] = None\n"
        "import kvproof.kernels.backend\n"
        "try: import kvproof.kernels.decode_attention\n"
        "except ImportError as error: assert 'impl=\"sdpa\"' in str(error)\n"
        "else: raise SystemExit('imported without triton')"
    )
    assert done.returncode == 0, done.stderr
