"""The process that keeps one engine: starts it, watches its lease, and ends its whole group.

`python -m pipelines.engines.supervisor --home DIR` runs in a session of its own, so that neither Ctrl-C nor the end
of a Spark task reaches it. It reads `plan.json`, starts the server behind a warden (`warden.py`), and then waits for the
first of: the lease goes stale; the server ends; it is told to stop (SIGTERM). Each ends with no process and no socket
left. If the supervisor itself is killed, the warden sees its pipe end and does the same.
"""

import argparse
import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.engines import uds
from pipelines.engines.homes import EngineDirectory, EngineRecord, own_device, write_json
from pipelines.engines.processes import boot_id, find, kill_group, members, shared_memory

_POLL_SECONDS = 0.25
_GRACE_SECONDS = 3.0
# Looking for progress reads all of /proc; a start takes minutes.
_PROGRESS_SECONDS = 1.0
# An assertion that says nothing is told by the line of source before its name.
_DECISIVE = re.compile(
    r"\b\w*(?:Error|Exception|Exit)\b(?::|$)|\bassert |error:|out of memory|Killed|unrecognized arguments",
    re.IGNORECASE,
)
_UNTELLING = re.compile(
    r"Engine core initialization failed|See root cause|Traceback|resource_tracker", re.IGNORECASE
)
_log = logging.getLogger("mart.supervisor")


@dataclass(frozen=True, slots=True)
class Plan:
    """What the supervisor is to start; written by the client that starts it, read once.

    Attributes:
        ident, digest, owner, serves, socket: see `EngineRecord`.
        command: the server's command line.
        environment: variables to set.
        dropped: variables not to inherit.
        lease_seconds: age at which the lease is stale, unless its last renewal asked for more.
        stall_seconds: a start that neither writes to its log nor computes for so long has failed.
        cap_seconds: a start may take no longer, whatever it does.
    """

    ident: str
    digest: str
    owner: str
    serves: str
    socket: str
    command: tuple[str, ...]
    environment: dict[str, str]
    dropped: tuple[str, ...]
    lease_seconds: float
    stall_seconds: float
    cap_seconds: float

    def save(self, path: Path) -> None:
        """Write the plan."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Read a plan."""
        content: dict[str, Any] = json.loads(path.read_text())
        return cls(**content)


class Watch:
    """Tells when something has not changed for a time, on the clock that stands still while the host sleeps."""

    def __init__(self) -> None:
        self._value: object = None
        self._since = self._looked = time.monotonic()

    def age(self) -> float:
        """Seconds since somebody last looked."""
        return time.monotonic() - self._looked

    def unchanged_for(self, value: object) -> float:
        """Seconds since `value` last differed from the one before."""
        self._looked = time.monotonic()
        if value != self._value:
            self._value, self._since = value, time.monotonic()
        return time.monotonic() - self._since


def decisive_lines(log: str, *, most: int = 4) -> str:
    """The lines of a server's log that say why it failed, the last of them last; else its last lines."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    telling = [line for line in lines if _DECISIVE.search(line) and not _UNTELLING.search(line)]
    return "\n".join(list(dict.fromkeys(telling))[-most:] or lines[-most:])[-2000:]


class Supervisor:
    """One engine's keeper."""

    def __init__(self, directory: EngineDirectory) -> None:
        self.directory = directory
        self.plan = Plan.load(directory.plan_path)
        me = find(os.getpid())
        self.record = EngineRecord(
            state="starting",
            ident=self.plan.ident,
            digest=self.plan.digest,
            owner=self.plan.owner,
            serves=self.plan.serves,
            socket=self.plan.socket,
            log=str(directory.log_path),
            pid=os.getpid(),
            ticks=me.ticks if me else 0,
            started=time.time(),
            boot=boot_id(),
            device=own_device(),
        )
        self.stopping = False
        self.shared: set[Path] = set()
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def run(self) -> int:
        """Keep the engine until it ends, and return the exit code: 0, or 1 if it failed."""
        # The record comes first: whoever finds it can end what this process is about to start.
        self.directory.write(self.record)
        Path(self.plan.socket).unlink(missing_ok=True)
        warden = self._start()
        error = self._watch(warden)
        self._end(warden, error)
        return 1 if error else 0

    def _start(self) -> "subprocess.Popen[bytes]":
        environment = {name: value for name, value in os.environ.items() if name not in self.plan.dropped}
        temporary = self.directory.temporary_path(self.plan.ident)
        temporary.mkdir(mode=0o700, exist_ok=True)
        # What torch has compiled is worth keeping, and would lie among temporary files too. Torch itself names that place
        # in the environment of a Spark worker, from which an engine may have been started.
        among_temporary = str(Path(tempfile.gettempdir()) / "torchinductor_")
        compiled = environment.get("TORCHINDUCTOR_CACHE_DIR", "")
        if not compiled or compiled.startswith(among_temporary):
            compiled = str(self.directory.path.parent / "torchinductor")
        environment |= {
            "TMPDIR": str(temporary),
            "TORCHINDUCTOR_CACHE_DIR": compiled,
            **self.plan.environment,
        }
        reading, _writing = os.pipe()  # the writing end stays open here alone, until this process dies
        command = [
            sys.executable,
            "-m",
            "pipelines.engines.warden",
            str(reading),
            str(temporary),
            self.plan.socket,
            *self.plan.command,
        ]
        if self.directory.log_path.exists():
            self.directory.log_path.replace(self.directory.path / "server.previous.log")
        with self.directory.log_path.open("wb") as log:
            warden = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[reading],
                start_new_session=True,
            )
        os.close(reading)
        process = find(warden.pid)
        self.record = replace(self.record, group=warden.pid, group_ticks=process.ticks if process else 0)
        self.directory.write(self.record)
        return warden

    def _watch(self, warden: "subprocess.Popen[bytes]") -> str:
        """Wait for an end; return the error, or the empty string where the end is wanted."""
        lease, progress = Watch(), Watch()
        began = time.monotonic()
        while not self.stopping:
            if warden.poll() is not None:
                what = "died" if self.record.state == "ready" else "did not start"
                return f"the engine {what}: {decisive_lines(self.directory.log_tail(lines=1000))}"
            renewed, asked = self.directory.lease()
            lasts = max(self.plan.lease_seconds, asked)
            if lease.unchanged_for(renewed) > lasts:
                _log.info("nobody renewed the lease for %.0f s: ending the engine", lasts)
                return ""
            if self.record.state == "starting":
                if Path(self.plan.socket).exists() and uds.is_healthy(self.plan.socket, timeout=2.0):
                    self.record = replace(self.record, state="ready")
                    self.directory.write(self.record)
                    self.shared = shared_memory(members(self.record.group))
                    _log.info("the engine is ready after %.0f s", time.monotonic() - began)
                elif error := self._start_error(time.monotonic() - began, progress):
                    return error
            time.sleep(_POLL_SECONDS)
        return ""

    def _start_error(self, elapsed: float, progress: Watch) -> str:
        """Why a start is given up, or the empty string while it may go on."""
        if progress.age() < _PROGRESS_SECONDS:
            return ""
        stalled = progress.unchanged_for(self._progress()) > self.plan.stall_seconds
        if not stalled and elapsed <= self.plan.cap_seconds:
            return ""
        what = "stands still" if stalled else "takes too long"
        return f"the engine's start {what} after {elapsed:.0f} s: {decisive_lines(self.directory.log_tail())}"

    def _progress(self) -> tuple[int, int]:
        """Size of the log, and CPU seconds of the group in steps of 2 s."""
        busy = sum(item.cpu_seconds for item in members(self.record.group))
        return self.directory.log_path.stat().st_size, int(busy // 2)

    def _end(self, warden: "subprocess.Popen[bytes]", error: str) -> None:
        if error:
            self.directory.write(replace(self.record, state="failed", error=error))
        else:
            # From here on nobody finds the engine; then its processes go.
            self.directory.record_path.unlink(missing_ok=True)
            self._ask_to_end(warden.pid)
        if not kill_group(self.record.group, self.record.group_ticks):
            _log.error("processes of group %d outlived SIGKILL", self.record.group)
        warden.wait()
        for path in self.shared:
            path.unlink(missing_ok=True)
        Path(self.plan.socket).unlink(missing_ok=True)
        shutil.rmtree(self.directory.temporary_path(self.plan.ident), ignore_errors=True)

    def _ask_to_end(self, warden: int) -> None:
        """SIGTERM the server and give it a moment, in which it removes its shared memory."""
        for item in members(warden):
            if item.parent == warden:
                with contextlib.suppress(ProcessLookupError):  # it may end by itself meanwhile
                    os.kill(item.pid, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_SECONDS
        while members(warden) and time.monotonic() < deadline:
            time.sleep(0.05)


def main() -> int:
    """Entry point of the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", required=True, help="directory of the engine, with plan.json")
    home = Path(parser.parse_args().home)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    return Supervisor(EngineDirectory(home)).run()


if __name__ == "__main__":
    sys.exit(main())
