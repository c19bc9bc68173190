"""Evaluation: every user's target is ranked once, by any scorer, under a named protocol.

`lay_out` makes what does not depend on parameters, once. `compile_ranking` compiles a scorer for it, once. The function
that it returns takes parameters as often as needed. Validation between epochs and the final report both use it.

    task = lay_out(log, config=config, num_items=N, part="valid", protocol=protocols.EXPOSED)
    validate = compile_ranking(scorers.of_model(model), task)
    means(validate(params))["gauc"]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sine_jax import parallel
from sine_jax.batches import windows
from sine_jax.config import Config
from sine_jax.data import splits
from sine_jax.data.law import Law
from sine_jax.evaluation import (
    best_possible,
    candidates,
    memory,
    memoryless,
    metrics,
    protocols,
    recommended,
    scorers,
    simple_scorers,
)
from sine_jax.evaluation.protocols import Protocol, Task, Values
from sine_jax.evaluation.scorers import Scorer
from sine_jax.evaluation.segments import Segment
from sine_jax.evaluation.simple_scorers import Biases, Factors
from sine_jax.model import build_model
from sine_jax.types import EvalBatch, EventLog

BATCH_SIZE = 256  # users ranked at once; a choice


def lay_out(log: EventLog, *, config: Config, num_items: int, part: str, protocol: Protocol) -> Task:
    """Makes the batches of an evaluation.

    Args:
      log: the exposures.
      config: `data` decides how the log is split and what is ranked, `model` how histories are read.
      num_items: N.
      part: which part of the log, `valid` or `test`: a field of `splits.Splits`.
      protocol: one of `protocols.PROTOCOLS`.

    Raises:
      ValueError: nobody has a target.
    """
    chosen = splits.split(log, config=config.data)._asdict()[part]
    population = protocol.population(log, chosen)
    if not len(population.places):
        why = ", ".join(f"{count} with {reason}" for reason, count in population.left_out.items())
        raise ValueError(
            f"part={part}: no user takes part ({why}); split the log differently, or use one with more watched videos"
        )
    later = splits.Splits._fields.index(part)  # the released window grows by a column from validation to test
    batches = candidates.batches(
        population,
        windows.of_config(log, chosen._replace(history_end=population.ends), config=config),
        max_len=config.model.max_len,
        margin=max(config.data.window_margin - later, 0),
        batch_size=BATCH_SIZE,
        multiple_of=parallel.local_device_count(),
    )
    facts = recommended.facts(log, chosen, num_items=num_items) if protocol.lists else None
    return Task(protocol, chosen, population, batches, num_items, facts)


class Evaluation(NamedTuple):
    """The results of an evaluation."""

    part: str  # of the log: `valid` or `test`
    config: Config
    task: Task
    values: dict[str, Values]  # by scorer
    together: dict[str, dict[str, float]] = {}  # by scorer: the metrics that no user has alone
    segments: Sequence[Segment] = ()  # groups of users that are reported apart
    nulls: Sequence[dict[str, Values]] = ()  # the same for each log that was redrawn without memory
    about: Mapping[str, Any] = {}  # of a trained model: checkpoint, step, and the data set's fingerprint
    user_ids: Any = None  # [U] external ids, if a data set was read

    @property
    def means(self) -> dict[str, dict[str, float]]:
        """By scorer and metric: the mean over the users for whom the metric is defined."""
        return {scorer: means(values) for scorer, values in self.values.items()}


def evaluate(
    log: EventLog,
    *,
    config: Config,
    num_items: int,
    part: str,
    protocol: Protocol,
    models: Mapping[str, Any] | None = None,
    simple: bool = True,
    law: Law | None = None,
    nulls: int = 0,
) -> Evaluation:
    """Ranks a part of the log by models and by the simple scorers, over one population.

    Args:
      log: the exposures.
      config: of the models, and how the log is split and what is ranked.
      num_items: N.
      part: `valid` or `test`.
      protocol: one of `protocols.PROTOCOLS`.
      models: parameters by the name for the report; None for the simple scorers alone.
      simple: whether the simple scorers are evaluated too.
      law: of a synthetic log; scorers that know it are evaluated among the simple ones.
      nulls: how many logs are redrawn without memory (see `memoryless`) and ranked in the same way. The simple scorers
        are fitted to each; models stay as they are.

    Raises:
      ValueError: nobody has a target, or a score is NaN.
    """
    task = lay_out(log, config=config, num_items=num_items, part=part, protocol=protocol)
    # Exposures of one user are compared there; the user's offset is an estimate of the same number at each of them.
    offset = protocol is not protocols.BY_PREFIX
    model = build_model(config.model, num_items=num_items)
    scoring = scorers.of_model(model, offset=offset) if models else None
    known = {} if law is None else _of_law(log, task, law)
    kinds = {
        "model": scoring,
        "random": scorers.at_random(),
        "biases": scorers.of_biases(),
        "factors": scorers.of_factors(),
        "law": best_possible.scorer(law.settings, shown_too=protocol is protocols.FULL) if law else None,
    }
    compiled = {kind: _compiled(scorer, task) for kind, scorer in kinds.items() if scorer}

    def of_scorers(log: EventLog, task: Task, known: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
        """The name of each scorer, and its outputs per batch."""
        for name, params in (models or {}).items():
            yield name, _outputs(compiled["model"], task, params)
        for kind, name, params in _simple(log, task, num_items=num_items) if simple else ():
            yield name, _outputs(compiled[kind], task, params)
        for name, params in known.items():
            yield name, _outputs(compiled["law"], task, params)

    found = Evaluation(part=part, config=config, task=task, values={}, together={})
    for name, outputs in of_scorers(log, task, known if simple else {}):
        found.values[name] = protocol.values(task, outputs)
        if task.facts is not None:
            found.together[name] = _together(task, outputs)
    if not nulls:
        return found
    biases, redrawn = memoryless.law_of(log, num_items=num_items), []
    for seed in range(nulls):
        other = memoryless.redrawn(log, biases, seed=seed)
        at = lay_out(other, config=config, num_items=num_items, part=part, protocol=protocol)
        redrawn.append({name: protocol.values(at, outputs) for name, outputs in of_scorers(other, at, {})})
    return found._replace(nulls=redrawn)


def _together(task: Task, outputs: list[Any]) -> dict[str, float]:
    assert task.facts is not None
    first = protocols.lists(task, outputs)
    return {
        name: value
        for k in task.protocol.cutoffs
        for name, value in recommended.of_all(task.facts, first, cutoff=k).items()
    }


def _simple(log: EventLog, task: Task, *, num_items: int) -> Iterator[tuple[str, str, Any]]:
    """The kind of each simple scorer, its name and its parameters; what is known of users is there by place."""
    population = task.population

    def at_places(biases: Biases) -> Biases:
        return biases._replace(users=biases.users[population.owners])

    yield "random", "random", np.uint32(0)
    counted = simple_scorers.by_counting(log, task.split, num_items=num_items)
    for name, biases in counted.items():
        yield "biases", name, at_places(biases)
    factors = simple_scorers.factorise(log, simple_scorers.training(log, task.split), num_items=num_items)
    at = Factors(factors.users[population.owners], factors.items, at_places(factors.biases))
    yield "factors", "matrix factorisation", at
    biases = counted[simple_scorers.WITHIN_USERS]
    yield (
        "factors",
        "signed kernel",
        memory.fit(log, task.split, biases, owners=population.owners, ends=population.ends),
    )


def _of_law(log: EventLog, task: Task, law: Law) -> dict[str, best_possible.Known]:
    return best_possible.known(law, log, task.population.owners, task.population.ends)


def compile_ranking(scorer: Scorer, task: Task) -> Callable[[Any], Values]:
    """Compiles a scorer for a task, on all devices of this process.

    Returns:
      A function of the scorer's parameters that gives each metric's values [W]. It compiles at its first call and never
      again. It raises ValueError if a score is NaN.
    """
    run = _compiled(scorer, task)
    return lambda params: task.protocol.values(task, _outputs(run, task, params))


def _compiled(scorer: Scorer, task: Task) -> Callable[[Any, EvalBatch], Any]:
    """The part of a ranking that runs on devices; it works for other tasks of the protocol and catalogue too."""
    return parallel.map_rows(task.protocol.rank(scorer, task.num_items))


def _outputs(run: Callable[[Any, EvalBatch], Any], task: Task, params: Any) -> list[Any]:
    params = parallel.replicate(params)
    outputs = [run(params, parallel.shard(batch)) for batch in task.batches]
    return [parallel.unshard(output) for output in outputs]


def means(values: Values) -> dict[str, float]:
    """The mean of each metric over the users for whom it is defined."""
    return {name: metrics.sums(column).mean for name, column in values.items()}
