"""What the 32 lanes of a warp do together: shuffles, votes, reductions, elections, and moving 8x8 matrices.

Values are bits, (P or 1, T or 1), an axis of 1 where they do not vary; thread t is lane t % 32 of warp t // 32.
`active` (P or 1, T or 1) bool are the threads that execute, None is all; results of the others mean nothing.
`threads` is T. Sources: the sections of the PTX ISA 8.7 that bear the instructions' names.
"""

from functools import lru_cache

import numpy as np

from .arrays import broadcast
from .errors import UnknownOpcode

NAN = np.uint32(0x7FFFFFFF)  # what PTX writes for a NaN of f32
EVERYBODY, NOBODY = np.ones((1, 1), bool), np.zeros((1, 1), bool)


def by_warp(*values: np.ndarray) -> list[np.ndarray]:
    """Views (P or 1, W, 32) of values (P or 1, T or 1); W is 1 if none of them varies along T."""
    T = max(32, *(value.shape[1] for value in values))
    return [broadcast(value, (value.shape[0], T)).reshape(value.shape[0], -1, 32) for value in values]


def _mask(active: np.ndarray | None) -> np.ndarray:
    return EVERYBODY if active is None else active


def _to_lanes(value: np.ndarray) -> np.ndarray:
    """One value per warp (P, W), given to its 32 lanes: (P, T), or (P, 1) if there is one warp."""
    return value if value.shape[1] == 1 else np.repeat(value, 32, axis=1)


def _ballot(lanes: np.ndarray) -> np.ndarray:
    """(..., 32) bool -> (...) uint32, lane i in bit i."""
    return np.packbits(lanes, axis=-1, bitorder="little").view("<u4")[..., 0]


def _source(mode: str, b: np.ndarray, c: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """The thread that each reads, and whether the one it asks for is in range: the pseudo code of shfl.sync."""
    b, clamp, segment = (bits.astype(np.int64) & 31 for bits in (b, c, c >> 8))
    thread = np.arange(threads)[None]
    lane = thread % 32
    first = lane & segment
    last = first | clamp & ~segment
    j = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": first | b & ~segment}[mode]
    in_range = j >= last if mode == "up" else j <= last
    return thread - lane + np.where(in_range, j, lane), in_range


@lru_cache(maxsize=1024)
def _fixed_source(mode: str, b: int, c: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """_source for a b and c that all threads share: (1, T) and (1, T or 1)."""
    thread, in_range = _source(mode, np.array([[b]]), np.array([[c]]), threads)
    return thread, EVERYBODY if in_range.all() else in_range


def shfl(
    mode: str, value: np.ndarray, b: np.ndarray, c: np.ndarray, active: np.ndarray | None, threads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """shfl.sync: each lane reads the register of another.

    mode     "up" | "down" | "bfly" | "idx"
    value    the bits to read; b uint32 the lane or distance, c uint32 the clamp and, from bit 8 on, the segment mask
    returns  the bits read, the lane's own if its source is out of range; bool, source in range; bool, an active lane
             reads an inactive one, whose value is undefined
    """
    if b.size == c.size == 1:
        thread, in_range = _fixed_source(mode, int(b.item()), int(c.item()), threads)
    else:
        thread, in_range = _source(mode, b, c, threads)

    def read(x):
        if x.shape[1] == 1:
            return x
        return x.take(thread[0], axis=1) if len(thread) == 1 else np.take_along_axis(x, thread, axis=1)

    return read(value), in_range, NOBODY if active is None else active & ~read(active)


def vote(mode: str, pred: np.ndarray, active: np.ndarray | None) -> np.ndarray:
    """vote.sync: what the active lanes of a warp hold. pred bool; "all", "any", "uni" -> bool, "ballot" -> uint32."""
    preds, actives = by_warp(pred, _mask(active))
    votes, everybody = _ballot(preds & actives), _ballot(actives)
    if mode == "ballot":
        return _to_lanes(votes)
    yes, no = votes == everybody, votes == 0
    return _to_lanes({"all": yes, "any": ~no, "uni": yes | no}[mode])


def activemask(active: np.ndarray | None) -> np.ndarray:
    """uint32: the lanes of each thread's warp that are active, lane i in bit i."""
    return vote("ballot", EVERYBODY, active)


def absent(membermask: np.ndarray, active: np.ndarray | None, threads: int) -> np.ndarray:
    """Bool: an active thread's membermask (uint32) has a lane that does not execute the instruction, or lacks its own.

    Every .sync instruction waits for ever for the first, and is undefined for the second.
    """
    if active is None and (membermask == 0xFFFFFFFF).all():
        return NOBODY
    own = (membermask >> (np.arange(threads, dtype=np.uint32)[None] % 32) & 1) != 0
    return _mask(active) & (((membermask & ~activemask(active)) != 0) | ~own)


def elect(active: np.ndarray | None, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """elect.sync: the leader's lane, uint32, and whether a thread is it, bool. The leader is the lowest active lane.

    The ISA leaves open which lane it is, but not that the choice is always the same.
    """
    leader = _to_lanes(by_warp(_mask(active))[0].argmax(axis=2).astype(np.uint32))
    return leader, np.arange(threads)[None] % 32 == leader


def match(mode: str, value: np.ndarray, active: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """match.sync: uint32, the active lanes that hold a lane's value, and bool, whether they are all of the active ones.

    mode     "any", or "all", whose lanes are 0 unless they are all; value uint32 or uint64
    """
    values, actives = by_warp(value, _mask(active))
    same = _ballot((values[..., :, None] == values[..., None, :]) & actives[..., None, :])  # (P, W, 32)
    everybody = same == _ballot(actives)[..., None]
    found = same if mode == "any" else np.where(everybody, same, np.uint32(0))
    varies = value.shape[1] > 1 or _mask(active).shape[1] > 1
    lanes, agree = (x.reshape(len(x), -1)[:, : None if varies else 1] for x in (found, everybody))
    return lanes, agree


# The operations of redux.sync: the function, what an inactive lane contributes, and the type computed in.
REDUX = {
    **dict.fromkeys(("add.u32", "add.s32"), (np.add, 0, np.uint32)),
    "and.b32": (np.bitwise_and, 0xFFFFFFFF, np.uint32),
    "or.b32": (np.bitwise_or, 0, np.uint32),
    "xor.b32": (np.bitwise_xor, 0, np.uint32),
    "min.u32": (np.minimum, 0xFFFFFFFF, np.uint32),
    "max.u32": (np.maximum, 0, np.uint32),
    "min.s32": (np.minimum, 0x7FFFFFFF, np.int32),
    "max.s32": (np.maximum, 0x80000000, np.int32),
}


def redux(op: str, value: np.ndarray, active: np.ndarray | None) -> np.ndarray:
    """redux.sync: one number from the active lanes of a warp, for all of them.

    op       what follows "redux.sync." in the opcode: a key of REDUX, or min or max{.abs}{.NaN}.f32
    value    uint32, as is the result. Raises UnknownOpcode for another op.

    Among floats -0 is less than 0. NaNs are left out unless .NaN is given; they, or nothing else, make 0x7fffffff.
    """
    name, *variants, kind = op.split(".")
    if kind == "f32" and name in ("min", "max") and variants in ([], ["abs"], ["NaN"], ["abs", "NaN"]):
        return _redux_f32(name, value & NAN if "abs" in variants else value, active, "NaN" in variants)
    if op not in REDUX:
        raise UnknownOpcode(f"redux.sync.{op}", f"it takes {', '.join(REDUX)} and min or max{{.abs}}{{.NaN}}.f32")
    reduction, neutral, dtype = REDUX[op]
    values, actives = by_warp(value, _mask(active))
    values = np.where(actives, values, np.uint32(neutral)).view(dtype)
    return _to_lanes(reduction.reduce(values, axis=2, dtype=dtype).view(np.uint32))


def _redux_f32(name: str, value: np.ndarray, active: np.ndarray | None, nan_wins: bool) -> np.ndarray:
    """As integers floats order like themselves once the negative ones are mirrored; the neutral number is a NaN's."""

    def mirrored(bits):
        return np.where(bits >> 31, bits ^ NAN, bits)

    is_nan = (value & NAN) > 0x7F800000
    neutral = np.uint32(REDUX[f"{name}.s32"][1])
    result = mirrored(redux(f"{name}.s32", np.where(is_nan, neutral, mirrored(value)), active))
    return np.where(((result & NAN) > 0x7F800000) | (nan_wins & vote("any", is_nan, active)), NAN, result)


def fragments(rows: np.ndarray, num: int, trans: bool) -> list[np.ndarray]:
    """ldmatrix .m8n8.b16: of each of num 8x8 matrices of 16-bit elements every lane gets two elements.

    rows     (P or 1, W, 8*num, 16) uint8: the 16 bytes at the addresses of each warp's lanes 0 .. 8*num - 1
    returns  num registers (P or 1, T) uint32: elements (lane // 4, 2 * (lane % 4)) in the lower and the one after it in
             the row in the upper half; trans exchanges row and column
    """
    P, W, _, _ = rows.shape
    matrices = _transposed(np.ascontiguousarray(rows).view("<u2").reshape(P, W, num, 8, 8), trans)
    registers = matrices.view("<u4").reshape(P, W, num, 32)
    return [registers[:, :, i].reshape(P, -1) for i in range(num)]


def byte_fragments(rows: np.ndarray) -> list[np.ndarray]:
    """ldmatrix .m16n16.trans.b8: of each 16x16 matrix of bytes every lane gets two registers of four.

    rows     (P or 1, W, 16 or 32, 16) uint8: the 16 bytes at the addresses of each warp's first lanes
    returns  two registers (P or 1, T) uint32 for each matrix: elements (4 * (lane % 4) + 0 .. 3, lane // 4), the first
             in the lowest byte, and those 8 columns on
    """
    P, W, num, _ = rows.shape
    turned = np.ascontiguousarray(rows.reshape(P, W, num // 16, 16, 16).swapaxes(3, 4))
    registers = turned.view("<u4").reshape(P, W, num // 8, 32)
    return [registers[:, :, i].reshape(P, -1) for i in range(num // 8)]


def rows_of(registers: list[np.ndarray], trans: bool) -> np.ndarray:
    """stmatrix .m8n8.b16, the inverse of fragments: (P or 1, W, 8*num, 16) uint8; W is 1 if no register varies."""
    stacked = np.stack(np.broadcast_arrays(*by_warp(*registers)), axis=2)
    P, W, num, _ = stacked.shape
    matrices = _transposed(np.ascontiguousarray(stacked).view("<u2").reshape(P, W, num, 8, 8), trans)
    return matrices.view(np.uint8).reshape(P, W, 8 * num, 16)


def _transposed(matrices: np.ndarray, trans: bool) -> np.ndarray:
    return np.ascontiguousarray(matrices.swapaxes(3, 4)) if trans else matrices
