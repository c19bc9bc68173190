"""Ranking metrics: one value per user, and then the mean.

A `Ranking` holds what they need: how many negatives are above each positive. Raw scores are ranked, and a tie counts as
one half: a positive's rank is its place among the positives, plus the negatives above it, plus half of the negatives
that it ties with. A metric that is not defined for a user (no positive, or no negative) is NaN there, and the mean
leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Ranking(NamedTuple):
    """Where the positives of each user are among the user's negatives.

    L is the highest number of positives of a user of the batch: 1 if a single target is ranked.
    """

    above: np.ndarray  # [B, L] float64, negatives above each positive, best first; a tie is one half
    where: np.ndarray  # [B, L] bool, True where there is a positive
    negatives: np.ndarray  # [B] int64, their number

    @property
    def ranks(self) -> np.ndarray:
        """[B, L] ranks from 1; a fraction if a positive ties with negatives."""
        return self.above + np.arange(1, self.above.shape[1] + 1)

    @property
    def defined(self) -> np.ndarray:
        """[B] True for users with a positive and a negative."""
        return self.where.any(axis=1) & (self.negatives > 0)


class Sums(NamedTuple):
    """A total and the number of values in it."""

    total: float
    number: int

    @property
    def mean(self) -> float:
        """The mean; NaN for no values."""
        return self.total / self.number if self.number else float("nan")


def sums(values: np.ndarray) -> Sums:
    """Adds up the values [B] that are defined."""
    return Sums(float(np.nansum(values, dtype=np.float64)), int(np.count_nonzero(~np.isnan(values))))


def ranking(scores: np.ndarray, labels: np.ndarray, *, where: np.ndarray) -> Ranking:
    """Ranks each user's candidates, by sorting.

    Args:
      scores: [B, C] raw scores; only their order matters.
      labels: [B, C] True for positives.
      where: [B, C] True where there is a candidate.

    Raises:
      ValueError: a candidate's score is NaN.
    """
    _refuse_nan(scores, where)
    scores, labels = np.asarray(scores), np.asarray(labels, bool)
    order = np.argsort(-scores, axis=1, kind="stable")
    ordered = np.take_along_axis(scores, order, axis=1)
    negative = np.take_along_axis(where & ~labels, order, axis=1)
    upto = np.cumsum(negative, axis=1)  # negatives among the first c + 1
    # Equal scores form a group. Each member is below all earlier scores, and below half of its group.
    begins = np.ones(scores.shape, bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ends = np.roll(begins, -1, axis=1)
    before = np.maximum.accumulate(np.where(begins, upto - negative, 0), axis=1)
    count = upto[:, -1:] if scores.shape[1] else np.zeros((len(scores), 1), np.int64)
    through = np.minimum.accumulate(np.where(ends, upto, count)[:, ::-1], axis=1)[:, ::-1]
    positive = np.take_along_axis(where & labels, order, axis=1)
    # Positives come first and keep their order: column l is the (l + 1)-th best of the user.
    first = np.argsort(~positive, axis=1, kind="stable")[:, : max(1, int(positive.sum(axis=1).max(initial=0)))]
    above = np.take_along_axis((before + through) / 2, first, axis=1)
    return Ranking(above, np.take_along_axis(positive, first, axis=1), negative.sum(axis=1))


def auc(ranking: Ranking) -> np.ndarray:
    """[B] the share of (positive, negative) pairs in the right order; a tie counts as one half."""
    above = np.where(ranking.where, ranking.above, 0).sum(axis=1)
    return 1 - _divide(above, ranking.where.sum(axis=1) * ranking.negatives)


def gauc(ranking: Ranking, *, least_negatives: int = 2) -> np.ndarray:
    """[B] AUC of the users with at least two negatives; the released code averages over these users."""
    return np.where(ranking.negatives >= least_negatives, auc(ranking), np.nan)


def ndcg(ranking: Ranking, *, cutoff: float = np.inf) -> np.ndarray:
    """[B] discounted gain of the positives that rank within the cut-off, divided by the best possible gain."""
    gains = np.where(ranking.where & (ranking.ranks <= cutoff), 1 / np.log2(1 + ranking.ranks), 0)
    places = np.arange(1, ranking.where.shape[1] + 1)
    possible = (places <= np.minimum(ranking.where.sum(axis=1), cutoff)[:, None]) / np.log2(1 + places)
    return _divide(gains.sum(axis=1), np.where(ranking.defined, possible.sum(axis=1), 0))


def reciprocal_rank(ranking: Ranking) -> np.ndarray:
    """[B] one over the rank of the best positive."""
    return _divide(np.ones(len(ranking.above)), np.where(ranking.defined, ranking.ranks[:, 0], 0))


def hit_rate(ranking: Ranking, *, cutoff: float) -> np.ndarray:
    """[B] 1 if a positive ranks within the cut-off, otherwise 0."""
    return np.where(ranking.defined, ranking.ranks[:, 0] <= cutoff, np.nan)


def chance_within(greater: np.ndarray, equal: np.ndarray, *, cutoff: float) -> np.ndarray:
    """[...] chance of a place within the cut-off if ties are put into random order.

    The chances add up to the number of places: if a scorer ties everything, the top k is k random items, and not empty.

    Args:
      greater: [...] how many items have a higher score.
      equal: [...] how many other items have the same score.
      cutoff: k.
    """
    return np.clip((cutoff - greater) / (1 + equal), 0, 1)


def each_alone(metric: Callable[[Ranking], np.ndarray], ranking: Ranking) -> np.ndarray:
    """[B] mean of a metric over a user's positives, each ranked as if it were the user's only positive.

    The positives may be in any order.
    """
    places = ranking.above.shape[1]
    alone = Ranking(ranking.above.reshape(-1, 1), ranking.where.reshape(-1, 1), np.repeat(ranking.negatives, places))
    values = metric(alone).reshape(ranking.above.shape)
    return _divide(np.nansum(values, axis=1), np.count_nonzero(~np.isnan(values), axis=1))


def log_loss(scores: np.ndarray, labels: np.ndarray, *, where: np.ndarray) -> np.ndarray:
    """[B] mean over the candidates of `-log sigmoid(score)` for positives, `-log sigmoid(-score)` for negatives."""
    _refuse_nan(scores, where)
    scores = np.asarray(scores, np.float64)
    losses = np.logaddexp(0, np.where(labels, -scores, scores))  # stable: log(1 + exp(x)) never overflows
    return _divide(np.where(where, losses, 0).sum(axis=1), where.sum(axis=1))


def pooled_auc(scores: np.ndarray, labels: np.ndarray, users: np.ndarray, *, num_users: int) -> np.ndarray:
    """AUC over the candidates of all users together, as one value per user, so that users can be resampled.

    Args:
      scores: [F] raw scores of every candidate of every user.
      labels: [F] True for positives.
      users: [F] whose candidate it is, 0..num_users-1.
      num_users: V.

    Returns:
      [V] values whose mean is exactly the pooled AUC. A user's distance from that mean, divided by V, is the user's
      influence on it (to first order), so an interval of the mean over users is an interval of the pooled AUC. All are
      NaN if there is no positive or no negative.

    References:
      Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics 53 (1997).
    """
    labels = np.asarray(labels, bool)
    below = 1 - _share_above(scores, scores[~labels])  # of each candidate, against the negatives
    above = _share_above(scores, scores[labels])
    # The share of negatives below a positive and the share of positives above a negative have the same mean.
    shares = np.where(labels, below, above)
    total = shares[labels].mean() if labels.any() and not labels.all() else np.nan
    weights = 1 / np.where(labels, max(labels.sum(), 1), max((~labels).sum(), 1))
    influence = np.bincount(users, (shares - total) * weights, minlength=num_users)
    return total + num_users * influence


def _share_above(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """[F] the share of the reference scores above each score; a tie counts as one half. NaN if there are none."""
    _refuse_nan(scores, np.ones(scores.shape, bool))
    reference = np.sort(reference)
    less, upto = (np.searchsorted(reference, scores, side=side) for side in ("left", "right"))
    return 1 - _divide(less + upto, np.broadcast_to(2 * len(reference), scores.shape))


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """`numerator / denominator`; NaN where the denominator is 0."""
    return np.divide(
        numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=np.not_equal(denominator, 0)
    )


def nan_scores(bad: int, number: int) -> ValueError:
    """The error for `bad` NaN among `number` scores."""
    return ValueError(
        f"{bad} of {number} scores are NaN: the parameters are not finite; evaluate an earlier checkpoint"
    )


def _refuse_nan(scores: np.ndarray, where: np.ndarray) -> None:
    """Raises an error for NaN scores, which have no order."""
    bad = int(np.count_nonzero(np.isnan(scores) & where))
    if bad:
        raise nan_scores(bad, int(np.count_nonzero(where)))
