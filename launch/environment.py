"""What a launch sets of JAX: where compiled programs are kept. XLA's own flags are the user's (`XLA_FLAGS`)."""

from __future__ import annotations

import os
from pathlib import Path

import jax


def keep_compiled_programs() -> None:
    """Keeps what takes long to compile for the next launch, unless the environment names another folder or none.

    The folder is `sine_jax` in `XDG_CACHE_HOME`, else in `~/.cache`. `JAX_COMPILATION_CACHE_DIR` names another,
    `JAX_ENABLE_COMPILATION_CACHE=false` keeps nothing.
    """
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(base) / "sine_jax"))
