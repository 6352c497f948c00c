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
    """Cross-entropy of a text: the sum in nats over its tokens, each scored once, and their number.

    ids       (N,) token ids, N >= 2
    stride    tokens between the starts of two windows, 1..window; None is half a window. A small stride gives every
              token more context, and costs window / stride passes over the text
    window    tokens in a window, 2..n_ctx; None is n_ctx
    progress  called with the number of tokens that each window covers first
    returns   (sum, count): nats per token is sum / count, perplexity exp(sum / count)

    A window scores the tokens that no earlier one has covered, except its own first token: with stride == window each
    window loses one.  Raises ValueError for too few ids, ids outside the vocabulary, or wrong settings.
    Source: the strided windows of Hugging Face's guide "Perplexity of fixed-length models".
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
        raise ValueError(f"the text has {N} tokens; perplexity needs 2 or more")
    model.check_prompts([ids])
    total, count, done = 0.0, 0, 0
    text = torch.as_tensor(ids, dtype=torch.long)
    for begin in range(0, N, stride):
        end = min(begin + window, N)
        new = min(end - done, end - begin - 1)
        total += window_nll(model, text[begin:end].to(model.device), new)
        count += new
        if progress:
            progress(end - done)
        done = end
        if end == N:
            break
    return total, count


def window_nll(model: GPT2, ids: torch.Tensor, new: int) -> float:
    """Cross-entropy of the last `new` of ids (T,), each given the ids before it: a sum in nats, in float64."""
    if not new:
        return 0.0
    # Only the scored positions go through the head, whose logits are the widest thing in the model.
    logits = model.logits(model.hidden(ids[None, :-1])[0, -new:])  # (new, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(logits, ids[-new:], reduction="none").double().sum().item()
    if not math.isfinite(total):
        raise FloatingPointError("the logits hold NaN or inf; try a wider dtype, or look at the weights")
    return total
