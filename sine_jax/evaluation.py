"""Evaluation: every user's target is ranked once, by any scorer, under a named protocol.

What does not depend on parameters is prepared once (`prepare`), a scorer is compiled on it once (`measure`), and what
comes back takes parameters as often as wanted: validation between epochs and the final report share this path.

    task = prepare(log, config, num_items=N, split="valid", protocol=EXPOSED)
    validate = measure(scorers.of_model(config), task)
    means(validate(params))["gauc"]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sine_jax import candidates, counting, metrics, parallel, scorers, splits, windows
from sine_jax.candidates import Population
from sine_jax.config import Config
from sine_jax.scorers import Scorer
from sine_jax.types import PAD, Array, EvalBatch, EventLog, Split

BATCH_SIZE = 256  # users ranked at once
CHUNK = 8192  # items of the catalogue scored at once

Values = dict[str, np.ndarray]  # [P] per metric, NaN where it is not defined for a user


class Protocol(NamedTuple):
    """What a target is ranked against, and how."""

    name: str
    against: str  # what a target is ranked against, in words
    population: Callable[[EventLog, Split], Population]
    rank: Callable[[Scorer, int], Callable[[Any, EvalBatch], Any]]  # scorer, N: what runs on a device
    values: Callable[[Task, list[Any]], Values]  # its outputs per batch: metrics of the population
    cutoffs: tuple[int, ...]  # of NDCG and hit rate


class Task(NamedTuple):
    """Everything of an evaluation that depends neither on a scorer nor on its parameters."""

    protocol: Protocol
    split: Split
    population: Population
    batches: list[EvalBatch]
    num_items: int


def prepare(log: EventLog, config: Config, *, num_items: int, split: str, protocol: Protocol) -> Task:
    """Makes the batches of an evaluation.

    Args:
      log: the exposures.
      config: its `data` says how the log is split and what is ranked, its `model` how histories are read.
      num_items: N.
      split: `valid` or `test`, a field of `splits.Splits`.
      protocol: `EXPOSED` or `FULL`.

    Raises:
      ValueError: nobody has a target.
    """
    chosen = splits.split(log, config.data)._asdict()[split]
    population = protocol.population(log, chosen)
    if not len(population.users):
        raise ValueError(f"no user takes part in the {split} split: {population.left_out}")
    later = splits.Splits._fields.index(split)  # the released window grows by a column from validation to test
    batches = candidates.batches(
        population,
        windows.of_config(log, chosen, config),
        max_len=config.model.max_len,
        margin=max(config.data.window_margin - later, 0),
        num_widths=config.train.num_widths,
        batch_size=BATCH_SIZE,
        multiple_of=parallel.local_device_count(),
    )
    return Task(protocol, chosen, population, batches, num_items)


class Evaluation(NamedTuple):
    """What an evaluation found."""

    split: str
    config: Config
    task: Task
    values: dict[str, Values]  # by scorer


def evaluate(
    log: EventLog,
    config: Config,
    *,
    num_items: int,
    split: str,
    protocol: Protocol,
    models: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Ranks a split by models and by the simple scorers, over one population.

    Args:
      log: the exposures.
      config: of the models, and how the log is split and what is ranked.
      num_items: N.
      split: `valid` or `test`.
      protocol: `EXPOSED` or `FULL`.
      models: parameters of `model.init` by the name that the report gives them; none for the simple scorers alone.

    Raises:
      ValueError: nobody has a target, or a score is NaN.
    """
    task = prepare(log, config, num_items=num_items, split=split, protocol=protocol)
    values: dict[str, Values] = {}
    if models:
        validate = measure(scorers.of_model(config), task)
        values = {name: validate(params) for name, params in models.items()}
    values["random"] = measure(scorers.at_random(), task)(np.uint32(0))
    by_counting = measure(scorers.of_biases(), task)
    for name, biases in simple_scorers(log, task.split, num_items=num_items).items():
        values[name] = by_counting(biases)
    return Evaluation(split, config, task, values)


def measure(scorer: Scorer, task: Task) -> Callable[[Any], Values]:
    """Compiles a scorer for a task, on all devices of this process.

    Returns:
      A function of the scorer's parameters: each metric's value per user of the population. It compiles at its first
      call and never again. It raises ValueError where a score is NaN.
    """
    run = parallel.map_rows(task.protocol.rank(scorer, task.num_items))

    def measured(params: Any) -> Values:
        params = parallel.replicate(params)
        outputs = [run(params, parallel.shard(batch)) for batch in task.batches]
        return task.protocol.values(task, [parallel.unshard(output) for output in outputs])

    return measured


def means(values: Values) -> dict[str, float]:
    """The mean of each metric over the users it is defined for."""
    return {name: metrics.sums(column).mean for name, column in values.items()}


def simple_scorers(log: EventLog, split: Split, *, num_items: int) -> dict[str, counting.Biases]:
    """The floor: scorers fitted by counting, named by what they count.

    Those of the training part had what a model may learn from. Those of the history counted further, up to the last
    positive before each user's target: no floor for a model that stopped before, but what recency is worth.
    """
    learned, read = counting.training(log, split), counting.history(log, split)
    fitted, later = (counting.logistic_biases(log, where, num_items=num_items) for where in (learned, read))
    pairs = counting.training_pairs(log, split)
    return {
        "item count": counting.item_count(log, learned, num_items=num_items),
        "item rate (pairs)": counting.item_rate(log, pairs, num_items=num_items),
        "item rate": counting.item_rate(log, learned, num_items=num_items),
        "item bias": counting.item_part(fitted),
        "user + item bias": fitted,
        "item rate (history)": counting.item_rate(log, read, num_items=num_items),
        "item bias (history)": counting.item_part(later),
        "user + item bias (history)": later,
    }


def _by_rank(ranking: metrics.Ranking, cutoffs: tuple[int, ...]) -> Values:
    """The metrics that need ranks alone."""
    return {
        "user_auc": metrics.auc(ranking),
        "gauc": metrics.gauc(ranking),
        "ndcg": metrics.ndcg(ranking),
        **{f"ndcg@{k}": metrics.ndcg(ranking, cutoff=k) for k in cutoffs},
        "mrr": metrics.reciprocal_rank(ranking),
        **{f"hr@{k}": metrics.hit_rate(ranking, cutoff=k) for k in cutoffs},
    }


def _by_user(task: Task, parts: list[Values]) -> Values:
    """Puts the values of each batch's users into the order of the population; fillers are left out."""
    users = np.concatenate([np.asarray(batch.users) for batch in task.batches])
    order = np.argsort(users, kind="stable")[np.count_nonzero(users < 0) :]
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}


def _score_candidates(scorer: Scorer, num_items: int) -> Callable[[Any, EvalBatch], Array]:
    """On the device, for `EXPOSED`: scores [B, C]."""

    def rank(params: Any, batch: EvalBatch) -> Array:
        state = scorer.encode(params, batch.users, batch.histories)
        return scorer.score_candidates(params, state, batch.candidates)

    return rank


def _values_of_scores(task: Task, outputs: list[np.ndarray]) -> Values:
    """On the host, for `EXPOSED`: all metrics from the scores."""
    parts, rows = [], []
    for batch, scores in zip(task.batches, outputs, strict=True):
        labels, where = np.asarray(batch.labels), np.asarray(batch.candidates) != PAD
        ranking = metrics.ranking(scores, labels, where=where)
        log_loss = np.where(ranking.defined, metrics.log_loss(scores, labels, where=where), np.nan)
        parts.append({**_by_rank(ranking, task.protocol.cutoffs), "log_loss": log_loss})
        rows.append((scores[where], labels[where], np.asarray(batch.users)[np.nonzero(where)[0]]))
    flat, labels, users = (np.concatenate(column) for column in zip(*rows, strict=True))
    owners = np.searchsorted(task.population.users, users)
    pooled = metrics.pooled_auc(flat, labels, owners, num_users=len(task.population.users))
    return {"auc": pooled, **_by_user(task, parts)}


class _Standing(NamedTuple):
    """Where each target stands in the catalogue; counts [B]."""

    greater: Array
    equal: Array
    others: Array
    nan: Array


def _rank_in_catalogue(scorer: Scorer, num_items: int) -> Callable[[Any, EvalBatch], _Standing]:
    """On the device, for `FULL`: counts of the allowed items above and level with the target."""
    size = min(CHUNK, num_items)
    chunks = jnp.arange(-(-num_items // size))

    def rank(params: Any, batch: EvalBatch) -> _Standing:
        state = scorer.encode(params, batch.users, batch.histories)
        target, rows = batch.candidates[:, :1], jnp.arange(len(batch.users))[:, None]

        def score(chunk: Array) -> tuple[Array, Array]:
            items = 1 + chunk * size + jnp.arange(size)
            return items, scorer.score_items(params, state, jnp.minimum(items, num_items))

        def find(found: Array, chunk: Array) -> tuple[Array, None]:
            # The target is scored by the very computation that scores its rivals, so that equal stays equal.
            _, scores = score(chunk)
            place = target - 1 - chunk * size
            value = jnp.take_along_axis(scores, jnp.clip(place, 0, size - 1), axis=1)
            return jnp.where((place >= 0) & (place < size), value, found), None

        def compare(counts: _Standing, chunk: Array) -> tuple[_Standing, None]:
            items, scores = score(chunk)
            place = batch.candidates - 1 - chunk * size
            outside = jnp.where(place < 0, size, place)  # a negative index would count from the end
            allowed = jnp.broadcast_to((items <= num_items)[None, :], scores.shape)
            allowed = allowed.at[rows, outside].set(False, mode="drop")
            found = (scores > best, scores == best, jnp.ones_like(allowed), jnp.isnan(scores))
            return _Standing(*(n + jnp.sum(allowed & f, axis=1) for n, f in zip(counts, found, strict=True))), None

        best, _ = jax.lax.scan(find, jnp.zeros(target.shape), chunks)
        nothing = jnp.zeros(len(batch.users), jnp.int32)
        return jax.lax.scan(compare, _Standing(nothing, nothing, nothing, jnp.isnan(best[:, 0]) + nothing), chunks)[0]

    return rank


def _values_of_standings(task: Task, outputs: list[_Standing]) -> Values:
    """On the host, for `FULL`: the metrics that need ranks alone; scores of all pairs are never held at once."""
    parts = []
    for batch, standing in zip(task.batches, outputs, strict=True):
        known = np.asarray(batch.users)[:, None] >= 0
        bad = int(np.asarray(standing.nan)[known[:, 0]].sum())
        if bad:
            raise ValueError(f"{bad} scores are NaN: the model has diverged")
        above = np.asarray(standing.greater + standing.equal / 2, np.float64)[:, None]
        parts.append(_by_rank(metrics.Ranking(above, known, np.asarray(standing.others)), task.protocol.cutoffs))
    return _by_user(task, parts)


EXPOSED = Protocol(
    name="exposed",
    against="the skips around it",
    population=candidates.neighbouring_skips,
    rank=_score_candidates,
    values=_values_of_scores,
    cutoffs=(2, 5),
)
FULL = Protocol(
    name="full",
    against="the whole catalogue less the user's other exposures",
    population=candidates.seen_items,
    rank=_rank_in_catalogue,
    values=_values_of_standings,
    cutoffs=(10, 50),
)
PROTOCOLS = {protocol.name: protocol for protocol in (EXPOSED, FULL)}
