"""The KV cache: allocated once, written in place, never concatenated or copied."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..reference.config import Config, ContextFull, brief
from .arguments import check_impl, index_of, is_row, place, refuse, size, whole


class CacheMismatch(ValueError):
    """The cache does not fit the call's batch, model, dtype or device."""


def layers(count: int, shape, dtype, device) -> tuple[torch.Tensor, ...]:
    """One tensor of memory per layer: a compiler that copies one then copies no other."""
    return tuple(torch.empty(shape, dtype=dtype, device=device) for _ in range(count))


class Cache(ABC):
    """B sequences with room for `capacity` tokens each; slot = position. Base of StaticCache and PagedCache.

    k, v          per layer, in memory of the subclass's shape: heads are axis 1, head_dim is axis 3
    lengths       (B,) int32, on the device: tokens each sequence has in the cache
    host_lengths  the same numbers as Python ints, so that nothing is read back from the device
    dtype         what the model computes in, and what `read` gives
    block_table   the pages of a paged cache; None for a static one
    k_scale, v_scale  the scales of a cache in 8 bits; None for others
    rounds        whether `read` gives other numbers than those written
    workspace     scratch memory of the triton impl, allocated once; None for the others
    bound         how the numba impl reads the cache, once it has
    """

    k: tuple[torch.Tensor, ...]
    v: tuple[torch.Tensor, ...]
    block_table: torch.Tensor | None = None
    k_scale: tuple[torch.Tensor, ...] | None = None
    v_scale: tuple[torch.Tensor, ...] | None = None
    rounds = False
    bound: Any = None

    def __init__(
        self,
        config: Config,
        batch: int,
        capacity: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        impl: str = "sdpa",
        new: int = 1,
        memory: tuple[int, int] | None = None,
    ):
        """new: tokens of a sequence that a call of the kernel may bring; memory: its rows, the slots of each."""
        check_impl(impl)
        new = whole("new", new, "a whole number, 1 or more", 1)
        if not isinstance(config, Config):
            raise refuse("config", config, "a Config, as model.config is")
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise refuse("dtype", dtype, "a torch.dtype of floating-point numbers, such as torch.float32")
        batch, capacity, device = size("batch", batch), size("capacity", capacity), place("device", device)
        if batch < 1 or capacity < 1:
            raise ValueError(
                f"a cache for {batch} sequences of {capacity} tokens holds nothing; both must be 1 or more"
            )
        if capacity > config.n_ctx:
            raise ContextFull(0, capacity, config.n_ctx, f"n_ctx {config.n_ctx}")
        self.capacity, self.dtype = capacity, dtype
        self.lengths = torch.zeros(batch, dtype=torch.int32, device=device)
        self.host_lengths = [0] * batch
        self.rows = torch.arange(batch, device=device)
        rows, each = memory or (batch, capacity)
        self.allocate(config.n_layer, (rows, config.n_head, each, config.head_dim), device)
        self.new, self.workspace = new, None
        if impl == "triton":
            from ..kernels.attention import make_workspace

            slots = -(-capacity // each) * each  # the capacity that the kernel sees
            self.workspace = make_workspace(batch, config.n_head, slots, config.head_dim, dtype, device, new)

    def allocate(self, count: int, shape: tuple[int, int, int, int], device: torch.device):
        """Make k and v of `count` layers."""
        self.k, self.v = layers(count, shape, self.dtype, device), layers(count, shape, self.dtype, device)

    @property
    def batch(self) -> int:
        return len(self.host_lengths)

    def check_lengths(self, lengths: Sequence[int]) -> list[int]:
        """lengths as ints.  Raises ValueError unless there is one per sequence, each 0..capacity."""
        found = [index_of(n) for n in lengths] if is_row(lengths) else []
        if len(found) != self.batch or not all(n is not None and 0 <= n <= self.capacity for n in found):
            raise ValueError(
                f"lengths are {brief(lengths)}; this cache takes {self.batch} of them, each 0..{self.capacity}"
            )
        return found  # pyright: ignore[reportReturnType]

    def set_lengths(self, lengths: Sequence[int]):
        """Set the number of tokens of each sequence; slots beyond it are dead. Nothing is moved or cleared.

        Also resets the workspace, in case a launch was interrupted.

        Raises ValueError unless there is one length per sequence, each 0..capacity.
        """
        self.host_lengths = self.check_lengths(lengths)
        self.lengths.copy_(torch.tensor(self.host_lengths, dtype=torch.int32))
        if self.workspace is not None:
            self.workspace.reset()

    def reset(self):
        """Set all lengths to 0, for a new run in the same memory."""
        self.set_lengths([0] * self.batch)

    @contextmanager
    def undone_if_interrupted(self, before: list[int]) -> Iterator[None]:
        """If an exception or Ctrl-C ends the block, set the lengths back to `before` and reset the workspace."""
        try:
            yield
        except BaseException:
            self.set_lengths(before)
            raise

    def check_fits(self, config: Config, batch: int, dtype, device):
        """Raises CacheMismatch unless this cache fits `batch` sequences of that model."""
        layers, B, H, D = len(self.k), self.batch, self.k[0].shape[1], self.k[0].shape[3]
        if (layers, H, D) != (config.n_layer, config.n_head, config.head_dim):
            raise CacheMismatch(
                f"the cache has {layers} layers, {H} heads, head_dim {D}; the model has {config.n_layer}, "
                f"{config.n_head}, {config.head_dim}; make one with model.new_cache(batch)"
            )
        if self.capacity > config.n_ctx:
            raise CacheMismatch(
                f"the cache has {self.capacity} slots, the model {config.n_ctx} positions; make a new one"
            )
        if batch != B:
            raise CacheMismatch(f"{batch} sequences came for a cache of {B}; make one with model.new_cache({batch})")
        if (self.dtype, self.k[0].device) != (dtype, device):
            raise CacheMismatch(
                f"the cache is {self.dtype} on {self.k[0].device}, the model {dtype} on {device}; "
                "make one with model.new_cache(batch)"
            )

    def check_room(self, tokens: int) -> int:
        """The first slot of a prefill of `tokens` tokens.  Raises ContextFull or CacheMismatch if they do not fit."""
        start = self.host_lengths[0]
        if any(n != start for n in self.host_lengths):
            raise CacheMismatch(
                f"prefill continues equal lengths; this cache has {self.host_lengths}; reset() it first"
            )
        if start + tokens > self.capacity:
            raise ContextFull(start, tokens, self.capacity - start, f"the cache's {self.capacity} slots")
        return start

    def claim(self):
        """Take the next slot of every sequence and count it as live.  Returns those slots, (B,) int64.

        On the CPU one int if all are the same: indexing by it is a view, which costs less. On a GPU always the tensor,
        which a captured graph reads at each replay.

        Raises ContextFull, before anything changes, if a sequence has no slot left.
        """
        longest = max(self.host_lengths)
        if longest >= self.capacity:
            raise ContextFull(longest, 1, 0, f"the cache's {self.capacity} slots")
        same = self.lengths.device.type == "cpu" and min(self.host_lengths) == longest
        slots = longest if same else self.lengths.long()
        self.lengths += 1
        self.host_lengths = [n + 1 for n in self.host_lengths]
        return slots

    @abstractmethod
    def make_room(self, stop: int):
        """Give memory to the slots of every sequence up to `stop`."""

    def write(self, layer: int, slots, k, v):
        """Put one new row per sequence, k, v (B, H, D), at slots, as `claim` returns them, of this layer."""
        self.put(self.k[layer], slots, k)
        self.put(self.v[layer], slots, v)

    def write_span(self, layer: int, start: int, k, v):
        """Put M rows per sequence, k, v (B, H, M, D), at slots start ... start+M-1 of this layer."""
        self.make_room(start + k.shape[2])
        self.put_span(self.k[layer], start, k)
        self.put_span(self.v[layer], start, v)

    def read(self, layer: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The first n slots of every sequence, k, v (B, H, n, D); slots from a sequence's length on are dead."""
        return self.get(self.k[layer], n), self.get(self.v[layer], n)

    @abstractmethod
    def put(self, a: torch.Tensor, slots, x: torch.Tensor):
        """Put x (B, H, ...) at slots of a, memory of one layer, which may have axes beyond the first three."""

    @abstractmethod
    def put_span(self, a: torch.Tensor, start: int, x: torch.Tensor):
        """Put x (B, H, M, ...) at slots start ... start+M-1 of a, which have memory."""

    @abstractmethod
    def get(self, a: torch.Tensor, n: int) -> torch.Tensor:
        """The first n slots of a, (B, H, n, ...)."""


class StaticCache(Cache):
    """K and V of B sequences with room for T tokens each, one after another. `read` gives views.

    k, v          per layer (B, H, T, D)  slots from lengths[b] on are dead: they may hold anything
    """

    def make_room(self, stop: int):
        """Nothing to do: every slot has memory."""

    def put(self, a: torch.Tensor, slots, x: torch.Tensor):
        a[slice(None) if isinstance(slots, int) else self.rows, :, slots] = x

    def put_span(self, a: torch.Tensor, start: int, x: torch.Tensor):
        a[:, :, start : start + x.shape[2]] = x

    def get(self, a: torch.Tensor, n: int) -> torch.Tensor:
        return a[:, :, :n]
