"""From the columns of a log to training batches: `epoch` gives those of one epoch."""

from sine_jax.batches.pipeline import epoch

__all__ = ["epoch"]
