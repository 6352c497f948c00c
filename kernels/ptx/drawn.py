"""What a random schedule draws before the first instruction."""

import numpy as np


def teams(random: np.random.Generator, programs: np.ndarray) -> list[np.ndarray]:
    """Those that share a block."""
    order = random.permutation(programs)
    cuts = np.sort(random.choice(np.arange(1, len(order)), min(5, len(order) - 1), replace=False))
    return [np.sort(team) for team in np.split(order, cuts)]


def ahead(random: np.random.Generator, warps: int) -> list[np.ndarray | None]:
    """The warps of a block, (W,) bool, that run ahead of the others, and those; or None: all go together."""
    if warps == 1 or random.random() >= 0.5:
        return [None]
    found = random.random(warps) < 0.5
    return [found, ~found] if found.any() and not found.all() else [None]
