"""A request under way: how its next tokens are chosen, and what has become of it."""

from collections.abc import Callable

import torch

from .. import sampling
from ..arguments import flag, function, strings
from ..model import GPT2
from ..stream import Writer
from .request import Event, Request, Result
from .scheduler import Sequence


class Ongoing:
    """A request that waits or runs: its sequence, how its tokens are chosen, and what the current step brings.

    listener  called as listener(id, text) for each new token, and as listener(None, text) for text held until the end
    """

    def __init__(self, model: GPT2, request: Request, sequence: Sequence, listener: Callable | None):
        function("listener", listener)
        self.sequence, self.listener = sequence, listener
        self.prompt, self.taken = len(sequence.tokens), 0
        self.limit = sequence.limit - self.prompt
        self.settings = sampling.check(request.temperature, request.top_k, request.top_p)
        self.keys = sampling.keys(request.seed, 1, self.limit, request.row)[0].to(model.device)
        self.event = Event(sequence.number, [], "")
        self.writer = Writer(model.tokenizer, 1, model.end_tokens, strings("stop", request.stop), self.hear)
        self.logits: list[torch.Tensor] | None = [] if flag("logits", request.logits) else None

    @property
    def greedy(self) -> bool:
        return self.settings[0] == 0

    def hear(self, _row: int, token: int | None, text: str):
        """A new token, and the text that is certain by it."""
        self.event.ids += [] if token is None else [token]
        self.event.text += text
        if self.listener:
            self.listener(token, text)

    def choose(self, logits: torch.Tensor, drafts: list[int], greedy: list[int]) -> list[int]:
        """The next tokens: one, and one more for each draft that proves right.

        logits  (1 + drafts, V): after the newest token, and after each draft
        greedy  the most probable tokens of these

        Rows are drawn from one by one, each as it is when the request runs alone.
        """
        chosen: list[int] = []
        for i, draft in enumerate([*drafts, -1]):
            key = self.keys[self.taken + i :][:1]
            new = greedy[i] if self.greedy else sampling.next_ids(logits[i : i + 1], key, *self.settings).item()
            chosen.append(int(new))
            if new != draft:
                break
        return chosen

    def take(self, token: int, logits: torch.Tensor) -> bool:
        """Write the next token; returns whether it was the last.  Raises NotFinite for -1."""
        self.writer.take([[token]])
        self.taken += 1
        if self.logits is not None:
            self.logits.append(logits.clone())
        if not self.writer.finished and self.taken == self.limit:
            self.writer.close()
        return self.writer.finished

    def result(self, reason: str, error: str | None) -> Result:
        """All of it, at its end; a reason where the writer has none."""
        self.writer.close()
        row, prompt = self.writer.rows[0], self.sequence.tokens[: self.prompt]
        logits = torch.stack(self.logits).cpu().numpy() if self.logits else None
        return Result(prompt, row.ids, row.text.text if row.text else None, reason or row.finish_reason, error, logits)
