"""How every launch starts and ends: help, a mistake in one line, Ctrl-C, a closed pipe, a full disk.

Exit codes: 0 after success and after help; 1 for a refusal; 2 for a usage error; 130 after Ctrl-C; 141 if the reader of
the output went away. Only a bug shows a traceback. This module and the top of every launch import nothing heavy, so
`--help` answers at once: a launch imports the library in its `main`, within `loading`.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from absl import app, flags, logging

from sine_jax.plain import printable

SUCCESS, REFUSED, USAGE, SIGNALLED, INTERRUPTED, CLOSED = 0, 1, 2, 128, 130, 141
GRACE = 2.0  # seconds after Ctrl-C in which a launch may clean up


class UsageError(ValueError):
    """The flags do not make sense: exit code 2."""


class _Interrupts:
    """What Ctrl-C does.

    It raises KeyboardInterrupt, so that running code can clean up, but that alone is not enough. While modules are
    imported, the exception may get lost and there is nothing to clean up: the process ends at once. Later, Python
    raises it only after a computation outside of Python, such as compiling: a thread says so. Ctrl-C pressed again
    ends the process in any case.
    """

    def __init__(self) -> None:
        self.at_once, self.pressed, self.line = True, False, ""
        self.waits, self.requested = False, 0  # whether the launch asks for itself; the signal that it was sent

    def catch(self, interrupted: str) -> None:
        """Begins to listen, unless the shell ignores Ctrl-C for this process."""
        self.line = f"{_program()}: interrupted: {interrupted}"
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            return
        self._arrived, notes = os.pipe()
        os.set_blocking(notes, False)
        signal.set_wakeup_fd(notes, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, self._press)
        threading.Thread(target=self._watch, daemon=True).start()

    def end(self) -> NoReturn:
        """Says what is kept, and ends the process."""
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            os.write(2, f"{self.line}\n".encode())  # not `print`, which may be what was interrupted
        os._exit(SIGNALLED + self.requested if self.requested else INTERRUPTED)

    def request(self, number: int, frame: FrameType | None) -> None:
        """Notes that the launch is to stop where it can; the second time ends it at once."""
        if self.requested:
            self.end()
        self.requested = number

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self.waits:
            self.request(number, frame)
            return
        if self.at_once or self.pressed:
            self.end()
        self.pressed = True
        sys.unraisablehook = lambda told: None  # Python would report an exception that cannot be raised
        raise KeyboardInterrupt

    def _watch(self) -> None:
        os.read(self._arrived, 1)
        time.sleep(1.0)
        if self.pressed:
            time.sleep(GRACE)  # to clean up
        else:
            say(f"{_program()}: stopping when this computation is done; press Ctrl-C again to stop at once")
            os.read(self._arrived, 1)
        self.end()


_interrupts = _Interrupts()


def launch_app(main: Callable[..., None], *, interrupted: str, takes_words: bool = False) -> None:
    """Parses the flags, calls `main`, and ends the process as its user expects.

    A user's mistake is one line on the standard error: a UsageError, or another ValueError or OSError of the library,
    with the remedy in the message. `--verbosity=1` shows the traceback instead. `--help` prints the docstring of
    `main`'s module and every flag that a module of `launch` defines, for `python -m` and for a console script.

    Args:
      main: the launch; it reads its own flags.
      interrupted: what Ctrl-C leaves and how to go on, in one sentence.
      takes_words: whether `main` takes a list of the words that are not flags; otherwise such words are refused.
    """
    # At INFO, absl's default, the libraries report every step.
    flags.FLAGS.set_default("verbosity", logging.WARNING)
    flags.FLAGS["verbosity"].using_default_value = False
    sys.modules["__main__"].__doc__ = sys.modules[main.__module__].__doc__
    for module, defined in list(flags.FLAGS.flags_by_module_dict().items()):
        if module.startswith("launch."):
            for flag in defined:
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1 and not takes_words:
            raise UsageError(f"{argv[1]}: not a flag; write --name=value")
        with full_disk_told_once():
            main(*([argv[1:]] if takes_words else []))
        sys.stdout.flush()  # here, where a closed pipe can still be handled

    _interrupts.catch(interrupted)
    try:
        app.run(guarded, flags_parser=_parsed)
    except BaseException as error:
        if _interrupts.pressed:  # first: libraries turn a KeyboardInterrupt into errors of their own
            _interrupts.end()
        if _is_closed_pipe(error):
            _forget_outputs()
            sys.exit(CLOSED)
        if not isinstance(error, (ValueError, OSError, flags.Error)) or _wants_tracebacks():
            raise
        _end(USAGE if isinstance(error, (UsageError, flags.Error)) else REFUSED, f"error: {_in_one_line(error)}")


@contextlib.contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """For work that can stop at some steps: yields what says whether it is to stop.

    Ctrl-C and SIGTERM ask for it. The second one ends the process at once. At the end of the block, a process that was
    asked to stop ends with exit status 130 or 143.
    """
    terminated = signal.signal(signal.SIGTERM, _interrupts.request)
    _interrupts.waits = True
    try:
        yield lambda: bool(_interrupts.requested)
    finally:
        _interrupts.waits = False
        signal.signal(signal.SIGTERM, terminated)
    if _interrupts.requested:
        sys.stdout.flush()
        _end(SIGNALLED + _interrupts.requested, "stopped: run the same command again to go on")


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """For the imports in `main`, after its flags are checked: first says that the launch has begun."""
    say(f"{_program()}: loading JAX and the library")
    keep_compiled_programs()
    yield
    _interrupts.at_once = False


def say(line: str) -> None:
    """Prints a line of progress on the standard error at once."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def read_from_flags() -> Iterator[None]:
    """Makes a refusal within the block a usage error, because it is about the value of a flag.

    Raises:
      UsageError: instead of the block's ValueError.
    """
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def keep_compiled_programs() -> None:
    """Keeps programs that take long to compile for the next launch, unless the environment says otherwise.

    The folder is `sine_jax` in `XDG_CACHE_HOME`, or in `~/.cache`. `JAX_COMPILATION_CACHE_DIR` names another folder;
    with `JAX_ENABLE_COMPILATION_CACHE=false` nothing is kept.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(base) / "sine_jax"))


@contextlib.contextmanager
def full_disk_told_once() -> Iterator[None]:
    """Silences the threads and loggers of other libraries about a full disk, which the launch reports in one line."""
    import logging as standard

    def is_full(error: BaseException | None) -> bool:
        from sine_jax import files

        return error is not None and files.is_full(error)

    def hook(args: threading.ExceptHookArgs) -> None:
        """TensorBoard's writer has its own thread, which fails too."""
        if not is_full(args.exc_value):
            threading.__excepthook__(args)

    def unheard(record: standard.LogRecord) -> bool:
        """Orbax logs a traceback for each thread that fails."""
        return not (record.exc_info and is_full(record.exc_info[1]))

    logger = standard.getLogger("absl")
    logger.addFilter(unheard)
    before, threading.excepthook = threading.excepthook, hook
    try:
        yield
    finally:
        threading.excepthook = before
        logger.removeFilter(unheard)


def _program() -> str:
    return os.path.basename(sys.argv[0])


def _parsed(argv: Sequence[str]) -> list[str]:
    """Parses the flags; returns the program's name and the words that are not flags."""
    try:
        return flags.FLAGS(argv)
    except SystemExit:  # absl's flags that print help end with 1
        sys.stdout.flush()
        sys.exit(SUCCESS)


def _end(code: int, line: str) -> NoReturn:
    """Ends the process with one line on the standard error."""
    with contextlib.suppress(OSError):
        say(f"{_program()}: {printable(line, 10_000)}")
    sys.exit(code)


def _is_closed_pipe(error: BaseException) -> bool:
    """Whether the reader of the output went away; rich turns that into a SystemExit."""
    return isinstance(error.__context__ if isinstance(error, SystemExit) else error, BrokenPipeError)


def _forget_outputs() -> None:
    """Discards the output that was not read, so that the interpreter can flush it at exit without an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())


def _wants_tracebacks() -> bool:
    return flags.FLAGS.is_parsed() and logging.get_verbosity() >= logging.DEBUG


def _choose_from(choices: Sequence[str]) -> str:
    return f"choose one of {', '.join(choices)}"


def _in_one_line(error: BaseException) -> str:
    """The message of a mistake; messages of absl and of the system are rewritten in the library's form."""
    text = " ".join(str(error).splitlines())
    if isinstance(error, flags.UnrecognizedFlagError):
        near = re.search(r"Did you mean: (.*) \?", text)
        names = [f"--{name.strip()}" for name in near[1].split(",")] if near else []
        remedy = f"the nearest {'is' if len(names) == 1 else 'are'} {', '.join(names)}" if names else "see --help"
        return f"--{error.flagname}: there is no such flag; {remedy}"
    if isinstance(error, flags.Error):
        missing = re.search(r"flag --(\S+)=None: Flag --\1 must have a value", text)
        if missing:
            flag = flags.FLAGS[missing[1]]
            choices = getattr(flag.parser, "enum_values", None)
            about = f"give the {flag.help[0].lower()}{flag.help[1:].rstrip('.')}"
            return f"--{missing[1]} is missing: {_choose_from(choices) if choices else about}"
        text = re.sub(r"^flag (--[^=]+=.*?): ", r"\1: ", text)
        text = re.sub(
            r"value should be one of <(.*)>$",
            lambda found: f"no such choice; {_choose_from(found[1].split('|'))}",
            text,
        )
        text = re.sub(r"\S+ is not (an? (?:non-|positive|negative|number|integer).*)$", r"must be \1", text)
        text = re.sub(r"^ERROR:: Unable to open flagfile: .*\] (.*): '(.*)'$", r"--flagfile=\2: \1; name another", text)
        text = re.sub(r"invalid literal for int\(\).*", "not a whole number; give one, such as 3", text)
        return re.sub(r"could not convert string to float.*", "not a number; give one, such as 0.5", text)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return text
