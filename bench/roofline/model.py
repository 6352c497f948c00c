"""The model of one layer's decode attention on a GPU: seconds from bytes, instructions, latency and waves.

    seconds = launch + trips to memory and L2 of one program and of the combine + dead programs
              + max(bytes / achievable bandwidth, warp instructions / issue rate, (waves - 1) * one program's trips)

It is kept this small so that it explains; nothing here was run on a GPU, and it claims no more than ±30 %.
"""

import math
from typing import NamedTuple

from .gpus import GPU
from .kernel import Program, limits, split_len, splits
from .work import ITEMSIZE, Shape, instructions, moved

UNCERTAINTY = 0.3  # of every modelled time, either way; assumption
NOT_RUN, SPREAD = "not run", f"±{UNCERTAINTY * 100:.0f} %"
TRIPS = 4  # that a program takes one after the other beside its loop: lengths, q, its partial, the counter
L2_TRIP = 0.5  # of a trip to memory, a trip to L2, where those four and the combine's mostly end; assumption
# Of the achievable bandwidth, what L2 gives to programs that read again what another has read; assumption.
L2_RATE = 2.0


class Prediction(NamedTuple):
    """What the model says of a shape on a GPU, NOT RUN: bytes, programs, and seconds by cause.

    program    one program of the kernel on this GPU
    minimal    bytes that must move, each once; ideal  those over the datasheet's bandwidth
    floor      launch and trips to memory, which even the smallest call pays; dead  what empty splits cost
    bound      the largest of floor and of what overlaps after it: "latency", "bytes", "issue" or "waves"
    latency_until  bytes of K and V below which the floor is longer than moving them
    """

    gpu: GPU
    shape: Shape
    program: Program
    parts: dict[str, int]
    minimal: int
    ideal: float
    programs: int
    dead_programs: int
    waves: float
    floor: float
    dead: float
    bytes: float
    issue: float
    wave: float
    latency_until: float

    @property
    def bound(self) -> str:
        causes = {"latency": self.floor, "bytes": self.bytes, "issue": self.issue, "waves": self.wave}
        return max(causes, key=lambda cause: causes[cause])

    @property
    def seconds(self) -> float:
        return self.floor + self.dead + max(self.bytes, self.issue, self.wave)

    @property
    def low(self) -> float:
        return self.seconds * (1 - UNCERTAINTY)

    @property
    def high(self) -> float:
        return self.seconds * (1 + UNCERTAINTY)


def predict(gpu: GPU, shape: Shape) -> Prediction:
    program, columns, parts = shape.program(gpu.arch), shape.columns(gpu.arch), moved(shape, gpu.arch)
    minimal = sum(size for name, size in parts.items() if not name.startswith(("kv_again", "partials")))
    live = columns * sum(map(splits, shape.lengths))
    dead = columns * splits(shape.slots) * len(shape.lengths) - live
    longest = max(shape.lengths)
    loads = -(-2 * split_len(longest) * shape.head_dim * ITEMSIZE[shape.dtype] // program.in_flight)
    latency, seats = gpu.latency * 1e-6, gpu.sms * program.resident
    trips = (TRIPS * L2_TRIP + loads) * latency
    combine = -(-splits(longest) // limits()["chunk"]) * L2_TRIP * latency if splits(longest) > 1 else 0.0
    floor = gpu.launch * 1e-6 + trips + combine
    return Prediction(
        gpu=gpu,
        shape=shape,
        program=program,
        parts=parts,
        minimal=minimal,
        ideal=minimal / (gpu.bandwidth * 1e9),
        programs=live,
        dead_programs=dead,
        waves=live / seats,
        floor=floor,
        dead=dead / seats * L2_TRIP * latency,  # each reads its length and leaves
        bytes=(sum(parts.values()) - parts["kv_again"] * (1 - 1 / L2_RATE)) / gpu.achievable,
        issue=instructions(shape, gpu.arch) / gpu.issue,
        wave=(math.ceil(live / seats) - 1) * trips,
        latency_until=floor * gpu.achievable,
    )
