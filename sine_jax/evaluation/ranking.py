"""Evaluation: every user's target is ranked once, by any scorer, under a named protocol.

`lay_out` makes what does not depend on parameters, once. `compile_ranking` compiles a scorer for it, once. The function
that it returns takes parameters as often as needed. Validation between epochs and the final report both use it.

    task = lay_out(log, config=config, num_items=N, part="valid", protocol=protocols.EXPOSED)
    validate = compile_ranking(scorers.of_model(model), task)
    means(validate(params))["gauc"]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sine_jax import parallel
from sine_jax.batches import windows
from sine_jax.config import Config
from sine_jax.data import splits
from sine_jax.data.law import Law
from sine_jax.evaluation import best_possible, candidates, memory, metrics, protocols, scorers, simple_scorers
from sine_jax.evaluation.protocols import Protocol, Task, Values
from sine_jax.evaluation.scorers import Scorer
from sine_jax.model import build_model
from sine_jax.types import EventLog

BATCH_SIZE = 256  # users ranked at once; a choice


def lay_out(log: EventLog, *, config: Config, num_items: int, part: str, protocol: Protocol) -> Task:
    """Makes the batches of an evaluation.

    Args:
      log: the exposures.
      config: `data` decides how the log is split and what is ranked, `model` how histories are read.
      num_items: N.
      part: which part of the log, `valid` or `test`: a field of `splits.Splits`.
      protocol: `EXPOSED` or `FULL`.

    Raises:
      ValueError: nobody has a target.
    """
    chosen = splits.split(log, config=config.data)._asdict()[part]
    population = protocol.population(log, chosen)
    if not len(population.users):
        why = ", ".join(f"{count} with {reason}" for reason, count in population.left_out.items())
        raise ValueError(
            f"part={part}: no user takes part ({why}); split the log differently, or use one with more watched videos"
        )
    later = splits.Splits._fields.index(part)  # the released window grows by a column from validation to test
    batches = candidates.batches(
        population,
        windows.of_config(log, chosen, config=config),
        max_len=config.model.max_len,
        margin=max(config.data.window_margin - later, 0),
        batch_size=BATCH_SIZE,
        multiple_of=parallel.local_device_count(),
    )
    return Task(protocol=protocol, split=chosen, population=population, batches=batches, num_items=num_items)


class Evaluation(NamedTuple):
    """The results of an evaluation."""

    part: str  # of the log: `valid` or `test`
    config: Config
    task: Task
    values: dict[str, Values]  # by scorer
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
) -> Evaluation:
    """Ranks a part of the log by models and by the simple scorers, over one population.

    Args:
      log: the exposures.
      config: of the models, and how the log is split and what is ranked.
      num_items: N.
      part: `valid` or `test`.
      protocol: `EXPOSED` or `FULL`.
      models: parameters by the name for the report; None for the simple scorers alone.
      simple: whether the simple scorers are evaluated too.
      law: of a synthetic log; scorers that know it are evaluated among the simple ones.

    Raises:
      ValueError: nobody has a target, or a score is NaN.
    """
    task = lay_out(log, config=config, num_items=num_items, part=part, protocol=protocol)
    values: dict[str, Values] = {}
    if models:
        validate = compile_ranking(scorers.of_model(build_model(config.model, num_items=num_items)), task)
        values = {name: validate(params) for name, params in models.items()}
    if not simple:
        return Evaluation(part=part, config=config, task=task, values=values)
    values["random"] = compile_ranking(scorers.at_random(), task)(np.uint32(0))
    of_biases = compile_ranking(scorers.of_biases(), task)
    for name, biases in simple_scorers.by_counting(log, task.split, num_items=num_items).items():
        values[name] = of_biases(biases)
    vectors = simple_scorers.factorise(log, simple_scorers.training(log, task.split), num_items=num_items)
    values["matrix factorisation"] = compile_ranking(scorers.of_factors(), task)(vectors)
    kernel = memory.fit(log, task.split, num_items=num_items)
    values["signed kernel"] = compile_ranking(scorers.of_factors(), task)(kernel)
    if law is not None:
        knowing = compile_ranking(best_possible.scorer(law.settings, shown_too=protocol is protocols.FULL), task)
        places = np.arange(log.num_users), task.split.history_end
        values |= {name: knowing(known) for name, known in best_possible.known(law, log, *places).items()}
    return Evaluation(part=part, config=config, task=task, values=values)


def compile_ranking(scorer: Scorer, task: Task) -> Callable[[Any], Values]:
    """Compiles a scorer for a task, on all devices of this process.

    Returns:
      A function of the scorer's parameters that gives each metric's values [V]. It compiles at its first call and never
      again. It raises ValueError if a score is NaN.
    """
    run = parallel.map_rows(task.protocol.rank(scorer, task.num_items))

    def ranked(params: Any) -> Values:
        params = parallel.replicate(params)
        outputs = [run(params, parallel.shard(batch)) for batch in task.batches]
        return task.protocol.values(task, [parallel.unshard(output) for output in outputs])

    return ranked


def means(values: Values) -> dict[str, float]:
    """The mean of each metric over the users for whom it is defined."""
    return {name: metrics.sums(column).mean for name, column in values.items()}
