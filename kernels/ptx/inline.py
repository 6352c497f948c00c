"""Calls, replaced by what they call: each site gets the function's body, with names of its own.

Source: PTX ISA 5.1.6 (the .param space of calls), 7.1 (functions), 9.7.12.5 (call), 6.4.1 (generic addresses).
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from .errors import ParseError, UnknownOpcode
from .parameters import addressed, loads
from .syntax import Address, Function, Immediate, Instruction, Program, Register, Symbol, Vector

GENERIC = re.compile(r"(ld|st)((?:\.v[248])?\.[busf]\d+)$")  # loads and stores that name no state space
DEVICE = {"vprintf": (64, 64), "__assertfail": (64, 64, 32, 64)}  # what calls.py executes -> bits of its parameters


class Inliner:
    """Gathers the instructions of a kernel and of what it calls."""

    def __init__(self, called: Callable[[str], Function | None]):
        self.called = called
        self.instructions: list[Instruction] = []
        self.labels: dict[str, int] = {}
        self.registers: dict[str, str] = {}
        self.local = self.sites = 0
        self.given: set[str] = set()  # elements of parameters that have been set for a call, or by it

    def add(self, f: Function, names: dict[str, Any], base: int, callers: tuple[tuple[str, Any], ...] = ()) -> None:
        """Append a function's body.

        names    of its parameters and results -> those of the caller
        base     where its local memory begins
        callers  (name, where) of each function under way, the latest last
        """
        mark = f"@{self.sites}" if self.sites else ""
        where = tuple(place for _, at in reversed(callers) for place in at)
        end, top = f"{f.name}.end{mark}", base
        names = names | ({name: Symbol(name + mark) for name in f.labels} if mark else {})
        names |= {name: Register(name + mark) for name in f.registers if mark or name[0] != "%"}
        for name, size in f.local.items():
            names, top = names | {name: Immediate(top, 0)}, top - size // -16 * 16
        self.local = max(self.local, top)
        self.registers |= {name + mark: kind for name, kind in f.registers.items()}
        at = defaultdict(list)
        for name, index in f.labels.items():
            at[index].append(name + mark)
        own = [Symbol(name) for name, _ in f.parameters] if not callers else []  # of the kernel: no call's
        for n, i in enumerate(f.instructions):
            for label in at.get(n, ()):
                self.labels[label] = len(self.instructions)
            if names or where:
                i = i._replace(where=i.where + where, guard=renamed(i.guard, names))
            if i.opcode in ("call", "call.uni"):
                self.call(f, i, names, mark, top, callers)
            elif i.opcode.startswith(("ld.param", "st.param")) and not (
                any(isinstance(x, Address) and x.base in own for x in i.operands) or (own and loads(i))
            ):
                self.instructions += self.parameter(i, names, mark)
            elif callers and i.opcode in ("ret", "ret.uni"):
                self.instructions.append(i._replace(opcode="bra", operands=(Symbol(end),)))
            else:
                operands = tuple([renamed(x, names) for x in i.operands]) if names else i.operands
                self.instructions.append(i._replace(operands=operands) if names else i)
        self.labels |= dict.fromkeys([*at[len(f.instructions)], *([end] if callers else [])], len(self.instructions))

    def call(self, f: Function, i: Instruction, names: dict[str, Any], mark: str, top: int, callers) -> None:
        """Append what an instruction of f calls, its parameters and results under the names that f gives them."""
        *results, target, arguments = i.operands if len(i.operands) > 1 else (*i.operands, Vector(()))
        if not isinstance(target, Symbol) or i.guard or not isinstance(arguments, Vector):
            raise UnknownOpcode(i.opcode, "a call of an address, or with a guard", i)
        callers = (*callers, (f.name, i.where[: len(i.where) - sum(len(at) for _, at in callers)]))
        if target.name in (name for name, _ in callers):
            raise UnknownOpcode(f"{i.opcode} {target.name}", "it calls itself, and calls are inlined", i)
        given = [x for v in (*results, arguments) for x in v.parts]
        if target.name in DEVICE:
            return self.device(i, target.name, [f"%{x.name}{mark}+0" for x in given], len(results))
        g = self.called(target.name)
        if g is None:
            raise UnknownOpcode(f"{i.opcode} {target.name}", "the PTX has no body of it", i)
        wanted = [name for name, _ in g.results + g.parameters]
        if len(given) != len(wanted):
            raise ParseError(f"{target.name} takes {len(wanted)} results and parameters and is given {len(given)}", i)
        self.sites += 1
        self.forget(results[0].parts if results else (), mark)
        self.add(g, {w: Symbol(x.name + mark) for w, x in zip(wanted, given, strict=True)}, top, callers)
        self.forget(arguments.parts, mark)
        return None

    def device(self, i: Instruction, name: str, given: list[str], results: int) -> None:
        """Append a call of one of DEVICE as an instruction of that name, its results and parameters as operands."""
        own = [f"{place}:{bits}" for place, bits in zip(given, (32,) * results + DEVICE[name], strict=False)]
        if missing := [x for x in own[results:] if x not in self.given]:
            raise UnknownOpcode(f"{i.opcode} {name}", f"nothing has set its parameter {missing[0]}", i)
        self.given.update(own[:results])
        self.registers |= dict.fromkeys(own[:results], "b32")
        self.instructions.append(i._replace(opcode=name, operands=tuple(Register(x) for x in own)))

    def parameter(self, i: Instruction, names: dict[str, Any], mark: str) -> Iterator[Instruction]:
        """ld.param and st.param of a call: moves from and to a register for each element of the parameter."""
        form = re.match(r"(ld|st)\.param(?:\.v[248])?\.[busf](8|16|32|64)$", i.opcode)
        value, at = (i.operands if i.opcode.startswith("ld") else i.operands[::-1]) if len(i.operands) == 2 else (0, 0)
        if not form or not isinstance(at, Address) or not isinstance(at.base, Symbol):
            raise UnknownOpcode(i.opcode, "of a call's parameter by its name", i)
        width = int(form[2])
        place = names.get(at.base.name, Symbol(at.base.name + mark)).name
        for n, part in enumerate(value.parts if isinstance(value, Vector) else (value,)):
            part, offset = renamed(part, names), at.offset + n * width // 8
            if form[1] == "ld":
                yield self.fetched(i, part, place, offset, width)
                continue
            own = f"%{place}+{offset}:{width}"
            self.given.add(own)
            self.registers[own] = f"b{max(width, 16)}"
            yield i._replace(opcode=f"mov.{self.registers[own]}", operands=(Register(own), part))

    def fetched(self, i: Instruction, to: Any, place: str, offset: int, width: int) -> Instruction:
        """What loads an element of a parameter: one that was stored as it is, as two halves, or as half of another."""
        half = width // 8 // 2
        same = f"%{place}+{offset}:{width}"
        halves = [f"%{place}+{offset + k}:{width // 2}" for k in (0, half)]
        wider = [f"%{place}+{offset - k}:{2 * width}" for k in (0, 2 * half)]
        if same in self.given:
            return i._replace(opcode="cvt.u16.u8" if width == 8 else f"mov.b{width}", operands=(to, Register(same)))
        if width > 16 and self.given.issuperset(halves):
            return i._replace(opcode=f"mov.b{width}", operands=(to, Vector(tuple(Register(x) for x in halves))))
        for n, own in enumerate(wider):
            if width > 8 and own in self.given:
                both = Vector((to, Symbol("_")) if n == 0 else (Symbol("_"), to))
                return i._replace(opcode=f"mov.b{2 * width}", operands=(both, Register(own)))
        raise UnknownOpcode(i.opcode, "a part of a parameter, or one that nothing has set", i)

    def forget(self, parameters: tuple[Symbol, ...], mark: str) -> None:
        """What a call's parameters hold lasts for that call alone."""
        places = {f"%{x.name}{mark}" for x in parameters}
        self.given = {own for own in self.given if own.rpartition("+")[0] not in places}


def renamed(operand: Any, names: dict[str, Any]) -> Any:
    """An operand with other names in it."""
    if isinstance(operand, Register):
        return operand._replace(name=names[operand.name].name) if operand.name in names else operand
    if isinstance(operand, Symbol):
        return names.get(operand.name, operand)
    if isinstance(operand, Address):
        return operand._replace(base=renamed(operand.base, names))
    if isinstance(operand, Vector):
        return Vector(tuple(renamed(x, names) for x in operand.parts))
    return operand


def parts(operand: Any) -> tuple:
    """The registers, symbols and numbers of an operand."""
    if isinstance(operand, Vector):
        return tuple(x for part in operand.parts for x in parts(part))
    return (operand.base,) if isinstance(operand, Address) else (operand,)


def space(name: str, definitions: dict[str, list[Instruction]], seen: frozenset[str] = frozenset()) -> str:
    """The one state space where a register's generic address lies, by every place that sets it; or ""."""
    found = set()
    for i in definitions[name]:
        family, *modifiers = i.opcode.split(".")
        sources = [x.name for x in i.operands[1:] if isinstance(x, Register) and x.name not in seen | {name}]
        spaces = {space(x, definitions, seen | {name}) for x in sources}
        if family == "cvta" and modifiers[0] != "to":
            spaces = {modifiers[0]}
        elif family in ("add", "sub"):
            spaces = spaces - {""} or spaces  # that of the operand which is an address
        elif family != "mov":
            spaces = {""}
        found |= spaces
    return found.pop() if len(found) == 1 else ""


def named(instructions: list[Instruction]) -> list[Instruction]:
    """Loads and stores at generic addresses with the state space in their names, wherever it is known."""
    generic = {n: match for n, i in enumerate(instructions) if (match := GENERIC.match(i.opcode))}
    definitions: dict[str, list[Instruction]] = defaultdict(list)
    for i in instructions if generic else ():
        for x in parts(i.operands[0]) if i.operands and not isinstance(i.operands[0], Address) else ():
            if isinstance(x, Register):
                definitions[x.name].append(i)
    for n, match in generic.items():
        base = next((x.base for x in instructions[n].operands if isinstance(x, Address)), None)
        if where := space(base.name, definitions) if isinstance(base, Register) else "":
            instructions[n] = instructions[n]._replace(opcode=f"{match[1]}.{where}{match[2]}")
    return instructions


def inline(
    entry: Function, called: Callable[[str], Function | None], constants: dict[str, bytes], shared: dict[str, int]
) -> Program:
    """A kernel and what it calls as one Program.

    called  gives the function of a name; None if the module has no body of it

    Raises UnknownOpcode for a call of a function without body or of itself, ParseError for an undeclared name.
    """
    inliner = Inliner(called)
    inliner.add(entry, {}, 0)
    known = {"_", *inliner.labels, *constants, *shared, *(name for name, _ in entry.parameters)}
    for i in inliner.instructions:
        others = [operand for operand in i.operands if operand.__class__ is not Register]
        for x in (x for operand in others for x in parts(operand) if isinstance(x, Symbol)):
            if x.name not in (inliner.labels if i.opcode.split(".")[0] == "bra" else known):
                raise ParseError(f"nothing declares {x.name}", i)
    return Program(
        entry.name, addressed(named(inliner.instructions), entry.parameters), inliner.labels, inliner.registers,
        entry.parameters, constants, inliner.local, shared,
    )  # fmt: skip
