"""What a run measures and how: its cells, and what they share."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Cell:
    """What is measured: context None takes the prompts as they are, weights None has them in the dtype."""

    model: str
    dtype: str
    batch: int
    context: int | None
    new_tokens: int
    weights: str | None = None

    def __str__(self) -> str:
        context = "" if self.context is None else f", context {self.context}"
        dtype = self.dtype + (f", {self.weights} weights" if self.weights else "")
        return f"{self.model}, {dtype}, batch {self.batch}{context}, {self.new_tokens} new tokens"


@dataclass(frozen=True)
class Plan:
    """How every cell of a run is measured.

    impls    naive among them, if it is measured: every speedup is over it
    prompts  texts for the cells without a context
    graph    triton's steps are replays of a CUDA graph
    command  repeats the run
    backend  what runs triton's kernel without a GPU, of BACKENDS
    """

    impls: tuple[str, ...]
    device: torch.device
    repeats: int
    prompts: tuple[str, ...]
    graph: bool
    command: str
    backend: str = "ptx"

    def key(self, cell: Cell) -> str:
        """What a resumed run knows a finished cell by: all that its figures depend on but the machine and the code."""
        settings = {"impls": self.impls, "repeats": self.repeats, "graph": self.graph, "device": str(self.device)}
        if "triton" in self.impls and self.device.type == "cpu":
            settings["backend"] = self.backend
        if cell.context is None:
            settings["prompts"] = self.prompts
        return f"{cell}; " + "; ".join(f"{name} {value}" for name, value in settings.items())
