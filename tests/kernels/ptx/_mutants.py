"""Mutants of the PTX of a launch, each one small change of one line, and what becomes of a launch that runs one.

A mutant is killed if the machine raises a PtxError, if a result leaves its tolerance, or, at least, if a bit changes.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from kvproof.kernels.attention import make_workspace
from kvproof.kernels.attention.arguments import Inputs, Options, Result
from kvproof.kernels.attention.launch import launches
from kvproof.kernels.ptx import PtxError, launch
from kvproof.kernels.ptx.compile import Compiled, compile
from kvproof.kernels.ptx.execute import Report
from kvproof.kernels.ptx.launch import buffer, grid_shape
from kvproof.reference.judge.cases import Case as Attention
from kvproof.reference.judge.cases import draw_qkv
from kvproof.reference.judge.rounding import attention, gate_around, in_gates, log_sum_exp, lse_gate

from ._kernels import Case, check

LIMIT = 40_000  # max_steps: several times what any launch here runs, so that a mutant's endless loop ends soon


class Mutant(NamedTuple):
    kind: str
    line: int  # of the PTX text, from 1
    new: str  # that line in the mutant
    text: str  # the whole mutant


class Subject(NamedTuple):
    """Launches one after the other, and the judge of their results."""

    steps: list[tuple[Compiled, tuple[int, int, int], dict[str, Any]]]  # kernel, grid, readable
    arrays: dict[str, np.ndarray]  # all that the launches may touch, as they are now
    before: dict[str, np.ndarray]  # and as they are before the first launch
    check: Callable[[], None]  # raises AssertionError if a result has left its tolerance

    def run(
        self, texts: dict[int, str] | None = None, seed: int | None = None, limit: int | None = LIMIT
    ) -> list[Report]:
        """Launch it from the start -> the reports of its launches.

        texts  by number of the launch, the PTX to run in place of the one that was compiled
        seed   of a random schedule
        limit  max_steps; machine code, which counts each program's instructions, needs more of them
        """
        reports = []
        for name, array in self.arrays.items():
            array[...] = self.before[name]
        for n, (c, grid, readable) in enumerate(self.steps):
            text, arguments = (texts or {}).get(n, c.ptx), [(name, buffer(name, x)) for name, x in c.arguments]
            known = {"name": c.name, "target": c.target, "shared": c.shared, "num_warps": c.num_warps, "seed": seed}
            reports.append(launch.execute(text, grid, arguments, readable=readable, max_steps=limit, **known))
        return reports

    def bits(self) -> dict[str, bytes]:
        return {name: array.tobytes() for name, array in self.arrays.items()}

    def outcome(
        self, n: int, text: str, expected: dict[str, bytes], seed: int | None = None, limit: int | None = LIMIT
    ) -> str:
        """What launch n's mutant comes to: the name of an error, "wrong", "other bits" or "survived"."""
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of a result that is nothing but NaN
                self.run({n: text}, seed, limit)
                self.check()
        except PtxError as error:
            return type(error).__name__
        except AssertionError:
            return "wrong"
        return "survived" if self.bits() == expected else "other bits"


def one_launch(case: Case, target: str) -> Subject:
    arrays = {name: x for name, x in case.arguments.items() if isinstance(x, np.ndarray)}
    step = compile(case.kernel, (), case.arguments, target), grid_shape(case.grid, {}), case.readable
    return Subject([step], arrays, {name: x.copy() for name, x in arrays.items()}, lambda: check(case))


def decode_attention(case: Attention, target: str) -> Subject:
    """Our own kernel: nothing may be read but live slots, the counters, and partials that the launch has written."""
    q, k, v, lengths = draw_qkv(case)
    q = q[:, None]
    tensors = [torch.from_numpy(x) for x in (q, k, v, lengths)]
    B, H, T, D = k.shape
    partials = make_workspace(B, H, T, D, tensors[0].dtype, "cpu")
    out, lse = torch.empty_like(tensors[0]), torch.empty(q.shape[:3], dtype=partials.m.dtype)
    for x in (out, lse, *partials[:3]):
        x.fill_(torch.nan)
    results = {"out": out, "lse": lse} | partials._asdict()
    arrays = {"q": q, "k": k, "v": v, "lengths": lengths} | {name: x.numpy() for name, x in results.items()}
    scale = case.scale or case.D**-0.5
    (x,) = launches(Inputs(*tensors), Options(scale), Result(out, lse), partials)
    compiled = compile(x.kernel, (), x.arguments | x.options, target)
    visible = np.where(lengths > T, 0, lengths)  # a length past the cache is answered with NaN
    live = np.broadcast_to((np.arange(T) < visible[:, None])[:, None, :, None], k.shape)
    readable: dict[str, Any] = {"cache.k": live, "cache.v": live, "result.out": False, "result.lse": False}
    readable |= {f"partials.{name}": False for name in partials._fields if name != "counters"}
    steps = [(compiled, grid_shape(x.grid, {}), readable)]
    return Subject(steps, arrays, {name: x.copy() for name, x in arrays.items()}, judge_of(arrays, scale))


def judge_of(arrays: dict[str, np.ndarray], scale: float) -> Callable[[], None]:
    """The exact-rounded gates for out and lse; NaN where the length is past the cache."""
    valid = arrays["lengths"] <= arrays["k"].shape[2]
    inputs = [arrays[name][valid] for name in ("q", "k", "v", "lengths")]
    q, k, _, lengths = inputs
    exact, gate = attention(*inputs, scale), gate_around(attention(*inputs, scale), *inputs, scale)
    lse, lse_bar = log_sum_exp(q, k, lengths, scale), lse_gate(q, k, lengths, scale)

    def judge():
        assert in_gates(arrays["out"][valid], exact, gate) <= 1
        assert in_gates(arrays["lse"][valid], lse, lse_bar) <= 1
        assert all(np.isnan(arrays[name][~valid]).all() for name in ("out", "lse"))

    return judge


def swap(pattern: str, *replacements: str) -> Callable[[str], list[str]]:
    """A mutation: the first match of the pattern in a line replaced in each of these ways."""
    return lambda line: [re.sub(pattern, r, line, count=1) for r in replacements if re.search(pattern, line)]


def exchange(pattern: str, pairs: str) -> Callable[[str], list[str]]:
    """A mutation: of "a/b c/d", each word by its partner, where the pattern with the word in place of ~ matches."""
    words = [tuple(pair.split("/")) for pair in pairs.split()]
    swaps = [swap(pattern.replace("~", old), rf"\g<1>{new}\g<2>") for a, b in words for old, new in ((a, b), (b, a))]
    return lambda line: next((found for s in swaps if (found := s(line))), [])


def moved(line: str) -> list[str]:
    """Each address an element earlier, an element later, 16 bytes later."""
    found = []
    for match in ADDRESS.finditer(line) if re.search(ACCESS, line) else ():
        width = re.search(r"\.[busf]f?(\d+)\b", line)
        size, offset = int(width[1]) // 8 if width else 4, int(match["offset"] or "0", 0)
        for by in sorted({size, -size, 16}):
            found.append(f"{line[: match.start()]}[{match['base']}+{offset + by}]{line[match.end() :]}")
    return found


ACCESS = r"\b(ld|st|atom|red|cp\.async|ldmatrix|stmatrix)\.(?!param)"
ADDRESS = re.compile(r"\[\s*(?P<base>%\w+)(?:\s*\+\s*(?P<offset>-?\w+))?\s*\]")
START = r"^(\s*(?:@!?%p\d+\s+)?)"
SHIFT = r"sh[lr]\.[bsu]32\s"  # by a register of 32 bits, whatever it shifts
OF_ONE_TYPE = r"(?:\.(?:rn|lo|ftz))*\.(?:pred|[fsub]\d+|b?f16x2)\s"  # a conversion's two types would not fit

MUTATIONS: dict[str, Callable[[str], list[str]]] = {
    "barrier deleted": swap(r"bar\.sync\s+\d+;", ""),
    "guard dropped": swap(r"@!?%p\d+", ""),
    "guard negated": lambda line: swap(r"@!", "@")(line) or swap(r"@%p", "@!%p")(line),
    "address moved": moved,
    "comparison": exchange(r"(\bsetp\.)~(\.)", "lt/le gt/ge eq/ne"),
    "shuffle": lambda line: [re.sub(r"(shfl\S+\s+\S+ \S+ )(\d+)", lambda m: f"{m[1]}{int(m[2]) // 2}", line)],
    "copy not waited for": swap(r"cp\.async\.wait_\w+\s*\d*;", ""),
    "copy not committed": swap(r"cp\.async\.commit_group;", ""),
    "atomic relaxed": swap(r"(atom.*)\.(?:acq_rel|acquire|release)\b", r"\1.relaxed"),
    "atomic of one block": swap(r"(atom.*)\.gpu\b", r"\1.cta"),
    "operands swapped": lambda line: [
        *swap(START + r"((?:fma|mad\.lo)\S+\s+\S+ \S+ )([^,]+), ([^,]+);", r"\1\2\4, \3;")(line),
        *swap(START + rf"((?:(?:sub|selp){OF_ONE_TYPE}|{SHIFT})\s*\S+ )([^,]+), ([^,;]+)", r"\1\2\4, \3")(line),
    ],
    "other operation": exchange(START + rf"~({OF_ONE_TYPE})", "min/max add/sub and/or"),
}  # fmt: skip


def mutants(text: str) -> Iterator[Mutant]:
    """Every mutant of a PTX text, in the order of its lines."""
    lines = text.splitlines()
    start, end = (next(i for i, line in enumerate(lines) if line.startswith(brace)) for brace in "{}")
    last: dict[str, str] = {}  # class of register -> base of the access before, in the same straight code
    for i in range(start, end):
        line = lines[i].split("//")[0].rstrip()
        changed = [(kind, new) for kind, mutate in MUTATIONS.items() for new in mutate(line)]
        if (match := ADDRESS.search(line)) and re.search(ACCESS, line):
            base = match["base"]
            other = last.get(base.rstrip("0123456789"), base)
            changed.append(("base swapped", line[: match.start("base")] + other + line[match.end("base") :]))
            last[base.rstrip("0123456789")] = base
        if re.search(r"\bbra\b|^\$L__BB", line):
            last = {}
        for kind, new in changed:
            if new != line:
                yield Mutant(kind, i + 1, new.strip(), "\n".join([*lines[:i], new, *lines[i + 1 :]]))
