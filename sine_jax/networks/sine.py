"""SINE: embed, attend, read sub-interests, fuse."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from sine_jax.layers.attention import layer_norm
from sine_jax.layers.dense import xavier_normal
from sine_jax.layers.interests import ActiveInterest, Fusion, read_interests
from sine_jax.layers.scoring import Outputs, UserState, of_vector
from sine_jax.network import Network, places
from sine_jax.types import PAD, Array, Histories


class SINE(Network):
    """The sub-interest encoder with its fusion layer.

    The tables of items and sub-interests are its parameters `item_embedding` [N + 1, D] and `interests` [K, D].

    References:
      Pan et al., "Understanding and Modeling Passive-Negative Feedback for Short-video Sequential Recommendation",
      RecSys 2023, arXiv 2308.04086.
    """

    pads_with_zeros: ClassVar[bool] = True
    packs: ClassVar[bool] = True
    takes_active: ClassVar[bool] = True

    @nn.compact
    def __call__(self, histories: Histories, active: Array | None = None, *, deterministic: bool) -> Outputs:
        """See `Network`.

        Args:
          histories: [B, T].
          active: [B, T] the active sub-interest of each position's target for the released filter, or None.
          deterministic: True for no dropout.

        Returns:
          The outputs after each exposure.
        """
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        table = self.table()
        interests = self.param("interests", xavier_normal, (config.num_interests, config.dim)).astype(dtype)
        x, valid, visible = self.read(histories, table=table, deterministic=deterministic)

        emphasis = None
        if active is not None:
            # A key has the sub-interest that it had as a target. The first key was not a target: it takes that of the
            # padding before it or, without padding, that of its own item.
            place = places(histories)
            alone = table[jnp.where(place.length < config.max_len, PAD, histories.items)] @ interests.T
            of_keys = jnp.where(place.first, jnp.argmax(alone, axis=-1), jnp.roll(active, 1, axis=1))
            emphasis = jnp.where(of_keys[:, None, :] == active[:, :, None], config.filter_strength, 1.0)
        zero_keys = None if config.mask_padding else config.max_len - places(histories).length
        bias_init = _BIASES[config.bias_init](config.dim)
        for i in range(config.num_blocks):
            block = self.block(f"block_{i}", bias_init=bias_init)
            x = block(
                x, valid=valid, where=visible, zero_keys=zero_keys, emphasis=emphasis, deterministic=deterministic
            )
        states = layer_norm(config.norm_eps, dtype, "final_norm")(x)

        vectors = read_interests(states, interests)
        log_active = None
        if config.active == "learned":
            log_active = ActiveInterest(dtype=dtype, forms=self.forms, name="active")(states, interests)
        fuse = _FUSIONS[config.fusion](dtype=dtype)
        return Outputs(fuse(vectors, log_active), interests=vectors, log_active=log_active)


def _summed(vectors: Array, log_active: Array | None) -> UserState:
    """The sum of the sub-interests, weighted by the probability that each is active if that is predicted."""
    if log_active is None:
        return of_vector(jnp.sum(vectors, axis=-2))
    weights = jnp.exp(log_active).astype(vectors.dtype)
    return of_vector(jnp.einsum("...k,...kd->...d", weights, vectors))


_FUSIONS: dict[str, Callable[..., Callable[[Array, Array | None], UserState]]] = {
    "sum": lambda dtype: _summed,
    "collapsed": functools.partial(Fusion, candidate_aware=False, name="fusion"),
    "candidate_aware": functools.partial(Fusion, candidate_aware=True, name="fusion"),
}


@functools.cache
def _fan_in_uniform(fan_in: int) -> nn.initializers.Initializer:
    """Uniform within +-1/sqrt(fan_in), the first biases of the released feed-forward layers."""
    bound = 1 / math.sqrt(fan_in)

    def draw(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


_BIASES: dict[str, Callable[[int], nn.initializers.Initializer]] = {
    "zeros": lambda fan_in: nn.initializers.zeros,
    "uniform": _fan_in_uniform,
}
