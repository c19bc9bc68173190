"""The signed kernel: what was watched raises items like it, what was skipped lowers them, and both fade.

With a factor `V_v` of every item, the memory of a user after exposure t and the term that it adds to a score are

    u_t = sum over read exposures s <= t of  sum over r of  w[f_s, r] * decay[f_s, r]^(t - s) * V[item_s]
    score_t(v) += <u_t, V_v>

where `f_s` is the feedback (skipped or watched) and r counts a few decays per feedback. The directions of the factors
are sub-interests. A watched video raises the one that is active and a skipped video lowers it, so this is the idea of
SINE with a sign and a memory. It is linear attention with decays, so it has two forms that agree: `read` over whole
windows, in chunks, and `update` by one event in constant time. One vector per user still ranks the whole catalogue.

References:
  Katharopoulos, Vyas, Pappas and Fleuret, "Transformers are RNNs", ICML 2020, arXiv 2006.16236; with decays, Sun et
  al., "Retentive Network", 2023, arXiv 2307.08621.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from sine_jax.types import AnyArray, Array

DECAYS = (0.5, 0.8, 0.95)  # first values, per exposure
CHUNK = 32  # exposures of a chunk; within it every pair is computed
SCALE = 10.0  # stored weights are divided by this, so that Adam's steps move them as fast as they need

Kernel = Mapping[str, Array]  # `weights` [2, R] and `decays` [2, R] of skipped and watched; decays are log-odds


def init() -> dict[str, Array]:
    """The first kernel: weights of 0, so that it changes no score."""
    decays = np.array(DECAYS, np.float32)
    log_odds = np.log(decays) - np.log1p(-decays)
    return {"weights": jnp.zeros((2, len(DECAYS))), "decays": jnp.asarray(np.stack([log_odds, log_odds]))}


def read(kernel: Kernel, factors: Array, *, watched: AnyArray, valid: AnyArray, first: AnyArray) -> Array:
    """The memory after every exposure of a window.

    Args:
      kernel: of `init`.
      factors: [B, T, D] of the items that are read.
      watched: [B, T] bool.
      valid: [B, T] bool, False at padding.
      first: [B, T] bool, True at each user's first exposure, where the memory begins anew.

    Returns:
      [B, T, D]; at padding it means nothing.
    """
    length = factors.shape[1]
    size = min(CHUNK, length)
    number = -(-length // size)
    missing = number * size - length

    def in_chunks(x: AnyArray) -> Array:
        """[B, T, ...] padded at the left, to [chunks, B, size, ...]."""
        padded = jnp.pad(x, ((0, 0), (missing, 0)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(padded.reshape(len(padded), number, size, *padded.shape[2:]), 1, 0)

    kept = jnp.where(valid[..., None], factors.astype(jnp.float32), 0.0)
    by_feedback = jnp.stack([jnp.where(watched[..., None] == kind, kept, 0.0) for kind in (False, True)], axis=2)
    # Which of a window's users an exposure belongs to: a memory reaches only those with the same number.
    owners = jnp.cumsum(first, axis=1)
    weights, logs, place = SCALE * kernel["weights"], jax.nn.log_sigmoid(kernel["decays"]), np.arange(size)  # [2, R]

    def faded(ages: np.ndarray) -> Array:
        """[2, R, ...] what is left after so many exposures; 0 for ages below 0."""
        left = jnp.exp(jnp.expand_dims(logs, tuple(range(2, 2 + ages.ndim))) * np.maximum(ages, 0)[None, None])
        return left * (ages >= 0)[None, None]

    within = jnp.einsum("fr,frts->fts", weights, faded(place[:, None] - place[None, :]))
    since, until = faded(place + 1), faded(size - 1 - place)  # of the state before a chunk; at the end of a chunk
    over = faded(np.array(size))[None, ..., None]

    def step(carry: tuple[Array, Array], chunk: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        state, owner = carry  # [B, 2, R, D], [B]
        x, whose = chunk  # [B, size, 2, D], [B, size]
        same = (whose[:, :, None] == whose[:, None, :]).astype(x.dtype)
        inside = jnp.einsum("fts,bts,bsfd->btd", within, same, x)
        before = jnp.einsum("fr,frt,bfrd->btd", weights, since, state)
        found = inside + before * (whose == owner[:, None])[..., None]
        last = whose[:, -1]
        added = jnp.einsum("frs,bs,bsfd->bfrd", until, (whose == last[:, None]).astype(x.dtype), x)
        return (state * over * (last == owner)[:, None, None, None] + added, last), found

    batch, _, width = factors.shape
    start = nothing_read(batch, width), jnp.zeros(batch, owners.dtype)
    _, found = jax.lax.scan(step, start, (in_chunks(by_feedback), in_chunks(owners)))
    return jnp.moveaxis(found, 0, 1).reshape(batch, number * size, width)[:, missing:]


def nothing_read(batch: int, width: int) -> Array:
    """The state [B, 2, R, D] of users of whom nothing was read, for `update`."""
    return jnp.zeros((batch, 2, len(DECAYS), width))


def update(kernel: Kernel, state: Array, factors: Array, *, watched: AnyArray) -> Array:
    """The state after one more exposure of each user.

    Args:
      kernel: of `init`.
      state: [B, 2, R, D].
      factors: [B, D] of the item that was shown.
      watched: [B] bool.

    Returns:
      [B, 2, R, D].
    """
    mine = jnp.stack([~watched, watched], axis=-1)[..., None, None]
    return state * jax.nn.sigmoid(kernel["decays"])[None, ..., None] + jnp.where(mine, factors[:, None, None], 0.0)


def memory(kernel: Kernel, state: Array) -> Array:
    """The memory [B, D] of a state [B, 2, R, D]: what `read` gives after the same exposures."""
    return jnp.einsum("fr,bfrd->bd", SCALE * kernel["weights"], state)
