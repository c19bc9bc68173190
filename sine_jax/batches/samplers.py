"""What each kind of `objective.negatives` draws from, and with which chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sine_jax.batches import negatives
from sine_jax.types import PAD, AnyArray


class Draw(NamedTuple):
    """What negatives are drawn from, for the positions of a batch; numpy or jax arrays."""

    seen: negatives.Seen  # items that are not drawn
    popularity: negatives.Popularity | None
    users: AnyArray  # [B, T] int32, whose position it is
    positives: AnyArray  # [B, T] int32; PAD where none
    skips: AnyArray  # [B, T, S] int32; PAD where none
    bits: AnyArray  # [B, T, M] uint32 random words
    num_items: int
    devices: int  # how many devices the rows are meant for


class Sampler(NamedTuple):
    """One kind of negatives."""

    draw: Callable[[Draw], AnyArray]  # [B, T, M] items; PAD where there is none
    log_chance: Callable[[Draw, AnyArray], AnyArray] | None  # of drawn items [B, T, M]; None if it is not known
    draws_by_count: bool = False  # `draw` reads the popularity
    weighs_by_count: bool = False  # only `log_chance` reads the popularity
    avoids_watched_only: bool = False  # items that the user skipped may be drawn; otherwise nothing that the user saw


def _uniform(d: Draw) -> AnyArray:
    return negatives.draw(d.seen, d.users, d.bits, d.num_items)


def _by_popularity(d: Draw) -> AnyArray:
    return _without_own(d, negatives.draw_popular(_counted(d), d.bits))


def _in_batch(d: Draw) -> AnyArray:
    return _without_own(d, negatives.draw_in_batch(d.positives, d.bits, devices=d.devices))


def _skips(d: Draw) -> AnyArray:
    """Skips that the user never watched."""
    xp: Any = d.skips.__array_namespace__()
    watched_too = negatives.is_seen(d.seen, d.users, d.skips, d.num_items)
    return negatives.draw_skips(xp.where(watched_too, PAD, d.skips), d.bits)


def _without_own(d: Draw, drawn: AnyArray) -> AnyArray:
    """PAD instead of the position's own target and of what the user has seen."""
    xp: Any = drawn.__array_namespace__()
    own = (drawn == d.positives[..., None]) | negatives.is_seen(d.seen, d.users, drawn, d.num_items)
    return xp.where(own, PAD, drawn)


def _chance_unseen(d: Draw, drawn: AnyArray) -> AnyArray:
    xp: Any = drawn.__array_namespace__()
    return xp.broadcast_to(negatives.log_chance_unseen(d.seen, d.users, d.num_items)[..., None], drawn.shape)


def _chance_by_popularity(d: Draw, drawn: AnyArray) -> AnyArray:
    """As if targets of the batch were drawn from the whole training part."""
    return negatives.log_chance(_counted(d), drawn)


def _counted(d: Draw) -> negatives.Popularity:
    if d.popularity is None:
        raise ValueError("popularity=None: nothing was counted; lay the log out with the configuration of the batches")
    return d.popularity


SAMPLERS: Mapping[str, Sampler] = {
    "uniform": Sampler(_uniform, _chance_unseen),
    "popularity": Sampler(_by_popularity, _chance_by_popularity, draws_by_count=True),
    "in_batch": Sampler(_in_batch, _chance_by_popularity, weighs_by_count=True),
    "skips": Sampler(_skips, None, avoids_watched_only=True),
}  # by `objective.negatives`
