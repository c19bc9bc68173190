"""A flag for every option of the library: `--section.option=value`, derived from `sine_jax.config`.

Without its flag, an option has the preset's value. `--help` shows the flags by section.
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from typing import Any

from absl import flags

from sine_jax import config as configs
from sine_jax.config import Config
from sine_jax.presets import PRESETS

_DEFAULT = PRESETS["default"]()
PRESET = flags.DEFINE_enum(
    "preset", "default", list(PRESETS), "The configuration to start from; the defaults below are those of `default`."
)


def _define(name: str, field: dataclasses.Field, kind: Any) -> flags.FlagHolder:
    """Defines one flag in its section; its value is None unless it is given."""
    section, _, option = name.partition(".")
    text = f"{field.metadata['help']} (default: {getattr(getattr(_DEFAULT, section), option)})"
    if field.metadata["choices"]:
        return flags.DEFINE_enum(name, None, list(field.metadata["choices"]), text, module_name=section)
    if kind is bool:
        return flags.DEFINE_bool(name, None, text, module_name=section)
    if kind is int:
        return flags.DEFINE_integer(name, None, text, module_name=section)
    if kind is float:
        return flags.DEFINE_float(name, None, text, module_name=section)
    return flags.DEFINE_string(name, None, text, module_name=section)


def _kind(name: str) -> Any:
    section, field = name.split(".")
    return typing.get_type_hints(type(getattr(Config(), section)))[field]


_FLAGS = {name: _define(name, field, _kind(name)) for name, field in configs.options().items()}


def _help() -> str:
    """The launch's own flags, then those of each section."""
    sections = [field.name for field in dataclasses.fields(Config)]
    return "\n".join(flags.FLAGS.module_help(name) for name in (sys.argv[0], *sections))


# absl's `--help` prints the text of this method, which by default covers the started module alone.
flags.FLAGS.__dict__["main_module_help"] = _help


def config() -> Config:
    """The preset with the given flags over it.

    Raises:
      ValueError: values do not fit together.
    """
    given = {name: flag.value for name, flag in _FLAGS.items() if flag.value is not None}
    return configs.replace(
        PRESETS[PRESET.value](), {name: _number(v) if _is_weight(name) else v for name, v in given.items()}
    )


def _is_weight(name: str) -> bool:
    """Whether an option is a number or a schedule, whose flag is a string."""
    return _kind(name) == float | str


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
