"""A log drawn from a seed, with interests and a skip effect of known strength.

The generative model. There are I interests, N items and U users.

  item v       interest g_v uniform over the I; popularity weight w_v = 1 / (1 + rank_v)^0.8, ranks 0..N-1 shuffled;
               appeal a_v ~ Normal(0, 0.5^2); duration lognormal, median 15 s, sigma 0.6
  user u       taste m_u ~ Dirichlet(0.3, ..., 0.3) over the interests; exposures 5 + Poisson(num_exposures - 5)
  exposure t   with probability 0.6 its interest is drawn from m_u and its item within that interest by w,
               otherwise its item is drawn from the whole catalogue by w
  feedback     watched with probability sigmoid( -1 + affinity * (I m_u[g_v] - 1) / I^0.5 + a_v - skip_effect * f_t ),
               f_t = the sum of skip_decay^(t - 1 - s) over the earlier skips s of the same interest g as this exposure
  play         duration * Uniform(0.7, 1.1) if watched, duration * Uniform(0, 0.3) if skipped
  time         a uniform start within April 2022, gaps of the duration's size

The log-odds of watching therefore fall by exactly `skip_effect` right after a skip of the same interest. With
`skip_decay=0` the effect ends with the next exposure. With `skip_decay=0.9` it lasts: each further exposure leaves 0.9
of it, and skips add up. With `skip_effect=0` a skip tells nothing beyond the user's taste.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from sine_jax.types import AnyArray

USERS_A_PIECE = 20_000
OF_ITEMS = ("interest", "appeal", "share_of_interest", "share_of_all")  # columns of `truth`
CONCENTRATION, BY_TASTE = 0.3, 0.6  # of tastes, and the share of exposures that follow them
START_MS, MONTH_MS = 1_648_771_200_000, 30 * 86_400_000  # April 2022


class Settings(NamedTuple):
    """What the log is drawn from."""

    seed: int = 0
    num_users: int = 2_000
    num_items: int = 1_000
    num_exposures: int = 50  # the mean per user
    num_interests: int = 8  # I
    affinity: float = 1.5
    skip_effect: float = 1.0
    skip_decay: float = 0.0  # from 0 to below 1


class Catalogue(NamedTuple):
    """The items, grouped by interest."""

    interests: np.ndarray  # [N] g_v, ascending
    cumulated: np.ndarray  # [N + 1] sums of w_v before each item
    bounds: np.ndarray  # [I + 1] where each interest's items begin
    appeals: np.ndarray  # [N] a_v
    durations: np.ndarray  # [N] ms


def check(settings: Settings) -> None:
    """Raises a ValueError for settings from which nothing can be drawn."""
    rules = (
        ("users", settings.num_users, 1),
        ("exposures", settings.num_exposures, 5),
        ("interests", settings.num_interests, 1),
        ("items", settings.num_items, settings.num_interests),  # each interest has at least one
    )
    if settings.seed < 0:
        raise ValueError(f"--seed={settings.seed}: negative; pass 0 or more")
    for option, value in (("affinity", settings.affinity), ("skip_effect", settings.skip_effect)):
        if not abs(value) <= 100:
            raise ValueError(f"--{option}={value}: no log-odds that a log can have; pass -100 to 100")
    for option, value, least in rules:
        if value < least:
            because = f" with --interests={least}" if option == "items" else ""
            raise ValueError(f"--{option}={value}: too few{because} for a synthetic log; pass at least {least}")
    if not 0 <= settings.skip_decay < 1:
        raise ValueError(f"--skip_decay={settings.skip_decay}: skips would never stop adding up; pass 0 to below 1")


def frames(settings: Settings) -> Iterator[pl.DataFrame]:
    """The log, some users at a time: user_id, item_id, time_ms, play_time_ms, duration_ms, long_view, by time."""
    check(settings)
    items = catalogue(settings)
    for piece, first, num_users in _user_pieces(settings):
        yield (
            _exposures(_generator(settings, piece), items, settings, num_users)
            .with_columns(pl.col("user_id") + first)
            .sort("time_ms")
        )


def log_odds(settings: Settings, tastes: AnyArray, appeals: AnyArray, faded: AnyArray) -> Any:
    """Log-odds of watching, from m_u[g_v], a_v and f_t, which may be arrays of any shape."""
    excess = settings.num_interests * tastes - 1
    logits = -1 + settings.affinity * excess / settings.num_interests**0.5 + appeals
    return logits - settings.skip_effect * faded


def truth(settings: Settings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What the log is drawn from, by external id.

    Returns:
      Items with interest, appeal, and their share of w within their interest and in all; users with taste.
    """
    items = catalogue(settings)
    weights = np.diff(items.cumulated)
    sums = np.diff(items.cumulated[items.bounds])
    of_items = pl.DataFrame(
        {
            "id": (1 + np.arange(settings.num_items)).astype(str),
            "interest": items.interests,
            "appeal": items.appeals,
            "share_of_interest": weights / sums[items.interests],
            "share_of_all": weights / weights.sum(),
        }
    )
    tastes = np.concatenate(
        [_tastes(_generator(settings, piece), settings, number) for piece, _, number in _user_pieces(settings)]
    )
    return of_items, pl.DataFrame({"id": np.arange(settings.num_users).astype(str), "taste": tastes})


def catalogue(settings: Settings) -> Catalogue:
    """Draws the items."""
    random = np.random.Generator(np.random.PCG64([settings.seed, 0]))
    num_items, groups = settings.num_items, settings.num_interests
    # One item of each interest first, so that no interest is without items.
    interests = np.sort(np.concatenate([np.arange(groups), random.integers(0, groups, num_items - groups)]))
    weights = (1.0 + random.permutation(num_items)) ** -0.8
    return Catalogue(
        interests=interests,
        cumulated=np.concatenate([[0.0], np.cumsum(weights)]),
        bounds=np.searchsorted(interests, np.arange(groups + 1)),
        appeals=random.normal(0.0, 0.5, num_items),
        durations=(15_000 * np.exp(random.normal(0.0, 0.6, num_items))).astype(np.int64),
    )


def _user_pieces(settings: Settings) -> Iterator[tuple[int, int, int]]:
    """The number of each piece, its first user, and how many users it has."""
    for piece, first in enumerate(range(0, settings.num_users, USERS_A_PIECE)):
        yield piece, first, min(USERS_A_PIECE, settings.num_users - first)


def _generator(settings: Settings, piece: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([settings.seed, 1, piece]))


def _tastes(random: np.random.Generator, settings: Settings, num_users: int) -> np.ndarray:
    """[num_users, I] m_u, the first that is drawn of a piece."""
    return random.dirichlet(np.full(settings.num_interests, CONCENTRATION), num_users)


def _exposures(random: np.random.Generator, items: Catalogue, settings: Settings, num_users: int) -> pl.DataFrame:
    """Draws users and their exposures: the first exposure of all users, then the second, and so on."""
    tastes = _tastes(random, settings, num_users)
    lengths = 5 + random.poisson(settings.num_exposures - 5, num_users)
    clocks = START_MS + random.integers(0, MONTH_MS, num_users)
    skips = np.zeros((num_users, settings.num_interests))  # f of an exposure of each interest
    steps = []
    for step in range(int(lengths.max())):
        users = np.flatnonzero(lengths > step)
        shown = _shown(random, items, tastes[users])
        interests = items.interests[shown]
        logits = log_odds(settings, tastes[users, interests], items.appeals[shown], skips[users, interests])
        watched = random.random(len(users)) < 1 / (1 + np.exp(-logits))
        skips[users] *= settings.skip_decay
        skips[users, interests] += ~watched
        share = np.where(watched, random.uniform(0.7, 1.1, len(users)), random.uniform(0, 0.3, len(users)))
        plays = (share * items.durations[shown]).astype(np.int64)
        steps.append((users, shown + 1, clocks[users], plays, items.durations[shown], watched.astype(np.int8)))
        clocks[users] += plays + random.integers(200, 5_000, len(users))
    names = ("user_id", "item_id", "time_ms", "play_time_ms", "duration_ms", "long_view")
    return pl.DataFrame(
        {name: np.concatenate(parts) for name, parts in zip(names, zip(*steps, strict=True), strict=True)}
    )


def _shown(random: np.random.Generator, items: Catalogue, tastes: np.ndarray) -> np.ndarray:
    """One item per user, by the user's taste or by popularity alone."""
    num_users = len(tastes)
    cumulated = np.cumsum(tastes, axis=1)
    drawn = (random.random(num_users)[:, None] * cumulated[:, -1:] > cumulated).sum(axis=1)
    by_taste = random.random(num_users) < BY_TASTE
    begin = np.where(by_taste, items.bounds[drawn], 0)
    end = np.where(by_taste, items.bounds[drawn + 1], len(items.interests))
    low, high = items.cumulated[begin], items.cumulated[end]
    at = np.searchsorted(items.cumulated, low + random.random(num_users) * (high - low), side="right") - 1
    return np.clip(at, begin, end - 1)
