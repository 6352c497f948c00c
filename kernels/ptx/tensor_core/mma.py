"""mma.sync: a warp multiplies two small matrices that lie in its registers, and adds a third."""

from typing import Any

import numpy as np

from ..collective import ALL_LANES, converge
from ..decode import Decoder, Run
from ..floats import FORMATS, decode
from ..matrix_forms import INTEGERS, form
from ..parse import Instruction
from ..warp import by_warp
from .numbers import added


@np.errstate(invalid="ignore", over="ignore")
def mma(opcode: str, a: list[np.ndarray], b: list[np.ndarray], c: list[np.ndarray]) -> list[np.ndarray]:
    """D = A B + C, once per warp, all of whose lanes execute it.

    a, b, c  the registers of each operand in order: bits (P or 1, T or 1), uint64 for f64, else uint32; or numbers,
             float64, and complex128 of pairs, all of C in the one or the other: then D is numbers, not rounded
    returns  the registers of D, likewise (P or 1, T), or (P or 1, 1) if no input varies along T

    Fragments, with g = lane // 4, t = lane % 4, E elements to a register (s8 4, f16 2, tf32 and f64 1), H = M / 8:
      A  register i, element e: row g + 8 * (i % H), column 4 * E * (i // H) + t * E + e
      B  register i, element e: row 4 * E * i + t * E + e, column g
      C  element i of a thread: row g + 8 * (i // 2), column 2 * t + i % 2
    Products are exact unless f64; sums are float64's, C included, and rounded once, to nearest even. PTX leaves open in
    which order the hardware sums and what it truncates meanwhile: a gate must allow for it. Of tf32 the lower 13 bits
    are ignored. Integers wrap, or are clamped with .satfinite. NaNs of f16 and f32 come out canonical.

    Raises UnknownOpcode. Source: PTX ISA 8.7, "Matrix multiply-accumulate operation using mma instruction".
    """
    M, K, a_type, b_type, c_type, satfinite = form(opcode)
    H = M // 8
    A = fragments(a_type, a, (-1, H), (2, 3, 1, 4, 0, 5), K)
    B = fragments(b_type, b, (-1, 1), (2, 3, 1, 4, 0, 5), K)  # transposed: its fragments are those of an A with 8 rows
    C = fragments(c_type, c, (H, -1), (2, 3, 0, 4, 5, 1), 8)
    D = A @ B.swapaxes(2, 3) + C
    D = D if c[0].dtype.kind in "fc" else added(D, None, c_type, satfinite)
    P, W = D.shape[:2]
    words = D.reshape(P, W, H, 8, 4, 2).view(c[0].dtype).transpose(2, 5, 0, 1, 3, 4).reshape(-1, P, W * 32)
    return list(words if any(register.shape[1] > 1 for register in (*a, *b, *c)) else words[..., :1])


def fragments(kind: str, registers: list, split: tuple[int, int], order: tuple[int, ...], columns: int) -> np.ndarray:
    """(P, W, rows, columns) float64: the numbers in registers whose axes (*split, P, W, g, t) are put in order."""
    words = np.stack(np.broadcast_arrays(*by_warp(*registers)))
    P, W = words.shape[1:3]
    words = np.ascontiguousarray(words.reshape(*split, P, W, 8, 4).transpose(order))
    if words.dtype.kind in "fc":
        values = words.view(np.float64)
    elif kind in INTEGERS:
        values = words.view(INTEGERS[kind])
    elif kind == "tf32":
        values = decode(words & np.uint32(0xFFFFE000), kind)
    else:
        values = decode(words.view(f"<u{FORMATS[kind].bits // 8}"), kind)
    return values.astype(np.float64).reshape(P, W, -1, columns)


def multiply(d: Decoder, i: Instruction) -> Run:
    """mma.sync: bound to its registers."""
    form(i.opcode)  # raises before the launch if it is none of its table
    result, *operands = (x.parts for x in i.operands)
    wide = ".f64" in i.opcode
    puts = [d.result(x, "b64" if wide else "b32") for x in result]
    a, b, c = ([d.source(x, "b64" if wide else "b32")[0] for x in parts] for parts in operands)

    def run(block, active):
        converge(block, ALL_LANES, active, i)
        R, T = block.R, block.world.T
        values: list[Any] = [[np.broadcast_to(R[s], (len(R[s]), T)) for s in part] for part in (a, b, c)]
        for put, value in zip(puts, mma(i.opcode, *values), strict=True):
            put(R, value, active)

    return run
