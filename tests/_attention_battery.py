"""Plain calls that any decode attention must pass; tests/_attention_grid.py has those with features."""

import numpy as np

from kvproof.reference.judge.cases import Case, check, draw_qkv, poison

CASES = (
    Case(lengths=(1, 0), T=1, D=4),
    Case(lengths=(140, 1, 0, 31, 32, 33, 127, 128, 129), T=140, D=32),  # a block and a split, one less, one more
    Case("float64", tuple(range(1, 36)), 40, H_kv=1),  # every residue of 16
    Case("float16", (19,), 20, 8, H_kv=25),
    Case("float16", (257, 1025, 1100), 1100, 64, H_kv=1),  # splits, more than eight, the last one of one slot
    Case("bfloat16", (300, 299), 300, 80, H_kv=1, q_scale=16.0, rising=True),
    Case("float32", (300, 257), 300, 64, H_kv=1, q_scale=16.0, rising=True),
    Case("float32", (20, 3), 20, H_kv=1, shift=-300.0),
    Case("float64", (20, 3, 7), 20, H_kv=1, shift=-1e12),  # below a finite mask
    Case("float16", (8193,), 8200, 4, H_kv=1),  # splits of 256
    Case("float32", (700, 650), 700, H_kv=1, q_scale=0.1, v_mean=1.0),  # long flat sums
    Case("float64", (12, 11), 12, 3, scale=0.7),  # three columns
)
DEAD = Case(lengths=(130, 33, 0), T=140, D=32, H_kv=1)
POISONS = (np.inf, 1e4)  # after NaN


def check_attention(op, cases=CASES):
    """Raise AssertionError unless op is decode attention: op(q, k, v, lengths, scale=None) -> o, all NumPy arrays."""
    for case in cases:
        check(op, case, return_lse=False)
    q, k, v, lengths = draw_qkv(DEAD)
    o = op(q, k, v, lengths)
    for value in POISONS:
        poison(k, v, lengths, value)
        assert o.tobytes() == op(q, k, v, lengths).tobytes(), f"{value} in the dead slots changes the result"
