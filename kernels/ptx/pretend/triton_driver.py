"""triton.runtime.driver.active for a thread that pretends, triton.testing's clocks, and Triton's cuBLAS."""

from collections.abc import Callable
from typing import Any

import torch
import triton.testing
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from ..errors import Refused
from . import replaced
from .places import is_gpu, pretence, pretending
from .streams import untimed


class Utils:
    """Triton's CudaUtils, as far as no driver is needed."""

    def get_device_properties(self, device: int = 0) -> dict[str, Any]:
        is_gpu(device)
        return pretence().properties.triton()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise Refused(f"triton.runtime.driver.active.utils.{name} is asked for; a pretended GPU has no driver to ask")


class Driver:
    """Triton's driver: the pretended GPU's in threads that have one, and the true one, if any, in others."""

    def __init__(self, before: Any):
        self._before, self._utils = before, Utils()

    def _true(self) -> Any:
        return self._before if self._before is not None else driver.default

    @property
    def utils(self) -> Any:
        return self._utils if pretending() else self._true().utils

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if not pretending():
            return getattr(self._true(), name)
        if name in ANSWERS:
            return ANSWERS[name]
        raise Refused(f"triton.runtime.driver.active.{name} is asked for; a pretended GPU has no driver to ask")


def ty_to_cpp(ty: str) -> str:
    from triton.backends.nvidia.driver import ty_to_cpp

    return ty_to_cpp(ty)


ANSWERS: dict[str, Callable[..., Any]] = {
    "get_current_target": lambda: GPUTarget("cuda", pretence().properties.sm, 32),
    "get_current_device": lambda: 0,
    "set_current_device": lambda device: is_gpu(device) and None,
    "get_current_stream": lambda device=0: pretence().stream.cuda_stream,
    "get_device_capability": lambda device=0: (pretence().properties.major, pretence().properties.minor),
    "get_active_torch_device": lambda: torch.device("cuda", 0),
    "get_device_interface": lambda: torch.cuda,
    "get_benchmarker": lambda: triton.testing.do_bench,
    "get_empty_cache_for_benchmark": lambda: torch.empty(1, dtype=torch.int32, device="cuda"),
    "clear_cache": lambda cache: cache.zero_(),
    "map_python_to_cpp_type": ty_to_cpp,
    "is_active": lambda: True,
}


class CublasLt:
    """Triton's handle of cuBLAS, which its tutorials make as they are imported: refused once it is used."""

    def __init__(self, workspace: torch.Tensor):
        is_gpu(workspace.device)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        what = f"{name} of Triton's CublasLt is asked for; a pretended GPU has no cuBLAS"
        raise Refused(f"{what}: call torch.matmul, or leave out what is compared with cuBLAS")


def put_all() -> None:
    from triton._C import libtriton

    replaced.put(driver, "_active", lambda usual, _: Driver(usual), None)
    if hasattr(libtriton, "nvidia"):  # absent where Triton was built for other GPUs alone
        replaced.put(libtriton.nvidia.cublas, "CublasLt", replaced.kind, CublasLt)


def once(usual: Any) -> Any:
    """do_bench and its like: run the function once, on the machine, and time nothing."""

    def do_bench(fn: Any, *args: Any, quantiles: Any = None, return_mode: str = "mean", **kwargs: Any) -> Any:
        fn()
        time = untimed(f"triton.testing.{usual.__name__}")
        if quantiles is not None:
            return [time] * len(quantiles) if len(quantiles) > 1 else time
        return [time] if return_mode == "all" else time

    return do_bench
