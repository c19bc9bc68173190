"""A run: train in a workdir, and restore from it. The loop, and no maths."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sine_jax import checkpoints, factors, files, objectives, optimizer, parallel, progress, training, workdir
from sine_jax import config as configs
from sine_jax.batches import negatives, pipeline
from sine_jax.checkpoints import About, Position
from sine_jax.config import Config
from sine_jax.data import datasets, law, splits
from sine_jax.data.datasets import Dataset
from sine_jax.data.splits import Splits
from sine_jax.evaluation import protocols, ranking, scorers, simple_scorers
from sine_jax.evaluation import segments as groups
from sine_jax.evaluation.protocols import Values
from sine_jax.evaluation.ranking import Evaluation
from sine_jax.evaluation.simple_scorers import Biases
from sine_jax.layers import fused_attention
from sine_jax.layers.forms import forms_for
from sine_jax.model import Model, build_model
from sine_jax.plain import printable
from sine_jax.training import Report, TrainState
from sine_jax.types import Params, Split

SURE = 1.96  # standard errors
BESIDE_BIASES = 0.01  # factor on the first item embeddings where item biases are counted

_LOGGER = logging.getLogger(__name__)


class Setup(NamedTuple):
    """What a run needs and does not change."""

    run_epoch: training.RunEpoch
    validate: Callable[[Params], Values]
    initial: Callable[[], TrainState]
    blank: Callable[[], TrainState]  # the same shapes, without reading the log
    steps_per_epoch: int
    users: int  # sequences of an epoch


class Restored(NamedTuple):
    """A trained model, and what its checkpoint stores beside the arrays."""

    params: Params
    config: Config
    about: About

    @property
    def model(self) -> Model:
        """The functions that the parameters belong to."""
        config = settle_attention(self.config)
        return _build(config, self.about.data)


def train(
    data: str, folder: str, *, config: Config, command: Sequence[str] = (), stop: training.Stop = lambda: False
) -> Position:
    """Trains until the last epoch or until early stopping; the same call again continues where it stopped.

    The state before the first epoch is validated and saved too: where training only harms, it is the best one.

    Args:
      data: folder of a prepared data set.
      folder: the workdir.
      config: the choices.
      command: what the user typed, for the record.
      stop: is asked between steps; once it says yes, the state is saved, and the same call again goes on from there.

    Returns:
      The position of the run.

    Raises:
      ValueError: the workdir cannot be written or holds another run, or the data cannot be used.
      training.Diverged: a loss, a term of it or a norm is not a finite number.
    """
    dataset = datasets.load(data)
    identity = identify(dataset)
    setup = set_up(dataset, config=config)
    with workdir.opened(folder) as path:
        return _train(path, setup, identity, config=config, command=command, stop=stop)


def _train(
    path: Path,
    setup: Setup,
    identity: Mapping[str, Any],
    *,
    config: Config,
    command: Sequence[str],
    stop: training.Stop,
) -> Position:
    """Trains in a workdir that no other process writes to."""
    workdir.claim(path, identity, config=config, command=command)
    datasets.copy_catalogue(identity["path"], path / workdir.CATALOGUE)
    store_path = path / workdir.CHECKPOINTS
    state, at = _resumed(store_path, setup)
    store = checkpoints.open_store(store_path)
    metrics = workdir.open_metrics(path, step=at.step)
    total = config.train.epochs * setup.steps_per_epoch
    with files.full_disk_told(path), contextlib.closing(store.manager), contextlib.closing(metrics):
        with progress.display(done=at.step, total=total) as display:
            saved = at.step

            def save() -> None:
                nonlocal saved
                saved = at.step
                metrics.flush()  # first: a checkpoint must never be ahead of the records
                about = About(at, dataclasses.asdict(config), dict(identity), workdir.versions())
                checkpoints.save(store, state.params, (state.step, state.opt_state), about)

            untrained = _untrained(setup, state, at, config=config)
            if at.best is None and at.epoch == 0:
                at = _validated(setup, config, state, at, metrics, display, untrained)
                save()
            else:
                display.say(f"resuming at step {at.step}, after epoch {at.epoch}")
            while at.epoch < config.train.epochs and not stopped(at, config=config):
                before = at
                state, at = _epoch(setup, config, state, at, metrics, display, untrained, stop=stop)
                if at.epoch == before.epoch:  # it was to stop
                    if at.step > saved:
                        save()
                    display.say(f"stopped at step {at.step}, after epoch {at.epoch}; its state is saved")
                    return at
                if _is_due(at, config):
                    save()
            display.say(_summary(at, config))
    return at


def set_up(dataset: Dataset, *, config: Config) -> Setup:
    """Lays out the data; nothing is compiled yet: each function compiles once, at its first call.

    Raises:
      ValueError: the data set has nothing to train on or to validate with, or `model.attention=fused` does not work.
    """
    fault = _attention_fault(config)
    if fault is not None and config.model.attention == "fused":
        raise ValueError(f"model.attention=fused: the kernel does not work here ({fault}); use auto, or blocks")
    num_items, config = dataset.info.num_items, settle_attention(config)
    model = _build(config, identify(dataset))
    split = splits.split(dataset.log, config=config.data).valid
    feed = pipeline.feed(dataset.log, split, config=config, num_items=num_items, packed=model.packs)
    tx = optimizer.build(config.optimizer, num_steps=config.train.epochs * feed.strata.num_steps)
    epochs = {**training.EPOCHS, "auto": training.EPOCHS[pipeline.fitting(feed.source)]}
    task = _validation(dataset, config=config)
    if config.objective.exclude_seen:
        _tell_exhausted(dataset, split)
    measured = ranking.compile_ranking(scorers.of_model(model), task)

    def drawn() -> Params:
        return objectives.init(model.init(jax.random.key(config.train.seed)), config=config)

    def initial() -> TrainState:
        params = drawn()
        if config.model.item_bias_init == "counted":
            counted = _counted_biases(dataset, task, config=config)
            # The network starts small beside them, so that training begins from the ranking of the biases.
            params = {**params, "item_bias": counted.items, "item_embedding": BESIDE_BIASES * params["item_embedding"]}
            if "context" in params and counted.contexts is not None:
                params["context"] = params["context"].at[: len(counted.contexts)].set(counted.contexts)
            if config.model.user_bias:
                learned = simple_scorers.training(dataset.log, split)
                params["user_bias"] = jnp.asarray(simple_scorers.watched_share(dataset.log, learned, counted))
        if config.model.kernel_dim:
            learned, dim = simple_scorers.training(dataset.log, split), config.model.kernel_dim
            shown_alike = factors.co_exposure(dataset.log, learned, num_items=num_items, dim=dim)
            params = {**params, "item_factors": jnp.asarray(shown_alike)}
        return training.init_state(params, tx)

    return Setup(
        run_epoch=epochs[config.train.pipeline](feed, model=model, optimizer=tx),
        validate=measured,
        initial=initial,
        blank=lambda: training.init_state(drawn(), tx),
        steps_per_epoch=feed.strata.num_steps,
        users=feed.strata.num_users,
    )


def _validation(dataset: Dataset, *, config: Config) -> protocols.Task:
    """What is ranked at each validation; refused if nothing would be decided by it."""
    protocol, num_items = protocols.PROTOCOLS[config.train.protocol], dataset.info.num_items
    for number, of in ((dataset.info.num_users, "user"), (num_items, "item")):
        if number < 2:
            raise ValueError(
                f"{dataset.path}: it has one {of} alone, so there is nothing to rank; prepare a log of several"
            )
    task = ranking.lay_out(dataset.log, config=config, num_items=num_items, part="valid", protocol=protocol)
    if protocol is protocols.EXPOSED and not np.diff(task.population.offsets).any():
        raise ValueError(
            f"train.protocol=exposed: none of {len(task.population.places)} validation targets has a skip beside it; "
            "set train.protocol=full, which ranks them among the whole catalogue"
        )
    return task


def _tell_exhausted(dataset: Dataset, split: Split) -> None:
    """Names the users for whom no unseen item is left to draw."""
    users = negatives.exhausted(dataset.log, split.train_end, dataset.info.num_items)
    if len(users):
        names = datasets.user_ids(dataset.path).gather(users[:3]).to_list()
        shown = ", ".join(map(printable, names)) + (f" and {len(users) - 3} more" if len(users) > 3 else "")
        _LOGGER.warning("users who were shown every item draw negatives from all items: %s", shown)


def _build(config: Config, data: Mapping[str, Any]) -> Model:
    """The model of a configuration for a data set, of `identify`."""
    num_contexts = sum(map(len, data.get("contexts", {}).values()))
    return build_model(config.model, num_items=data["num_items"], num_contexts=num_contexts)


def _counted_biases(dataset: Dataset, task: protocols.Task, *, config: Config) -> Biases:
    """Biases fitted to the training part, within users or over all exposures: those that rank validation better."""
    log, learned = dataset.log, simple_scorers.training(dataset.log, task.split)
    fits = [
        fit(log, learned, num_items=task.num_items, contexts=config.model.context)
        for fit in (simple_scorers.within_users, simple_scorers.logistic_biases)
    ]
    measured = ranking.compile_ranking(scorers.of_biases(), task)
    return max(fits, key=lambda biases: ranking.means(measured(simple_scorers.item_part(biases)))[config.train.metric])


def restore(folder: str, *, checkpoint: str = "best", trust_network: str = "") -> Restored:
    """Restores a model on any devices; no data set is read.

    Args:
      folder: the workdir.
      checkpoint: `best`, `latest` or a step.
      trust_network: a module whose code may run: the network of the run, if it is not one of the library's and is not
        imported yet.

    Raises:
      ValueError: there is nothing to restore, or its network is not trusted.
    """

    def template(about: About) -> Params:
        _refuse_strangers(folder, str(about.config.get("model", {}).get("name", "")), trust_network)
        config = configs.replace(configs.from_dict(about.config), {"model.attention": "blocks"})  # works anywhere
        model = _build(config, about.data)
        return jax.eval_shape(lambda: objectives.init(model.init(jax.random.key(0)), config=config))

    params, about = checkpoints.restore_params(Path(folder) / workdir.CHECKPOINTS, checkpoint, template)
    return Restored(params, configs.from_dict(about.config), about)


def _refuse_strangers(folder: str, name: str, trusted: str) -> None:
    """Refuses a network of a module that was neither named nor imported by the user: importing it runs its code."""
    if "." in name and name != trusted and name not in sys.modules:
        raise ValueError(
            f"{folder}: its network is the module {printable(name)}, whose code would run; pass "
            f"--trust_network={printable(name)} if you trust it"
        )


def dataset(restored: Restored, *, data: str | None = None) -> Dataset:
    """The data set that a model was trained on.

    Args:
      restored: of `restore`.
      data: its folder, if it has moved.

    Raises:
      ValueError: there is no data set, or the model was trained on another.
    """
    about = restored.about
    found = datasets.load(data or about.data["path"])
    for name, value in identify(found).items():
        if name != "path" and value != about.data.get(name):
            raise ValueError(
                f"{found.path}: its {name} is {value}, but the model was trained on {about.data.get(name)}; "
                "pass the data set that it was trained on"
            )
    return found


def evaluate(
    folder: str,
    *,
    split: str = "test",
    protocol: str = "exposed",
    checkpoint: str = "best",
    data: str | None = None,
    candidates: str | None = None,
    simple: bool = True,
    nulls: int = 3,
    segments: Sequence[str] = (),
    trust_network: str = "",
) -> Evaluation:
    """Ranks a held-out split by a trained model and by the simple scorers.

    Args:
      folder: the workdir of a run.
      split: `valid` or `test`.
      protocol: `exposed` (against the skips around the target), `full` (against the whole catalogue) or `by_prefix`
        (each held-out exposure from all that came before it).
      checkpoint: `best`, `latest` or a step.
      data: folder of the data set, if it has moved.
      candidates: which skips, `released` or `before_target`; by default those that the run was validated with.
      simple: whether the simple scorers are evaluated too.
      nulls: for `by_prefix` with the simple scorers, how many logs are redrawn without memory and ranked too.
      segments: groups of users to report apart (see `evaluation.segments`).
      trust_network: as in `restore`.

    Returns:
      Values per user, by scorer and metric; the model's scorer bears the name `model.name`. `means` has their means.

    Raises:
      ValueError: there is nothing to restore, another data set, no such split or protocol, or nobody has a target.
    """
    restored = restore(folder, checkpoint=checkpoint, trust_network=trust_network)
    config = configs.replace(restored.config, {} if candidates is None else {"data.candidates": candidates})
    models = {config.model.name: restored.params}
    trained_on = dataset(restored, data=data)
    found = rank(
        trained_on,
        config=config,
        split=split,
        protocol=protocol,
        models=models,
        simple=simple,
        nulls=nulls,
        segments=segments,
    )
    about = {"checkpoint": checkpoint, "step": restored.about.progress.step}
    return found._replace(about={**about, **found.about})


def rank(
    dataset: Dataset,
    *,
    config: Config,
    split: str = "test",
    protocol: str = "exposed",
    models: Mapping[str, Params] | None = None,
    simple: bool = True,
    nulls: int = 3,
    segments: Sequence[str] = (),
) -> Evaluation:
    """Ranks a held-out split of a data set; the result has the data set's fingerprint and user ids.

    Args:
      dataset: what to rank.
      config: of the models, and how the log is split and what is ranked.
      split: `valid` or `test`.
      protocol: `exposed`, `full` or `by_prefix`.
      models: parameters by the name for the report; None for the simple scorers alone.
      simple: whether the simple scorers are evaluated too.
      nulls: as in `evaluate`.
      segments: as in `evaluate`.

    Raises:
      ValueError: no such split or protocol, nobody has a target, or a score is NaN.
    """
    for option, value, choices in (("split", split, Splits._fields), ("protocol", protocol, protocols.PROTOCOLS)):
        if value not in choices:
            raise ValueError(f"{option}={value}: no such choice; choose one of {', '.join(choices)}")
    groups.check(segments, protocol=protocol, contexts=list(dataset.info.contexts))
    found = ranking.evaluate(
        dataset.log,
        config=settle_attention(config) if models else config,
        num_items=dataset.info.num_items,
        part=split,
        protocol=protocols.PROTOCOLS[protocol],
        models=models,
        simple=simple,
        law=law.load(dataset.path),
        nulls=nulls if simple and protocol == protocols.BY_PREFIX.name else 0,
    )
    apart = groups.of_task(dataset.log, found.task, segments, contexts=dataset.info.contexts)
    found = found._replace(segments=apart)
    return found._replace(about={"fingerprint": dataset.info.fingerprint}, user_ids=datasets.user_ids(dataset.path))


def settle_attention(config: Config) -> Config:
    """The configuration, with `model.attention=blocks` if the fused kernel would be used and does not work here."""
    fault = _attention_fault(config)
    if fault is None:
        return config
    _LOGGER.warning("attention is computed by matrix products, because the fused kernel does not work here: %s", fault)
    return configs.replace(config, {"model.attention": "blocks"})


def _attention_fault(config: Config) -> str | None:
    """Why the fused kernel does not work on these devices; None if it works or would not be used.

    The kernel is run here, so that nothing is run while a model is traced. Two widths with a difference of 2 are tried,
    because one of them is not a multiple of the kernel's tiles.
    """
    model = config.model
    heads, width, even = model.num_heads, model.dim // model.num_heads, max(model.max_len // 2 * 2, 2)
    usable = model.attention == "fused" or fused_attention.takes(even, width, model.dtype)
    if not (usable and forms_for(parallel.platform(), model.attention).fused_attention):
        return None
    faults = (fused_attention.fault(length, heads, width) for length in (even, max(even - 2, 2)))
    return next(filter(None, faults), None)


def identify(dataset: Dataset) -> dict[str, Any]:
    """What identifies the data set of a model."""
    info = dataset.info
    return {
        "path": str(Path(dataset.path).absolute()),
        "fingerprint": info.fingerprint,
        "vocabulary": info.vocabulary,
        "num_items": info.num_items,
        **({"contexts": info.contexts} if info.contexts else {}),
    }


def stopped(at: Position, *, config: Config) -> bool:
    """Whether to stop early: `patience` validations in a row did not improve."""
    return 0 < config.train.patience <= at.since_gain


def validated(at: Position, value: float, *, sure: bool = True) -> Position:
    """The position after one more validation; the highest value so far sets `since_gain` to 0.

    Args:
      at: before.
      value: of `train.metric`.
      sure: whether the state is surely better than the untrained one, if that ranks by what was counted. Until one is,
        the untrained state is the best: on a log that teaches no more, training would only add noise.
    """
    if at.highest is None or value > at.highest:
        at = dataclasses.replace(at, highest=value, since_gain=0)
    else:
        at = dataclasses.replace(at, since_gain=at.since_gain + 1)
    if at.best is None or (value > at.best and (sure or at.best_step != 0)):
        return dataclasses.replace(at, best=value, best_step=at.step)
    return at


def surely_ahead(values: np.ndarray, others: np.ndarray) -> bool:
    """Whether the mean over users of the first is above that of the second, at the 95 % level, paired."""
    differences = (values - others)[~np.isnan(values - others)]
    if len(differences) < 2:
        return False
    return bool(differences.mean() > SURE * differences.std(ddof=1) / math.sqrt(len(differences)))


def _untrained(setup: Setup, state: TrainState, at: Position, *, config: Config) -> np.ndarray | None:
    """The metric of each user by the untrained state, if that is the best so far and ranks by what was counted."""
    if at.best_step or config.model.item_bias_init != "counted":
        return None
    params = state.params if at.step == 0 else parallel.replicate(setup.initial().params)
    return setup.validate(params)[config.train.metric]


def _resumed(folder: Path, setup: Setup) -> tuple[TrainState, Position]:
    """The state of the newest intact checkpoint, or the first one, on all devices."""
    shapes = jax.eval_shape(setup.blank)
    found = checkpoints.resume(folder, shapes.params, (shapes.step, shapes.opt_state))
    if found is None:
        return parallel.replicate(setup.initial()), Position(step=0, epoch=0)
    params, (step, opt_state), about = found
    return parallel.replicate(TrainState(step, params, opt_state)), about.progress


def _epoch(
    setup: Setup,
    config: Config,
    state: TrainState,
    at: Position,
    metrics: workdir.Metrics,
    display: progress.Display,
    untrained: np.ndarray | None,
    *,
    stop: training.Stop,
) -> tuple[TrainState, Position]:
    """Trains an epoch, or what is left of it, and validates after it if that is due; it may stop at any step."""
    step, begin = at.step, time.monotonic()

    def receive(report: Report) -> None:
        nonlocal step
        for values in _per_step(report):
            step += 1
            _refuse_divergence(step, values, at)
            metrics.write(step, {"epoch": at.epoch, **values})
        count = len(report["loss"])
        terms = {name: float(np.mean(v)) for name, v in report.items() if not name.endswith("_norm")}
        display.advance(count, round(setup.users * count / setup.steps_per_epoch), terms)

    done = at.step - at.epoch * setup.steps_per_epoch
    state = setup.run_epoch(state, at.epoch, receive, begin=done, stop=stop)
    if step < (at.epoch + 1) * setup.steps_per_epoch:
        return state, dataclasses.replace(at, step=step)
    at = dataclasses.replace(at, step=step, epoch=at.epoch + 1)
    if at.epoch % config.train.eval_every and at.epoch < config.train.epochs:
        return state, at
    seconds = time.monotonic() - begin
    return state, _validated(setup, config, state, at, metrics, display, untrained, seconds=seconds)


def _validated(
    setup: Setup,
    config: Config,
    state: TrainState,
    at: Position,
    metrics: workdir.Metrics,
    display: progress.Display,
    untrained: np.ndarray | None,
    *,
    seconds: float | None = None,
) -> Position:
    """Validates, and records it with the seconds of the epoch before; None: no epoch was trained yet."""
    values = setup.validate(state.params)
    found = {f"valid/{name}": value for name, value in ranking.means(values).items() if math.isfinite(value)}
    name = f"valid/{config.train.metric}"
    if name not in found:
        raise ValueError(
            f"train.metric={config.train.metric}: it is not defined for any validation user; choose another"
        )
    sure = untrained is None or surely_ahead(values[config.train.metric], untrained)
    at = validated(at, found[name], sure=sure)
    if seconds is None:
        metrics.write(at.step, found)
        display.say(f"untrained  {name} {found[name]:.4f}")
        return at
    metrics.write(at.step, {"epoch": at.epoch - 1, **found, "seconds": seconds})
    best = f"{at.since_gain} without a gain" if at.since_gain else "not surely better than untrained"
    best = "best so far" if at.best_step == at.step else best
    display.say(f"epoch {at.epoch}  {name} {found[name]:.4f}  ({best})  {seconds:.1f} s")
    return at


def _is_due(at: Position, config: Config) -> bool:
    """Whether to save: at the asked interval, at a new best, and at the end."""
    ends = at.epoch == config.train.epochs or stopped(at, config=config)
    return ends or at.best_step == at.step or at.epoch % config.train.checkpoint_every == 0


def _per_step(report: Report) -> list[dict[str, float]]:
    return [dict(zip(report, map(float, values), strict=True)) for values in zip(*report.values(), strict=True)]


def _refuse_divergence(step: int, values: dict[str, float], at: Position) -> None:
    """Stops at the first value that is not finite; saved checkpoints stay."""
    if not all(map(math.isfinite, values.values())):
        shown = ", ".join(f"{name}={value:g}" for name, value in values.items())
        raise training.Diverged(
            f"step={step}: training diverged ({shown}), the checkpoints up to epoch {at.epoch} are kept; lower "
            "optimizer.learning_rate or set optimizer.clip_norm, in another workdir"
        )


def _summary(at: Position, config: Config) -> str:
    ended, why = "finished", "all epochs done"
    if stopped(at, config=config):
        ended, why = "stopped early", f"validation {config.train.metric} did not improve {at.since_gain} times in a row"
    best = "" if at.best is None else f"; best {config.train.metric} {at.best:.4f} at step {at.best_step}"
    if at.best_step == 0 and at.step:
        best += ", before training: no later state is surely better"
    return f"{ended} after epoch {at.epoch}, step {at.step}: {why}{best}"
