"""SASRec_c: self-attention with a contrast between what is watched next and what was skipped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp

from sine_jax import losses
from sine_jax.layers.scoring import Outputs
from sine_jax.losses import Mean
from sine_jax.network import Pairs
from sine_jax.networks import sasrec
from sine_jax.types import Array


class SASRecC(sasrec.SASRec):
    """SASRec with a contrastive term: by direction, a state is near the next watched item and far from the skipped.

    Attributes:
      temperature: of the contrast.

    References:
      Seshadri, Shashaani and Knees, "Enhancing Sequential Music Recommendation with Negative Feedback-informed
      Contrastive Learning", RecSys 2024, doi 10.1145/3640457.3688188.
    """

    temperature: ClassVar[float] = 0.1

    def auxiliary(self, outputs: Outputs, pairs: Pairs) -> Mapping[str, Mean]:
        """`contrast`: cross-entropy of the watched item among itself and the skips, by cosine."""
        items = jnp.concatenate([pairs.positives[..., None, :], pairs.skips], axis=-2)
        cosines = jnp.einsum("btd,btcd->btc", _unit(outputs.state.vectors[..., 0, :]), _unit(items))
        there = jnp.concatenate([pairs.has_target[..., None], pairs.skipped], axis=-1)
        logits = jnp.where(there, cosines.astype(jnp.float32) / self.temperature, -jnp.inf)
        logits = jnp.where(pairs.has_target[..., None], logits, 0.0)
        where = pairs.has_target & pairs.skipped.any(axis=-1)
        return {"contrast": losses.masked(-jax.nn.log_softmax(logits, axis=-1)[..., 0], where=where)}


def _unit(x: Array) -> Array:
    """Vectors [..., D] of length 1; 0 stays 0, with gradient 0."""
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)
