"""The networks, one file each: SINE and what it is compared with. Each is loaded when first asked for."""

from __future__ import annotations

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    """The module of a network, such as `sine_jax.networks.sasrec`."""
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise  # the network is there, and imports a module that is not
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
