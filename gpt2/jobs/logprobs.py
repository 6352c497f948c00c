"""The log-probabilities of a completion's tokens, in the form of OpenAI's completions."""

import codecs
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..tokenizer import Tokenizer

# The last bits of NumPy's exp and log differ from one kind of CPU to the next; float32 logits mean less than these.
DECIMALS = 8


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(n, V) logits -> (n, V) natural logarithms of the probabilities, float64, at temperature 1."""
    x = logits.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token as OpenAI shows it: its text, or `bytes:` and each byte as \\xNN if it is no UTF-8 on its own."""
    data = tokenizer.decode_bytes([token])
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def offsets(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """Where the text of each token begins, in characters; a character's later bytes begin where it does."""
    decoder, at, found = codecs.getincrementaldecoder("utf-8")("replace"), 0, []
    for token in ids:
        found.append(at)
        at += len(decoder.decode(tokenizer.decode_bytes([token])))
    return found


def logprobs(tokenizer: Tokenizer, ids: Sequence[int], text: str, logits: np.ndarray, top: int) -> dict[str, Any]:
    """The `logprobs` of a choice.

    ids     (n) new tokens; those that stand behind the end of `text`, which a stop string cut, are left out
    logits  (n or more, V) that they were drawn from, before temperature, top_k and top_p
    top     most probable tokens to name at each place; the token itself is always among them
    """
    begins = offsets(tokenizer, ids)
    ids = [token for token, begin in zip(ids, begins, strict=True) if begin < len(text)]
    rows = log_softmax(logits[: len(ids), : tokenizer.n_vocab]).round(DECIMALS) + 0.0  # no -0.0
    return {
        "tokens": [token_text(tokenizer, token) for token in ids],
        "token_logprobs": [float(row[token]) for row, token in zip(rows, ids, strict=True)],
        "top_logprobs": [best(tokenizer, row, token, top) for row, token in zip(rows, ids, strict=True)],
        "text_offset": begins[: len(ids)],
    }


def best(tokenizer: Tokenizer, row: np.ndarray, token: int, top: int) -> dict[str, float]:
    """The `top` most probable tokens of a row, the smaller id first of equals, and the token itself."""
    # All that are as probable as the last of them, so that equals are ordered by id and not by the partition.
    least = np.partition(row, len(row) - top)[len(row) - top] if top else np.inf
    ranked = sorted(np.flatnonzero(row >= least).tolist(), key=lambda i: (-row[i], i))[:top]
    return {token_text(tokenizer, i): float(row[i]) for i in (*ranked, *({token} - {*ranked}))}
