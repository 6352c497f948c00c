"""Which slots of a cache a decode step reads."""

import pytest

from kvproof.bench.judge.subjects.slots import slots_read
from kvproof.gpt2 import attention, load


def lengths_moved(by: int):
    def step(q, cache, layer):
        whole = cache.host_lengths
        cache.host_lengths = [n + by for n in whole]
        o = attention.eager(q, cache, layer)
        cache.host_lengths = whole
        return o

    return step


@pytest.mark.parametrize(("by", "unread", "trespassed"), [(0, 0, 0), (-1, 2, 0), (1, 0, 2)])
def test_the_drawn_cache_shows_slots_that_are_missed_and_dead_ones_that_are_read(monkeypatch, by, unread, trespassed):
    monkeypatch.setitem(attention.DECODE_STEP, "eager", lengths_moved(by))
    slots = slots_read(load("tiny", impl="eager"), [5, 5], 8)
    assert (slots.unread, slots.trespassed) == (unread, trespassed)
