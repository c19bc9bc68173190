"""Named rules that turn raw columns into feedback: what counts as watched, and what as an explicit dislike.

A rule is written as text, so that a prepared data set can record it:

  column         the mapped column decides: 1 (yes, true) is watched, 0 (no, false) is skipped
  at_least:X     watched if the mapped column is at least X: a rating, a share, a number of loops
  ratio:R        watched if play / duration >= R
  seconds:S      watched if the play lasted at least S seconds
  all            every exposure is watched, in a log without skips

An exposure that the user disliked explicitly is DISLIKED under every rule: neither watched nor a passive skip.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import polars as pl

from sine_jax.types import DISLIKED, SKIPPED, WATCHED

REMEDY = (
    "write column, at_least:X (watched if the column is at least X), ratio:R (if play / duration >= R), seconds:S "
    "(if play >= S seconds) or all"
)


class Rule(NamedTuple):
    """What counts as watched.

    `watched` is a boolean expression of the canonical columns `watched` (0 or 1, or any number), `play` (ms) and
    `duration` (ms). A row that lacks a column of `needs` has no label.
    """

    text: str
    needs: tuple[str, ...]
    watched: pl.Expr
    any_number: bool = False  # whether `watched` may be another number than 0 and 1


def by_column() -> Rule:
    """The mapped column decides."""
    return Rule("column", ("watched",), pl.col("watched") == 1)


def by_threshold(threshold: float) -> Rule:
    """Watched if the mapped column is at least `threshold`."""
    return Rule(f"at_least:{threshold:g}", ("watched",), pl.col("watched") >= threshold, any_number=True)


def everything() -> Rule:
    """Every exposure is watched."""
    return Rule("all", (), pl.lit(True))


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
      ValueError: there is no such rule, or its threshold is no number that it can have.
    """
    name, _, threshold = text.partition(":")
    whole = {"column": by_column, "all": everything}
    if text in whole:
        return whole[text]()
    rules = {"at_least": by_threshold, "ratio": by_ratio, "seconds": by_seconds}
    if name not in rules:
        raise ValueError(f"--label={text}: no such rule; {REMEDY}")
    try:
        value = float(threshold)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (value <= 0 and name != "at_least"):
        above = "" if name == "at_least" else " above 0"
        raise ValueError(f"--label={text}: the threshold must be a number{above}; {REMEDY}")
    return rules[name](value)


def feedback(rule: Rule, disliked: pl.Expr) -> pl.Expr:
    """The feedback code of each exposure, int8: DISLIKED if the user said so, otherwise by the rule."""
    code = pl.when(disliked).then(DISLIKED).when(rule.watched).then(WATCHED).otherwise(SKIPPED)
    return code.cast(pl.Int8).alias("feedback")
