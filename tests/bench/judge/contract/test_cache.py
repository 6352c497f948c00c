"""The contract holds for every cache of ours, and each planted break fails the checks it should and no other."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from kvproof.bench.judge.contract.adapters import SMALL, Int8NumpyGPT2, NumpyGPT2, PagedNumpyGPT2, TorchGPT2
from kvproof.bench.judge.contract.cache import CHECKS, check_cache
from kvproof.bench.judge.contract.report import BROKEN, HELD, NOT_CHECKED, ContractBroken
from kvproof.bench.judge.faults.catalogue import TORCH_FAULTS
from kvproof.gpt2.weights import as_dtype, build
from kvproof.reference.cache import ContiguousCache
from kvproof.reference.model import forward
from kvproof.reference.synthetic import random_tensors

from . import _window_caches as window_caches
from ._broken_caches import BREAKS, CONFIG, PARAMS, KeepsOne, Late, Long, Masked, Stale, sentence

ALL = set(CHECKS)


def ours(adapter):
    return lambda: adapter(PARAMS, CONFIG)


def small_torch(dtype, impl, config=SMALL):
    tensors = ((name, torch.from_numpy(array)) for name, array in random_tensors(config))
    return build(config, tensors, None, as_dtype(dtype), torch.device("cpu"), impl)


@pytest.mark.parametrize("adapter", [NumpyGPT2, Int8NumpyGPT2, PagedNumpyGPT2])
def test_the_numpy_caches_keep_every_promise(adapter):
    report = check_cache(ours(adapter))
    assert report.green, str(report)
    assert set(report.named(NOT_CHECKED)) == (set() if adapter is PagedNumpyGPT2 else {"pages permuted"})


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("impl", ["eager", "sdpa"])
def test_the_static_cache_keeps_every_promise_and_in_bfloat16_those_that_bits_decide(impl, dtype):
    model = small_torch(dtype, impl)
    report = check_cache(lambda: TorchGPT2(model))
    assert report.green, str(report)
    if dtype == "bfloat16":
        assert {"dead slots", "last slot", "one past", "rows apart"} <= set(report.named(HELD))
    else:
        assert report.named(NOT_CHECKED) == ["pages permuted"]


SOME = ("dead slots", "last slot", "growing")


@pytest.mark.parametrize("checks", [SOME, pytest.param((), marks=pytest.mark.exhaustive)], ids=["some", "all"])
def test_the_static_cache_under_triton_keeps_every_promise(checks):
    one_head = replace(SMALL, n_head=1, n_layer=1)  # emulated, each launch takes its time
    model = small_torch("float32", "triton", one_head)
    report = check_cache(lambda: TorchGPT2(model, capacity=8), batch=2, prompt=4, steps=3, only=checks)
    assert report.green, str(report)
    assert set(report.named(HELD)) == (set(checks) or ALL - {"pages permuted"})


class Narrow(NumpyGPT2):
    """Says that it computes in bfloat16, and a step is a rounding's width off."""

    def __init__(self, *args):
        super().__init__(*args)
        self.dtype = "bfloat16"

    def new_cache(self, batch):
        return ContiguousCache(self.config, batch, self.capacity)

    def step(self, ids):
        return super().step(ids) * 1.004


def test_in_bfloat16_a_difference_is_said_to_be_open_and_is_never_held():
    report = check_cache(ours(Narrow), only=["growing", "rows apart"])
    assert report.named(NOT_CHECKED) == ["growing"]
    assert "bfloat16 logits cannot tell rounding from a bug; run it in float32" in sentence(report, "growing")


def test_every_check_is_failed_by_some_planted_break():
    assert set().union(*BREAKS.values()) == ALL


@pytest.mark.parametrize(("adapter", "broken"), [*BREAKS.items(), *window_caches.BREAKS.items()])
def test_a_broken_cache_fails_the_checks_it_should_and_no_other(adapter, broken):
    report = check_cache(ours(adapter))
    assert set(report.named(BROKEN)) == broken, str(report)
    with pytest.raises(ContractBroken, match="BROKEN"):
        report.raise_if_broken()


@pytest.mark.parametrize("prompt", [4, 5, 7, 14, 19])
@pytest.mark.parametrize("adapter", window_caches.HONEST, ids=lambda adapter: adapter.__name__)
def test_a_sliding_window_keeps_what_it_can_and_the_rest_is_not_checked(adapter, prompt):
    report = check_cache(ours(adapter), prompt=prompt, steps=9)
    assert report.green, str(report)
    assert set(report.named(NOT_CHECKED)) <= {"pages permuted", "crop", "one past", "dead slots"}
    if "crop" in report.named(NOT_CHECKED):
        assert sentence(report, "crop") == "the subject cannot: the tokens that left the window are gone"
    if "one past" in report.named(NOT_CHECKED):
        assert "one lies that may still be read" in sentence(report, "one past")


def test_the_newest_slot_of_each_buffer_is_told_by_its_place_once_slots_are_used_again():
    for adapter in (window_caches.Windowed, window_caches.Rolled):
        report = check_cache(ours(adapter), only=["last slot"])
        assert "its slot is read from each of 4 buffers" in sentence(report, "last slot")

    class Unplaced(window_caches.Rolled):
        def live(self):
            return super().live() >= 0

    report = check_cache(ours(Unplaced), only=["last slot"])
    assert report.green
    assert "slots are used again, and buffers() gives no token's place" in sentence(report, "last slot")


class StaleInTheRing(window_caches.Windowed):
    """A step reads an older value for the newest in the last layer."""

    def step(self, ids):
        newest = (int(self.cache.lengths[0]) - 1) % self.slots
        kept = self.cache.v[-1].copy()
        self.cache.v[-1, :, :, newest] = kept[:, :, newest - 1]
        logits = super().step(ids)
        self.cache.v[-1, :, :, newest] = kept[:, :, newest]
        return logits


@pytest.mark.parametrize(("adapter", "buffer"), [(StaleInTheRing, 3), (Stale, 2)])
def test_a_stale_buffer_is_named(adapter, buffer):
    report = check_cache(ours(adapter), only=["last slot"])
    words = f"the newest slot of buffer {buffer} of 4 is not read (row 0, 1, 2)"
    assert sentence(report, "last slot").startswith(words)


class Lone(window_caches.Windowed):
    """A window of one: no token sees another."""

    window = slots = 1


def test_a_window_of_one_is_not_blamed_for_what_no_prefill_sees():
    report = check_cache(ours(Lone), prompt=4)
    assert report.named(BROKEN) == [], str(report)
    assert sentence(report, "last slot") == "token 4 does not see the one before it in a prefill either (row 0, 1, 2)"


class Peaked(NumpyGPT2):
    """Scores so far apart that the newest token may weigh nothing."""

    def __init__(self, *args):
        super().__init__(*args)
        E = CONFIG.n_embd

        def sharper(p):
            sharp = {key: np.where(np.arange(3 * E) < E, 40, 1) * a for key, a in p["attn"]["c_attn"].items()}
            return p | {"attn": p["attn"] | {"c_attn": sharp}}

        self.params = self.params | {"h": [sharper(p) for p in self.params["h"]]}


def test_a_newest_slot_that_weighs_next_to_nothing_is_no_stale_one():
    for seed in range(3):
        report = check_cache(ours(Peaked), only=["last slot"], seed=seed)
        assert report.named(BROKEN) == [], str(report)


@pytest.mark.parametrize("fault", TORCH_FAULTS, ids=lambda fault: fault.name)
def test_the_contract_finds_every_torch_fault_of_the_cache_and_none_that_needs_the_oracle(fault):
    model = small_torch("float64", "sdpa")
    with fault.inject(model):
        report = check_cache(lambda: TorchGPT2(model), only=["growing", "ragged"])
    assert bool(report.named(BROKEN)) == (fault.seen_by == "cached against uncached"), str(report)


@pytest.mark.parametrize(("adapter", "name", "words"), [
    (Masked, "dead slots", "masked but not skipped"),
    (Long, "dead slots", "read like live ones"),
    (Late, "growing", "first at step 1, row 0 (3 of 3 rows)"),
])  # fmt: skip
def test_the_sentence_says_how_a_promise_is_broken_and_where(adapter, name, words):
    assert words in sentence(check_cache(ours(adapter), only=[name]), name)


class Minimal:
    """The ten lines of the docstring."""

    def __init__(self):
        self.cache = ContiguousCache(CONFIG, 3, 32)

    def prefill(self, ids):
        return forward(ids, PARAMS, CONFIG, self.cache)[:, -1]

    def step(self, ids):
        return self.prefill(ids[:, None])


def test_what_an_adapter_cannot_do_is_said_and_never_counted_as_held():
    report = check_cache(Minimal)
    assert report.green
    assert set(report.named(HELD)) == {"last slot", "rows apart", "rows permuted", "chunks", "growing"}
    assert sentence(report, "crop") == "no crop()"
    assert sentence(report, "dead slots") == "no buffers()"
    assert "not told apart by buffer: no buffers()" in sentence(report, "last slot")
    assert "a fresh prefill of all" in sentence(report, "growing")


def test_a_required_check_that_cannot_be_made_is_red():
    report = check_cache(Minimal, require=["crop"])
    assert not report.green
    with pytest.raises(ContractBroken, match="required and not checked: crop"):
        report.raise_if_broken()
    with pytest.raises(ValueError, match="there is no check 'crp' to make; choose from dead slots, last slot"):
        check_cache(Minimal, require=["crp"])
    with pytest.raises(ValueError, match="there is no check 'crop' to make; choose from reset"):
        check_cache(Minimal, only=["reset"], require=["crop"])


class Refuses(NumpyGPT2):
    def crop(self, n):
        raise NotImplementedError("pages cannot be split")

    def reset(self):
        raise RuntimeError("device lost")


def test_a_refusal_is_not_checked_and_any_other_exception_breaks_the_promise():
    report = check_cache(ours(Refuses))
    assert sentence(report, "crop") == "the subject cannot: pages cannot be split"
    assert report.named(BROKEN) == ["reset"]
    assert sentence(report, "reset").startswith("raised RuntimeError: device lost (at test_cache.py:")


def test_a_promise_of_batch_invariance_is_held_to_the_bit():
    class Rounds(NumpyGPT2):
        def prefill(self, ids):
            return super().prefill(ids) * (1 + 2.0**-50 * np.arange(len(ids)))[:, None]

    assert "rows permuted" in check_cache(ours(Rounds)).named(HELD)
    Rounds.batch_invariant = True
    assert "rows permuted" in check_cache(ours(Rounds)).named(BROKEN)


def test_the_record_is_json_with_null_for_what_is_not_finite():
    record = json.loads(json.dumps(check_cache(ours(Masked)).record(), allow_nan=False))
    assert record["subject"] == "Masked (float64)"
    assert not record["green"]
    dead = record["checks"][0]
    assert (dead["name"], dead["outcome"]) == ("dead slots", "broken")
    assert dead["numbers"]["error with nan"] is None
    assert dead["numbers"]["error with 10000.0"] == 0


def test_a_cache_that_gives_nan_holds_nothing():
    class Lost(NumpyGPT2):
        def prefill(self, ids):
            return super().prefill(ids) * np.nan

    report = check_cache(ours(Lost))
    assert set(report.named(BROKEN)) == ALL - {"pages permuted"}


def test_a_masked_vocabulary_is_no_nan():
    class Masks(NumpyGPT2):
        recompute = None

        def prefill(self, ids):
            return np.where(np.arange(CONFIG.n_vocab) < 50, super().prefill(ids), -np.inf)

    assert check_cache(ours(Masks), vocab=50, only=["growing", "rows apart", "reset", "dead slots"]).green


def test_a_cache_that_is_false_when_empty_is_not_taken_for_none():
    class Sized(KeepsOne):
        def __len__(self):
            return 0

    assert "reset" in check_cache(ours(Sized)).named(BROKEN)


def test_sizes_too_small_to_tell_anything_are_refused():
    with pytest.raises(ValueError, match="batch 1, prompt 19, steps 6; give at least 2, 4 and 3"):
        check_cache(Minimal, batch=1)


def test_logits_of_all_positions_are_refused_in_words():
    class Whole(NumpyGPT2):
        def prefill(self, ids):
            return forward(ids, PARAMS, CONFIG)

    with pytest.raises(ValueError, match=r"give \(B, V\) with B = 3, those after each row's last token"):
        check_cache(ours(Whole))
