"""What a compiler made of a kernel: its instructions, its main loop, and how many programs an SM holds.

cuobjdump gives the registers and the memory of each thread; the rest is counted in nvdisasm's listing of the cubin.
Both come with Triton.
"""

import re
import subprocess
import tempfile
from typing import NamedTuple

from ..ptx.compiled import TOOLS, usage
from ..ptx.limits import LIMITS, REGISTERS, reserved

BARRIER, LOAD = r"BAR|WARPSYNC\.ALL", r"LDG|LDGSTS"
PACKED = r"HFMA2|HADD2|HMUL2|HMNMX2|HFMA2_MMA"  # two halves at once, each rounded to 16 bits
ATOMIC, FENCE = r"ATOM|ATOMG|RED|REDG", r"MEMBAR"
LOCAL = r"STL|LDL"


class Code(NamedTuple):
    """One kernel's machine code."""

    instructions: list[str]
    loop: list[str]  # those of its main loop
    registers: int  # per thread
    stack: int  # bytes per thread
    local: int  # bytes per thread


def disassemble(cubin: bytes, wide: int = 1) -> Code:
    """Read a cubin of one kernel whose blocks are `wide` loads of 128 bits to a thread. CalledProcessError for none."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [TOOLS / "nvdisasm", "-c", file.name]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    instructions, labels = read_listing(listing)
    return Code(instructions, main_loop(instructions, labels, wide), *usage(cubin))


def read_listing(listing: str) -> tuple[list[str], dict[str, int]]:
    """nvdisasm's text -> the instructions, and by label the number of the instruction that it stands before."""
    instructions, labels = [], {}
    for line in listing.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line.strip()):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line.strip()):
            instructions.append(instruction[1])
    return instructions, labels


def main_loop(instructions: list[str], labels: dict[str, int], wide: int) -> list[str]:
    """Of the stretches that a branch jumps back over, the shortest that brings `wide` times 128 bits.

    A block of rows is `wide`. The loop over blocks at an edge brings as much and has more to do; the one that combines
    splits, which may bring as much, too, stands behind the atomic. Empty where there is none.
    """
    end = next((i for i, x in enumerate(instructions) if count(ATOMIC, [x])), len(instructions))
    loops = []
    for i, instruction in enumerate(instructions[:end]):
        target = re.search(r"\bBRA\b.*?(\.L_x_\d+)", instruction)
        if target and labels[target[1]] <= i:
            loops.append(instructions[labels[target[1]] : i + 1])
    loops = [body for body in loops if sum(bits for bits in loads(body) if bits >= 64) >= 128 * wide]
    return min(loops, key=len, default=[])


def count(opcodes: str, instructions: list[str]) -> int:
    """How many instructions have one of these opcodes, as in "LDG|LDGSTS"."""
    return sum(bool(re.match(rf"(@!?U?P\w+\s+)?({opcodes})\b", instruction)) for instruction in instructions)


def loads(instructions: list[str]) -> list[int]:
    """The bits that each load from global memory brings to a thread; to shared memory, too."""
    found = [re.search(rf"\b(?:{LOAD})\b\S*", x) for x in instructions]
    widths = [re.search(r"\.U?(8|16|64|128|256)\b", x[0]) for x in found if x]
    return [int(width[1]) if width else 32 for width in widths]


def packed(instructions: list[str]) -> int:
    """How many instructions compute with two halves at once: those that widen to float32 or set a constant do not."""
    return sum(count(PACKED, [x]) for x in instructions if ".F32" not in x and not re.search("-RZ, -?RZ", x))


def ahead(instructions: list[str]) -> int:
    """Loads of 128 bits or more that a loop sends off before it waits for the first of them.

    cp.async waits for none of its own block: all of its loads are ahead.
    """
    waiting: set[int] = set()
    sent = 0
    for instruction in instructions:
        if waiting & {int(r) for r in re.findall(r"\bR(\d+)\b", re.sub(r"^\S*\s*R\d+", "", instruction))}:
            return sent
        width = loads([instruction])
        if width and width[0] >= 128:
            sent += 1
            if count("LDG", [instruction]):
                register = int(re.findall(r"\bR(\d+)\b", instruction)[0])
                waiting |= set(range(register, register + width[0] // 32))
    return sent


def programs_per_sm(sm: int, registers: int, warps: int, shared: int) -> int:
    """Programs that one SM holds at once, by its registers (a warp takes them by 256), warps and shared memory."""
    limits = LIMITS[sm]
    by_registers = REGISTERS // (-(-registers // 8) * 8 * 32) // warps
    whole = shared + reserved(sm)
    by_shared = limits.shared // whole if whole else limits.programs
    return min(limits.programs, limits.warps // warps, by_registers, by_shared)
