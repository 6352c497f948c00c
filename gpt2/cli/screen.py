"""What a terminal shows of texts: each as it comes."""

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
