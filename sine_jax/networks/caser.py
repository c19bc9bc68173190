"""Caser: convolutions over the last few exposures."""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from sine_jax.layers.dropout import Dropout
from sine_jax.layers.scoring import Outputs, of_vector
from sine_jax.network import Network, places
from sine_jax.types import Array, Histories


class Caser(Network):
    """At every position: horizontal filters over 1 to `last` exposures, and vertical filters over the last `last`.

    The table of users is left out, so that users may be new.

    Attributes:
      last: how many exposures are read.
      filters: horizontal filters of each height.
      vertical: vertical filters.

    References:
      Tang and Wang, "Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding", WSDM 2018,
      arXiv 1809.07426.
    """

    packs: ClassVar[bool] = True
    last: ClassVar[int] = 5
    filters: ClassVar[int] = 16
    vertical: ClassVar[int] = 4

    @nn.compact
    def __call__(self, histories: Histories, *, deterministic: bool) -> Outputs:
        """See `Network`."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        x = self.read(histories, deterministic=deterministic).states
        rank = places(histories).rank
        images = jnp.stack([_shifted(x, rank, by) for by in reversed(range(self.last))], axis=2)  # [B, T, last, D]
        features = []
        for height in range(1, self.last + 1):
            filters = nn.Dense(self.filters, dtype=dtype, name=f"horizontal_{height}")
            spans = [images[:, :, i : i + height] for i in range(self.last - height + 1)]
            stacked = jnp.stack(spans, axis=2)  # [B, T, spans, height, D]
            features.append(jnp.max(nn.relu(filters(stacked.reshape(*stacked.shape[:3], -1))), axis=2))
        columns = nn.Dense(self.vertical, use_bias=False, dtype=dtype, name="vertical")(jnp.moveaxis(images, 2, 3))
        features.append(columns.reshape(*columns.shape[:2], -1))
        z = Dropout(config.dropout)(jnp.concatenate(features, axis=-1), deterministic=deterministic)
        return Outputs(of_vector(nn.relu(nn.Dense(config.dim, dtype=dtype, name="forward")(z)) + x))


def _shifted(x: Array, rank: Array, by: int) -> Array:
    """What was read `by` exposures before [B, T, D], zeros before the user's first; `rank` [B, T] counts from it."""
    return jnp.pad(x, ((0, 0), (by, 0), (0, 0)))[:, : x.shape[1]] * (rank >= by)[..., None]
