"""Flags that say how a log is split, for launches that need no run. They bear the names of the options `data.*`."""

from __future__ import annotations

from typing import Any

from absl import flags

_FLAGS = (
    flags.DEFINE_enum("split_by", None, ["last_positive", "by_time", "by_share"], "How the log is split."),
    flags.DEFINE_integer("train_until", None, "by_time: first instant of validation, ms since 1970."),
    flags.DEFINE_integer("valid_until", None, "by_time: first instant of the test, ms since 1970."),
    flags.DEFINE_float("train_share", None, "by_share: share of each user's exposures that is trained on."),
    flags.DEFINE_float("valid_share", None, "by_share: share of each user's exposures that validation adds."),
)


def given() -> dict[str, Any]:
    """The options that were given, by their names."""
    return {f"data.{flag.name}": flag.value for flag in _FLAGS if flag.value is not None}


def shown() -> str:
    """The flags that were given, as they are typed."""
    return " ".join(f"--{flag.name}={flag.value}" for flag in _FLAGS if flag.value is not None)
