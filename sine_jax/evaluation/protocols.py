"""The protocols of an evaluation: who is ranked, against what, and which metrics follow from the scores."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from sine_jax.evaluation import candidates, catalogue, metrics, recommended
from sine_jax.evaluation.candidates import Population
from sine_jax.evaluation.scorers import Scorer
from sine_jax.types import PAD, Array, EvalBatch, EventLog, Split

Values = dict[str, np.ndarray]  # [V] per metric; NaN if it is not defined for a user


class Protocol(NamedTuple):
    """What a target is ranked against, and how."""

    name: str
    against: str  # what a target is ranked against, in words
    population: Callable[[EventLog, Split], Population]
    rank: Callable[[Scorer, int], Callable[[Any, EvalBatch], Any]]  # scorer, N -> the function that runs on devices
    values: Callable[[Task, list[Any]], Values]  # task, the outputs of that function per batch -> metrics
    cutoffs: tuple[int, ...]  # of NDCG, hit rate and skips
    lists: bool = False  # whether the outputs have a list of items for each user


class Task(NamedTuple):
    """What an evaluation needs before there is a scorer or parameters."""

    protocol: Protocol
    split: Split
    population: Population
    batches: list[EvalBatch]
    num_items: int
    facts: recommended.Facts | None = None  # of items and users, where there are lists


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
    """The mean metric of each user's skips, and how far the target is ahead of it."""
    result: Values = {}
    for name, metric in (("ndcg", metrics.ndcg), ("hr", metrics.hit_rate)):
        for k in cutoffs:
            at_cutoff = functools.partial(metric, cutoff=k)
            result[f"{name}_skipped@{k}"] = metrics.each_alone(at_cutoff, skips)
            result[f"{name}_gap@{k}"] = at_cutoff(target) - result[f"{name}_skipped@{k}"]
    return result


def _by_user(task: Task, parts: list[Values]) -> Values:
    """Puts the values of all batches into the order of the population, without fillers."""
    order = _order(task)
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}


def _order(task: Task) -> np.ndarray:
    """Where each place of the population is among the rows of all batches."""
    places = np.concatenate([np.asarray(batch.places) for batch in task.batches])
    return np.argsort(places, kind="stable")[np.count_nonzero(places < 0) :]


def _score_candidates(scorer: Scorer, num_items: int) -> Callable[[Any, EvalBatch], Array]:
    """On the device, for `EXPOSED` and `BY_PREFIX`: scores [B, C]."""

    def rank(params: Any, batch: EvalBatch) -> Array:
        state = scorer.encode(params, batch.places, batch.histories)
        return scorer.score_candidates(params, state, batch.candidates, batch.contexts)

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
        rows.append((scores[where], labels[where], np.asarray(batch.places)[np.nonzero(where)[0]]))
    flat, labels, places = (np.concatenate(column) for column in zip(*rows, strict=True))
    owners = np.searchsorted(task.population.places, places)
    pooled = metrics.pooled_auc(flat, labels, owners, num_users=len(task.population.places))
    return {"auc": pooled, **_by_user(task, parts)}


def _values_of_prefixes(task: Task, outputs: list[np.ndarray]) -> Values:
    """On the host, for `BY_PREFIX`: a user's held-out exposures are ranked by the score that each had in its place.

    Exposures of one user alone are compared, because models are scored without the user's offset.
    """
    population = task.population
    scores = np.concatenate([np.asarray(output)[:, 0] for output in outputs])[_order(task)]
    counts = np.unique(population.owners, return_counts=True)[1]
    where = np.arange(counts.max()) < counts[:, None]
    rows, labels = np.zeros(where.shape, np.float32), np.zeros(where.shape, bool)
    rows[where], labels[where] = scores, population.watched
    ranking = metrics.ranking(rows, labels, where=where)
    return _by_rank(ranking, task.protocol.cutoffs)


def _skips_within(scores: np.ndarray, batch: EvalBatch, *, cutoff: int) -> np.ndarray:
    """[B] how many of the first places skips take when a target is ranked among skips alone."""
    skipped = np.asarray(batch.skipped)
    greater, equal = (np.sum(skipped & found, axis=1) for found in (scores > scores[:, :1], scores == scores[:, :1]))
    number = skipped.sum(axis=1)
    places = np.minimum(number + 1, cutoff) - metrics.chance_within(greater, equal, cutoff=cutoff)
    return np.where(number > 0, places, np.nan)


def _values_of_standings(task: Task, outputs: list[catalogue.Standings]) -> Values:
    """On the host, for `FULL`: the metrics that need ranks alone, since not all scores are in memory."""
    cutoffs, parts = task.protocol.cutoffs, []
    for batch, standings in zip(task.batches, outputs, strict=True):
        known = np.asarray(batch.places)[:, None] >= 0
        unseen: Any = standings.unseen  # numpy by now
        bad = int(np.asarray(standings.nan)[known[:, 0]].sum())
        if bad:
            number = unseen.number[known[:, 0]].sum() + np.count_nonzero(batch.labels | batch.skipped)
            raise metrics.nan_scores(bad, int(number))
        shown: Any = standings.shown
        skipped = np.asarray(batch.skipped)
        above = unseen.greater + unseen.equal / 2
        target = metrics.Ranking(above[:, :1], known, unseen.number)
        skips = metrics.Ranking(above[:, 1:], skipped[:, 1:], unseen.number)
        parts.append({**_by_rank(target, cutoffs), **_against_skips(target, skips, cutoffs)})
        for k in cutoffs:  # places among the unseen items, the target and these skips
            within = metrics.chance_within(unseen.greater + shown.greater, unseen.equal + shown.equal, cutoff=k)
            parts[-1][f"skips@{k}"] = np.where(skipped.any(axis=1), np.sum(within, axis=1, where=skipped), np.nan)
    values = _by_user(task, parts)
    if task.facts is not None:
        first = lists(task, outputs)
        for k in cutoffs:
            values |= recommended.of_users(task.facts, first, task.population.users, cutoff=k)
    return values


def lists(task: Task, outputs: list[catalogue.Standings]) -> np.ndarray:
    """[V, k] the first items of each place of the population, for `FULL`."""
    return np.concatenate([np.asarray(standings.first) for standings in outputs])[_order(task)]


def _rank_catalogue(scorer: Scorer, num_items: int) -> Callable[[Any, EvalBatch], catalogue.Standings]:
    return catalogue.rank(scorer, num_items, length=max(FULL.cutoffs))


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
    against="the whole catalogue without the user's other exposures",
    population=candidates.seen_items,
    rank=_rank_catalogue,
    values=_values_of_standings,
    cutoffs=(10, 50),
    lists=True,
)
BY_PREFIX = Protocol(
    name="by_prefix",
    against="the user's held-out exposures with the other outcome, each from all that came before it",
    population=candidates.held_out,
    rank=_score_candidates,
    values=_values_of_prefixes,
    cutoffs=(),
)
PROTOCOLS = {protocol.name: protocol for protocol in (EXPOSED, FULL, BY_PREFIX)}
