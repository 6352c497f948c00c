"""torch.cuda, torch.accelerator and Triton's driver under a pretence, for each target."""

from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from triton import runtime

from kvproof.kernels import ptx
from kvproof.kernels.ptx.limits import LIMITS
from kvproof.kernels.ptx.pretend.properties import MODELS

driver: Any = runtime.driver
cuda: Any = torch.cuda


@pytest.fixture(autouse=True)
def pretended(request):
    with ptx.route(getattr(request, "param", "sm_90"), pretend=True):
        yield


@pytest.mark.parametrize("pretended", ["sm_80", "sm_89", "sm_120"], indirect=True)
def test_properties_are_those_of_the_target(request):
    sm = int(request.node.callspec.params["pretended"][3:])
    found = torch.cuda.get_device_properties(torch.device("cuda"))
    assert torch.cuda.get_device_capability() == (found.major, found.minor) == divmod(sm, 10)
    assert torch.cuda.get_device_name(0) == found.name == MODELS[sm].name
    assert found.multi_processor_count == MODELS[sm].multiprocessors
    assert found.total_memory == torch.cuda.mem_get_info()[1] == MODELS[sm].memory
    triton_s = driver.active.utils.get_device_properties(0)
    assert triton_s["max_shared_mem"] == found.shared_memory_per_block_optin == LIMITS[sm].shared - 1024
    assert triton_s["multiprocessor_count"] == found.multi_processor_count
    assert (triton_s["warpSize"], triton_s["max_num_regs"]) == (32, 65536)
    assert driver.active.get_current_target().arch == sm
    with pytest.raises(AttributeError):
        _ = found.warps


def test_every_target_has_a_model():
    assert set(MODELS) == set(LIMITS)


def test_there_is_one_device_and_it_is_current():
    assert torch.cuda.is_available()
    assert torch.cuda.is_initialized()
    assert torch.cuda.device_count() == torch.accelerator.device_count() == 1
    assert torch.cuda.current_device() == torch.accelerator.current_device_index() == 0
    assert torch.accelerator.is_available()
    assert torch.accelerator.current_accelerator() == torch.device("cuda")
    assert torch.get_device_module() is torch.get_device_module("cuda") is torch.cuda
    assert driver.active.get_active_torch_device() == torch.device("cuda:0")
    assert driver.active.get_current_device() == 0
    assert torch.cuda.is_bf16_supported()
    torch.cuda.set_device(0)
    torch.accelerator.set_device_index(0)
    with torch.cuda.device(0), torch.cuda.device(torch.device("cuda")), torch.cuda.device_of(torch.zeros(1)):
        assert torch.cuda.current_device() == 0
    for ask in (torch.cuda.set_device, torch.cuda.get_device_properties, torch.cuda.current_stream):
        with pytest.raises(ptx.Refused, match="one GPU is pretended"):
            ask(1)
        with pytest.raises(ValueError, match="Expected a cuda device, but got: cpu"):
            ask("cpu")


# As a module holds them that took them before the route was opened.
EARLY: Any = (
    torch.cuda.get_device_properties, torch.cuda.get_device_capability, torch.cuda.current_device,
    torch.cuda.current_stream, torch.cuda.synchronize, torch.cuda.is_available, torch.cuda.device_count,
)  # fmt: skip


def test_functions_that_were_taken_before_answer_too():
    found = [ask() for ask in EARLY]
    assert found[0].name == torch.cuda.get_device_name()
    assert found[1:] == [(9, 0), 0, torch.cuda.current_stream(), None, True, 1]


def test_streams_and_events_have_nothing_to_wait_for():
    usual, other = torch.cuda.current_stream(), torch.cuda.Stream()
    assert usual.cuda_stream == torch.cuda.default_stream().cuda_stream == 0
    assert other.cuda_stream != 0
    with torch.cuda.stream(other):
        assert torch.cuda.current_stream() == other != usual
        assert driver.active.get_current_stream(0) == torch._C._cuda_getCurrentRawStream(0) == other.cuda_stream
        other.wait_stream(usual)
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        torch.zeros(3, device="cuda").record_stream(other)
    assert torch.cuda.current_stream() == usual
    with other:
        assert torch.accelerator.current_stream() == other
    usual.wait_event(event)
    usual.synchronize()
    torch.cuda.synchronize()
    torch.accelerator.synchronize()
    assert event.query()
    assert other.record_event().query()
    assert isinstance(other, torch.cuda.Stream)
    assert isinstance(event, torch.cuda.Event)
    assert not torch.cuda.is_current_stream_capturing()
    streams: Any = (torch.Stream(device="cuda"), torch.Stream("cuda:0"), torch.cuda.ExternalStream(77))
    for stream in streams:
        assert isinstance(stream, torch.Stream)
        assert not stream.is_capturing()
        with stream:
            assert torch.cuda.current_stream() == stream
    assert streams[-1].cuda_stream == 77
    assert torch.Event(device="cuda").query()
    with pytest.warns(RuntimeWarning, match="Event.elapsed_time measures nothing"):
        assert event.elapsed_time(event) == 0


def test_memory_is_not_the_gpu_s():
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    assert torch.cuda.memory_allocated() == torch.cuda.max_memory_allocated() == torch.cuda.memory_reserved() == 0
    for ask in (torch.cuda.memory_stats, torch.cuda.memory.memory_stats, torch.accelerator.memory_stats):
        assert ask()["allocated_bytes.all.peak"] == 0
    assert torch.cuda.get_per_process_memory_fraction() == 1
    torch.cuda.set_per_process_memory_fraction(0.5)
    assert "holds no memory" in torch.cuda.memory_summary()
    assert torch.cuda.synchronize() is None
    with torch.cuda.profiler.profile():
        cuda._sleep(100)
    low: Any = torch._C
    made = low._dynamo.guards._empty_strided_cuda((3, 2), (1, 3), torch.float16)
    assert (made.is_cuda, made.stride(), made.dtype) == (True, (1, 3), torch.float16)
    with torch.cuda.nvtx.range("a"):
        torch.cuda.nvtx.mark("b")


@pytest.mark.parametrize("ask", [
    lambda: torch.cuda.CUDAGraph(), lambda: cuda.graph(None), lambda: torch.cuda.graph_pool_handle(),
    lambda: torch.cuda.cudart(), lambda: cuda.make_graphed_callables(None, ()),
    lambda: torch.cuda.memory.caching_allocator_alloc(8), lambda: driver.active.utils.load_binary(),
    lambda: driver.active.launcher_cls(), lambda: cuda.memory._record_memory_history(),
])  # fmt: skip
def test_what_only_a_gpu_can_do_is_refused_by_name(ask):
    with pytest.raises(ptx.Refused, match=r"(torch.cuda|triton.runtime.driver.active)[\w.]* is asked for"):
        ask()


@triton.jit
def softmax(out, x, x_stride, out_stride, rows, cols, BLOCK: tl.constexpr, stages: tl.constexpr):
    for row in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=stages):  # pyright: ignore[reportGeneralTypeIssues]
        at = tl.arange(0, BLOCK)
        v = tl.load(x + row * x_stride + at, mask=at < cols, other=-float("inf"))
        e = tl.exp(v - tl.max(v, 0))
        tl.store(out + row * out_stride + at, e / tl.sum(e, 0), mask=at < cols)


def persistent(x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """As many programs as the GPU holds at once, by what the compiled kernel takes of it."""
    facts = driver.active.utils.get_device_properties(x.device.index)
    rows, cols = x.shape
    out, BLOCK, warps = torch.empty_like(x), triton.next_power_of_2(cols), 8
    made: Any = softmax.warmup(out, x, x.stride(0), out.stride(0), rows, cols, BLOCK=BLOCK, stages=2, num_warps=warps,
                               grid=(1,))  # fmt: skip
    made._init_handles()
    held = facts["max_num_regs"] // (made.n_regs * facts["warpSize"] * warps)
    held = min(held, facts["max_shared_mem"] // made.metadata.shared)
    programs = min(facts["multiprocessor_count"] * held, rows)
    made[(programs, 1, 1)](out, x, x.stride(0), out.stride(0), rows, cols, BLOCK, 2)
    return out, held


def test_a_persistent_kernel_asks_how_many_of_its_programs_the_gpu_holds():
    x = torch.randn(5, 100, device="cuda")
    out, held = persistent(x)
    assert 1 <= held <= 16
    torch.testing.assert_close(out, torch.softmax(x, 1))


def test_do_bench_runs_once_and_says_that_it_timed_nothing():
    ran: list[int] = []
    bench: Any = triton.testing.do_bench
    for settings, time in (({}, 0), ({"quantiles": [0.5, 0.2]}, [0, 0]), ({"return_mode": "all"}, [0])):
        with pytest.warns(RuntimeWarning, match=r"triton.testing.do_bench measures nothing"):
            assert bench(lambda: ran.append(1), **settings) == time
    assert driver.active.get_benchmarker() is bench
    assert len(ran) == 3


def test_triton_s_cublas_is_made_and_refused_once_it_is_used():
    from triton._C.libtriton import nvidia

    true = nvidia.cublas.CublasLt
    with ptx.route("sm_100", pretend=True):
        handle = nvidia.cublas.CublasLt(torch.empty(1024, dtype=torch.uint8, device="cuda"))
        assert isinstance(handle, nvidia.cublas.CublasLt)
        x = torch.ones(16, 16, device="cuda")
        for name in ("matmul", "gemm", "block_scaled_matmul_mxfp8"):
            with pytest.raises(ptx.Refused, match=rf"{name} of Triton's CublasLt .* call torch\.matmul"):
                getattr(handle, name)(x, x, x)
    assert nvidia.cublas.CublasLt is true
