"""Loads, stores and asynchronous copies. Source: PTX ISA, "Data Movement and Conversion Instructions"."""

import re
from collections.abc import Callable

import numpy as np

from . import parameters
from .arrays import first_of, near
from .decode import Decoder, Run, dtype, joined, unpack, width
from .errors import OutOfBounds, UnknownOpcode
from .forms import Form, address, form, parts_of
from .parse import Instruction
from .races import Access


def load(d: Decoder, i: Instruction) -> Run:
    f = form(i)
    if f.space == "param":
        if parameters.loads(i):
            return load_chosen(d, i, f)
        put = d.result(i.operands[0], f.kind)
        slot, _ = d.source(i.operands[1].base, f.kind)
        if i.operands[1].offset:
            raise UnknownOpcode(i.opcode, "a part of a parameter", i)
        to = dtype(f.kind)
        return lambda block, active: put(block.R, block.R[slot].astype(to), active)
    puts = [d.result(x, f.kind) for x in parts_of(i.operands[0])]
    where, part, read = address(d, i.operands[1], f.space), dtype(f.kind), LOAD[f.space]
    if f.space == "shared":
        d.granule = min(d.granule, f.size)

    def run(block, active):
        block.instruction = i
        unpack(block.R, read(block, where(block.R), f, active), part, puts, active)

    return run


def load_chosen(d: Decoder, i: Instruction, f: Form) -> Run:
    """ld.param by an address in a register. Raises OutOfBounds where no parameter begins at it."""
    put, to, where = d.result(i.operands[0], f.kind), dtype(f.kind), address(d, i.operands[1], "param")
    at = parameters.places(d.program.parameters)
    slots = {at[name]: d.slot(name) for name, _ in d.program.parameters}

    def run(block, active):
        block.instruction = i
        addresses = where(block.R)
        value, found = np.zeros((1, 1), to), np.zeros((1, 1), bool)
        for place, slot in slots.items():
            here = addresses == place
            if here.any():
                value, found = np.where(here, block.R[slot].astype(to), value), found | here
        missing = ~found if active is None else ~found & active
        if missing.any():
            raise block.error(OutOfBounds, "no parameter of the kernel begins at this address", *first_of(missing))
        put(block.R, value, active)

    return run


def load_global(block, at, f: Form, active):
    world = block.world
    at = world.memory.located(at, f.size, active, block)
    words = world.memory.load(at, f.size, block)
    if world.checks:
        note(block, "load", f, at, active)
    world.counters.accessed(block, at, f.size, active)
    return words


def load_shared(block, at, f: Form, active):
    words = block.shared.load(at, f.size, active, block.tags, block)
    block.world.counters.banks(block, at, f.size, active)
    return words


def note(block, kind: str, f: Form, at, active, value=None, sequence=None) -> None:
    """Keep what races.py needs to know of an access; `at` as `GlobalMemory.located` gives it."""
    order = f.order or ("relaxed" if kind == "atomic" else "")
    scope = f.scope or ("gpu" if order else "")
    T = block.world.T
    waited = np.broadcast_to(block.warp_epoch, (len(block.programs), T // 32)) if block.warp_epoch.any() else None
    who = (block.programs, at, f.size, active, T, block.epoch, waited)
    block.world.memory.log.append(Access(block.instruction, kind, order, scope, *who, value, sequence))


def store(d: Decoder, i: Instruction) -> Run:
    f = form(i)
    where = address(d, i.operands[0], f.space)
    sources = [d.source(x, f.kind) for x in parts_of(i.operands[1])]
    if f.space == "param":
        raise UnknownOpcode(i.opcode, "parameters are written for calls, which inline.py has replaced", i)
    write = STORE[f.space]
    if f.space == "shared":
        d.granule = min(d.granule, f.size)

    def run(block, active):
        block.instruction = i
        values = [block.R[slot] if narrow is None else narrow(block.R[slot]) for slot, narrow in sources]
        write(block, where(block.R), joined(values, f.size), f, active)

    return run


def store_global(block, at, words, f: Form, active) -> None:
    world, address = block.world, at
    at = world.memory.located(address, f.size, active, block)
    world.memory.store(at, words, f.size, active, block)
    if world.checks:
        on = True if active is None else active if f.size <= 8 else active[..., None]
        stays = np.where(on, world.memory.stored(at, f.size), words)
        # Copies of one value that differ in their last bits are counted and are no race.
        same = stays.shape == words.shape and not np.count_nonzero(stays != words)
        value = stays if same or near(stays, words, width(f.kind)) else words
        note(block, "store", f, at, active, value[..., None].view(np.uint8) if f.size <= 8 else value.view(np.uint8))
        world.counters.replicas(block, address, words, f.size)  # of threads that store nothing, too
    world.counters.accessed(block, at, f.size, active)


def store_shared(block, at, words, f: Form, active) -> None:
    lost = block.shared.store(at, words, f.size, width(f.kind), active, block.tags, block)
    block.world.counters.disagreeing += lost
    block.world.counters.banks(block, at, f.size, active)


LOAD: dict[str, Callable] = {
    "global": load_global, "shared": load_shared,
    "local": lambda block, at, f, active: block.local_memory().load(at, f.size, active, block),
}  # fmt: skip
STORE: dict[str, Callable] = {
    "global": store_global, "shared": store_shared,
    "local": lambda block, at, words, f, active: block.local_memory().store(at, words, f.size, active, block),
}  # fmt: skip


def copy_async(d: Decoder, i: Instruction) -> Run:
    """cp.async: from global to shared memory, complete at wait_group; bytes that are not copied become zeros."""
    if match := re.fullmatch(r"cp\.async\.(commit_group|wait_group|wait_all)", i.opcode):
        left = i.operands[0].bits if i.operands else 0
        if match[1] == "commit_group":
            return commit
        return lambda block, active: arrive(block, active, -1 if match[1] == "wait_all" else left)
    known = re.fullmatch(r"cp\.async\.(ca|cg)\.shared(::cta)?\.global(\.L2::\d+B)?", i.opcode)
    if not known:
        raise UnknownOpcode(i.opcode, "this form of cp.async", i)
    to, source = address(d, i.operands[0], "shared"), address(d, i.operands[1], "global")
    size = i.operands[2].bits
    taken = d.source(i.operands[3], "u32")[0] if len(i.operands) > 3 else None
    f = Form("global", "", "", "", 1, "b8", False)._replace(count=size)
    d.granule = min(d.granule, size)

    def run(block, active):
        block.instruction = i
        reads = active
        if taken is not None and not (block.R[taken] == size).all():
            if not np.isin(block.R[taken], (0, size)).all():
                raise UnknownOpcode(i.opcode, "copying a part of its bytes", i)
            reads = (block.R[taken] != 0) if active is None else active & (block.R[taken] != 0)
        words = load_global(block, source(block.R), f, reads)
        if reads is not None:
            words = np.where(reads if size <= 8 else reads[..., None], words, words.dtype.type(0))
        at = to(block.R)
        store_shared(block, at, words, f, active)
        if block.world.checks:
            block.shared.copying_to(at, size, active, block.tags, True)
        block.copies = [*block.copies, (at, size, np.ones((1, 1), bool) if active is None else active, block.commits)]

    return run


def commit(block, active) -> None:
    """What a thread has begun to copy since its last commit is a group."""
    block.commits = block.commits + block.warps(active)


def arrive(block, active, left: int) -> None:
    """All groups of each thread but its `left` latest are there; with -1 also what it has not committed yet."""
    on, under_way = np.ones((1, 1), bool) if active is None else active, []
    for at, size, copiers, group in block.copies:
        here = copiers & on & np.repeat(group + left < block.commits, 32, axis=1)
        if here.any() and block.world.checks:
            block.shared.copying_to(at, size, here, block.tags, False)
        if (copiers & ~here).any():
            under_way.append((at, size, copiers & ~here, group))
    block.copies = under_way


def policy(d: Decoder, i: Instruction) -> Run:
    """createpolicy: a hint for the cache, of which this machine has none."""
    put = d.result(i.operands[0], "b64")
    return lambda block, active: put(block.R, np.zeros((1, 1), np.uint64), active)


FAMILIES = {"ld": load, "st": store, "cp": copy_async, "createpolicy": policy}
