"""The terms of the objective, as pure functions of scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from sine_jax.types import AnyArray, Array


class Mean(NamedTuple):
    """A sum and its count, so that parts of a batch can be added before the division."""

    total: Array  # []
    pairs: Array  # [], the number of values in the sum


def masked(values: Array, *, where: Array) -> Mean:
    """Sum and number of the values where `where` is True, in float32; masked values have no gradient."""
    total = jnp.sum(jnp.where(where, values.astype(jnp.float32), 0.0))
    return Mean(total, jnp.sum(where, dtype=jnp.float32))


def mean(parts: Sequence[Mean], *, axis_name: str | None = None) -> Array:
    """The mean over all parts.

    Args:
      parts: sums and counts.
      axis_name: device axis, if any. Counts are averaged over it, so the `pmean` of the result is the global mean.

    Returns:
      [] the mean; 0 where the count is 0.
    """
    total = sum((part.total for part in parts), jnp.zeros(()))
    count = sum((part.pairs for part in parts), jnp.zeros(()))
    if axis_name is not None:
        count = jax.lax.pmean(count, axis_name)
    return total / jnp.where(count > 0, count, 1.0)


def preference_loss(preferred: Array, other: Array, *, where: Array) -> Mean:
    """Bayesian personalised ranking: `-log sigmoid(preferred - other)`.

    With sampled negatives as `other` this is the sampled-negative objective, with skips the passive-negative one.

    Args:
      preferred: [...] scores of the watched items.
      other: [...] scores of the skipped or sampled items.
      where: [...] True where the pair exists.

    Returns:
      The loss as sum and count.

    References:
      Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009, arXiv 1205.2618.
    """
    return masked(-jax.nn.log_sigmoid(preferred - other), where=where)


def sampled_softmax_loss(positive_scores: Array, sampled_scores: Array, log_chances: AnyArray, *, where: Array) -> Mean:
    """Cross-entropy of the watched item in the whole catalogue; the sum over the catalogue is estimated by a sample.

    Each of the M sampled items stands for `1 / (M q)` items, where q is the chance of drawing it. M also counts the
    items that were drawn and then left out, such as the user's own.

    Args:
      positive_scores: [..., 1] of the watched item.
      sampled_scores: [..., M] of the sampled items.
      log_chances: [..., M] log q.
      where: [..., M] True where there is a pair.

    Returns:
      The loss as sum and count, over the positions with a pair.

    References:
      Bengio and Senecal, "Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic Language
      Model", IEEE Transactions on Neural Networks 19(4), 2008.
    """
    logits = jnp.where(where, sampled_scores - log_chances - math.log(sampled_scores.shape[-1]), -jnp.inf)
    everything = jnp.concatenate([positive_scores, logits], axis=-1)
    return masked(jax.nn.logsumexp(everything, axis=-1) - positive_scores[..., 0], where=where.any(axis=-1))


def gbce_loss(positive_scores: Array, sampled_scores: Array, *, beta: float, where: Array) -> Mean:
    """Generalised binary cross-entropy: `-(beta log sigmoid(positive) + sum log sigmoid(-sampled)) / (M + 1)`.

    Args:
      positive_scores: [..., 1] of the watched item.
      sampled_scores: [..., M] of the sampled items.
      beta: power of the watched item's probability, of `gbce_beta`; 1 is plain binary cross-entropy.
      where: [..., M] True where there is a pair.

    Returns:
      The loss as sum and count, over the positions with a pair.

    References:
      Petrov and Macdonald, "gSASRec: Reducing Overconfidence in Sequential Recommendation Trained with Negative
      Sampling", RecSys 2023, arXiv 2308.07192.
    """
    others = jnp.sum(jnp.where(where, jax.nn.log_sigmoid(-sampled_scores), 0.0), axis=-1)
    both = beta * jax.nn.log_sigmoid(positive_scores[..., 0]) + others
    return masked(-both / (1 + jnp.sum(where, axis=-1)), where=where.any(axis=-1))


def gbce_beta(*, num_negatives: int, num_items: int, t: float) -> float:
    """The `beta` of `gbce_loss` for the share of negatives `M / (N - 1)`: 1 at t = 0, the share itself at t = 1."""
    share = min(num_negatives / max(num_items - 1, 1), 1.0)
    return share * (t * (1 - 1 / share) + 1 / share)


def watch_probability_loss(logits: Array, watched: Array, *, where: Array) -> Mean:
    """Logistic loss of the probability that an exposure is watched.

    Args:
      logits: [...] scores.
      watched: [...] bool, whether it was watched.
      where: [...] True where there was an exposure.

    Returns:
      The loss as sum and count.
    """
    return masked(-jax.nn.log_sigmoid(jnp.where(watched, logits, -logits)), where=where)


def cross_entropy(log_probabilities: Array, targets: Array, *, where: Array) -> Mean:
    """Cross-entropy to a given distribution.

    Args:
      log_probabilities: [..., K].
      targets: [..., K] probabilities; no gradient flows into them.
      where: [...] True where the pair counts.

    Returns:
      The loss as sum and count.
    """
    return masked(-jnp.sum(jax.lax.stop_gradient(targets) * log_probabilities, axis=-1), where=where)


def distance_correlation(x: Array, y: Array) -> Array:
    """Distance correlation of two samples of equal size; 0 if one of them is constant.

    Args:
      x: [n] one sample.
      y: [n] the other, paired with it.

    Returns:
      [] in [0, 1].

    References:
      Szekely, Rizzo and Bakirov, "Measuring and testing dependence by correlation of distances", Annals of Statistics
      35(6), 2007.
    """
    a, b = _centred_distances(x), _centred_distances(y)
    covariance, x_variance, y_variance = jnp.mean(a * b), jnp.mean(a * a), jnp.mean(b * b)
    return _safe_sqrt(covariance) / jnp.maximum(_safe_sqrt(_safe_sqrt(x_variance) * _safe_sqrt(y_variance)), _TINY)


def total_distance_correlation(interests: Array) -> Array:
    """Sum of the distance correlations of all pairs of sub-interests [K, D], each seen as a sample of D values."""
    first, second = jnp.triu_indices(interests.shape[0], k=1)
    return jnp.sum(jax.vmap(distance_correlation)(interests[first], interests[second]))


_TINY = 1e-20


def _safe_sqrt(x: Array) -> Array:
    """The square root; 0 with gradient 0 where x is 0 or, by rounding, below."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def _centred_distances(x: Array) -> Array:
    """|x_m - x_n| [n, n], minus the mean of its row and that of its column, plus the mean of all."""
    distances = jnp.abs(x[:, None] - x[None, :])
    return (
        distances
        - jnp.mean(distances, axis=0, keepdims=True)
        - jnp.mean(distances, axis=1, keepdims=True)
        + jnp.mean(distances)[None, None]
    )
