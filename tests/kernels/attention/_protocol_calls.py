"""Launches of decode attention on a workspace that a test has in its hands: dirty, half used, or another launch's."""

from contextlib import ExitStack
from typing import Any
from unittest import mock

import numpy as np
import torch

from kvproof.kernels import ptx
from kvproof.kernels.attention import Workspace, make_workspace
from kvproof.kernels.attention import launch as ours
from kvproof.kernels.ptx.machine import Machine
from kvproof.reference.judge.rounding import attention_error

# All but the counters: what a launch reads, it has written.
UNREADABLE = {f"partials.{name}": False for name in ("m", "l", "acc", "begun", "done")}


class Call:
    """One call's inputs, its result on a fresh workspace, and any number of launches of it on others.

    engine   "simt" has float32, one query per KV head; "mma" float16, four of them
    lengths  of the sequences, in a cache of T slots
    M        new tokens of each
    """

    def __init__(self, engine: str, lengths: list[int], T: int, M: int = 1, kernels: Any = ours, poison: float = 0.0):
        B, H, D, G = len(lengths), 2, 16, 1 if engine == "simt" else 4
        dtype = torch.float32 if engine == "simt" else torch.float16
        random = torch.Generator().manual_seed(0)
        self.q = torch.randn(B, M, H * G, D, generator=random).to(dtype)
        self.k, self.v = torch.randn(2, B, H, T, D, generator=random).to(dtype)
        self.v[:, :, ::3] += poison
        self.lengths, self.kernels, self.T, self.engine = torch.tensor(lengths, dtype=torch.int32), kernels, T, engine
        self.tickets = iter(range(7, 999))
        self.exact = self.launch(self.workspace())

    def workspace(self) -> Workspace:
        """A fresh one, its partials NaN."""
        B, M, H, D = self.q.shape
        made = make_workspace(B, H, self.T, D, self.q.dtype, "cpu", M)
        for x in made[:3]:
            x.fill_(torch.nan)
        return made

    def launches(self, partials: Workspace, out, lse, ticket: int, **options) -> list[Any]:
        kernels, options = self.kernels, {"scale": 0.25, "engine": self.engine, **options}
        inputs = kernels.Inputs(self.q, self.k, self.v, self.lengths)
        return kernels.launches(inputs, kernels.Options(**options), kernels.Result(out, lse), partials, ticket)

    def launch(
        self, partials: Workspace, ticket: int | None = None, *, limit: int | None = None, without=None, checks=True,
        seed: int | None = None, readable: dict[str, bool] | None = None, **options,
    ) -> torch.Tensor:  # fmt: skip
        """Run it, and return out with lse in its last column (B, M, H, D + 1), 77 where nothing was written.

        limit    instructions after which the launch is aborted, with ptx.Unfinished
        without  program ids, split first, that never run
        """
        out, lse = torch.full_like(self.q, 77), torch.full(self.q.shape[:3], 77.0)
        teams = Machine.teams
        with ExitStack() as stack:
            if without is not None:
                rest = lambda machine, programs: teams(machine, np.setdiff1d(programs, without))  # noqa: E731
                stack.enter_context(mock.patch.object(Machine, "teams", rest))
            engine = None if limit is None and without is None else "numpy"  # what is counted and patched here
            settings = {"checks": checks, "seed": seed, "readable": readable, "max_steps": limit, "engine": engine}
            stack.enter_context(ptx.route("sm_90", **settings))
            for kernel, grid, arguments, compiling in self.launches(
                partials, out, lse, next(self.tickets) if ticket is None else ticket, **options
            ):
                kernel[grid](**arguments, **compiling)
        return torch.cat([out.float(), lse[..., None]], -1)

    def instructions(self, seed: int | None) -> int:
        """How many a whole launch takes, as `limit` counts them."""
        whole, left, run = 10**9, [], Machine.run
        with mock.patch.object(Machine, "run", lambda machine: (run(machine), left.append(machine.limit))):
            self.launch(self.workspace(), seed=seed, limit=whole)
        return whole - left[0]

    def error(self) -> float:
        """Of the result on a fresh workspace, in multiples of what rounding explains."""
        dtype = self.q.numpy().dtype
        arrays = [x.numpy() for x in (self.q, self.k, self.v, self.lengths)]
        rounded = None if self.engine == "simt" else dtype
        out = self.exact[..., :-1].numpy().astype(dtype)
        return attention_error(out, *arrays, scale=0.25, rounded_weights=rounded)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether all bits agree."""
    return a.numpy().tobytes() == b.numpy().tobytes()


def is_clean(partials: Workspace) -> bool:
    """Whether a workspace is as between launches: nothing counted, nothing left to be combined, no fault."""
    return not any(x.any() for x in (partials.counters, partials.done, partials.fault))


def rows_of(call: Call, found: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """By query (B, M, H): whether it is the exact result, and whether it is NaN, which the result is nowhere."""
    right = (found == call.exact).all(-1)
    return right, found.isnan().all(-1)
