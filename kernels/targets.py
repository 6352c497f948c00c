"""Compile the decode kernels ahead of time for named GPUs, and read what the compiler made of them.

    python -m kvproof.kernels.targets                      a table of every target, dtype and head_dim that CI holds
    python -m kvproof.kernels.targets --sm 90 --dtype float16 --head-dim 64 80

Needs no GPU. What is compiled is what `decode_attention` launches: the same arguments, tile and warps, from
`launches`. Registers, stack and local memory are cuobjdump's; the rest is counted in nvdisasm's listing of the cubin.
"""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton

from .decode_attention import Launch, launches
from .ptx.compile import compile
from .workspace import workspace

SM = (75, 80, 90, 100)
HEAD_DIMS = (32, 64, 128)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.int32: "i32",
}


class Report(NamedTuple):
    """What one kernel costs on one target, per thread unless said otherwise."""

    sm: int
    kernel: str
    dtype: str
    head_dim: int
    tile: str  # R x ROWS cache rows in flight, by so many warps
    registers: int
    stack: int  # bytes
    local: int  # bytes
    spills: int  # instructions that store to or load from local memory, anywhere in the kernel
    barriers: int  # in the main loop
    shuffles: int  # in the main loop
    loads: tuple[int, ...]  # bits of each load of the main loop
    instructions: int  # of the main loop


def example_launches(dtype: torch.dtype, head_dim: int, T: int = 1024) -> list[Launch]:
    """The launches of a (2, 3, T, head_dim) cache, on tensors that have shapes and strides but no memory."""
    B, H = 2, 3
    q, out = (torch.empty(B, H, head_dim, dtype=dtype, device="meta") for _ in range(2))
    k, v = (torch.empty(B, H, T, head_dim, dtype=dtype, device="meta") for _ in range(2))
    lengths = torch.empty(B, dtype=torch.int32, device="meta")
    parts = workspace(B, H, T, head_dim, dtype, "meta")
    return launches(q, k, v, lengths, head_dim**-0.5, out, None, parts)


def compile_launch(launch: Launch, sm: int) -> dict[str, Any]:
    """One launch compiled for compute capability sm / 10: its "ttir", "ttgir", "llir" and "ptx" texts and its "cubin".

    Raises BackendError under the interpreter, which has nothing to compile.
    """
    return compile(launch.kernel, (), launch.arguments | launch.options, f"sm_{sm}").asm


def disassemble(cubin: bytes) -> tuple[list[str], list[str], dict[str, int]]:
    """A cubin -> its instructions, those of its main loop, and its REG, STACK and LOCAL."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        listing, usage = (
            subprocess.run([TOOLS / tool, flag, file.name], capture_output=True, text=True, check=True).stdout
            for tool, flag in (("nvdisasm", "-c"), ("cuobjdump", "-res-usage"))
        )
    instructions, labels = [], {}
    for line in listing.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line.strip()):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line.strip()):
            instructions.append(instruction[1])
    resources = {name: int(n) for name, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return instructions, main_loop(instructions, labels), resources


def main_loop(instructions: list[str], labels: dict[str, int]) -> list[str]:
    """The shortest stretch that a branch jumps back over and that loads from global memory."""
    loops = []
    for i, instruction in enumerate(instructions):
        target = re.search(r"\bBRA\b.*?(\.L_x_\d+)", instruction)
        if target and labels[target[1]] <= i:
            body = instructions[labels[target[1]] : i + 1]
            loops += [body] if count("LDG", body) else []
    assert loops, "a decode kernel without a loop that loads is not ours"
    return min(loops, key=len)


def count(opcode: str, instructions: list[str]) -> int:
    return sum(bool(re.search(rf"\b({opcode})\b", instruction)) for instruction in instructions)


def report(launch: Launch, sm: int) -> Report:
    """Compile one launch for one target and count."""
    instructions, loop, resources = disassemble(compile_launch(launch, sm)["cubin"])
    loads = [re.search(r"LDG\S*?\.(U8|U16|64|128)\b", x) for x in loop if count("LDG", [x])]
    bits = tuple(int(width[1].lstrip("U")) if width else 32 for width in loads)
    arguments, warps = launch.arguments, launch.options["num_warps"]
    rows = f"{arguments['R']}x{arguments['ROWS']}" if "R" in arguments else str(arguments["CHUNK"])
    return Report(
        sm=sm,
        kernel=launch.kernel.__name__,
        dtype=TYPES[arguments["out"].dtype],
        head_dim=arguments["D"],
        tile=f"{rows} w{warps}",
        registers=resources["REG"],
        stack=resources["STACK"],
        local=resources["LOCAL"],
        spills=count("STL|LDL", instructions),
        barriers=count("BAR", loop),
        shuffles=count("SHFL", loop),
        loads=bits,
        instructions=len(loop),
    )


def table_row(r: Report) -> str:
    loads = ", ".join(f"{r.loads.count(n)} of {n} bits" for n in sorted(set(r.loads), reverse=True))
    cells = (r.registers, r.stack, r.local, r.spills, r.barriers, r.shuffles, r.instructions)
    numbers = "".join(f"{n:>9}" for n in cells)
    return f"{r.sm:<4} {r.kernel:<14} {r.dtype:<5}{r.head_dim:>4}  {r.tile:<9}{numbers}  {loads}"


def main() -> None:
    description = "Compile the decode kernels for named GPUs, without one, and count what the machine code needs."
    parser = argparse.ArgumentParser(prog="python -m kvproof.kernels.targets", description=description)
    parser.add_argument("--sm", type=int, nargs="+", default=SM, help="compute capabilities, as in 90")
    parser.add_argument("--dtype", nargs="+", default=["float16", "bfloat16", "float32"])
    parser.add_argument("--head-dim", type=int, nargs="+", default=HEAD_DIMS)
    args = parser.parse_args()
    columns = "".join(f"{name:>9}" for name in ("regs", "stack", "local", "spills", "barriers", "shuffles", "instr"))
    print(f"{'sm':<4} {'kernel':<14} {'dtype':<5}{'D':>4}  {'tile':<9}{columns}  loads in the main loop")
    for sm in args.sm:
        for dtype in args.dtype:
            for head_dim in args.head_dim:
                for launch in example_launches(getattr(torch, dtype), head_dim):
                    print(table_row(report(launch, sm)), flush=True)


if __name__ == "__main__":
    main()
