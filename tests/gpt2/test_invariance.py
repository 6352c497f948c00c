"""invariant=True for triton: a sequence's logits have the same bits in any batch, order, page, prefill chunk and step.

The model is random and small, with GPT-2's own head_dim of 64: without a GPU a launch takes up to 0.1 s.
"""

from functools import cache

import pytest
import torch

from kvproof.gpt2 import CacheMismatch, Config, load
from kvproof.gpt2.model import GPT2
from kvproof.gpt2.weights import as_dtype, build
from kvproof.reference.synthetic import random_tensors

from .._gpt2_models import random_prompts

CONFIG = Config(n_vocab=61, n_ctx=160, n_embd=64, n_head=1, n_layer=2, n_inner=64)
BOTH = pytest.mark.parametrize("dtype", ["float64", "float32"])
MOSTLY_FLOAT32 = pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.exhaustive)])
PROMPTS = random_prompts(61, [17, 1, 4])  # 17 tokens are more than one call of the kernel takes
NEXT = torch.tensor([[3, 5, 8]])  # a decode step of three sequences
ROOM = 18


@cache
def model(dtype: str, invariant: bool = True) -> GPT2:
    tensors = ((name, torch.from_numpy(array)) for name, array in random_tensors(CONFIG, 0))
    return build(CONFIG, tensors, None, as_dtype(dtype), torch.device("cpu"), "triton", invariant)


def run(model: GPT2, rows, chunk=None, page=None):
    """Logits (1 + steps, rows, V) of these of the sequences, after the prompt and after each decode step."""
    cache = model.new_cache(len(rows), ROOM, page)
    logits = [model.prefill([PROMPTS[row] for row in rows], cache, chunk)]
    return torch.stack(logits + [model.decode(ids[rows], cache) for ids in NEXT])


@cache
def whole(dtype: str, invariant: bool = True):
    return run(model(dtype, invariant), [0, 1, 2])


@pytest.mark.parametrize(("dtype", "chunk"), [
    *(("float32", n) for n in (1, 7, 16)), ("float64", 7), ("float64", 16),
    pytest.param("float64", 1, marks=pytest.mark.exhaustive),
])  # fmt: skip
def test_prefill_chunks_change_no_bit(chunk, dtype):
    assert torch.equal(run(model(dtype), [0, 1, 2], chunk), whole(dtype))


@BOTH
@pytest.mark.parametrize("rows", [[0], [2], [2, 0, 1]], ids=str)
def test_batch_and_order_change_no_bit(rows, dtype):
    assert torch.equal(run(model(dtype), rows), whole(dtype)[:, rows])


@MOSTLY_FLOAT32
def test_pages_change_no_bit(dtype):
    assert torch.equal(run(model(dtype), [0, 1, 2], page=4), whole(dtype))


@MOSTLY_FLOAT32
def test_a_token_has_the_same_bits_by_a_decode_step_as_by_a_chunk_across_a_splits_edge(dtype):
    """Slots 126 to 131: the second split begins at 128."""
    invariant, first, ids = model(dtype), 126, random_prompts(61, [6])
    held = invariant.new_cache(1, 140)
    for layer in (*held.k, *held.v):  # what the first slots hold need not come from a prompt
        layer.copy_(torch.randn(layer.shape, generator=torch.Generator().manual_seed(0)))
    seen = {}
    for tokens in (1, 4, 6):
        held.set_lengths([first])
        for low in range(0, 6, tokens):
            part = [ids[0][low : low + tokens]]
            logits = invariant.prefill(part, held)
            assert torch.equal(seen.setdefault(low + len(part[0]), logits), logits)
    held.set_lengths([first])
    steps = [invariant.decode(torch.tensor([token]), held) for token in ids[0]]
    assert sorted(seen) == list(range(1, 7))
    assert all(torch.equal(step, seen[count]) for count, step in enumerate(steps, 1))


@BOTH
def test_the_logits_are_those_of_the_model_without_it(dtype):
    plain, eps = whole(dtype, invariant=False), torch.finfo(as_dtype(dtype)).eps
    assert (whole(dtype) - plain).abs().max() <= 500 * eps * plain.abs().max()


@BOTH
def test_without_it_bits_do_change(dtype):
    """Or there would be nothing to cure here."""
    plain = model(dtype, invariant=False)
    alone = [torch.equal(run(plain, [row])[:, 0], whole(dtype, invariant=False)[:, row]) for row in range(3)]
    if all(alone):
        pytest.skip(f"this machine's {dtype} bits do not depend on the batch")


@pytest.mark.parametrize("impl", ["naive", "eager", "sdpa"])
def test_only_the_engine_and_triton_can_keep_bits_and_the_others_are_refused(impl):
    words = f"impl '{impl}' came with invariant=True, which only 'numba' and 'triton' can keep"
    with pytest.raises(ValueError, match=words):
        load("tiny", impl=impl, invariant=True)
    with pytest.raises(ValueError, match=words):
        model("float32").with_impl(impl)


def test_a_loaded_model_is_invariant_throughout():
    tiny = load("tiny", impl="triton", invariant=True)
    assert tiny.invariant
    assert all(block.attn.invariant for block in tiny.blocks)
    assert not load("tiny", impl="triton").invariant


def test_a_cache_with_room_for_one_token_at_a_time_is_refused():
    narrow = model("float32", invariant=False).new_cache(1, ROOM)
    with pytest.raises(CacheMismatch, match="1 new token at a time"):
        model("float32").prefill([[1, 2]], narrow)
    assert narrow.host_lengths == [0]
