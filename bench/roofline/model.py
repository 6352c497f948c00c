"""The model of one layer's decode attention on a GPU: seconds from bytes, instructions, latency and waves.

    seconds = launch + trips to memory and L2 of one program and of the combine + dead programs
              + max(bytes / achievable bandwidth, warp instructions / issue rate, (waves - 1) * one program's trips)

It is kept this small so that it explains; nothing here was run on a GPU, and it claims no more than ±30 %.
"""

import math
from typing import NamedTuple

from .gpus import GPU, REGISTERS
from .work import FIRST, ITEMSIZE, Engine, Shape, doublings, instructions, moved, splits

UNCERTAINTY = 0.3  # of every modelled time, either way; assumption
NOT_RUN, SPREAD = "not run", f"±{UNCERTAINTY * 100:.0f} %"
CHUNK = 8  # splits that the combine reads in one trip
TRIPS = 4  # that a program takes one after the other beside its loop: lengths, q, its partial, the counter
L2_TRIP = 0.5  # of a trip to memory, a trip to L2, where those four and the combine's mostly end; assumption


def resident(gpu: GPU, engine: Engine) -> int:
    """Programs that an SM holds at once, by registers (given out to warps, 8 a thread at a time), warps and slots."""
    registers = -(-engine.registers // 8) * 8 * 32 * engine.warps
    return int(min(REGISTERS // registers, gpu.warps // engine.warps, gpu.programs))


class Prediction(NamedTuple):
    """What the model says of a shape on a GPU, NOT RUN: bytes, programs, and seconds by cause.

    minimal    bytes that must move, partials apart; ideal  those over the datasheet's bandwidth
    floor      launch and trips to memory, which even the smallest call pays; dead  what empty splits cost
    bound      the largest of floor and of what overlaps after it: "latency", "bytes", "issue" or "waves"
    latency_until  bytes of K and V below which the floor is longer than moving them
    """

    gpu: GPU
    shape: Shape
    parts: dict[str, int]
    minimal: int
    ideal: float
    programs: int
    dead_programs: int
    resident: int
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
    """What the model says of a shape on a GPU.  Raises ValueError if no program of its engine fits an SM."""
    parts, longest = moved(shape), max(shape.lengths)
    minimal = sum(size for name, size in parts.items() if not name.startswith("partials"))
    live = shape.columns * sum(splits(n) for n in shape.lengths)
    dead = shape.columns * splits(shape.slots) * len(shape.lengths) - live
    held = resident(gpu, shape.engine)
    if not held:
        raise ValueError(f"{gpu.name}: {gpu.warps:g} warps hold no program of {shape.engine.warps}; give more warps")
    split = min(longest, FIRST << doublings(longest))  # the largest
    blocks = -(-split * shape.head_dim * ITEMSIZE[shape.dtype] // shape.engine.in_flight)
    latency, seats = gpu.latency * 1e-6, gpu.sms * held
    program = (TRIPS * L2_TRIP + blocks) * latency
    combine = -(-splits(longest) // CHUNK) * L2_TRIP * latency if splits(longest) > 1 else 0.0
    floor = gpu.launch * 1e-6 + program + combine
    return Prediction(
        gpu=gpu,
        shape=shape,
        parts=parts,
        minimal=minimal,
        ideal=minimal / (gpu.bandwidth * 1e9),
        programs=live,
        dead_programs=dead,
        resident=held,
        waves=live / seats,
        floor=floor,
        dead=dead / seats * L2_TRIP * latency,  # each reads its length and leaves
        bytes=sum(parts.values()) / gpu.achievable,
        issue=instructions(shape) / gpu.issue,
        wave=(math.ceil(live / seats) - 1) * program,
        latency_until=floor * gpu.achievable,
    )
