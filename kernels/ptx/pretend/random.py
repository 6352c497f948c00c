"""Generators of random numbers for "cuda": the CPU's numbers, behind the state of a GPU's generator.

What draws on the GPU draws from torch.cuda's generator, and what draws on the host from torch's; the same seed gives
the two other numbers, as it does with a GPU.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import checkpoint

from . import replaced
from .places import is_gpu, pretence

_CPU_GENERATOR: Any = torch.Generator
_OTHER = 0x9E3779B97F4A7C15  # so that a seed does not draw for k on the GPU what it drew for q on the host


class Generator(_CPU_GENERATOR):
    """A generator of the CPU's that says it is on cuda:0.

    Its state is that of a GPU's Philox generator, 16 bytes: seed and offset, int64. A state that was got before is one
    to come back to; another, as launchers set that draw their own numbers, begins a new sequence of its own.
    """

    device = torch.device("cuda", 0)  # pyright: ignore[reportAssignmentType]

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls) if is_gpu(device) else _CPU_GENERATOR(device)

    def __init__(self, device: Any):
        self._seed, self._offset, self._known = super().initial_seed(), 0, {}
        self.drawn = False  # from, since it was seeded

    def initial_seed(self) -> int:
        return self._seed

    def seed(self) -> int:
        self._seed, self._offset = super().seed(), 0
        return self._seed

    def manual_seed(self, seed: int) -> "Generator":
        self._seed, self._offset, self.drawn = seed, 0, False
        super().manual_seed(seed % 2**64 ^ _OTHER)
        return self

    def get_offset(self) -> int:
        return self._offset

    def set_offset(self, offset: int) -> None:
        self._offset = offset

    def get_state(self) -> torch.Tensor:
        now = super().get_state()
        last = self._known.get((self._seed, self._offset))
        if last is not None and not torch.equal(last, now):
            self._offset += 4  # numbers were drawn since
        self._known[self._seed, self._offset] = now
        return torch.tensor([self._seed, self._offset], device="cpu").view(torch.uint8)

    def set_state(self, state: torch.Tensor) -> None:
        seed, offset = state.view(torch.int64).tolist()
        known = self._known.get((seed, offset))
        if known is None:
            super().manual_seed((seed + offset) % 2**64 ^ _OTHER)
            self._known[seed, offset] = known = super().get_state()
        super().set_state(known)
        self._seed, self._offset = seed, offset

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Inside, what names no generator draws from this one: torch.default_generator stands in for it."""
        host: Any = torch.default_generator
        before = host.get_state()
        host.set_state(super().get_state())
        self.drawn = True
        try:
            yield
        finally:
            super().set_state(host.get_state())
            host.set_state(before)


@contextmanager
def default() -> Iterator[Generator]:
    """torch.cuda.default_generators[0] of one route, which says that it is seeded as torch's is.

    Its numbers follow from how far torch's has come, and that goes on by one if any was drawn: the same seed before
    two routes gives the same numbers, and two routes after one seed give different ones.
    """
    host: Any = torch.default_generator
    now = hashlib.sha256(host.get_state().numpy().tobytes()).digest()
    made = Generator("cuda")
    made.manual_seed(int.from_bytes(now[:8], "little"))
    made._seed = torch.initial_seed() & (2**63 - 1)
    try:
        yield made
    finally:
        if made.drawn:
            torch.rand(1, device="cpu")


class Generators:
    """torch.cuda.default_generators: this thread's one, or torch's own."""

    def __init__(self, usual: Any):
        self.usual = usual

    def _now(self) -> Any:
        return (pretence().generator,) if replaced.pretending() else self.usual

    def __getitem__(self, at: Any) -> Any:
        return self._now()[at]

    def __len__(self) -> int:
        return len(self._now())


class Initialized:
    """torch.cuda as torch.utils.checkpoint sees it, which keeps its numbers only where a plain name of it is True."""

    _initialized = True

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cuda, name)


INITIALIZED = Initialized()


def device_module(usual: Any, device: str = "cuda") -> Any:
    return INITIALIZED if device == "cuda" else usual(device)


def put_all() -> None:
    replaced.put(checkpoint, "_get_device_module", replaced.around, device_module)
    replaced.put(torch, "Generator", replaced.kind, Generator)
    replaced.put(torch.cuda, "default_generators", lambda usual, _: Generators(usual), None)
