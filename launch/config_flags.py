"""A flag for every option of the library: `--section.option=value`, derived from `sine_jax.config`.

A flag that is not given leaves the preset's value as it is.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from absl import flags

from sine_jax import config as configs
from sine_jax.config import Config
from sine_jax.presets import PRESETS

PRESET = flags.DEFINE_enum("preset", "default", list(PRESETS), "Where the options start from.")


def options() -> dict[str, dataclasses.Field]:
    """Every option by its dotted name."""
    sections = {field.name: type(getattr(Config(), field.name)) for field in dataclasses.fields(Config)}
    return {
        f"{name}.{field.name}": field for name, section in sections.items() for field in dataclasses.fields(section)
    }


def _define(name: str, field: dataclasses.Field, kind: Any) -> flags.FlagHolder:
    """Defines one flag, unset by default."""
    text = f"{field.metadata['help']} Default preset: {field.default}."
    if field.metadata["choices"]:
        return flags.DEFINE_enum(name, None, list(field.metadata["choices"]), text)
    if kind is bool:
        return flags.DEFINE_bool(name, None, text)
    if kind is int:
        return flags.DEFINE_integer(name, None, text)
    if kind is float:
        return flags.DEFINE_float(name, None, text)
    return flags.DEFINE_string(name, None, text)


def _kind(name: str) -> Any:
    section, field = name.split(".")
    return typing.get_type_hints(type(getattr(Config(), section)))[field]


_FLAGS = {name: _define(name, field, _kind(name)) for name, field in options().items()}


def config() -> Config:
    """The preset with the given flags over it.

    Raises:
      ValueError: values that do not go together.
    """
    given = {name: flag.value for name, flag in _FLAGS.items() if flag.value is not None}
    return configs.replace(
        PRESETS[PRESET.value](), {name: _number(v) if _is_weight(name) else v for name, v in given.items()}
    )


def _is_weight(name: str) -> bool:
    """Whether an option is a number or a schedule, and so came as text."""
    return _kind(name) == float | str


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
