"""The kernels compiled for GPUs that are not here, and their machine code read. Nothing imports it at run time."""

from ..requires_triton import triton as triton
