"""Random programs in PTX over few addresses of global and shared memory, most of them wrong in some way.

Loads, stores, atomics, barriers and fences at random places, some in branches and loops, by several warps and programs.
"""

from typing import Any, NamedTuple

import numpy as np

WHERE = (
    "mov.u32 %r6, {k};", "mov.u32 %r6, %r1;", "mov.u32 %r6, %r1;", "mov.u32 %r6, %r4;", "mov.u32 %r6, %r4;",
    "shr.u32 %r6, %r1, {s};", "and.b32 %r6, %r1, {m};", "mov.u32 %r6, %r2;", "xor.b32 %r6, %r4, {m};",
    "add.u32 %r6, %r1, %r2;", "shl.b32 %r6, %r2, {s};", "mul.lo.u32 %r6, %r1, 5; and.b32 %r6, %r6, 31;",
    "sub.u32 %r6, 95, %r1;", "xor.b32 %r6, %r1, 32;", "and.b32 %r6, %r9, 15;", "mul.lo.u32 %r6, %r1, 2;",
    "add.u32 %r6, %r4, 1;",
)  # fmt: skip
GUARDS = (
    "setp.eq.u32 %p1, %r1, 0;", "setp.eq.u32 %p1, %r1, {k};", "setp.lt.u32 %p1, %r1, {m};", "setp.eq.u32 %p1, %r2, 1;",
    "setp.eq.u32 %p1, %r2, 0;", "and.b32 %r7, %r1, {m}; setp.eq.u32 %p1, %r7, 0;", "setp.lt.u32 %p1, %r1, 32;",
    "setp.lt.u32 %p1, %r9, 8;", "setp.ne.u32 %p1, %r1, {k};",
)  # fmt: skip
VALUES = (
    "mov.u32 %r8, {k};", "mov.u32 %r8, %r1;", "mov.u32 %r8, %r2;", "mov.u32 %r8, %r9;", "shr.u32 %r8, %r1, 1;",
    "mov.u32 %r8, %r9;",
)  # fmt: skip
ORDERS = ("relaxed", "acquire", "release", "acq_rel", "acq_rel", "acq_rel", "acq_rel")
SCOPES = ("gpu",) * 8 + ("sys", "cta")
ATOMICS = ("add.u32 {d}{a}, 1", "exch.b32 {d}{a}, %r8", "max.u32 {d}{a}, %r8", "cas.b32 {d}{a}, {k}, %r8")
WIDTHS = ("b32",) * 12 + ("b64", "b16", "b8", "v2.b32")
REGISTERS = {"b32": "%r9", "b64": "%rd9", "b16": "%h1", "b8": "%r9", "v2.b32": "{{%r9, %r10}}"}
SOURCES = {"b32": "%r8", "b64": "%rd9", "b16": "%h2", "b8": "%r8", "v2.b32": "{{%r8, %r1}}"}
FENCES = ("fence.acq_rel.gpu; ",) + ("bar.warp.sync -1; ",) * 5
KINDS = {"load": 6, "store": 7, "atomic": 5, "barrier": 6, "fence": 1, "branch": 1, "loop": 1, "ret": 0.3, "shuffle": 1}
WORDS = 320  # of the array a; b has 2


class Program(NamedTuple):
    """A body as _text.py has them, its arrays, and settings of `run`."""

    body: str
    arrays: list[np.ndarray]
    settings: dict[str, Any]


class Writer:
    """Draws the parts of one body."""

    def __init__(self, random: np.random.Generator, shared: float, stride: int):
        self.random, self.shared, self.stride, self.labels = random, shared, stride, 0

    def pick(self, options: Any) -> Any:
        return options[self.random.integers(len(options))]

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def filled(self, text: str, **others: str) -> str:
        numbers = {"k": self.pick((0, 1, 5, 33)), "s": self.pick((1, 3, 5)), "m": self.pick((1, 7, 31))}
        return text.format(**numbers, **others)

    def access(self, kind: str) -> str:
        shared = self.chance(self.shared)
        flag = not shared and self.chance(0.8 if kind == "atomic" else 0.1)  # the array b
        text = f"mov.u32 %r6, {self.pick((0, 0, 1))};" if flag else self.filled(self.pick(WHERE))
        text += f" {self.filled(self.pick(VALUES))} cvt.u16.u32 %h2, %r8; "
        if shared:
            text, at, space = text + "and.b32 %r6, %r6, 63; shl.b32 %r6, %r6, 2; ", "[%r6]", "shared"
        else:
            base = "%rd2" if flag else "%rd1"
            text, at, space = (
                text + f"mul.wide.u32 %rd5, %r6, {4 if flag else self.stride}; add.u64 %rd5, {base}, %rd5; ",
                "[%rd5]",
                "global",
            )
        width = self.pick(WIDTHS) if kind != "atomic" else "b32"
        if width[-2:] != "32" or width[0] == "v":
            text += "and.b32 %r6, %r6, -8; and.b64 %rd5, %rd5, -8; " if self.chance(0.9) else ""
        guard = "@%p1 " if self.chance(0.5) else ""
        text += self.filled(self.pick(GUARDS)) + " " if guard else ""
        if kind == "load":
            return text + f"{guard}ld.{space}.{width} {REGISTERS[width].format()}, {at}; "
        if kind == "store":
            return text + f"{guard}st.{space}.{width} {at}, {SOURCES[width].format()}; "
        returns = self.chance(0.7)
        what = self.filled(self.pick(ATOMICS[: 4 if returns else 1]), d="%r9, " if returns else "", a=at)
        order = self.pick(ORDERS) if returns else self.pick(("relaxed", "release"))
        return text + f"{guard}{'atom' if returns else 'red'}.{space}.{self.pick(SCOPES)}.{order}.{what}; "

    def operations(self, count: int, depth: int = 0) -> str:
        kinds, weights = list(KINDS), np.array([*KINDS.values()])
        return "".join(
            self.operation(kind, depth) for kind in self.random.choice(kinds, count, p=weights / weights.sum())
        )

    def operation(self, kind: str, depth: int) -> str:
        if kind in ("load", "store", "atomic"):
            return self.access(kind)
        if kind == "barrier":
            return "bar.sync 0; "
        if kind == "fence":
            return self.pick(FENCES)
        if kind == "ret":
            return self.filled(self.pick(GUARDS)) + " @%p1 ret; "
        if kind == "shuffle":
            return f"shfl.sync.bfly.b32 %r9, %r9, {self.pick((1, 16))}, 31, -1; "
        if depth > 1:
            return ""
        self.labels += 1
        here, inside = f"L{self.labels}", self.operations(int(self.random.integers(1, 4)), depth + 1)
        if kind == "branch":
            return f"{self.filled(self.pick(GUARDS))} {self.pick(('@%p1', '@!%p1'))} bra {here}; {inside}{here}: "
        turn = f"%r{13 + depth}"
        again = f"add.u32 {turn}, {turn}, 1; setp.lt.u32 %p2, {turn}, 2; @%p2 bra {here}; "
        return f"mov.u32 {turn}, 0; {here}: {inside}{again}"


def publication(w: Writer) -> str:
    """What one program writes and another reads, with atomics between, which may or may not order that."""
    atomics = [w.access("atomic") for _ in range(w.random.integers(1, 4))]
    barriers = ["bar.sync 0; " if w.chance(0.7) else "" for _ in range(4)]
    extra = [w.operations(1) if w.chance(0.3) else "" for _ in range(3)]
    text = w.access("store") + barriers[0] + extra[2] + atomics[0] + barriers[1] + "".join(atomics[1:]) + extra[0]
    other = w.pick(("setp.eq.u32 %p2, %r2, 1;", "setp.gt.u32 %p2, %r2, 0;", "setp.eq.u32 %p2, %r9, 1;"))
    return text + f"{barriers[2]}{other} @!%p2 bra END; {w.access('load')}{extra[1]}END: "


def drawn(random: np.random.Generator) -> Program:
    shared = random.choice([0.0, 0.0, 0.2, 0.9])
    memory = np.arange(2 * WORDS, dtype=np.uint32)
    a = (memory[:WORDS], memory[:WORDS], memory[::2], memory[1 : WORDS + 1])[random.integers(4)]
    w = Writer(random, shared, a.strides[0])
    text = "mov.u32 %r9, 7; mov.u32 %r10, 7; mov.u64 %rd9, 7; mov.u16 %h1, 7; "
    if shared and w.chance(0.8):
        text += "st.shared.b32 [%r5], %r1; bar.sync 0; "
    text += publication(w) if not shared and w.chance(0.5) else w.operations(int(random.integers(2, 8)))
    if w.chance(0.5):
        text += "add.u64 %rd12, %rd3, %rd10; st.global.b32 [%rd12], %r9; "
    threads, programs = int(w.pick((32, 32, 64, 96))), int(w.pick((1, 2, 2, 3)))
    settings: dict[str, Any] = {"threads": threads, "programs": programs, "shared": 384}
    if w.chance(0.2):
        settings["readable"] = {"a": w.pick((False, random.random(WORDS) < 0.7))}
    if w.chance(0.1):
        settings["seed"] = int(random.integers(3))
    b = w.pick((np.zeros(2, np.uint32), np.zeros(2, np.uint32), a[-2:]))
    return Program(text + "ret;", [a, b, np.zeros(threads * programs, np.uint32)], settings)
