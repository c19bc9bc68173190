"""What the first k items of each user have in common: novelty, diversity, popularity, coverage and Gini.

The list of a user is the first k of the catalogue without the user's other exposures, as protocol `full` ranks it. How
popular an item is counts the users who were shown it in the training part.

  novelty@k           mean of -log2((n_i + 1) / (U + 1)) over the list; n_i users of U were shown item i
  diversity@k         1 - the mean cosine of two items of the list, by co-exposure (`factors.co_exposure`)
  popularity@k        mean of n_i / U over the list
  popularity_lift@k   popularity@k relative to the mean n_i / U of what the user was shown before, less 1
  coverage@k          share of the catalogue that is in somebody's list
  gini@k              Gini coefficient of how many lists each item of the catalogue is in; 0 is equal

References:
  Vargas and Castells, "Rank and Relevance in Novelty and Diversity Metrics for Recommender Systems", RecSys 2011.
  Ziegler et al., "Improving Recommendation Lists Through Topic Diversification", WWW 2005 (intra-list similarity).
  Abdollahpouri et al., "The Unfairness of Popularity Bias in Recommendation", 2019, arXiv 1907.13286 (popularity lift).
  Shani and Gunawardana, "Evaluating Recommendation Systems", Recommender Systems Handbook, 2011 (coverage, Gini).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sine_jax import factors
from sine_jax.types import PAD, EventLog, Split

DIM = 16  # of the item factors


class Facts(NamedTuple):
    """What is known of items and users before anything is recommended."""

    popularity: np.ndarray  # [N + 1] users who were shown the item in the training part
    num_users: int  # U
    vectors: np.ndarray  # [N + 1, DIM] of unit length, or 0 where an item has none
    own: np.ndarray  # [U] mean n_i / U of what each user was shown before the target; NaN without


def facts(log: EventLog, split: Split, *, num_items: int) -> Facts:
    """Counts and factors of the training part.

    Args:
      log: the exposures.
      split: its training part, and what comes before its targets.
      num_items: N.
    """
    learned, read = log.before(split.train_end), log.before(split.history_end)
    shown = np.unique(log.users[learned] * np.int64(num_items + 1) + log.items[learned]) % (num_items + 1)
    popularity = np.bincount(shown, minlength=num_items + 1)
    number = np.bincount(log.users[read], minlength=log.num_users)
    total = np.bincount(log.users[read], popularity[log.items[read]] / log.num_users, minlength=log.num_users)
    return Facts(
        popularity=popularity,
        num_users=log.num_users,
        vectors=factors.co_exposure(log, learned, num_items=num_items, dim=DIM),
        own=np.divide(total, number, out=np.full(log.num_users, np.nan), where=number > 0),
    )


def of_users(facts: Facts, lists: np.ndarray, users: np.ndarray, *, cutoff: int) -> dict[str, np.ndarray]:
    """The metrics that each user has.

    Args:
      facts: of `facts`.
      lists: [W, k] items, best first; PAD after the last.
      users: [W] whose lists they are, 0..U-1.
      cutoff: how many items of each list count.

    Returns:
      [W] values by name; NaN where there is none.
    """
    items = lists[:, :cutoff]
    there = items != PAD
    number = there.sum(axis=1)
    counts = facts.popularity[items]
    information = -np.log2((counts + 1) / (facts.num_users + 1))
    popularity = _mean(counts / facts.num_users, there)
    vectors = facts.vectors[items]  # 0 at PAD
    total, lengths = vectors.sum(axis=1), np.sum(vectors**2, axis=(1, 2))
    pairs = number * (number - 1)
    cosine = np.divide(np.sum(total**2, axis=1) - lengths, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    own = facts.own[users]
    return {
        f"novelty@{cutoff}": _mean(information, there),
        f"diversity@{cutoff}": 1 - cosine,
        f"popularity@{cutoff}": popularity,
        f"popularity_lift@{cutoff}": np.divide(popularity, own, out=np.full(len(own), np.nan), where=own > 0) - 1,
    }


def of_all(facts: Facts, lists: np.ndarray, *, cutoff: int) -> dict[str, float]:
    """The metrics of all users together, by name; arguments as of `of_users`."""
    items = lists[:, :cutoff]
    counts = np.sort(np.bincount(items[items != PAD], minlength=len(facts.popularity))[1:])
    size, total = len(counts), counts.sum()
    gini = (2 * np.sum(np.arange(1, size + 1) * counts) / (size * total) - (size + 1) / size) if total else 0.0
    return {f"coverage@{cutoff}": float(np.mean(counts > 0)), f"gini@{cutoff}": float(gini)}


def _mean(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    number = where.sum(axis=1)
    total = np.where(where, values, 0).sum(axis=1)
    return np.divide(total, number, out=np.full(len(values), np.nan), where=number > 0)
