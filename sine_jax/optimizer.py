"""The optimiser, composed with Optax from its configuration."""

from __future__ import annotations

import jax
import optax

from sine_jax import sparse
from sine_jax.config import OptimizerConfig
from sine_jax.types import Array, Params


def build(config: OptimizerConfig, *, num_steps: int) -> optax.GradientTransformation:
    """Composes gradient clipping, the optimiser with its learning rate, and gradient accumulation.

    Args:
      config: the choices.
      num_steps: batches of the whole run, over which a cosine schedule falls to 0.

    Returns:
      A gradient transformation whose updates are added to the parameters. With `embedding=rows`, `update` takes the
      `entries` of the item tables that the updates are for; see `sparse`.
    """
    rate = learning_rate(config, num_updates=max(num_steps // config.accumulate, 1))
    optimizers = {
        "adam": lambda: optax.adam(rate, config.b1, config.b2, config.eps),
        "adamw": lambda: optax.adamw(
            rate, config.b1, config.b2, config.eps, weight_decay=config.weight_decay, mask=decayed
        ),
        "adagrad": lambda: optax.adagrad(rate, eps=config.eps),
    }
    chosen = optimizers[config.name]()
    if config.embedding == "rows":
        tables = {
            "adam": lambda: sparse.lazy_adam(rate, config.b1, config.b2, config.eps),
            "adagrad": lambda: sparse.row_adagrad(rate, config.eps),
        }
        tables["adamw"] = tables["adam"]  # embeddings never decay
        chosen = optax.partition({"dense": chosen, "rows": tables[config.name]()}, sparse.kinds)
    chosen = optax.masked(chosen, trained)  # no moments for what is not trained
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    composed = optax.chain(*clip, chosen)
    if config.accumulate == 1:
        return composed
    return optax.MultiSteps(composed, config.accumulate).gradient_transformation()


def learning_rate(config: OptimizerConfig, *, num_updates: int) -> optax.Schedule:
    """The learning rate at each update: linear warm-up from 0, then constant or a cosine to 0."""
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(config.learning_rate, max(num_updates - config.warmup_steps, 1))
    else:
        after = optax.constant_schedule(config.learning_rate)
    if not config.warmup_steps:
        return after
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])


_NO_MAPS = ("interests", "signed_kernel")  # sub-interests; weights and decays of the signed kernel


def trained(params: Params) -> Params:
    """Which parameters are trained: all but the factors of the signed kernel, whose gradients are 0."""
    return {name: jax.tree.map(lambda _: name != "item_factors", params[name]) for name in params}  # noqa: B023


def decayed(params: Params) -> Params:
    """Which parameters weight decay applies to: the matrices that map states to states.

    Embedding tables are not decayed, because a batch touches only a part of them; nor are norms and biases, which set
    the scale of what follows.
    """

    def is_map(path: tuple[jax.tree_util.DictKey, ...], value: Array) -> bool:
        name = str(path[-1].key)
        return value.ndim >= 2 and not name.endswith(("embedding", "factors")) and str(path[0].key) not in _NO_MAPS

    return jax.tree_util.tree_map_with_path(is_map, params)
