"""The one way a launch starts, and ends when its user has made a mistake."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from absl import app, flags, logging


def launch_app(main: Callable[..., None], *, takes_words: bool = False) -> None:
    """Parses the flags, calls `main`, and turns a user's mistake into one line and exit code 1.

    Mistakes are ValueError and OSError, which the library raises where input enters, with the remedy in the message.
    `--verbosity=1` shows the traceback instead. `--help` prints the docstring of `main`'s module and every flag that a
    module of `launch` defines, whether started by `python -m` or by a console script.

    Args:
      main: the launch, reading its own flags.
      takes_words: `main` is given the words that are no flags, as a list; else there must be none.
    """
    # The libraries below tell their every step at INFO, which is where absl starts unless told otherwise.
    flags.FLAGS.set_default("verbosity", logging.WARNING)
    flags.FLAGS["verbosity"].using_default_value = False
    sys.modules["__main__"].__doc__ = sys.modules[main.__module__].__doc__
    for module, defined in list(flags.FLAGS.flags_by_module_dict().items()):
        if module.startswith("launch."):
            for flag in defined:
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1 and not takes_words:
            raise app.UsageError(f"not a flag: {argv[1]!r}; flags look like --name=value")
        try:
            main(*([argv[1:]] if takes_words else []))
        except (ValueError, OSError) as error:
            if logging.get_verbosity() >= logging.DEBUG:
                raise
            print(f"{os.path.basename(sys.argv[0])}: error: {error}", file=sys.stderr)
            sys.exit(1)

    keep_compiled_programs()
    app.run(guarded)


def keep_compiled_programs() -> None:
    """Keeps what takes long to compile for the next launch, unless the environment names another folder or none.

    The folder is `sine_jax` in `XDG_CACHE_HOME`, else in `~/.cache`. `JAX_COMPILATION_CACHE_DIR` names another,
    `JAX_ENABLE_COMPILATION_CACHE=false` keeps nothing.
    """
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(base) / "sine_jax"))
