"""What a terminal shows while a command works: texts as they come, and a progress bar."""

import sys
from collections.abc import Sequence

from ..generate import Completion


class Page:
    """Shows a batch's texts in order on standard output: the first as it is decoded, the others when they are whole."""

    def __init__(self, prompts: Sequence[str], stream: bool):
        self.prompts, self.stream = prompts, stream
        self.begun = False

    def hear(self, row: int, token: int | None, text: str):
        if self.stream and row == 0:
            print(text if self.begun else self.prompts[0] + text, end="", flush=True)
            self.begun = True

    def close(self, done: Sequence[Completion]):
        for row, (prompt, one) in enumerate(zip(self.prompts, done, strict=True)):
            print("" if row == 0 and self.begun else f"{prompt}{one.text}", flush=True)


def progress_bar(total: int, unit: str, done: int = 0):
    """A tqdm bar on standard error, shown only if that is a terminal; `update(n)` counts n more."""
    from huggingface_hub.utils import tqdm

    return tqdm(total=total, initial=done, unit=unit, file=sys.stderr, disable=None if sys.stderr.isatty() else True)
