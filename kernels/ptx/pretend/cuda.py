"""torch.cuda and torch.accelerator of a pretended GPU: cuda:0, the only one.

What is not here and asks for a driver is refused by its name, in `lazy_init`.
"""

import collections
import sys
from collections.abc import Callable
from typing import Any

import torch
import triton.testing

from ..errors import Refused
from . import replaced
from .places import is_gpu, pretence
from .streams import Event, ExternalStream, Stream
from .triton_driver import once


def facts() -> Any:
    return pretence().properties


def checked(device: Any = None) -> int:
    """The index of a device that is the pretended one, by torch's own reading, which takes what it does not know for
    the current one. Raises Refused for another, ValueError for the CPU.
    """
    index = torch.cuda._utils._get_device_index(device, optional=True)
    is_gpu(index)
    return index


def lazy_init() -> None:
    """torch.cuda._lazy_init, which all that needs a driver calls first."""
    caller = sys._getframe(2)
    home, name = caller.f_globals.get("__name__", ""), caller.f_code.co_name
    if home == "torch.cuda" and name in CUDA:
        return  # torch's own, as a module holds it that took it before the route was opened: it asks LOW next
    if home.startswith(("torch.cuda", "torch.backends")):
        raise Refused(f"{home}.{name} is asked for; it is not pretended, since nothing but a true GPU can answer")
    raise Refused(
        f"{home}.{name} asks torch for CUDA memory past what is pretended: by a function that was imported before the "
        "route was opened (import it inside, or call it as torch.<name>), by a class such as torch.cuda.FloatTensor or "
        'torch.UntypedStorage (call torch.empty or torch.tensor with device="cuda"), or by machine code'
    )


def set_device(device: Any) -> None:
    checked(device)


def properties(device: Any = None) -> Any:
    checked(device)
    return facts()


def current_stream(device: Any = None) -> Stream:
    checked(device)
    return pretence().stream


def default_stream(device: Any = None) -> Stream:
    checked(device)
    return Stream.default()


def set_stream(stream: Stream | None) -> None:
    if stream is not None:
        pretence().stream = stream


def manual_seed(seed: int) -> None:
    pretence().generator.manual_seed(int(seed))


def at_once(device: Any = None) -> None:
    """torch.cuda.synchronize: all that was asked for is done."""
    checked(device)


def nothing(*args: Any, **kwargs: Any) -> None:
    """What orders work that has ended, or gives back memory that is not held."""


def zero(*args: Any, **kwargs: Any) -> int:
    """Of memory that no GPU holds."""
    return 0


def refused(name: str) -> Callable[..., Any]:
    def asked(*args: Any, **kwargs: Any) -> Any:
        raise Refused(f"{name} is asked for; it is not pretended, since only a true GPU has it")

    asked.__name__ = name.rpartition(".")[2]
    return asked


def empty_strided(size: Any, stride: Any, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device="cuda")


CUDA: dict[str, Callable[..., Any]] = {
    "_lazy_init": lazy_init,
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "init": nothing,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": set_device,
    "get_device_properties": properties,
    "get_device_capability": lambda device=None: (properties(device).major, properties(device).minor),
    "get_device_name": lambda device=None: properties(device).name,
    "is_bf16_supported": lambda including_emulation=True: including_emulation or facts().major >= 8,
    "is_tf32_supported": lambda: facts().major >= 8,
    "get_arch_list": lambda: [f"sm_{facts().sm}"],
    "can_device_access_peer": lambda device, peer: False,
    "_exchange_device": zero,
    "_maybe_exchange_device": zero,
    "synchronize": at_once,
    "current_stream": current_stream,
    "default_stream": default_stream,
    "set_stream": set_stream,
    "get_stream_from_external": lambda data_ptr, device=None: Stream(stream_id=data_ptr),
    "is_current_stream_capturing": lambda: False,
    "current_blas_handle": lambda: 0,
    "get_sync_debug_mode": zero,
    "set_sync_debug_mode": nothing,
    "ipc_collect": nothing,
    "manual_seed": manual_seed,
    "manual_seed_all": manual_seed,
    "seed": lambda: pretence().generator.seed(),
    "seed_all": lambda: pretence().generator.seed(),
    "initial_seed": lambda: pretence().generator.initial_seed(),
    "get_rng_state": lambda device="cuda": pretence().generator.get_state(),
    "get_rng_state_all": lambda: [pretence().generator.get_state()],
    "set_rng_state": lambda new_state, device="cuda": pretence().generator.set_state(new_state),
    "set_rng_state_all": lambda new_states: pretence().generator.set_state(new_states[0]),
    "mem_get_info": lambda device=None: (facts().total_memory, facts().total_memory),
    "memory_stats": lambda device=None: collections.defaultdict(int),
    "memory_summary": lambda device=None, abbreviated=False: "A pretended GPU holds no memory.",
    "get_per_process_memory_fraction": lambda device=None: 1.0,
    "set_per_process_memory_fraction": lambda fraction, device=None: set_device(device),
    "_sleep": nothing,
}
CUDA |= {name: refused(f"torch.cuda.{name}") for name in (
    "graph_pool_handle", "make_graphed_callables", "cudart", "caching_allocator_alloc", "memory_snapshot",
    "utilization", "temperature", "power_draw", "clock_rate", "memory_usage", "device_memory_used",
    "memory._record_memory_history",
)}  # fmt: skip
CUDA |= dict.fromkeys(("empty_cache", "reset_peak_memory_stats", "reset_max_memory_allocated",
                       "reset_accumulated_memory_stats", "reset_max_memory_cached"), nothing)  # fmt: skip
CUDA |= dict.fromkeys(("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved",
                       "memory_cached", "max_memory_cached"), zero)  # fmt: skip

ACCELERATOR: dict[str, Callable[..., Any]] = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_accelerator": lambda check_available=False: torch.device("cuda"),
    "current_device_index": lambda: 0,
    "current_device_idx": lambda: 0,
    "set_device_index": set_device,
    "set_device_idx": set_device,
    "current_stream": current_stream,
    "set_stream": set_stream,
    "synchronize": at_once,
    **dict.fromkeys(("empty_cache", "reset_peak_memory_stats", "reset_accumulated_memory_stats"), nothing),
    **dict.fromkeys(("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"), zero),
    "get_memory_info": lambda device=None: (facts().total_memory, facts().total_memory),
    "memory_stats": CUDA["memory_stats"],
}
NVTX = {"range_push": zero, "range_pop": zero, "range_start": zero, "range_end": nothing, "mark": nothing}
LOW: dict[str, Callable[..., Any]] = {  # which launchers that save time call
    "_cuda_getCurrentRawStream": lambda device=0: pretence().stream.cuda_stream,
    "_cuda_getDeviceCount": lambda: 1,
    "_cuda_synchronize": nothing,
    "_cuda_getCurrentStream": lambda device: (pretence().stream.stream_id, 0, 1),
    "_cuda_getDefaultStream": lambda device: (0, 0, 1),
    "_cuda_getDevice": lambda: 0,
    "_cuda_setDevice": nothing,
    "_cuda_exchangeDevice": zero,
    "_cuda_maybeExchangeDevice": zero,
    "_cuda_isCurrentStreamCapturing": lambda: False,
    "_accelerator_exchangeDevice": zero,
    "_accelerator_maybeExchangeDevice": zero,
    "_accelerator_getAccelerator": lambda: torch.device("cuda"),
    "_get_accelerator": lambda check=None: torch.device("cuda"),
}


def put_all() -> None:
    owners = ((torch.cuda, CUDA), (torch.accelerator, ACCELERATOR), (torch.cuda.nvtx, NVTX), (torch._C, LOW),
              (torch.cuda.profiler, {"start": nothing, "stop": nothing}))  # fmt: skip
    for owner, names in owners:
        for name, ours in names.items():
            if hasattr(owner, name):
                replaced.put(owner, name, replaced.function, ours)
    replaced.put(torch.cuda, "_get_device_properties", replaced.function, properties)  # made by the true _lazy_init
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved", "empty_cache",
                 "mem_get_info", "memory_stats", "reset_peak_memory_stats", "caching_allocator_alloc", "memory_summary",
                 "get_per_process_memory_fraction", "set_per_process_memory_fraction"):  # fmt: skip
        replaced.put(torch.cuda.memory, name, replaced.function, CUDA[name])
    history = "_record_memory_history"
    replaced.put(torch.cuda.memory, history, replaced.function, CUDA[f"memory.{history}"])
    low: Any = torch._C  # inductor's own torch.empty_strided, which others call, too
    replaced.put(low._dynamo.guards, "_empty_strided_cuda", replaced.function, empty_strided)
    for name in ("manual_seed", "manual_seed_all", "get_rng_state", "set_rng_state", "initial_seed"):
        replaced.put(torch.cuda.random, name, replaced.function, CUDA[name])
    for owner in (torch, torch.cuda, torch.cuda.streams):
        replaced.put(owner, "Stream", replaced.kind, Stream)
        replaced.put(owner, "Event", replaced.kind, Event)
    for owner in (torch.cuda, torch.cuda.streams):
        replaced.put(owner, "ExternalStream", replaced.kind, ExternalStream)
    for name in ("CUDAGraph", "graph"):
        replaced.put(torch.cuda, name, replaced.kind, type(name, (), {"__init__": refused(f"torch.cuda.{name}")}))
    for name in ("do_bench", "do_bench_cudagraph"):
        replaced.put(triton.testing, name, replaced.function, once(getattr(triton.testing, name)))
