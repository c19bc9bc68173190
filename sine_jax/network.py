"""What every network is: a reader of histories that the library's objective, pipeline and evaluation work with.

A network is a subclass of `Network` in a file of its own under `sine_jax/networks/`; its `model.name` is the name of
that file, or the dotted name of any importable module that holds one.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sine_jax.config import ModelConfig
from sine_jax.layers import scoring
from sine_jax.layers.attention import Block
from sine_jax.layers.dense import xavier_normal
from sine_jax.layers.dropout import Dropout
from sine_jax.layers.forms import Forms
from sine_jax.layers.scoring import Outputs
from sine_jax.losses import Mean
from sine_jax.types import PAD, Array, Histories

NETWORKS = "sine_jax.networks"


class Embedded(NamedTuple):
    """Histories as vectors, and which of them a position may look at."""

    states: Array  # [B, T, D], zero at padding
    valid: Array  # [B, T] bool, False at padding
    visible: Array  # [B, T, T] bool, queries by keys, see `Network.visible`


class Pairs(NamedTuple):
    """The items that supervise the state at each position, as embeddings."""

    positives: Array  # [B, T, D] of the item watched next
    skips: Array  # [B, T, S, D] of the items skipped right before it
    has_target: Array  # [B, T] bool
    skipped: Array  # [B, T, S] bool


class Network(nn.Module):
    """Reads windows of exposures. A subclass defines `__call__`, and overrides the rest if it differs.

    Attributes:
      config: the choices.
      num_items: N.
      forms: how it is computed.
      reads_skips: whether the network needs skips in what it reads.
      reads_times: whether it uses the times of exposures.
      pads_with_zeros: whether padding may be left unmasked (`model.mask_padding=false`), as in the released model.
      takes_active: whether `__call__` takes `active` as well, the active sub-interest [B, T] of each position's target,
        for the released filter; None where there is no target.
      packs: whether it separates the users of a row by `histories.segments`; otherwise a row has one user.
    """

    config: ModelConfig
    num_items: int
    forms: Forms = Forms()
    reads_skips: ClassVar[bool] = False
    reads_times: ClassVar[bool] = False
    pads_with_zeros: ClassVar[bool] = False
    packs: ClassVar[bool] = False
    takes_active: ClassVar[bool] = False

    def __call__(self, histories: Histories, *, deterministic: bool) -> Outputs:
        """Reads histories, in one pass.

        Args:
          histories: [B, T]; T may be any width up to `config.max_len`. Whether skips are among them is
            `config.read_skips`, whether they have times `config.read_times`.
          deterministic: True for no dropout.

        Returns:
          The outputs after each exposure, from this exposure and earlier ones; at padding they mean nothing.
        """
        raise NotImplementedError

    def score(self, state: Any, items: Array) -> Array:
        """Scores items [..., C, D] of each state, or [C, D] of all: [..., C] in float32."""
        return scoring.score(state, items)

    def auxiliary(self, outputs: Outputs, pairs: Pairs) -> Mapping[str, Mean]:
        """The network's own terms of the objective, each with the weight `objective.auxiliary`."""
        return {}

    def everything(self, histories: Histories) -> Any:
        """Calls everything that has parameters, to draw them."""
        outputs = self(histories, deterministic=True)
        items = jnp.zeros((*histories.items.shape, 1, self.config.dim), self.config.dtype)
        skipped = jnp.zeros((*histories.items.shape, 1), bool)
        pairs = Pairs(positives=items[..., 0, :], skips=items, has_target=skipped[..., 0], skipped=skipped)
        return self.score(outputs.state, items), self.auxiliary(outputs, pairs)

    def table(self) -> Array:
        """The item embeddings [N + 1, D], the parameter `item_embedding`; to be called once, in `__call__`."""
        return self.param("item_embedding", xavier_normal, (self.num_items + 1, self.config.dim))

    def read(self, histories: Histories, *, table: Array | None = None, deterministic: bool) -> Embedded:
        """What most networks begin with; to be called once, in `__call__`.

        Args:
          histories: [B, T].
          table: of `self.table()`, where the network has asked for it already.
          deterministic: True for no dropout.
        """
        x = self.embed(self.table() if table is None else table, histories, deterministic=deterministic)
        return Embedded(x, histories.items != PAD, self.visible(histories))

    def embed(self, table: Array, histories: Histories, *, deterministic: bool) -> Array:
        """Adds items, positions and, where skips are read, polarities: [B, T, D], 0 at padding; once, in `__call__`."""
        config, valid, place = self.config, histories.items != PAD, places(histories)
        positions = self.param("position_embedding", xavier_normal, (config.max_len, config.dim))
        column = place.rank + (config.max_len - place.length) if config.positions == "column" else place.rank
        x = math.sqrt(config.dim) * table[histories.items] + positions[column]
        if config.read_skips:
            polarity = self.param("polarity_embedding", xavier_normal, (2, config.dim))
            x = x + polarity[histories.watched.astype(jnp.int32)]
        return Dropout(config.dropout)(x.astype(config.dtype), deterministic=deterministic) * valid[..., None]

    def block(self, name: str, *, bias_init: nn.initializers.Initializer = nn.initializers.zeros) -> Block:
        """An attention block with the choices of the configuration; to be called once a name, in `__call__`.

        Args:
          name: of its parameters.
          bias_init: initialiser of its feed-forward biases.
        """
        return Block(
            num_heads=self.config.num_heads,
            dropout=self.config.dropout,
            norm_eps=self.config.norm_eps,
            bias_init=bias_init,
            dtype=jnp.dtype(self.config.dtype),
            forms=self.forms,
            name=name,
        )

    def visible(self, histories: Histories) -> Array:
        """[B, T, T] True where a position may look at another: itself and the same user's before, not at padding."""
        valid, segments = histories.items != PAD, histories.segments
        where = jnp.tril(jnp.ones((1, valid.shape[-1], valid.shape[-1]), bool)) & valid[:, None, :]
        return where if segments is None else where & (segments[:, :, None] == segments[:, None, :])


class Places(NamedTuple):
    """The place of each exposure among those of its user in a row; at padding it means nothing."""

    first: Array  # [B, T] bool, whether it is the first
    rank: Array  # [B, T] int32, its place, from 0
    length: Array  # [B, T] int32, the number of the user's exposures in the row


def places(histories: Histories) -> Places:
    """Finds each user's part of a row [B, T]."""
    valid, columns = histories.items != PAD, jnp.arange(histories.items.shape[-1])[None, :]
    apart = valid[:, 1:] != valid[:, :-1]
    if histories.segments is not None:
        apart |= histories.segments[:, 1:] != histories.segments[:, :-1]
    edge = jnp.ones_like(valid[:, :1])
    starts, stops = jnp.concatenate([edge, apart], axis=1), jnp.concatenate([apart, edge], axis=1)
    begin = jax.lax.cummax(jnp.where(starts, columns, 0), axis=1)
    end = jax.lax.cummin(jnp.where(stops, columns, columns.shape[1]), axis=1, reverse=True)
    return Places(starts & valid, columns - begin, end - begin + 1)


def names() -> list[str]:
    """The networks that come with the library."""
    package = importlib.import_module(NETWORKS)
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def find(name: str) -> type[Network]:
    """The network of a name.

    Args:
      name: one of `names()`, or a dotted module name.

    Raises:
      ValueError: there is no such module, or none or several networks are defined in it.
    """
    path = name if "." in name else f"{NETWORKS}.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports one that is not
        raise ValueError(
            f"model.name={name}: no such network; choose one of {', '.join(names())}, or a module that defines one"
        ) from None
    found = [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Network) and value.__module__ == path
    ]
    if len(found) != 1:
        raise ValueError(f"model.name={name}: {path} defines {len(found)} subclasses of Network; make it define one")
    return found[0]
