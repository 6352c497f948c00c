"""mma.sync with block scaling, sm_120: each block along K of A and B has a scale, which lies in one thread of four.

Source: PTX ISA 8.7, section 9.7.14.3 (block scaling for mma.sync).
"""

import re
from typing import NamedTuple

import numpy as np

from ..collective import ALL_LANES, converge
from ..decode import Decoder, Run
from ..errors import UnknownOpcode
from ..floats import decode, encode
from ..parse import Instruction
from ..warp import by_warp
from .mma import fragments
from .numbers import of_four_bits, scales

OPCODE = re.compile(
    r"mma\.sync\.aligned\.m16n8k(32|64)\.row\.col\.kind::(mxf8f6f4|mxf4|mxf4nvf4)\.block_scale(?:\.scale_vec::([124])X)?"
    r"\.f32\.(\w+)\.(\w+)\.f32\.(ue8m0|ue4m3)"
)
# kind -> K, the types of A and B, and how many scales a row may have, with their type; the first if none is written
KINDS = {
    "mxf8f6f4": (32, {"e4m3", "e5m2"}, {(1, "ue8m0")}),
    "mxf4": (64, {"e2m1"}, {(2, "ue8m0")}),
    "mxf4nvf4": (64, {"e2m1"}, {(2, "ue8m0"), (4, "ue8m0"), (4, "ue4m3")}),
}


class Form(NamedTuple):
    """The parts of an opcode."""

    K: int
    a: str
    b: str
    number: int  # of scales of a row of A and a column of B
    kind: str  # of them


def form(opcode: str) -> Form:
    """Raises UnknownOpcode unless KINDS has it."""
    found = OPCODE.fullmatch(opcode)
    if found:
        K, inputs, known = KINDS[found[2]]
        number = int(found[3] or min(known)[0])
        if int(found[1]) == K and {found[4], found[5]} <= inputs and (number, found[6]) in known:
            return Form(K, found[4], found[5], number, found[6])
    raise UnknownOpcode(opcode, "it knows no mma with these shapes, types and scales")


def matrix(f: Form, kind: str, registers: list[np.ndarray], halves: int) -> np.ndarray:
    """A, or B transposed, (P, W, rows, K) of the registers of its fragment, as mma.py has them."""
    order = (2, 3, 1, 4, 0, 5)
    if kind != "e2m1":
        return fragments(kind, registers, (-1, halves), order, f.K)
    return of_four_bits(fragments("u8", registers, (-1, halves), order, f.K // 2).astype(np.uint8))


def of_rows(f: Form, register: np.ndarray, byte: int, thread: int, halves: int) -> np.ndarray:
    """The scales (P, W, rows, number): of row g + 8 * h those of lane 4 * g + thread + h, from a byte on."""
    (words,) = by_warp(register)
    bytes = np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape[:2], 8, 4, 4)
    part = bytes[..., thread : thread + halves, byte : byte + f.number]  # P, W, g, h, number
    return scales(part.swapaxes(2, 3).reshape(*words.shape[:2], 8 * halves, f.number), f.kind)


@np.errstate(invalid="ignore", over="ignore")
def product(f: Form, a: list, b: list, c: list, of_a: tuple, of_b: tuple) -> list[np.ndarray]:
    """D = (A scales) (B scales) + C: registers (P or 1, T), as mma.mma. of_a, of_b: register, byte and thread's number.

    Products and scales are exact, sums are float64's, rounded once to nearest even.
    """
    sides = []
    for kind, registers, (register, byte, thread), halves in ((f.a, a, of_a, 2), (f.b, b, of_b, 1)):
        s = of_rows(f, register, byte, thread * halves, halves)
        sides.append(matrix(f, kind, registers, halves) * np.repeat(s, f.K // f.number, axis=3))
    D = sides[0] @ sides[1].swapaxes(2, 3)
    P, W = D.shape[:2]
    parts = D.reshape(P, W, 2, 8, 4, 2).transpose(2, 5, 0, 1, 3, 4).reshape(4, P, W * 32)
    words = np.stack(np.broadcast_arrays(*c))
    T = max(words.shape[2], parts.shape[2])
    return list(encode(np.broadcast_to(parts, (4, P, T)) + decode(words, "f32"), "f32"))


def multiply(d: Decoder, i: Instruction) -> Run:
    f = form(i.opcode)
    result, a, b, c = (x.parts for x in i.operands[:4])
    puts = [d.result(x, "b32") for x in result]
    a, b, c = ([d.source(x, "b32")[0] for x in parts] for parts in (a, b, c))
    of_a, of_b = d.source(i.operands[4], "b32")[0], d.source(i.operands[6], "b32")[0]
    (byte_a, thread_a), (byte_b, thread_b) = ([x.bits for x in i.operands[n].parts] for n in (5, 7))
    assert (thread_a <= 1) & (thread_b <= 3)
    assert max(byte_a, byte_b) + f.number <= 4

    def run(block, active):
        converge(block, ALL_LANES, active, i)
        R, T = block.R, block.world.T
        whole = lambda slot: np.broadcast_to(R[slot], (len(R[slot]), T))  # noqa: E731
        A, B, C = ([whole(slot) for slot in slots] for slots in (a, b, c))
        found = product(f, A, B, C, (whole(of_a), byte_a, thread_a), (whole(of_b), byte_b, thread_b))
        for put, value in zip(puts, found, strict=True):
            put(R, value, active)

    return run
