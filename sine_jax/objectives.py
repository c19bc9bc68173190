"""The joint objective: the weighted sum of named terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sine_jax import losses
from sine_jax.config import TERMS, Config, differences, is_used, parse_weight
from sine_jax.layers.scoring import Chunk, over_catalogue
from sine_jax.losses import Mean
from sine_jax.model import Model, Read, active_relation, embed, of_contexts
from sine_jax.types import PAD, Array, Params, TrainBatch


def init(params: Params, *, config: Config) -> Params:
    """Adds the objective's own parameters to those of a model.

    Args:
      params: of `Model.init`.
      config: the choices.

    Returns:
      The parameters; with `objective.weighting=learned` also `log_variances`, one [] per term.

    Raises:
      ValueError: the objective compares sub-interests, and the network has none.
    """
    if config.objective.passive_form == "best_interest" and "interests" not in params:
        raise ValueError(
            f"objective.passive_form=best_interest: model.name={config.model.name} has no sub-interests; use "
            "objective.passive_form=score"
        )
    if config.objective.weighting != "learned":
        return params
    learned = ["sampled", "passive"] + ["active"] * ("interests" in params and config.model.active == "learned")
    used = [term for term in learned if is_used(getattr(config.objective, term))]
    return {**params, "log_variances": {term: jnp.zeros(()) for term in used}}


def objective(
    params: Params,
    batches: TrainBatch | Sequence[TrainBatch],
    key: Array | None,
    *,
    config: Config,
    model: Model,
    step: Array | int = 0,
    axis_name: str | None = None,
) -> tuple[Array, dict[str, Array]]:
    """The loss of a step: watched over sampled, watched over skipped, and terms about the sub-interests.

    Args:
      params: of `init`, or of `Model.init` where no weight is learned.
      batches: one batch, or batches of different widths that count as one; a mean is over the pairs of all of them.
      key: for dropout; None means no dropout.
      config: the choices.
      model: of `build_model(config.model, num_items=N)`.
      step: [] for weights that follow a schedule.
      axis_name: device axis, if any; the `pmean` of loss and terms is then their value over all devices.

    Returns:
      The loss [] and its terms [] by name, unweighted. A term whose weight is always 0 is left out.

    Raises:
      ValueError: the model is of another configuration.
    """
    if model.config != config.model:
        changed = differences(config, dataclasses.replace(config, model=model.config))
        told = [f"{name}={there} in the model and {here} in the config" for name, (here, there) in changed.items()]
        raise ValueError(f"{', '.join(told)}; make the model by build_model(config.model, num_items=N)")
    parts = (batches,) if isinstance(batches, TrainBatch) else tuple(batches)
    means: dict[str, list[Mean]] = {}
    for i, batch in enumerate(parts):
        of_part = None if key is None else jax.random.fold_in(key, i)
        for name, part in _pair_terms(params, batch, of_part, config=config, model=model).items():
            means.setdefault(name, []).append(part)
    terms = {name: losses.mean(parts, axis_name=axis_name) for name, parts in means.items()}
    terms |= _parameter_terms(params, config)
    loss = jnp.zeros(())
    for name, value in terms.items():
        spec = getattr(config.objective, name) if name in TERMS else config.objective.auxiliary
        loss = loss + weight(spec, step) * _uncertain(params, name, value)
    return loss, terms


def weight(spec: float | str, step: Array | int) -> Array | float:
    """The weight [] that a specification (see `config.parse_weight`) gives after `step` steps."""
    kind, start, end, steps = parse_weight(spec)
    return start if kind not in SHAPES else start + (end - start) * SHAPES[kind](steps)(step)


def _cosine(steps: int) -> optax.Schedule:
    decay = optax.cosine_decay_schedule(1.0, steps)
    return lambda step: 1.0 - decay(step)


SHAPES: Mapping[str, Callable[[int], optax.Schedule]] = {
    "linear": lambda steps: optax.linear_schedule(0.0, 1.0, steps),
    "cosine": _cosine,
}  # from 0 to 1, by the kind of a weight; a constant weight has none


class Scored(NamedTuple):
    """A batch with its scores, which the terms over pairs are computed from."""

    params: Params
    batch: TrainBatch
    read: Read  # [B, T]
    positive_scores: Array  # [B, T, 1]
    sampled_scores: Array  # [B, T, M]
    skipped_scores: Array  # [B, T, S]
    sampled_pairs: Array  # [B, T, M] bool
    skipped_pairs: Array  # [B, T, S] bool
    config: Config
    model: Model


def _pair_terms(
    params: Params, batch: TrainBatch, key: Array | None, *, config: Config, model: Model
) -> dict[str, Mean]:
    """The terms over pairs of items, as sums and counts."""
    objective, num_negatives = config.objective, batch.negatives.shape[-1]
    read = model.apply(params, batch, key=key)
    scores = model.score(params, read, batch.candidates, batch.contexts)  # [B, T, 1 + M + S]
    positive, sampled, skipped = jnp.split(scores, [1, 1 + num_negatives], axis=-1)
    sampled_pairs, skipped_pairs = jnp.split(batch.pairs, [num_negatives], axis=-1)
    scored = Scored(
        params,
        batch,
        read,
        positive_scores=positive,
        sampled_scores=sampled,
        skipped_scores=skipped,
        sampled_pairs=sampled_pairs,
        skipped_pairs=skipped_pairs,
        config=config,
        model=model,
    )
    terms = {}
    if is_used(objective.sampled):
        terms["sampled"] = SAMPLED[objective.sampled_form](scored)
    if is_used(objective.passive):
        terms["passive"] = PASSIVE[objective.passive_form](scored)
    if is_used(objective.pointwise):
        terms["pointwise"] = _pointwise(scored)
    if is_used(objective.auxiliary):
        terms |= model.auxiliary(params, read, batch)
    if read.log_active is not None and is_used(objective.active):
        target = ACTIVE_TARGETS[objective.active_target](active_relation(params, batch))
        terms["active"] = losses.cross_entropy(read.log_active, target, where=batch.has_target)
    return terms


def _passive_by_score(scored: Scored) -> Mean:
    """Watched over skipped, by their scores."""
    return losses.preference_loss(scored.positive_scores, scored.skipped_scores, where=scored.skipped_pairs)


def _passive_by_best_interest(scored: Scored) -> Mean:
    """Watched over skipped, by the sub-interest with the largest margin."""
    num_negatives = scored.sampled_scores.shape[-1]
    embeddings = embed(scored.params, scored.batch.candidates, dtype=scored.config.model.dtype)
    relations = jnp.einsum("btkd,btcd->btkc", scored.read.interests, embeddings, preferred_element_type=jnp.float32)
    margins = jnp.max(relations[..., :1] - relations[..., 1 + num_negatives :], axis=-2)
    return losses.preference_loss(margins, jnp.zeros_like(margins), where=scored.skipped_pairs)


def _pointwise(scored: Scored) -> Mean:
    """The logistic loss of watching, over the positive and its skips."""
    has_item = jnp.concatenate([scored.batch.has_target[..., None], scored.skipped_pairs], axis=-1)
    logits = jnp.concatenate([scored.positive_scores, scored.skipped_scores], axis=-1)
    labels = jnp.arange(logits.shape[-1]) == 0
    return losses.watch_probability_loss(logits, jnp.broadcast_to(labels[None, None], logits.shape), where=has_item)


def _sampled_bpr(scored: Scored) -> Mean:
    return losses.preference_loss(scored.positive_scores, scored.sampled_scores, where=scored.sampled_pairs)


def _sampled_softmax(scored: Scored) -> Mean:
    log_chances = scored.batch.log_chances
    if log_chances is None:
        raise ValueError(
            "objective.sampled_form=softmax: the batch has log_chances=None; make it with this same configuration"
        )
    return losses.sampled_softmax_loss(
        scored.positive_scores, scored.sampled_scores, log_chances, where=scored.sampled_pairs
    )


def _sampled_gbce(scored: Scored) -> Mean:
    beta = losses.gbce_beta(
        num_negatives=scored.sampled_scores.shape[-1],
        num_items=scored.model.num_items,
        t=scored.config.objective.gbce_t,
    )
    return losses.gbce_loss(scored.positive_scores, scored.sampled_scores, beta=beta, where=scored.sampled_pairs)


CHUNK = 1024  # items scored at once by the full softmax; a choice: B T CHUNK floats are in memory


def _full_softmax(scored: Scored) -> Mean:
    """Cross-entropy [B, T] of the watched item in the catalogue without the user's other watched items in the window.

    The catalogue is scored in chunks, and once more in the backward pass, so its scores are never all in memory.
    """
    batch, positive_scores = scored.batch, scored.positive_scores[..., 0]
    if batch.shown_in is not None:  # all items would be shown in the same context
        positive_scores = positive_scores - of_contexts(scored.params, batch.shown_in[..., 0, :])
    # The first item of a window is not a target, so it is taken from what was read.
    own = jnp.concatenate([batch.positives, jnp.where(batch.watched, batch.items, PAD)], axis=1)

    def add(total: Array, chunk: Chunk) -> Array:
        scores = scored.model.score_items(scored.params, scored.read, chunk.items)  # [B, T, C]
        part = jax.nn.logsumexp(jnp.where(chunk.without(own)[:, None], scores, -jnp.inf), axis=-1)
        return jnp.logaddexp(total, part)

    total = over_catalogue(add, positive_scores, num_items=scored.model.num_items, size=CHUNK, recompute=True)
    return losses.masked(total - positive_scores, where=batch.has_target)


# The function that each value of an option selects.
Term = Callable[[Scored], Mean]
SAMPLED: Mapping[str, Term] = {
    "bpr": _sampled_bpr,
    "softmax": _sampled_softmax,
    "gbce": _sampled_gbce,
    "full_softmax": _full_softmax,
}
PASSIVE: Mapping[str, Term] = {"score": _passive_by_score, "best_interest": _passive_by_best_interest}
ACTIVE_TARGETS: Mapping[str, Callable[[Array], Array]] = {
    "hard": lambda relation: jax.nn.one_hot(jnp.argmax(relation, axis=-1), relation.shape[-1]),
    "soft": lambda relation: jax.nn.softmax(relation, axis=-1),
}
PENALTIES: Mapping[str, Callable[[Array], Array]] = {"norm": jnp.sqrt, "squared": lambda squared: squared}


def _parameter_terms(params: Params, config: Config) -> dict[str, Array]:
    """The terms of parameters alone."""
    terms = {}
    if is_used(config.objective.dcor) and "interests" in params:
        terms["dcor"] = losses.total_distance_correlation(params["interests"])
    if is_used(config.objective.l2):
        squared = jnp.sum(jnp.square(params["item_embedding"]))
        terms["l2"] = PENALTIES[config.objective.l2_form](squared)
    return terms


def _uncertain(params: Params, name: str, value: Array) -> Array:
    """A term weighted by its learned uncertainty, `exp(-s) L + s / 2`, if it has one.

    References:
      Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
      Semantics", CVPR 2018, arXiv 1705.07115.
    """
    log_variance = params.get("log_variances", {}).get(name)
    return value if log_variance is None else jnp.exp(-log_variance) * value + 0.5 * log_variance
