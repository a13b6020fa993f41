"""Whose turn it is to ask a host's engine: all clients' together, or that of one suspected request, alone.

Two files of the engine's directory are locked by `flock`, which the kernel frees when a holder dies. A client holds
`in_flight.lock` shared while it asks anything. A suspect first takes `suspect.lock`, which keeps new requests and other
suspects of the host waiting, and then `in_flight.lock` for itself, which it gets once what was in flight has ended.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path

from pipelines.engines.homes import EngineDirectory, open_lock, try_lock

_POLL_SECONDS = 0.05


class Turns:
    """One client's turns; its coroutines run in one event loop."""

    def __init__(self, directory: EngineDirectory) -> None:
        self._suspect_path = directory.path / "suspect.lock"
        self._in_flight_path = directory.path / "in_flight.lock"
        self._files: tuple[int, int] | None = None  # the same two, as ordinary requests lock them
        self._asking = 0
        self._suspects = 0
        self._entering = asyncio.Lock()
        self._suspecting = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Ask among others, once no suspect of any client waits or asks."""
        async with self._entering:  # one of many polls
            while not self._may_enter():
                await asyncio.sleep(_POLL_SECONDS)
            self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1
            if not self._asking and self._files is not None:
                fcntl.flock(self._files[1], fcntl.LOCK_UN)

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Ask while no client has anything else in flight."""
        self._suspects += 1
        try:
            async with self._suspecting, _held(self._suspect_path), _held(self._in_flight_path):
                yield
        finally:
            self._suspects -= 1

    def _may_enter(self) -> bool:
        if self._suspects:
            return False
        if self._files is None:
            self._files = open_lock(self._suspect_path), open_lock(self._in_flight_path)
        suspect, in_flight = self._files
        if not try_lock(suspect, fcntl.LOCK_SH):
            return False
        fcntl.flock(suspect, fcntl.LOCK_UN)
        return self._asking > 0 or try_lock(in_flight, fcntl.LOCK_SH)

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._files or ():
            os.close(descriptor)
        self._files = None


@contextlib.asynccontextmanager
async def _held(path: Path) -> AsyncIterator[None]:
    descriptor = open_lock(path)
    try:
        while not try_lock(descriptor, fcntl.LOCK_EX):
            await asyncio.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)
