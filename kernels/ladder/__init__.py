"""The way from the textbook to the decode kernel, a file a rung: `python -m kvproof.kernels.ladder` walks it."""

from .. import requires_triton as requires_triton
