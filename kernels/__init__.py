"""Triton: decode.py, the decode step; ladder, the way to it; attention, the general op; ptx, which runs it on a CPU."""
