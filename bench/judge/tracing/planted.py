"""Other values under the names of a namespace, such as a module's or an object's, for a while."""

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

Changes = list[tuple[MutableMapping[str, Any], str, Any]]  # (namespace, name, value to stand there)
ABSENT = object()


@contextmanager
def planted(changes: Changes) -> Iterator[None]:
    """Values under other names' places while it is open; what was there comes back, whatever happens."""
    before = [(space, name, space.get(name, ABSENT)) for space, name, _ in changes]
    try:
        for space, name, value in changes:
            space[name] = value
        yield
    finally:
        for space, name, value in reversed(before):
            if value is ABSENT:
                space.pop(name, None)
            else:
                space[name] = value
