"""tcgen05.mma: one thread has matrices multiplied in tensor memory, A from there or, as B, from shared memory.

Source: PTX ISA 8.7, sections 9.7.16.4.2 (instruction descriptor), 9.7.16.10.5 (data path layout) and 9.7.16.10.9
(tcgen05.mma).
"""

import re
from typing import Any, NamedTuple

import numpy as np

from ..asynchronous import proxy
from ..decode import Decoder, Run
from ..errors import Misaligned, Undefined, UnknownOpcode
from ..forms import address
from ..matrix_forms import INTEGERS
from ..parse import Address, Instruction
from . import descriptors
from .numbers import added, numbers, of_four_bits, of_six_bits
from .tcgen05 import issuer, memory_of, one_program, picked
from .tensor_memory import COLUMNS, LANES, SHARE

MODES = {0: 0, 2: 128, 4: 64, 6: 32}  # code -> bytes of a swizzled row; 1, of 32-byte atoms, is not known
# kind -> bytes of an element of A and B, the types by their code, and those of D
KINDS = {
    "f16": (2, {0: "f16", 1: "bf16"}, {0: "f16", 1: "f32"}),
    "tf32": (4, {2: "tf32"}, {1: "f32"}),
    "f8f6f4": (1, {0: "e4m3", 1: "e5m2", 3: "e2m3", 4: "e3m2", 5: "e2m1"}, {0: "f16", 1: "f32"}),
    "i8": (1, {0: "u8", 1: "s8"}, {2: "s32"}),
}
PADDED = {"e2m1": 8, "e2m3": 12, "e3m2": 12}  # bytes of 16 elements, where those of 8, 6 and 4 bits are taken alike
ROW = 32  # bytes of a row of A or B along K
HINT = r"(\.collector::a::(fill|use|lastuse|discard))?"


class Form(NamedTuple):
    """An instruction descriptor taken apart."""

    M: int
    N: int
    K: int
    size: int
    a: str
    b: str
    d: str
    negative: bool  # A B has its sign turned
    a_mn_major: bool
    b_mn_major: bool
    satfinite: bool


def shapes(M: int, kind: str) -> str:
    """What fits beside an M that came, and what to do, in words."""
    if M == 128:
        return "M 128 takes N of 16 to 256 in steps of 16; take a BLOCK_N of 16 or more, or a BLOCK_M of 64"
    if M == 64:
        small = "8, 16, 24, 32 and 48 to 256 in steps of 16" if kind == "i8" else "8 to 256 in steps of 8"
        return f"M 64 takes N of {small}; take such a BLOCK_N"
    return "M is 64 or 128; take such a BLOCK_M"


def form(block: Any, kind: str, code: int, thread: int) -> Form:
    """Read an instruction descriptor. Raises Undefined for one that the kind has not."""
    bits = lambda at, n: code >> at & (1 << n) - 1  # noqa: E731
    size, inputs, sums = KINDS[kind]
    M, N = 16 * bits(24, 5), 8 * bits(17, 6)
    step = 16 if M == 128 or (kind == "i8" and N > 32) else 8
    fits = M in (64, 128) and 8 <= N <= 256 and N % step == 0
    known = bits(7, 3) in inputs and bits(10, 3) in inputs and bits(4, 2) in sums
    if not fits or not known or bits(2, 1) or bits(30, 2):
        advice = "" if fits else f": {shapes(M, kind)}"
        what = f"the instruction descriptor {code:#x}, of M {M}, N {N} and types {bits(7, 3)}, {bits(10, 3)} and "
        raise block.error(
            Undefined, f"{what}{bits(4, 2)}, is none of a dense tcgen05.mma of kind {kind}{advice}", 0, thread
        )
    types = inputs[bits(7, 3)], inputs[bits(10, 3)], sums[bits(4, 2)]
    signs = bits(13, 1) != bits(14, 1)
    return Form(M, N, ROW // size, size, *types, signs, bool(bits(15, 1)), bool(bits(16, 1)), bool(bits(3, 1)))


class Issue(NamedTuple):
    """Who issues an instruction, and in which programs: (P or 1,) each."""

    rows: np.ndarray
    who: np.ndarray

    def warp(self) -> int:
        return int(self.who[self.rows][0]) // 32


def shared_operand(block: Any, issue: Issue, descriptor: np.ndarray, name: str, f: Form) -> np.ndarray:
    """A or B (P or 1, M or N, K) of the descriptors (P or 1,)."""
    rows, kind, mn_major = (f.M, f.a, f.a_mn_major) if name == "A" else (f.N, f.b, f.b_mn_major)
    words = descriptors.fields(descriptor[:, None], 61)
    codes = {int(x) for x in words.swizzle.ravel()}
    if len(codes) > 1 or not codes <= MODES.keys() or (descriptor >> np.uint64(46) & np.uint64(7) != 1).any():
        what = (
            f"the descriptor {int(descriptor[0]):#x} of {name} is none of tcgen05, or has a swizzle that is not known"
        )
        raise block.error(Undefined, what, 0, int(issue.who[0]))
    at = descriptors.units(words, rows, ROW // f.size, f.size, mn_major, MODES[codes.pop()])
    on = None if issue.rows.all() else np.broadcast_to(issue.rows[:, None], (len(issue.rows), at.shape[1]))
    if kind in PADDED and f.K == ROW:
        return padded(block, issue, at, on, kind, f, mn_major)
    data = proxy.read(block, at, descriptors.UNIT, on, issue.who, proxy.Done("tcgen05"))
    if kind == "e2m1":
        return of_four_bits(descriptors.matrix(data, ROW, np.dtype(np.uint8), mn_major))
    dtype = np.dtype(INTEGERS.get(kind, f"<u{f.size}"))
    return numbers(descriptors.matrix(data, f.K, dtype, mn_major), kind)


def padded(block: Any, issue: Issue, at: np.ndarray, on: Any, kind: str, f: Form, mn_major: bool) -> np.ndarray:
    """A or B of elements of 4 or 6 bits, 16 of them in the first 8 or 12 bytes of each 16: the rest is not read."""
    held = PADDED[kind]
    size = held & -held
    at = (at[..., None] + np.arange(0, held, size)).reshape(len(at), -1)
    on = None if on is None else np.repeat(on, held // size, axis=1)
    words = proxy.read(block, at, size, on, issue.who, proxy.Done("tcgen05"))
    data = words.reshape(len(words), -1, held)
    elements = np.ascontiguousarray(of_four_bits(data) if held == 8 else of_six_bits(data, kind))
    parts = elements.reshape(len(data), f.K, -1) if mn_major else elements.reshape(len(data), -1, f.K)
    return parts.swapaxes(1, 2) if mn_major else parts


class Place(NamedTuple):
    """A matrix of M rows in tensor memory: row r in lane r, or, of 64, in lane r // 16 * 32 + r % 16 and maybe 16."""

    lane: int
    column: int
    M: int
    columns: int

    def of(self, words: np.ndarray) -> np.ndarray:
        """A view (P, 4, M // 4, columns) of the words (P, 128, columns)."""
        parts = words.reshape(len(words), 4, LANES // 4, -1)
        return parts[:, :, self.lane : self.lane + self.M // 4, self.column : self.column + self.columns]

    def cells(self) -> np.ndarray:
        groups = np.arange(LANES // SHARE).reshape(4, 2)[:, self.lane // 16 : (self.lane + self.M // 4) // 16]
        return (groups.reshape(-1, 1) * COLUMNS + self.column + np.arange(self.columns)).reshape(-1)


def place(block: Any, issue: Issue, at: np.ndarray, M: int, columns: int) -> Place:
    """Where a matrix lies, by addresses (P or 1,), which must be one."""
    found = np.unique(at[issue.rows] if len(at) == len(issue.rows) else at)
    thread = int(issue.who[0])
    if len(found) > 1:
        raise block.error(Undefined, "programs that multiply together have matrices at several addresses", 0, thread)
    lane, column = divmod(int(found[0]), 1 << 16)
    if lane not in ((0,) if M == LANES else (0, 16)):
        raise block.error(Misaligned, f"a matrix of {M} rows begins in lane {lane} of tensor memory", 0, thread)
    memory_of(block).allocated(block, column, columns, int(np.argmax(issue.rows)), thread)
    return Place(lane, column, M, columns)


def touch(block: Any, issue: Issue, p: Place, writes: bool, reads: bool) -> None:
    cells = p.cells()
    on = None if issue.rows.all() else np.repeat(issue.rows[:, None], len(cells), 1)
    memory_of(block).touch(block, "tcgen05", cells, np.full(len(cells), issue.warp()), on, writes=writes, reads=reads)


def in_memory(block: Any, issue: Issue, at: np.ndarray, f: Form) -> np.ndarray:
    """A (P, M, K) from tensor memory: as many elements to a column as fit, the first in its low bits."""
    if f.a in PADDED:
        why = f"A of {f.a} in tensor memory; of 4 and 6 bits it takes those in shared memory, padded"
        raise UnknownOpcode(block.instruction.opcode, why, block.instruction)
    p = place(block, issue, at, f.M, f.K * f.size // 4)
    touch(block, issue, p, writes=False, reads=True)
    words = np.ascontiguousarray(p.of(memory_of(block).words))
    dtype = np.dtype(INTEGERS.get(f.a, f"<u{f.size}"))
    return numbers(words.view(dtype).reshape(len(words), f.M, f.K), f.a)


def shared_code(block: Any, codes: np.ndarray) -> int:
    """The instruction descriptor of all programs that multiply together; Undefined if they have several."""
    if (codes != codes[0]).any():
        raise block.error(Undefined, "programs that multiply together have several instruction descriptors", 0, 0)
    return int(codes[0])


def multiply(d: Decoder, i: Instruction) -> Run:
    """tcgen05.mma [D], A or [A], B, instruction descriptor, enable-input-d: D = A B + D, or A B."""
    found = re.fullmatch(rf"tcgen05\.mma\.cta_group::1\.kind::(\w+?){HINT}", i.opcode)
    if not found or found[1] not in KINDS or len(i.operands) != 5:
        raise UnknownOpcode(i.opcode, "dense products, without disabled lanes, scaled inputs and shifts, are known", i)
    kind, (target, a, b, code, enabled) = found[1], i.operands
    to, b, code = address(d, target, "shared"), d.source(b, "b64")[0], d.source(code, "b32")[0]
    A = address(d, a, "shared") if isinstance(a, Address) else d.source(a, "b64")[0]
    keep, negated = d.source(enabled, "pred")

    def run(block, active):
        block.instruction = i
        R, issue = block.R, Issue(*issuer(block, active, "multiply"))
        value = lambda x: picked(block, x, issue.who)  # noqa: E731
        f = form(block, kind, shared_code(block, value(R[code])), int(issue.who[0]))
        left = (
            in_memory(block, issue, value(A(R)), f)
            if callable(A)
            else shared_operand(block, issue, value(R[A]), "A", f)
        )
        product = left @ shared_operand(block, issue, value(R[b]), "B", f).swapaxes(1, 2)
        write(block, issue, value(to(R)), f, product, value(~R[keep] if negated else R[keep]))

    return run


def write(block: Any, issue: Issue, at: np.ndarray, f: Form, product: np.ndarray, on: np.ndarray) -> None:
    """Put D at addresses (P or 1,): product (P or 1, M, N), on (P or 1,) whether D is added."""
    p = place(block, issue, at, f.M, f.N)
    touch(block, issue, p, writes=True, reads=bool(on.any()))
    product = -product if f.negative else product
    words = p.of(memory_of(block).words)
    c = words.reshape(len(words), f.M, f.N) if on.any() else None
    c = c if c is None or on.all() else np.where(on[:, None, None], c, np.uint32(0))
    c = c if c is None or f.d != "f16" else c.astype(np.uint16)
    result = added(product, c, f.d, f.satfinite).astype(np.uint32).reshape(-1, *words.shape[1:])
    if issue.rows.all():
        words[...] = result
    else:
        words[issue.rows] = np.broadcast_to(result, words.shape)[issue.rows]


FAMILY = one_program(multiply)
