"""The promises of a pool: what each is called, its scenes, and what is said if it is kept or broken."""

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from ..buffers import capability
from ..report import Finding
from . import counting, life, lives, sharing
from .played import counted, played
from .scene import PoolTrial

# What is promised: its scenes, what is said if it is kept, and what if it is not.
PROMISES: dict[str, tuple[Callable[[int], Any], str, str]] = {
    "growing": (
        sharing.growing,
        "a sequence in pieces is what it is whole",
        "a sequence that grows over blocks is not what it is whole: look at positions and the block table's end",
    ),
    "together": (
        sharing.together,
        "sequences side by side are what each is alone",
        "sequences in one pool see each other: look at the block tables and, in one pass, the mask",
    ),
    "prefix": (
        sharing.prefix,
        "sequences that begin alike are what each is alone",
        "a sequence that begins as another is not what it is alone: look at what is shared and who writes there",
    ),
    "prefix of the gone": (
        sharing.gone,
        "a prefix outlives its first owner and is not taken from blocks used since",
        "a sequence that begins as one that is gone is not what it is alone: a block was given away too early or found "
        "too late",
    ),
    "another past": (
        sharing.past,
        "the same tokens behind others are other blocks",
        "blocks of the same tokens behind other tokens are taken for each other: the key must hold the whole past",
    ),
    "two owners": (
        sharing.owners,
        "a fork and its origin go their own ways",
        "a fork and its origin write into each other's past: look at copy on write and who frees",
    ),
    "rollback": (
        life.rollback,
        "tokens that were taken back have never been there",
        "after crop() a sequence is not what its tokens are: it keeps too much, too little, or its blocks",
    ),
    "rollback in shared blocks": (
        life.rollback_shared,
        "tokens that one owner takes back stay with the others",
        "after a crop() in blocks that others have, or come for, somebody's past is wrong",
    ),
    "preemption": (
        life.preemption,
        "a sequence that was evicted goes on where it was",
        "a sequence that was evicted and resumed, or one beside it, is not what its tokens are",
    ),
    "reset": (life.reset, "reset() leaves an empty pool", "after reset() something of before is left"),
    "new weights": (
        life.weights,
        "with new weights nothing of the old is used",
        "with new weights blocks are used that the old ones have computed",
    ),
    "exhaustion": (
        counting.exhaustion,
        "a request that does not fit changes nothing",
        "a request for more blocks than are free is not refused, or leaves a trace",
    ),
    "lives": (
        lives.lives,
        "in any order of calls",
        "in a random order of calls a sequence is not what its tokens are",
    ),
}
SHARE = ("prefix", "prefix of the gone")
# Played again with NaN wherever no token lies: a block that was used before is never read beyond what was written anew.
IN_USED_BLOCKS = (sharing.growing, sharing.gone, life.rollback, life.rollback_shared)


def promise(name: str, trial: PoolTrial) -> Finding:
    scenes, held, broken = PROMISES[name]
    claims, shares = name in (*SHARE, "reset"), name in SHARE
    return played(trial, scenes(trial.page), held, broken, claims=claims, shares=shares)


def dead_places(trial: PoolTrial) -> Finding:
    """NaN in all free blocks, and behind the last token of each sequence, before every call."""
    held, broken = "what no token lies in is never read", "NaN in free blocks or behind the last token is read"
    capability(trial.make(), "buffers")
    return played(trial, chain(*(scenes(trial.page) for scenes in IN_USED_BLOCKS)), held, broken, poison=np.nan)


def blocks_back(trial: PoolTrial) -> Finding:
    page = trial.page
    others = {name: scenes(page) for name, (scenes, *_) in PROMISES.items() if name not in ("exhaustion", "lives")}
    return counted(trial, {"early ends": counting.early_ends(page), **others})


CHECKS: dict[str, Callable[[PoolTrial], Finding]] = {
    **{name: partial(promise, name) for name in PROMISES},
    "dead places": dead_places,
    "blocks back": blocks_back,
}
