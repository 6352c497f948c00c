"""The contract's draws that random ones never are: scores far below zero, and heads in groups."""

from dataclasses import replace

import numpy as np

from ....reference.judge.questions import LOW
from .op import Op, same_bits
from .report import HELD, Finding, NotChecked

# (heads, KV heads): groups of 2, 3, 4, 7 and 5, none of as many heads as there are groups.
GROUPED = ((6, 3), (6, 2), (12, 3), (14, 2), (5, 1))


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
