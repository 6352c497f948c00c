"""What a set of runs says: medians and spread, and how sure of the median one may be."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 1000


def summarize(runs: Sequence[Sequence[float]]) -> dict[str, float | None]:
    """Median, p20, p80, p95 of all samples, and the 95 % confidence interval [low, high] of the median.

    runs  (R, n) samples: R runs of n steps each, in any unit

    The interval resamples whole runs, since the steps of one run share its fate; from a single run there is none.
    """
    samples = np.asarray(runs, float)
    p20, median, p80, p95 = np.percentile(samples, (20, 50, 80, 95))
    low = high = None
    if len(samples) > 1:
        # The percentile bootstrap (Efron 1979), as scipy.stats.bootstrap draws it, whose import takes a second.
        chosen = np.random.default_rng(0).integers(len(samples), size=(RESAMPLES, len(samples)))
        medians = np.median(samples[chosen].reshape(RESAMPLES, -1), axis=-1)
        low, high = np.percentile(medians, (2.5, 97.5)).tolist()
    summary = {"median": median, "p20": p20, "p80": p80, "p95": p95}
    return {**{name: float(x) for name, x in summary.items()}, "low": low, "high": high}
