"""Triton, or a sentence in its place: it is published for Linux only, and all but the kernels works without it."""

try:
    import triton as triton
    import triton.language as tl
except ModuleNotFoundError as error:
    raise ImportError(
        f"the kernels and the PTX machine need triton, which is published for Linux only ({error}); on macOS and "
        'Windows use impl="sdpa"'
    ) from error

__all__ = ["tl", "triton"]
