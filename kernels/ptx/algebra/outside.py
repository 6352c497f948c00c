"""What fpsan does not see of a kernel: the operations of its TTIR that are no ring's, each with its place.

Two kinds. One that `parts` may give equal algebra different bits: what holds of numbers does not hold of payloads. One
that `hides` may give different algebra equal bits. An operation that fpsan leaves as it is does both: it computes on
payloads as if they were floats.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from .embedding import dialect

FLOAT = re.compile(r"(?:\b|x)(?:f16|bf16|f32|f64|f8\w+)\b")
PARTS, HIDES, BOTH = "parts", "hides", "parts and hides"
LEFT = "is left as it is: it takes the bits of payloads for floats"
TAGGED = "is one-to-one and has no theorems"
ORDER = "goes by the order of payloads, not of numbers"
WIDENS = "keeps the payload, which wrapped around in the narrow type, and would not in the wide one"
ATOMIC = "adds the bits of payloads as floats: another order or split is another sum"
NUMBER = "is a payload like any other: x + x is not 2 * x"
RULES: list[tuple[str, str, str]] = [  # a regular expression of an operation, what it may do, why
    (r"arith\.(max|min)(num|imum)f", PARTS, ORDER),
    (r"math\.exp2?", PARTS, "keeps exp(x + y) = exp(x) exp(y) and exp(0) = 1; no exp is 0, not even of -inf"),
    (r"arith\.divf|tt\.precise_divf", PARTS, "multiplies by an inverse, which even payloads have not"),
    (r"arith\.remf", PARTS, "is the remainder of integers, by the divisor made odd"),
    (r"math\.(log2?|rsqrt|sqrt|erf|floor|ceil)|tt\.precise_sqrt", PARTS, TAGGED),
    (r"tt\.extern_elementwise", PARTS, TAGGED + ", if it is pure; else " + LEFT),
    (r"arith\.cmpf", BOTH, LEFT + ", so a branch or mask may go the other way"),
    (r"math\.absf|arith\.(fpto[su]i|[su]itofp)", BOTH, LEFT),
    (r"(arith|tt)\.bitcast", BOTH, LEFT),
    (r"arith\.extf", PARTS, WIDENS),
    (r"tt\.atomic_rmw fadd", BOTH, ATOMIC),
    (r"tt\.atomic_(rmw|cas)", BOTH, LEFT),
]
NARROWS = r"arith\.truncf|tt\.fp_to_fp"
DROPS = "drops the high bits of payloads, and with them what differs there"
FOLDS = "folds dropped bits into others: a sum of narrowed terms is not the narrowed sum"
OLD = r"tt\.clampf|tt\.elementwise_inline_asm"  # what 3.8 leaves, and later ones take
LITERAL = re.compile(r"arith\.constant (?:dense<)?(0x[0-9A-F]+|-?\d\.\d+E?e?[-+]?\d*)>? : ")
PARAMETER = re.compile(r"%(\w+): b?f\d+\b")  # of a kernel, a float
STABLE = {0.0, 1.0, -1.0}


class Outside(NamedTuple):
    """An operation that the ring does not model."""

    operation: str
    effect: str  # PARTS, HIDES or BOTH
    why: str
    kernel: str  # or the function of torch's, if empty
    where: str  # the first file:line, or ""
    count: int

    def __str__(self) -> str:
        at = ", ".join(x for x in (self.kernel, self.where, f"{self.count} times" if self.count > 1 else "") if x)
        return self.operation + (f" ({at})" if at else "") + f" {self.why}"


def outside(kernels: Iterable[Any]) -> list[Outside]:
    """Of compiled kernels, each operation once with its first place. They have `name` and `asm`, as Triton's."""
    found: dict[tuple[str, str], Outside] = {}
    for kernel in kernels:
        text = kernel.asm["ttir"]
        places = dict(re.findall(r"^(#loc\d*) = loc\((.*)\)$", text, re.MULTILINE))
        for line in text.splitlines():
            for operation, effect, why in judged(line):
                key = operation, kernel.name
                first = found.get(key)
                where = first.where if first else place(line, places)
                found[key] = Outside(operation, effect, why, kernel.name, where, first.count + 1 if first else 1)
    return list(found.values())


def judged(line: str) -> Iterator[tuple[str, str, str]]:
    """(operation, effect, why) of a line of TTIR, if it is outside the ring."""
    if "tt.func public" in line:
        for name in PARAMETER.findall(line):
            yield f"argument {name}", PARTS, NUMBER
        return
    line = line.partition(" loc(")[0]
    if not FLOAT.search(line):
        return
    folds = dialect().folds
    for pattern, effect, why in (*RULES, (NARROWS, PARTS if folds else HIDES, FOLDS if folds else DROPS)):
        if (match := re.search(rf"= ({pattern})\b", line)) and not _widens(match[1], line):
            yield match[1].partition(".")[2], effect, why
            return
    if match := re.search(r"\btt\.descriptor_reduce (\w+)", line):
        yield f"descriptor_reduce {match[1]}", BOTH, ATOMIC if match[1] == "add" else LEFT
    elif "= tt.fp_to_fp" in line and not _keeps(line):
        yield "fp_to_fp", PARTS, WIDENS
    elif match := re.search(rf"= ({OLD})\b", line):
        why = ORDER if "clamp" in match[1] else TAGGED
        yield match[1].partition(".")[2], PARTS if folds else BOTH, why if folds else LEFT
    elif (match := LITERAL.search(line)) and (text := _strange(match[1])):
        yield f"constant {text}", PARTS, NUMBER


def _types(line: str) -> list[str]:
    return re.findall(r"(?:\b|x)(bf16|f16|f32|f64|f8|[iu]\d+)", line.rpartition(" : ")[2])


def _widens(operation: str, line: str) -> bool:
    """Whether a conversion keeps all bits of the payload, or a bitcast stays among floats."""
    types = _types(line)
    if operation == "tt.fp_to_fp":
        return len(types) == 2 and int(types[0].strip("bf")) <= int(types[1].strip("bf"))
    return operation.endswith("bitcast") and len({x[0] in "bf" for x in types}) == 1


def _keeps(line: str) -> bool:
    """Whether a conversion is between floats of one width."""
    return len({x.strip("bf") for x in _types(line)}) == 1


def _strange(text: str) -> str:
    """A constant, unless its payload is itself."""
    if text.startswith("0x"):
        sign = "-" if int(text[2], 16) >= 8 else ""
        return f"{sign}inf" if text[3:] in ("F800000", "C00", "F80", "FF0000000000000") else text
    return "" if float(text) in STABLE else f"{float(text):g}"


def place(line: str, places: dict[str, str]) -> str:
    """The kernel's own file and line for a line of TTIR: of nested locations the outermost call."""
    match = re.search(r"loc\((#loc\d*)\)\s*$", line)
    text = places.get(match[1], "") if match else ""
    for _ in range(64):
        if match := re.match(r'"([^"]+)":(\d+):\d+', text):
            return f"{match[1].rpartition('/')[2]}:{match[2]}"
        names = re.findall(r"#loc\d*", text)
        if not names:
            return ""
        text = places.get(names[-1], "")
    return ""
