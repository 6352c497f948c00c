"""Parity before timing: is what we are about to time the same computation?

The oracle is the NumPy GPT-2 in float64 without a cache, one forward over the whole sequence, so that nobody's cache
stands behind it. An impl is fed the oracle's own tokens and must give the oracle's logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import torch

from ... import reference
from ...gpt2 import GPT2, Config
from ...gpt2.attention import DECODE_STEP
from ...reference.judge import parity
from ...reference.judge.rounding import attention_error

# In half precision an impl may err by this many times what recomputing everything in the same dtype errs by: twice the
# worst of 72 correct runs, 0.63 to 1.96 times (eager and sdpa, bfloat16 and float16, tiny and random:distilgpt2, 12 to
# 100 tokens). It catches what goes wrong in that dtype alone; float32 and the attention op by itself catch the rest.
HALF_SLACK = 4.0


@dataclass
class Truth:
    """What the oracle says: greedy tokens (B, n), the logits that predict them (B, n, V), their margins (B, n)."""

    ids: np.ndarray
    logits: np.ndarray
    margin: np.ndarray


def ask_oracle(prompts: Sequence[Sequence[int]], params: dict, config: Config, n: int) -> Truth:
    """Greedy decoding by the oracle, n tokens each; equal prompts are computed once. params in float64."""
    known = {}
    for prompt in map(tuple, prompts):
        if prompt not in known:
            ids = reference.generate(np.array([prompt]), params, config, n)
            logits = reference.forward(ids[:, :-1], params, config)[0, len(prompt) - 1 :]
            known[prompt] = ids[0, len(prompt) :], logits
    ids, logits = (np.stack([known[tuple(prompt)][i] for prompt in prompts]) for i in (0, 1))
    top = np.partition(logits, -2, axis=-1)
    return Truth(ids, logits, top[..., -1] - top[..., -2])


@dataclass
class Parity:
    """An impl held to the oracle.

    error   largest logit difference, in units of max(1, largest |logit|)
    bar     what `error` may be at most; None where it is quantisation, which is shown and held to nothing
    flips   tokens, of so many, whose argmax differs from the oracle's
    faults  what is wrong, in words; empty where parity is green
    wrong   whether it computes something else: tokens differ by more than rounding explains, or are no numbers
    kl      of quantisation, the mean of KL(oracle || impl) over the tokens, in nats
    """

    error: float
    bar: float | None
    flips: int
    tokens: int
    faults: list[str]
    wrong: bool = False
    kl: float | None = None

    @property
    def green(self) -> bool:
        return not self.faults

    def record(self) -> dict:
        """The schema's "parity"."""
        error = self.error if np.isfinite(self.error) else None
        agree = self.tokens - self.flips
        record = {
            "green": self.green,
            "error": error,
            "bar": self.bar,
            "agree": agree,
            "of": self.tokens,
            "faults": self.faults,
        }
        return record | ({"kl": self.kl} if self.bar is None else {})

    def __str__(self) -> str:
        held = f"bar {self.bar:.0e}" if self.bar is not None else "quantisation, no bar"
        line = f"max logit error {self.error:.1e} ({held}), greedy ids agree {self.tokens - self.flips}/{self.tokens}"
        line += f", KL {self.kl:.1e} nats" if self.kl is not None else ""
        word = "RED" if self.faults else "ok " if self.bar is not None else "-- "
        return "\n".join([f"{word} {line}", *(f"{'':14}{fault}" for fault in self.faults)])


def compare_logits(logits: np.ndarray, truth: Truth, bar: float, half: bool) -> Parity:
    """Hold logits (B, n, V) to the truth: within the bar, and greedy ids equal.

    In half precision a token may flip where its margin is below twice what the bar allows a logit to move.
    """
    error = parity.logit_error(logits, truth.logits)
    flipped = logits.argmax(-1) != truth.ids
    reach = 2 * bar * max(1.0, np.abs(truth.logits).max()) if half else 0.0
    wrong = int((flipped & (truth.margin > reach)).sum())
    faults = []
    if not error <= bar:
        faults.append(f"logits differ by {error:.1e}, more than rounding explains")
    if wrong:
        faults.append(f"{wrong} greedy tokens differ by more than rounding explains")
    return Parity(error, bar, int(flipped.sum()), flipped.size, faults, bool(wrong) or not np.isfinite(error))


def quantisation(logits: np.ndarray, truth: Truth) -> Parity:
    """How far the logits (B, n, V) of a quantised model are from the unquantised one's: shown, held to no bar."""
    error = parity.logit_error(logits, truth.logits)
    flips = int((logits.argmax(-1) != truth.ids).sum())
    if not np.isfinite(error):
        return Parity(error, None, flips, truth.ids.size, ["its logits are no numbers"], wrong=True)
    p, q = log_softmax(truth.logits), log_softmax(logits)
    return Parity(error, None, flips, truth.ids.size, [], kl=float((np.exp(p) * (p - q)).sum(-1).mean()))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def attention_faults(model: GPT2, batch: int, capacity: int) -> list[str]:
    error = replayed_attention(model, batch, capacity)
    return [f"its attention errs by {error:.1f} times what rounding explains"] if error > 1 else []


def replayed_attention(model: GPT2, batch: int, capacity: int, page: int | None = None) -> float:
    """The error of the decode step's attention alone, on random numbers in the model's dtype, in multiples of its gate.

    Its gate is far below anything a bug does, also in half precision, where final logits show no difference. Every
    other head finds a needle in its last live slot, which a step short by one misses; dead slots hold NaN; rows are
    ragged.

    page  slots per page of a paged cache; None for a static one
    """
    rng = torch.Generator().manual_seed(0)
    cache = model.new_cache(batch, capacity, page)
    lengths = [capacity - 1 - row % (capacity - 1) for row in range(batch)]
    q = torch.randn(batch, model.config.n_head, model.config.head_dim, generator=rng).to(model.device, model.dtype)
    k, v = (torch.randn(batch, *q.shape[1:2], capacity, q.shape[2], generator=rng).to(q) for _ in range(2))
    for b, n in enumerate(lengths):
        k[b, ::2, n - 1] = 4 * q[b, ::2]
        k[b, :, n:] = v[b, :, n:] = float("nan")
    cache.write_span(0, 0, k, v)
    cache.set_lengths(lengths)
    o = DECODE_STEP[model.impl](q, cache, 0)
    o, q, k, v = (to_numpy(x) for x in (o, q, k, v))
    # Ours keeps scores and weights in float32; torch's rounds them to the dtype, which is rounding too, but wider.
    inner = None if model.impl in ("triton", "numba") else q.dtype
    return attention_error(o, q, k, v, np.array(lengths), inner=inner)


def to_numpy(x: torch.Tensor) -> np.ndarray:
    """The same numbers in the same dtype; NumPy knows bfloat16 by ml_dtypes."""
    x = x.detach().cpu()
    return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if x.dtype == torch.bfloat16 else x.numpy()
