"""Compares evaluated runs, paired by user: every run with the first.

Two sources of chance are kept apart. With other users the difference of the means would be different: its interval and
both tests are over users. With another seed a run's mean would be different: runs that differ only in their seed are
one method. Its value for a user is the mean over seeds, and the spread of the runs' means is reported beside it.

  interval       percentile bootstrap over users of the mean difference, not adjusted for the number of comparisons
  permutation    users' differences change sign at random: is the mean difference 0? It also holds, to first order, for
                 the pooled AUC, whose values per user are their influences on it and have the AUC as their mean
  Wilcoxon       signed ranks: are users' differences symmetric around 0? It weighs users by ranks, so it may find what
                 the mean does not, and the reverse. If a few large differences are opposed to many small ones, as with
                 `hr_gap`, use the other two. There is none for the pooled AUC: a user's influence depends on
                 everybody's scores and grows with the number of candidates, so its rank means nothing

References:
  Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1 (1945). Phipson and Smyth, "Permutation
  p-values should never be zero" (2010), arXiv 1603.05766. Holm, "A simple sequentially rejective multiple test
  procedure", Scandinavian Journal of Statistics 6 (1979). Smucker, Allan and Carterette, "A comparison of statistical
  significance tests for information retrieval evaluation", CIKM 2007, doi 10.1145/1321440.1321528.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from sine_jax import config as configs
from sine_jax.config import Config
from sine_jax.evaluation import bootstrap

POOLED = frozenset({"auc"})  # metrics of all users together, laid out per user
LEVEL = 0.95  # of the intervals
ENUMERATED = 13  # up to so many differences, all combinations of signs are tried; for more they are drawn
DRAWS = 9999  # together with the observed signs, p is a multiple of 1 / 10,000
DECIMALS = 12  # of a difference; later ones are rounding errors, and would break ties

# What must agree between runs, and where it is in an evaluation's summary.
IDENTITY = {
    "data fingerprint": ("fingerprint",),
    "split": ("split",),
    "protocol": ("protocol",),
    "data.split_by": ("data", "split_by"),
    "data.train_until": ("data", "train_until"),
    "data.valid_until": ("data", "valid_until"),
    "data.candidates": ("data", "candidates"),
}


class Measured(NamedTuple):
    """The values of one scorer in one evaluated run."""

    name: str  # for the reader
    scorer: str
    config: Config | None  # of a model; None for a simple scorer
    checkpoint: str | None  # `best`, `latest` or a step; None for a simple scorer
    summary: Mapping[str, Any]  # of the evaluation
    users: Sequence[Any]  # [V] external ids
    values: np.ndarray  # [V] of one metric; NaN if it is not defined for a user


class Group(NamedTuple):
    """Runs of one method, which differ only in their seed."""

    name: str  # of the first run
    scorer: str
    runs: tuple[str, ...]
    seeds: tuple[int, ...]  # none for a simple scorer
    values: np.ndarray  # [J, V] by run and user

    @property
    def means(self) -> np.ndarray:
        """[J] each run's mean over the users for whom it is defined; NaN if there are none."""
        return np.array([np.mean(v[~np.isnan(v)]) if (~np.isnan(v)).any() else np.nan for v in self.values])


def compare(
    runs: Sequence[Measured], *, metric: str, resamples: int = 1000, draws: int = DRAWS, seed: int = 0
) -> dict[str, Any]:
    """Compares every method with the method of the first run, ready for JSON.

    Args:
      runs: at least two; runs of one method are grouped.
      metric: the metric of their values.
      resamples: of the users, for the intervals.
      draws: of the signs, for the permutation test.
      seed: of both.

    Raises:
      ValueError: runs were evaluated on different data, or there is nothing to compare.
    """
    refuse_unlike(runs)
    reference, *others = groups = grouped(runs)
    if not others:
        told = f"{', '.join(reference.runs)} differ only in their seed" if len(runs) > 1 else f"{runs[0].name} is alone"
        raise ValueError(f"nothing to compare: {told}; name a run of another method, or another scorer by RUN:SCORER")
    differences = np.stack([np.mean(m.values, axis=0) - np.mean(reference.values, axis=0) for m in others], axis=1)
    differences = np.round(differences, DECIMALS)
    low, high = bootstrap.intervals(differences, level=LEVEL, replicates=resamples, seed=seed)
    tests = {"permutation": sign_flips(differences, draws=draws, seed=seed)}
    if metric not in POOLED:
        tests["wilcoxon"] = np.array([wilcoxon(column) for column in differences.T])
    adjusted = {name: holm(p) for name, p in tests.items()}
    comparisons = []
    for column, (group, found) in enumerate(zip(others, differences.T, strict=True)):
        paired = found[~np.isnan(found)]
        comparisons.append(
            {
                "method": group.name,
                "users": len(paired),
                "users_without_both": len(found) - len(paired),
                "difference": _number(np.mean(paired) if len(paired) else np.nan),
                "low": _number(low[column]),
                "high": _number(high[column]),
                "seeds_error": _seeds_error(reference, group),
                **{name: _number(p[column]) for name, p in tests.items()},
                **{f"{name}_holm": _number(p[column]) for name, p in adjusted.items()},
            }
        )
    return {
        "metric": metric,
        **{name: runs[0].summary.get(name) for name in ("fingerprint", "split", "protocol", "data")},
        "against": reference.name,
        "methods": [_described(group) for group in groups],
        "comparisons": comparisons,
        "interval": {"level": LEVEL, "over": "users", "resamples": resamples, "seed": seed},
        "permutation": {"draws": draws, "all_signs_up_to": ENUMERATED, "seed": seed},
    }


def refuse_unlike(runs: Sequence[Measured]) -> None:
    """Checks that all runs were evaluated like the first.

    Raises:
      ValueError: a run was not; the message says which, in what it differs, and both values.
    """
    first = runs[0]
    for run in runs[1:]:
        pairs = {name: (_at(run.summary, path), _at(first.summary, path)) for name, path in IDENTITY.items()}
        told = [f"its {name} is {ours}, but {theirs} there" for name, (ours, theirs) in pairs.items() if ours != theirs]
        if not told and list(run.users) != list(first.users):
            told = [f"its {len(run.users)} users are not the {len(first.users)} there"]
        if told:
            raise ValueError(
                f"{run.name} cannot be compared with {first.name}: {', '.join(told)}; "
                "evaluate both on the same data set with the same options"
            )


def grouped(runs: Sequence[Measured]) -> list[Group]:
    """Groups runs that differ only in their seed; a seed that appears again begins another group."""
    groups: dict[Any, list[Measured]] = {}
    for run in runs:
        key = (run.scorer, run.checkpoint, run.config and configs.replace(run.config, {"train.seed": 0}))
        # The same seed twice is the same run, or a difference that the configuration does not show.
        for again in itertools.count():
            members = groups.setdefault((key, again), [])
            if all(run.config and m.config and m.config.train.seed != run.config.train.seed for m in members):
                members.append(run)
                break
    return [
        Group(
            name=members[0].name,
            scorer=members[0].scorer,
            runs=tuple(run.name for run in members),
            seeds=tuple(run.config.train.seed for run in members if run.config),
            values=np.stack([run.values for run in members]),
        )
        for members in groups.values()
    ]


def wilcoxon(differences: np.ndarray) -> float:
    """The signed-rank test's two-sided p. Zeros are left out, and ties share their ranks.

    Args:
      differences: [V] by user; NaN does not count.

    Returns:
      1 if every difference is 0, NaN if no user has one.
    """
    known = differences[~np.isnan(differences)]
    some = known[known != 0]
    if not len(some):
        return 1.0 if len(known) else float("nan")
    return float(stats.wilcoxon(some).pvalue)


def sign_flips(differences: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Two-sided p of each mean among the means with other signs: exact for few differences, otherwise from draws.

    Args:
      differences: [V, G] by user and comparison; NaN does not count.
      draws: how many combinations of signs are drawn; all comparisons use the same.
      seed: of the draws.

    Returns:
      [G]; 1 if every difference is 0, NaN if no user has one.
    """
    filled = np.where(np.isnan(differences), 0, differences)
    least = np.abs(filled.sum(axis=0)) - 1e-9 * np.abs(filled).sum(axis=0)  # a sum in another order rounds differently
    generator = np.random.default_rng(seed)
    at_once = max(1, (1 << 23) // max(len(filled), 1))  # draws, to bound memory
    extreme = np.ones(filled.shape[1])  # the observed signs
    for begin in range(0, draws, at_once):
        flipped = generator.integers(0, 2, (min(at_once, draws - begin), len(filled)), np.int8).astype(np.float64)
        extreme += np.count_nonzero(np.abs(filled.sum(axis=0) - 2 * (flipped @ filled)) >= least, axis=0)
    p = extreme / (1 + draws)
    for column, values in enumerate(filled.T):
        some = values[values != 0]
        if len(some) <= ENUMERATED:
            signs = 1 - 2 * (np.arange(1 << len(some))[:, None] >> np.arange(len(some)) & 1)
            p[column] = np.mean(np.abs(signs @ some) >= least[column])
    return np.where(np.isnan(differences).all(axis=0), np.nan, p)


def holm(p: np.ndarray) -> np.ndarray:
    """Adjusts p-values [G] for the chance of any false claim among them, by Holm's procedure.

    NaN means that there was no test, and stays NaN.
    """
    order = np.argsort(p)[: np.count_nonzero(~np.isnan(p))]  # NaN sorts last
    adjusted = np.full(len(p), np.nan)
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1)
    return adjusted


def _described(group: Group) -> dict[str, Any]:
    """A group's mean and number of users, and the spread of its runs' means over seeds."""
    values, means = np.mean(group.values, axis=0), group.means
    return {
        "name": group.name,
        "scorer": group.scorer,
        "runs": list(group.runs),
        "seeds": list(group.seeds),
        "users": int(np.count_nonzero(~np.isnan(values))),
        "mean": _number(means.mean()),
        "run_means": [_number(mean) for mean in means],
        "seeds_std": _number(means.std(ddof=1)) if len(means) > 1 else None,
        "seeds_range": _number(means.max() - means.min()) if len(means) > 1 else None,
    }


def _seeds_error(a: Group, b: Group) -> float | None:
    """The standard error over seeds of the difference of two groups' means; None if one has a single run."""
    if min(len(a.values), len(b.values)) < 2:
        return None
    return _number(np.sqrt(sum(m.means.var(ddof=1) / len(m.means) for m in (a, b))))


def _at(summary: Mapping[str, Any], path: Sequence[str]) -> Any:
    """The value of a summary at a path; None if there is none."""
    value: Any = summary
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _number(value: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return None if np.isnan(value) else float(value)
