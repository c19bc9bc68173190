"""SINE: embed, attend, read sub-interests, fuse, score."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sine_jax.attention import Block, layer_norm, xavier_normal
from sine_jax.config import Config, ModelConfig
from sine_jax.dropout import Dropout
from sine_jax.interests import (
    ActiveInterest,
    Fusion,
    UserState,
    read_interests,
    relation_to_interests,
    score_items_of,
    score_shared_items,
)
from sine_jax.types import PAD, Array, Histories, Params, TrainBatch


class Outputs(NamedTuple):
    """What the model says after each exposure."""

    state: UserState  # leading axes [B, T]
    interests: Array  # [B, T, K, D] the sub-interest states H
    log_active: Array | None  # [B, T, K] log-probabilities of the active sub-interest, where they are learned


class SINE(nn.Module):
    """The network, at every position of a window.

    The tables of items and sub-interests are its parameters `item_embedding` [N + 1, D] and `interests` [K, D].

    Attributes:
      config: the choices.
      num_items: N.
    """

    config: ModelConfig
    num_items: int

    @nn.compact
    def __call__(self, histories: Histories, active: Array | None, *, deterministic: bool) -> Outputs:
        """Reads windows of exposures.

        Args:
          histories: items and polarities [B, T]; T may be any width up to `config.max_len`.
          active: [B, T] the active sub-interest of each position's target, for the released filter; else None.
          deterministic: True for no dropout.

        Returns:
          The outputs at every position; those of padding mean nothing.
        """
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        width, valid = histories.items.shape[-1], histories.items != PAD
        table = self.param("item_embedding", xavier_normal, (self.num_items + 1, config.dim))
        interests = self.param("interests", xavier_normal, (config.num_interests, config.dim)).astype(dtype)
        positions = self.param("position_embedding", xavier_normal, (config.max_len, config.dim))

        columns = _position_columns(valid, config)
        x = math.sqrt(config.dim) * table[histories.items] + positions[columns]
        if config.read_skips:
            polarity = self.param("polarity_embedding", xavier_normal, (2, config.dim))
            x = x + polarity[histories.watched.astype(jnp.int32)]
        x = Dropout(config.dropout)(x.astype(dtype), deterministic=deterministic) * valid[..., None]

        emphasis = None
        if active is not None:
            first = jnp.argmax(table[histories.items[:, 0]] @ interests.T, axis=-1)
            of_keys = jnp.concatenate([first[:, None], active[:, :-1]], axis=1)
            emphasis = jnp.where(of_keys[:, None, :] == active[:, :, None], config.filter_strength, 1.0)
        where = jnp.tril(jnp.ones((1, width, width), bool))
        if config.mask_padding:
            where = where & valid[:, None, :]
        bias_init = _fan_in_uniform(config.dim) if config.bias_init == "uniform" else nn.initializers.zeros
        for i in range(config.num_blocks):
            x = Block(config.num_heads, config.dropout, config.norm_eps, bias_init, dtype, name=f"block_{i}")(
                x,
                valid=valid,
                where=where,
                zero_keys=0 if config.mask_padding else config.max_len - width,
                emphasis=emphasis,
                deterministic=deterministic,
            )
        states = layer_norm(config.norm_eps, dtype, "final_norm")(x)

        vectors = read_interests(states, interests)
        log_active = ActiveInterest(dtype, name="active")(states, interests) if config.active == "learned" else None
        if config.fusion == "sum":
            return Outputs(_summed(vectors, log_active), vectors, log_active)
        fusion = Fusion(config.fusion == "candidate_aware", dtype, name="fusion")
        return Outputs(fusion(vectors, log_active), vectors, log_active)


def init(key: Array, config: Config, num_items: int) -> Params:
    """Draws parameters.

    Args:
      key: random key.
      config: the choices.
      num_items: N.

    Returns:
      A tree of float32 arrays; with learned loss weights, also `log_variances`, one per term.
    """
    nothing = Histories(jnp.zeros((1, config.model.max_len), jnp.int32), jnp.zeros((1, config.model.max_len), bool))
    params = dict(SINE(config.model, num_items).init(key, nothing, None, deterministic=True)["params"])
    if config.objective.weighting == "learned":
        learned = ["sampled", "passive"] + ["active"] * (config.model.active == "learned")
        params["log_variances"] = {term: jnp.zeros(()) for term in learned}
    return params


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


def encode(params: Params, histories: Histories, config: Config) -> UserState:
    """Reads each history once; what is returned scores any number of items.

    Args:
      params: of `init`.
      histories: [B, T] windows, left-padded.
      config: the choices.

    Returns:
      The state after the last exposure, leading axis B.
    """
    return jax.tree.map(lambda x: x[:, -1], _run(params, histories, None, config, key=None).state)


def score_candidates(params: Params, state: UserState, candidates: Array, config: Config) -> Array:
    """Scores candidates [B, C] of each user's state; returns [B, C] float32."""
    return score_items_of(state, embed(params, candidates, config))


def score_items(params: Params, state: UserState, items: Array, config: Config) -> Array:
    """Scores the same items [C] for every user; returns [B, C] float32."""
    return score_shared_items(state, embed(params, items, config))


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

    Args:
      params: of `init`.
      histories: [B, T] windows, left-padded.
      config: the choices; `model.fusion` must not be `candidate_aware`, which has no such vector.

    Returns:
      [B, D].

    Raises:
      ValueError: for a candidate-aware fusion.
    """
    if config.model.fusion == "candidate_aware":
        raise ValueError("a candidate-aware fusion has no user vector: train with model.fusion=collapsed for retrieval")
    return encode(params, histories, config).vectors[:, 0]


def embed(params: Params, items: Array, config: Config) -> Array:
    """Embeddings of items [...] in the compute type, [..., D]."""
    return params["item_embedding"][items].astype(config.model.dtype)


def _run(params: Params, histories: Histories, active: Array | None, config: Config, *, key: Array | None) -> Outputs:
    module = SINE(config.model, params["item_embedding"].shape[0] - 1)
    rngs = None if key is None else {"dropout": key}
    outputs: Any = module.apply({"params": params}, histories, active, deterministic=key is None, rngs=rngs)
    return outputs


def _position_columns(valid: Array, config: ModelConfig) -> Array:
    """The row of the position table that each column reads, [B or 1, T]."""
    width = valid.shape[-1]
    if config.positions == "column":
        return jnp.arange(config.max_len - width, config.max_len)[None, :]
    return jnp.maximum(jnp.cumsum(valid, axis=-1) - 1, 0)


def _summed(vectors: Array, log_active: Array | None) -> UserState:
    """All sub-interests at once, weighed by how likely each is active where that is known."""
    if log_active is None:
        return UserState(jnp.sum(vectors, axis=-2, keepdims=True), None, None)
    weights = jnp.exp(log_active).astype(vectors.dtype)
    return UserState(jnp.einsum("...k,...kd->...d", weights, vectors)[..., None, :], None, None)


@functools.cache
def _fan_in_uniform(fan_in: int) -> nn.initializers.Initializer:
    """Uniform within +-1/sqrt(fan_in), the first biases of the released feed-forward layers."""
    bound = 1 / math.sqrt(fan_in)

    def draw(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw
