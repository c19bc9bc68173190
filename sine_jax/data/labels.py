"""Named rules that turn raw columns into feedback: what counts as watched, and what as an explicit dislike.

A rule is written as text, so that a prepared data set can record it:

  column         the mapped column decides: 1 is watched, 0 is skipped
  ratio:R        watched if play / duration >= R
  seconds:S      watched if the play lasted at least S seconds

An exposure that the user disliked explicitly is DISLIKED under every rule: neither watched nor a passive skip.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import polars as pl

from sine_jax.types import DISLIKED, SKIPPED, WATCHED

REMEDY = "write column, ratio:R (watched if play / duration >= R) or seconds:S (watched if play >= S seconds)"


class Rule(NamedTuple):
    """What counts as watched.

    `watched` is a boolean expression of the canonical columns `watched` (0 or 1), `play` (ms) and `duration` (ms).
    A row that lacks a column of `needs` has no label.
    """

    text: str
    needs: tuple[str, ...]
    watched: pl.Expr


def by_column() -> Rule:
    """The mapped column decides."""
    return Rule("column", ("watched",), pl.col("watched") == 1)


def by_ratio(ratio: float) -> Rule:
    """Watched if play / duration is at least `ratio`; a video that loops has a ratio above 1.

    Nothing is divided by a duration of 0: whoever applies the rule treats it as missing.
    """
    return Rule(f"ratio:{ratio:g}", ("play", "duration"), pl.col("play") >= ratio * pl.col("duration"))


def by_seconds(seconds: float) -> Rule:
    """Watched if the play lasted at least `seconds`."""
    return Rule(f"seconds:{seconds:g}", ("play",), pl.col("play") >= 1000 * seconds)


def parse(text: str) -> Rule:
    """The rule that `text` names.

    Raises:
      ValueError: there is no such rule, or its threshold is not a positive number.
    """
    name, _, threshold = text.partition(":")
    if text == "column":
        return by_column()
    rules = {"ratio": by_ratio, "seconds": by_seconds}
    if name not in rules:
        raise ValueError(f"--label={text}: no such rule; {REMEDY}")
    try:
        value = float(threshold)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"--label={text}: the threshold must be a number above 0; {REMEDY}")
    return rules[name](value)


def feedback(rule: Rule, disliked: pl.Expr) -> pl.Expr:
    """The feedback code of each exposure, int8: DISLIKED if the user said so, otherwise by the rule."""
    code = pl.when(disliked).then(DISLIKED).when(rule.watched).then(WATCHED).otherwise(SKIPPED)
    return code.cast(pl.Int8).alias("feedback")
