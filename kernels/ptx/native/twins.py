"""Code that carries a shadow: beside each instruction what shadow/twins.py has noted, in float64.

A twin has slots of 64 bits, as a register does, two of a pair. Code is written twice: without roundings, for launches
that keep none, and with them, where a byte for each instruction says whether its own is kept.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from ..matrix_forms import form
from ..shadow.acts import RAW, Act, Number, twins
from ..shadow.formats import HALF
from ..shadow.functions import differs
from . import ir, matrices, numpy_loops, twin_cells, twin_moves
from .context import POINTER
from .flow import Warp
from .frames import RESUME
from .integers import shift
from .lanes import F64, I8, I32, I64, WARP, begun, spelled, vector
from .matrices import ROW
from .traced import Traced, exact
from .twin_cells import CHOICE, ERRORS, GIVEN, KEEPS, NOTED
from .warp import among, permuted, source


class Twins(Warp):
    """Writes the code of one warp with its shadow.

    rounds  whether launches may keep roundings
    """

    def __init__(self, *arguments: Any, rounds: bool):
        super().__init__(*arguments)
        self.rounds, self.acts = rounds, self.decoded.followed.acts

    def begin(self) -> None:
        resumed = self.b.or_(self.head(RESUME), self.b.zext(self.warp, I64))
        with self.b.if_then(self.b.icmp_unsigned("==", resumed, I64(0))):
            self.L.call("twins_reset", I64, self.context)
        super().begin()

    def family(self, opcode: str) -> Any:
        found = super().family(opcode)
        return found and (lambda w, i: w.followed(i, partial(found, w, i)))

    def pure(self, i: Any) -> None:
        self.followed(i, partial(super().pure, i))

    def followed(self, i: Any, emit: Any) -> None:
        """An instruction, between what is done before it and after."""
        rules = [RULES[act.how](self, i, act) for act in self.acts.get(self.n, ())]
        for rule in rules:
            next(rule)
        emit()
        for rule in rules:
            next(rule, None)

    @property
    def shadow(self) -> Any:
        return self.fixed("shadow")

    def word(self, n: int) -> Any:
        """An address of the launch's record of its shadow, see twin_cells.py."""
        return self.b.load(self.L.at(self.shadow, n, I64), typ=POINTER)

    def twin(self, x: Number) -> Traced:
        """What a number is in float64."""
        if not x.twin:
            return self.own(x)
        slots = [self.decoded.slots[name] for name in twins(x.operand.name, x.kind)]
        return Traced(self.L, *(self.L.number(self.load(slot)) for slot in slots))

    def own(self, x: Number) -> Traced:
        """The number itself."""
        if x.value is not None:
            one = x.value.reshape(-1)[0]
            return Traced(self.L, *map(F64, map(float, [one.real, one.imag][: 1 + (x.kind in HALF)])))
        bits = self.read(x.operand, x.kind)
        return Traced(self.L, bits) if x.kind in RAW else exact(self.L, bits, x.kind)

    def carry(self, target: Number, value: Traced) -> None:
        for name, part in zip(twins(target.operand.name, target.kind), value.parts, strict=True):
            self.store(self.decoded.slots[name], self.L.bits(part))

    def shaped(self, target: Number, x: Traced) -> Traced:
        """A twin in the shape of its register."""
        varying = self.plan.varying >> self.decoded.slots[target.operand.name] & 1
        return Traced(self.L, *(self.L.splat(p) if varying else self.L.lane(p, 0) for p in x.parts))

    def among(self, holds: Any) -> Any:
        """i1: whether a predicate holds for a lane that executes the instruction."""
        some = self.b.icmp_unsigned("!=", self.on, I32(0))
        return self.b.and_(self.L.any(among(self, holds)), some)

    def note(self, holds: Any, bit: int) -> None:
        """Note a bit of the instruction where something, i1, holds."""
        place = self.L.at(self.word(NOTED), self.n, I8)
        self.b.store(self.b.or_(self.b.load(place, typ=I8), self.b.select(holds, I8(bit), I8(0))), place)

    def keeps(self) -> Any:
        """i1: whether the rounding of the instruction is kept."""
        return self.b.icmp_unsigned("!=", self.b.load(self.L.at(self.word(KEEPS), self.n, I8), typ=I8), I8(0))

    def rounded(self, values: list[Traced], entered: Any) -> list[Traced]:
        """Values, or what `entered` gives in their place where the instruction's rounding is kept."""
        return self.where(self.keeps(), entered, values) if self.rounds else values

    def where(self, holds: Any, then: Any, values: list[Traced]) -> list[Traced]:
        """Values, or what `then` gives, in the same shapes, where something, i1, holds."""
        before, on, after = self.b.block, self.b.inside("on"), self.b.behind("after")
        self.b.cbranch(holds, on, after)
        self.b.position_at_end(on)
        others = then()
        last = self.b.block
        self.b.branch(after)
        self.b.position_at_end(after)
        joined = []
        for one, other in zip(values, others, strict=True):
            joined.append(Traced(self.L, *(self.b.phi(p.type) for p in one.parts)))
            for phi, *parts in zip(joined[-1].parts, one.parts, other.parts, strict=True):
                for part, block in zip(parts, (before, last), strict=True):
                    phi.add_incoming(part, block)
        return joined

    def rounding(self, *parts: Any) -> Any:
        """A twin with the rounding of its instruction: of the twin, the own result, and what is computed for it."""
        value, own, result = self.L.alike(*parts)
        place = self.L.at(self.word(ERRORS), self.n, I64)
        return self.L.call(f"twins.rounded.{spelled(value.type)}", value.type, value, own, result, self.on, place)


def followed(w: Twins, act: Act, function: Any) -> Iterator[None]:
    """Compute the twins of an act's targets, by `function` of its numbers."""
    values = function(*map(w.twin, act.numbers))
    own = [w.own(x) for x in act.numbers] if w.rounds else []
    yield

    def entered() -> list[Traced]:
        results, rounded = map(w.own, act.targets), function(*own)
        each = [zip(*(x.parts for x in three), strict=True) for three in zip(values, results, rounded, strict=True)]
        kept = (Traced(w.L, *(w.rounding(*parts) for parts in x)) for x in each)
        return [w.shaped(*x) for x in zip(act.targets, kept, strict=True)]

    values = [w.shaped(*x) for x in zip(act.targets, values, strict=True)]
    for target, value in zip(act.targets, w.rounded(values, entered), strict=True):
        w.carry(target, value)


def compute(w: Twins, i: Any, act: Act) -> Iterator[None]:
    return followed(w, act, act.f)


def choose(w: Twins, i: Any, act: Act) -> Iterator[None]:
    (holds,) = differs(act.f, [w.twin(x) for x in act.numbers], [w.own(x) for x in act.numbers]).parts
    w.note(w.among(holds), CHOICE)
    yield


def stand(w: Twins, i: Any, act: Act) -> Iterator[None]:
    yield
    for target in act.targets:
        own = w.own(target)
        w.carry(target, own * float("nan") if act.facts[0] and w.n in w.decoded.followed.lost else own)


def give(w: Twins, i: Any, act: Act) -> Iterator[None]:
    yield
    (target,), names = act.targets, [name for name, kind in w.decoded.parameters if kind in ("f32", "f64")]
    own = w.shaped(target, w.own(target))
    if act.facts[0] in names:
        number = w.b.load(w.L.at(w.word(GIVEN), names.index(act.facts[0]), F64), typ=F64)
        (own,) = w.rounded([w.shaped(target, Traced(w.L, number))], lambda: [own])
    w.carry(target, own)


def shuffle(w: Twins, i: Any, act: Act) -> Iterator[None]:
    def moved(x: Traced, b: Traced, c: Traced) -> list[Traced]:
        place, _ = source(w.L, i.opcode.split(".")[2], *b.parts, *c.parts)
        if isinstance(place.type, ir.VectorType) and not isinstance(place, ir.Constant):
            return [Traced(w.L, *(halves(p, place) for p in x.parts))]
        return [Traced(w.L, *(permuted(w.L, p, place) for p in x.parts))]

    def halves(x: Any, place: Any) -> Any:
        bits = w.L.bits(x)
        low, high = (permuted(w.L, w.L.resize(y, 32), place) for y in (bits, shift(w.L, "lshr", bits, 32)))
        return w.L.number(w.b.or_(w.L.resize(low, 64), shift(w.L, "shl", w.L.resize(high, 64), 32)))

    return followed(w, act, moved)


def multiply(w: Twins, i: Any, act: Act) -> Iterator[None]:
    M, K, a, b, *_ = form(i.opcode)
    H, A, B = M // 8, len(i.operands[1].parts), len(i.operands[2].parts)
    room = w.room(64 * (H + 1) * K)

    def product(*x: Traced) -> list[Traced]:
        for n, value in enumerate(x[: A + B]):
            kind, m = (a, n) if n < A else (b, n - A)
            step = 4 * (64 if kind == "f64" else 32) // matrices.width(kind)  # rows of a register
            row = m % H * K + m // H * step if n < A else H * K + m * step
            words = [w.L.splat(p) for p in value.parts]
            name = f"matrices.widen.{kind}" if act.numbers[n].kind in RAW else f"twins.widen.{len(words)}"
            w.L.call(name, ir.VoidType(), *words, w.L.at(room, row, ROW))
        C = [w.L.bits(w.L.splat(p)) for y in x[A + B :] for p in y.parts]
        sums = matrices.sums(w.L, "f64", H, K, room, C)
        D = [w.L.number(w.L.pick(sums, range(WARP * n, WARP * (n + 1)))) for n in range(2 * H)]
        pairs = act.numbers[-1].kind in HALF
        return [Traced(w.L, *x) for x in (zip(D[::2], D[1::2], strict=True) if pairs else zip(D, strict=True))]

    return followed(w, act, product)


def rounded(module: Any, kind: Any) -> None:
    """(twins, own results, what was computed, the lanes that count, place): the twins with the roundings, of which the
    largest in units of its result goes to the place."""
    name = f"twins.rounded.{spelled(kind)}"
    L, (value, own, result, on, place) = begun(module, name, kind, *[kind] * 3, I32, POINTER)
    b = L.b
    error = b.fsub(own, result)
    error = b.select(b.fcmp_unordered("uno", error, error), L.const(error, 0), error)
    relative = b.fdiv(*(L.intrinsic("fabs", x) for x in (error, b.fadd(own, b.fmul(L.const(own, 0), result)))))
    counts = b.fcmp_ordered("<", relative, L.const(relative, float("inf")))
    counts = b.and_(counts, L.mask(on) if kind != F64 else b.icmp_unsigned("!=", on, I32(0)))
    bits = L.bits(b.select(counts, relative, L.const(relative, 0)))
    most = L.intrinsic("vector.reduce.umax", bits, kind=I64) if kind != F64 else bits
    b.store(L.intrinsic("umax", most, b.load(place, typ=I64)), place)
    b.ret(b.fadd(value, error))


def widen(module: Any, E: int) -> None:
    """(the E numbers of a register of A or B, where): write them as rows, as matrices.widen does."""
    L, (*values, place) = begun(module, f"twins.widen.{E}", ir.VoidType(), *[vector(F64)] * E, POINTER)
    for t in range(4):
        for e, x in enumerate(values):
            L.b.store(L.pick(x, [4 * g + t for g in range(8)]), L.at(place, t * E + e, ROW), align=8)
    L.b.ret_void()


RULES = twin_moves.RULES | {
    "compute": compute, "choose": choose, "stand": stand, "give": give, "shuffle": shuffle, "multiply": multiply,
}  # fmt: skip
RUNTIME = twin_cells.RUNTIME | numpy_loops.WIDE | {f"twins.widen.{E}": partial(widen, E=E) for E in (1, 2)}
RUNTIME |= {f"twins.rounded.{spelled(kind)}": partial(rounded, kind=kind) for kind in (F64, vector(F64))}
