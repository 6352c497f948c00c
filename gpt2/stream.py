"""Tokens to text as they come: characters and stop strings that span tokens, rows that end early."""

import codecs
from collections.abc import Callable, Collection, Sequence

from .tokenizer import Tokenizer

Listener = Callable[[int, int | None, str], None]  # of row, id, text; held text comes last, with None as its id


class NotFinite(FloatingPointError):
    """The model gave NaN or inf.

    row    of the logits, in its batch
    after  new tokens before them
    """

    def __init__(self, row: int, after: int, who: str | None = None):
        self.row, self.after = row, after
        super().__init__(
            f"{who or f'row {row}'}: the logits after {after} new tokens hold NaN or inf; "
            "try a wider dtype, or look at the weights"
        )


class TextStream:
    """The text of one sequence, returned as soon as no later token can change it.

    It holds back the bytes of an unfinished character and a tail that may begin a stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]):
        self.tokenizer, self.stop = tokenizer, stop
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.text = ""  # returned so far
        self.held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take the next token; returns the text that is now certain."""
        return self._give(self.decoder.decode(self.tokenizer.decode_bytes([token])), final=False)

    def flush(self) -> str:
        """No token follows: returns the rest."""
        return self._give(self.decoder.decode(b"", final=True), final=True)

    def _give(self, new: str, final: bool) -> str:
        if self.stopped:
            return ""
        self.held += new
        found = [(at + len(s), at) for s in self.stop if (at := self.held.find(s)) >= 0]
        if found:
            self.stopped = True
            _, start = min(found)  # the one complete first, as if the text came letter by letter
            certain, self.held = self.held[:start], ""
        else:
            keep = 0 if final else max((overlap(self.held, s) for s in self.stop), default=0)
            certain, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        self.text += certain
        return certain


def overlap(text: str, stop: str) -> int:
    """The number of characters at the end of text that may begin stop."""
    return max((n for n in range(1, min(len(text), len(stop) - 1) + 1) if text.endswith(stop[:n])), default=0)


class Row:
    """One sequence: its new ids, its text, and the reason it ended ("" until then)."""

    def __init__(self, tokenizer: Tokenizer | None, stop: Sequence[str]):
        self.ids: list[int] = []
        self.text = TextStream(tokenizer, stop) if tokenizer else None
        self.finish_reason = ""


class Writer:
    """Takes the batch's tokens step by step, ends rows, and calls the listener for each token."""

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        batch: int,
        ends: Collection[int],
        stop: Sequence[str],
        listener: Listener | None,
    ):
        if stop and tokenizer is None:
            raise ValueError("stop strings came, but the model has no tokenizer to find them with; set model.tokenizer")
        self.rows = [Row(tokenizer, stop) for _ in range(batch)]
        self.ends, self.listener = frozenset(ends), listener

    @property
    def finished(self) -> bool:
        return all(row.finish_reason for row in self.rows)

    def take(self, steps: Sequence[Sequence[int]]):
        """Steps of one new id per row; rows that have ended ignore theirs.  Raises NotFinite for an id -1."""
        for step in steps:
            for number, (row, token) in enumerate(zip(self.rows, step, strict=True)):
                if not row.finish_reason:
                    self._write(number, row, token)

    def _write(self, number: int, row: Row, token: int):
        if token < 0:
            raise NotFinite(number, len(row.ids))
        if token in self.ends:
            self._end(number, row, "stop")
        else:
            row.ids.append(token)
            new = row.text.push(token) if row.text else ""
            if self.listener:
                self.listener(number, token, new)
            if row.text and row.text.stopped:
                row.finish_reason = "stop"

    def close(self):
        """No step follows: rows that are still open end by length."""
        for number, row in enumerate(self.rows):
            if not row.finish_reason:
                self._end(number, row, "length")

    def _end(self, number: int, row: Row, reason: str):
        row.finish_reason = reason
        rest = row.text.flush() if row.text else ""
        if rest and self.listener:
            self.listener(number, None, rest)
