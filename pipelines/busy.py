"""How long steps asked engines and judges, or trainers ran, when steps run side by side."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.step import Counts


class BusyClock:
    """Shares time out among the steps that are busy in it: a second in which two are gives each a half.

    The steps' seconds add up to the time in which any was busy, so that what is left of a round is idle time. A device may idle
    in a busy second too: a step is busy from its first task's start to its last commit.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy: dict[int, Counts] = {}
        self._since = 0.0

    @contextmanager
    def running(self, counts: Counts) -> Iterator[None]:
        """Count a step as busy."""
        with self._lock:
            self._settle()
            self._busy[id(counts)] = counts
        try:
            yield
        finally:
            with self._lock:
                self._settle()
                del self._busy[id(counts)]

    def _settle(self) -> None:
        now = time.monotonic()
        for counts in self._busy.values():
            counts.busy_seconds += (now - self._since) / len(self._busy)
        self._since = now
