"""Wrong attentions, computed from the right keys and values: the one that gives a path's wrong output names its bug."""

from collections.abc import Callable, Iterator

import numpy as np

BLOCKS = (8, 16, 32, 64, 128, 256)
EXPLAINED = 1e-3  # of the difference that a hypothesis may leave over; the right one leaves rounding, others most of it

Op = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float | None = None, zeros: int = 0) -> np.ndarray:
    """The plain formula for one token, with so many slots of zeros after its own.

    q (H, D), k and v (H_kv, n, D) -> (H, D), float64; query head h reads head h // (H / H_kv).
    """
    if not k.shape[1]:
        return np.zeros(q.shape)
    group = len(q) // len(k)
    k, v = np.repeat(k, group, 0), np.repeat(v, group, 0)
    s = np.einsum("hd,hnd->hn", q, k) * (q.shape[1] ** -0.5 if scale is None else scale)
    top = np.maximum(s.max(1, keepdims=True), 0 if zeros else -np.inf)
    p = np.exp(s - top)
    total = p.sum(1, keepdims=True) + zeros * np.exp(-top)
    return np.einsum("hn,hnd->hd", p / total, v)


def tiled(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """`attend` where query head h reads head h mod H_kv."""
    times = (len(q) // len(k), 1, 1)
    return attend(q, np.tile(k, times), np.tile(v, times))


def hypotheses() -> Iterator[tuple[str, str, Op]]:
    """(name, sentence, op) of each, likeliest first where two give the same numbers."""

    def cut(low: int, high: int) -> Op:
        return lambda q, k, v: attend(q, k[:, low : k.shape[1] + high], v[:, low : v.shape[1] + high])

    def whole_blocks(block: int) -> Op:
        def op(q, k, v):
            n = k.shape[1] // block * block
            return attend(q, k[:, :n], v[:, :n])

        return op

    def block_end(block: int) -> Op:
        return lambda q, k, v: attend(q, k, v, zeros=-k.shape[1] % block)

    yield "scale", "the scores are not divided by √head_dim", lambda q, k, v: attend(q, k, v, 1.0)
    yield "scale", "the scores are divided by √head_dim twice", lambda q, k, v: attend(q, k, v, 1 / q.shape[1])
    yield "scale", "the scores are divided by √n_embd, not √head_dim", lambda q, k, v: attend(q, k, v, q.size**-0.5)
    for literal in (0.5, 0.25, 0.125, 0.0625):
        words = f"the scores are multiplied by {literal}, which is 1/√head_dim of another head size"
        yield "scale", words, lambda q, k, v, literal=literal: attend(q, k, v, literal)
    yield "length", "the newest slot is not read: the length is one short, or read before the append", cut(0, -1)
    yield "length", "the oldest slot is not read: the range starts one late", cut(1, 0)
    yield "length", "one slot past the last is read: the length is one long", lambda q, k, v: attend(q, k, v, zeros=1)
    first = "only the first slot is seen: a causal mask aligned at the top left, not the bottom right"
    yield "mask", first, lambda q, k, v: attend(q, k[:, :1], v[:, :1])
    yield "values", "the values are read from the keys", lambda q, k, v: attend(q, k, k)
    yield "values", "the keys are read from the values", lambda q, k, v: attend(q, v, v)
    yield "heads", "every head reads head 0: the head index is lost", lambda q, k, v: attend(q, k[:1], v[:1])
    turned = "the heads are permuted: head h reads another head's keys and values"
    yield "heads", turned, lambda q, k, v: attend(q, np.roll(k, -1, 0), np.roll(v, -1, 0))
    yield "heads", turned, lambda q, k, v: attend(q, np.roll(k, 1, 0), np.roll(v, 1, 0))
    yield "heads", turned, lambda q, k, v: attend(q, k[::-1], v[::-1])
    grouped = "query head h reads head h mod H_kv; it must read h // (H / H_kv)"
    yield "heads", grouped, tiled
    yield "length", "no slot is read: the output is zero", lambda q, k, v: attend(q, k[:, :0], v[:, :0])
    for block in BLOCKS:
        yield "tail", f"the last, partial block of {block} slots is skipped", whole_blocks(block)
    for block in BLOCKS:
        yield "tail", f"the last block of {block} slots is read whole: the tail mask is missing", block_end(block)


def explain(a: np.ndarray, b: np.ndarray, q: np.ndarray, kv: np.ndarray, lengths: np.ndarray, wrong: np.ndarray):
    """(name, sentence) of the wrong attention that gives a where a parts from b; None if none does.

    a, b     (B, n, H, D)       outputs, a's under suspicion
    q        (B, n, H, D)       queries
    kv       (B, T, 2 H_kv, D)  what the cache should hold, keys' heads before values'
    lengths  (B, n)             slots that each token sees, its own included
    wrong    (B, n) bool        where a parts from b
    """
    k, v = np.split(kv.swapaxes(1, 2), 2, axis=1)  # (B, H_kv, T, D)
    places = [tuple(place) for place in np.argwhere(wrong)][:64]
    if not places or not all(np.isfinite(x[place]).all() for x in (a, b) for place in places):
        return None

    def left(op: Op, row: int = 0) -> float:
        """The largest difference from a that op leaves, keys and values taken from `row` sequences further on."""
        worst = 0.0
        for at, step in places:
            n, other = lengths[at, step], (at + row) % len(k)
            with np.errstate(all="ignore"):
                o = op(q[at, step], k[other, :, :n], v[other, :, :n])
            worst = max(worst, float(np.abs(o - a[at, step]).max(initial=0.0))) if np.isfinite(o).all() else np.inf
        return worst

    moved = max(float(np.abs(a[place] - b[place]).max()) for place in places)
    for at, step in places:
        n = lengths[at, step]
        if np.abs(attend(q[at, step], k[at, :, :n], v[at, :, :n]) - b[at, step]).max() > EXPLAINED * moved:
            return None  # queries or keys are turned on their way: the formula does not give b either
    for name, sentence, op in hypotheses():
        if left(op) <= EXPLAINED * moved:
            return name, sentence
    for row in range(1, len(k)):
        if left(attend, row) <= EXPLAINED * moved:
            return "rows", "a sequence reads another one's slots: rows of the batch are mixed"
    return None
