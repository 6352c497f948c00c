"""Other people's GPT-2s from our weights, one file each: what runs where, in which dtype, and what it needs.

The loop that feeds them is ours, the same for every impl: their own generate() does more per token than the model,
such as stopping criteria and logits processors, and would be timed for it. Only ctranslate2 has no step to lend, so
its own loop is timed. Their packages are imported when a source is asked for, never before.
"""

from pathlib import Path

import torch

from ....gpt2.generate import Source
from ....gpt2.weights import as_dtype
from ..environment import version
from ..timing import OwnLoop
from .hf import CACHE_NAMES, TransformersSource, cache_name, empty_cache, hf_model

# Impl -> the packages it needs, the one that computes first.
PACKAGES = {
    "hf-dynamic": ("transformers",),
    "hf-static": ("transformers",),
    "hf-uncached": ("transformers",),
    "onnx": ("onnxruntime", "onnx"),
    "openvino": ("openvino",),
    "ctranslate2": ("ctranslate2",),
    "llamacpp": ("llama_cpp_python", "gguf"),
}
PEERS = tuple(PACKAGES)
HF = tuple(impl for impl in PEERS if impl.startswith("hf-"))
UNCACHED_PEERS = ("hf-uncached",)
EXTRAS = {"llamacpp": "llamacpp"}  # the others are in the extra "peers"
HALVES = ("bfloat16", "float16")

__all__ = ["CACHE_NAMES", "cache_name", "empty_cache", "hf_model", "version"]


def available() -> dict[str, str | None]:
    """Each peer's version here; None where one of its packages is absent."""
    return {impl: version(names[0]) if all(map(version, names)) else None for impl, names in PACKAGES.items()}


def peer_dtype(impl: str, dtype: str) -> str:
    """The dtype a peer runs in: where it has no arithmetic in a half precision, float32 stands in for it.

    Our ONNX graph's attention knows float32 alone, ctranslate2 none but float32 on a CPU, openvino what the CPU has.
    """
    if dtype not in HALVES or impl in (*HF, "llamacpp"):
        return dtype
    if impl == "openvino" and version("openvino"):
        from .openvino_peer import computes

        return dtype if computes(dtype) else "float32"
    return "float32"


def takes_int8(impl: str) -> bool:
    """Whether a peer has int8 weights; transformers' come from packages of their own."""
    return impl not in HF


def peer_source(
    impl: str, name: str | Path, dtype: str | torch.dtype, device: torch.device, batch: int, capacity: int,
    weights: str | None = None,
) -> Source | OwnLoop:  # fmt: skip
    """A peer's way to decode `batch` sequences of up to `capacity` tokens of the model `load(name)` gives.

    weights  None, or "int8": each peer quantises our float32 weights in its own way

    Models are kept between calls; each source has a cache of its own. All have as many threads as torch.
    Raises ImportError where its package is absent, ValueError for what it cannot compute, and what `load` raises.
    """
    require(impl)
    dtype, int8 = as_dtype(dtype), weights == "int8"
    if int8 and not takes_int8(impl):
        raise ValueError(f"{impl} came with int8 weights, which it has not: leave it out here")
    if impl in HF:
        return TransformersSource(hf_model(name, dtype, device), impl, batch, capacity)
    word = str(dtype).removeprefix("torch.")
    if word == "float64" or peer_dtype(impl, word) != word or device.type != "cpu":
        kinds = " or ".join(k for k in ("float32", *HALVES) if peer_dtype(impl, k) == k)
        raise ValueError(f"{impl} came with {word} on {device}; it computes in {kinds} on the CPU: leave it out here")
    return cpu_source(impl, name, word, int8, batch, capacity)


def cpu_source(impl: str, name: str | Path, dtype: str, int8: bool, batch: int, capacity: int) -> Source | OwnLoop:
    threads = torch.get_num_threads()
    if impl == "onnx":
        from .onnx_peer import OnnxSource, onnx_session

        return OnnxSource(onnx_session(name, int8, threads), batch, capacity)
    if impl == "openvino":
        from .openvino_peer import OpenVinoSource, compiled

        return OpenVinoSource(compiled(name, dtype, int8, threads), batch)
    if impl == "ctranslate2":
        from .ctranslate2_peer import CTranslate2Source, generator

        return CTranslate2Source(generator(name, int8, threads), batch)
    from .llamacpp import LlamaCppSource, model

    return LlamaCppSource(model(name, dtype, int8), dtype, batch, capacity, threads)


def require(impl: str):
    """Raises ImportError unless the peer's packages are here."""
    for package in PACKAGES[impl]:
        if version(package) is None:
            extra = EXTRAS.get(impl, "peers")
            raise ImportError(f"{package} is not here; python -m pip install -e '.[{extra}]'")
