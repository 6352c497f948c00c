"""PTX text -> Decoded: every instruction bound, and the ways that control may take between them."""

import re
from functools import lru_cache, reduce
from typing import Any

import numpy as np

from . import access, atomics, calls, collective, isa
from .asynchronous import instructions, proxy
from .decode import Decoded, Decoder, Run, Step, any_bits, dtype
from .errors import ParseError, UnknownOpcode
from .floats import Approximation
from .parse import Immediate, Instruction, parse
from .paths import liveness
from .shadow.twins import Follower
from .tensor_core import families, in_flight
from .termination import weights
from .tma import maps, plain
from .uncollected import uncollected

MEETS = re.compile(r"\.global|^mbarrier\.")
FAMILIES = [part.FAMILIES for part in (maps, plain, proxy, instructions, collective, families, access, atomics, calls)]
TOGETHER = {**collective.FAMILIES, **families.FAMILIES}
CLUSTER = 16  # the number of the barrier of a cluster of one program: those of a program are 0 to 15


def nothing(block, active) -> None:
    pass


# What works beside the threads, or orders a part of them.
ASYNCHRONOUS = re.compile(
    r"(cp\.async\.)?mbarrier\.|cp\.(reduce\.)?async\.bulk|wgmma\.|tcgen05\.|fence\.proxy\.async|barrier\.cluster"
)


def control(i: Instruction, labels: dict[str, int]) -> tuple[str | None, int]:
    """The machine's method for an instruction that steers, and where it leads."""
    parts = i.opcode.split(".")
    if parts[0] == "bra" and parts[1:] in ([], ["uni"]):
        return "branch", labels[i.operands[0].name]
    if i.opcode in ("ret", "ret.uni", "exit"):
        return "leave", 0
    if i.opcode == "trap":
        return "trap", 0
    if parts[0] in ("bar", "barrier") and "warp" not in parts:
        kind = [p for p in parts[1:] if p not in ("cta", "aligned")]
        if kind[:2] == ["cluster", "wait"]:  # of a cluster of one program
            return "barrier", CLUSTER
        if kind[:2] == ["cluster", "arrive"]:
            return None, 0
        if kind not in (["sync"], ["arrive"]) or not all(isinstance(x, Immediate) for x in i.operands):
            raise UnknownOpcode(i.opcode, "barriers in registers, and those that reduce, are not known", i)
        if kind == ["arrive"] and len(i.operands) < 2:
            raise UnknownOpcode(i.opcode, "an arrival must say how many threads its barrier is for", i)
        number, threads = ([x.bits for x in i.operands] + [0, 0])[:2]
        if not 0 <= number < CLUSTER or threads % 32 or threads < 0:
            raise ParseError(f"barrier {number} for {threads} threads: 0 to 15 have a number, whole warps a count", i)
        return "barrier" if kind == ["sync"] else "arrival", i.operands[0].bits if i.operands else 0
    return None, 0


def builder(opcode: str, families: dict[str, Any]) -> Any:
    """What a table of families has for an instruction, by up to three parts of its opcode, as many as fit; or None."""
    parts = opcode.split(".")
    return next((families[name] for n in (3, 2, 1) if (name := ".".join(parts[:n])) in families), None)


def together(i: Instruction) -> bool:
    """Whether all lanes of a warp, or several warps, execute it at once."""
    return bool(builder(i.opcode, TOGETHER)) or i.opcode.startswith("tensormap.cp_fenceproxy")


@lru_cache(maxsize=1 << 12)
def known(opcode: str) -> Any:
    return next((found for family in FAMILIES if (found := builder(opcode, family))), None)


def bind(d: Decoder, i: Instruction) -> Run:
    if found := known(i.opcode):
        return found(d, i)
    if i.opcode.split(".")[0] == "mov" and len(i.operands) == 2:
        return d.move(i)
    if isa.IDLE.match(i.opcode):
        return nothing
    return d.pure(i)


def guarded(run: Run, slot: int, negated: bool, results: dict[int, np.dtype]) -> Run:
    """Run an instruction only where its guard holds.

    results  the registers that it writes; where the guard holds for no thread they get any bits, as on a GPU
    """

    def nobody(block):
        for result, kind in results.items():
            if block.R[result] is None:
                block.R[result] = any_bits(kind)

    def chosen(block, active):
        on = ~block.R[slot] if negated else block.R[slot]
        if np.count_nonzero(on) < on.size:
            active = on if active is None else active & on
            if not np.count_nonzero(active):
                return nobody(block)
        return run(block, active)

    return chosen


def step(d: Decoder, i: Instruction, labels: dict[str, int], follow: Any = None) -> Step:
    d.reads = d.writes = 0
    guard = None
    try:
        steers, target = control(i, labels)
        run = nothing if steers else bind(d, i)
        run = run if steers or follow is None else follow(i, run)
        if i.guard is not None:
            slot = d.source(i.guard._replace(negated=False), "pred")[0]
            guard = (slot, i.guard.negated)
    except UnknownOpcode as error:
        if error.line is not None:
            raise
        raise UnknownOpcode(error.opcode or i.opcode, error.why, i) from None
    except ParseError as error:
        raise ParseError(error.what, i) from None
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise ParseError("operands that do not fit the instruction", i) from None
    if guard and not steers:
        names = [*d.slots]
        written = [x for x in range(d.writes.bit_length()) if d.writes >> x & 1 and names[x] != "carry"]
        run = guarded(run, *guard, {x: dtype(d.kind(names[x])) for x in written})
        d.reads |= d.writes  # what the guard leaves out keeps its old value
    threads = i.operands[1].bits if steers in ("barrier", "arrival") and len(i.operands) > 1 else 0
    return Step(i, run, d.reads, d.writes, steers, guard if steers else None, target, threads)


@lru_cache(maxsize=64)  # about 1 MB for each thousand instructions
@uncollected()
def assemble(
    text: str, ulps: int = 0, seed: int = 0, stops: bool = False, shadow: tuple[tuple, tuple, bool] | None = None
) -> Decoded:
    """Bind a PTX module's kernel.

    ulps, seed  move approximate functions by up to `ulps` last places, drawn from `seed`
    stops       end straight code before every access to global memory and to an mbarrier, so that others can come in
    shadow      what a shadow.launch.Asked begins with; None: registers have no twins

    Raises ParseError and UnknownOpcode, with the line, before anything runs.
    """
    program = parse(text)
    for family, why in isa.REFUSED.items():  # names the reason better than their helpers, which come first
        for i in program.instructions:
            if i.opcode.startswith(family):
                raise UnknownOpcode(i.opcode, why, i)
    d = Decoder(program, Approximation(seed, ulps) if ulps else None)
    follow = None if shadow is None else Follower(d, *shadow)
    steps = [step(d, i, program.labels, follow) for i in program.instructions]
    accesses = {n for n, s in enumerate(steps) if MEETS.search(s.instruction.opcode)}
    faulty, steps = steps, in_flight.guarded(steps, d.slots)
    faulty = frozenset(n for n, s in enumerate(steps) if s is not faulty[n])
    # A warp-wide instruction with a guard may have to wait for lanes, alone of those that all threads come to.
    waits = any(s.instruction.guard and together(s.instruction) for s in steps)
    labels = set(program.labels.values())
    meets = straight(steps, accesses | labels)
    usual = labels if waits else {s.target for s in steps if s.control == "branch"}
    end = meets if stops else straight(steps, usual)
    always = sum(1 << slot for name, slot in d.slots.items() if name not in program.registers)
    blank = reduce(lambda bits, s: bits | s.reads, steps, 0) & ~reduce(lambda bits, s: bits | s.writes, steps, always)
    undefined = {d.slots[name]: dtype(kind) for name, kind in program.registers.items() if name in d.slots}
    undefined = {slot: kind for slot, kind in undefined.items() if blank >> slot & 1}
    index = {id(s.instruction): n for n, s in enumerate(steps)}
    given = {x: slot for x, slot in d.slots.items() if x not in program.registers and slot not in d.fixed}
    shared = sum(-(-size // 16) * 16 for size in program.shared.values())
    live = liveness(steps, [s.reads for s in steps])
    asynchronous = any(s.threads or ASYNCHRONOUS.match(s.instruction.opcode) for s in steps)
    return Decoded(
        steps, d.slots, given, d.fixed, program.parameters, program.constants, index, end, weights(steps), live,
        always, d.granule, program.local, shared, asynchronous, undefined,
        program.registers, follow and follow.followed(), faulty, meets,
    )  # fmt: skip


def straight(steps: list[Step], starts: set[int]) -> list[int]:
    """Where straight code ends, from each instruction on: at the next control, at one of `starts`, or at the end."""
    end = [len(steps)] * (len(steps) + 1)
    for n in range(len(steps) - 1, -1, -1):
        end[n] = n if steps[n].control else n + 1 if n + 1 in starts else end[n + 1]
    return end
