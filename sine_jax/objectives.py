"""The joint objective: terms over pairs, weighed and named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sine_jax import losses, model
from sine_jax.config import Config, is_used, parse_weight
from sine_jax.losses import Mean
from sine_jax.types import PAD, Array, Params, TrainBatch


def objective(
    params: Params,
    batches: TrainBatch | Sequence[TrainBatch],
    key: Array | None,
    config: Config,
    *,
    step: Array | int = 0,
    axis_name: str | None = None,
    num_items: int | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Watched over sampled, watched over skipped, and what keeps the sub-interests apart and told apart.

    Args:
      params: of `model.init`.
      batches: one batch, or batches of different widths that count as one: a mean is over the pairs of all of them.
      key: for dropout; None runs without.
      config: the choices.
      step: for weights that follow a schedule.
      axis_name: device axis, if any; `pmean` of what is returned is then the value over all devices.
      num_items: N, where the tables of `params` hold a part of the catalogue (`sparse`); else they tell it.

    Returns:
      The loss [] and its terms [] by name, unweighted. A term whose weight is 0 throughout is left out.
    """
    parts = (batches,) if isinstance(batches, TrainBatch) else tuple(batches)
    num_items = params["item_embedding"].shape[0] - 1 if num_items is None else num_items
    means: dict[str, list[Mean]] = {}
    for i, batch in enumerate(parts):
        for name, part in _pair_terms(
            params, batch, None if key is None else jax.random.fold_in(key, i), config, num_items=num_items
        ).items():
            means.setdefault(name, []).append(part)
    terms = {name: losses.mean(parts, axis_name=axis_name) for name, parts in means.items()}
    terms |= _parameter_terms(params, config)
    loss = jnp.zeros(())
    for name, value in terms.items():
        spec = getattr(
            config.objective, name, config.objective.auxiliary
        )  # a network's own terms have names of their own
        loss = loss + weight(spec, step) * _uncertain(params, name, value)
    return loss, terms


def weight(spec: float | str, step: Array | int) -> Array | float:
    """The weight [] that a specification (see `config.parse_weight`) gives after `step` steps."""
    kind, start, end, steps = parse_weight(spec)
    if kind == "constant":
        return start
    shape = {"linear": optax.linear_schedule(0.0, 1.0, steps), "cosine": _cosine(steps)}[kind]
    return start + (end - start) * shape(step)


def _cosine(steps: int) -> optax.Schedule:
    decay = optax.cosine_decay_schedule(1.0, steps)
    return lambda step: 1.0 - decay(step)


def _pair_terms(
    params: Params, batch: TrainBatch, key: Array | None, config: Config, *, num_items: int
) -> dict[str, Mean]:
    """The terms over pairs of items, as undivided means."""
    objective = config.objective
    outputs = model.apply(params, batch, config, key=key)
    num_negatives = batch.negatives.shape[-1]
    items = jnp.concatenate([batch.positives[..., None], batch.negatives, batch.skips], axis=-1)
    scores = model.score_candidates(params, outputs.state, items, config)  # [B, T, 1 + M + S]
    watched, sampled, skipped = jnp.split(scores, [1, 1 + num_negatives], axis=-1)
    has_target = (batch.positives != PAD)[..., None]
    pairs = has_target & (batch.skips != PAD)

    terms = {}
    if is_used(objective.sampled):
        terms["sampled"] = _over_sampled(params, batch, outputs.state, watched, sampled, config, num_items)
    if is_used(objective.passive):
        if objective.passive_form == "best_interest":
            embeddings = model.embed(params, items, config)
            relations = jnp.einsum("btkd,btcd->btkc", outputs.interests, embeddings, preferred_element_type=jnp.float32)
            margins = jnp.max(relations[..., :1] - relations[..., 1 + num_negatives :], axis=-2)
            terms["passive"] = losses.preference_loss(margins, jnp.zeros_like(margins), where=pairs)
        else:
            terms["passive"] = losses.preference_loss(watched, skipped, where=pairs)
    if is_used(objective.pointwise):
        has_item = jnp.concatenate([has_target, pairs], axis=-1)
        logits = jnp.concatenate([watched, skipped], axis=-1)
        labels = jnp.arange(logits.shape[-1]) == 0
        terms["pointwise"] = losses.watch_probability_loss(
            logits, jnp.broadcast_to(labels[None, None], logits.shape), where=has_item
        )
    if is_used(objective.auxiliary):
        terms |= model.auxiliary(params, outputs, batch, config)
    if outputs.log_active is not None and is_used(objective.active):
        relation = model.active_relation(params, batch)
        if objective.active_target == "soft":
            target = jax.nn.softmax(relation, axis=-1)
        else:
            target = jax.nn.one_hot(jnp.argmax(relation, axis=-1), relation.shape[-1])
        terms["active"] = losses.cross_entropy(outputs.log_active, target, where=has_target[..., 0])
    return terms


def _over_sampled(
    params: Params, batch: TrainBatch, state: Any, watched: Array, sampled: Array, config: Config, num_items: int
) -> Mean:
    """Watched [B, T, 1] over sampled [B, T, M], in the form that the configuration names."""
    form, where = config.objective.sampled_form, (batch.positives != PAD)[..., None] & (batch.negatives != PAD)
    if form == "softmax":
        if batch.log_chances is None:
            raise ValueError("sampled_form=softmax wants batches with log_chances, the chances of their negatives")
        return losses.sampled_softmax_loss(watched, sampled, batch.log_chances, where=where)
    if form == "gbce":
        beta = losses.gbce_beta(num_negatives=sampled.shape[-1], num_items=num_items, t=config.objective.gbce_t)
        return losses.gbce_loss(watched, sampled, beta=beta, where=where)
    if form == "full_softmax":
        return _over_catalogue(params, batch, state, watched[..., 0], config, num_items=num_items)
    return losses.preference_loss(watched, sampled, where=where)


CHUNK = 1024  # items of the catalogue scored at once by the full softmax


def _over_catalogue(
    params: Params, batch: TrainBatch, state: Any, watched: Array, config: Config, *, num_items: int
) -> Mean:
    """Cross-entropy [B, T] of the watched item in the catalogue, less what else the user watched in the window.

    The catalogue is scored in chunks, again in the backward pass: scores of all of it are never held at once.
    """
    size = min(CHUNK, num_items)
    rows = jnp.arange(len(batch.users))[:, None]
    # The first item of a window is no position's target.
    own = jnp.concatenate([batch.positives, jnp.where(batch.watched, batch.items, PAD)], axis=1)

    @jax.checkpoint
    def add(total: Array, chunk: Array) -> tuple[Array, None]:
        items = 1 + chunk * size + jnp.arange(size)
        scores = model.score_items(params, state, jnp.minimum(items, num_items), config)  # [B, T, C]
        place = own - 1 - chunk * size
        outside = jnp.where(place < 0, size, place)  # a negative index would count from the end
        allowed = jnp.broadcast_to((items <= num_items)[None], (len(batch.users), size))
        allowed = allowed.at[rows, outside].set(False, mode="drop")
        part = jax.nn.logsumexp(jnp.where(allowed[:, None], scores, -jnp.inf), axis=-1)
        return jnp.logaddexp(total, part), None

    total, _ = jax.lax.scan(add, watched, jnp.arange(-(-num_items // size)))
    return losses.masked(total - watched, where=batch.positives != PAD)


def _parameter_terms(params: Params, config: Config) -> dict[str, Array]:
    """The terms that look at parameters alone."""
    terms = {}
    if is_used(config.objective.dcor) and "interests" in params:
        terms["dcor"] = losses.total_distance_correlation(params["interests"])
    if is_used(config.objective.l2):
        squared = jnp.sum(jnp.square(params["item_embedding"]))
        terms["l2"] = jnp.sqrt(squared) if config.objective.l2_form == "norm" else squared
    return terms


def _uncertain(params: Params, name: str, value: Array) -> Array:
    """A term weighed by its learned uncertainty, `exp(-s) L + s / 2`, where it has one.

    References:
      Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and
      Semantics", CVPR 2018, arXiv 1705.07115.
    """
    log_variance = params.get("log_variances", {}).get(name)
    return value if log_variance is None else jnp.exp(-log_variance) * value + 0.5 * log_variance
