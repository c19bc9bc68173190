"""GRU4Rec: a gated recurrent unit over the exposures that are read."""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from sine_jax.layers.scoring import Outputs, of_vector
from sine_jax.network import Network, places
from sine_jax.types import Array, Histories


class GRU4Rec(Network):
    """Layers of GRUs (`model.num_blocks`); trained by the losses of the library, like every network here.

    References:
      Hidasi, Karatzoglou, Baltrunas and Tikk, "Session-based Recommendations with Recurrent Neural Networks", ICLR
      2016, arXiv 1511.06939.
    """

    packs: ClassVar[bool] = True

    @nn.compact
    def __call__(self, histories: Histories, *, deterministic: bool) -> Outputs:
        """See `Network`."""
        config = self.config
        x, valid, _ = self.read(histories, deterministic=deterministic)
        first = places(histories).first
        layer = nn.scan(_Unit, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1)
        for i in range(config.num_blocks):
            start = jnp.zeros((x.shape[0], config.dim), x.dtype)
            units = layer(dim=config.dim, dtype=jnp.dtype(config.dtype), name=f"gru_{i}")
            _, x = units(start, (x, valid, first))
        return Outputs(of_vector(nn.Dense(config.dim, dtype=config.dtype, name="output")(x)))


class _Unit(nn.Module):
    """One GRU step; the state starts anew at a user's first exposure and stays the same at padding."""

    dim: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, state: Array, read: Any) -> tuple[Array, Array]:
        x, valid, first = read
        state = jnp.where(first[:, None], 0, state)
        after, _ = nn.GRUCell(self.dim, dtype=self.dtype, name="cell")(state, x)
        state = jnp.where(valid[:, None], after, state)
        return state, state
