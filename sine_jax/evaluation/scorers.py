"""Models and simple scorers behind one interface, for evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from sine_jax.evaluation.simple_scorers import Biases, Factors
from sine_jax.model import Model
from sine_jax.types import AnyArray, Array, Histories

State = Any


class Scorer(NamedTuple):
    """Pure functions from parameters and histories to raw scores.

    Parameters are an argument of each, so a compiled function works for all parameters of one structure. What is known
    of users is there by the places of a `candidates.Population`. A place of -1 is a filler; its scores are not used.
    """

    encode: Callable[[Any, AnyArray, Histories], State]  # params, places [B], histories [B, T] -> state, leading axis B
    # params, state, candidates [B, C], contexts [B, C, X] = None -> [B, C]
    score_candidates: Callable[..., Array]
    score_items: Callable[[Any, State, Array], Array]  # params, state, items [C] -> [B, C]


def of_model(model: Model, *, offset: bool = True) -> Scorer:
    """A model; parameters are those of `Model.init`.

    Args:
      model: of `build_model`.
      offset: whether scores have the user's offset (`model.user_bias`), which changes no rank among candidates that are
        scored at one place.
    """

    def encode(params: Any, places: AnyArray, histories: Histories) -> State:
        read = model.encode(params, histories)
        return read if offset else read._replace(offset=None)

    return Scorer(
        encode=encode,
        score_candidates=model.score,
        score_items=model.score_items,
    )


def of_biases() -> Scorer:
    """A sum of a user's, an item's and the contexts' values; parameters are `simple_scorers.Biases`."""

    def encode(params: Biases, places: AnyArray, histories: Histories) -> Array:
        return params.users[places]

    def score_candidates(params: Biases, state: Array, candidates: AnyArray, contexts: AnyArray | None = None) -> Array:
        scores = state[:, None] + params.items[candidates]
        if params.contexts is None or contexts is None:
            return scores
        return scores + jnp.sum(params.contexts[contexts], axis=-1)

    return Scorer(
        encode=encode,
        score_candidates=score_candidates,
        score_items=lambda params, state, items: state[:, None] + params.items[items][None, :],
    )


def of_factors() -> Scorer:
    """Matrix factorisation; parameters are `simple_scorers.Factors`."""

    def encode(params: Factors, places: AnyArray, histories: Histories) -> tuple[Array, Array]:
        return params.users[places], params.biases.users[places]

    def score_items(params: Factors, state: tuple[Array, Array], items: Array) -> Array:
        return state[0] @ params.items[items].T + state[1][:, None] + params.biases.items[items][None, :]

    def score_candidates(
        params: Factors, state: tuple[Array, Array], candidates: AnyArray, contexts: AnyArray | None = None
    ) -> Array:
        products = jnp.einsum("bd,bcd->bc", state[0], params.items[candidates])
        return products + state[1][:, None] + params.biases.items[candidates]

    return Scorer(encode, score_candidates, score_items)


def at_random() -> Scorer:
    """Noise that depends on place and item alone; the parameter is a seed [] of type uint32."""
    return Scorer(
        encode=lambda params, places, histories: _mixed(jnp.asarray(places, jnp.uint32) ^ params),
        score_candidates=lambda params, state, candidates, contexts=None: _noise(state[:, None], candidates),
        score_items=lambda params, state, items: _noise(state[:, None], items[None, :]),
    )


def _noise(users: Array, items: AnyArray) -> Array:
    """Uniform log-odds-like values in [-1, 1)."""
    bits = _mixed(users ^ _mixed(jnp.asarray(items, jnp.uint32) + jnp.uint32(0x9E3779B9)))
    return (bits >> 8).astype(jnp.float32) / (1 << 23) - 1


def _mixed(x: Array) -> Array:
    """A hash of 32 bits; each of them depends on every input bit.

    References:
      The finaliser of MurmurHash3 (Appleby, public domain).
    """
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 16)
