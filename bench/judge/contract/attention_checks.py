"""The checks of `check_attention`: each draws inputs on which one kind of bug shows.

Random data does not see edges, so needles stand in the last live slot and one past it, poison in the dead ones.
"""

from dataclasses import replace

import numpy as np

from ....reference.judge.cases import poison
from ....reference.judge.questions import LOW
from .memory_checks import POISONS
from .op import Op, same_bits
from .report import BROKEN, HELD, Finding, NotChecked, first_broken

NEEDLE = 16.0  # a key of so many queries: its score outshines all others


def formula(op: Op, **draw) -> Finding:
    q, k, v = op.draw(**draw)
    return op.hold(op(q, k, v), q, k, v, "the plain formula at all lengths", "not the plain formula")


def layouts(op: Op) -> Finding:
    q, k, v = op.draw()
    own = op(q, k, v)
    by_token = np.ascontiguousarray(k.swapaxes(1, 2)).swapaxes(1, 2)
    B, H, T, D = v.shape
    wide = np.zeros((B, H, T + 3, D), v.dtype)
    wide[:, :, :T] = v
    broken = "with strides of their own K or V are read where they do not lie"
    pairs = ((by_token, v), (k, wide[:, :, :T]))
    held = "any strides of K and V"
    return first_broken(op.alike(op(q, *pair), own, q, k, v, op.lengths, held, broken) for pair in pairs)


def dead_slots(op: Op) -> Finding:
    q, k, v = op.draw()
    clean = op(q, k, v)

    def poisoned(value: float) -> Finding:
        poison(k, v, op.lengths, value)
        return same_bits(op, op(q, k, v), clean, "NaN, inf and 1e4 there change no bit", f"{value} there is read")

    return first_broken(map(poisoned, POISONS))


def needle(op: Op, past: int) -> tuple[np.ndarray, ...]:
    """`draw`, with a key that outshines all others, and values of 3, in slot lengths[b] - 1 + past."""
    q, k, v = op.draw(room=past)
    for b, n in enumerate(op.lengths):
        k[b, :, n - 1 + past] = NEEDLE * q[b]
        v[b, :, n - 1 + past] = 3.0
    return q, k, v


def last_slot(op: Op) -> Finding:
    q, k, v = needle(op, 0)
    broken = "a needle in the last live slot is missed: the length is short, or the last block is"
    return op.hold(op(q, k, v), q, k, v, "a needle in the last live slot is found", broken)


def one_past(op: Op) -> Finding:
    clean = op(*op.draw(room=1))
    got = op(*needle(op, 1))
    held = "a needle one past the last live slot changes no bit"
    broken = "a needle one past the last live slot is seen: the length is long, or the last block's mask is missing"
    return same_bits(op, got, clean, held, broken)


def apart(op: Op, axis: int) -> Finding:
    """Other numbers in one row (axis 0) or head (axis 1) change no bit of the others."""
    q, k, v = op.draw()
    name = ("row", "head")[axis]
    if q.shape[axis] < 2:
        raise NotChecked(f"one {name} only")
    clean, at = op(q, k, v), (slice(None),) * axis

    def changed_in(i: int) -> Finding:
        others = [j for j in range(q.shape[axis]) if j != i]
        changed = [x.copy() for x in (q, k, v)]
        for x in changed:
            x[(*at, i)] = -2 * x[(*at, i)] + np.asarray(1, x.dtype)
        got = op(*changed)
        if np.array_equal(got[(*at, i)], clean[(*at, i)]):
            return Finding(BROKEN, f"other numbers in {name} {i} do not change its result: another is read for it")
        rest = (*at, others)
        broken = f"other numbers in {name} {i} change other {name}s' results"
        return same_bits(op, got[rest], clean[rest], f"no {name} sees another", broken)

    return first_broken(map(changed_in, (0, q.shape[axis] - 1)))


def rows_permuted(op: Op) -> Finding:
    q, k, v = op.draw()
    order = np.arange(len(q))[::-1]
    own, got = op(q, k, v)[order], op(q[order], k[order], v[order], op.lengths[order])
    held, broken = "any order of rows", "a row's result depends on its place in the batch"
    if op.batch_invariant:
        return same_bits(op, got, own, f"{held}, bit for bit", broken)
    return op.alike(got, own, q[order], k[order], v[order], op.lengths[order], held, broken)


def one_slot(op: Op) -> Finding:
    q, k, v = op.draw()
    got = op(q, k, v, np.ones_like(op.lengths))
    return same_bits(op, got, np.ascontiguousarray(v[:, :, 0]), "length 1 returns V[0] exactly", "length 1 is not V[0]")


def no_slot(op: Op) -> Finding:
    q, k, v = op.draw()
    lengths = op.lengths.copy()
    lengths[::2] = 0
    try:
        got = op(q, k, v, lengths)
    except ValueError as refusal:
        raise NotChecked(f"length 0 is refused: {refusal}") from None
    broken = "length 0 does not give zeros: 0 / 0, or an output that nobody wrote"
    return op.hold(got[::2], q[::2], k[::2], v[::2], "length 0 gives zeros", broken, lengths[::2])


def low_scores(op: Op) -> Finding:
    """Where all live scores are far below zero, dead slots still weigh nothing: one slot outshines the others."""
    q, k, v = op.draw(room=1)
    (B, H, D), (low, high) = q.shape, LOW[op.dtype]
    q[:], k[..., 0], want = 0, 0, np.empty_like(q)
    q[..., 0] = 32
    unit = D**0.5 / 32
    for b, h in np.ndindex(B, H):
        n = int(op.lengths[b])
        slot = (7 * b + 3 * h) % n
        k[b, h, :n, 0], k[b, h, slot, 0] = low * unit, high * unit
        want[b, h] = v[b, h, slot]
    scores = f"where live scores are {low:.1e} and one {high:.1e}, that one"
    finding = same_bits(op, op(q, k, v), want, f"{scores} outshines all", f"{scores} does not outshine all")
    if finding.outcome == HELD:
        return finding
    usual = op.draw(room=1)
    if op.hold(op(*usual), *usual, "", "").outcome == HELD:
        why = "at usual scores it is right: dead slots get a finite score, or live ones overflow"
        return finding._replace(sentence=f"{finding.sentence}; {why}")
    return finding


def grouped_heads(op: Op) -> Finding:
    """Query head h reads K and V of KV head h // (H / H_kv)."""
    lengths = op.lengths[[0, len(op.lengths) // 2, -1]]
    # A group's heads fill a tile of the tensor cores, which multiply values by weights of 16 bits.
    narrow = op.dtype if op.dtype in ("float16", "bfloat16") else None
    refused, finding = [], NotChecked("no grouped heads are asked for")
    plain = replace(op, lengths=lengths)
    plain(*plain.draw())  # what it raises for heads of any kind is no refusal of groups
    for heads, kv_heads in op.grouped:
        one = replace(op, heads=heads, lengths=lengths)
        q, k, v = one.draw(kv_heads=kv_heads)
        try:
            o = one(q, k, v)
        except Exception as refusal:  # an attention without groups says so in one way or another
            refused.append(f"{heads} heads on {kv_heads} KV heads are refused: {refusal}")
            continue
        group, tiles = heads // kv_heads, np.arange(heads) % kv_heads
        broken = f"of {heads} heads on {kv_heads} KV heads, head h does not read KV head h // {group}"
        finding = one.hold(o, q, k, v, "each head reads its group's KV head", broken, rounded_weights=narrow)
        if finding.outcome != HELD:
            if one.hold(o, q, k[:, tiles], v[:, tiles], "", "", rounded_weights=narrow).outcome == HELD:
                return finding._replace(sentence=f"{finding.sentence}; it reads h % {kv_heads}")
            return finding
    if isinstance(finding, NotChecked):
        raise NotChecked(refused[0]) if refused else finding
    return finding._replace(sentence="; ".join([finding.sentence, *refused]))
