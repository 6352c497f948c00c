"""What LLVM IR is made of, as text: types, values, blocks of lines, functions and modules; ir.py writes them."""

import struct
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from typing import Any, NamedTuple

_types: dict[tuple, Any] = {}


class Type:
    """A type, of which there is one object: IntType(32) is IntType(32)."""

    text = ""
    element: Any  # the type of one lane

    def __new__(cls, *of: Any) -> Any:
        made = _types.get(key := (cls, *of))
        if made is None:
            _types[key] = made = object.__new__(cls)
            made.element = made
            made.begin(*of)
        return made

    def begin(self) -> None:
        """With what the type is of."""

    def __str__(self) -> str:
        return self.text

    def __call__(self, number: Any) -> "Constant":
        return Constant(self, number)


class IntType(Type):
    def begin(self, width: int) -> None:
        self.width, self.text, self.ones = width, f"i{width}", (1 << width) - 1

    def __call__(self, number: int) -> "Constant":
        return whole(self, number & self.ones)


class VectorType(Type):
    def begin(self, kind: Any, lanes: int) -> None:
        self.element, self.count, self.text = kind, lanes, f"<{lanes} x {kind}>"


class PointerType(Type):
    text = "ptr"


class VoidType(Type):
    text = "void"


class HalfType(Type):
    text = "half"


class FloatType(Type):
    text = "float"


class DoubleType(Type):
    text = "double"


class FunctionType(NamedTuple):
    result: Any
    takes: Any


class Value:
    """
    origin  the value that it is a bitcast of
    number  of the bits of a float: that, before any NaN has become the one of its format; of a pointer: as a word
    """

    __slots__ = ("number", "origin", "text", "type")

    def __init__(self, kind: Any, text: str, origin: Any = None):
        self.type, self.text, self.origin = kind, text, origin
        self.number: Any = None

    def __str__(self) -> str:
        return f"{self.type.text} {self.text}"


class Constant(Value):
    """A number, the Constants of each lane, None for zeros, "poison" or "undef"."""

    __slots__ = ("constant",)

    def __init__(self, kind: Any, constant: Any):
        super().__init__(kind, spelled(kind, constant))
        self.constant = constant


def spelled(kind: Any, x: Any) -> str:
    if x is None or isinstance(x, str):
        return x or "zeroinitializer"
    if isinstance(x, list):
        return f"splat ({x[0]})" if x.count(x[0]) == len(x) else f"<{', '.join(map(str, x))}>"
    if isinstance(x, float):
        x = struct.unpack("f", struct.pack("f", x))[0] if kind is FloatType() else x
        return f"0x{struct.pack('>d', x).hex()}"
    return str(int(x))


@cache
def whole(kind: Any, number: int) -> Constant:
    return Constant(kind, number)


class Later(Value):
    """A value that is written, where it was asked for, only if it is read."""

    __slots__ = ("found", "write")

    def __init__(self, kind: Any, write: Callable[[], Value]):
        self.type, self.write = kind, write
        self.found, self.number, self.origin = None, None, None

    @property
    def text(self) -> str:
        if self.found is None:
            self.found = self.write().text
        return self.found


class Line:
    """A line of a block, complete once all its parts are known."""

    def __init__(self, form: str, between: str):
        self.form, self.between = form, between
        self.parts: list[str] = []

    def line(self) -> str:
        return self.form.format(self.between.join(self.parts))


class Phi(Value):
    __slots__ = ("whole",)

    def add_incoming(self, value: Value, block: "Block") -> None:
        self.whole.parts.append(f"[ {value.text}, %{block.name} ]")


class Switch(Line):
    def add_case(self, value: Value, block: "Block") -> None:
        self.parts.append(f"{value}, label %{block.name}")


class Gap:
    """A place in a block where something may be written later."""

    def __init__(self) -> None:
        self.lines: list[Any] = []

    def line(self) -> str:
        return written(self.lines)


def written(lines: list[Any]) -> str:
    return "\n".join([x if x.__class__ is str else x.line() for x in lines])  # an empty line is none


class Trunk:
    """Blocks each of which runs only after the one before, and after those of `outer` that were there when it began."""

    def __init__(self, outer: "Trunk | None" = None):
        self.outer = outer

    def within(self, other: "Trunk | None") -> bool:
        """Whether what is known at the end of another trunk is known here."""
        return self is other or (self.outer is not None and self.outer.within(other))


class Block:
    def __init__(self, function: "Function", name: str, trunk: Trunk):
        self.function, self.name, self.trunk = function, name, trunk
        self.lines: list[Any] = []
        self.is_terminated = False


class Function(Value):
    """One that is declared until it has a block; `head`, lines before those of the first."""

    __slots__ = ("args", "blocks", "head", "how", "linkage", "module", "name", "numbers", "result")

    def __init__(self, module: "Module", kind: FunctionType, name: str):
        super().__init__(PointerType(), f'@"{name}"')
        self.module, self.name, self.result, self.linkage, self.how = module, name, kind.result, "", ""
        self.args = [Value(one, f"%a{n}") for n, one in enumerate(kind.takes)]
        self.blocks, self.head, self.numbers = [], [], count()
        module.globals[name] = self

    @property
    def is_declaration(self) -> bool:
        return not self.blocks

    def append_basic_block(self, name: str = "", trunk: Trunk | None = None) -> Block:
        self.blocks.append(block := Block(self, f"{name}.{len(self.blocks)}", trunk or Trunk()))
        return block

    def lines(self) -> Iterator[str]:
        head = f"{self.linkage} {self.result} {self.text}({', '.join(map(str, self.args))}) {self.how}"
        if self.is_declaration:
            yield f"declare {head}"
            return
        yield f"define {head} {{"
        for block in self.blocks:
            yield f"{block.name}:"
            yield from self.head if block is self.blocks[0] else ()
            yield written(block.lines)
        yield "}"


class Module:
    def __init__(self, name: str = ""):
        self.globals: dict[str, Function] = {}

    @property
    def functions(self) -> list[Function]:
        return [*self.globals.values()]

    def __str__(self) -> str:
        return "\n".join([*(line for f in self.globals.values() for line in f.lines()), "!0 = !{}"])
