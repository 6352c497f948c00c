"""flash_attn_with_kvcache means what flash-attn's does: its own test's grid of arguments, against the plain formula.

All of a sample of the grid goes through NumPy in place of the kernels, which are held to the same interface elsewhere;
each way to call them is then taken with the kernels in place.
"""

import inspect
from itertools import combinations, cycle, product

import numpy as np
import pytest
import torch

from kvproof.kernels.attention import flash as flash_attention
from kvproof.kernels.attention import flash_attn_with_kvcache
from kvproof.reference.judge.faults.decode_op import decode_op

from ._flash_grid import FACTORS, allowed, check, covering, pairs_of


def in_numpy(q, k, v, lengths, *, return_lse, **asked):
    """decode_attention, by the formula: float64, rounded once."""
    given = {"q": q, "k": k, "v": v, "lengths": lengths, **asked}
    arrays = {n: x.numpy() if isinstance(x, torch.Tensor) else x for n, x in given.items()}
    return tuple(torch.from_numpy(x) for x in decode_op(**arrays))


def merged_in_numpy(o_a, lse_a, o_b, lse_b):
    lse = torch.logaddexp(lse_a, lse_b)
    shares = [torch.where(x.isneginf(), 0, (x - lse).exp())[..., None] for x in (lse_a, lse_b)]
    return (shares[0] * o_a + shares[1] * o_b).to(o_a.dtype), lse


@pytest.fixture
def numpy_kernels(monkeypatch):
    monkeypatch.setattr(flash_attention, "decode_attention", in_numpy)
    monkeypatch.setattr(flash_attention, "merge_state", merged_in_numpy)


SAMPLE = covering()
BASE = {**{name: values[0] for name, values in FACTORS.items()}, "d": 32, "heads": 3, "sizes": (3, 140)}
# Each way to compose the call: what a case has beside BASE. Lengths past 128 are two splits.
WAYS = {
    "one launch appends rotated rows": {"new_kv": True, "causal": True, "rotary": 0.5},
    "one token in a window, from pages": {"new_kv": True, "local": True, "page": 16, "sizes": (1, 140)},
    "all is seen, biased both ways": {"alibi": True, "leftpad": True},
    "chunks of 16 with the rows of a cache in any order": {"causal": True, "batch_idx": True, "sizes": (17, 40)},
    "windows to the right": {"local": True, "new_kv": True, "sizes": (2, 21)},
    "windows to the right, biased both ways": {"local": True, "alibi": True, "sizes": (2, 21)},
}


def test_the_sample_has_every_pair_of_arguments_together():
    met = set().union(*map(pairs_of, SAMPLE))
    assert all(map(allowed, SAMPLE))
    for a, b in combinations(FACTORS, 2):
        for one, other in product([(a, x) for x in FACTORS[a]], [(b, x) for x in FACTORS[b]]):
            assert ((one, other) in met) == allowed(dict([one, other])), (one, other)


@pytest.mark.parametrize("case", SAMPLE, ids=range(len(SAMPLE)))
def test_arguments_mean_what_they_mean_to_flash_attn(case, numpy_kernels):
    check(case, "cpu")


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_compose_the_call_is_right_on_the_kernels(way, device):
    check(BASE | WAYS[way], device)


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", SAMPLE, ids=range(len(SAMPLE)))
def test_arguments_mean_what_they_mean_to_flash_attn_on_the_kernels(case, device):
    check(case, device)


@pytest.mark.exhaustive
def test_all_of_flash_attns_grid_means_the_same(numpy_kernels):
    """Every combination but those of head_dim and lengths, which take turns."""
    small = {name: values for name, values in FACTORS.items() if name not in ("d", "sizes")}
    turns = cycle(product(FACTORS["d"], FACTORS["sizes"]))
    for values in product(*small.values()):
        case = dict(zip(small, values, strict=True))
        if allowed(case):
            d, sizes = next(turns)
            check(case | {"d": d, "sizes": sizes}, "cpu")


@pytest.mark.parametrize("window", [(-1, 0), (0, 0), (5, -1), (-1, 2), (3, 1), (500, 500), (500, 0)])
@pytest.mark.parametrize("alibi", [False, True])
def test_either_side_of_a_window_may_be_endless_or_wider_than_the_cache(window, alibi, numpy_kernels):
    case = BASE | {"dtype": "float64", "alibi": alibi, "new_kv": True, "sizes": (19, 40)}
    check(case, "cpu", window_size=window)


@pytest.mark.parametrize("window", [(-1, -1), (500, 500), (-1, 2), (3, -1)])
def test_queries_are_rotated_as_one_position_where_no_window_ends_within_the_cache(window, numpy_kernels):
    case = BASE | {"dtype": "float64", "new_kv": True, "rotary": 1.0, "sizes": (3, 40)}
    check(case, "cpu", window_size=window)


@pytest.mark.parametrize("causal", [False, True])
def test_softcap_comes_before_the_bias_and_the_scale_before_both(causal, numpy_kernels):
    case = BASE | {"dtype": "float64", "alibi": True, "causal": causal}
    check(case, "cpu", softcap=0.7, softmax_scale=0.5)


def test_tokens_before_the_sequence_began_see_what_their_window_reaches(numpy_kernels):
    for window in ((-1, -1), (-1, 0), (2, 2), (-1, 4)):
        case = BASE | {"dtype": "float64", "sizes": (20, 30)}
        check(case, "cpu", cache_seqlens=np.array([3, 18], np.int32), window_size=window)


def test_the_signature_is_flash_attns():
    names = "q k_cache v_cache k v rotary_cos rotary_sin cache_seqlens cache_batch_idx cache_leftpad block_table "
    names += "softmax_scale causal window_size softcap rotary_interleaved alibi_slopes num_splits return_softmax_lse"
    defaults = (*[None] * 9, False, (-1, -1), 0.0, True, None, 0, False)
    parameters = inspect.signature(flash_attn_with_kvcache).parameters.values()
    assert [p.name for p in parameters] == names.split()
    assert tuple(p.default for p in parameters if p.default is not p.empty) == defaults
    assert {p.kind for p in parameters} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


def plain_call():
    x = torch.arange(2 * 8 * 2 * 4).reshape(2, 8, 2, 4) / 100
    return {"q": x[:, :1], "k_cache": x.clone(), "v_cache": x.flip(1)}


def test_a_number_of_slots_is_that_of_every_sequence_and_none_is_all(numpy_kernels):
    call = plain_call()
    for number in (3, None):
        lengths = torch.full((2,), number or 8, dtype=torch.int32)
        want = flash_attn_with_kvcache(**call, cache_seqlens=lengths)
        assert isinstance(want, torch.Tensor)
        assert torch.equal(flash_attn_with_kvcache(**call, cache_seqlens=number), want)


INDEX = torch.zeros(2, dtype=torch.int32)
ROW = torch.zeros(2, 1, 2, 4)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"q": torch.ones(2, 2, 4)}, r"q is \[2, 2, 4\].*four axes"),
        ({"k": ROW}, "in part; to append, pass k, v and how many"),
        ({"k": ROW, "v": ROW}, "in part; to append, pass k, v and how many"),
        ({"k": ROW[:1], "v": ROW, "cache_seqlens": 3}, r"k is torch.float32 \[1, 1, 2, 4\].*\[2, 1, 2, 4\]"),
        ({"k": ROW, "v": ROW, "cache_seqlens": 8}, r"cache_seqlens are \[8, 8\], with 1 new rows.*has 8 slots"),
        ({"cache_seqlens": INDEX, "cache_leftpad": INDEX + 1}, r"begin at slot \[1, 1\]"),
        ({"cache_seqlens": INDEX.long()}, r"cache_seqlens is torch.int64.*must be torch.int32 \[2\]"),
        ({"rotary_cos": ROW}, "rotary_cos came without"),
        ({"block_table": INDEX[:, None], "cache_batch_idx": INDEX}, "block_table came with cache_batch_idx"),
        ({"k_cache": torch.ones(3, 8, 2, 4)}, "q has 2 sequences, k_cache 3"),
        ({"cache_batch_idx": INDEX + 2}, r"cache_batch_idx is \[2, 2\]; k_cache has rows 0..1"),
        ({"cache_batch_idx": INDEX - 1}, r"cache_batch_idx is \[-1, -1\]"),
        ({"cache_leftpad": INDEX - 1, "cache_seqlens": 3}, r"cache_leftpad is \[-1, -1\]; each must be 0 or more"),
        ({"block_table": INDEX[:, None] - 1, "cache_seqlens": 3}, r"block_table\[0, 0\] is -1; sequence 0 has 3 slots"),
        (
            {
                "block_table": INDEX[:, None] + 7,
                "k": ROW.repeat(1, 2, 1, 1),
                "v": ROW.repeat(1, 2, 1, 1),
                "cache_seqlens": 3,
            },
            r"block_table\[0, 0\] is 7; sequence 0 has 5 slots, 8 to a page, and the cache has pages 0..1",
        ),
        ({"cache_leftpad": INDEX, "v_cache": torch.ones(2, 9, 2, 4)[:, :8]}, "v_cache has strides.*move sequences"),
        (
            {"k": ROW, "v": ROW, "cache_seqlens": 3, "rotary_cos": torch.ones(7, 2), "rotary_sin": torch.ones(7, 2)},
            r"rotary_cos is \[7, 2\].*with 8 positions or more",
        ),
        (
            {
                "k": ROW,
                "v": ROW,
                "cache_seqlens": 3,
                "rotary_cos": torch.ones(8, 2).half(),
                "rotary_sin": torch.ones(8, 2).half(),
            },
            "rotary_cos is torch.float16.*must be the same",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(more, says):
    with pytest.raises(ValueError, match=says):
        flash_attn_with_kvcache(**plain_call() | more)
