"""The law that a synthetic log was drawn from: what a data set keeps of it, and what follows from it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sine_jax.data import datasets, synthetic
from sine_jax.data.synthetic import Settings
from sine_jax.types import SKIPPED, EventLog


class Law(NamedTuple):
    """What feedback was drawn from, by the numbers of a data set. PAD has 0 everywhere."""

    settings: Settings
    interest: np.ndarray  # [N + 1] int64, of each item
    appeal: np.ndarray  # [N + 1] float64
    share_of_interest: np.ndarray  # [N + 1] float64, the chance of an item among those of its interest
    share_of_all: np.ndarray  # [N + 1] float64, its chance in the whole catalogue
    tastes: np.ndarray  # [U, I] float64


def load(path: str | os.PathLike[str]) -> Law | None:
    """The law of a prepared data set; None if its log was not drawn from one.

    Raises:
      ValueError: there is no data set, or a file of it is damaged.
    """
    settings = datasets.read_info(path).law
    if settings is None:
        return None
    try:
        drawn_from = Settings(**settings)
    except TypeError as error:
        raise ValueError(
            f"{Path(path) / datasets.INFO}: the law is of another version ({error}); prepare it again"
        ) from error
    items = datasets.vocabulary(Path(path) / datasets.ITEMS, synthetic.OF_ITEMS)
    tastes = datasets.vocabulary(Path(path) / datasets.USERS, ["taste"])["taste"]
    columns = {name: np.concatenate([[0], items[name].to_numpy()]) for name in synthetic.OF_ITEMS}
    return Law(drawn_from, **columns, tastes=tastes.to_numpy())


def log_odds(law: Law, tastes: np.ndarray, items: np.ndarray, faded: np.ndarray) -> np.ndarray:
    """Log-odds of watching items.

    Args:
      law: what they follow.
      tastes: [...] each user's taste for the interest of the item.
      items: [...] int.
      faded: [...] the user's skips of that interest, each faded by its age.
    """
    return synthetic.log_odds(law.settings, tastes, law.appeal[items], faded)


def faded_skips(law: Law, log: EventLog, owners: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The skips that a user remembers at some places of the log.

    Args:
      law: how skips fade.
      log: the exposures.
      owners: [R] a user for each place.
      ends: [R] absolute positions; what was shown before counts.

    Returns:
      [R, I] float32: the sum over earlier skips of each interest of `skip_decay ** (exposures since)`.
    """
    found = np.zeros((len(owners), law.settings.num_interests), np.float32)
    memory = np.zeros((log.num_users, law.settings.num_interests), np.float32)
    ages = ends - log.offsets[owners]
    order = np.argsort(ages, kind="stable")
    asked = np.searchsorted(ages[order], np.arange(int(ages.max(initial=0)) + 2))
    for age, (begin, end) in enumerate(zip(asked[:-1], asked[1:], strict=True)):
        at = order[begin:end]
        found[at] = memory[owners[at]]
        users = np.flatnonzero(log.lengths > age)
        positions = log.offsets[users] + age
        memory[users] *= law.settings.skip_decay
        memory[users, law.interest[log.items[positions]]] += log.feedback[positions] == SKIPPED
    return found


def chances(law: Law, log: EventLog) -> np.ndarray:
    """[E] the probability by which each exposure was watched.

    It is exact for a log without filters: an exposure that was left out still had its effect.
    """
    owners, interests = log.users, law.interest[log.items]
    faded = faded_skips(law, log, owners, np.arange(len(log.items)))
    rows = np.arange(len(log.items))
    odds = log_odds(law, law.tastes[owners, interests], log.items, faded[rows, interests])
    return 1 / (1 + np.exp(-odds))
