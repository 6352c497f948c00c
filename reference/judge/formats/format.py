"""A format: which numbers share a scale, how it follows from them, on which grid the quotients fall, how codes lie."""

from dataclasses import dataclass, fields, replace
from typing import Any

import ml_dtypes
import numpy as np

from .fields import SIZED, refuse_unfit
from .grids import TIES, Grid, grid
from .groups import GROUPS
from .packing import PACKINGS

RULES = {
    "absmax": "scale = max|x| / top",
    "signed": "scale = x / top, x the number of largest magnitude, with its sign",
    "minmax": "scale = (max - min) / top, and min is kept: x = code * scale + min",
    "minmax-zero": "min <= 0 <= max; scale = (max - min) / top; zero = rint(-min / scale) in 0..top; "
    "x = (code - zero) * scale",
    "pow2-floor": "scale = 2^(floor(log2 max|x|) - floor(log2 top)), as OCP MX has it",
    "pow2-ceil": "scale = 2^ceil(log2(max|x| / top))",
    "two-level": "tensor scale = max|x| / (448 top) in float32; block scale = e4m3(max|block| / top / tensor scale); "
    "scale = their product",
    "fixed": "scale is given, and numbers beyond the grid's end saturate",
}
KEPT = {
    "sliding": "the newest {} tokens unquantised",
    "blocks": "tokens are quantised in blocks of {0}, and the newest T mod {0} stay unquantised",
    "flush": "tokens after the first append stay unquantised until there are {}, then all are quantised",
}
SCALE_DTYPES = ("float32", "float16", "bfloat16", "e8m0", "e4m3fn", "input")
DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Format:
    """How numbers are stored with few bits. All of it can be written as NAME,field=value,… on a command line.

    A field that the others make no use of is refused (fields.py), as is a number that fits none, by ValueError.


    grid         of codes: see grids.py
    group, size  which numbers share a scale: see groups.py
    rule         of the scale: RULES
    top          what the rule divides by; 0 for the grid's largest value, of the rule "signed" the lowest
    scale_dtype  in which scale (and min) are stored; "input": the dtype of x
    compute      in which scale and quotient are computed: "float32", or "input"
    divisor      x is divided by the "stored" scale, or by the "unrounded" one
    ties         of quotients halfway between two codes: "even", "away" or "up"
    packing      of codes in bytes: see packing.py
    window       the newest tokens that stay unquantised: that many always ("sliding"), what does not fill a block of so
                 many ("blocks"), or what came after the first append, until it is so many ("flush", transformers')
    growth       of groups that span tokens, as tokens are appended: each append quantises its own ("own"), or all by
                 the first one's scale ("frozen")
    value        the scale of the rule "fixed"
    floor        the least scale, a guard against zero
    """

    name: str
    grid: str
    group: str = "row"
    size: int = 0
    rule: str = "absmax"
    top: float = 0.0
    scale_dtype: str = "float32"
    compute: str = "float32"
    divisor: str = "stored"
    ties: str = "even"
    packing: str = "bytes"
    window: int = 0
    window_kind: str = "sliding"
    growth: str = "own"
    value: float = 1.0
    floor: float = 0.0

    def __post_init__(self):
        known = {"group": GROUPS, "rule": RULES, "scale_dtype": SCALE_DTYPES, "compute": ("float32", "input"),
            "divisor": ("stored", "unrounded"), "ties": TIES, "packing": PACKINGS, "growth": ("own", "frozen"),
            "window_kind": ("sliding", "blocks", "flush")}  # fmt: skip
        for field, words in known.items():
            if getattr(self, field) not in words:
                raise ValueError(f"{field}={getattr(self, field)!r}; there are {', '.join(words)}")
        grid(self.grid)
        refuse_unfit(self)

    @property
    def codes(self) -> Grid:
        return grid(self.grid)

    @property
    def divides_by(self) -> float:
        """`top`, or what stands for it."""
        if self.top:
            return self.top
        return float(self.codes.values[0]) if self.rule == "signed" else self.codes.top

    @property
    def spans_tokens(self) -> bool:
        """Whether numbers of several tokens share a scale."""
        return self.group not in ("row", "block") or self.rule == "two-level"

    def dtype_of(self, which: str, x: Any) -> Any:
        """`compute` or `scale_dtype` as a NumPy dtype, for numbers of x's dtype."""
        name = getattr(self, which)
        if name == "input":
            return np.dtype(x)
        return np.dtype({"bfloat16": ml_dtypes.bfloat16, "e8m0": np.float32, "e4m3fn": np.float32}.get(name, name))

    def quantised(self, pieces) -> int:
        """How many of the oldest tokens are quantised once these many each have been appended."""
        T = int(sum(pieces))
        if not self.window:
            return T
        if self.window_kind == "flush":
            kept = 0
            for m in list(pieces)[1:]:
                kept = 0 if kept + m >= self.window else kept + m
            return T - int(kept)
        return T // self.window * self.window if self.window_kind == "blocks" else max(0, T - self.window)

    def spans(self, pieces) -> list[tuple[int, int]]:
        """The tokens [a, b) that are quantised at once: all that can be, or each append for itself."""
        n = self.quantised(pieces)
        if not self.spans_tokens or self.window:
            return [(0, n)] if n else []
        ends = np.cumsum(pieces).tolist()
        return [(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True) if b > a]

    def describe(self) -> str:
        """The rule in words."""
        words = [f"{self.grid} codes per {self.group}{f' of {self.size}' if self.size else ''}", RULES[self.rule]]
        words[-1] = words[-1].replace("448 top", "448 * top").replace("top", f"{self.divides_by:g}")
        words[-1] = words[-1].replace("is given", f"is {self.value:g}")
        words.append(f"stored as {self.scale_dtype}; x / {self.divisor} scale, ties {self.ties}")
        words.append("computed in " + ("the dtype of x" if self.compute == "input" else self.compute))
        if self.packing != "bytes":
            words.append(f"packed: {self.packing}")
        if self.window:
            words.append(KEPT[self.window_kind].format(self.window))
        if self.floor:
            words.append(f"a scale is at least {self.floor:g}")
        if self.growth == "frozen":
            words.append("the first append's scale is kept")
        return "; ".join(words)


def regrouped(f: Format, group: str, size: int = 0) -> Format:
    """The format with other groups; `size` counts where such groups have one, `growth` where scales can be kept."""
    sized = size if group in (*SIZED, "channel") else 0
    kept = f.growth if group in ("head", "tensor") or (group == "channel" and not sized) else "own"
    return replace(f, group=group, size=sized, growth=kept)


def changed(base: Format, text: str) -> Format:
    """`base` with "field=value,…".  Raises ValueError for a field or value that it does not have."""
    kinds = {field.name: type(getattr(base, field.name)) for field in fields(Format) if field.name != "name"}
    new: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        field, equals, value = (word.strip() for word in part.partition("="))
        if not equals or field not in kinds:
            raise ValueError(f"{part!r} is no field=value; the fields are {', '.join(kinds)}")
        if field in new:
            raise ValueError(f"{field} came twice, the second time as {value}; say it once")
        try:
            new[field] = kinds[field](value)
        except ValueError:
            raise ValueError(f"{field}={value!r}; it takes a number") from None
    return replace(base, name=f"{base.name},{text}" if new else base.name, **new)
