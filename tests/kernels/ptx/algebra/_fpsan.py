"""Whether the installed Triton has fpsan."""

import pytest
import triton
from triton._C.libtriton import passes

needs_fpsan = pytest.mark.skipif(
    not hasattr(passes.ttgpuir, "add_fp_sanitizer"), reason=f"Triton {triton.__version__} has no fpsan; 3.8 has"
)
