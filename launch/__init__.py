"""Command lines of sine_jax: thin absl apps over the library."""

import os
import signal
import sys
from types import FrameType


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted: nothing was begun; run the same command again\n")
    os._exit(130)


# Ctrl-C while a launch still imports what its flags need. Python's name is "-m" while it looks for a module to start.
_starting = sys.argv[:1] == ["-m"] or os.path.basename(sys.argv[0]).startswith("sine-")
if _starting and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)
