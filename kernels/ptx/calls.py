"""What a kernel calls that no PTX defines: vprintf, behind device_print, and __assertfail, behind device_assert.

Source: CUDA C++ programming guide, "Formatted Output" and "Assertion"; C11 7.21.6.1 for the conversions.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from .decode import Decoder, Run
from .errors import AssertionFailed, OutOfBounds, Uninitialised
from .parse import Instruction
from .printed import LINES

CONVERSION = re.compile(r"%([-+ #0]*)(\d*)(\.\d*)?(hh|h|ll|l|j|z|t)?([diouxXcsfFeEgGaAp%])")


def text_at(memory: Any, address: int) -> str:
    """The string that ends in a zero byte, in one of the module's variables."""
    at = int(memory.segments.located(np.full((1, 1), address, np.uint64), None, 0)[0, 0])
    if at < 0:
        return "?"
    end = at + int(np.argmax(memory.bytes[at : at + (1 << 16)] == 0))
    return memory.bytes[at:end].tobytes().decode("utf-8", "replace")


def size_of(conversion: re.Match) -> int:
    """Bytes that a conversion takes of the arguments: floats are doubles, what is short is an int."""
    wide = conversion[5] in "fFeEgGaAps" or conversion[4] in ("l", "ll", "j", "z", "t")
    return 0 if conversion[5] == "%" else 8 if wide else 4


def converted(conversion: re.Match, bits: int, memory: Any) -> str:
    """One value, `bits` of size_of's many bytes, as C would print it."""
    flags, width, precision, length, kind = (part or "" for part in conversion.groups())
    size = size_of(conversion)
    if kind == "%":
        return "%"
    if kind == "p":
        real = int(memory.segments.back(np.array([bits], np.uint64))[0])
        return f"{real:#x}".rjust(int(width or 0))
    if kind == "s":
        return f"%{flags}{width}{precision}s" % (text_at(memory, bits) if bits else "(null)")
    if kind == "c":
        return f"%{flags}{width}c" % (bits & 0xFF)
    if kind in "fFeEgGaA":
        value = float(np.array(bits, np.uint64).view(np.float64))
        if kind in "aA":
            return value.hex().rjust(int(width or 0))
        return f"%{flags}{width}{precision}{kind}" % value
    short = {"hh": 8, "h": 16}.get(length, 8 * size)
    value = bits & (1 << short) - 1
    if kind in "di" and value >> short - 1:
        value -= 1 << short
    if kind == "o" and "#" in flags:
        return f"%{width}s" % f"0{value:o}"
    return f"%{flags}{width}{precision}{'d' if kind in 'diu' else kind}" % value


def vprintf(d: Decoder, i: Instruction) -> Run:
    put = d.result(i.operands[0], "b32")
    form, given = (d.source(x, "b64")[0] for x in i.operands[1:])

    def run(block, active):
        block.instruction = i
        R, P, T = block.R, len(block.programs), block.world.T
        on = np.flatnonzero(np.broadcast_to(True if active is None else active, (P, T)))
        forms = np.broadcast_to(R[form], (P, T)).reshape(-1)[on]
        for address in np.unique(forms).tolist():
            here = np.zeros((P, T), bool)
            here.flat[on[forms == address]] = True
            lines(block, text_at(block.world.memory, address), R[given], here)
        put(R, np.zeros((1, 1), np.uint32), active)

    return run


def lines(block: Any, text: str, given: np.ndarray, here: np.ndarray) -> None:
    """Print a format once per thread of `here`, and once for all threads of a program that print the same.

    A conversion without an argument prints "(no value)": for hex=True Triton passes floats as doubles.
    """
    columns, missing, at = [block.programs[np.nonzero(here)[0]].astype(np.uint64)], set(), 0
    for n, conversion in enumerate(CONVERSION.finditer(text)):
        size = size_of(conversion)
        at = -(-at // max(size, 1)) * max(size, 1)
        words = np.zeros((1, 1), np.uint64)
        try:
            words = block.local_memory().load(given + np.uint64(at), size, here, block) if size else words
        except (OutOfBounds, Uninitialised):
            missing.add(n)
        columns.append(np.broadcast_to(words, here.shape)[here].astype(np.uint64))
        at += size
    rows = np.stack(columns, axis=1)
    rows = rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]
    printed, memory = block.world.printed, block.world.memory
    shown = []
    for _, *values in rows[: max(LINES - len(printed.lines), 0)].tolist():
        each = iter(enumerate(values))

        def one(conversion: re.Match, each=each) -> str:
            n, bits = next(each)
            return "(no value)" if n in missing else converted(conversion, bits, memory)

        shown.append(CONVERSION.sub(one, text))
    printed.add(shown, len(rows) - len(shown))


def assertfail(d: Decoder, i: Instruction) -> Run:
    kinds = ("b64", "b64", "b32", "b64")
    message, file, line, _ = (d.source(x, kind)[0] for x, kind in zip(i.operands, kinds, strict=True))

    def run(block, active):
        block.instruction = i
        P, T, memory = len(block.programs), block.world.T, block.world.memory
        first = int(np.argmax(np.broadcast_to(True if active is None else active, (P, T))))
        lane = lambda slot: int(np.broadcast_to(block.R[slot], (P, T)).flat[first])  # noqa: E731
        words, name, number = map(lane, (message, file, line))
        place = (Path(text_at(memory, name)).name, number)
        at = "" if place in i.where else f" ({place[0]}:{place[1]})"
        raise block.error(AssertionFailed, f"a device_assert fails: {text_at(memory, words)}{at}", *divmod(first, T))

    return run


FAMILIES = {"vprintf": vprintf, "__assertfail": assertfail}
