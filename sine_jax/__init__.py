"""SINE for passive-negative feedback, in JAX and Flax: the public names.

Pan et al., "Understanding and Modeling Passive-Negative Feedback for Short-video Sequential Recommendation", RecSys
2023, arXiv 2308.04086.
"""

from sine_jax import official, presets
from sine_jax.config import Config, replace
from sine_jax.data.datasets import load
from sine_jax.model import apply, encode, init, score, score_candidates, score_items, user_vectors
from sine_jax.objectives import objective
from sine_jax.optimizer import build as build_optimizer
from sine_jax.run import restore, train
from sine_jax.training import TrainState, init_state, train_step
from sine_jax.types import EvalBatch, EventLog, Histories, TrainBatch

__all__ = [
    "Config",
    "EvalBatch",
    "EventLog",
    "Histories",
    "TrainBatch",
    "TrainState",
    "apply",
    "build_optimizer",
    "encode",
    "init",
    "init_state",
    "load",
    "objective",
    "official",
    "presets",
    "replace",
    "restore",
    "score",
    "score_candidates",
    "score_items",
    "train",
    "train_step",
    "user_vectors",
]
