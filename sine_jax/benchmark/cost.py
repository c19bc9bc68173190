"""What a training step costs by count: the operations and bytes that no implementation can do without.

The conventions, so that a share of a measured peak means the same for every implementation:

- Operations are those of matrix products alone, a multiplication and an addition each, of the network, of attention
  and of scoring; sums over an axis, softmax, norms, dropout and the optimiser count nothing.
- They are counted on real positions: padding is no work, and neither is a key that causality hides, so a sequence of
  length L has L (L + 1) / 2 pairs of a query and a key. An implementation that computes L x L pairs, or padding, has
  the lower share for it.
- A backward pass is twice its forward pass: a product's gradient is a product for each of its two factors.
- Bytes are what must pass between memory and processor: each parameter that the update touches with its gradient and
  both moments, read and written once; and what the backward pass needs of the forward pass, written and read once.
"""

from __future__ import annotations

from typing import NamedTuple

from sine_jax.config import Config
from sine_jax.layers import signed_kernel

BACKWARD = 2  # a backward pass in forward passes
_MOMENTS = {"adam": 2, "adamw": 2, "adagrad": 1}
_SAVED = 10  # [T, D] arrays that a block keeps for its backward pass: two norms, q, k, v, the mix, three maps, the sum
_FLOAT = 4  # bytes


class Work(NamedTuple):
    """The real work of some sequences, however they are laid out."""

    tokens: int  # real positions
    pairs: int  # of a query and a key that it may see

    def per(self, steps: int) -> tuple[float, float]:
        """Tokens and pairs of one of so many steps."""
        return self.tokens / steps, self.pairs / steps


def forward_flops(config: Config, *, tokens: float, pairs: float) -> float:
    """Operations of the forward pass and of scoring the targets and what they are compared to.

    Args:
      config: `model.name` must be sine or sasrec.
      tokens: real positions.
      pairs: queries by keys that they may see.

    Raises:
      ValueError: another network, whose operations nobody has counted.
    """
    model, objective = config.model, config.objective
    dim, vectors = model.dim, 1
    per_token = 12.0 * dim**2 * model.num_blocks  # query, key, value, output and two position-wise maps
    per_pair = 4.0 * dim * model.num_blocks  # logits, and the mix of the values
    if model.name == "sine":
        per_token += _fusion_flops(config)
        vectors = model.num_interests if model.fusion == "candidate_aware" else 1
    elif model.name != "sasrec":
        raise ValueError(f"model.name={model.name}: its operations have not been counted; choose sine or sasrec")
    candidates = 1 + objective.num_negatives + objective.num_skips
    scoring = 2.0 * dim * candidates * (2 * vectors if vectors > 1 else 1) + 2.0 * model.kernel_dim * candidates
    return tokens * (per_token + _kernel_flops(config) + scoring) + pairs * per_pair


def step_flops(config: Config, *, tokens: float, pairs: float) -> float:
    """Operations of a forward and a backward pass over the tokens and pairs of one step; see the module."""
    return (1 + BACKWARD) * forward_flops(config, tokens=tokens, pairs=pairs)


def step_bytes(config: Config, *, tokens: float, pairs: float, num_items: int) -> float:
    """Bytes that a step must move; see the module.

    Args:
      config: the choices.
      tokens: real positions of the step.
      pairs: queries by keys that they may see, of the step.
      num_items: N.
    """
    model, objective = config.model, config.objective
    rows = float(num_items + 1)
    if config.optimizer.embedding == "rows":
        rows = min(rows, tokens * (2 + objective.num_negatives + objective.num_skips))
    parameters = model.dim * (rows + model.max_len + 6 * model.dim * model.num_blocks)
    updated = parameters * _FLOAT * 2 * (2 + _MOMENTS[config.optimizer.name])  # value, gradient and moments
    width = _FLOAT if model.dtype == "float32" else 2
    saved = model.num_blocks * (tokens * _SAVED * model.dim * width + pairs * model.num_heads * width)
    return updated + 2 * saved


def _kernel_flops(config: Config) -> float:
    """Of a token, for the signed kernel: skipped and watched exposures of its chunk, and the state before and after."""
    chunk, decays = min(signed_kernel.CHUNK, config.model.max_len), len(signed_kernel.DECAYS)
    return 2.0 * 2 * (chunk + 2 * decays) * config.model.kernel_dim


def _fusion_flops(config: Config) -> float:
    """Of a token, for what SINE has beyond its encoder."""
    model = config.model
    dim, interests = model.dim, model.num_interests
    flops = 0.0
    if model.active == "learned":
        flops += 2.0 * dim**2 + 2.0 * interests * dim  # the query of the state, and its meeting each sub-interest
    if model.fusion == "sum":
        return flops + (2.0 * interests * dim if model.active == "learned" else 0.0)
    flops += 2.0 * interests * dim  # logits
    if model.fusion == "candidate_aware":
        return flops + 2.0 * interests * dim**2  # keys
    return flops + 2.0 * interests * dim  # the weighted sum
