"""wgmma: the four warps of a warpgroup multiply matrices, of which one or both lie in shared memory.

The product is there as soon as it is asked for; what may not be touched until wgmma.wait_group is told by in_flight.py
for registers and by the asynchronous proxy for shared memory.
Source: PTX ISA 8.7, "Asynchronous warpgroup level matrix multiply-accumulate instructions".
"""

import re
from typing import Any, NamedTuple

import numpy as np

from ..asynchronous import proxy
from ..decode import Decoder, Run
from ..errors import NotConverged, Undefined, UnknownOpcode
from ..matrix_forms import INTEGERS
from ..parse import Immediate, Instruction, Vector
from ..wgmma_forms import MODES, Form, flags, form
from . import descriptors
from .mma import fragments
from .numbers import added, numbers

GROUP = 128  # threads of a warpgroup


def converge(block, active, i: Instruction) -> None:
    """All threads of a warpgroup must have come: until they have, others run."""
    block.instruction = i
    T = block.world.T
    if T % GROUP:
        raise block.error(Undefined, f"wgmma needs warpgroups of 128 threads; the program has {T}", 0, 0)
    if active is not None:
        groups = np.broadcast_to(active, (len(active), T)).reshape(len(active), -1, GROUP)
        if (groups.any(2) != groups.all(2)).any():
            raise NotConverged


def uniform(block, value: np.ndarray, active, what: str) -> np.ndarray:
    """One value (P or 1, G or 1) for each warpgroup of (P or 1, T or 1). Raises Undefined where its threads differ."""
    if value.shape[1] == 1:
        return value
    groups = value.reshape(len(value), -1, GROUP)
    differs = (groups != groups[..., :1]).any(2, keepdims=True) & np.ones(GROUP, bool)
    differs = differs.reshape(value.shape) if active is None else differs.reshape(value.shape) & active
    if differs.any():
        row, thread = np.argwhere(differs)[0].tolist()
        raise block.error(Undefined, f"{what} differs between threads of a warpgroup", row, thread)
    return groups[..., 0]


class Operand(NamedTuple):
    """A or B in shared memory."""

    slot: int
    name: str
    rows: int
    k: int
    kind: str
    size: int
    mn_major: bool

    def read(self, block, active) -> np.ndarray:
        """The matrices of all warpgroups, (P or 1, G or 1, rows, k); of those that are not active, any."""
        found = uniform(block, block.R[self.slot], active, f"the descriptor of {self.name}")
        groups = range(block.world.T // GROUP)
        parts = [self.group(block, found[:, g % found.shape[1], None], active, g) for g in groups]
        if len({id(x) for x in parts}) == 1:
            return parts[0][:, None]
        shown = next(x for x in parts if x is not None)
        return np.stack(np.broadcast_arrays(*(shown if x is None else x for x in parts)), axis=1)

    def group(self, block, descriptor: np.ndarray, active, g: int) -> Any:
        """The matrix (P or 1, rows, k) of a warpgroup; None if no program's is active."""
        on = None if active is None else np.broadcast_to(active, (len(active), block.world.T))[:, g * GROUP, None]
        if on is not None and not on.any():
            return None
        f = descriptors.fields(descriptor, 62)
        shape, codes = (self.rows, self.k, self.size, self.mn_major), np.unique(f.swizzle).tolist()
        at = [descriptors.units(f, *shape, MODES[code]) for code in codes]
        at = at[0] if len(at) == 1 else np.select([f.swizzle == code for code in codes], at)
        on = None if on is None or on.all() else np.broadcast_to(on, (len(on), at.shape[1]))
        who = np.full(1, g * GROUP, np.int64)
        words = proxy.read(block, at, descriptors.UNIT, on, who, proxy.Done("wgmma", None))
        dtype = np.dtype(INTEGERS.get(self.kind, f"<u{self.size}"))
        return descriptors.matrix(words, self.k, dtype, self.mn_major)


def into_threads(product: np.ndarray, order: str) -> np.ndarray:
    """(P, G, 64, N) -> D as the threads hold it, in an `order` of the axes j, h, P, T and e.

    Thread (w, g, t) of a warpgroup holds of row 16 * w + 8 * h + g the columns 8 * j + 2 * t + e.
    """
    P, G, _, N = product.shape
    parts = product.reshape(P, G, 4, 2, 8, N // 8, 4, 2)
    axes = {"j": (5,), "h": (3,), "P": (0,), "T": (1, 2, 4, 6), "e": (7,)}
    sizes = {"j": N // 8, "h": 2, "P": P, "T": G * GROUP, "e": 2}
    return parts.transpose([axis for name in order for axis in axes[name]]).reshape([sizes[name] for name in order])


def registers_of(f: Form, product: np.ndarray, c: np.ndarray | None) -> np.ndarray:
    """The registers of D = product + c, (registers, P, T) uint32.

    product  (P, G, 64, N) float64, or float32 of whole numbers
    c        (registers, P or 1, T or 1) uint32, those of the accumulator; None for zero
    """
    if f.d == "f16":
        pairs = into_threads(product, "jhPTe")
        c = None if c is None else c.view("<u2").reshape(*pairs.shape[:2], *c.shape[1:], 2)
        return added(pairs, c, "f16").view("<u4").reshape(-1, *pairs.shape[2:4])
    single = into_threads(product, "jhePT")
    return added(single.reshape(-1, *single.shape[3:]), c, f.d, f.satfinite)


def stacked(R: list, slots: list[int]) -> np.ndarray:
    """Registers as one array (registers, P or 1, T or 1)."""
    return np.stack(np.broadcast_arrays(*(R[slot] for slot in slots)))


def multiply(d: Decoder, i: Instruction) -> Run:
    """wgmma.mma_async {D}, A, B, scale-d {, scale-a, scale-b {, trans-a, trans-b}}: D = A B + D, or A B."""
    f = form(i.opcode)
    target, a, b, scale_d, *_ = i.operands
    in_registers = isinstance(a, Vector)
    sign, *trans = flags(i)
    assert len(target.parts) == f.N // (4 if f.d == "f16" else 2)
    puts = [d.result(x, "b32") for x in target.parts]
    keep, negated = d.source(scale_d, "pred")
    never = isinstance(scale_d, Immediate) and not scale_d.bits
    before = [] if never else [d.source(x, "b32")[0] for x in target.parts]
    registers = [d.source(x, "b32")[0] for x in a.parts] if in_registers else []
    A = None if in_registers else Operand(d.source(a, "b64")[0], "A", 64, f.K, f.a, f.size, trans[0])
    B = Operand(d.source(b, "b64")[0], "B", f.N, f.K, f.b, f.size, trans[1])

    def run(block, active):
        converge(block, active, i)
        R = block.R
        left = from_registers(f, block, registers) if A is None else numbers(A.read(block, active), f.a)
        product = left @ numbers(B.read(block, active), f.b).swapaxes(2, 3)
        product = product if sign == 1 else -product
        on = ~R[keep] if negated else R[keep]
        c = stacked(R, before) if before and on.any() else None
        c = c if c is None or on.all() else np.where(on, c, np.uint32(0))
        words = registers_of(f, whole(product, block.world.T), c)
        for put, value in zip(puts, words, strict=True):
            put(R, value, active)

    return run


def whole(product: np.ndarray, T: int) -> np.ndarray:
    """A product for each warpgroup, if those of several do not differ."""
    P, G, M, N = product.shape
    return product if G == T // GROUP else np.broadcast_to(product, (P, T // GROUP, M, N))


def from_registers(f: Form, block, slots: list[int]) -> np.ndarray:
    """A of each warpgroup (P, G, 64, K): a warp holds its 16 rows as for mma."""
    T = block.world.T
    words = [np.broadcast_to(block.R[slot], (len(block.R[slot]), T)) for slot in slots]
    rows = fragments(f.a, words, (-1, 2), (2, 3, 1, 4, 0, 5), f.K)
    return rows.reshape(len(rows), T // GROUP, 64, f.K)


def fence(d: Decoder, i: Instruction) -> Run:
    """wgmma.fence: see in_flight.py."""
    known(i)
    return lambda block, active: converge(block, active, i)


def commit(d: Decoder, i: Instruction) -> Run:
    """wgmma.commit_group: what a warpgroup has begun since its last one is a group."""
    known(i)

    def run(block, active):
        converge(block, active, i)
        proxy.commit(block, active, "wgmma")

    return run


def wait(d: Decoder, i: Instruction) -> Run:
    """wgmma.wait_group: all groups of a warpgroup but its latest are done."""
    known(i)
    left = i.operands[0].bits

    def run(block, active):
        converge(block, active, i)
        proxy.wait(block, active, "wgmma", left)

    return run


def known(i: Instruction) -> None:
    if not re.fullmatch(r"wgmma\.(fence|commit_group|wait_group)\.sync\.aligned", i.opcode):
        raise UnknownOpcode(i.opcode, "its table has other forms of it", i)


FAMILIES = {
    "wgmma.mma_async": multiply, "wgmma.fence": fence, "wgmma.commit_group": commit, "wgmma.wait_group": wait,
}  # fmt: skip
