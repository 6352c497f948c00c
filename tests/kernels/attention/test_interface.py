"""What the kernel refuses, what it promises torch, and how it finds a machine to run on."""

import inspect
import os
import sys
from pathlib import Path

import pytest
import torch

from kvproof.kernels import attention
from kvproof.kernels.attention import Workspace, decode_attention, make_workspace
from kvproof.kernels.attention.arguments import Inputs, Options, Result
from kvproof.kernels.attention.launch import launches
from kvproof.kernels.attention.op import GROUPS

from ... import _child


def drawn(device="cpu", dtype=torch.float32, B=2, H=2, T=140, D=16):
    """A good call's q, k, v and lengths."""
    q = torch.ones(B, H, D, dtype=dtype, device=device)
    k = torch.ones(B, H, T, D, dtype=dtype, device=device)
    return q, k, k.clone(), torch.tensor([140, 3], dtype=torch.int32, device=device)


def op_arguments(device, appends=False, int8=False, paged=False, fused=True):
    """What the registered operator is given by a call with these features."""
    q, k, v, lengths = drawn(device)
    scales, table, new = (None, None), None, (None, None)
    if paged:
        k, v = (torch.ones(18, 2, 16, 16, device=device) for _ in range(2))
        table = torch.arange(18, dtype=torch.int32, device=device).view(2, 9)
    if int8:
        k, v = k.to(torch.int8), v.to(torch.int8)
        scales = tuple(torch.ones(k.shape[:3], device=device) for _ in range(2))
    if appends:
        new = tuple(torch.full((2, 1, 2, 16), x, device=device) for x in (2.0, 3.0))
    options = Options(0.25, fused=fused)
    out, lse = torch.empty(2, 1, 2, 16, device=device), torch.empty(2, 1, 2, device=device)
    partials = make_workspace(2, 2, 144, 16, torch.float32, device)
    return *Inputs(q[:, None], k, v, lengths, *new, table, *scales), *options, out, lse, *partials


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("features", [{}, {"int8": True, "paged": True}], ids=["plain", "int8 pages"])
@pytest.mark.parametrize("name", ["decode_attention", "append_attention"])
def test_a_registered_op_keeps_its_promises_to_torch(name, features, fused, device):
    arguments = op_arguments(device, name == "append_attention", fused=fused, **features)
    op = getattr(torch.ops.kvproof, name).default
    torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"))


def test_only_the_op_that_appends_says_that_it_writes_to_the_cache():
    def written(name):
        schema = getattr(torch.ops.kvproof, name).default._schema
        return {x.name for x in schema.arguments if x.alias_info is not None and x.alias_info.is_write}

    assert written("append_attention") - written("decode_attention") == {"k", "v", "k_scale", "v_scale"}
    assert written("decode_attention") == {"out", "lse", *Workspace._fields}


def test_no_output_shares_memory_with_an_input_but_out(device):
    q, k, v, lengths = drawn(device)
    mine = {x.untyped_storage().data_ptr() for x in (q, k, v)}
    o, lse = decode_attention(q, k, v, lengths, return_lse=True)
    assert not {o.untyped_storage().data_ptr(), lse.untyped_storage().data_ptr()} & mine
    out = torch.full_like(q, torch.nan)
    assert decode_attention(q, k, v, lengths, out=out) is out
    assert torch.equal(out, o)


def test_the_op_compiles_into_one_graph(device):
    q, k, v, lengths = drawn(device)

    def step(q, k, v, lengths):
        o, lse = decode_attention(2 * q, k, v, lengths, return_lse=True)
        return o + 1, lse

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for x, y in zip(step(q, k, v, lengths), compiled(q, k, v, lengths), strict=True):
        assert torch.equal(x, y)


def test_the_door_has_each_name_from_its_file_and_no_file_is_named_like_a_function():
    for name in attention.__all__:
        assert getattr(attention, name) is not None
        assert not (Path(attention.__file__).parent / f"{name}.py").exists(), name
    with pytest.raises(AttributeError, match=r"no attribute 'decode'; it has .*decode_attention"):
        attention.decode  # noqa: B018


def test_each_argument_of_the_operators_is_a_field_listed_once():
    fields = [field for group in GROUPS for field in group._fields]
    for name in ("decode_attention", "append_attention"):
        assert [x.name for x in getattr(torch.ops.kvproof, name).default._schema.arguments] == fields
    public = inspect.signature(decode_attention).parameters
    assert {*Inputs._fields, *Options._fields} - {*public} == {"split_len"}


def changed(changes):
    """Arguments of a good call, some replaced: by a function of the good one."""
    q, k, v, lengths = drawn()
    good = {"q": q, "k": k, "v": v, "lengths": lengths}
    return good | {name: change(good.get(name)) for name, change in changes.items()}


def given(**values):
    """Arguments as they are, in the form of `changed`."""
    return {name: lambda _, x=x: x for name, x in values.items()}


def paged(table, lengths, **options):
    """The same call on nine pages of 16 slots."""
    pages = torch.linspace(-1, 1, 9 * 2 * 16 * 16).reshape(9, 2, 16, 16)
    table, lengths = (torch.tensor(x, dtype=torch.int32) for x in (table, lengths))
    return given(k=pages, v=pages, block_table=table, lengths=lengths, **options)


NEW = torch.ones(2, 2, 16)
INT8 = {name: lambda x: x.to(torch.int8) for name in "kv"}
SCALES = {name: torch.ones(2, 2, 140) for name in ("k_scale", "v_scale")}
REFUSED = [
    ({"q": lambda q: q[0]}, r"q is \[2, 16\].*must be \(B, H, D\)"),
    ({"k": lambda k: k[0], "v": lambda v: v[0]}, r"k \[2, 140, 16\].*pass a \(B, T, H_kv, D\) cache as k.transpose"),
    ({"k": lambda k: k[:1], "v": lambda v: v[:1]}, r"q has B=2, H=2, k is \[1, 2, 140, 16\]; a cache is \(B, H_kv"),
    ({"q": lambda q: q[:, :1].repeat(1, 3, 1)}, "H=3.*H must be a multiple of H_kv: each KV head serves as many"),
    ({"v": lambda v: v[:, :, 1:]}, r"v \[2, 2, 139, 16\]"),
    ({"q": lambda q: q.half()}, "q is torch.float16.*convert q"),
    ({name: lambda x: x.int() for name in "qkv"}, "same one of float16"),
    (
        {"q": lambda q: q[:, None].repeat(1, 17, 1, 1)},
        "q has 17 new tokens per sequence; 1..16 fit one call; pass them",
    ),
    ({"lengths": lambda n: n.long()}, r"lengths is torch.int64 \[2\] on cpu; it must be torch.int32 \[2"),
    ({"lengths": lambda n: n[:1]}, r"lengths is torch.int32 \[1\] on cpu; it must be torch.int32 \[2"),
    ({"lengths": lambda n: n.to("meta")}, "lengths on meta; they must share one"),
    ({"lengths": lambda n: n + 1}, r"lengths are \[141, 4\]; the cache has 140 slots, so each must be 0..140"),
    ({"lengths": lambda n: -n}, r"lengths are \[-140, -3\]"),
    ({"k": lambda k: k.mT.contiguous().mT}, "k has strides.*last axis must be contiguous.*or call k.contiguous"),
    ({name: lambda x: x.repeat_interleave(17, -1) for name in "qkv"}, 'has head_dim 272.*1..256; use impl="sdpa"'),
    (given(out=torch.empty(2, 2, 8)), r"out is torch.float32 \[2, 2, 8\]"),
    (given(out=torch.empty(2, 2, 32)[:, :, ::2]), "strides.*it must be contiguous"),
    (
        given(workspace=make_workspace(2, 2, 128, 16, torch.float32, "cpu")),
        "holds 4 partials.*needs 8.*make it with make_workspace",
    ),
    (given(workspace=make_workspace(2, 2, 140, 16, torch.float64, "cpu")), "sums of torch.float64.*torch.float32"),
    (given(k_new=NEW), "of k_new and v_new one came; pass both, to append, or neither"),
    (given(k_new=NEW, v_new=NEW[:1]), r"v_new is torch.float32 \[1, 1, 2, 16\].*must be torch.float32 \[2, 1, 2, 16"),
    (given(k_new=NEW.half(), v_new=NEW), r"k_new is torch.float16.*it must be torch.float32"),
    (INT8, "the cache is torch.int8; an int8 cache needs k_scale and v_scale, others have none"),
    (given(**SCALES), "the cache is torch.float32; an int8 cache needs"),
    (INT8 | given(**SCALES | {"k_scale": torch.ones(2, 2, 1)}), r"k_scale is torch.float32 \[2, 2, 1\].*\[2, 2, 140"),
    (INT8 | given(**SCALES | {"k_scale": torch.ones(2, 140, 2).mT}), "k_scale has strides.*they must be the same"),
    (given(block_table=torch.zeros(2, 1)), "block_table is torch.float32.*it must be torch.int32"),
    (given(block_table=torch.zeros(1, 1, dtype=torch.int32)), r"it must be int32 \[2, pages of a sequence\]"),
    (
        paged([[0, 1, 2], [3, 4, -1]], [41, 33]),
        r"block_table\[1, 2\] is -1; sequence 1 has 33 slots, 16 to a page, and the cache has pages 0..8; name a page",
    ),
    (paged([[0, 9, 2], [3, -1, -1]], [41, 16]), r"block_table\[0, 1\] is 9; sequence 0 has 41 slots"),
    (paged([[-1, 1, 2], [3, 4, 5]], [48, 0]), r"block_table\[0, 0\] is -1"),
    (paged([[-1, -1, 2], [3, 4, 5]], [48, 9], window=17), r"block_table\[0, 1\] is -1"),
    (paged([[0, -1, 2], [3, 4, 5]], [48, 9], window=16, sinks=1), r"block_table\[0, 1\] is -1"),
    (given(window=0), "window is 0; it must be 1 slot or more, or None"),
    (given(sinks=4), "sinks is 4, window None; sinks are the 0 or more first slots beside a window"),
    (given(sinks=-1, window=3), "sinks is -1, window 3"),
    (given(window=3, causal=False), "a window came with causal=False.*pass causal=True"),
    (given(softcap=0.0), "softcap is 0.0; it must be above 0, or None"),
    (given(alibi_slopes=torch.ones(4)[::2]), r"alibi_slopes has strides \[2\]; the last axis must be contiguous"),
    (given(alibi_slopes=torch.ones(3)), r"alibi_slopes is torch.float32 \[3\].*must be float32 \[2\] or \[2, 2\]"),
    (given(engine="fast"), "engine 'fast' is not known; choose one of simt, mma, or None"),
    (given(engine="mma"), 'engine "mma" takes float16 and bfloat16.*q is torch.float32.*use "simt"'),
]


@pytest.mark.parametrize(("changes", "says"), REFUSED, ids=range(len(REFUSED)))
def test_bad_input_is_refused_in_words(changes, says):
    with pytest.raises(ValueError, match=says):
        decode_attention(**changed(changes))


@pytest.mark.parametrize("window", [1, 15, 16])
def test_pages_that_no_query_looks_at_may_be_none(window, device):
    named = changed(paged([[8, 7, 3], [3, 4, 5]], [48, 9], window=window))
    freed = changed(paged([[-1, -1, 3], [3, 99, -1]], [48, 9], window=window))
    assert torch.equal(decode_attention(**freed), decode_attention(**named))


def test_a_layout_that_32_bit_offsets_cannot_reach_is_refused():
    q, k, _, lengths = (x.to("meta") for x in drawn())
    far = torch.empty_strided(k.shape, (16, 16, 2**24, 1), device="meta")
    says = r"v has 16777216 elements from one slot to the next, up to 128 slots.*lay the cache out as \(B, H, T, D\)"
    with pytest.raises(ValueError, match=says):
        decode_attention(q, k, far, lengths)


def test_more_sequences_than_a_grid_holds_are_refused():
    k = torch.empty(65536, 1, 2, 4, device="meta")
    with pytest.raises(ValueError, match=r"q has B=65536.*the kernel takes up to 65535 of each; split the batch"):
        decode_attention(k[:, :, 0], k, k, torch.empty(65536, dtype=torch.int32, device="meta"))


def test_a_workspace_made_for_more_serves_smaller_calls(device):
    q, k, v, lengths = drawn(device)
    partials = make_workspace(4, 3, 900, 32, torch.float32, device, M=2)
    for _ in range(2):
        o = decode_attention(q, k, v, lengths, workspace=partials)
        assert torch.equal(o, decode_attention(q, k, v, lengths))
    assert not partials.counters.any()
    partials.check()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("bad", [-1, 141, 2**31 - 1, -(2**31)])
def test_a_bad_length_that_the_host_cannot_see_answers_nan_for_its_row_alone(bad, fused):
    q, k, v, lengths = drawn()
    good = decode_attention(q, k, v, lengths)
    new = [torch.full((2, 1, 2, 16), torch.inf)] * 2
    out, before = torch.empty(2, 1, 2, 16), (k[0].clone(), v[0].clone())
    wrong = torch.tensor([bad, 3], dtype=torch.int32)
    options, partials = Options(0.25, fused=fused), make_workspace(2, 2, 140, 16, torch.float32, "cpu")
    for appended in ((None, None), new):
        inputs = Inputs(q[:, None], k, v, wrong, *appended)
        for kernel, grid, arguments, compiling in launches(inputs, options, Result(out, None), partials):
            kernel[grid](**arguments, **compiling)
        assert out[0].isnan().all()
        if appended is not new:
            assert torch.equal(out[1, 0], good[1])
    assert torch.equal(k[0], before[0])
    assert torch.equal(v[0], before[1])


@pytest.mark.gpu
def test_a_bad_length_on_the_gpu_answers_nan_for_its_row_alone():
    q, k, v, lengths = drawn("cuda")
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
    return _child.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


def test_importing_the_kernels_sets_nothing_and_cpu_tensors_are_refused_with_four_ways_out():
    done = python(
        "import os, torch\n"
        "from kvproof.kernels.backend import interpreting, use_interpreter\n"
        "from kvproof.kernels.attention import decode_attention\n"
        "assert 'TRITON_INTERPRET' not in os.environ and not interpreting()\n"
        "try: use_interpreter()\n"
        "except ValueError as error: assert 'already imported' in str(error)\n"
        "else: raise SystemExit('use_interpreter came too late and raised nothing')\n"
        "assert 'TRITON_INTERPRET' not in os.environ\n"
        "x = torch.ones(1, 1, 1, 4)\n"
        "try: decode_attention(x[0], x, x, torch.ones(1, dtype=torch.int32))\n"
        "except ValueError as error: print(error)"
    )
    assert done.returncode == 0, done.stderr
    assert all(way in done.stdout for way in ("TRITON_INTERPRET=1", "ptx.route()", 'impl="sdpa"', "cuda"))


DOORS = ("attention.op", "attention.flash", "attention.merge", "ptx", "ptx.__main__", "aot.__main__", "ladder.naive")


def test_a_machine_without_triton_is_told_at_every_door_what_to_use_instead():
    done = python(
        "import sys, importlib; sys.modules['triton'] = None\n"
        "import kvproof.kernels.backend, kvproof.kernels.attention.workspace\n"
        f"for name in {DOORS}:\n"
        "    try: importlib.import_module('kvproof.kernels.' + name).run  # ptx loads on first use\n"
        "    except ImportError as error: assert 'Linux only' in str(error) and 'impl=\"sdpa\"' in str(error), name\n"
        "    else: raise SystemExit(f'{name}: imported without triton')"
    )
    assert done.returncode == 0, done.stderr
