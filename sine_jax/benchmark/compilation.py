"""Whether programs were compiled, or loaded from JAX's compilation cache."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from jax import monitoring

COMPILED, LOADED, PARTLY_LOADED = "compiled", "loaded from the cache", "partly loaded from the cache"
_LOADS = "/jax/compilation_cache/cache_hits"
_STORES = "/jax/compilation_cache/cache_misses"  # JAX records it when it stores what it has just compiled


class Programs(NamedTuple):
    """What JAX said of the programs that it needed while it was watched."""

    events: Counter[str]

    def note(self, event: str, **_: Any) -> None:
        """Counts an event of JAX."""
        self.events[event] += 1

    @property
    def origin(self) -> str:
        """`COMPILED`, `LOADED` or `PARTLY_LOADED`.

        Programs that compile too quickly for the cache do not count: they are compiled every time.
        """
        if not self.events[_LOADS]:
            return COMPILED
        return PARTLY_LOADED if self.events[_STORES] else LOADED


@contextlib.contextmanager
def watch() -> Iterator[Programs]:
    """Watches the programs that JAX needs within the block."""
    programs = Programs(Counter())
    monitoring.register_event_listener(programs.note)
    try:
        yield programs
    finally:
        monitoring.unregister_event_listener(programs.note)
