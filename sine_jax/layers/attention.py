"""The causal self-attention block of the encoder."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sine_jax.layers import fused_attention
from sine_jax.layers.dense import dense
from sine_jax.layers.dropout import Dropout
from sine_jax.layers.forms import Forms
from sine_jax.types import AnyArray, Array


class Weights(NamedTuple):
    """A softmax before its division. It is faster to divide the product with the values, which is smaller.

    Gradients are right only for what depends on `weights / total`.
    """

    weights: Array  # [..., T, T]
    total: Array  # [..., T, 1], above 0


def causal_weights(logits: Array, *, where: Array, zero_keys: Array | None = None) -> Weights:
    """Softmax over the keys that a query may see, undivided.

    In the released model queries also attend to padding, whose keys and values are zeros. Such keys only add to the
    denominator, so it is enough to count them.

    Args:
      logits: [..., T, T] queries by keys.
      where: boolean, broadcastable to the logits: True where the query may see the key.
      zero_keys: how many keys of zeros each query also attends to, broadcastable to [..., T, 1]; None for none.

    Returns:
      Weights, all 0 for a query that sees no key.
    """
    logits = jnp.where(where, logits, -jnp.inf)
    least = jnp.finfo(logits.dtype).min  # finite, for queries that see nothing
    floor = least if zero_keys is None else jnp.where(zero_keys > 0, 0.0, least)
    top = jax.lax.stop_gradient(jnp.maximum(jnp.max(logits, axis=-1, keepdims=True), floor))
    weights = jnp.exp(logits - top)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    if zero_keys is not None:
        total = total + jnp.where(zero_keys > 0, zero_keys * jnp.exp(-jnp.maximum(top, 0.0)), 0.0)
    return Weights(weights, jnp.where(total > 0, total, 1.0))


def causal_probabilities(logits: Array, *, where: Array, zero_keys: Array | None = None) -> Array:
    """`causal_weights`, divided: [..., T, T] probabilities, all 0 for a query that sees no key."""
    found = causal_weights(logits, where=where, zero_keys=zero_keys)
    return found.weights / found.total


def pool(states: Array, logits: Array, *, where: Array) -> Array:
    """Means of states [B, T, D], weighted by a softmax over what each query may see.

    Args:
      states: [B, T, D].
      logits: [B, T or 1, T].
      where: [B, T, T], what each query may see.

    Returns:
      [B, T, D] in the type of the states.
    """
    weights = causal_probabilities(logits, where=where).astype(states.dtype)
    return jnp.einsum("btj,bjd->btd", weights, states)


def query_blocks(width: int, block: int | None) -> list[tuple[int, int]]:
    """Splits queries into blocks of columns [begin, end); a block needs only the keys before its end.

    On a CPU this saves nearly half of a wide window's products. An accelerator is faster with one large product.

    Args:
      width: T.
      block: the most columns of a block; None for all in one.
    """
    number = 1 if block is None else -(-width // block)
    bounds = [width * i // number for i in range(number + 1)]
    return list(itertools.pairwise(bounds))


class SelfAttention(nn.Module):
    """Multi-head attention without biases.

    Attributes:
      num_heads: heads; divides D.
      dropout: rate, on the probabilities and after the output map.
      dtype: of the computation; the softmax is in float32.
      forms: how it is computed.
    """

    num_heads: int
    dropout: float
    dtype: jnp.dtype
    forms: Forms = Forms()

    @nn.compact
    def __call__(
        self,
        queries: Array,
        keys: Array,
        *,
        where: Array,
        zero_keys: Array | None,
        emphasis: Array | None,
        deterministic: bool,
    ) -> Array:
        """Maps queries and keys [B, T, D] to [B, T, D].

        Args:
          queries: [B, T, D].
          keys: [B, T, D]; the values are read from them as well.
          where: [B or 1, T, T] True where a query may see a key; never a later key.
          zero_keys: [B, T] see `causal_probabilities`, or None.
          emphasis: [B, T, T] factors on the probabilities after dropout, or None.
          deterministic: True for no dropout.

        Returns:
          [B, T, D].
        """
        dim = queries.shape[-1]
        heads = (self.num_heads, dim // self.num_heads)

        def mapped(name: str) -> nn.Dense:
            return dense(dim, self.dtype, name, chunked_gradients=self.forms.chunked_gradients, use_bias=False)

        def project(x: Array, name: str) -> Array:
            return mapped(name)(x).reshape(*x.shape[:-1], *heads)

        q, k, v = project(queries, "query"), project(keys, "key"), project(keys, "value")
        fusable = zero_keys is None and emphasis is None and (deterministic or self.dropout == 0)
        if self.forms.fused_attention and fusable and fused_attention.takes(q.shape[1], q.shape[3], self.dtype):
            mixed = fused_attention.attend(q, k, v, where=where)
        else:
            mixed = self._in_blocks(
                q, k, v, where=where, zero_keys=zero_keys, emphasis=emphasis, deterministic=deterministic
            )
        mixed = mapped("output")(mixed.reshape(queries.shape))
        return Dropout(self.dropout)(mixed, deterministic=deterministic)

    def _in_blocks(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        where: Array,
        zero_keys: Array | None,
        emphasis: Array | None,
        deterministic: bool,
    ) -> Array:
        """What the queries [B, T, H, d] read, by `query_blocks`; [B, T, H, d]."""
        q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))  # heads first: faster products on a CPU
        q = q / math.sqrt(q.shape[-1])
        dropout = Dropout(self.dropout)

        def attended(q: Array, begin: int, end: int) -> Array:
            """What the queries of some columns read; keys after the last of them are not computed."""
            logits = jnp.einsum("bhqd,bhkd->bhqk", q, k[:, :, :end], preferred_element_type=jnp.float32)
            zeros = None if zero_keys is None else zero_keys[:, None, begin:end, None]
            weights, total = causal_weights(logits, where=where[:, None, begin:end, :end], zero_keys=zeros)
            weights = dropout(weights, deterministic=deterministic)
            if emphasis is not None:
                weights = weights * emphasis[:, None, begin:end, :end]
            weights = weights.astype(self.dtype)
            read = jnp.einsum("bhqk,bhkd->bhqd", weights, v[:, :, :end], preferred_element_type=jnp.float32)
            return (read / total).astype(self.dtype)  # divided in float32, because bfloat16 would harm the gradients

        bounds = query_blocks(q.shape[2], self.forms.query_block)
        parts = jnp.split(q, [begin for begin, _ in bounds[1:]], axis=2)
        mixed = jnp.concatenate([attended(part, *bound) for part, bound in zip(parts, bounds, strict=True)], axis=2)
        return jnp.swapaxes(mixed, 1, 2)


class Block(nn.Module):
    """Attention and a position-wise network, each added to its own normalised input.

    Attributes:
      num_heads: heads; divides D.
      dropout: rate.
      norm_eps: epsilon of the layer norms.
      bias_init: initialiser of the feed-forward biases.
      dtype: of the computation.
      forms: how it is computed.

    References:
      Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, arXiv 1808.09781.
    """

    num_heads: int
    dropout: float
    norm_eps: float
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: jnp.dtype = jnp.dtype(jnp.float32)
    forms: Forms = Forms()

    @nn.compact
    def __call__(
        self,
        x: Array,
        *,
        valid: AnyArray,
        where: Array,
        deterministic: bool,
        zero_keys: Array | None = None,
        emphasis: Array | None = None,
    ) -> Array:
        """Maps states [B, T, D] to [B, T, D], zero where not `valid` [B, T]; the rest as in `SelfAttention`."""
        q = layer_norm(self.norm_eps, self.dtype, "attention_norm")(x)
        attention = SelfAttention(
            num_heads=self.num_heads, dropout=self.dropout, dtype=self.dtype, forms=self.forms, name="attention"
        )
        attended = attention(q, x, where=where, zero_keys=zero_keys, emphasis=emphasis, deterministic=deterministic)
        z = layer_norm(self.norm_eps, self.dtype, "forward_norm")(q + attended)

        def forward(name: str) -> nn.Dense:
            chunked = self.forms.chunked_gradients
            return dense(x.shape[-1], self.dtype, name, chunked_gradients=chunked, bias_init=self.bias_init)

        hidden = nn.relu(Dropout(self.dropout)(forward("forward_in")(z), deterministic=deterministic))
        out = Dropout(self.dropout)(forward("forward_out")(hidden), deterministic=deterministic)
        return (z + out) * valid[..., None]


def layer_norm(eps: float, dtype: jnp.dtype, name: str | None = None) -> nn.LayerNorm:
    """The layer norm of all networks. Its variance takes two passes, because the error of one pass is far above eps."""
    return nn.LayerNorm(epsilon=eps, dtype=dtype, use_fast_variance=False, name=name)
