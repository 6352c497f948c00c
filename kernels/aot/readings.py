"""What each compiler made of a variant, and what one call of it executes: the rows of the committed table."""

import multiprocessing
import re
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from itertools import product
from typing import Any

import torch
from triton.backends.compiler import GPUTarget

from ..attention.launch import Launch
from ..ptx.compile import _compile, compile  # pyright: ignore[reportPrivateUsage]
from ..ptx.launch import route
from ..ptx.limits import LIMITS
from .machine_code import (
    ATOMIC,
    BARRIER,
    FENCE,
    LOCAL,
    ahead,
    count,
    disassemble,
    loads,
    packed,
    programs_per_sm,
)
from .table import Row
from .variants import VARIANTS, Variant, launches_of

LENGTHS = (128, 1024, 8192)
AMD = "gfx942"


def example_launches(dtype: torch.dtype, head_dim: int, T: int = 1024) -> list[Launch]:
    """The launches of one query head per KV head over T slots, on tensors that have shapes but no memory."""
    return launches_of(Variant(dtype, head_dim), B=2, H_kv=3, T=T)


def compile_launch(launch: Launch, sm: int) -> dict[str, Any]:
    """One launch compiled for compute capability sm / 10: its "ttir", "ttgir", "llir" and "ptx" texts and its "cubin".

    Raises Refused under the interpreter, which has nothing to compile.
    """
    return compile(launch.kernel, (), launch.arguments | launch.options, f"sm_{sm}").asm


def block_bytes(launch: Launch) -> int:
    """Bytes of keys and values in one block of a launch that attends."""
    cfg = launch.arguments["CFG"]
    return 2 * cfg.UNROLL * cfg.BLOCK_N * cfg.D_POW2 * launch.arguments["cache"].k.element_size()


def read_cuda(name: str, sm: int) -> Row:
    """Compile a variant for one of NVIDIA's GPUs and read its machine code."""
    (launch,) = found = launches_of(VARIANTS[name], sm)
    compiled = compile(launch.kernel, (), launch.arguments | launch.options, f"sm_{sm}")
    warps, cfg = compiled.num_warps, launch.arguments["CFG"]
    wide = block_bytes(launch) // (16 * 32 * warps)
    code = disassemble(compiled.asm["cubin"], wide)
    programs = programs_per_sm(sm, code.registers, warps, compiled.shared)
    blocks = max(1, cfg.STAGES - 1) if count("LDGSTS", code.loop) else 1
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
        per_slot=len(code.loop) * warps / (cfg.UNROLL * cfg.BLOCK_N),
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
    return _compile(GPUTarget("hip", AMD, 64), launch.kernel, (), launch.arguments | options, None)


def read_amd(name: str) -> Row:
    """Compile a variant's launches for AMD's MI300, in the form that fuses nothing: the largest number of each."""
    largest: dict[str, int] = {}
    found = launches_of(VARIANTS[name], fused=False)
    for launch in found:
        out = compile_for_amd(launch)
        facts = re.findall(r"\.(\w+):\s+(\d+)", out.asm["amdgcn"])
        for fact, value in [*facts, ("lds", out.metadata.shared)]:
            largest[fact] = max(largest.get(fact, 0), int(value))
    none = dict.fromkeys(("programs", "occupancy", "flight", "loop", "per_slot", "barriers", "wide", "packed"))
    return Row(
        variant=name,
        target=AMD,
        registers=largest["vgpr_count"],
        spills=largest["vgpr_spill_count"],
        stack=largest["private_segment_fixed_size"],
        local=0,
        shared=largest["lds"],
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
    found = {f"n{n}": reports[-1].total.instructions / (x.G * x.M * n)}
    if n == LENGTHS[1] and x.window is None:
        k = launch.arguments["cache"].k
        least = 2 * n * (x.D * k.element_size() + 4 * x.int8)
        partials = {f"partials.{field}" for field in launch.arguments["partials"]._fields}
        found["read"] = sum(size for at, size in reports[-1].unique.items() if at not in partials) / least
    return found


def task(work: tuple[str, str]) -> tuple[str, str, Any]:
    """A row of the table, or figures for one: what a process of its own does. "n=128" stands for a target."""
    name, target = work
    torch.set_num_threads(1)
    if target.startswith("n="):
        return name, target, count_executed(name, int(target[2:]))
    return name, target, read_amd(name) if target == AMD else read_cuda(name, int(target[3:]))


def measure(variants: list[str], targets: list[str], processes: int = 2) -> list[Row]:
    """The rows of these variants on these targets, in their order; with one process, measured in this one."""
    executed = [f"n={n}" for n in reversed(LENGTHS)] if "sm_90" in targets else []
    work = [(name, target) for target, name in product([*executed, *targets], variants)]
    with ExitStack() as stack:
        each: Any = map
        if processes > 1:
            context = multiprocessing.get_context("spawn")
            each = stack.enter_context(ProcessPoolExecutor(processes, mp_context=context)).map
        found = {(name, target): x for name, target, x in counted(each(task, work), len(work))}
    rows = [found[name, target] for name in variants for target in targets]
    return [
        row._replace(**{k: x for n in executed for k, x in found[row.variant, n].items()})
        if row.target == "sm_90"
        else row
        for row in rows
    ]


def counted(items: Iterable, total: int) -> Iterator:
    """The items; after five seconds a terminal shows how many there have been, on standard error."""
    start = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if sys.stderr.isatty() and time.monotonic() - start > 5:
            print(f"\r{done} of {total} compiled", end="\n" if done == total else "", file=sys.stderr, flush=True)
