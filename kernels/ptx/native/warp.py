"""What the lanes of a warp do together, as LLVM IR: the functions of ../warp.py for one warp and the lanes that are on.

A warp whose lanes are not those that a member mask names, or one of whose lanes reads one that is off, is suspect.
"""

from collections.abc import Callable
from typing import Any

from ..forms import parts_of
from ..syntax import Instruction
from . import ir
from .floats import moved
from .integers import constant_bits
from .lanes import I1, I32, I64, WARP, Lanes, begun, vector
from .lower import Unlowered

ALL, NAN = 0xFFFFFFFF, 0x7FFFFFFF


def together(*kinds: str) -> Callable:
    """Makes a function (w, instruction) -> results of these types an emitter, which writes those that are named."""

    def emitter(results: Callable) -> Callable:
        def emit(w: Any, i: Instruction) -> None:
            check_members(w, w.read(i.operands[-1], "b32"))
            for target, kind, value in zip(parts_of(i.operands[0]), kinds, results(w, i), strict=False):
                w.write(target, kind, value)

        return emit

    return emitter


# What a lane that is off adds to a redux.
NEUTRAL = {
    "add.u32": 0, "add.s32": 0, "and.b32": -1, "or.b32": 0, "xor.b32": 0, "min.u32": -1, "max.u32": 0,
    "min.s32": 0x7FFFFFFF, "max.s32": 0x80000000,
}  # fmt: skip


def check_members(w: Any, mask: Any) -> None:
    """Every lane that is on must name all of these and no other, even one that the NumPy form would let come later."""
    if constant_bits(mask) is None or constant_bits(mask) != constant_bits(w.on):
        w.bail(w.L.any(among(w, w.b.icmp_unsigned("!=", *w.L.alike(mask, w.on)))))


def among(w: Any, holds: Any) -> Any:
    """A predicate, made false in the lanes that are off if it has lanes."""
    whole = not isinstance(holds.type, ir.VectorType) or constant_bits(w.on) == ALL
    return holds if whole else w.b.and_(holds, w.L.mask(w.on))


def fixed_source(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """The lane that one reads, and whether the one it asks for is in range: the pseudo code of shfl.sync."""
    clamp, segment = c & 31, c >> 8 & 31
    last = lane & segment | clamp & ~segment
    asked = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": lane & segment | b & ~segment}[mode]
    in_range = asked >= last if mode == "up" else asked <= last
    return asked if in_range else lane, in_range


def source(L: Lanes, mode: str, b: Any, c: Any) -> tuple[Any, Any]:
    """The lane that each lane reads, one number if it is the same, and whether the one it asks for is in range."""
    at, clamps = constant_bits(b), constant_bits(c)
    if at is not None and clamps is not None:
        lanes, holds = zip(*(fixed_source(mode, lane, at & 31, clamps) for lane in range(WARP)), strict=True)
        place = L.row(I32, lanes) if len(set(lanes)) > 1 else I32(lanes[0])
        return place, I1(1) if all(holds) else L.row(I1, holds)
    if mode == "idx" and clamps is not None and clamps & 0x1F1F == 31:
        return L.b.and_(b, L.const(b, 31)), I1(1)
    own = L.row(I32, range(WARP))
    b, clamp, segment = (L.b.and_(L.splat(x), L.const(own, 31)) for x in (b, c, L.b.lshr(c, L.const(c, 8))))
    rest = L.b.not_(segment)
    start = L.b.and_(own, segment)
    last = L.b.or_(start, L.b.and_(clamp, rest))
    asked = {
        "up": lambda: L.b.sub(own, b), "down": lambda: L.b.add(own, b), "bfly": lambda: L.b.xor(own, b),
        "idx": lambda: L.b.or_(start, L.b.and_(b, rest)),
    }[mode]()  # fmt: skip
    in_range = L.b.icmp_signed(">=" if mode == "up" else "<=", asked, last)
    return L.b.select(in_range, asked, own), in_range


@together("b32", "pred")
def shfl(w: Any, i: Instruction) -> Any:
    value, b, c = (w.read(x, "b32") for x in i.operands[1:4])
    place, in_range = source(w.L, i.opcode.split(".")[2], b, c)
    if constant_bits(w.on) != ALL:
        off = w.b.lshr(*w.L.alike(w.b.not_(w.on), place))
        w.bail(w.L.any(among(w, w.L.resize(off, 1))))
    return permuted(w.L, value, place), in_range


def permuted(L: Lanes, value: Any, place: Any) -> Any:
    """The value of the lane at a place, or at each lane's."""
    if not isinstance(value.type, ir.VectorType):
        return value
    if not isinstance(place.type, ir.VectorType):
        return L.b.extract_element(value, place)
    if isinstance(place, ir.Constant):
        shuffle = lambda x: L.b.shuffle_vector(x, ir.Constant(x.type, "undef"), place)  # noqa: E731
        return moved(L, shuffle, value)
    return L.call("warp_permuted", value.type, value, place)


def vote(w: Any, i: Instruction) -> Any:
    mode, holds = i.opcode.split(".")[2], w.read(i.operands[1], "pred")
    votes = w.b.and_(w.L.ballot(w.L.splat(holds)), w.on)
    if mode == "ballot":
        return (votes,)
    yes, some = w.b.icmp_unsigned("==", votes, w.on), w.b.icmp_unsigned("!=", votes, I32(0))
    return ({"all": yes, "any": some, "uni": w.b.or_(yes, w.b.not_(some))}[mode],)


@together("b32")
def redux(w: Any, i: Instruction) -> Any:
    """As in ../warp.py: integers, and floats as integers of which the negative ones are mirrored."""
    name, *variants, kind = i.opcode.removeprefix("redux.sync.").split(".")
    operation = f"{name}.s32" if kind == "f32" else f"{name}.{kind}"
    if operation not in NEUTRAL:
        raise Unlowered(i.opcode)
    value = w.L.splat(w.read(i.operands[1], "b32"))
    neutral = w.L.const(value, NEUTRAL[operation])
    nan = None
    if kind == "f32":
        value = w.b.and_(value, w.L.const(value, NAN)) if "abs" in variants else value
        nan = is_nan(w.L, value)
        value = w.b.select(nan, neutral, mirrored(w.L, value))
    value = value if constant_bits(w.on) == ALL else w.b.select(w.L.mask(w.on), value, neutral)
    sign = operation.partition(".")[2][0] if name in ("min", "max") else ""
    result = w.L.intrinsic(f"vector.reduce.{sign}{name}", value, kind=I32)
    if nan is None:
        return (result,)
    result = mirrored(w.L, result)
    none = is_nan(w.L, result)
    none = w.b.or_(none, w.L.any(among(w, nan))) if "NaN" in variants else none
    return (w.b.select(none, I32(NAN), result),)


def is_nan(L: Lanes, x: Any) -> Any:
    return L.b.icmp_unsigned(">", L.b.and_(x, L.const(x, NAN)), L.const(x, 0x7F800000))


def mirrored(L: Lanes, x: Any) -> Any:
    return L.b.xor(x, L.b.lshr(L.b.ashr(x, L.const(x, 31)), L.const(x, 1)))


@together("b32", "pred")
def elect(w: Any, i: Instruction) -> Any:
    leader = w.L.intrinsic("cttz", w.on, extra=(I1(0),))
    return leader, w.b.icmp_unsigned("==", w.L.row(I32, range(WARP)), w.L.splat(leader))


@together("b32", "pred")
def match(w: Any, i: Instruction) -> Any:
    _, mode, _, kind = i.opcode.split(".")
    value = w.L.splat(w.read(i.operands[1], kind))
    if mode == "any":
        same = w.L.call("warp_matched", vector(I32), w.L.resize(value, 64), w.on)
        return same, w.b.icmp_unsigned("==", same, w.L.splat(w.on))
    one = w.b.extract_element(value, w.L.intrinsic("cttz", w.on, extra=(I1(0),)))
    agree = w.b.not_(w.L.any(among(w, w.b.icmp_unsigned("!=", value, w.L.splat(one)))))
    return w.b.select(agree, w.on, I32(0)), agree


def warp_permuted(module: Any) -> None:
    """(value, place of each lane) -> the values there."""
    L, (value, place) = begun(module, "warp_permuted", *[vector(I32)] * 3)
    b, room, result = L.b, L.b.alloca(value.type), value
    b.store(value, room)
    for n in range(WARP):
        at = b.gep(room, [b.extract_element(place, I32(n))], source_etype=I32)
        result = b.insert_element(result, b.load(at, typ=I32), I32(n))
    b.ret(result)


def warp_matched(module: Any) -> None:
    """(value, lanes that are on) -> for each lane, those of them that hold its value."""
    L, (value, on) = begun(module, "warp_matched", vector(I32), vector(I64), I32)
    b, result = L.b, ir.Constant(vector(I32), None)
    for n in range(WARP):
        same = b.icmp_unsigned("==", value, L.splat(L.lane(value, n)))
        result = b.insert_element(result, b.and_(L.ballot(same), on), I32(n))
    b.ret(result)


RUNTIME = {f.__name__: f for f in (warp_permuted, warp_matched)}
LOWER: dict[str, Callable] = {
    "shfl.sync": shfl, "vote.sync": together("pred")(vote), "vote.sync.ballot": together("b32")(vote),
    "redux.sync": redux, "elect.sync": elect, "match.any": match, "match.all": match,
    "activemask": lambda w, i: w.write(i.operands[0], "b32", w.on),
}  # fmt: skip
