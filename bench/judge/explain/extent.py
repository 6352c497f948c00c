"""The extent of a difference, whatever its cause: sequences, positions, heads, and how it grows along them."""

import numpy as np

from .cache_contents import spans

MUCH = 2.0  # times as large at the end as at the start is growing


def extent(error: np.ndarray, parted: np.ndarray, positions: np.ndarray, decode: np.ndarray, unit="of the rms") -> str:
    """How differences go over the positions.

    error      (B, n) the largest at each position; parted (B, n) where it is more than rounding
    positions  (B, n) in their sequences, -1 where there is none
    decode     (B, n) which of them decode steps computed, and not the prefill
    unit       what error is counted in
    """
    real = positions >= 0
    parted = parted & real
    if not parted.any():
        return "no compared position differs by more than rounding"
    words = [sequence_extent(row, parted[row], positions[row]) for row in range(len(parted)) if parted[row].any()]
    more = f", {len(words) - 4} sequences more" if len(words) > 4 else ""
    fine = [str(row) for row in range(len(parted)) if not parted[row].any()]
    none = f", not in sequence {', '.join(fine[:4])}{', …' * (len(fine) > 4)}" if fine else ""
    return f"differs in {'; '.join(words[:4])}{more}{none}{phase(parted, real, decode)}; {growth(error, parted, unit)}"


def sequence_extent(row: int, parted: np.ndarray, positions: np.ndarray) -> str:
    compared = positions[positions >= 0]
    wrong = positions[parted].tolist()
    after = compared[compared >= wrong[0]]
    if len(wrong) == len(after) > 1:
        return f"sequence {row} from position {wrong[0]} on"
    if len(wrong) == 1:
        return f"sequence {row} at position {wrong[0]}" + (" alone" if len(compared) > 1 else "")
    return f"sequence {row} at positions {spans(wrong)}"


def phase(parted: np.ndarray, real: np.ndarray, decode: np.ndarray) -> str:
    if not (real & decode).any() or not (real & ~decode).any():
        return ""
    if not (parted & decode).any():
        return ", in the prefill alone"
    return "" if (parted & ~decode).any() else ", in decode steps alone"


def growth(error: np.ndarray, parted: np.ndarray, unit: str) -> str:
    columns = np.flatnonzero(parted.any(0))
    size = np.where(parted, error, 0.0).max(0)[columns]
    first, last, top = size[0], size[-1], size.max()
    if not np.isfinite(top):
        return "NaN or infinity in one path alone"
    if len(size) == 1:
        return f"{top:.1e} {unit}"
    if last > MUCH * first:
        word = "growing"
    elif first > MUCH * last:
        word = "shrinking"
    else:
        word = "about constant"
    return f"{word}: {first:.1e} at first, {last:.1e} at last, {top:.1e} {unit} at most"


def head_extent(error: np.ndarray, gate: float) -> str:
    """Which heads of error (B, n, H) differ; nothing where all do."""
    heads = np.asarray((error > gate).any((0, 1)))
    if heads.all() or not heads.any():
        return ""
    which = np.flatnonzero(heads).tolist()
    return f"; head{'s' * (len(which) > 1)} {spans(which)} of {len(heads)} alone"
