"""Nothing of a pretence is left when its route closes, nor seen by other threads; in a program with no other route."""

import contextvars
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
import triton.testing
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.runtime import Autotuner, JITFunction, driver

from kvproof.kernels import ptx
from kvproof.kernels.ptx.pretend import session

from .._compiled_claims import in_child

low: Any = torch._C
OWNERS = (torch, torch.Tensor, torch.fft, torch.cuda, torch.cuda.memory, torch.cuda.random, torch.cuda.streams,
          torch.cuda.nvtx, torch.accelerator, torch._C, torch.amp.autocast_mode.autocast, triton.testing, Autotuner,
          JITFunction, type(driver), torch.nn.RNNBase, FakeTensorMode, torch.UntypedStorage, torch.TypedStorage,
          torch.serialization, torch.multiprocessing.reductions, low._dynamo.guards,
          torch.cuda.profiler)  # fmt: skip


def everything() -> dict[tuple[int, str], Any]:
    """All names that a pretence might replace, and the state of torch's modes and of Triton's driver."""
    found = {(i, name): value for i, owner in enumerate(OWNERS) for name, value in vars(owner).items()}
    found[-1, "driver"] = driver._active
    found[-1, "modes"] = (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack())
    return found


def changed(before: dict[tuple[int, str], Any]) -> list[str]:
    now, gone = everything(), object()
    same = lambda a, b: a is b or (isinstance(a, tuple) and a == b)  # noqa: E731
    return sorted(key[1] for key in before.keys() | now.keys() if not same(before.get(key, gone), now.get(key, gone)))


def asked() -> list[Any]:
    """What code would ask that looks for a GPU."""
    x, found = torch.zeros(2), []
    questions: list[Any] = [
        lambda: x.is_cuda, lambda: x.device, torch.cuda.is_available, torch.cuda.device_count,
        lambda: torch.zeros(2, device="cuda"), lambda: x.cuda().device, lambda: torch.Generator("cuda"),
        torch.cuda.get_device_capability, lambda: driver.active.get_current_target(), lambda: x.cpu() is x,
        lambda: len(torch.cuda.default_generators), lambda: torch.Generator().device, torch.cuda.memory_allocated,
    ]  # fmt: skip
    for question in questions:
        try:
            found.append(question())
        except Exception as error:
            found.append((type(error), str(error).splitlines()[0]))
    return found


usual = asked()  # once before: some answers are made when they are first asked for
before = everything()


def test_a_route_leaves_everything_as_it_was():
    with ptx.route(pretend=True):
        assert len(changed(before)) > 100
        x = torch.zeros(3, device="cuda")
        inside = asked()
        assert inside[:4] == [True, torch.device("cuda", 0), True, 1]
        assert torch.zeros(2).cuda().is_cuda
    assert changed(before) == []
    assert asked() == usual
    assert x.device.type == "cpu"
    assert not x.is_cuda
    assert vars(x) == {}


def test_so_does_one_that_ends_in_an_exception_and_one_that_cannot_open():
    with pytest.raises(ZeroDivisionError), ptx.route(pretend=True), torch.autocast("cuda"), torch.cuda.device(0):
        raise ZeroDivisionError
    assert changed(before) == []
    with pytest.raises(ptx.Refused, match="target is 'sm_91'"):
        ptx.route("sm_91", pretend=True).__enter__()
    with pytest.raises(ptx.Refused, match="pretend is 1; it must be True or False"):
        ptx.route(pretend=1).__enter__()  # pyright: ignore[reportArgumentType]
    assert changed(before) == []
    assert asked() == usual


def test_nothing_is_left_where_putting_fails_half_way():
    true = session.random.put_all
    session.random.put_all = lambda: 1 / 0  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with pytest.raises(ZeroDivisionError):
            ptx.route(pretend=True).__enter__()
    finally:
        session.random.put_all = true
    assert changed(before) == []


def test_a_leak_is_seen():
    torch.zeros_of_mine = 1  # pyright: ignore[reportAttributeAccessIssue]
    assert changed(before) == ["zeros_of_mine"]
    del torch.zeros_of_mine  # pyright: ignore[reportAttributeAccessIssue]
    zeros, torch.zeros = torch.zeros, lambda *args: None
    assert changed(before) == ["zeros"]
    torch.zeros = zeros
    assert changed(before) == []


def test_routes_nest_and_the_inner_target_counts():
    with ptx.route("sm_80", pretend=True):
        with ptx.route("sm_90", pretend=True):
            assert torch.cuda.get_device_capability() == (9, 0)
            assert torch.zeros(3, device="cuda").is_cuda
        assert torch.cuda.get_device_capability() == (8, 0)
        with ptx.route("sm_90"):
            assert torch.cuda.get_device_capability() == (8, 0)
        assert torch.zeros(3, device="cuda").is_cuda
    assert changed(before) == []


@triton.jit
def copied(x, out):
    tl.store(out, tl.load(x))


def test_a_nested_route_knows_what_is_on_the_host_and_which_stream_is_current():
    with ptx.route("sm_90", pretend=True):
        host, out, stream = torch.ones(1, device="cpu"), torch.zeros(1, device="cuda"), torch.cuda.Stream()
        with torch.cuda.stream(stream):
            with ptx.route("sm_80", pretend=True):
                assert torch.cuda.current_stream() == stream
                assert host.device.type == "cpu"
                made = torch.ones(1, device="cpu")
                for x in (host, made):
                    with pytest.raises(ptx.Refused, match="x of copied is on the CPU"):
                        copied[(1,)](x, out)
            assert made.device.type == "cpu"


def in_thread(function: Any) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_other_threads_see_what_is_there():
    shared = torch.zeros(3)
    with ptx.route(pretend=True):
        assert in_thread(asked) == usual
        assert in_thread(lambda: shared.is_cuda) is False
        assert shared.is_cuda


def test_a_thread_that_takes_the_context_over_has_no_gpu():
    x = torch.zeros(3)
    with ptx.route(pretend=True):
        host = torch.zeros(3, device="cpu")
        copied = contextvars.copy_context()
        assert in_thread(lambda: copied.run(lambda: (x.is_cuda, (host + 1).device.type))) == (False, "cpu")
        assert in_thread(lambda: copied.run(asked)) == usual

        def another() -> list[bool]:
            with ptx.route(pretend=True):
                return [torch.ops.aten.zeros.default([3], device=torch.device("cuda")).is_cuda, x.is_cuda]

        assert in_thread(lambda: copied.run(another)) == [True, True]
        assert x.is_cuda
    assert changed(before) == []


def test_an_autocast_may_be_entered_before_a_route_and_left_after_it():
    x = torch.ones(2, 2)
    torch.set_autocast_enabled("cuda", True)  # what torch.autocast does where there is a GPU
    with ptx.route(pretend=True):
        assert (x @ x).dtype == torch.float16
        late: Any = torch.autocast("cuda", torch.bfloat16)
        late.__enter__()
        assert (x @ x).dtype == torch.bfloat16
    assert (x @ x).dtype == torch.float32
    late.__exit__(None, None, None)
    torch.set_autocast_enabled("cuda", False)
    assert changed(before) == []


def test_two_threads_pretend_each_on_its_own():
    turn = threading.Barrier(2, timeout=60)

    def pretends(target: str) -> Iterator[Any]:
        with ptx.route(target, pretend=True):
            turn.wait()
            yield torch.cuda.get_device_capability()
            turn.wait()
            yield torch.zeros(2, device="cuda").device
        turn.wait()
        yield torch.zeros(2).device

    found: dict[str, list] = {}
    threads = [threading.Thread(target=lambda t=t: found.update({t: list(pretends(t))})) for t in ("sm_80", "sm_90")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {target: values[0] for target, values in found.items()} == {"sm_80": (8, 0), "sm_90": (9, 0)}
    assert all(values[1:] == [torch.device("cuda", 0), torch.device("cpu")] for values in found.values())
    assert changed(before) == []


def test_the_machine_needs_no_torch_until_a_route_pretends():
    assert "kvproof.kernels.ptx.pretend" in sys.modules  # by the tests above
    import subprocess

    code = "import sys, kvproof.kernels.ptx.launch as l; assert 'torch' not in sys.modules; assert l.route"
    subprocess.run([sys.executable, "-c", code], check=True)


in_child(globals())
