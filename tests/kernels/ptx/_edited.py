"""Launches that run another PTX than Triton compiled."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from kvproof.kernels.ptx import launch
from kvproof.kernels.ptx.execute import execute as usual


@contextmanager
def edited(edit: Callable[[str], str]) -> Iterator[None]:
    """Inside, launches run what `edit` makes of their PTX."""

    def execute(text: str, *args: Any, **settings: Any) -> Any:
        return usual(edit(text), *args, **settings)

    with mock.patch.object(launch, "execute", execute):
        yield
