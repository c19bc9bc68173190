"""Logs that tests share, and what is laid out from them."""

import numpy as np
import polars as pl

from sine_jax import config as configs
from sine_jax.batches import pipeline
from sine_jax.data import preparation, sources, splits, synthetic
from sine_jax.types import EventLog

NUM_ITEMS = 50


def random_log(num_users=40, seed=0):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 30, num_users))])
    size = offsets[-1]
    unknown = np.full(size, -1, np.int32)
    feedback = rng.integers(0, 2, size).astype(np.int8)
    items = rng.integers(1, NUM_ITEMS + 1, size).astype(np.int32)
    return EventLog(items, feedback, unknown.astype(np.int64), unknown, unknown, offsets)


def configured(**overrides):
    small = {"model.max_len": 8, "train.batch_size": 10, "train.num_widths": 3, "objective.num_negatives": 2}
    return configs.replace(configs.Config(), small | {k.replace("__", "."): v for k, v in overrides.items()})


def fed(config, log=None, packed=True):
    log = random_log() if log is None else log
    split = splits.split(log, config=config.data).valid
    return pipeline.feed(log, split, config=config, num_items=NUM_ITEMS, packed=packed)


def prepared(config, log=None, packed=True):
    source, strata, *_ = fed(config, log, packed)
    return source, strata


def made(folder, **settings):
    """Prepares a made log as a data set in a folder, and returns that."""
    source = sources.generated(synthetic.Settings(num_exposures=15, **settings))
    preparation.prepare(source, str(folder), rule=None, min_positives=3, min_exposures=1)
    return str(folder)


def planted(**settings):
    """A synthetic log in memory."""
    frame = pl.concat(synthetic.frames(synthetic.Settings(**settings))).sort("user_id", "time_ms")
    users = frame.select("user_id", event=pl.struct("item_id", "long_view")).partition_by(
        "user_id", maintain_order=True
    )
    return make_log(*([tuple(event.values()) for event in user["event"]] for user in users))


def make_log(*users: list[tuple[int, int]]) -> EventLog:
    events = [event for user in users for event in user]
    unknown = np.full(len(events), -1, np.int32)
    return EventLog(
        np.array([item for item, _ in events], np.int32),
        np.array([feedback for _, feedback in events], np.int8),
        unknown.astype(np.int64),
        unknown,
        unknown,
        np.concatenate([[0], np.cumsum([len(user) for user in users])]),
    )
