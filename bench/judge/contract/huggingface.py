"""The adapter of the cache contract for a Hugging Face causal LM with any cache of transformers.

Layers differ: some keep all tokens, some a window, a chunk or a recurrent state, some round what they keep. What a slot
holds and whether crop() can go back is asked of each layer.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ...measure.peers import cache_name, empty_cache
from .positions import positions_of


class HuggingFace:
    """A Hugging Face causal LM with one of its caches. Ragged prompts are padded on the left.

    kind      "dynamic" | "static" | a function that makes an empty transformers.Cache
    capacity  slots of the static cache
    dtype     what its logits are held to: many models compute parts in float32 whatever their weights are, so a float64
              one is held to float32's bar
    experts   whether the model has experts: a row's rounding then depends on which rows share its expert
    """

    def __init__(self, model: Any, kind: str | Callable[[], Any] = "dynamic", capacity: int = 32):
        if not callable(kind) and kind not in ("dynamic", "static"):
            raise ValueError(f"cache kind {kind!r} is not known; choose dynamic or static, or give a function")
        self.model, self.kind, self.capacity = model, kind, capacity
        self.dtype = torch.float32 if getattr(model, "dtype", None) == torch.float64 else model.dtype
        self.config = model.config.get_text_config(decoder=True)
        counts = [getattr(self.config, name, None) for name in ("num_local_experts", "num_experts", "n_routed_experts")]
        self.experts = any(counts)
        self.takes = set(inspect.signature(model.forward).parameters)
        self.cache_name = cache_name(model) or "past_key_values"
        self.cache: Any = None
        self.past = 0  # slots that are filled, padding included
        self.recording = False  # layers with a window keep what leaves it, for crop()
        self.first_position: int | None = 0
        self.pads: np.ndarray | None = None  # (B,) slots of padding before each row; None: no mask, no position ids

    def new_cache(self):
        return self.kind() if callable(self.kind) else empty_cache(self.model.config, self.kind, self.capacity)

    def tensor(self, array) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.model.device)

    @torch.no_grad()
    def prefill(self, ids):
        if self.cache is None:
            self.cache = self.new_cache()
            if self.recording and hasattr(self.cache, "activate_past_recording"):
                self.cache.activate_past_recording()
        padded = {} if self.pads is None else self.padded(np.arange(self.past + ids.shape[1]), self.past, self.pads)
        words = {self.cache_name: self.cache, "use_cache": True} | padded
        out = self.model(input_ids=self.tensor(ids), **words)
        self.past += ids.shape[1]
        return out.logits[:, -1]

    def padded(self, slots, past: int, pads) -> dict[str, torch.Tensor]:
        """What a left-padded batch is given beside the ids in slots[past:]."""
        given = {"attention_mask": self.tensor((slots >= pads[:, None]).astype(np.int64))}
        if self.first_position is not None:
            positions = self.first_position + np.maximum(slots[past:] - pads[:, None], 0)
            given["position_ids"] = self.tensor(positions)
        return given

    def prefill_ragged(self, prompts):
        widest = max(map(len, prompts))
        self.pads = np.array([widest - len(prompt) for prompt in prompts])
        self.first_position = self.position_of(np.array([prompts[0]]))
        return self.prefill(np.array([[0] * pad + prompt for pad, prompt in zip(self.pads, prompts, strict=True)]))

    def step(self, ids):
        return self.prefill(ids[:, None])

    @torch.no_grad()
    def recompute(self, ids, **given):
        return self.model(input_ids=self.tensor(ids), use_cache=False, **given).logits[:, -1]

    def position_of(self, ids) -> int | None:
        """The position_id of a sequence's first token, found by asking the model; None if it takes none.

        Raises NotImplementedError if the model takes no padding, with a cache or without.
        """

        def forward(ids, **given):
            return self.recompute(ids, **{name: x.to(self.model.device) for name, x in given.items()})

        start = positions_of(self.model, forward, torch.from_numpy(ids)).start
        if start is not None:
            return start
        if "position_ids" in self.takes:
            raise NotImplementedError("no position_ids give this model's own logits, so padding cannot be told to it")
        plain, mask = self.recompute(ids), torch.arange(ids.shape[1] + 3)[None] >= 3
        padded = forward(np.pad(ids, ((0, 0), (3, 0))), attention_mask=mask.long())
        if torch.allclose(plain, padded, rtol=0, atol=1e-3 * float(plain.abs().max())):
            return None
        raise NotImplementedError("without a cache, too, a padded row gives other logits: the model counts columns")

    @property
    def lossy(self) -> bool:
        return any(hasattr(layer, "_quantized_keys") for layer in (self.cache or self.new_cache()).layers)

    def reset(self):
        self.cache.reset()
        self.pads, self.past = None, 0

    def keep_past(self):
        self.recording = True

    def crop(self, n: int):
        if self.past <= n:
            return
        if not hasattr(self.cache, "crop"):
            raise NotImplementedError(f"{type(self.cache).__name__} has no crop()")
        if stuck := [layer for layer in self.cache.layers if not can_go_back(layer)]:
            raise NotImplementedError(f"{type(stuck[0]).__name__} keeps nothing to go back to")
        self.cache.crop(n - self.past)  # a negative number is how many tokens go, in every release
        self.past = n

    def reorder_rows(self, order):
        self.cache.reorder_cache(self.tensor(order))
        self.pads = None if self.pads is None else self.pads[order]

    def buffers(self):
        """K and V of each layer whose slots are the tokens'; a layer that chooses, packs or sums them is left out."""
        layers = [] if self.cache is None else self.cache.layers
        shown = [(layer, self.places(layer, i)) for i, layer in enumerate(layers) if shows_slots(layer)]
        return [(getattr(layer, name), places) for name in ("keys", "values") for layer, places in shown]

    def places(self, layer: Any, index: int) -> np.ndarray:
        """(B or 1, 1, slots, 1): the place of each slot's token; -1 in empty slots, -2 where no step may read it."""
        slots, count = layer.keys.shape[2], int(layer.get_seq_length())
        place = max(count - slots, 0) + np.arange(slots)[:, None]
        first = np.zeros(1, np.int64) if self.pads is None else self.pads
        types = getattr(self.config, "layer_types", None)
        if types and types[index] == "chunked_attention":
            chunk = self.config.attention_chunk_size
            first = first + (count - first) // chunk * chunk
        elif layer.is_sliding:
            window = getattr(layer, "sliding_window", None) or layer.max_cache_len
            first = np.maximum(first, count - window + 1)
        return np.where(place < count, np.where(place < first[:, None, None, None], -2, place), -1)


def shows_slots(layer: Any) -> bool:
    """Whether a layer's keys and values, (B, H, slots, D), hold one token per slot, each read as it is."""
    own = getattr(layer, "_layer_type", None) is not None  # a kind that one model defines for itself
    packed = any(hasattr(layer, name) for name in ("indexer_keys", "_quantized_keys"))
    keys = getattr(layer, "keys", None)
    return not own and not packed and keys is not None and keys.dim() == 4


def can_go_back(layer: Any) -> bool:
    """Whether crop() can put this layer back: it says so, and where it has a window it has kept what left that."""
    if not getattr(layer, "is_croppable", hasattr(layer, "crop")):
        return False
    window = getattr(layer, "sliding_window", None)
    return window is None or layer.get_seq_length() < window or getattr(layer, "record_past", False)
