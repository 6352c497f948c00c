"""Import single files of projects that are not installed: what else they import is a stub that answers "no"."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

FILES = (
    "aiter.ops.triton._triton_kernels.attention.pa_decode",
    "aiter.ops.triton.attention.pa_decode",
    "fla.ops.attn.decoding",
    "fla.ops.utils.op",
    "lightllm.models.llama.triton_kernel.flash_decoding",
    "lightllm.models.llama.triton_kernel.flash_decoding_stage1",
    "lightllm.models.llama.triton_kernel.flash_decoding_stage2",
    "mslk.attention.fmha._triton.reduce_kernels",
    "mslk.attention.fmha._triton.splitk_kernels",
    "mslk.attention.fmha._triton.vararg_kernel",
    "mslk.attention.fmha.triton_splitk",
    "sglang.kernels.ops.attention.decode_attention",
    "sglang.kernels.ops.attention.metadata",
    "sglang.kernels.ops.attention.score_mod",
    "vllm.v1.attention.ops.triton_attention_helpers",
    "vllm.v1.attention.ops.triton_decode_attention",
    "vllm.v1.attention.ops.triton_unified_attention",
)


class Nothing:
    """Whatever is asked of a module that is not there: false, any attribute, any call; a decorator keeps its class."""

    def __getattr__(self, name: str) -> "Nothing":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if len(args) == 1 and isinstance(args[0], type) else self

    def __bool__(self) -> bool:
        return False


class Stub(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {}) if name[0].isupper() and not name.isupper() else Nothing()


def answers(module: str) -> dict[str, Any]:
    """What stubs must answer truly, for a GPU of NVIDIA's that is an H100."""
    import triton
    import triton.language as tl

    platform = SimpleNamespace(
        is_rocm=lambda: False,
        fp8_dtype=lambda: torch.float8_e4m3fn,
        is_device_capability_family=lambda family: family == 90,
    )
    modes = ("NONE", "FP8_PER_TENSOR", "INT8_PER_TOKEN_HEAD", "FP8_PER_TOKEN_HEAD", "INT4_PER_TOKEN_HEAD")
    return {
        "vllm.triton_utils": {"tl": tl, "triton": triton},
        "vllm.platforms": {"current_platform": platform},
        "vllm.v1.kv_cache_interface": {"KVQuantMode": SimpleNamespace(**{mode: i for i, mode in enumerate(modes)})},
        "sglang.srt.utils": {name: lambda: False for name in ("is_hip", "is_gfx95_supported", "is_gfx1250_supported")},
        "mslk.attention.fmha._triton.available": {"is_triton_available": lambda: True},
        "fla.utils": {"check_shared_mem": lambda *args: True, "autotune_cache_kwargs": {}},
        "aiter.ops.triton.utils._triton.kernel_repr": {"make_kernel_repr": lambda name, keys: lambda _: name},
    }.get(module, {})


class Finder:
    """Finds FILES in a folder; any other module of their packages is a stub."""

    def __init__(self, folder: Path):
        self.folder, self.packages = folder, {name.split(".")[0] for name in FILES}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name in FILES:
            return importlib.util.spec_from_file_location(name, file_of(self.folder, name))
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in self.packages else None  # pyright: ignore[reportArgumentType]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Stub(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(answers(module.__name__))


def file_of(folder: Path, name: str) -> Path:
    return folder / (name.replace(".", "/") + ".py")


@contextmanager
def sources(folder: Path) -> Iterator[None]:
    """Inside, the peers can be imported."""
    finder = Finder(folder)
    sys.meta_path.insert(0, finder)  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        sys.meta_path.remove(finder)  # pyright: ignore[reportArgumentType]
        for name in [name for name in sys.modules if name.split(".")[0] in finder.packages]:
            del sys.modules[name]
