"""The first k items for users, from a run folder alone: external ids in, external ids out.

Defined answers: items that the model does not know are left out of a history; without a history items are ranked by
their biases; k beyond what is allowed gives fewer items; of equal scores the item that comes first in the catalogue is
first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import polars as pl
from jax import lax

from sine_jax import parallel, run, workdir
from sine_jax.batches import windows
from sine_jax.config import Config
from sine_jax.data import datasets
from sine_jax.data.datasets import DataInfo
from sine_jax.data.ingest import CONTEXT
from sine_jax.layers.scoring import Chunk, over_catalogue
from sine_jax.model import Model, of_contexts
from sine_jax.types import PAD, AnyArray, Array, EventLog, Histories, Params, Split

# Choices that bound memory.
BATCH = 256  # users that are answered together
CHUNK = 1 << 16  # items of the catalogue that are scored at once
BLOCK = 128  # items whose best one decides whether they are looked at
SEEN = 64  # the least width of what a batch has seen; larger ones are this times a power of 4


class Recommender(NamedTuple):
    """A trained model with its vocabulary."""

    model: Model
    params: Params
    config: Config
    items: pl.Series  # [N + 1] external ids, each at the item's number
    info: DataInfo  # of the data set that it was trained on
    step: int  # of the checkpoint


class Request(NamedTuple):
    """What may be recommended."""

    k: int = 20
    filter_seen: bool = True  # leave out what the user was shown
    allow: Sequence[str] | None = None  # external ids; None for the whole catalogue
    deny: Sequence[str] = ()


class Answers(NamedTuple):
    """The first items of some users."""

    first: int  # the number of the first of these users
    items: np.ndarray  # [B, k] int32, best first; PAD after the last
    scores: np.ndarray  # [B, k] float32


class Users(NamedTuple):
    """Users with their histories."""

    ids: pl.Series  # [U] external ids
    log: EventLog
    unknown: int = 0  # exposures of items that the model does not know, which were left out


def load(folder: str, *, checkpoint: str = "best", trust_network: str = "") -> Recommender:
    """Restores a model and its vocabulary from a run folder; no data set is needed.

    Args:
      folder: the workdir.
      checkpoint: `best`, `latest` or a step.
      trust_network: as in `run.restore`.

    Raises:
      ValueError: there is nothing to restore.
    """
    restored = run.restore(folder, checkpoint=checkpoint, trust_network=trust_network)
    catalogue = Path(folder) / workdir.CATALOGUE
    info = datasets.read_info(catalogue)
    if info.vocabulary != restored.about.data["vocabulary"]:
        raise ValueError(f"{catalogue}: it is of another data set than the checkpoints; train again in another workdir")
    items, step = datasets.item_ids(catalogue), restored.about.progress.step
    return Recommender(restored.model, restored.params, restored.config, items, info, step)


def users_of(folder: str) -> Users:
    """All users of a prepared data set.

    Raises:
      ValueError: there is no data set, or it is damaged.
    """
    return Users(datasets.user_ids(folder), datasets.load(folder).log)


def chosen(users: Users, ids: Sequence[str]) -> Users:
    """Some users, in the order that was asked for; an id that is not known has an empty history."""
    number = {name: place for place, name in enumerate(users.ids.to_list())}
    places = np.array([number.get(name, -1) for name in ids], np.int64)
    log, known = users.log, np.maximum(places, 0)
    lengths = np.where(places >= 0, log.lengths[known] if log.num_users else 0, 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = np.arange(offsets[-1]) + np.repeat(log.offsets[known] - offsets[:-1], lengths)
    columns = {name: getattr(log, name)[rows] for name in ("items", "feedback", "times", "plays", "durations")}
    return Users(pl.Series("id", list(ids), dtype=pl.String), EventLog(**columns, offsets=offsets))


def between(users: Users, begin: int, end: int) -> Users:
    """The users of these numbers."""
    log, end = users.log, min(end, users.log.num_users)
    first, last = log.offsets[begin], log.offsets[end]
    columns = {name: getattr(log, name)[first:last] for name in ("items", "feedback", "times", "plays", "durations")}
    return Users(users.ids[begin:end], EventLog(**columns, offsets=log.offsets[begin : end + 1] - first))


def from_exposures(recommender: Recommender, frame: pl.DataFrame) -> Users:
    """Users from canonical exposures (see `data.ingest`), sorted as a preparation would sort them."""
    known = pl.DataFrame(
        {"item": recommender.items[1:], "number": np.arange(1, len(recommender.items), dtype=np.int32)}
    )
    rows = frame.with_row_index("arrival").join(known, on="item", how="inner")
    ids = frame["user"].unique(maintain_order=True)
    owners = pl.DataFrame({"user": ids, "owner": np.arange(len(ids))})
    rows = rows.join(owners, on="user", how="inner").sort("owner", "time", "order", "arrival")
    lengths = np.bincount(rows["owner"].to_numpy(), minlength=len(ids))
    log = EventLog(
        items=rows["number"].to_numpy().astype(np.int32),
        feedback=rows["feedback"].to_numpy(),
        times=rows["time"].to_numpy(),
        plays=rows["play"].to_numpy(),
        durations=rows["duration"].to_numpy(),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        contexts=_coded(rows, recommender.info.contexts),
    )
    return Users(ids.alias("id"), log, len(frame) - len(rows))


def _coded(rows: pl.DataFrame, contexts: Mapping[str, Sequence[str]]) -> np.ndarray | None:
    """[E, X] the numbers of context values; 0 for one that the model does not know. None without context columns."""
    codes, first = [], 1
    for name, values in contexts.items():
        numbers = {value: first + place for place, value in enumerate(values)}
        codes.append(
            rows[CONTEXT + name].replace_strict(numbers, default=0, return_dtype=pl.Int16).fill_null(0).to_numpy()
        )
        first += len(values)
    return np.stack(codes, axis=1) if codes else None


def first_items(recommender: Recommender, users: Users, request: Request, *, begin: int = 0) -> Iterator[Answers]:
    """The first items of users, a batch at a time, in their order.

    Args:
      recommender: of `load`.
      users: with their histories.
      request: what may be recommended.
      begin: the first user to answer.

    Raises:
      ValueError: nothing may be recommended.
    """
    allowed = _allowed(recommender, request)
    shown = users.log.offsets if request.filter_seen else np.zeros_like(users.log.offsets)
    find = _finder(recommender.model, min(request.k, int(allowed.sum())))
    replicated = parallel.replicate((recommender.params, jnp.asarray(allowed)))
    for rows, padded, histories in _batches(recommender, users.log, begin=begin):
        batch = histories, _columns(users.log.items, shown, padded)
        items, scores = (np.asarray(x)[: len(rows)] for x in parallel.unshard(find(replicated, parallel.shard(batch))))
        if np.isnan(scores).any():
            raise ValueError("scores=nan: the parameters are not finite; use an earlier checkpoint")
        yield Answers(int(rows[0]), items, scores)


def scores_of(recommender: Recommender, users: Users, later: EventLog) -> np.ndarray:
    """[E] the score of each later exposure of the same users, from their histories and where it is shown."""
    score, found = _scorer(recommender.model), np.zeros(len(later.items), np.float32)
    params = parallel.replicate(recommender.params)
    for rows, padded, histories in _batches(recommender, users.log):
        items = _columns(later.items, later.offsets, padded)
        contexts = None if later.contexts is None else _columns(later.contexts, later.offsets, padded)
        scores = parallel.unshard(score(params, parallel.shard((histories, items, contexts))))
        begin, end = later.offsets[rows[0]], later.offsets[rows[-1] + 1]
        found[begin:end] = np.asarray(scores)[: len(rows)][items[: len(rows)] != PAD]
    return found


def _batches(
    recommender: Recommender, log: EventLog, *, begin: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray, Histories]]:
    """Users in their order: their numbers, the same filled up with -1 to one size, and what the model reads of them."""
    config, devices, ends = recommender.config, parallel.local_device_count(), log.offsets[1:]
    split = Split(ends, np.full(log.num_users, -1), ends, ends, ends, ends, ends)
    reading = windows.of_config(log, split, config=config)
    size = max(-(-min(BATCH, log.num_users) // devices), 1) * devices
    for start in range(begin, log.num_users, size):
        rows = np.arange(start, min(start + size, log.num_users))
        padded = np.full(size, -1)
        padded[: len(rows)] = rows
        if not len(reading.items):
            nothing = np.zeros((size, config.model.max_len), np.int32)
            yield rows, padded, Histories(nothing, nothing != PAD, nothing if config.model.read_times else None)
            continue
        read = windows.window(reading, padded[:, None], reading.history_ends, width=config.model.max_len)
        yield rows, padded, Histories(read.items, read.watched, read.times)


def frame_of(recommender: Recommender, users: Users, answers: Answers) -> pl.DataFrame:
    """Answers as rows: user, item, rank from 1, score, and whether the user has a history."""
    size, k = answers.items.shape
    ids = users.ids[answers.first : answers.first + size]
    known = users.log.lengths[answers.first : answers.first + size] > 0
    kept = answers.items.ravel() != PAD
    frame = pl.DataFrame(
        {
            "user": ids.gather(np.repeat(np.arange(size), k)),
            "item": recommender.items.gather(answers.items.ravel()),
            "rank": np.tile(np.arange(1, k + 1, dtype=np.int32), size),
            "score": answers.scores.ravel(),
            "known": np.repeat(known, k),
        }
    )
    return frame.filter(pl.Series(kept))


def unknown_ids(recommender: Recommender, ids: Sequence[str]) -> int:
    """How many of some item ids the model does not know."""
    return len(set(ids) - set(recommender.items[1:].to_list()))


def _allowed(recommender: Recommender, request: Request) -> np.ndarray:
    """[N + 1] which items may be recommended."""
    ids = recommender.items
    allowed = np.ones(len(ids), bool) if request.allow is None else ids.is_in(list(request.allow)).to_numpy().copy()
    allowed[ids.is_in(list(request.deny)).to_numpy()] = False
    allowed[PAD] = False
    if request.k < 1:
        raise ValueError(f"k={request.k}: nothing to recommend; pass at least 1")
    if not allowed.any():
        raise ValueError("allow=..., deny=...: no item is left that the model knows; let some items be recommended")
    return allowed


def _columns(values: np.ndarray, offsets: np.ndarray, users: np.ndarray) -> np.ndarray:
    """[B, X, ...] the values of users, side by side; 0 after the last, and for a filler."""
    begin = np.where(users >= 0, offsets[np.maximum(users, 0)], 0)
    lengths = np.where(users >= 0, offsets[np.maximum(users, 0) + 1] - begin, 0)
    width = SEEN
    while width < lengths.max(initial=0):
        width *= 4
    columns = np.arange(width)[None, :]
    there = columns < lengths[:, None]
    found = np.zeros((len(users), width, *values.shape[1:]), values.dtype)
    found[there] = values[(begin[:, None] + columns)[there]]
    return found


def _of_best_blocks(scores: Array, items: Array, k: int) -> tuple[Array, Array]:
    """Scores [B, C'] and their items [B, C'], in their order, among which the first k of scores [B, C] are.

    The first k are in the k blocks with the highest maxima; to find those takes less than to find the first k of all.
    """
    rows, size = scores.shape
    number = -(-size // BLOCK)
    blocks = jnp.pad(scores, ((0, 0), (0, number * BLOCK - size)), constant_values=-jnp.inf).reshape(
        rows, number, BLOCK
    )
    _, chosen = lax.top_k(jnp.max(blocks, axis=-1), min(k, number))
    chosen = jnp.sort(chosen, axis=1)  # so that equal scores stay in the order of the catalogue
    found = jnp.take_along_axis(blocks, chosen[..., None], axis=1)
    places = jnp.minimum(chosen[..., None] * BLOCK + jnp.arange(BLOCK)[None, None], size - 1)
    return found.reshape(rows, -1), items[places].reshape(rows, -1)


@functools.cache
def _scorer(model: Model) -> Callable[[Any, Any], Any]:
    """A function of the parameters and (histories, items [B, C], contexts) that gives scores [B, C]."""

    def score(params: Params, batch: tuple[Histories, AnyArray, AnyArray | None]) -> Array:
        histories, items, contexts = batch
        scores = model.score(params, model.encode(params, histories), items, contexts)
        biases = params.get("item_bias", jnp.zeros(model.num_items + 1))[items]
        biases = biases if contexts is None else biases + of_contexts(params, contexts)
        return jnp.where(jnp.all(histories.items == PAD, axis=1)[:, None], biases, scores)

    return parallel.map_rows(score)


@functools.cache
def _finder(model: Model, k: int) -> Callable[[Any, Any], Any]:
    """A function of (parameters, allowed) and (histories, seen) that gives items [B, k] and scores [B, k]."""

    def find(fixed: tuple[Params, Array], batch: tuple[Histories, AnyArray]) -> tuple[Array, Array]:
        params, allowed = fixed
        histories, seen = batch
        read = model.encode(params, histories)
        empty = jnp.all(histories.items == PAD, axis=1)[:, None]
        biases = params.get("item_bias", jnp.zeros(model.num_items + 1))

        def better(carry: tuple[Array, Array], chunk: Chunk) -> tuple[Array, Array]:
            best, first = carry
            scores = jnp.where(empty, biases[chunk.items][None], model.score_items(params, read, chunk.items))
            listed = jnp.where(chunk.without(seen) & allowed[chunk.items][None], scores, -jnp.inf)
            scores, items = _of_best_blocks(listed, chunk.items, k)
            best, places = lax.top_k(jnp.concatenate([best, scores], axis=1), k)
            return best, jnp.take_along_axis(jnp.concatenate([first, items], axis=1), places, axis=1)

        nothing = jnp.full((len(seen), k), -jnp.inf), jnp.full((len(seen), k), PAD)
        best, first = over_catalogue(better, nothing, num_items=model.num_items, size=CHUNK)
        return jnp.where(best > -jnp.inf, first, PAD), best

    return parallel.map_rows(find)
