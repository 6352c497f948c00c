"""Whole kernels on both engines: equal bits, equal reports, equal errors."""

import pytest

from kvproof.kernels import ptx

from .. import _kernels
from ..museum._exhibit import EXHIBITS
from ..museum.test_museum import test_as_it_was_it_is_red_as_declared as red
from ..museum.test_museum import test_as_mended_it_is_green as green
from . import _both


@pytest.mark.parametrize("name", EXHIBITS)
def test_the_museum_is_the_same(name):
    with _both.engines():
        green(name)
        red(name, None)
