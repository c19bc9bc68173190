"""DIN: the candidate attends to the exposures that are read."""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from sine_jax.layers.dense import xavier_normal
from sine_jax.layers.scoring import Outputs, UserState
from sine_jax.network import Network
from sine_jax.types import Histories


class DIN(Network):
    """Each exposure is weighed by what it has to do with the candidate; there is no encoder of the sequence.

    The activation unit is bilinear and normalised, where the paper has a small network without a softmax: its weights
    then need no tensor over (position, candidate, exposure, D), which would take nearly all the time of training at
    every position of a sequence.

    References:
      Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018, arXiv 1706.06978.
    """

    packs: ClassVar[bool] = True

    @nn.compact
    def __call__(self, histories: Histories, *, deterministic: bool) -> Outputs:
        """See `Network`."""
        config = self.config
        x, _, visible = self.read(histories, deterministic=deterministic)
        keys, values = (
            nn.Dense(config.dim, use_bias=False, dtype=config.dtype, kernel_init=xavier_normal, name=name)(x)
            for name in ("keys", "values")
        )
        weight = nn.Dense(1, dtype=config.dtype, name="weight")(x)[..., 0][:, None, :]  # [B, 1, T]
        logits = jnp.where(visible, weight, jnp.finfo(jnp.float32).min / 2)  # finite, where nothing can be seen
        return Outputs(UserState(values[:, None], keys=keys[:, None], logits=logits))
