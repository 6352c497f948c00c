"""A refusal on one line: the error, its words, and the call that must raise it."""

import pytest


def refused(error, words: str, call, *args, **kwargs):
    """Fail unless call(*args, **kwargs) raises this error, or one of these, with these words."""
    with pytest.raises(error, match=words):
        call(*args, **kwargs)
