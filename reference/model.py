"""GPT-2 as equations, in NumPy: the oracle that every faster path is held to.

It is simple, not fast. All arithmetic runs in the dtype of `params` (float64 unless loaded
otherwise). Axes: B sequences, M new tokens, T tokens in all, H heads, D head_dim, E n_embd, V n_vocab.
Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; names as in its checkpoints.
"""

import math

import numpy as np

from .cache import ContiguousCache
from .config import Config, ContextFull

# The C library's erf, one number at a time: slow, and right to the last bit or two of float64.
erf = np.vectorize(math.erf, otypes=[np.float64])


def layer_norm(x, p, eps):
    """Centre and scale the last axis of x (..., E), then gain and bias. Source: Ba et al. 2016 (arXiv:1607.06450)."""
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * p["weight"] + p["bias"]


def gelu(x, kind):
    """x·Φ(x). "exact" has Φ by erf; "tanh" is the approximation OpenAI trained with (arXiv:1606.08415)."""
    if kind == "exact":
        return 0.5 * x * (1 + erf(x / math.sqrt(2)).astype(x.dtype))
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def softmax(s):
    """Softmax over the last axis, shifted by the maximum so that exp cannot overflow."""
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def linear(x, p):
    """x·W + b. GPT-2 stores W as (in, out), the transpose of torch.nn.Linear."""
    return x @ p["weight"] + p["bias"]


def attention(q, k, v, scale=None):
    """softmax(q·kᵀ/√D)·v, causal: the last query sees every key, the one before it all but the last.

    q        (..., M, D)
    k, v     (..., T, D)  T >= M; all of one floating dtype, in which everything is computed
    scale    float, 1/√D if not given
    returns  (..., M, D)

    Source: Vaswani et al. 2017 (arXiv:1706.03762), equation 1.
    """
    M, D = q.shape[-2:]
    T = k.shape[-2]
    scale = 1 / math.sqrt(D) if scale is None else scale
    s = q @ np.swapaxes(k, -1, -2) * scale  # (..., M, T)
    seen = np.arange(T) <= np.arange(T - M, T)[:, None]  # query i stands at slot T - M + i
    return softmax(np.where(seen, s, -np.inf)) @ v


def self_attention(x, p, config, layer, cache):
    """Multi-head attention of the M new tokens x (B, M, E) over themselves and all that `cache` holds."""
    B, M, E = x.shape
    H, D = config.n_head, config.head_dim
    qkv = linear(x, p["c_attn"]).reshape(B, M, 3, H, D)
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # (B, H, M, D) each
    if cache is None:
        o = attention(q, k, v)
    else:
        cache.append(layer, k, v)
        o = np.stack([attention(q[b], *cache.read(layer, b)) for b in range(B)])
    return linear(o.transpose(0, 2, 1, 3).reshape(B, M, E), p["c_proj"])


def mlp(x, p, config):
    """Two layers, n_embd -> n_inner -> n_embd, with a GELU between."""
    return linear(gelu(linear(x, p["c_fc"]), config.gelu), p["c_proj"])


def block(x, p, config, layer=0, cache=None):
    """One transformer block on x (B, M, E), normalised before each branch rather than after."""
    x = x + self_attention(layer_norm(x, p["ln_1"], config.layer_norm_epsilon), p["attn"], config, layer, cache)
    return x + mlp(layer_norm(x, p["ln_2"], config.layer_norm_epsilon), p["mlp"], config)


def forward(ids, params, config: Config, cache=None, trace=None):
    """Logits of the next token at every position.

    ids      (B, M) integers; with a cache, the M newest tokens of each sequence, else whole sequences
    params   nested dict under the checkpoint's names (see weights.py), float64 or float32 throughout
    cache    None, or a cache (see cache.py): a prompt fills it and a decode step is the same call with M = 1
    trace    a list, which receives the embeddings, each block's output and the final LayerNorm's, (B, M, E) each
    returns  (B, M, V) in the dtype of params

    Before any work raises ValueError for ids or a cache that do not match, ContextFull past n_ctx or the cache's slots.
    """
    ids = check_ids(ids, config)
    B, M = ids.shape
    wte, wpe = params["wte"]["weight"], params["wpe"]["weight"]
    past = np.zeros(B, np.int32)  # tokens before the new ones
    if cache is not None:
        check_cache(cache, B, wte.dtype, config)
        past = cache.lengths.copy()
    if past.max() + M > config.n_ctx:
        raise ContextFull(int(past.max()), M, config.n_ctx - int(past.max()))
    if cache is not None:
        cache.advance(M)

    x = wte[ids] + wpe[past[:, None] + np.arange(M)]  # (B, M, E)
    outputs = [x]
    for layer, p in enumerate(params["h"]):
        x = block(x, p, config, layer, cache)
        outputs.append(x)
    x = layer_norm(x, params["ln_f"], config.layer_norm_epsilon)
    if trace is not None:
        trace.extend([*outputs, x])
    head = wte if config.tie_word_embeddings else params["lm_head"]["weight"]
    return x @ head.T  # (B, M, V)


def nll(ids, params, config: Config):
    """Negative log-likelihood, in nats, of each token given those before it; its mean is the cross-entropy loss.

    ids      (B, T) integers, 2 <= T <= n_ctx + 1 (the last token is only predicted, so it needs no position)
    returns  (B, T - 1)
    """
    ids = check_ids(ids, config)
    if ids.shape[1] < 2:
        raise ValueError(f"ids have {ids.shape[1]} tokens per row; a loss needs 2 or more")
    logits = forward(ids[:, :-1], params, config)
    shifted = logits - logits.max(-1, keepdims=True)
    target = np.take_along_axis(shifted, ids[:, 1:, None], axis=-1)[..., 0]
    return np.log(np.exp(shifted).sum(-1)) - target


def loss(ids, params, config: Config):
    """The cross-entropy: the mean of `nll`, in nats per token."""
    return nll(ids, params, config).mean()


def generate(ids, params, config: Config, max_new_tokens: int, cache=True):
    """Greedy decoding: the most probable token (the smallest id of equals), step by step.

    ids      (B, T) integers
    cache    True: a new contiguous cache; False: none, everything is recomputed each step;
             or a cache to fill, whose tokens come before ids
    returns  (B, T + max_new_tokens), ids included

    Raises ContextFull before any work if the model's positions or the cache's slots do not suffice. The last new
    token needs neither.
    """
    ids = check_ids(ids, config)
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be 0 or more")
    B, T = ids.shape
    if cache is True:
        cache = ContiguousCache(config, B, min(T + max_new_tokens, config.n_ctx), params["wte"]["weight"].dtype)
    past = T + (int(cache.lengths.max()) if cache else 0)
    if past > config.n_ctx:
        raise ContextFull(past - T, T, config.n_ctx - past + T)
    if past + max_new_tokens > config.n_ctx + 1:
        raise ContextFull(past, max_new_tokens, config.n_ctx + 1 - past)
    if cache and max_new_tokens:
        cache.check_room(T + max_new_tokens - 1)
    new = ids
    for _ in range(max_new_tokens):
        logits = forward(new, params, config, cache) if cache else forward(ids, params, config)
        new = logits[:, -1].argmax(-1)[:, None]  # (B, 1)
        ids = np.concatenate([ids, new], axis=1)
    return ids


def check_ids(ids, config: Config):
    """ids as an array (B, T) of token ids; ValueError if it is anything else."""
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.size == 0:
        raise ValueError(f"ids has shape {ids.shape}; it must be (B, T) with at least one token in each sequence")
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"ids has dtype {ids.dtype}; token ids are integers")
    wrong = ids[(ids < 0) | (ids >= config.n_vocab)]
    if wrong.size:
        raise ValueError(f"token id {wrong[0]} is out of range; this model knows 0..{config.n_vocab - 1}")
    return ids


def check_cache(cache, B, dtype, config: Config):
    """ValueError if the cache was made for another model, batch or dtype."""
    want = (config.n_layer, B, config.n_head, config.head_dim)
    if cache.shape != want:
        raise ValueError(f"the cache has (layers, batch, heads, head_dim) {cache.shape}; this call needs {want}")
    if cache.dtype != dtype:
        raise ValueError(f"the cache gives {cache.dtype} and the weights are {dtype}; make both alike")
