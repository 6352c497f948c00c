"""What a set of runs says: medians and spread, and how sure of the median one may be."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap


def summarize(runs: Sequence[Sequence[float]]) -> dict[str, float | None]:
    """Median, p20, p80, p95 of all samples, and the 95 % confidence interval [low, high] of the median.

    runs  (R, n) samples: R runs of n steps each, in any unit

    The interval resamples whole runs, since the steps of one run share its fate; from a single run there is none.
    """
    samples = np.asarray(runs, float)
    p20, median, p80, p95 = np.percentile(samples, (20, 50, 80, 95))
    low = high = None
    if len(samples) > 1:

        def median_of(chosen, axis=-1):
            return np.median(samples[chosen].reshape(*chosen.shape[:-1], -1), axis=-1)

        interval = bootstrap(
            (np.arange(len(samples)),), median_of, n_resamples=1000, vectorized=True, method="percentile", rng=0
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    return {
        "median": float(median),
        "p20": float(p20),
        "p80": float(p80),
        "p95": float(p95),
        "low": low,
        "high": high,
    }
