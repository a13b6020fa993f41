"""One driver a run at a time: a lease in the `runs` table, which Delta's optimistic commits make exclusive."""

import logging
import os
import socket
import threading
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pyspark.sql import Row
from pyspark.sql import functions as F

from pipelines.engines.processes import boot_id
from pipelines.errors import ConfigError, RunHeld
from pipelines.lakehouse import Lakehouse, quote, retry_conflicts
from schemas.digests import digest

log = logging.getLogger(__name__)

_TRIES = 5


def _start_ticks(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _numbering() -> str:
    """What tells the numbers of this boot's and container's processes from others, which may be on a host of the same name."""
    try:
        container = os.readlink("/proc/self/ns/pid")
    except OSError:
        container = ""
    return digest([boot_id(), container])[:8]


def process_holder() -> str:
    """A name for this process that no other process, on any host, ever has."""
    pid = os.getpid()
    return f"process:{socket.gethostname()}:{pid}:{_start_ticks(pid)}:{_numbering()}-{uuid.uuid4().hex[:8]}"


def is_dead(holder: str) -> bool:
    """Whether a holder is a process of this very host and container that has ended; of others nothing can be said."""
    kind, _, rest = holder.partition(":")
    parts = rest.split(":")
    if kind != "process" or len(parts) != 4 or parts[0] != socket.gethostname() or not parts[1].isdigit():
        return False
    if parts[3].partition("-")[0] != _numbering():
        return False
    return _start_ticks(int(parts[1])) != parts[2]


class RunLease:
    """The right to drive a run, renewed in the background while it is held.

    Args:
        lakehouse: where the run's row in `runs` is.
        run_id: the run.
        holder: who asks: `process_holder()`, or the name of a scheduler's own run.
        seconds: the lease lapses so long after the last renewal.
    """

    def __init__(self, lakehouse: Lakehouse, run_id: str, holder: str, seconds: float = 180.0) -> None:
        self.lakehouse = lakehouse
        self.run_id = run_id
        self.holder = holder
        self.seconds = seconds
        self.lost: str | None = None
        self._until = datetime.max.replace(tzinfo=UTC)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, *, renew: bool = True) -> None:
        """Take the lease.

        Raises:
            RunHeld: someone else holds it; says who and until when.
            ConfigError: there is no such run.
        """
        for _ in range(_TRIES):
            holder, until = self._current()
            if holder not in (None, self.holder) and until > datetime.now(UTC) and not is_dead(holder or ""):
                raise RunHeld(
                    f"run {self.run_id} is held by {holder} until {until:%Y-%m-%d %H:%M:%S} UTC: "
                    "wait for it to end, or stop it; a holder that died lets go by then"
                )
            self._write(self.holder, expected=holder)
            if self._current()[0] == self.holder:
                break
        else:
            raise RunHeld(f"run {self.run_id} changed hands {_TRIES} times while it was asked for; try again")
        if renew:
            self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
            self._thread.start()

    def check(self) -> None:
        """Raise `RunHeld` if the lease was lost since it was taken; one that lapsed unrenewed may have been."""
        if not self.lost and datetime.now(UTC) > self._until:
            self._look()
        if self.lost:
            raise RunHeld(self.lost)

    def release(self) -> None:
        """Let go, unless another holder has taken over meanwhile, or the run was never begun."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if (row := self._row()) is not None and row["lease_holder"] == self.holder:
            self._write(None, expected=self.holder)

    def _row(self) -> Row | None:
        return (
            self.lakehouse.read("runs")
            .where(F.col("run_id") == self.run_id)
            .select("lease_holder", F.unix_micros("lease_until").alias("until"))
            .head()
        )

    def _current(self) -> tuple[str | None, datetime]:
        row = self._row()
        if row is None:
            raise ConfigError(f"there is no run {self.run_id!r} in {self.lakehouse.schema}")
        return row["lease_holder"], datetime.fromtimestamp((row["until"] or 0) / 1e6, UTC)

    def _write(self, holder: str | None, expected: str | None) -> None:
        until = "NULL"
        if holder is not None:
            end = datetime.now(UTC) + timedelta(seconds=self.seconds)
            until = f"timestamp_micros({int(end.timestamp() * 1e6)})"
        update = (
            f"UPDATE {self.lakehouse.name('runs')} SET lease_holder = {quote(holder) if holder else 'NULL'}, "
            f"lease_until = {until} WHERE run_id = {quote(self.run_id)} "
            f"AND lease_holder <=> {quote(expected) if expected else 'NULL'}"
        )
        # Where another driver's commit came first, the next try finds that holder, and changes nothing.
        retry_conflicts(f"lease of run {self.run_id}", lambda: self.lakehouse.spark.sql(update))
        if holder is not None:
            self._until = end

    def _look(self) -> bool:
        """Whether the lease is still ours."""
        holder, _ = self._current()
        if holder != self.holder:
            self.lost = f"run {self.run_id} was taken over by {holder}"
            log.error("%s", self.lost)
        return not self.lost

    def _renew(self) -> None:
        while not self._stop.wait(self.seconds / 3):
            try:
                if not self._look():
                    return
                self._write(self.holder, expected=self.holder)
            except Exception:
                log.exception("the lease of run %s could not be renewed; trying again", self.run_id)
