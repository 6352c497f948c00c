"""Which slots of a cache a decode step reads."""

import pytest

from kvproof.bench.judge.subjects.slots import slots_read
from kvproof.gpt2 import attention, load

from .._models import lengths_moved


@pytest.mark.parametrize(("by", "unread", "trespassed"), [(0, 0, 0), (-1, 2, 0), (1, 0, 2)])
def test_the_drawn_cache_shows_slots_that_are_missed_and_dead_ones_that_are_read(monkeypatch, by, unread, trespassed):
    monkeypatch.setitem(attention.DECODE_STEP, "eager", lengths_moved(by, attention.eager))
    slots = slots_read(load("tiny", impl="eager"), [5, 5], 8)
    assert (slots.unread, slots.trespassed) == (unread, trespassed)
