"""Scorers that know the law of a synthetic log: no model can be better, but for chance.

  generating probability              knows each user's taste too
  best possible                       knows what can be known: the law, and what the user was shown, watched and skipped
                                      before. The taste is integrated over its posterior
  best possible, blind to skips       knows the taste as well, but takes the effect of recent skips at its mean for such
                                      a taste: what is possible without a memory for skips

For `full`, which ranks the catalogue, a score is the log-probability that the item is shown next and watched.

The posterior is computed on a lattice: tastes are multiples of 1 / GRID that sum to 1, with the mass that the Dirichlet
distribution has around them. The likelihood is a product over interests, so the marginals are convolutions.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sine_jax.data import law as laws
from sine_jax.data import synthetic
from sine_jax.data.law import Law
from sine_jax.evaluation.scorers import Scorer
from sine_jax.types import WATCHED, AnyArray, Array, EventLog

GRID = 32  # G; choices that trade memory for accuracy
EXPOSURES_AT_ONCE = 1 << 18


class Known(NamedTuple):
    """What is known at R places of the log. The first three are [R, I, G] or broadcast to it."""

    tastes: Array  # values that a user's taste for an interest may have
    faded: Array  # the skips that are remembered with it, faded by their age
    chances: Array  # of each value
    interest: Array  # [N + 1] int32
    appeal: Array  # [N + 1]
    share_of_interest: Array  # [N + 1]
    share_of_all: Array  # [N + 1]


def scorer(settings: synthetic.Settings, *, shown_too: bool) -> Scorer:
    """Scores by what is `Known`.

    Args:
      settings: of the law.
      shown_too: score by the log-probability that an item is shown and watched; otherwise by the log-odds that it is
        watched if it is shown.
    """

    def score(known: Known, rows: AnyArray, items: AnyArray) -> Array:
        """Scores of rows [B, 1] and items [B, C] or [1, C]."""
        interest = jnp.broadcast_to(known.interest[items], jnp.broadcast_shapes(rows.shape, items.shape))

        def add(total: Array, value: Array) -> tuple[Array, None]:
            taste, faded, share = (_at(x, rows, interest, value) for x in known[:3])
            watched = jax.nn.sigmoid(synthetic.log_odds(settings, taste, known.appeal[items], faded))
            if shown_too:
                by_taste = synthetic.BY_TASTE * taste * known.share_of_interest[items]
                watched *= by_taste + (1 - synthetic.BY_TASTE) * known.share_of_all[items]
            return total + share * watched, None

        chance, _ = jax.lax.scan(add, jnp.zeros(interest.shape), jnp.arange(known.tastes.shape[-1]))
        return jnp.log(chance) if shown_too else jnp.log(chance) - jnp.log1p(-chance)

    return Scorer(
        encode=lambda known, rows, histories: jnp.asarray(rows)[:, None],
        score_candidates=lambda known, rows, candidates, contexts=None: score(known, rows, candidates),
        score_items=lambda known, rows, items: score(known, rows, items[None, :]),
    )


def known(law: Law, log: EventLog, owners: np.ndarray, ends: np.ndarray) -> dict[str, Known]:
    """What each scorer knows, by its name.

    Args:
      law: of the log.
      log: the exposures.
      owners: [R] a user for each place.
      ends: [R] absolute positions; what the user was shown before may be used.
    """
    faded = jnp.asarray(laws.faded_skips(law, log, owners, ends))[..., None]
    on_average = jnp.asarray(mean_faded_skips(law, _lattice()[0]), jnp.float32)[None]
    columns = (law.appeal, law.share_of_interest, law.share_of_all)
    table = (jnp.asarray(law.interest, jnp.int32), *(jnp.asarray(x, jnp.float32) for x in columns))
    own = jnp.asarray(law.tastes[owners], jnp.float32)[..., None]
    values = jnp.asarray(_lattice()[0], jnp.float32)[None, None]
    posterior = jnp.asarray(posteriors(law, log, owners, ends), jnp.float32)
    return {
        "generating probability": Known(own, faded, jnp.ones((1, 1, 1)), *table),
        "best possible": Known(values, faded, posterior, *table),
        "best possible, blind to skips": Known(values, on_average, posterior, *table),
    }


def mean_faded_skips(law: Law, tastes: np.ndarray) -> np.ndarray:
    """[I, G] the faded skips of each interest that a user with one of these tastes [G] has in the long run.

    It is a fixed point: the more skips are remembered, the more is skipped. That skips vary around it is left out.
    """
    groups, settings = law.settings.num_interests, law.settings
    of_all = np.bincount(law.interest[1:], law.share_of_all[1:], minlength=groups)[:, None]
    chosen = synthetic.BY_TASTE * tastes + (1 - synthetic.BY_TASTE) * of_all
    interest, items = law.interest[1:], np.arange(1, len(law.interest))[:, None]
    found = np.zeros((groups, len(tastes)))
    for _ in range(100):
        skipped = 1 / (1 + np.exp(laws.log_odds(law, tastes, items, found[interest])))
        rate = np.zeros_like(found)
        np.add.at(rate, interest, law.share_of_interest[1:, None] * skipped)
        found = (found + chosen * rate / (1 - settings.skip_decay)) / 2
    return found


def posteriors(law: Law, log: EventLog, owners: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """[R, I, GRID + 1] the chance of each taste for each interest, given what was shown and watched before the places.

    Args:
      law: of the log.
      log: the exposures.
      owners: [R] a user for each place.
      ends: [R] absolute positions.
    """
    result = np.empty((len(owners), law.settings.num_interests, GRID + 1), np.float32)
    part = log.offsets[owners] // EXPOSURES_AT_ONCE
    for number in np.unique(part):
        rows = np.flatnonzero(part == number)
        result[rows] = _marginals(_log_likelihoods(law, log, owners[rows], ends[rows]))
    return result


def _lattice() -> tuple[np.ndarray, np.ndarray]:
    """The values of a taste [GRID + 1], and the mass of x^(concentration - 1) around each."""
    edges = np.concatenate([[0], np.arange(GRID) + 0.5, [GRID]]) / GRID
    power = synthetic.CONCENTRATION
    mass = np.diff(edges**power) / power
    means = np.diff(edges ** (power + 1)) / (power + 1) / mass
    return means, mass


def _log_likelihoods(law: Law, log: EventLog, owners: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """[R, I, GRID + 1] of the exposures before each place, as a function of the taste for their interest."""
    groups, values = law.settings.num_interests, _lattice()[0]
    first, last = log.offsets[owners.min()], log.offsets[owners.max() + 1]
    at = np.arange(first, last)
    users, items = np.searchsorted(log.offsets, at, side="right") - 1, log.items[at]
    interest = law.interest[items]
    faded = laws.faded_skips(law, log, users, at)[np.arange(len(at)), interest]
    odds = laws.log_odds(law, values, items[:, None], faded[:, None])
    sign = np.where(log.feedback[at] == WATCHED, -1.0, 1.0)[:, None]
    by_taste = synthetic.BY_TASTE * values * law.share_of_interest[items][:, None]
    shown = np.log(by_taste + (1 - synthetic.BY_TASTE) * law.share_of_all[items][:, None])
    likelihood = shown - np.logaddexp(0, sign * odds)
    # Sorted by user, interest and time, the exposures of a user and interest before a place are neighbours.
    order = np.lexsort((at, interest, users))
    total = np.concatenate([np.zeros((1, len(values))), np.cumsum(likelihood[order], axis=0)])
    keys = ((users * groups + interest) * (last + 1) + at)[order]
    asked = (owners[:, None] * groups + np.arange(groups)) * (last + 1)
    begin, end = np.searchsorted(keys, asked), np.searchsorted(keys, asked + ends[:, None])
    return total[end] - total[begin]


def _marginals(log_likelihoods: np.ndarray) -> np.ndarray:
    """The posterior of each taste, from the likelihood as a function of it: both [R, I, GRID + 1]."""
    groups = log_likelihoods.shape[1]
    with np.errstate(divide="ignore"):
        parts = log_likelihoods + np.log(_lattice()[1])
    nothing = np.full((len(parts), GRID + 1), -np.inf)
    nothing[:, 0] = 0
    before, after = [nothing], [nothing]
    for group in range(groups - 1):
        before.append(_convolved(before[-1], parts[:, group]))
        after.append(_convolved(after[-1], parts[:, groups - 1 - group]))
    # The tastes for the other interests share what is left of 1.
    others = [_convolved(a, b)[:, ::-1] for a, b in zip(before, after[::-1], strict=True)]
    found = parts + np.stack(others, axis=1)
    found = np.exp(found - found.max(axis=-1, keepdims=True))
    return found / found.sum(axis=-1, keepdims=True)


def _convolved(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[R, GRID + 1] of the sum of two numbers of the lattice that is within it; in logs, because histories are long."""
    result = np.full_like(a, -np.inf)
    for step in range(a.shape[1]):
        result[:, step:] = np.logaddexp(result[:, step:], b[:, step : step + 1] + a[:, : a.shape[1] - step])
    return result


def _at(values: Array, *places: AnyArray) -> Array:
    """`values[places]`; an axis of length 1 has the same values everywhere."""
    return values[tuple(jnp.minimum(place, size - 1) for place, size in zip(places, values.shape, strict=True))]
