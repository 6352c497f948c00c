"""What each compiler made of a variant, and what one call of it executes: the rows of the committed table."""

import re
from typing import Any

import torch
from triton.backends.compiler import GPUTarget

from ..attention.launch import Launch
from ..ptx.compile import _compile, _seen, compile  # pyright: ignore[reportPrivateUsage]
from ..ptx.launch import route
from .gates import Row
from .machine_code import (
    ATOMIC,
    BARRIER,
    FENCE,
    LIMITS,
    LOCAL,
    ahead,
    count,
    disassemble,
    loads,
    packed,
    programs_per_sm,
)
from .variants import VARIANTS, Variant, launches_of

LENGTHS = (128, 1024, 8192)
AMD = "gfx942"


def example_launches(dtype: torch.dtype, head_dim: int, T: int = 1024) -> list[Launch]:
    """The launches of one query head per KV head over T slots, on tensors that have shapes but no memory."""
    return launches_of(Variant(dtype, head_dim), B=2, H_kv=3, T=T)


def compile_launch(launch: Launch, sm: int) -> dict[str, Any]:
    """One launch compiled for compute capability sm / 10: its "ttir", "ttgir", "llir" and "ptx" texts and its "cubin".

    Raises BackendError under the interpreter, which has nothing to compile.
    """
    return compile(launch.kernel, (), launch.arguments | launch.options, f"sm_{sm}").asm


def block_bytes(launch: Launch) -> int:
    """Bytes of keys and values in one block of a launch that attends."""
    how = launch.arguments["HOW"]
    return 2 * how.R * how.ROWS * how.D_POW2 * launch.arguments["cache"].k.element_size()


def read_cuda(name: str, sm: int) -> Row:
    """Compile a variant for one of NVIDIA's GPUs and read its machine code."""
    (launch,) = found = launches_of(VARIANTS[name], sm)
    compiled = compile(launch.kernel, (), launch.arguments | launch.options, f"sm_{sm}")
    warps, how = compiled.num_warps, launch.arguments["HOW"]
    wide = block_bytes(launch) // (16 * 32 * warps)
    code = disassemble(compiled.asm["cubin"], wide)
    programs = programs_per_sm(sm, code.registers, warps, compiled.shared)
    blocks = max(1, how.STAGES - 1) if count("LDGSTS", code.loop) else 1
    flight = min(ahead(code.loop) * 16 * 32 * warps, block_bytes(launch)) * blocks * programs
    return Row(
        variant=name,
        target=f"sm_{sm}",
        registers=code.registers,
        spills=count(LOCAL, code.instructions),
        stack=code.stack,
        local=code.local,
        shared=compiled.shared,
        warps=warps,
        programs=programs,
        occupancy=100 * programs * warps // LIMITS[sm].warps,
        flight=flight // 1024,
        loop=len(code.loop),
        per_slot=len(code.loop) * warps / (how.R * how.ROWS),
        barriers=count(BARRIER, code.loop),
        wide=min(100, 100 * sum(bits >= 128 for bits in loads(code.loop)) // wide),
        packed=packed(code.loop),
        atomics=count(ATOMIC, code.instructions),
        fences=count(FENCE, code.instructions),
        launches=len(found),
    )


def compile_for_amd(launch: Launch) -> Any:
    """Triton's own compiler and linker for AMD, both in its wheel; caps on registers are for NVIDIA's alone."""
    options = {name: x for name, x in launch.options.items() if name != "maxnreg"}
    arguments = {name: _seen(x) for name, x in (launch.arguments | options).items()}
    return _compile(GPUTarget("hip", AMD, 64), launch.kernel, iter(()), arguments)


def read_amd(name: str) -> Row:
    """Compile a variant's launches for AMD's MI300, in the form that fuses nothing: the largest number of each."""
    told: dict[str, int] = {}
    found = launches_of(VARIANTS[name], fused=False)
    for launch in found:
        out = compile_for_amd(launch)
        facts = re.findall(r"\.(\w+):\s+(\d+)", out.asm["amdgcn"])
        for fact, value in [*facts, ("lds", out.metadata.shared)]:
            told[fact] = max(told.get(fact, 0), int(value))
    none = dict.fromkeys(("programs", "occupancy", "flight", "loop", "per_slot", "barriers", "wide", "packed"))
    return Row(
        variant=name,
        target=AMD,
        registers=told["vgpr_count"],
        spills=told["vgpr_spill_count"],
        stack=told["private_segment_fixed_size"],
        local=0,
        shared=told["lds"],
        warps=max(launch.options["num_warps"] for launch in found),
        atomics=None,
        fences=None,
        launches=len(found),
        **none,
    )


def count_executed(name: str, n: int) -> dict[str, float]:
    """What one call over n slots executes on sm_90, per token and query head; at n = 1024 what it reads, too."""
    x = VARIANTS[name]
    (launch,) = launches_of(x, B=1, H_kv=1, T=n, device="cpu")
    with route("sm_90", checks=n == LENGTHS[1]) as reports:  # only with checks does the machine know what was read
        launch.kernel[launch.grid](**launch.arguments, **launch.options)
    told = {f"n{n}": reports[-1].total.instructions / (x.G * x.M * n)}
    if n == LENGTHS[1] and x.window is None:
        k = launch.arguments["cache"].k
        least = 2 * n * (x.D * k.element_size() + 4 * x.int8)
        parts = {f"parts.{field}" for field in launch.arguments["parts"]._fields}
        told["read"] = sum(size for at, size in reports[-1].unique.items() if at not in parts) / least
    return told
