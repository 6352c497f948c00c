"""Under a route, what torch.empty gives is unwritten until somebody writes it; to read it is a fault if it matters."""

# pyright: reportArgumentType=false

import importlib.util

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from kvproof.kernels import ptx
from kvproof.kernels.ptx import torch_empty
from kvproof.kernels.ptx.reachable import buffer

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.int64, torch.int8, torch.bool]
EXACT = DTYPES[:6]


@pytest.fixture(autouse=True)
def _routed():
    with ptx.route():
        yield


@triton.jit
def add(x, out, n, INTO: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < n)
    if INTO:
        v += tl.load(out + at, mask=at < n)
    tl.store(out + at, v, mask=at < n)


@triton.jit
def total(x, out, n, CAREFUL: tl.constexpr, BLOCK: tl.constexpr):
    """Loads whole blocks, of which the elements from n on are nobody's."""
    at = tl.arange(0, BLOCK)
    v = tl.load(x + at)
    tl.store(out, tl.sum(tl.where(at < n, v, 0) if CAREFUL else v * (at < n)))


@triton.jit
def largest(x, out, BLOCK: tl.constexpr):
    tl.store(out, tl.max(tl.load(x + tl.arange(0, BLOCK))))


@triton.jit
def count(x):
    tl.atomic_add(x, 1)


@triton.jit
def indirect(index, x, out):
    tl.store(out, tl.load(x + tl.load(index)))


def launch(x, out, into=False, n=None):
    add[(2,)](x, out, out.numel() if n is None else n, INTO=into, BLOCK=64)  # pyright: ignore[reportArgumentType]


MADE = {
    "empty": lambda x: torch.empty(100, dtype=x.dtype),
    "empty_like": lambda x: torch.empty_like(x),
    "new_empty": lambda x: x.new_empty(100),
    "empty_strided": lambda x: torch.empty_strided((50, 2), (2, 1), dtype=x.dtype),
    "a view": lambda x: torch.empty(2, 150, dtype=x.dtype)[1, 7:107],
    "in inference mode": torch.inference_mode()(lambda x: torch.empty_like(x)),
}


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("dtype", DTYPES[:2] + DTYPES[4:7], ids=str)
def test_an_output_that_is_read_before_it_is_written_is_reported(dtype, made):
    x = torch.ones(100).to(dtype)
    out = MADE[made](x)
    with pytest.raises(ptx.Uninitialised, match=r"out\[0.*holds nothing that was written") as caught:
        launch(x, out, into=True)
    assert caught.value.where[0] == ("test_uninitialised.py", add.fn.__code__.co_firstlineno + 5)


WRITTEN = {
    "fill_": lambda t: t.fill_(1),
    "copy_": lambda t: t.copy_(torch.ones(100)),
    "a slice": lambda t: t[:].copy_(torch.ones(100)),
    "an index": lambda t: t.__setitem__(slice(None), 1),
    "out=": lambda t: torch.ones(100, dtype=t.dtype, out=t),
    "numpy": lambda t: t.numpy().fill(1) if t.dtype != torch.bfloat16 else t.fill_(1),
    "data": lambda t: t.data.fill_(1),
    "a kernel": lambda t: launch(torch.ones(100).to(t.dtype), t),
    "inference mode": lambda t: torch.inference_mode()(t.fill_)(1),
    "every second": lambda t: (t[::2].fill_(1), t[1::2].fill_(1)),
}


@pytest.mark.parametrize("how", WRITTEN)
@pytest.mark.parametrize("dtype", DTYPES[:3] + DTYPES[4:7], ids=str)
def test_whoever_writes_it_it_is_written(dtype, how):
    x, out = torch.ones(100).to(dtype), torch.empty(100, dtype=dtype)
    WRITTEN[how](out)
    launch(x, out, into=True)
    assert (out == 2).all()


@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_the_other_elements_of_a_tensor_stay_unwritten(dtype):
    x, out = torch.ones(100).to(dtype), torch.empty(100, dtype=dtype)
    out[:60] = 1
    launch(x, out, into=True, n=60)
    with pytest.raises(ptx.Uninitialised, match=r"out\[60\]"):
        launch(x, out, into=True)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_the_report_counts_what_a_launch_left_unwritten(dtype):
    x, out, full = torch.ones(100).to(dtype), torch.empty(100, dtype=dtype), torch.zeros(100, dtype=dtype)
    with ptx.route() as reports:
        launch(x, out, n=60)
        launch(x, out, n=90)
        launch(x, full, n=60)
    assert [report.unwritten for report in reports] == [{"out": 40}, {"out": 10}, {}]


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float64"])
def test_what_is_not_readable_counts_as_unwritten_until_it_is_written(dtype):
    x, out = np.ones(100, dtype), np.zeros(100, dtype)
    some = ptx.run(add, 1, x, out, 60, False, 128, readable={"out": False, "x": np.arange(100) < 70})
    assert some.unwritten == {"x": 30, "out": 40}
    reports = ptx.check(add, 1, x, out, 100, False, 128, readable={"out": False}, targets="sm_90", seeds=(0,))
    assert [report.unwritten for report in reports] == [{"out": 0}] * 2


@triton.jit
def through_a_descriptor(x, out, BLOCK: tl.constexpr):
    desc = tl.make_tensor_descriptor(out, [BLOCK], [1], [BLOCK])
    if tl.program_id(0) == 0:
        desc.store([0], tl.load(x + tl.arange(0, BLOCK)))


def test_triton_s_own_scratch_memory_is_not_counted():
    report = ptx.run(through_a_descriptor, 3, np.ones(32, np.float32), np.zeros(48, np.float32), 32,
                     readable={"out": False})  # fmt: skip
    assert report.unwritten == {"out": 16}


def test_without_checks_nothing_is_counted_but_what_was_stored_to_is_known():
    x, out = np.ones(48, np.float32), np.zeros(48, np.float32)
    reports = [ptx.run(add, 1, x, out, 48, False, 64, readable={"out": False}, checks=on) for on in (False, True)]
    assert [(r.unwritten, r.unique) for r in reports] == [({}, {}), ({"out": 0}, {"x": 192, "out": 0})]
    assert [list(r.stored_to) for r in reports] == [["out"], ["out"]]
    assert reports[0].stored_to["out"] == (out.ctypes.data, out.ctypes.data + 192)


def test_memory_that_is_given_again_is_unwritten_whatever_it_was_before(monkeypatch):
    x, out = torch.ones(100), torch.empty(100)
    gone = torch.empty(100)
    low = out.data_ptr()
    stale = torch_empty._storages[gone.data_ptr()]._replace(low=low - 64, high=low + 4096)
    del gone
    monkeypatch.setattr(torch_empty, "_storages", {low - 64: stale} | torch_empty._storages)
    out[:60] = 1
    with pytest.raises(ptx.Uninitialised, match=r"out\[60\]"):
        launch(x, out, into=True)


def test_a_read_that_changes_nothing_is_no_fault():
    x, out = torch.empty(128), torch.empty(1)
    x[:40] = 1
    total[(1,)](x, out, 40, CAREFUL=True, BLOCK=128)  # pyright: ignore[reportArgumentType]
    assert out == 40
    with pytest.raises(ptx.Uninitialised, match=r"x\[40\]"):  # zero times what may be NaN
        total[(1,)](x, out, 40, CAREFUL=False, BLOCK=128)  # pyright: ignore[reportArgumentType]


def test_a_maximum_that_passes_over_nan_is_seen_through():
    x, out = torch.empty(64), torch.empty(1)
    x[:63] = 5
    with pytest.raises(ptx.Uninitialised, match=r"x\[63\]"):
        largest[(1,)](x, out, BLOCK=64)  # pyright: ignore[reportArgumentType]


def test_unwritten_elements_may_be_moved_and_stay_unwritten_but_not_a_whole_array():
    cache, moved = torch.empty(100), torch.empty(100)
    cache[:30] = 7
    launch(cache, moved)
    assert (moved[:30] == 7).all()
    launch(cache[:30], moved[:30], into=True)
    with pytest.raises(ptx.Uninitialised, match=r"x\[30\]"):
        launch(moved, torch.zeros(100), into=True)
    with pytest.raises(ptx.Uninitialised, match=r"x\[0\]"):
        launch(torch.empty(100), moved)


def test_counters_and_indices_that_nobody_wrote_are_reported_for_what_they_are():
    with pytest.raises(ptx.Uninitialised, match=r"x\[0\]"):
        count[(3,)](torch.empty(1, dtype=torch.int32))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ptx.Uninitialised, match=r"index\[0\]"):  # not for where it leads, out of bounds
        indirect[(1,)](torch.empty(1, dtype=torch.int32), torch.ones(8), torch.zeros(1))  # pyright: ignore[reportArgumentType]


def test_what_readable_says_goes_before_and_no_checks_means_none():
    x = torch.ones(100)
    with ptx.route(readable={"out": True}):
        launch(x, torch.empty(100), into=True)
    with ptx.route(checks=False):
        launch(x, torch.empty(100), into=True)


def test_torch_is_itself_again_afterwards():
    usual = torch.empty, torch.Tensor.new_empty
    spec = importlib.util.find_spec(torch_empty.__name__)
    assert spec
    assert spec.loader
    own = importlib.util.module_from_spec(spec)  # for the tests run under a route already
    spec.loader.exec_module(own)
    with own.watching(lambda: True):
        with own.watching(lambda: True):
            assert torch.empty is not usual[0]
            kept = torch.empty(8)
        assert torch.Tensor.new_empty is not usual[1]
        assert own.unwritten([buffer("kept", kept)])
    assert (torch.empty, torch.Tensor.new_empty) == usual
    assert not own.unwritten([buffer("kept", kept)])


def test_memory_that_was_freed_and_given_anew_counts_as_what_it_is_now():
    for _ in range(50):
        old = torch.empty(4096)
        where = old.data_ptr()
        del old
        new = torch.from_numpy(np.full(4096, 1, np.float32))
        fresh = torch.ones(4096)
        launch(torch.ones(100), fresh, into=True, n=100)
        if where in (new.data_ptr(), fresh.data_ptr()):
            break
    assert (fresh[:100] == 2).all()
