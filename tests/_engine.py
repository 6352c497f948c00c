"""The mark of tests that run the compiled engine of kernels/cpu."""

import pytest

from kvproof.kernels.cpu.machine_code import available

ENGINE = pytest.mark.skipif(available() is not None, reason=f"the engine cannot run here: {available()}")
