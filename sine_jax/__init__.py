"""SINE for passive-negative feedback, in JAX and Flax: the public names, each loaded when it is first asked for.

Pan et al., "Understanding and Modeling Passive-Negative Feedback for Short-video Sequential Recommendation", RecSys
2023, arXiv 2308.04086.

No name here may be that of a module beside this file, unless it is that module: the import system would put the module
in its place.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sine_jax import batches, config, layers, losses, networks, objectives, official, presets
    from sine_jax.config import Config, replace
    from sine_jax.data import splits
    from sine_jax.data.datasets import load
    from sine_jax.evaluation import metrics
    from sine_jax.model import Model, Read, build_model
    from sine_jax.network import Network
    from sine_jax.objectives import objective
    from sine_jax.optimizer import build as build_optimizer
    from sine_jax.run import evaluate, restore, train
    from sine_jax.serving.estimator import SINE
    from sine_jax.training import TrainState, init_state, train_step
    from sine_jax.types import EvalBatch, EventLog, Histories, TrainBatch

_NAMES = {  # public name: the module that holds it, and its name there
    "Config": "config:Config",
    "EvalBatch": "types:EvalBatch",
    "EventLog": "types:EventLog",
    "Histories": "types:Histories",
    "Model": "model:Model",
    "Network": "network:Network",
    "Read": "model:Read",
    "SINE": "serving.estimator:SINE",
    "TrainBatch": "types:TrainBatch",
    "TrainState": "training:TrainState",
    "build_model": "model:build_model",
    "build_optimizer": "optimizer:build",
    "evaluate": "run:evaluate",
    "init_state": "training:init_state",
    "load": "data.datasets:load",
    "objective": "objectives:objective",
    "replace": "config:replace",
    "restore": "run:restore",
    "train": "run:train",
    "train_step": "training:train_step",
}
_ROOMS = {  # public namespace: the module that it is
    "batches": "batches",
    "config": "config",
    "layers": "layers",
    "losses": "losses",
    "metrics": "evaluation.metrics",
    "networks": "networks",
    "objectives": "objectives",
    "official": "official",
    "presets": "presets",
    "splits": "data.splits",
}

__all__ = [
    "Config",
    "EvalBatch",
    "EventLog",
    "Histories",
    "Model",
    "Network",
    "Read",
    "SINE",
    "TrainBatch",
    "TrainState",
    "batches",
    "build_model",
    "build_optimizer",
    "config",
    "evaluate",
    "init_state",
    "layers",
    "load",
    "losses",
    "metrics",
    "networks",
    "objective",
    "objectives",
    "official",
    "presets",
    "replace",
    "restore",
    "splits",
    "train",
    "train_step",
]


def __getattr__(name: str) -> Any:
    """Imports what a public name stands for, once."""
    if name in _ROOMS:
        value: Any = importlib.import_module(f"sine_jax.{_ROOMS[name]}")
    elif name in _NAMES:
        home, _, inner = _NAMES[name].partition(":")
        value = getattr(importlib.import_module(f"sine_jax.{home}"), inner)
    else:
        raise AttributeError(f"module 'sine_jax' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted({*globals(), *__all__})
