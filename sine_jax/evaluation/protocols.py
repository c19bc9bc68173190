"""Evaluation: every user's target is ranked once, by any scorer, under a named protocol.

What does not depend on parameters is prepared once (`prepare`), a scorer is compiled on it once (`measure`), and what
comes back takes parameters as often as wanted: validation between epochs and the final report share this path.

    task = prepare(log, config, num_items=N, split="valid", protocol=EXPOSED)
    validate = measure(scorers.of_model(config), task)
    means(validate(params))["gauc"]
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sine_jax import parallel
from sine_jax.batches import windows
from sine_jax.config import Config
from sine_jax.data import splits
from sine_jax.evaluation import candidates, catalogue, counting, factorisation, metrics, scorers
from sine_jax.evaluation.candidates import Population
from sine_jax.evaluation.scorers import Scorer
from sine_jax.types import PAD, Array, EvalBatch, EventLog, Split

BATCH_SIZE = 256  # users ranked at once

Values = dict[str, np.ndarray]  # [P] per metric, NaN where it is not defined for a user


class Protocol(NamedTuple):
    """What a target is ranked against, and how."""

    name: str
    against: str  # what a target is ranked against, in words
    population: Callable[[EventLog, Split], Population]
    rank: Callable[[Scorer, int], Callable[[Any, EvalBatch], Any]]  # scorer, N: what runs on a device
    values: Callable[[Task, list[Any]], Values]  # its outputs per batch: metrics of the population
    cutoffs: tuple[int, ...]  # of NDCG, hit rate and skips


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
    factors = factorisation.factorise(log, counting.training(log, task.split), num_items=num_items)
    values["matrix factorisation"] = measure(scorers.of_factors(), task)(factors)
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
        "item bias (within users)": counting.within_users(log, learned, num_items=num_items),
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


def _against_skips(target: metrics.Ranking, skips: metrics.Ranking, cutoffs: tuple[int, ...]) -> Values:
    """What the skips get by themselves, a mean over each user's, and how far the target is ahead of that."""
    result: Values = {}
    for name, metric in (("ndcg", metrics.ndcg), ("hr", metrics.hit_rate)):
        for k in cutoffs:
            at_cutoff = functools.partial(metric, cutoff=k)
            result[f"{name}_skipped@{k}"] = metrics.each_alone(at_cutoff, skips)
            result[f"{name}_gap@{k}"] = at_cutoff(target) - result[f"{name}_skipped@{k}"]
    return result


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
        skips = {f"skips@{k}": _skips_within(scores, batch, cutoff=k) for k in task.protocol.cutoffs}
        parts.append({**_by_rank(ranking, task.protocol.cutoffs), **skips, "log_loss": log_loss})
        rows.append((scores[where], labels[where], np.asarray(batch.users)[np.nonzero(where)[0]]))
    flat, labels, users = (np.concatenate(column) for column in zip(*rows, strict=True))
    owners = np.searchsorted(task.population.users, users)
    pooled = metrics.pooled_auc(flat, labels, owners, num_users=len(task.population.users))
    return {"auc": pooled, **_by_user(task, parts)}


def _skips_within(scores: np.ndarray, batch: EvalBatch, *, cutoff: int) -> np.ndarray:
    """[B] how many of the first places skips take, where a target is ranked among skips alone: all but the target's."""
    skipped = np.asarray(batch.skipped)
    greater, equal = (np.sum(skipped & found, axis=1) for found in (scores > scores[:, :1], scores == scores[:, :1]))
    number = skipped.sum(axis=1)
    places = np.minimum(number + 1, cutoff) - metrics.chance_within(greater, equal, cutoff=cutoff)
    return np.where(number > 0, places, np.nan)


def _values_of_standings(task: Task, outputs: list[catalogue.Standings]) -> Values:
    """On the host, for `FULL`: the metrics that need ranks alone; scores of all pairs are never held at once."""
    cutoffs, parts = task.protocol.cutoffs, []
    for batch, standings in zip(task.batches, outputs, strict=True):
        known = np.asarray(batch.users)[:, None] >= 0
        bad = int(np.asarray(standings.nan)[known[:, 0]].sum())
        if bad:
            raise ValueError(f"{bad} scores are NaN: the model has diverged")
        unseen: Any = standings.unseen  # numpy by now
        shown: Any = standings.shown
        skipped = np.asarray(batch.skipped)
        above = unseen.greater + unseen.equal / 2
        target = metrics.Ranking(above[:, :1], known, unseen.number)
        skips = metrics.Ranking(above[:, 1:], skipped[:, 1:], unseen.number)
        parts.append({**_by_rank(target, cutoffs), **_against_skips(target, skips, cutoffs)})
        for k in cutoffs:  # places in the list of all that is unseen, the target and these skips
            within = metrics.chance_within(unseen.greater + shown.greater, unseen.equal + shown.equal, cutoff=k)
            parts[-1][f"skips@{k}"] = np.where(skipped.any(axis=1), np.sum(within, axis=1, where=skipped), np.nan)
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
    rank=catalogue.rank,
    values=_values_of_standings,
    cutoffs=(10, 50),
)
PROTOCOLS = {protocol.name: protocol for protocol in (EXPOSED, FULL)}
