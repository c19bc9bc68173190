"""Logs made in memory, for measurements that need a shape that no real log has."""

from __future__ import annotations

import numpy as np

from sine_jax.data.datasets import DataInfo, Dataset
from sine_jax.types import SKIPPED, WATCHED, EventLog


def alternating(
    *, num_users: int, num_watched: int, num_items: int, num_shown: int | None = None, seed: int = 0
) -> Dataset:
    """Every user skips an item and watches the next, again and again; all items are equally likely.

    The last two watched items are held out, and the one before them has no successor to learn. So a training window
    is `num_watched - 3` positions long.

    Args:
      num_users: U.
      num_watched: how many exposures each user watched; the user skipped as many.
      num_items: N.
      num_shown: how many items are ever shown; all by default.
      seed: of the items.
    """
    size = 2 * num_users * num_watched
    items = np.random.default_rng(seed).integers(1, (num_shown or num_items) + 1, size, dtype=np.int32)
    feedback = np.tile(np.array([SKIPPED, WATCHED], np.int8), size // 2)
    unknown = np.full(size, -1, np.int32)
    log = EventLog(
        items=items,
        feedback=feedback,
        times=np.full(size, -1, np.int64),
        plays=unknown,
        durations=unknown,
        offsets=np.arange(num_users + 1, dtype=np.int64) * 2 * num_watched,
    )
    name = f"{num_users} users x {2 * num_watched} exposures x {num_items} items, seed {seed}"
    info = DataInfo(
        source="made",
        num_users=num_users,
        num_items=num_items,
        num_events=size,
        num_watched=size // 2,
        num_skipped=size // 2,
        num_disliked=0,
        skip_rate=0.5,
        has_times=False,
        label_rule="every second exposure is watched",
        filters={},
        dropped={},
        fingerprint=name,
        vocabulary=name,
        versions={},
    )
    return Dataset(log, info, name)
