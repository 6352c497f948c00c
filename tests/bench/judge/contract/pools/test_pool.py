"""The pool contract holds for right pools, and each planted bug is named broken in the promise it breaks."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from kvproof.bench.judge.contract.adapters import SMALL
from kvproof.bench.judge.contract.pool import check_pool
from kvproof.bench.judge.contract.pools.engine_pool import EnginePool
from kvproof.bench.judge.contract.pools.numpy_pool import NumpyPool
from kvproof.bench.judge.contract.pools.promises import CHECKS
from kvproof.bench.judge.contract.pools.scene import PoolTrial
from kvproof.bench.judge.contract.pools.transformers_pool import TransformersPool
from kvproof.bench.judge.contract.report import BROKEN, HELD, NOT_CHECKED, ContractBroken
from kvproof.gpt2.weights import as_dtype, build
from kvproof.reference.synthetic import random_tensors
from kvproof.reference.weights import nest

from .._broken_caches import sentence
from ._broken_pools import (
    BREAKS,
    CountsTheRefused,
    Good,
    KeysOutlive,
    NoCopyOnWrite,
    NoMethods,
    RefusalFreesThePast,
    ResetKeepsKeys,
    RevivedStaysFree,
    SaysTooMuch,
)

ALL = set(CHECKS)
PAGE = 4
# What a slow model is asked in CI; "all" is everything.
SOME = ("together", "another past", "rollback in shared blocks", "reset")
some_or_all = pytest.mark.parametrize(
    "checks", [SOME, pytest.param((), marks=pytest.mark.exhaustive)], ids=["some", "all"]
)


def named(report, outcome):
    return set(report.named(outcome))


def test_a_right_pool_keeps_every_promise():
    report = check_pool(Good, page=PAGE)
    assert report.green, str(report)
    assert named(report, HELD) == ALL
    assert "tokens taken from the cache" in sentence(report, "prefix")
    assert "bit for bit" in sentence(report, "reset")


@pytest.mark.parametrize("page", [2, 3, pytest.param(16, marks=pytest.mark.exhaustive)])
def test_blocks_may_have_any_size(page):
    assert check_pool(lambda: Good(page=page), page=page, only=[] if page == 16 else SOME).green


def test_the_texts_of_a_trial_differ_in_every_place():
    trial = PoolTrial(Good, PAGE, 23, 1e-11, "float64")
    texts = np.array([trial.text(5 * PAGE, which) for which in range(16)])
    assert all(len(set(column)) == 16 for column in texts.T)
    assert len({trial.text(PAGE, which) for which in range(400)}) == 400


@pytest.mark.parametrize("pool", BREAKS, ids=lambda pool: pool.__name__)
def test_a_broken_pool_is_named_in_the_promise_it_breaks(pool):
    promise, _ = BREAKS[pool]
    report = check_pool(pool, page=PAGE, only=[promise])
    assert named(report, BROKEN) == {promise}, str(report)
    with pytest.raises(ContractBroken, match=f"BROKEN +{promise}"):
        report.raise_if_broken()


@pytest.mark.exhaustive
@pytest.mark.parametrize("pool", BREAKS, ids=lambda pool: pool.__name__)
def test_a_broken_pool_breaks_the_promises_it_should_and_no_other(pool):
    report = check_pool(pool, page=PAGE)
    assert named(report, BROKEN) - {"lives"} == BREAKS[pool][1], str(report)


@pytest.mark.exhaustive
def test_most_bugs_show_in_a_random_order_of_calls_too():
    found = [pool for pool in BREAKS if not check_pool(pool, page=PAGE, only=["lives"]).green]
    assert len(found) >= len(BREAKS) // 2


def test_every_promise_is_broken_by_some_pool_and_every_pool_has_its_thread():
    assert {promise for promise, _ in BREAKS.values()} | {"lives"} == ALL
    assert len(BREAKS) >= 39
    for pool in BREAKS:
        assert re.fullmatch(r"https://github.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+", pool.link)
        assert pool.__doc__
        assert pool.__doc__ != Good.__doc__


def test_the_sentence_tells_the_calls():
    words = sentence(check_pool(NoCopyOnWrite, page=PAGE, only=["two owners"]), "two owners")
    assert words.startswith("a fork and its origin write into each other's past: look at copy on write and who frees: ")
    assert "from those of the same" in words
    assert words.endswith("after start(3 tokens) · fork() · extend(1 tokens) · extend(1 tokens) · extend(2 tokens)")


def test_a_long_story_is_told_from_its_end():
    words = sentence(check_pool(KeysOutlive, page=PAGE, only=["lives"]), "lives")
    assert re.search(r", after \d+ calls · ", words), words
    assert words.count(" · ") == 16


def test_what_a_pool_cannot_do_is_said_and_never_counted_as_held():
    report = check_pool(NoMethods, page=PAGE)
    assert report.green, str(report)
    assert named(report, HELD) == {"growing", "together", "prefix", "another past", "lives"}
    for name, lack in {"rollback": "crop", "two owners": "fork", "preemption": "evict", "prefix of the gone": "free",
                       "dead places": "buffers", "blocks back": "free_blocks", "reset": "reset"}.items():  # fmt: skip
        assert sentence(report, name) == f"no {lack}()"
    with pytest.raises(ContractBroken, match="required and not checked: rollback"):
        check_pool(NoMethods, page=PAGE, only=["rollback"], require=["rollback"]).raise_if_broken()


class Refuses(Good):
    def crop(self, sequence, n):
        raise NotImplementedError("blocks cannot be cut")


def test_a_refused_method_is_not_checked_and_random_lives_go_on_without_it():
    report = check_pool(Refuses, page=PAGE, only=["rollback", "preemption", "lives"])
    assert sentence(report, "rollback") == "the subject cannot: blocks cannot be cut"
    assert named(report, HELD) == {"preemption", "lives"}


class Unshared(Good):
    def find(self, sequence, ids):
        pass


def test_prefixes_are_not_checked_where_nothing_comes_from_the_cache():
    report = check_pool(Unshared, page=PAGE, only=["prefix", "prefix of the gone", "another past"])
    assert sentence(report, "prefix") == "kept() says that no token was taken from the cache"
    assert named(report, NOT_CHECKED) == {"prefix", "prefix of the gone"}
    assert "the cache, which holds 0 that begin alike" in sentence(
        check_pool(SaysTooMuch, page=PAGE, only=["prefix"]), "prefix"
    )


def silent(pool: type) -> type:
    """A pool that says nothing of its blocks and its memory."""
    return type(pool.__name__, (pool,), dict.fromkeys(("free_blocks", "buffers", "kept")))


@pytest.mark.parametrize("pool", [RevivedStaysFree, KeysOutlive, RefusalFreesThePast, CountsTheRefused])
def test_wrong_answers_are_found_without_any_count_of_blocks(pool):
    assert not check_pool(silent(pool), page=PAGE, only=[BREAKS[pool][0]]).green


def test_a_silent_pool_is_right_all_the_same():
    report = check_pool(silent(Good), page=PAGE, only=["exhaustion", "reset", "prefix of the gone", "preemption"])
    assert named(report, HELD) == {"exhaustion", "reset", "prefix of the gone", "preemption"}, str(report)


def test_a_stale_prefix_after_reset_is_found_without_buffers():
    pool = type("Quiet", (ResetKeepsKeys,), {"buffers": None})
    assert named(check_pool(pool, page=PAGE, only=["reset"]), BROKEN) == {"reset"}


class Rounds(Good):
    """Rounds by the count of sequences beside it."""

    batch_invariant = False

    def compute(self, sequence, ids, past, first=None):
        return super().compute(sequence, ids, past, first) * (1 + 2.0**-50 * len(self.alive))


def test_a_promise_of_bits_is_held_to_the_bit():
    assert check_pool(Rounds, page=PAGE, only=["together"]).green
    Rounds.batch_invariant = True
    words = sentence(check_pool(Rounds, page=PAGE, only=["together"]), "together")
    assert re.search(r"logits differ by \d.* alone, to the bit, after", words)


class Narrow(Rounds):
    batch_invariant = False

    def __init__(self):
        super().__init__()
        self.dtype = "bfloat16"


def test_in_bfloat16_a_difference_is_said_to_be_open():
    report = check_pool(Narrow, page=PAGE, only=["together"])
    assert report.named(NOT_CHECKED) == ["together"]
    assert "bfloat16 logits cannot tell rounding from a bug" in sentence(report, "together")


def test_a_pool_too_small_for_the_scenes_is_told_so():
    report = check_pool(lambda: Good(blocks=5), page=PAGE, only=["together"])
    assert re.search(r"MemoryError while free_blocks\(\) is 2, with \d+ tokens in", sentence(report, "together"))
    everlasting = check_pool(lambda: Good(blocks=400), page=PAGE, only=["exhaustion"])
    assert sentence(everlasting, "exhaustion") == "200 sequences of 4 tokens all fit; give a smaller pool"


class SameWeights(Good):
    def change_weights(self):
        self.reset()


def test_weights_that_do_not_change_prove_nothing():
    assert "changes no logits" in sentence(check_pool(SameWeights, page=PAGE, only=["new weights"]), "new weights")


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="page 1, vocabulary 23; give at least 2 and 4"):
        check_pool(Good, page=1)
    with pytest.raises(ValueError, match="there is no check 'roll' to make; choose from growing, together"):
        check_pool(Good, only=["roll"])


@some_or_all
def test_the_numpy_pool_keeps_every_promise_under_the_reference(checks):
    config = replace(SMALL, n_embd=16, n_inner=16)
    params = nest({name: array.astype("float64") for name, array in random_tensors(config)})
    report = check_pool(lambda: NumpyPool(params, config), page=PAGE, only=checks)
    assert named(report, HELD) == (set(checks) or ALL), str(report)


def small_torch(dtype, impl, seed):
    tensors = ((name, torch.from_numpy(array)) for name, array in random_tensors(SMALL, seed))
    return build(SMALL, tensors, None, as_dtype(dtype), torch.device("cpu"), impl)


@some_or_all
@pytest.mark.parametrize("kv_dtype", [None, pytest.param("int8", marks=pytest.mark.exhaustive)])
def test_the_engine_keeps_every_promise_to_the_bit(checks, kv_dtype):
    model, other = small_torch("float32", "numba", 6), small_torch("float32", "numba", 7)
    report = check_pool(lambda: EnginePool(model, other=other, kv_dtype=kv_dtype), page=PAGE, only=checks)
    assert named(report, HELD) == (set(checks) or ALL), str(report)
    assert all("bit for bit" in check.sentence for check in report.checks if check.name != "blocks back")


def tiny(family: str, attention: str):
    """A random model of transformers of two layers."""
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not here; python -m pip install -e '.[hf]'"
    )
    torch.manual_seed(0)
    if family == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=61, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
        )
    else:
        config = transformers.LlamaConfig(
            vocab_size=61, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


@some_or_all
@pytest.mark.parametrize(("family", "attention"), [
    ("llama", "sdpa"),
    pytest.param("gpt2", "sdpa", marks=pytest.mark.exhaustive),
    pytest.param("llama", "paged|eager", marks=pytest.mark.exhaustive),
])  # fmt: skip
def test_transformers_paged_manager_keeps_what_can_be_asked_of_it(family, attention, checks):
    model = tiny(family, attention)
    report = check_pool(lambda: TransformersPool(model), page=PAGE, only=checks)
    assert report.green, str(report)
    wanted = set(checks) or ALL
    assert named(report, NOT_CHECKED) == wanted & {"rollback", "rollback in shared blocks", "new weights"}
    words = "the subject cannot: PagedAttentionCache takes no token of a running request back"
    assert sentence(report, "rollback in shared blocks") == words


@pytest.mark.exhaustive
def test_transformers_without_sharing_takes_nothing_from_the_cache():
    model = tiny("llama", "sdpa")
    report = check_pool(lambda: TransformersPool(model, share=False), page=PAGE, only=["prefix", "two owners"])
    assert named(report, HELD) == {"two owners"}
    assert sentence(report, "prefix") == "kept() says that no token was taken from the cache"
