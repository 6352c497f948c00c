"""The calls to check: a fixed grid in which every two settings of two features meet once, and any call at random."""

from typing import Any

from hypothesis import strategies as st

from kvproof.reference.judge.cases import Case

# One call a line. heads is KV heads x query heads per KV head, lengths ends in the capacity, window in the sinks.
GRID = """
dtype    lengths         D  heads M  page int8 append window softcap alibi causal scale std
bfloat16 700,1,33/700    64 2x1   -  48   -    yes    64+4   -       -     yes    0.7   4
float32  385,256,0/400   80 1x4   16 256  yes  -      1+2    5       head  yes    -     1
float16  20,0,3/640      16 2x3   2  16   -    yes    -      30      row   -      -     1
float64  127,128,129/130 16 1x8   1  -    yes  -      -      -       head  -      0.7   4
float64  20,0,3/640      64 1x8   -  -    yes  -      20+0   30      -     yes    -     1
float16  127,128,129/130 80 1x4   1  256  -    yes    20+0   5       row   yes    0.7   4
float32  385,256,0/400   64 2x3   2  16   yes  yes    1+2    -       row   yes    0.7   4
bfloat16 700,1,33/700    80 2x1   2  16   yes  -      -      5       -     -      -     1
float32  127,128,129/130 16 2x3   1  48   -    -      64+4   30      -     yes    -     1
float64  20,0,3/640      64 1x4   16 48   -    yes    -      30      head  -      0.7   4
float16  700,1,33/700    80 1x8   16 -    yes  -      64+4   -       row   yes    0.7   1
float32  385,256,0/400   16 1x8   -  256  -    yes    -      5       -     -      -     4
bfloat16 385,256,0/400   16 2x1   1  -    -    yes    1+2    30      row   yes    0.7   1
bfloat16 700,1,33/700    16 2x3   16 256  yes  -      20+0   -       head  yes    -     1
float64  20,0,3/640      80 2x3   -  48   yes  yes    1+2    5       row   yes    -     1
float64  127,128,129/130 64 2x1   2  256  yes  yes    64+4   5       head  yes    0.7   4
float16  127,128,129/130 16 1x4   -  16   -    yes    1+2    -       head  yes    0.7   4
float16  385,256,0/400   64 2x1   16 48   yes  yes    20+0   30      -     yes    -     4
float32  700,1,33/700    80 1x4   2  -    yes  -      1+2    30      -     yes    0.7   1
bfloat16 20,0,3/640      64 1x4   1  16   yes  yes    64+4   -       row   yes    0.7   1
float32  20,0,3/640      16 2x1   2  256  yes  yes    20+0   30      -     yes    0.7   1
bfloat16 127,128,129/130 80 1x8   2  48   -    -      1+2    5       row   yes    0.7   4
float64  700,1,33/700    80 1x8   1  16   -    -      -      30      head  yes    0.7   1
float64  385,256,0/400   64 2x3   2  -    yes  yes    64+4   5       -     yes    -     1
float16  127,128,129/130 80 1x4   16 16   -    yes    20+0   -       row   yes    -     1
"""
ALONE = (
    Case(),
    Case("float64", M=1),
    Case("float16", group=4),
    Case("bfloat16", M=3),
    Case("float16", page=16),
    Case("float16", int8=True),
    Case("bfloat16", append=True),
    Case(window=20),
    Case(window=20, sinks=4),
    Case(softcap=5.0),
    Case(alibi="head"),
    Case(lengths=(40,), page=16),
    Case(M=2, causal=False),
    Case(scale=0.7),
    Case("float16", std=4.0),
    Case("float64", (1, 0, 3), M=4, append=True),  # tokens without a position
    Case("float64", tuple(range(15, 18)), append=True, page=16),
    Case(lengths=(3, 9, 1), M=3, window=2, sinks=4),  # tokens among the sinks
)


def read(line: str) -> Case:
    """A line of GRID as a Case."""
    settings = dict(zip(GRID.split("\n")[1].split(), line.split(), strict=True))
    x = {name: None if word == "-" else word for name, word in settings.items()}
    lengths, T = settings["lengths"].split("/")
    H_kv, group = settings["heads"].split("x")
    window, sinks = (x["window"] or "0+0").split("+")
    numbers: dict[str, Any] = {name: int(word) for name in ("D", "M", "page") if (word := x[name])}
    numbers |= {name: float(word) for name in ("softcap", "scale", "std") if (word := x[name])}
    return Case(
        lengths=tuple(int(n) for n in lengths.split(",")),
        T=int(T),
        H_kv=int(H_kv),
        group=int(group),
        window=int(window) or None,
        sinks=int(sinks),
        dtype=settings["dtype"],
        alibi=x["alibi"],
        int8=x["int8"] is not None,
        append=x["append"] is not None,
        causal=x["causal"] is not None,
        **numbers,
    )


PAIRS = tuple(read(line) for line in GRID.split("\n")[2:-1])
CASES = ALONE + PAIRS


def lengths_up_to(T: int):
    """Sequences' lengths: the edges of blocks and splits as often as all others."""
    edges = {e + d for e in (0, 16, 32, 64, 128, 256, 384, 512, 640, T) for d in (-1, 0, 1)}
    return st.one_of(st.sampled_from(sorted(n for n in edges if 0 <= n <= T)), st.integers(0, T))


@st.composite
def cases(draw) -> Case:
    """Any call of the interface, small enough for the PTX machine: at most 3 sequences of at most 700 tokens."""
    T = draw(st.sampled_from((700, 640, 300, 160, 130, 40, 1)))
    causal = draw(st.sampled_from((True, True, True, False)))
    window = draw(st.none() | st.integers(1, 150)) if causal else None
    H_kv, group = draw(st.sampled_from(((1, 1), (2, 1), (3, 1), (1, 4), (2, 2), (2, 3), (1, 5), (1, 8))))
    return Case(
        dtype=draw(st.sampled_from(("float64", "float32", "float16", "bfloat16"))),
        lengths=tuple(draw(st.lists(lengths_up_to(T), min_size=1, max_size=3))),
        T=T,
        D=draw(st.sampled_from((16, 24, 32, 64, 80, 128))),
        H_kv=H_kv,
        group=group,
        M=draw(st.none() | st.integers(1, 16)),
        page=draw(st.none() | st.sampled_from((16, 24, 32, 48, 100, 128, 256))),
        int8=draw(st.booleans()),
        append=draw(st.booleans()),
        window=window,
        sinks=draw(st.integers(0, 20)) if window else 0,
        softcap=draw(st.none() | st.sampled_from((1.0, 5.0, 30.0, 50.0))),
        alibi=draw(st.none() | st.sampled_from(("head", "row"))),
        causal=causal,
        scale=draw(st.none() | st.sampled_from((0.05, 0.7))),
        std=draw(st.sampled_from((1.0, 4.0))),
        seed=draw(st.integers(0, 99)),
    )
