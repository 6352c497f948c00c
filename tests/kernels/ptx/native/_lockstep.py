"""Memory instructions compiled one by one, and the same in NumPy form: accesses of several warps between barriers.

In NumPy form all warps do the first access, then all the second; compiled code runs one warp after the other.
"""

import ctypes
from collections import Counter
from types import SimpleNamespace
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np

from kvproof.kernels.ptx.assemble import assemble
from kvproof.kernels.ptx.block import Block, World
from kvproof.kernels.ptx.counters import Counters, Traffic
from kvproof.kernels.ptx.errors import PtxError
from kvproof.kernels.ptx.forms import form
from kvproof.kernels.ptx.native import context, ir, programs, shared
from kvproof.kernels.ptx.native.frames import Frames
from kvproof.kernels.ptx.native.lanes import I32, I64, Lanes, vector
from kvproof.kernels.ptx.printed import Printed

HEAD = """.version 8.7
.target sm_80
.address_size 64
.visible .entry k()
{
.reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<40>; .reg .b64 %rd<20>;
"""
SLOTS = 64
SCALARS = ("%r30", "%r31", "%rd9")  # the same in all lanes
POINTER = context.POINTER


def decoded_of(lines: list[str]) -> Any:
    return assemble(HEAD + "\n".join(lines) + "\nret;\n}\n")._replace(undefined={}, live=[-1] * (len(lines) + 2))


class One(Frames):
    """Writes a function that executes one instruction: (context, warp, frame, registers (SLOTS, 32) u64, lanes)."""

    def __init__(self, decoded: Any, n: int, T: int, module: ir.Module):  # pyright: ignore[reportMissingSuperCall]
        kinds = [POINTER, I32, POINTER, POINTER, I32]
        self.function = ir.Function(module, ir.FunctionType(I64, kinds), f"step_{n}")
        self.context, index, self.frame, self.registers, self.on = self.function.args
        self.decoded, self.n, self.T, self.step = decoded, n, T, decoded.steps[n]
        self.warp, self.running = I32(0) if T == 32 else index, self.on
        self.entry, self.suspect = (self.function.append_basic_block(x) for x in ("entry", "suspect"))
        self.b = ir.IRBuilder(self.entry)
        self.L = Lanes(self.b)
        self.rooms, self.taken, self.stack = {}, Counter(), 0
        i = self.step.instruction
        after = self.function.append_basic_block("after")
        with self.b.goto_block(after):
            self.emit(i)
            self.b.ret(I64(0))
        with self.b.goto_block(self.suspect):
            self.b.ret(I64(context.SUSPECT))
        self.b.branch(after)

    def emit(self, i: Any) -> None:
        parts = i.opcode.split(".")
        name = next(x for n in (3, 2, 1) if (x := ".".join(parts[:n])) in shared.LOWER)
        shared.LOWER[name](self, i)

    def load(self, slot: int, sure: bool = False) -> Any:
        name = next(x for x, s in self.decoded.slots.items() if s == slot)
        kind = ir.IntType(int(self.decoded.registers_of[name][1:]))
        there = self.b.gep(self.registers, [I64(32 * slot)], source_etype=I64)
        if name in SCALARS:
            return self.L.resize(self.b.load(there, typ=I64), kind.width)
        return self.L.resize(self.b.load(there, typ=vector(I64), align=8), kind.width)

    def store(self, slot: int, value: Any) -> None:
        there = self.b.gep(self.registers, [I64(32 * slot)], source_etype=I64)
        old = self.b.load(there, typ=vector(I64), align=8)
        wide = self.L.resize(self.L.splat(value), 64)
        self.b.store(self.b.select(self.L.mask(self.on), wide, old), there, align=8)


def compiled(decoded: Any, T: int) -> Any:
    module, helpers = ir.Module("steps"), ir.Module("runtime")
    for n in range(len(decoded.steps) - 1):
        One(decoded, n, T, module)
    for define in (shared.RUNTIME | programs.RUNTIME).values():
        define(helpers)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten() + ",-prefer-256-bit"
    target = llvm.Target.from_default_triple().create_target_machine(llvm.get_host_cpu_name(), features, opt=1)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
    for part in (module, helpers):
        parsed = llvm.parse_assembly(str(part))
        parsed.verify()
        builder = llvm.create_pass_builder(target, llvm.create_pipeline_tuning_options(1))
        passes = llvm.create_new_function_pass_manager()
        for name in ("add_sroa_pass", "add_instruction_combine_pass", "add_simplify_cfg_pass"):
            getattr(passes, name)()
        for function in parsed.functions:
            if not function.is_declaration:
                passes.run(function, builder)
        engine.add_module(parsed)
    engine.finalize_object()
    return engine


class Did(NamedTuple):
    """One instruction of all threads: its index, (T,) bool of those that execute it, and registers by name (T,)."""

    n: int
    on: np.ndarray
    registers: dict[str, np.ndarray]
    barrier: str = ""  # passed after it: "", "program" or "warp"


class Native:
    """The record of one program, and the machine code of a decoded program's instructions."""

    def __init__(self, decoded: Any, T: int, size: int):
        self.decoded, self.T, self.size, self.engine = decoded, T, size, compiled(decoded, T)
        step = ctypes.CFUNCTYPE(
            ctypes.c_int64, ctypes.c_void_p, ctypes.c_int32, *[ctypes.c_void_p] * 2, ctypes.c_uint32
        )
        self.steps = [step(self.engine.get_function_address(f"step_{n}")) for n in range(len(decoded.steps) - 1)]
        self.reset_code = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(
            self.engine.get_function_address("shared_reset")
        )
        self.state = shared.state(1, size, decoded.granule, T // 32)
        self.traffic = np.zeros((len(decoded.steps), context.TRAFFIC), np.int64)
        self.record = np.zeros(len(context.FIELDS), np.int64)
        self.frames = np.zeros((T // 32, 16), np.int64)
        for name, array in (self.state | {"traffic": self.traffic}).items():
            self.put(name, array.ctypes.data)
        facts = {"shared_size": size, "shared_cells": size // decoded.granule, "warps": T // 32}
        for name, value in facts.items():
            self.put(name, value)

    def put(self, name: str, value: int) -> None:
        self.record[context.FIELDS.index(name)] = value

    def reset(self) -> None:
        self.traffic[:] = self.frames[:] = 0
        self.put("epoch", 0)
        self.reset_code(self.record.ctypes.data)

    def run(self, history: list[Did]) -> list[dict[str, np.ndarray]] | None:
        """What the registers hold after each, or None if it is suspicious."""
        self.reset()
        found: list[dict[str, np.ndarray]] = [{} for _ in history]
        whole = ("program",) if self.T > 32 else ("program", "warp")  # a warp's barrier is that of a program of one
        epochs = np.cumsum([0] + [d.barrier in whole for d in history])[:-1]
        for epoch in range(int(epochs[-1]) + 1):
            here = np.flatnonzero(epochs == epoch)
            self.put("epoch", epoch)
            for warp in range(self.T // 32):
                for k in here:
                    if not self.step(history[k], warp, found[k]):
                        return None
                    self.frames[warp, 1] += history[k].barrier == "warp" and self.T > 32
        return found

    def step(self, d: Did, warp: int, found: dict[str, np.ndarray]) -> bool:
        lanes = slice(32 * warp, 32 * warp + 32)
        ballot = int((d.on[lanes] << np.arange(32)).sum())
        if not ballot:
            return True
        registers = np.zeros((SLOTS, 32), np.uint64)
        for name, value in d.registers.items():
            registers[self.decoded.slots[name]] = value[lanes]
        status = self.steps[d.n](
            self.record.ctypes.data, warp, self.frames[warp].ctypes.data, registers.ctypes.data, ballot
        )
        for name, slot in self.decoded.slots.items():
            if self.decoded.steps[d.n].writes >> slot & 1:
                found.setdefault(name, np.zeros(self.T, np.uint64))[lanes] = registers[slot]
        return status == 0


def lockstep(decoded: Any, T: int, size: int, history: list[Did]) -> tuple[Any, list[dict[str, np.ndarray]] | PtxError]:
    """The NumPy form: a block, and what the registers hold after each, or what it raises."""
    registers: list = [None] * len(decoded.slots)
    for slot, value in decoded.fixed.items():
        registers[slot] = value
    counters = Counters(decoded, T)
    memory: Any = SimpleNamespace()
    world = World(decoded, memory, counters, registers, (1, 1, 1), T, size, True, None, Printed(False), False, {}, {})
    block, found = Block(world, np.arange(1)), []
    for d in history:
        step = decoded.steps[d.n]
        for name, value in d.registers.items():
            kind = np.dtype(f"u{int(decoded.registers_of[name][1:]) // 8}")
            block.R[decoded.slots[name]] = value.astype(kind)[None, : 1 if name in SCALARS else None]
        for name, slot in decoded.slots.items():
            if step.writes >> slot & 1:
                block.R[slot] = np.zeros((1, T), f"u{int(decoded.registers_of[name][1:]) // 8}")
        try:
            if d.on.any():
                step.run(block, None if d.on.all() else d.on[None])
        except PtxError as error:
            return block, error
        names = [name for name, slot in decoded.slots.items() if step.writes >> slot & 1]
        found.append({x: np.broadcast_to(block.R[decoded.slots[x]], (1, T))[0].astype(np.uint64) for x in names})
        if d.barrier == "program" or (d.barrier and T == 32):
            block.barrier_passed()
        elif d.barrier:
            block.warp_epoch = block.warp_epoch + 1
            block.retag()
    return block, found


def compare(native: Native, history: list[Did]) -> str:
    """ "raised", "suspicious" or "same"; nothing else may be."""
    block, want = lockstep(native.decoded, native.T, native.size, history)
    got = native.run(history)
    if isinstance(want, PtxError) or block.world.counters.disagreeing:
        assert got is None, f"nothing was found, where {want}"
        return "raised"
    if got is None:
        return "suspicious"
    for d, a, b in zip(history, got, want, strict=True):
        for name in b if d.on.any() else ():
            mine = a.get(name, np.zeros(native.T, np.uint64))
            assert np.array_equal(mine[d.on], b[name][d.on]), (native.decoded.steps[d.n].instruction, name)
    written = np.repeat(block.shared.written[0], native.decoded.granule)
    assert np.array_equal(native.state["shared_bytes"][0][written], block.shared.bytes[0][written])
    counters = {n: traffic for n, traffic in block.world.counters.shared.items() if traffic.operations}
    assert counters == {n: x for n in range(len(native.steps)) if (x := counted(native, n)).operations}
    return "same"


def counted(native: Native, n: int) -> Traffic:
    _, _, threads, wavefronts, conflicts = native.traffic[n].tolist()
    i = native.decoded.steps[n].instruction
    if not threads:
        return Traffic()
    size = i.operands[2].bits if i.opcode.startswith("cp.async") else form(i).size
    return Traffic(threads * size, 0, wavefronts, conflicts, threads)
