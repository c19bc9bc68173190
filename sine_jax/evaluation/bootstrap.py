"""Intervals of means, by resampling users."""

from __future__ import annotations

import numpy as np


def intervals(
    values: np.ndarray, *, level: float = 0.95, replicates: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile intervals of the means over users.

    Every column uses the same resamples, so the columns of two scorers may be compared. A resample draws as many users
    as there are, with replacement; how often each is drawn is approximated by a Poisson distribution.

    Args:
      values: [V, ...] one entry per user; NaN if a value is not defined for the user.
      level: the share of resamples within the interval.
      replicates: resamples.
      seed: of the resamples.

    Returns:
      Lower and upper bounds, each [...]; NaN if no user has a value.

    References:
      Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), 13.3; Hanley and MacGibbon, "Creating
      non-parametric bootstrap samples using Poisson frequencies" (2006).
    """
    values = np.asarray(values, np.float64)
    defined = ~np.isnan(values)
    flat = values.reshape(len(values), -1)
    columns = np.concatenate([np.where(np.isnan(flat), 0, flat), defined.reshape(flat.shape)], axis=1)
    generator = np.random.default_rng(seed)
    at_once = max(1, (1 << 23) // max(len(values), 1))  # resamples, to bound memory
    sums = np.concatenate(
        [
            generator.poisson(1.0, (min(at_once, replicates - begin), len(values))).astype(np.float64) @ columns
            for begin in range(0, replicates, at_once)
        ]
    )
    totals, counts = np.split(sums, 2, axis=1)
    means = np.divide(totals, counts, out=np.full(totals.shape, np.nan), where=counts > 0)
    shape = values.shape[1:]
    low, high = np.full((2, flat.shape[1]), np.nan)
    known = defined.reshape(flat.shape).any(axis=0)
    tail = (1 - level) / 2
    if known.any():
        low[known], high[known] = np.nanquantile(means[:, known], [tail, 1 - tail], axis=0)
    return low.reshape(shape), high.reshape(shape)
