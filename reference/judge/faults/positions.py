"""Wrong cached paths: where a token stands, what pads it, and what the causal mask lets it see."""

from functools import partial

import numpy as np

from ...cache import ContiguousCache
from ...model import forward
from .base import by_row, cached_logits, fault, forward_with, fresh, masked, moved, prompt_length, used

EMBED, ATTENTION = (None, "embed"), (0, "attention")
PAD = 0  # any token will do


def standing(position):
    """A pass whose first token stands at position(tokens before it), the others after it."""

    def step(ids, params, config, cache):
        past = int(cache.lengths.max())
        return forward(ids, moved(params, position(past) - past), config, cache)

    return step


@fault("cache", "microsoft/onnxruntime-genai/pull/2354", EMBED)
def positions_off_by_one(ids, params, config):
    """a new token takes the length after its append"""
    return cached_logits(ids, params, config, decode_params=moved(params, 1))


@fault("cache", "jundot/omlx/pull/2363", EMBED, closest=True)
def positions_not_advanced(ids, params, config):
    """every new token takes the position of the first; invisible in the first decode step"""
    prompt = prompt_length(ids)
    return cached_logits(ids, params, config, step=standing(lambda past: min(past, prompt)))


@fault("cache", "Blaizzy/mlx-vlm/issues/1983", EMBED)
def positions_zero(ids, params, config):
    """every new token stands at position 0"""
    prompt = prompt_length(ids)
    return cached_logits(ids, params, config, step=standing(lambda past: past if past < prompt else 0))


@fault("cache", "skyzh/tiny-llm/pull/46", EMBED)
def positions_jump(ids, params, config):
    """the first decode step advances by the prompt's length once more"""
    return cached_logits(ids, params, config, decode_params=moved(params, prompt_length(ids)))


@fault("cache", "huggingface/transformers/issues/43082", EMBED)
def positions_restart_at_chunks(ids, params, config):
    """each chunk of a prompt stands at position 0; invisible in a prompt of one chunk"""
    prompt = prompt_length(ids)
    return cached_logits(ids, params, config, step=standing(lambda past: past if past >= prompt else 0), passes=2)


@fault("cache", "mlx-node/mlx-node/pull/33", EMBED)
def positions_counted_twice(ids, params, config):
    """a later chunk adds its offset to a position that has moved already; invisible in a prompt of one chunk"""
    prompt = prompt_length(ids)
    step = standing(lambda past: past if past >= prompt else 2 * past)
    return cached_logits(ids, params, config, step=step, passes=2)


@fault("cache", "huggingface/transformers/issues/21080", EMBED)
def left_padding_without_positions(ids, params, config):
    """row b has b pads before it, masked but counted as positions; invisible in the row without pads"""
    pads = np.arange(len(ids))[:, None]
    return cached_logits(ids, params, config, step=partial(forward_with, standing=lambda slots: slots + pads))


@fault("cache", "ml-explore/mlx-lm/issues/1906", ATTENTION)
def left_pads_attended(ids, params, config):
    """row b has b pads before it, whose mask never reaches the attention; invisible in the row without pads"""
    wpe = params["wpe"]["weight"]

    def path(row, b):
        padded = np.concatenate([np.full((1, b), PAD), row], axis=1)
        table = np.concatenate([np.repeat(wpe[:1], b, axis=0), wpe])  # pads stand at 0, the tokens where they should
        return cached_logits(padded, params | {"wpe": {"weight": table}}, config)[:, b:]

    return by_row(path, ids)


@fault("cache", "Comfy-Org/ComfyUI/pull/15698", EMBED)
def positions_of_the_longest(ids, params, config):
    """row b's prompt is b tokens shorter than the longest, and its new tokens take the longest one's positions;
    invisible in the longest row"""
    behind, prompt = np.arange(len(ids))[:, None], prompt_length(ids)
    step = partial(forward_with, standing=lambda slots: np.where(slots < prompt, slots, slots + behind))
    return cached_logits(ids, params, config, step=step)


@fault("cache", "huggingface/transformers/pull/48161", EMBED, closest=True)
def right_pads_kept(ids, params, config):
    """row b's prompt has b pads after it, which its new tokens attend to and stand behind; invisible in the row
    without pads"""
    prompt = prompt_length(ids)

    def path(row, b):
        padded = np.insert(row, [prompt] * b, PAD, axis=1)
        return np.delete(cached_logits(padded, params, config), range(prompt, prompt + b), axis=1)

    return by_row(path, ids)


@fault("cache", "huggingface/transformers/issues/14521", None)
def logits_at_padding(ids, params, config):
    """row b's prompt has b pads after it, and the next token is read off the last of them; invisible in the row
    without pads"""
    prompt = prompt_length(ids)
    logits = cached_logits(ids, params, config)
    for b in range(1, len(ids)):
        padded = np.concatenate([ids[b : b + 1, :prompt], np.full((1, b), PAD)], axis=1)
        logits[b, prompt - 1] = forward(padded, params, config)[0, -1]
    return logits


def aligned(M, n):
    """What the right mask shows M queries at the end of n keys."""
    return np.tri(M, n, n - M, bool)


def under(prefill, ids, params, config, passes=1):
    """Cached logits where a prompt's pass sees prefill(M, n) and a decode step what it should."""
    attend = masked(lambda M, n: prefill(M, n) if M > 1 else aligned(M, n))
    return cached_logits(ids, params, config, step=partial(forward_with, attend=attend), passes=passes)


@fault("cache", "gittensor-ai-lab/sparkinfer/issues/3", ATTENTION)
def mask_top_left_in_chunks(ids, params, config):
    """a later chunk's mask is aligned at the top left, as is_causal does; invisible in a prompt of one chunk"""
    return under(lambda M, n: np.tri(M, n, 0, bool), ids, params, config, passes=2)


@fault("cache", "EleutherAI/gpt-neox/pull/1178", ATTENTION)
def mask_top_left_in_decode(ids, params, config):
    """a decode step keeps the causal flag of the prefill, so that it sees slot 0 alone"""
    attend = masked(lambda M, n: np.tri(M, n, 0, bool))
    return cached_logits(ids, params, config, step=partial(forward_with, attend=attend))


@fault("cache", "pytorch/examples/issues/649", ATTENTION)
def mask_transposed(ids, params, config):
    """the prefill's mask holds rows against columns: a token sees itself and what comes after it"""
    return under(lambda M, n: ~np.tri(M, n, n - M - 1, bool), ids, params, config)


@fault("cache", "Mikyx-1/TinyLLM/issues/17", ATTENTION)
def prefill_unmasked(ids, params, config):
    """a pass with a cache is taken for a decode step, which needs no mask"""
    return under(lambda M, n: np.ones((M, n), bool), ids, params, config)


class ReadsAhead(ContiguousCache):
    """A read reaches to the end of the prompt, written or not."""

    prompt = 0

    def read(self, layer, b):
        n = max(self.prompt, self.lengths[b])
        return self.k[layer, b, :, :n], self.v[layer, b, :, :n]


@fault("cache", "GeeeekExplorer/nano-vllm/pull/213", ATTENTION)
def chunk_reads_ahead(ids, params, config):
    """a chunk attends as far as the whole prompt, into slots not yet written; invisible in a prompt of one chunk"""
    cache = used(fresh(ids, params, config, ReadsAhead), ids, params, config)
    cache.prompt = prompt_length(ids)
    return cached_logits(ids, params, config, cache, passes=2)
