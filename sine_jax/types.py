"""The words of the library: axis letters, feedback codes, and the arrays that modules pass to each other.

Axis letters, the same in every docstring and comment unless one says otherwise:

  B  rows of a batch
  T  positions of a row: the window of exposures that is read, left-padded with PAD
  P  the most users that share a row
  D  width of the model; d = D / H
  H  heads
  K  sub-interests
  Q  vectors that remain of a user
  C  candidate items of a user
  M  sampled negatives of a position
  S  skips paired with a position
  N  items of the catalogue (ids 1..N; 0 is PAD, so embedding tables have N + 1 rows)
  U  users of the log
  E  exposures (events) of the log
  R  exposures that may be read (`batches.windows.Reading`)
  V  users who are ranked (`evaluation.candidates.Population`)
  L  positives of a user in a ranking (`evaluation.metrics.Ranking`)
  F  candidates of all users, end to end (`evaluation.metrics`)
  J  runs of a method (`evaluation.comparison`)
  G  comparisons side by side (`evaluation.comparison`)
  W  table entries that a step touches (`sparse`)
  X  context columns
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
AnyArray = np.ndarray | jax.Array  # what works on the host and on devices alike
Params = Mapping[str, Any]

PAD = 0

SKIPPED = 0
WATCHED = 1
DISLIKED = 2  # the user said so: neither a positive nor a passive negative


class EventLog(NamedTuple):
    """Every exposure of every user as flat columns, sorted by user, then time, then order of arrival.

    The exposures of user `u` are the slice `offsets[u]:offsets[u + 1]` of each column. Columns may be memory-mapped.
    """

    items: np.ndarray  # [E] int32, 1..N
    feedback: np.ndarray  # [E] int8, SKIPPED, WATCHED or DISLIKED
    times: np.ndarray  # [E] int64, ms since 1970; -1 where the log has no time
    plays: np.ndarray  # [E] int32, ms watched; -1 where unknown
    durations: np.ndarray  # [E] int32, ms of the video; -1 where unknown
    offsets: np.ndarray  # [U + 1] int64
    # [E, X] int16, the value of each context column, numbered from 1 over all columns; 0 unknown. None without columns
    contexts: np.ndarray | None = None

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """[U] int64, how many exposures each user has."""
        return np.diff(self.offsets)

    @property
    def users(self) -> np.ndarray:
        """[E] int64, whose exposure it is, 0..U-1; computed anew each time."""
        return np.repeat(np.arange(self.num_users), self.lengths)

    def before(self, ends: np.ndarray) -> np.ndarray:
        """[E] bool, True for the exposures of each user before the user's end [U], an absolute position."""
        return np.arange(len(self.items)) < np.repeat(ends, self.lengths)


class Histories(NamedTuple):
    """What the encoder reads: the last exposures of each user, left-padded with PAD.

    A row may hold several users, one after the other, so that little of it is padding. `segments` then separates them:
    no position reads one of another user.
    """

    items: AnyArray  # [B, T] int32
    watched: AnyArray  # [B, T] bool, False where the exposure was skipped (only where skips are read)
    times: AnyArray | None = None  # [B, T] int32, s since any origin; None where times are not read
    # [B, T] int32, the same throughout a user's part of a row; None for one user a row
    segments: AnyArray | None = None


class TrainBatch(NamedTuple):
    """A batch of windows, and for each position the pairs that supervise it.

    A row without users (a filler) is all PAD. A position has pairs only where `positives` is not PAD.
    """

    users: AnyArray  # [B, P] int32, 0..U-1, the users of each row in order; -1 for fillers
    items: AnyArray  # [B, T] int32, what is read
    watched: AnyArray  # [B, T] bool, its polarity
    positives: AnyArray  # [B, T] int32, the item watched next
    negatives: AnyArray  # [B, T, M] int32, sampled items
    skips: AnyArray  # [B, T, S] int32, skipped around the positive, nearest first
    # [B, T, M] log-probability that each negative was drawn; None where no loss needs it
    log_chances: AnyArray | None = None
    times: AnyArray | None = None  # [B, T] int32, s, of what is read; None where times are not read
    # [B, T] int32, which of the row's users it belongs to; None where rows have one user
    segments: AnyArray | None = None
    # [B, T, 1 + S, X] int16, where the positive and the skips were shown; None where no context is used
    shown_in: AnyArray | None = None

    @property
    def histories(self) -> Histories:
        """The inputs alone."""
        return Histories(self.items, self.watched, self.times, self.segments)

    @property
    def contexts(self) -> Array | None:
        """[B, T, 1 + M + S, X] of the candidates; negatives are scored in the context of their positive."""
        if self.shown_in is None:
            return None
        positive, skips = self.shown_in[..., :1, :], self.shown_in[..., 1:, :]
        negatives = jnp.broadcast_to(positive, (*self.negatives.shape, positive.shape[-1]))
        return jnp.concatenate([positive, negatives, skips], axis=-2)

    @property
    def candidates(self) -> Array:
        """[B, T, 1 + M + S] what is scored after each position: the positive, the negatives, the skips."""
        return jnp.concatenate([self.positives[..., None], self.negatives, self.skips], axis=-1)

    @property
    def has_target(self) -> Array:
        """[B, T] bool, True where a position has a positive."""
        return self.positives != PAD

    @property
    def pairs(self) -> Array:
        """[B, T, M + S] bool, True where the positive and this negative or skip both exist."""
        others = jnp.concatenate([self.negatives, self.skips], axis=-1)
        return self.has_target[..., None] & (others != PAD)


class EvalBatch(NamedTuple):
    """A batch of places in the log with the candidates to rank there."""

    places: AnyArray  # [B] int32, of the population's; -1 for fillers
    items: AnyArray  # [B, T] int32
    watched: AnyArray  # [B, T] bool
    candidates: AnyArray  # [B, C] int32, PAD where there is none
    labels: AnyArray  # [B, C] bool, True for the target (first column) if it was watched
    skipped: AnyArray  # [B, C] bool, True for the skips that the split shows around the target (the columns after it)
    times: AnyArray | None = None  # [B, T] int32, s, of what is read; None where times are not read
    contexts: AnyArray | None = None  # [B, C, X] int16, where each was shown; None where contexts are not used

    @property
    def histories(self) -> Histories:
        """The inputs alone."""
        return Histories(self.items, self.watched, self.times)


class Split(NamedTuple):
    """What is learned, read and ranked of each user, as absolute positions in the columns of the log.

    Exposures before `train_end` may be learned from. `target` is the exposure that should rank first; -1 if the user
    takes no part. Exposures before `history_end` may be read to rank it. It is ranked against the skips within
    `candidates_begin:candidates_end`. All exposures within `begin:end` are held out.
    """

    train_end: np.ndarray  # [U] int64
    target: np.ndarray  # [U] int64
    history_end: np.ndarray  # [U] int64
    candidates_begin: np.ndarray  # [U] int64
    candidates_end: np.ndarray  # [U] int64
    begin: np.ndarray  # [U] int64
    end: np.ndarray  # [U] int64
