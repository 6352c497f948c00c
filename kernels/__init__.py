"""Triton: decode.py, GPT-2's decode step; the ladder to it; attention, the general op; ptx, which runs them on a CPU."""
