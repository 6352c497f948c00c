"""PTX text -> a Program: its instructions, registers and memory, and the Python line of each instruction.

Source: PTX ISA, sections 4 (syntax), 5 (state spaces) and 11 (directives). What Triton does not emit is a ParseError.
"""

import re
import struct
from functools import lru_cache
from pathlib import Path

from .errors import ParseError
from .inline import inline, renamed
from .syntax import Address, Function, Immediate, Instruction, Program, Register, Symbol, Vector, Where

INTEGER = re.compile(r"-?(0[xX][0-9a-fA-F]+|0|[1-9]\d*)U?$")
FLOAT = {"f": re.compile(r"0[fF]([0-9a-fA-F]{8})$"), "d": re.compile(r"0[dD]([0-9a-fA-F]{16})$")}
NAME = re.compile(r"!?%?[A-Za-z_$][\w$]*(\.\w+)?$")
ADDRESS = re.compile(r"([^\s+-]+|-?\d+)(?:\+?(-?\w+))?$")
DECIMAL = re.compile(r"-?\d+\.\d+$")
LOC = re.compile(r"\.loc\s+(\d+)\s+(\d+)\s+(\d+)(?:.*inlined_at\s+(\d+)\s+(\d+)\s+(\d+))?")
LABEL = re.compile(r"([$\w%]+):(?!:)")
STATEMENT = re.compile(r"(?:@(!?)(%?[\w$]+)\s+)?([a-z][\w.:]*)\s*(.*)$", re.S)
MOST = 1 << 16  # registers that one directive may declare


def operand(text: str, rename: dict[str, str]):
    """One operand, from its text. Raises ValueError for what is none."""
    if text[:1] == "%" and NAME.match(text):
        return Register(rename.get(text, text))
    if text[:1] + text[-1:] in ("{}", "()"):
        return Vector(tuple(operand(part, rename) for part in split_operands(text[1:-1])))
    if text[:1] + text[-1:] == "[]" and "{" in text:  # [tensor map, {coordinates}]
        base, coordinates = split_operands(text[1:-1])
        return Vector((operand(f"[{base}]", rename), operand(coordinates, rename)))
    if text[:1] + text[-1:] == "[]":
        match = ADDRESS.match(re.sub(r"\s", "", text[1:-1]))
        if not match or not INTEGER.match(match[2] or "0"):
            raise ValueError(text)
        return Address(operand(match[1], rename), int(match[2] or "0", 0))  # pyright: ignore[reportArgumentType]
    if "|" in text:
        return Vector(tuple(operand(part.strip(), rename) for part in text.split("|")))
    if INTEGER.match(text):
        return Immediate(int(text.rstrip("U"), 0), 0)
    for letter, width in (("f", 32), ("d", 64)):
        if match := FLOAT[letter].match(text):
            return Immediate(int(match[1], 16), width)
    if DECIMAL.match(text):
        return Immediate(int.from_bytes(struct.pack("<f", float(text)), "little"), 32)
    if not NAME.match(text):
        raise ValueError(text)
    name = text.lstrip("!")
    name = rename.get(name, name)
    return Register(name, text.startswith("!")) if name.startswith("%") or text.startswith("!") else Symbol(name)


def split_operands(text: str) -> list[str]:
    """'%r1, {%r2, %r3}, [%rd1 + 4]' -> its three operands."""
    parts, depth = text.split(","), 0
    if any(bracket in text for bracket in "{[("):
        pieces, parts = parts, []
        for piece in pieces:
            parts = [*parts[:-1], f"{parts[-1]},{piece}"] if depth else [*parts, piece]
            depth += sum(map(piece.count, "{[(")) - sum(map(piece.count, "}])"))
    parts = [part.strip() for part in parts]
    return parts if parts[-1] else parts[:-1]


@lru_cache(maxsize=1 << 14)
def known(text: str):
    """One operand where no name stands for another."""
    return operand(text, {})


class Scope:
    """A { } block: the names it keeps to itself -> those they have in the function."""

    def __init__(self, outer: dict[str, str], start: int):
        self.registers, self.labels, self.start = dict(outer), {}, start


class Body:
    """The statements of one function, as they are read, line by line: a debug directive ends with its line."""

    def __init__(self, files: dict[int, str]):
        self.files = files
        self.instructions: list[Instruction] = []
        self.labels: dict[str, int] = {}
        self.registers: dict[str, str] = {}
        self.shared: dict[str, int] = {}
        self.local: dict[str, int] = {}
        self.where: Where = ()
        self.known: dict[tuple[int, ...], Where] = {}  # each place -> its lines, for the calls from it
        self.in_asm = False
        self.scopes = [Scope({}, 0)]
        self.pending = ""
        self.last = ""  # label
        self.branches: dict[str, list[str]] = {}  # .branchtargets by the label before them

    def read(self, raw: str, number: int) -> bool:
        """Take one line; False once the function's closing brace was read."""
        if "begin inline asm" in raw or "end inline asm" in raw:
            self.in_asm = "begin" in raw  # the lines that LLVM gives to the text of inline assembly are no one's
        line, _, comment = raw.partition("//")
        line = line.strip()
        if line[:4] == ".loc" and line[4:5].isspace():
            self.locate(line, comment, number)
            return True
        text = f"{self.pending} {line}".strip() if self.pending else line
        while text:
            if text[0] == "{":
                self.scopes.append(Scope(self.scopes[-1].registers, len(self.instructions)))
                text = text[1:].strip()
            elif text[0] == "}":
                self.close()
                if not self.scopes:
                    return False
                text = text[1:].strip()
            elif ":" in text and (label := LABEL.match(text)):
                self.last = label[1]
                self.label(label[1], number)
                text = text[label.end() :].strip()
            elif ";" in text:
                statement, _, text = text.partition(";")
                self.statement(statement.strip(), number)
                text = text.strip()
            else:
                break
        self.pending = text
        return True

    def label(self, name: str, number: int) -> None:
        own = name
        if len(self.scopes) > 1:
            own = f"{name}.{len(self.instructions)}"
            self.scopes[-1].labels[name] = Symbol(own)
        if own in self.labels:
            raise ParseError(f"PTX line {number}: the label {name} stands at two places")
        self.labels[own] = len(self.instructions)

    def close(self) -> None:
        """The end of a block: its labels are known now, and so is where its jumps lead."""
        scope = self.scopes.pop()
        for n in range(scope.start, len(self.instructions)) if scope.labels else ():
            i = self.instructions[n]
            self.instructions[n] = i._replace(operands=tuple(renamed(x, scope.labels) for x in i.operands))

    def locate(self, text: str, comment: str, number: int) -> None:
        """.loc file line column [, function_name ..., inlined_at file line column] (11.5.2)

        Triton 3.6 gives the place of a call in the comment alone: file:line:column @[ file:line:column @[ ... ] ].
        """
        if self.in_asm:
            return
        match = LOC.match(text)
        if not match:
            raise ParseError(f"PTX line {number}: a .loc the parser does not know: {text}")
        place, call = ([int(n or 0) for n in match.groups()[k : k + 3]] for k in (0, 3))
        outer: Where = ()
        if match[4]:
            outer = self.known.get(tuple(call), ((self.files.get(call[0], "?"), call[1]),))
        else:
            calls = re.findall(r"@\[ (\S+?):(\d+):\d+", comment)
            outer = tuple((name, int(line)) for name, line in calls)
        if place[1]:  # line 0: the compiler does not know; the last line that it knew is nearest
            self.where = ((self.files.get(place[0], "?"), place[1]), *outer)
            self.known[tuple(place)] = self.where

    def statement(self, text: str, number: int) -> None:
        if text.startswith("."):
            return self.declare(text, number)
        names = self.scopes[-1].registers
        match = STATEMENT.match(text)
        try:
            if not match:
                raise ValueError(text)
            parts = split_operands(match[4])
            operands = tuple([operand(x, names) if names else known(x) for x in parts])
        except ValueError as error:
            raise ParseError(f"PTX line {number}: {error} is no operand the parser knows: {text}") from None
        guard = Register(names.get(match[2], match[2]), bool(match[1])) if match[2] else None
        if match[3] in ("brx.idx", "brx.idx.uni"):
            return self.branch_by_index(operands, guard, number)
        self.instructions.append(Instruction(match[3], operands, guard, number, self.where))
        return None

    def branch_by_index(self, operands: tuple, guard: Register | None, number: int) -> None:
        """brx.idx, as a comparison and a jump for each of its targets (9.7.12.4)."""
        targets = self.branches.get(getattr(operands[-1], "name", ""))
        if targets is None or guard or len(operands) != 2:
            raise ParseError(f"PTX line {number}: a brx.idx with a guard, or without its .branchtargets before it")
        for n, label in enumerate(targets):
            here = Register(f"%brx.{number}.{n}")
            self.registers[here.name] = "pred"
            compare = Instruction("setp.eq.u32", (here, operands[0], Immediate(n, 0)), None, number, self.where)
            jump = Instruction("bra", (operand(label, self.scopes[-1].registers),), here, number, self.where)
            self.instructions += [compare, jump]

    def declare(self, text: str, number: int) -> None:
        if match := re.match(r"\.reg\s+\.(pred|[bus]8|[bus]16|[busf]32|[busf]64|f16|f16x2|b128)\s+(.*)$", text, re.S):
            kind = match[1] if match[1] == "pred" else "b" + re.sub(r"f16x2", "32", match[1]).lstrip("busf")
            for name in split_operands(match[2]):
                self.register(name, kind, number)
        elif match := re.match(r"\.(local|shared)\b.*?\.b8\s+([$\w]+)\[(\d+)\]$", text):
            (self.shared if match[1] == "shared" else self.local)[match[2]] = int(match[3])
        elif (match := re.match(r"\.param\b.*?([$\w]+)(?:\[\d+\])?$", text)) and len(self.scopes) > 1:
            self.scopes[-1].registers[match[1]] = f"{match[1]}.{len(self.instructions)}"  # of one call alone
        elif match := re.match(r"\.branchtargets\b(.*)$", text, re.S):
            self.branches[self.last] = split_operands(match[1])
        elif not re.match(r"\.(param|pragma)\b", text):
            raise ParseError(f"PTX line {number}: a directive the parser does not know: {text}")

    def register(self, name: str, kind: str, number: int) -> None:
        many = re.match(r"([%\w$]+)<(\d{1,9})>$", name)
        if not (many or NAME.match(name)) or (many and int(many[2]) > MOST):
            raise ParseError(f"PTX line {number}: {name} is no register, or more than {MOST} of them")
        names = self.scopes[-1].registers
        for own in [f"{many[1]}{i}" for i in range(int(many[2]))] if many else [name]:
            if len(self.scopes) > 1:  # of blocks there may be many alike
                names[own] = f"%{own.lstrip('%')}.{len(self.instructions)}"
            self.registers[names.get(own, own)] = kind


def declared(text: str) -> list[tuple[str, str]]:
    """The (name, type) of each .param in a signature."""
    found = re.findall(r"\.param\b[^,]*?\.([busf]\d+)\b[^,]*?([$\w]+)(?:\[\d+\])?\s*(?:,|$)", text.strip())
    return [(name, kind) for kind, name in found]


def constants(head: str) -> dict[str, bytes]:
    """The .global variables of a module; what their text leaves out is zero (5.4.4)."""
    form = r"\.global\s+(?:\.align\s+\d+\s+)?\.[bus](8|16|32|64)\s+([$\w]+)(?:\[(\d+)\])?\s*(?:=\s*\{?([^;}]*)\}?\s*)?;"
    found = {}
    for match in re.finditer(form, head):
        size = int(match[1]) // 8
        values = split_operands(match[4] or "")
        if not all(INTEGER.match(v) for v in values) or len(values) > int(match[3] or 1):
            line = head[: match.start()].count("\n") + 1
            raise ParseError(f"PTX line {line}: {match[2]} has values that are no integers, or too many")
        data = b"".join((int(v, 0) % (1 << 8 * size)).to_bytes(size, "little") for v in values)
        found[match[2]] = data.ljust(size * int(match[3] or 1), b"\0")
    return found


def function(text: str, code: str, match: re.Match, files: dict[int, str]) -> tuple[Function, Body]:
    """The function whose signature `match` is: in `code`, which is the text without its comments."""
    body, lines = Body(files), text.splitlines()
    first = code[: match.end()].count("\n") + 1  # the line after the one with the opening brace
    number = first
    while number < len(lines) and body.read(lines[number], number + 1):
        number += 1
    if number == len(lines):
        raise ParseError(f"PTX line {number}: {match['name']} has no end")
    signature = declared(match["results"] or ""), declared(match["parameters"] or "")
    return Function(match["name"], *signature, body.instructions, body.labels, body.registers, body.local), body


def parse(text: str) -> Program:
    """The one entry of a PTX module, with the functions it calls inlined.

    Raises ParseError, with the line, for what it does not know, UnknownOpcode for a call of what has no body.
    """
    files = {int(n): Path(file).name for n, file in re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', text, re.M)}
    code = re.sub(r"//[^\n]*", "", text)
    form = r"\.KIND\b\s*(?:\((?P<results>[^)]*)\)\s*)?(?P<name>[$\w]+)\s*(?:\((?P<parameters>[^)]*)\))?[^{};]*\{"
    head = re.search(form.replace("KIND", "entry"), code)
    if not head:
        raise ParseError("the PTX has no .entry: it is no kernel")
    entry, body = function(text, code, head, files)
    bodies = {match["name"]: match for match in re.finditer(form.replace("KIND", "func"), code)}
    before = code[: head.start()]
    variables = re.findall(r"\.shared\b[^;]*?\.b8\s+([$\w]+)\[(\d*)\]\s*;", before)
    shared, known = {name: int(size or 0) for name, size in variables} | body.shared, constants(before)

    def called(name: str) -> Function | None:
        return function(text, code, bodies[name], files)[0] if name in bodies else None

    return inline(entry, called, known, shared)
