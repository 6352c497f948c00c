"""Perplexity of a text longer than the context, by a window that slides over it."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from .arguments import function, whole, whole_numbers
from .generate import check_model
from .model import GPT2


@torch.no_grad()
def sliding_nll(
    model: GPT2,
    ids: Sequence[int],
    stride: int | None = None,
    window: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> tuple[float, int]:
    """How badly a model foretells a text, each token scored once: the sum in nats, and how many tokens were scored.

    ids       (N,) token ids, N >= 2
    stride    tokens the window moves on, 1..window; None is half a window. A small one gives every token more past to
              be foretold from, and costs window / stride passes over the text
    window    tokens seen at once, 2..n_ctx; None is n_ctx
    progress  told the number of tokens that each window has covered for the first time
    returns   (sum, count): nats per token is sum / count, perplexity exp(sum / count)

    A window scores what no earlier one has covered, except its own first token, which nothing foretells: with stride ==
    window each window loses one.  Raises ValueError for too few ids, ids outside the vocabulary, or settings that make
    no sense. Source: the strided windows of Hugging Face's guide "Perplexity of fixed-length models".
    """
    check_model(model)
    function("progress", progress)
    ids = whole_numbers(ids)
    n_ctx, N = model.config.n_ctx, len(ids)
    window = n_ctx if window is None else window
    window = whole("window", window, f"2..{n_ctx} tokens, the model's context", 2, n_ctx)
    stride = window // 2 if stride is None else stride
    stride = whole("stride", stride, f"1..{window}, or tokens between two windows go unscored", 1, window)
    if N < 2:
        raise ValueError(f"perplexity needs 2 tokens, one to foretell the other; this text has {N}")
    model.check_prompts([ids])
    total, count, done = 0.0, 0, 0
    text = torch.as_tensor(ids, dtype=torch.long)
    for begin in range(0, N, stride):
        end = min(begin + window, N)
        fresh = min(end - done, end - begin - 1)
        total += window_nll(model, text[begin:end].to(model.device), fresh)
        count += fresh
        if progress:
            progress(end - done)
        done = end
        if end == N:
            break
    return total, count


def window_nll(model: GPT2, ids: torch.Tensor, fresh: int) -> float:
    """Nats of the last `fresh` of ids (T,) given what stands before each; summed in float64."""
    if not fresh:
        return 0.0
    # Only the scored positions go through the head, whose logits are the widest thing in the model.
    logits = model.logits(model.hidden(ids[None, :-1])[0, -fresh:])  # (fresh, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(logits, ids[-fresh:], reduction="none").double().sum().item()
    if not math.isfinite(total):
        raise FloatingPointError("the logits hold NaN or inf; try a wider dtype, or look at the weights")
    return total
