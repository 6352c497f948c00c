"""What does not decide: a fault on a rung that only the judge asked for, and that the dtype in question does not have.

Where float64 is asked of a model that takes its softmax in float32, float64's most negative number becomes -inf there,
and a padded row NaN (transformers#17437). That is worth a sentence, and says nothing of float32.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .ladder import Run
from .verdict import Rung


def set_aside(runs: Sequence[Run], dtype: str) -> list[Run]:
    """The runs, without the logits that are no numbers although in `dtype`, the one in question, all are."""
    asked = next((now for now in runs if now.dtype == dtype), None)
    if asked is None or not asked.numbers.all():
        return list(runs)
    return [
        now if now.numbers.all() else without(now, f"{now.whose()}; {dtype} has numbers everywhere") for now in runs
    ]


def without(now: Run, why: str) -> Run:
    """The run with path A's logits taken from path B where either is no number, NaN where B's is none."""
    b = np.where(now.numbers | np.isfinite(now.b), now.b, np.nan)
    return replace(now, a=np.where(now.numbers, now.a, b), b=b, aside=why)


def unasked(rungs: Sequence[Rung], dtype: str) -> list[Rung]:
    """The rungs, a red one set aside where one nearer to `dtype` would show the same fault and does not."""
    names = [rung.dtype for rung in rungs]
    if dtype not in names:
        return list(rungs)
    asked, left = names.index(dtype), []
    for i, rung in enumerate(rungs):
        nearer = rungs[i + 1 : asked + 1] if i < asked else rungs[asked:i]
        sound = [other for other in nearer if other.green and not other.aside and not other.undefined]
        witness = next((other for other in sound if math.inf > rung.error > 2 * other.gate), None)
        if not rung.green and not rung.aside and witness:
            shown = f"{witness.dtype} would show a fault of this size (gate {witness.gate:.1e}) and does not"
            rung = replace(rung, aside=True, note="; ".join(filter(None, (shown, rung.note))))
        left.append(rung)
    return left
