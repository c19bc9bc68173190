"""Imports the weights of the released PyTorch model by their names there."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from sine_jax.types import Array, Params


def import_weights(mapping: Mapping[str, np.ndarray]) -> Params:
    """Turns a released checkpoint's arrays into parameters of `presets.official`.

    The item's half and the bias of the fusion layer cancel in its softmax over sub-interests, so they are dropped.

    Args:
      mapping: arrays by released name (`item_emb.weight`, `attention_layers.0.w_Q.weight`, ...), such as
        `{name: tensor.numpy() for name, tensor in state_dict.items()}`.

    Returns:
      Parameters as of `model.init`, float32.

    Raises:
      ValueError: a weight is missing, or is not one of the released model.
    """
    left = {name: jnp.asarray(value, jnp.float32) for name, value in mapping.items()}

    def take(name: str) -> Array:
        if name not in left:
            raise ValueError(f"{name}: this weight of the released model is missing; pass all arrays of its state_dict")
        return left.pop(name)

    def norm(name: str) -> dict[str, Array]:
        return {"scale": take(f"{name}.weight"), "bias": take(f"{name}.bias")}

    def linear(name: str) -> dict[str, Array]:
        return {"kernel": take(f"{name}.weight").T}

    def convolution(name: str) -> dict[str, Array]:
        return {"kernel": take(f"{name}.weight")[:, :, 0].T, "bias": take(f"{name}.bias")}

    params: dict[str, object] = {
        "item_embedding": take("item_emb.weight"),
        "position_embedding": take("pos_emb.weight"),
        "interests": take("interest_embedding.weight"),
        "final_norm": norm("last_layernorm"),
    }
    if "interest_attention_linear.weight" in left:
        weight, _ = take("interest_attention_linear.weight"), take("interest_attention_linear.bias")
        params["fusion"] = {"weights": weight[0, : weight.shape[1] // 2]}
    block = 0
    while f"attention_layernorms.{block}.weight" in left:
        attention, forward = f"attention_layers.{block}", f"forward_layers.{block}"
        params[f"block_{block}"] = {
            "attention_norm": norm(f"attention_layernorms.{block}"),
            "attention": {
                "query": linear(f"{attention}.w_Q"),
                "key": linear(f"{attention}.w_K"),
                "value": linear(f"{attention}.w_V"),
                "output": linear(f"{attention}.fc"),
            },
            "forward_norm": norm(f"forward_layernorms.{block}"),
            "forward_in": convolution(f"{forward}.conv1"),
            "forward_out": convolution(f"{forward}.conv2"),
        }
        block += 1
    if left:
        raise ValueError(f"{', '.join(sorted(left))}: not weights of the released model; leave them out")
    return params
