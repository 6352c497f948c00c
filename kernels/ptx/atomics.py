"""Atomics and fences: the instructions by which threads of several programs learn of each other.

Source: PTX ISA, "Parallel Synchronization and Communication Instructions".
"""

from collections.abc import Callable

import numpy as np

from . import isa
from .access import note
from .arrays import broadcast
from .decode import Decoder, Run, width
from .errors import UnknownOpcode
from .forms import SCOPES, Form, address, form, parts_of
from .parse import Instruction

# (old, b, c) -> new; the others are those of the instruction of that name in isa.py.
OPERATIONS: dict[str, Callable] = {
    "exch": lambda old, b: b,
    "cas": lambda old, b, c: np.where(old == b, c, old),
    "inc": lambda old, b: np.where(old >= b, np.zeros_like(old), old + old.dtype.type(1)),
    "dec": lambda old, b: np.where((old == 0) | (old > b), b, old - old.dtype.type(1)),
}


def atomic(d: Decoder, i: Instruction) -> Run:
    """atom, and red, which returns nothing."""
    f = form(i)
    if not f.operation or f.space not in ("global", "shared") or (f.count > 1 and f.space == "shared"):
        raise UnknownOpcode(i.opcode, "this operation, on this memory", i)
    kind = f.kind if f.operation not in ("and", "or", "xor") else f"b{width(f.kind)}"
    function = OPERATIONS.get(f.operation) or isa.semantics(f"{f.operation}.{kind}", None).function
    returns = i.opcode.startswith("atom")
    puts = [d.result(x, f.kind) for x in parts_of(i.operands[0])] if returns else []
    operands = i.operands[1:] if returns else i.operands
    where = address(d, operands[0], f.space)
    # By element of the vector, which the instruction takes one by one (9.7.13.5).
    given = operands[1 : len(operands) - f.policy]
    sources = list(zip(*([d.source(x, f.kind) for x in parts_of(y)] for y in given), strict=True))
    assert len(sources) == f.count == (len(puts) or f.count)
    d.granule = min(d.granule, f.size) if f.space == "shared" else d.granule
    f = f._replace(scope=f.scope or "gpu")

    def run(block, active):
        block.instruction = i
        world, R = block.world, block.R
        P, T = len(block.programs), world.T
        on = in_turn(block, active, P, T)
        flat = lambda x: broadcast(x, (P, T)).reshape(-1)[on]  # noqa: E731
        at = world.memory.located(where(R), f.size, active, block) if f.space == "global" else where(R)
        old = []
        for n, element in enumerate(sources):
            values = [flat(R[slot] if narrow is None else narrow(R[slot])) for slot, narrow in element]
            old.append(change(block, at, n, flat, values, function, f, on, active))
        if f.space == "global":
            if world.checks:
                note(block, "atomic", f, at, active, sequence=on)
            world.counters.accessed(block, at, f.size, active)
        for put, words in zip(puts, old, strict=False):
            whole = np.zeros(P * T, words.dtype)
            whole[on] = words
            put(R, whole.reshape(P, T), active)

    return run


def in_turn(block, active, P: int, T: int) -> np.ndarray:
    """The threads that execute, in the order in which they do: by program, or random; of the flattened (P, T)."""
    on = np.arange(P * T) if active is None else np.flatnonzero(broadcast(active, (P, T)))
    if block.world.random is not None:
        return block.world.random.permutation(on)
    if (block.programs[1:] < block.programs[:-1]).any():  # programs that have met on their ways
        return on[np.argsort(block.programs[on // T], kind="stable")]
    return on


def change(block, at, n: int, flat, values, function, f: Form, on, active) -> np.ndarray:
    """Change the n-th element of what lies at each thread's address; returns the old ones."""
    if f.space == "shared":
        return block.shared.atomic(at, flat(at), values, function, f.size, on, active, block.tags, block)
    size = f.size // f.count
    return block.world.memory.atomic(at + n * size, flat, values, function, size, block)


def fence(d: Decoder, i: Instruction) -> Run:
    """fence, membar: orders a thread's accesses around it, for the threads that synchronise with it."""
    parts = i.opcode.split(".")[1:]
    scopes = [{"gl": "gpu"}.get(p, p) for p in parts if p not in ("sc", "acq_rel")]
    if len(scopes) != 1 or scopes[0] not in SCOPES:
        raise UnknownOpcode(i.opcode, "this kind of fence", i)
    f = Form("global", "acq_rel", scopes[0], "", 1, "b32", False)

    def run(block, active):
        block.instruction = i
        if block.world.checks:
            note(block, "fence", f, np.zeros((1, 1), np.int64), active)

    return run


FAMILIES = {"atom": atomic, "red": atomic, "fence": fence, "membar": fence}
