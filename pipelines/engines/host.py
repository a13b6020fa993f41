"""Engines belong to the host: started once for a spec, found by every process of the same run and user, ended by lease.

A vLLM engine inside a Spark Python worker would die with the worker and leave its EngineCore holding the device (vllm
issue 55510). Here clients only find it: `ensure_engine` under a host-local lock. An engine lives as long as somebody
renews its lease, which the driver does (`of_run.py`) and clients do while they have requests in flight. When the
driver is killed, nothing of the engine is left `lease_seconds` plus some 4 s later.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipelines.engines import uds
from pipelines.engines.homes import (
    EngineDirectory,
    EngineRecord,
    home_folder,
    on_device,
    own_device,
    remove_old,
    spec_digest,
    uncleaned,
)
from pipelines.engines.launch import engine_command, has_gpu, server_environment
from pipelines.engines.processes import is_alive, kill_group, members
from pipelines.engines.protocol import GeneratorSpec
from pipelines.engines.supervisor import Plan
from pipelines.errors import EngineError
from schemas.digests import digest

HEARTBEAT_SECONDS = 2.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineHandle:
    """A running engine.

    Attributes:
        ident: of this start; a restarted engine has another.
        socket: path of its unix socket.
        pid, pgid: the supervisor, and the server's process group.
        started: Unix time.
    """

    ident: str
    socket: str
    pid: int
    pgid: int
    started: float


def _handle(record: EngineRecord) -> EngineHandle:
    return EngineHandle(record.ident, record.socket, record.pid, record.group, record.started)


def ensure_engine(spec: GeneratorSpec, *, instead_of: EngineHandle | None = None) -> EngineHandle:
    """The spec's engine on this host, started if it does not run; concurrent calls start exactly one.

    Args:
        spec: the engine; found only by the same owner, user, host and device.
        instead_of: an engine that the caller knows to be dead or hung; if it is still the one on record, it is
            ended, whatever its health check says, and another started.

    Returns:
        A healthy engine.

    Raises:
        EngineError: it can't be started; the message holds the decisive lines of its log and the log's path.
    """
    directory = EngineDirectory.of(spec)
    with _renewing(directory):
        record = _found_or_launched(spec, directory, instead_of)
        # Waiting holds no lock, so that a starting engine can be stopped.
        return _await_ready(directory, record.ident, spec.owner)


def launch_engine(spec: GeneratorSpec) -> None:
    """Have the spec's engine begin to start, unless it runs or does already; `ensure_engine` waits for it.

    Whoever asks keeps a `Lease`, or the engine ends before anyone finds it.
    """
    _found_or_launched(spec, EngineDirectory.of(spec), None)


def _found_or_launched(
    spec: GeneratorSpec, directory: EngineDirectory, instead_of: EngineHandle | None
) -> EngineRecord:
    directory.renew()
    if spec.alone:
        stop_all(spec.home, spec.owner, here=True, serves=spec.serves, but=directory)
    with directory.locked("engine"):
        record = directory.read()
        if record is not None and _is_usable(record, instead_of):
            return record
    return _start(spec, directory, instead_of)


def _start(spec: GeneratorSpec, directory: EngineDirectory, instead_of: EngineHandle | None) -> EngineRecord:
    """Start the engine, unless another process has meanwhile, in place of what is on record.

    One at a time starts on a GPU: vLLM measures the memory that is free, and fails if there is suddenly more or less.
    """
    home, told = EngineDirectory(directory.path.parent), False
    while True:
        with home.locked(f"start-{digest(own_device())[:8]}"):
            neighbours = _neighbours(directory)
            starting = [record for record in neighbours if record.state == "starting"]
            if not starting:
                with directory.locked("engine"):
                    record = directory.read()
                    if record is not None:
                        if _is_usable(record, instead_of):
                            return record
                        why = record.error or "it does not answer"
                        _log.warning("replacing an engine that is %s: %s", record.state, why)
                        _end(directory, record)
                    return _launch(spec, directory)
        if not told:
            _log.info("waiting until another engine of this GPU has started; its log: %s", starting[0].log)
            told = True
        directory.renew()
        time.sleep(0.1)


def _neighbours(directory: EngineDirectory) -> list[EngineRecord]:
    """Other engines on this process's GPU; a CPU has no memory that engines measure."""
    device = own_device()
    if not device and not has_gpu():
        return []
    found = running_engines(str(directory.path.parent))
    return [item for item in found if on_device(item.device) and item.folder != directory.path.name]


def _is_usable(record: EngineRecord, instead_of: EngineHandle | None) -> bool:
    if instead_of is not None and record.ident == instead_of.ident:
        return False
    if record.state == "failed" or not is_alive(record.pid, record.ticks):
        return False
    return record.state == "starting" or uds.is_healthy(record.socket)


def _launch(spec: GeneratorSpec, directory: EngineDirectory) -> EngineRecord:
    """Start a supervisor and wait for its record; what is old goes first."""
    remove_old(directory.path.parent)
    ident = uuid.uuid4().hex
    socket = directory.socket_path(ident)
    environment, dropped = server_environment(spec)
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    plan = Plan(
        ident=ident,
        digest=spec_digest(spec),
        owner=spec.owner,
        serves=spec.serves,
        socket=socket,
        command=tuple(engine_command(spec, socket)),
        environment=environment,
        dropped=dropped,
        lease_seconds=spec.lease_seconds,
        stall_seconds=float(spec.options.get("start_stall_seconds", 180.0)),
        cap_seconds=float(spec.options.get("start_cap_seconds", 3600.0)),
    )
    plan.save(directory.plan_path)
    with (directory.path / "supervisor.log").open("ab") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "pipelines.engines.supervisor", "--home", str(directory.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": environment["PYTHONPATH"]},
            cwd="/",
            start_new_session=True,
        )
    threading.Thread(target=supervisor.wait, daemon=True, name="mart-reaper").start()
    _log.info("starting a %s engine for %s; log: %s", spec.backend, spec.model, directory.log_path)
    deadline = time.monotonic() + 60.0
    try:
        while time.monotonic() < deadline:
            record = directory.read()
            if record is not None and record.ident == ident:
                return record
            if supervisor.returncode is not None:
                break
            time.sleep(0.05)
        raise EngineError(
            f"the engine's supervisor did not start; its log is {directory.path / 'supervisor.log'}"
        )
    except BaseException:  # without a record nobody else could end it
        supervisor.terminate()
        raise


def _await_ready(directory: EngineDirectory, ident: str, owner: str) -> EngineHandle:
    renewed = 0.0
    while True:
        record = directory.read()
        if record is None or record.ident != ident:
            raise EngineError(f"the engine was stopped while it started; its log is {directory.log_path}")
        if record.state == "ready":
            return _handle(record)
        if record.state == "failed" or not is_alive(record.pid, record.ticks):
            error = record.error or "the engine's supervisor was killed while the engine started"
            raise EngineError(f"{error}\nThe engine's log is {directory.log_path}")
        if time.monotonic() - renewed > HEARTBEAT_SECONDS:
            # The run's other engines on the GPU keep their memory until this one has measured what is free.
            for other in _neighbours(directory):
                if other.owner == owner:
                    EngineDirectory(directory.path.with_name(other.folder)).renew()
            renewed = time.monotonic()
        time.sleep(0.1)


def _end(directory: EngineDirectory, record: EngineRecord) -> None:
    """End an engine: ask its supervisor, then kill what is left of both."""
    deadline = time.monotonic() + 10.0
    if is_alive(record.pid, record.ticks):
        with suppress(ProcessLookupError):  # it may end by itself meanwhile
            os.kill(record.pid, signal.SIGTERM)
        while is_alive(record.pid, record.ticks) and time.monotonic() < deadline:
            time.sleep(0.05)
        if is_alive(record.pid, record.ticks):
            with suppress(ProcessLookupError):
                os.kill(record.pid, signal.SIGKILL)
    # The record can be older than the server it tells of; the supervisor's last one is the truth.
    latest = directory.read()
    if latest is not None and latest.ident == record.ident:
        record = latest
    if record.group and not kill_group(record.group, record.group_ticks):
        left = ", ".join(str(item.pid) for item in members(record.group))
        raise EngineError(
            f"processes {left} of a dead engine can't be killed; the device stays taken until they end"
        )
    directory.record_path.unlink(missing_ok=True)
    Path(record.socket).unlink(missing_ok=True)
    shutil.rmtree(directory.temporary_path(record.ident), ignore_errors=True)


def stop_engine(spec: GeneratorSpec) -> bool:
    """End the spec's engine on this host, its whole process group, and free its device.

    Returns:
        Whether there was one.

    Raises:
        EngineError: a process outlived SIGKILL.
    """
    directory = EngineDirectory.of(spec)
    with directory.locked("engine"):
        record = directory.read()
        if record is None:
            return False
        _end(directory, record)
    return True


def running_engines(home: str = "") -> list[EngineRecord]:
    """Records of the engines whose supervisor lives, below a home of this user."""
    root = home_folder(home)
    found = (EngineDirectory(path.parent).read() for path in sorted(root.glob("*/engine.json")))
    return [record for record in found if record is not None and is_alive(record.pid, record.ticks)]


def stop_all(
    home: str = "",
    owner: str | None = None,
    *,
    here: bool = False,
    serves: str | None = None,
    but: EngineDirectory | None = None,
    spare_used: bool = False,
) -> int:
    """End every engine below a home, and what dead ones left; return how many.

    Args:
        home: the home; the user's own when empty.
        owner, serves: of one owner, serving this; None for all.
        here: only those on a device of this process.
        but: leave this one.
        spare_used: leave those that a living process uses.

    Raises:
        EngineError: a process outlived SIGKILL.
    """
    root, count = home_folder(home), 0
    if not root.is_dir():
        return 0
    with uncleaned(root):
        for path in sorted(root.glob("*/engine.json")):
            directory = EngineDirectory(path.parent)
            if but is not None and path.parent.name == but.path.name:
                continue
            with directory.locked("engine"):
                record = directory.read()
                if (
                    record is not None
                    and owner in (None, record.owner)
                    and (not here or on_device(record.device))
                    and serves in (None, record.serves)
                    and not (spare_used and directory.is_used())
                ):
                    _end(directory, record)
                    count += 1
    return count


class Lease:
    """Renews an engine's lease every 2 s from a thread, until closed.

    Who `uses` the engine is spared its end by others (`stop_all`). A Spark worker also stops when it is orphaned: one
    whose driver was killed must not keep the engine. The driver does not, since the shell that started it may well have gone.
    """

    def __init__(self, directory: EngineDirectory, *, uses: bool = True) -> None:
        self._directory = directory
        self._parent = os.getppid() if "pyspark.worker" in sys.modules else None
        self._closed = threading.Event()
        self._use = directory.use() if uses else None
        directory.renew()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="mart-lease")
        self._thread.start()

    def _renew(self) -> None:
        try:
            while not self._closed.wait(HEARTBEAT_SECONDS):
                if self._parent is not None and os.getppid() != self._parent:
                    return
                self._directory.renew()
        finally:
            if self._use is not None:
                os.close(self._use)

    def close(self, handover: float = 0.0) -> None:
        """Stop renewing; the engine ends when the lease does, or so many seconds from now, unless others renew it."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._thread.join()
        if handover:
            self._directory.renew(handover)


@contextmanager
def _renewing(directory: EngineDirectory) -> Iterator[None]:
    lease = Lease(directory)
    try:
        yield
    finally:
        lease.close()


@contextmanager
def keep_alive(spec: GeneratorSpec) -> Iterator[None]:
    """Keep a spec's engine alive between its uses, whether or not it runs now."""
    with _renewing(EngineDirectory.of(spec)):
        yield
