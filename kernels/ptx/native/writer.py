"""What the emitters of instructions are given as `w`: a program's registers and operands, as values of LLVM IR."""

from collections import Counter
from functools import reduce
from operator import or_
from typing import Any

from ..decode import ALONE, CLUSTER, Decoded
from ..errors import ParseError
from ..opcode import BITS
from ..syntax import Address, Immediate, Register, Symbol, Vector
from . import context as ctx
from . import ir
from .lanes import I1, I8, I32, I64, WARP, Lanes, vector
from .lower import Unlowered
from .plan import Plan

POINTER = ctx.POINTER
MEMORY = 15  # the word of a frame's head that has the address of what `waiting` tells of
EVERYBODY = I32(0xFFFFFFFF)
STACK = 1 << 18  # the most bytes that a warp's function may ask for


def kind_of(register: str) -> Any:
    if register not in BITS:
        raise Unlowered(f"registers of .{register}")
    return ir.IntType(BITS[register])


class Writer:
    """
    running  i32, the lanes that have come to the instruction; `on` those of them that execute it, guard included
    masking  where results take effect: <32 x i1>, i1, or None for everywhere; `guarding`, as far as the guard says
    recent   by slot, its value at the end of a trunk of blocks. One that is read elsewhere has a place: in the frame if
             it outlives a stop, by `offsets`, else on the stack, `slots`. What is stored there is written at the end
    waiting  slots, as bits, that lanes which wait at another instruction may still read. They lie in memory: of values
             that meet wherever lanes do LLVM makes very many, and takes long
    """

    on: Any
    running: Any
    step: Any
    n: int

    def __init__(self, decoded: Decoded, plan: Plan, T: int, module: ir.Module):
        self.decoded, self.plan, self.T = decoded, plan, T
        function = ir.Function(module, ir.FunctionType(I64, [POINTER, I32, POINTER]), "warp")
        self.function, (self.context, index, self.frame) = function, function.args
        self.warp = I32(0) if T == WARP else index
        self.entry = function.append_basic_block("entry")
        self.suspect = function.append_basic_block("suspect")
        self.b = ir.IRBuilder(self.entry)
        self.L = Lanes(self.b)
        self.names = {slot: name for name, slot in decoded.slots.items()}
        self.offsets: dict[int, int] = {}
        self.slots: dict[int, Any] = {}
        self.stores: list[tuple[int, Any, ir.Gap]] = []
        self.kinds: dict[int, Any] = {}
        self.addresses: dict[str, Any] = {}
        self.written: dict[int, Any] = {}
        self.read_again: set[int] = set()  # slots that are read outside of the trunk that they are written in
        self.rooms: dict[int, list[Any]] = {}  # by their bytes; `taken`, how many of them this instruction has
        self.taken: Counter[int] = Counter()
        self.masking: Any = None
        self.guarding: Any = None
        self.recent: dict[int, tuple[Any, Any]] = {}  # by slot, its value at the end of a trunk of blocks
        self.waiting = reduce(or_, (plan.live[n] for n in plan.starts if n in plan.groups), 0) & plan.varying
        self.stack = 256 * self.waiting.bit_count()  # bytes
        if self.waiting:
            self.memory = self.b.alloca(vector(I64), self.waiting.bit_count())
            self.b.store(self.memory, self.b.gep(self.frame, [I64(MEMORY)], source_etype=I64))  # so it is not registers

    def field(self, name: str) -> Any:
        return ctx.field(self.b, self.context, name)

    def pointer(self, name: str) -> Any:
        return ctx.pointer(self.b, self.context, name)

    @property
    def epoch(self) -> Any:
        return self.field("epoch")

    def room(self, size: int) -> Any:
        """So many bytes of stack memory, for this instruction alone."""
        rooms, n = self.rooms.setdefault(size, []), self.taken[size]
        self.taken[size] += 1
        if n == len(rooms):
            self.stack += size
            if self.stack > STACK:
                raise Unlowered(f"more than {STACK >> 10} KB of stack memory")
            rooms.append(self.b.alloca(I8, size, align=64))
        return rooms[n]

    def bail(self, condition: Any) -> None:
        """Return SUSPECT if it holds."""
        if isinstance(condition, ir.Constant) and not condition.constant:
            return
        on = self.b.behind("on")
        self.b.cbranch(condition, self.suspect, on)
        self.b.position_at_end(on)

    def give(self, condition: Any, value: Any) -> None:
        """Return a value if it holds."""
        back, on = self.function.append_basic_block("back"), self.b.behind("on")
        with self.b.goto_block(back):
            self.b.ret(value)
        self.b.cbranch(condition, back, on)
        self.b.position_at_end(on)

    def read(self, operand: Any, kind: str) -> Any:
        """An operand's value as of a PTX type: i<bits> where all lanes share it, else <32 x i<bits>>."""
        if isinstance(operand, Vector) and len(operand.parts) == 1:
            operand = operand.parts[0]
        bits = BITS[kind]
        if isinstance(operand, Immediate):
            return ir.IntType(bits)(operand.bits & (1 << bits) - 1)
        if isinstance(operand, Address):
            base = self.read(operand.base, kind)
            return self.b.add(base, self.L.const(base, operand.offset)) if operand.offset else base
        if isinstance(operand, Symbol):
            return self.given(self.decoded.slots[operand.name], bits)
        if not isinstance(operand, Register):
            raise ParseError(f"an operand that is no value: {operand}")
        name, dot, axis = operand.name.partition(".")
        name = CLUSTER.get(name, name) + dot + axis
        if name in self.decoded.given or self.decoded.slots[name] in self.decoded.undefined:
            return self.L.resize(self.special(name), bits)
        value = self.load(self.decoded.slots[name])
        if operand.negated:
            return self.b.not_(value)
        return self.L.resize(value, bits)

    def write(self, operand: Any, kind: str, value: Any) -> None:
        """Put a result into its register, in the lanes that execute."""
        if isinstance(operand, Vector) and len(operand.parts) == 1:
            operand = operand.parts[0]
        if isinstance(operand, Symbol) and operand.name == "_":
            return
        assert isinstance(operand, Register)  # as decode.py has found
        register = self.decoded.registers_of[operand.name]
        if kind != "pred":
            value = self.L.resize(value, BITS[register], kind[0] == "s")
        self.store(self.decoded.slots[operand.name], value)

    def slot_type(self, slot: int) -> Any:
        if slot not in self.kinds:
            name = self.names[slot]
            one = kind_of("pred" if name == "carry" else self.decoded.registers_of[name])
            self.kinds[slot] = vector(one) if self.plan.varying >> slot & 1 else one
        return self.kinds[slot]

    def place(self, slot: int) -> Any:
        """Where a slot's value lies outside of the trunk that it is written in; there are zeros first."""
        if slot in self.offsets:
            return self.b.gep(self.frame, [I64(self.offsets[slot])], source_etype=I8)
        if slot not in self.slots:
            with self.b.goto_block(self.entry):
                if self.waiting >> slot & 1:
                    n = (self.waiting & (1 << slot) - 1).bit_count()
                    self.slots[slot] = self.b.gep(self.memory, [I64(n)], source_etype=vector(I64))
                else:
                    self.slots[slot] = self.b.alloca(self.slot_type(slot))
                self.b.store(ir.Constant(self.slot_type(slot), None), self.slots[slot])
        return self.slots[slot]

    def settle(self) -> None:
        """Write the stores of values that are read."""
        for slot, value, gap in self.stores:
            if slot in self.read_again:
                self.b.fill(gap, lambda slot=slot, value=value: self.put(slot, value))

    def put(self, slot: int, value: Any) -> None:
        self.b.store(self.L.ballot(value) if value.type == vector(I1) else value, self.place(slot), align=1)

    def load(self, slot: int, sure: bool = False) -> Any:
        kind = self.slot_type(slot)
        if self.plan.doubtful >> slot & 1 and not sure:
            lacking = self.b.and_(self.on, self.b.not_(self.b.load(self.lanes_written(slot), typ=I32)))
            self.bail(self.b.icmp_unsigned("!=", lacking, I32(0)))
        trunk, value = self.recent.get(slot, (None, None))
        if trunk is None or not self.b.block.trunk.within(trunk):
            self.read_again.add(slot)
            mask = kind == vector(I1)
            value = self.b.load(self.place(slot), typ=I32 if mask else kind, align=1)
            value = self.L.mask(value) if mask else value
            self.recent[slot] = self.b.block.trunk, value
        return value

    def store(self, slot: int, value: Any) -> None:
        kind = self.slot_type(slot)
        if isinstance(kind, ir.VectorType):
            value = self.L.splat(value)
        elif isinstance(value.type, ir.VectorType):
            value = self.L.lane(value, 0)
        where = self.masking if self.waiting >> slot & 1 else self.guarding
        if where is not None and (isinstance(kind, ir.VectorType) or where.type == I1):
            value = self.b.select(where, value, self.load(slot, True))
        self.stores.append((slot, value, self.b.gap()))
        self.recent[slot] = self.b.block.trunk, value
        self.note_written(slot, self.on)

    def lanes_written(self, slot: int) -> Any:
        """Where it is kept in which lanes a slot is written that may be read before."""
        if slot in self.offsets:
            return self.b.gep(self.frame, [I64(self.offsets[slot] - 64)], source_etype=I8)
        if slot not in self.written:
            with self.b.goto_block(self.entry):
                self.written[slot] = self.b.alloca(I32)
                self.b.store(I32(0), self.written[slot])
        return self.written[slot]

    def note_written(self, slot: int, lanes: Any) -> None:
        if self.plan.doubtful >> slot & 1:
            place = self.lanes_written(slot)
            self.b.store(self.b.or_(self.b.load(place, typ=I32), lanes), place)

    def given(self, slot: int, bits: int) -> Any:
        """What the launch fills in: a parameter, an address, bits that nothing defines."""
        if slot in self.decoded.fixed:
            return ir.IntType(bits)(int(self.decoded.fixed[slot].flat[0]) & (1 << bits) - 1)
        trunk, value = self.recent.get(slot, (None, None))
        if trunk is None or not self.b.block.trunk.within(trunk):
            place = self.b.gep(self.fixed("given"), [I64(slot)], source_etype=I64)
            value = self.b.load(place, typ=I64, invariant=True)
            self.recent[slot] = self.b.block.trunk, value
        return self.L.resize(value, bits)

    def fixed(self, name: str) -> Any:
        """A field that is an address and stays, loaded once."""
        if name not in self.addresses:
            with self.b.goto_block(self.entry):
                self.addresses[name] = self.pointer(name)
        return self.addresses[name]

    def special(self, name: str) -> Any:
        kind, _, axis = name.partition(".")
        lanes = self.L.row(I32, range(WARP))
        if kind == "%laneid":
            return lanes
        if kind == "%tid":
            first = self.b.mul(self.warp, I32(WARP))
            return self.b.add(lanes, self.L.splat(first)) if axis == "x" else I32(0)
        if kind == "%warpid":
            return self.warp
        if kind == "%nwarpid" or kind in ALONE:
            return I32(ALONE.get(kind, self.T // WARP))
        if kind == "%ntid":
            return I32(self.T if axis == "x" else 1)
        if kind in ("%ctaid", "%nctaid"):
            return self.b.trunc(self.field(f"{'grid' if kind == '%nctaid' else 'ctaid'}_{axis}"), I32)
        slot = self.decoded.slots[name]
        register = self.decoded.registers_of.get(name, "b32")
        return self.given(slot, 1 if register == "pred" else BITS[register])
