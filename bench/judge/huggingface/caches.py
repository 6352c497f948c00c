"""The caches that a causal LM of transformers can decode with, by the names of --cache."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from ...measure.peers import empty_cache

OWN, PAGED, AUTO = "own", "paged", "auto"
KEPT_BY_US = "ours, as "  # before the name of a quantised kind: the same numbers in a cache of ours


class DoesNotApply(ValueError):
    """A cache or a scenario that a model has no use or no room for: there is nothing to judge."""


@dataclass(frozen=True)
class Kind:
    """A kind of cache.

    what   what it keeps, for a table
    make   make(text config, slots) -> an empty one; None where the model or transformers makes it
    needs  needs(the layers of a dynamic cache) raises DoesNotApply for a model that it is not for
    lossy  it does not give back the numbers that it was given
    """

    what: str
    make: Callable[[Any, int], Any] | None = None
    needs: Callable[[list[Any]], None] = lambda layers: None
    lossy: bool = False


def no_states(layers: list[Any]):
    kinds = {type(layer).__name__ for layer in layers}
    if other := sorted(name for name in kinds if not name.startswith("Dynamic") or "Indexed" in name):
        raise DoesNotApply(f"its layers keep more than keys and values: {', '.join(other)}")


def windows(layers: list[Any]):
    if not any(getattr(layer, "is_sliding", False) for layer in layers):
        raise DoesNotApply("none of its layers has a window, by its config; --cache dynamic is all there is")


def several_kinds(layers: list[Any]):
    if len(kinds := {type(layer).__name__ for layer in layers}) < 2:
        raise DoesNotApply(f"its layers are all of one kind ({', '.join(kinds)}); --cache dynamic is the same")


def accelerator(layers: list[Any]):
    if not torch.accelerator.is_available():
        raise DoesNotApply("a cache is offloaded from an accelerator, and none is here")


def grown_alone(package: str = "") -> Callable[[list[Any]], None]:
    """What a quantised kind needs: layers that keep every token, and the package that rounds."""

    def needs(layers: list[Any]):
        if other := sorted({type(layer).__name__ for layer in layers} - {"DynamicLayer"}):
            raise DoesNotApply(f"QuantizedCache takes only layers that keep every token; found {', '.join(other)}")
        if package and find_spec(package.partition("-")[0]) is None:
            raise DoesNotApply(f"it needs {package}, which is not here; python -m pip install {package}")

    return needs


def full(config: Any, slots: int) -> Any:
    from transformers import DynamicCache

    return DynamicCache()


def dynamic(config: Any, slots: int, **more: Any) -> Any:
    return empty_cache(config, "dynamic", slots, **more)


def static(config: Any, slots: int, **more: Any) -> Any:
    return empty_cache(config, "static", slots, **more)


def quantised(backend: str) -> Callable[[Any, int], Any]:
    def make(config: Any, slots: int) -> Any:
        from transformers import QuantizedCache

        # Small groups and a short residual window, so that short sequences reach the quantised part.
        size = {} if backend == "fp8" else {"nbits": 4, "q_group_size": 16, "residual_length": 4}
        return QuantizedCache(backend=backend, config=config, **size)

    return make


KINDS = {
    "dynamic": Kind("what the config says of each layer: all tokens, a window, a recurrent state", dynamic),
    "full": Kind("every token in every layer, windows too", full, no_states),
    "static": Kind("a fixed number of slots", static),
    "sliding": Kind("dynamic, of a model that has windows", dynamic, windows),
    "hybrid": Kind("dynamic, of a model whose layers are of several kinds", dynamic, several_kinds),
    "offloaded": Kind("dynamic, kept in the host's memory", partial(dynamic, offloading=True), accelerator),
    "offloaded-static": Kind("static, kept in the host's memory", partial(static, offloading=True), accelerator),
    "quantised-fp8": Kind("8 bits, e4m3, one scale", quantised("fp8"), grown_alone(), lossy=True),
    "quantised-quanto": Kind("4 bits in groups, by optimum-quanto", quantised("quanto"), grown_alone("optimum-quanto"),
                             lossy=True),
    "quantised-hqq": Kind("4 bits in groups, by hqq", quantised("hqq"), grown_alone("hqq"), lossy=True),
    PAGED: Kind("continuous batching's blocks"),
    OWN: Kind("what the model's forward gives back, whatever that is"),
}  # fmt: skip
CACHES = tuple(KINDS)
HIDDEN = ("sliding", "hybrid")  # dynamic by another name, for those who insist on it


def layers_of(cache: Any) -> list[Any]:
    """The layers of a cache of transformers, of an encoder-decoder's those of self-attention; none of anything else."""
    cache = getattr(cache, "self_attention_cache", cache)
    return list(getattr(cache, "layers", ()))


def tensors_of(held: Any, depth: int = 6) -> list[torch.Tensor]:
    """The tensors that a cache of any kind holds, so far as they can be reached."""
    if isinstance(held, torch.Tensor):
        return [held] if held.numel() else []
    if not depth:
        return []
    if isinstance(held, dict):
        parts = list(held.values())
    elif isinstance(held, (list, tuple, set)):
        parts = list(held)
    else:
        parts = [getattr(held, name, None) for name in vars(held)] if hasattr(held, "__dict__") else []
    return [x for part in parts for x in tensors_of(part, depth - 1)]
