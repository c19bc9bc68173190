"""A network with its parameters as pure functions: initialise, apply, encode, score."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sine_jax import network
from sine_jax.config import Config, is_used
from sine_jax.layers.interests import relation_to_interests
from sine_jax.layers.scoring import Outputs
from sine_jax.losses import Mean
from sine_jax.network import Network, Pairs
from sine_jax.types import PAD, Array, Histories, Params, TrainBatch


class Shifted(NamedTuple):
    """The state of a network, and how much its user watches whatever is shown."""

    state: Any
    offset: Array  # [...], added to every score


def init(key: Array, config: Config, num_items: int) -> Params:
    """Draws parameters.

    Args:
      key: random key.
      config: the choices.
      num_items: N.

    Returns:
      A tree of float32 arrays; with learned loss weights, also `log_variances`, one per term.

    Raises:
      ValueError: there is no such network, or it wants skips that the configuration leaves out, or has no use for
        times, for padding that is not masked or for sub-interests where the configuration speaks of them.
    """
    kind = network.find(config.model.name)
    if kind.reads_skips and not config.model.read_skips:
        raise ValueError(f"model.name={config.model.name} reads skips: set model.read_skips")
    if config.model.read_times and not kind.reads_times:
        raise ValueError(f"model.name={config.model.name} has no use for times: leave model.read_times out")
    if not config.model.mask_padding and not kind.pads_with_zeros:
        raise ValueError(f"model.name={config.model.name} masks its padding: set model.mask_padding")
    nothing = jnp.zeros((1, config.model.max_len), jnp.int32)
    histories = Histories(nothing, nothing != PAD, nothing if config.model.read_times else None)
    found = _network(config, num_items).init(key, histories, num_skips=config.objective.num_skips, method="everything")
    params: dict[str, Any] = dict(found["params"])
    if "interests" not in params:
        for option, chosen in (
            ("model.active=filter", config.model.active == "filter"),
            ("objective.passive_form=best_interest", config.objective.passive_form == "best_interest"),
        ):
            if chosen:
                raise ValueError(f"{option} is of sub-interests, which model.name={config.model.name} has none of")
    if config.model.item_bias:
        params["item_bias"] = jnp.zeros(num_items + 1)
    if config.model.user_bias:
        params["user_bias"] = jnp.array([1.0, 0.0])
    if config.objective.weighting == "learned":
        learned = ["sampled", "passive"] + ["active"] * ("interests" in params and config.model.active == "learned")
        used = [term for term in learned if is_used(getattr(config.objective, term))]
        params["log_variances"] = {term: jnp.zeros(()) for term in used}
    return params


def packs(config: Config) -> bool:
    """Whether rows of training batches may hold several users: the network and the losses keep them apart."""
    return network.find(config.model.name).packs and config.objective.sampled_form != "full_softmax"


def apply(params: Params, batch: TrainBatch, config: Config, *, key: Array | None = None) -> Outputs:
    """Runs the network over a training batch.

    Args:
      params: of `init`.
      batch: windows of width T; only the released filter, which there is in training alone, looks at the targets.
      config: the choices.
      key: for dropout; None runs without.

    Returns:
      Outputs at every position [B, T].
    """
    active = jnp.argmax(active_relation(params, batch), axis=-1) if config.model.active == "filter" else None
    return _run(params, batch.histories, active, config, key=key)


def active_relation(params: Params, batch: TrainBatch) -> Array:
    """How much each sub-interest speaks for a batch's watched items and against their nearest skips, [B, T, K]."""
    table, skips = params["item_embedding"], batch.skips[..., 0]
    return relation_to_interests(params["interests"], table[batch.positives], table[skips], skipped=skips != PAD)


def auxiliary(params: Params, outputs: Outputs, batch: TrainBatch, config: Config) -> dict[str, Mean]:
    """The terms that the network has of its own, over a batch that `apply` gave `outputs` for."""
    pairs = Pairs(
        positives=embed(params, batch.positives, config),
        skips=embed(params, batch.skips, config),
        has_target=batch.positives != PAD,
        skipped=batch.skips != PAD,
    )
    if isinstance(outputs.state, Shifted):
        outputs = outputs._replace(state=outputs.state.state)
    terms: Any = _of(params, config).apply({"params": params}, outputs, pairs, method="auxiliary")
    return dict(terms)


def encode(params: Params, histories: Histories, config: Config) -> Any:
    """Reads each history once; what is returned scores any number of items.

    Args:
      params: of `init`.
      histories: [B, T] windows, left-padded.
      config: the choices.

    Returns:
      The state after the last exposure, leading axis B.
    """
    return jax.tree.map(lambda x: x[:, -1], _run(params, histories, None, config, key=None).state)


def score_candidates(params: Params, state: Any, candidates: Array, config: Config) -> Array:
    """Scores candidates [..., C] of each state [...], such as each user's [B, C]; returns [..., C] float32."""
    scores = _score(params, state, embed(params, candidates, config), config)
    return scores + params["item_bias"][candidates] if "item_bias" in params else scores


def score_items(params: Params, state: Any, items: Array, config: Config) -> Array:
    """Scores the same items [C] for every state [...], such as each user's [B]; returns [..., C] float32."""
    scores = _score(params, state, embed(params, items, config), config)
    if "item_bias" not in params:
        return scores
    return scores + params["item_bias"][items].reshape((1,) * (scores.ndim - 1) + items.shape)


def score(params: Params, histories: Histories, candidates: Array, config: Config) -> Array:
    """Scores each user's candidates.

    Args:
      params: of `init`.
      histories: [B, T] windows, left-padded.
      candidates: [B, C] items.
      config: the choices.

    Returns:
      [B, C] raw scores, float32.
    """
    return score_candidates(params, encode(params, histories, config), candidates, config)


def user_vectors(params: Params, histories: Histories, config: Config) -> Array:
    """One vector per user whose inner product with `item_embedding` is the score, for nearest-neighbour search.

    An item bias and a user's offset are not in it: add `item_bias` to the products; the offset does not change ranks.

    Args:
      params: of `init`.
      histories: [B, T] windows, left-padded.
      config: the choices; the network must score by one vector per user.

    Returns:
      [B, D].

    Raises:
      ValueError: for a network whose vectors depend on the candidate.
    """
    state = encode(params, histories, config)
    state = state.state if isinstance(state, Shifted) else state
    if type(_of(params, config)).score is not Network.score or state.keys is not None:
        raise ValueError(
            "what the candidate takes part in has no user vector: for retrieval train a network that scores by one, "
            "such as model.name=sine with model.fusion=collapsed"
        )
    return state.vectors[:, 0]


def embed(params: Params, items: Array, config: Config) -> Array:
    """Embeddings of items [...] in the compute type, [..., D]."""
    return params["item_embedding"][items].astype(config.model.dtype)


def _network(config: Config, num_items: int) -> Network:
    return network.find(config.model.name)(config.model, num_items)


def _of(params: Params, config: Config) -> Network:
    """The network that parameters belong to."""
    return _network(config, params["item_embedding"].shape[0] - 1)


def _run(params: Params, histories: Histories, active: Array | None, config: Config, *, key: Array | None) -> Outputs:
    if config.model.read_times and histories.times is None:
        raise ValueError("model.read_times wants histories with times")
    rngs = None if key is None else {"dropout": key}
    outputs: Any = _of(params, config).apply(
        {"params": params}, histories, active, deterministic=key is None, rngs=rngs
    )
    if "user_bias" in params:
        weight, bias = params["user_bias"]
        offset = weight * _log_odds_of_watching(histories) + bias
        outputs = outputs._replace(state=Shifted(outputs.state, offset))
    return outputs


def _log_odds_of_watching(histories: Histories) -> Array:
    """[B, T] log-odds of the watched share of what was read so far, one watched and one skipped added."""
    begin = jnp.arange(histories.items.shape[1])[None, :] - network.places(histories).rank

    def number(where: Array) -> Array:
        before = jnp.pad(jnp.cumsum(where, axis=1), ((0, 0), (1, 0)))
        return before[:, 1:] - jnp.take_along_axis(before, begin, axis=1)

    watched, skipped = number(histories.watched), number((histories.items != PAD) & ~histories.watched)
    return jnp.log(watched + 1.0) - jnp.log(skipped + 1.0)


def _score(params: Params, state: Any, embeddings: Array, config: Config) -> Array:
    if isinstance(state, Shifted):
        return _score(params, state.state, embeddings, config) + state.offset[..., None]
    scores: Any = _of(params, config).apply({"params": params}, state, embeddings, method="score")
    return scores
