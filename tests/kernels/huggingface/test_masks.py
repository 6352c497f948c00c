"""Which slots a decode step sees: found from the mask that a model hands over, and refused where it says more."""

import pytest
import torch

from kvproof.kernels.huggingface.masks import has_sdpa, live_slots, mask, ours, selected, shows_all

from ._models import model, transformers

LOWEST = torch.finfo(torch.float32).min


def seen(*rows: str) -> torch.Tensor:
    """(B, 1, 1, T) of rows like "..xx.", x where seen."""
    return torch.tensor([[c == "x" for c in row] for row in rows])[:, None, None]


def test_runs_are_found_with_their_first_slots_and_lengths():
    live = live_slots(seen("..xxx.", ".....x", "xx...."), 3, 6)
    assert live.first.tolist() == [2, 5, 0]
    assert live.lengths.tolist() == [3, 1, 2]
    assert (live.table, live.start) == (None, None)


def test_runs_that_begin_together_have_one_start():
    assert live_slots(seen("..xxx.", "..x..."), 2, 6).start == 2
    assert live_slots(seen("..xxx."), 3, 6).lengths.tolist() == [3, 3, 3]  # one mask for all sequences


def test_where_slots_between_are_hidden_a_table_names_the_others_in_order():
    live = live_slots(seen("x.x.xx", "..xxx."), 2, 6)
    assert live.table is not None
    assert live.table.dtype == torch.int32
    assert [row[:n] for row, n in zip(live.table.tolist(), live.lengths.tolist(), strict=True)] == [
        [0, 2, 4, 5],
        [2, 3, 4],
    ]


def test_a_sequence_that_sees_nothing_has_length_0():
    live = live_slots(seen("......", "..xx.."), 2, 6)
    assert (live.first.tolist(), live.lengths.tolist()) == ([0, 2], [0, 2])


@pytest.mark.parametrize("hidden", [LOWEST, -torch.inf])
def test_a_mask_of_floats_shows_where_it_adds_0(hidden):
    added = torch.where(seen("..xxx."), 0.0, hidden)
    assert live_slots(added, 1, 6).first.tolist() == [2]


def test_a_mask_is_looked_at_once_and_again_after_it_was_changed():
    shown = ours(seen("..xxx."))
    assert shown is not None
    first = live_slots(shown, 1, 6)
    assert live_slots(shown, 1, 6) is first
    shown[..., 5] = True
    assert live_slots(shown, 1, 6).lengths.tolist() == [4]
    with torch.inference_mode():
        inside = ours(seen("..xxx."))
        assert inside is not None
        assert live_slots(inside, 1, 6).lengths.tolist() == [3]
        inside[..., 5] = True  # such tensors count no changes
        assert live_slots(inside, 1, 6).lengths.tolist() == [4]


def test_a_mask_of_the_user_s_is_looked_at_anew_however_it_was_written():
    shown = seen("..xxx.")
    assert live_slots(shown, 1, 6).lengths.tolist() == [3]
    shown.data[..., 5] = True  # which counts no change
    assert live_slots(shown, 1, 6).lengths.tolist() == [4]
    shown.numpy()[..., 4] = False
    assert live_slots(shown, 1, 6).table is not None


def test_whole_numbers_are_no_mask():
    with pytest.raises(ValueError, match=r"attention_mask is torch\.int64; give bool, or floats of 0 and -inf"):
        live_slots(seen("..xxx.").long(), 1, 6)


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (seen("..xxx.").expand(1, 4, 1, 6), r"is \[1, 4, 1, 6\].*takes \[2, 1, 1, 6\], the same for all heads"),
        (seen("..xxx").expand(2, 1, 1, 5), r"is \[2, 1, 1, 5\]; a decode step over 6 slots"),
        (seen("..xxx.")[0], r"is \[1, 1, 6\]"),
        (torch.full((2, 1, 1, 6), -0.5), "neither 0 nor the lowest"),
    ],
)
def test_a_mask_that_says_more_is_refused(shown, words):
    with pytest.raises(ValueError, match=words + r".*use attn_implementation=\"eager\""):
        live_slots(shown, 2, 6)


def test_none_stands_for_a_mask_only_where_it_hides_nothing_that_is_no_later_token():
    assert shows_all(0, 5, 0, 5)
    assert shows_all(4, 1, 0, 5)
    assert shows_all(9, 1, 5, 5)  # a window that has moved
    assert not shows_all(4, 1, 0, 8)  # unfilled slots behind the query
    assert not shows_all(0, 5, 0, 8)
    assert not shows_all(3, 2, 0, 5)  # a chunk: two queries, three older slots
    assert not shows_all(torch.tensor(4), 1, 0, 5)


@pytest.mark.parametrize(("family", "dtype"), [("llama", torch.bool), ("gpt_oss", torch.float32)])
def test_models_without_sdpa_get_masks_of_floats_and_never_none(family, dtype):
    config = model(family).config
    sizes = {"batch_size": 1, "kv_length": 4, "dtype": torch.float32}
    made = mask(config=config, q_length=2, q_offset=2, **sizes)
    assert made is not None
    assert (made.dtype, tuple(made.shape)) == (dtype, (1, 1, 2, 4))
    assert (made == 0).sum() == (7 if dtype == torch.float32 else 1)
    assert (mask(config=config, q_length=4, q_offset=0, **sizes) is None) == (family == "llama")
    assert has_sdpa(f"transformers.models.{family}.modeling_{family}") == (family == "llama")


def test_a_config_of_unknown_origin_gets_masks_of_floats():
    made = mask(config=object(), batch_size=1, q_length=1, q_offset=3, kv_length=4, dtype=torch.float32)
    assert made is not None
    assert made.dtype == torch.float32


def test_selected_slots_hide_the_others():
    indices = torch.tensor([[[1, 4]]], dtype=torch.int32)
    both = selected(seen(".xxxx."), indices, 6)
    assert both[0, 0, 0].tolist() == [False, True, False, False, True, False]
    assert torch.equal(selected(None, indices, 6), both)
    added = selected(torch.where(seen(".xxx.."), 0.0, LOWEST), indices, 6)
    assert live_slots(added, 1, 6).lengths.tolist() == [1]


def test_the_mask_is_registered_under_the_same_name():
    from kvproof import register_with_transformers

    register_with_transformers()
    assert transformers.AttentionMaskInterface()["kvproof"] is mask
