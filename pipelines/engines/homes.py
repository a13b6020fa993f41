"""Where an engine lives on this host: its directory, socket, lease and record, all by the digest of its spec."""

import contextlib
import fcntl
import json
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pipelines.engines.processes import boot_id, is_alive
from pipelines.engines.protocol import GeneratorSpec
from pipelines.errors import EngineError
from schemas.digests import digest

# The kernel's limit is 108 bytes with the closing zero.
_LONGEST_SOCKET = 100
_ZMQ_NAME = 37  # vLLM's own sockets: a slash and a UUID
_FOLDER = re.compile(r"[0-9a-f]{16}")  # an engine's directory in a home
_CLEANING = "clean.lock"
_KEPT_SECONDS = 7 * 86400.0  # logs of what has ended
# Settings of the client, not of the engine.
CLIENT_OPTIONS = {"in_flight", "hang_seconds", "start_stall_seconds", "start_cap_seconds"}


def spec_digest(spec: GeneratorSpec) -> str:
    """Digest (64 hex digits) of what decides an engine: its model, its settings, its owner, host and device.

    The lease, the home, the neighbours and what only the client reads stay out of it.
    """
    content = {item.name: getattr(spec, item.name) for item in fields(spec)}
    for name in ("home", "lease_seconds", "alone"):
        del content[name]
    content["options"] = {
        name: value for name, value in dict(spec.options).items() if name not in CLIENT_OPTIONS
    }
    content["host"] = platform.node()
    content["device"] = own_device()
    content["user"] = os.getuid()
    return digest(content)


def own_device() -> str:
    """The devices of this process and of an engine that it starts, as `CUDA_VISIBLE_DEVICES` names them."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")


def on_device(device: str) -> bool:
    """Whether an engine's devices, as `own_device` names them, are among this process's; without a name they are all of the host."""
    mine = own_device()
    return not mine or not device or not set(mine.split(",")).isdisjoint(device.split(","))


def default_home() -> Path:
    """The user's private directory on this host: `$XDG_RUNTIME_DIR/mart`, else `mart-UID` among temporary files."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime) / "mart"
    return Path(tempfile.gettempdir()) / f"mart-{os.getuid()}"


def home_folder(home: str) -> Path:
    """The folder of a home by its name, which is empty for the default one."""
    return Path(home) if home else default_home()


def private_directory(path: Path) -> Path:
    """Make a directory that nobody else can enter, or prove that an existing one is ours and closed to others.

    Raises:
        EngineError: it belongs to somebody else or is a link.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise EngineError(f"{path} is not a directory of this user; set the engine's home to one that is")
    if stat.S_IMODE(found.st_mode) & 0o077:
        path.chmod(0o700)
    return path


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """What `engine.json` says of an engine.

    Attributes:
        state: `starting`, `ready` or `failed`.
        ident: of this start of the engine; another start has another.
        digest, owner, serves: of the spec.
        socket, log: paths.
        pid, ticks: the supervisor.
        group, group_ticks: the server's process group and its first process; 0 before it runs.
        started: Unix time.
        boot: the boot of the host it was started in.
        error: why it failed, in one sentence and the decisive lines of the log.
        device: as `own_device` has it.
    """

    state: str
    ident: str
    digest: str
    owner: str
    socket: str
    log: str
    pid: int
    ticks: int
    group: int = 0
    group_ticks: int = 0
    started: float = 0.0
    boot: str = ""
    error: str = ""
    device: str = ""
    serves: str = "answers"

    @property
    def folder(self) -> str:
        """The name of the engine's directory in its home."""
        return _folder(self.digest)


def _folder(digest: str) -> str:
    return digest[:16]


class EngineDirectory:
    """The files of one engine below a home; several processes use them at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record_path = path / "engine.json"
        self.lease_path = path / "lease"
        self.log_path = path / "server.log"
        self.plan_path = path / "plan.json"
        self.proofs_path = path / "adapters.json"

    @classmethod
    def of(cls, spec: GeneratorSpec) -> "EngineDirectory":
        """The directory of a spec's engine, made where missing.

        Raises:
            EngineError: the home belongs to somebody else.
        """
        home = home_folder(spec.home).absolute()
        path = home / _folder(spec_digest(spec))
        with uncleaned(home):
            os.utime(private_directory(path))  # it is new again
        return cls(path)

    def socket_path(self, ident: str) -> str:
        """A path for the socket of one start."""
        return str(self._place(ident[:8], ".s"))

    def temporary_path(self, ident: str) -> Path:
        """A folder for what one start of the server leaves among temporary files: sockets, rendezvous files."""
        return self._place(f"{ident[:8]}.tmp", ".tmp", below=_ZMQ_NAME)

    def _place(self, name: str, ending: str, below: int = 0) -> Path:
        """A path in the directory, or in a short one if the kernel would refuse a socket there, or so far below it."""
        path = self.path / name
        if len(str(path).encode()) + below <= _LONGEST_SOCKET:
            return path
        return private_directory(Path(f"/tmp/mart-{os.getuid()}")) / f"{digest(str(path))[:16]}{ending}"

    def read(self) -> EngineRecord | None:
        """The record of this boot, or None; an unreadable one counts as none."""
        try:
            content = json.loads(self.record_path.read_text())
            record = EngineRecord(**content)
        except (OSError, ValueError, TypeError):
            return None
        return record if record.boot == boot_id() else None

    def write(self, record: EngineRecord) -> None:
        """Replace the record in one step."""
        write_json(self.record_path, asdict(record))

    def renew(self, seconds: float = 0.0) -> None:
        """Renew the lease, for so many seconds where they are more than the engine's own; nothing where the directory is gone."""
        try:
            descriptor = os.open(self.lease_path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        except FileNotFoundError:
            return
        try:
            if seconds:
                os.write(descriptor, str(seconds).encode())
            os.utime(descriptor)
        finally:
            os.close(descriptor)

    def lease(self) -> tuple[int, float]:
        """When the lease was renewed, in ns, 0 if never; and the seconds that the renewal asked for, 0 for the engine's own."""
        try:
            # In this order: whoever renews it meanwhile may have emptied it, and has then changed its time as well.
            asked = float(self.lease_path.read_text() or 0)
            return self.lease_path.stat().st_mtime_ns, asked
        except OSError:
            return 0, 0.0

    def use(self) -> int:
        """Tell others that the engine is in use, until the descriptor that is returned is closed or this process dies."""
        with uncleaned(self.path.parent):
            descriptor = open_lock(private_directory(self.path) / "use.lock")
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            return descriptor

    def is_used(self) -> bool:
        """Whether a living process uses the engine, this one included."""
        descriptor = open_lock(self.path / "use.lock")
        try:
            return not try_lock(descriptor, fcntl.LOCK_EX)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold one of the directory's locks; the kernel frees it when the holder dies."""
        descriptor = open_lock(self.path / f"{name}.lock")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def log_tail(self, *, lines: int = 40) -> str:
        """The last lines of the server's log."""
        try:
            with self.log_path.open("rb") as stream:
                stream.seek(max(0, self.log_path.stat().st_size - 2**18))
                text = stream.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


@contextlib.contextmanager
def uncleaned(home: Path) -> Iterator[None]:
    """Keep `remove_old` from a home, which is made where missing.

    Raises:
        EngineError: the home belongs to somebody else.
    """
    descriptor = open_lock(private_directory(home) / _CLEANING)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def remove_old(home: Path) -> None:
    """Remove the directories of engines that ended a week ago, their logs with them, if nobody is about to use one.

    Who is given a directory (`EngineDirectory.of`) has a week, and who says that he uses it has it for as long as he does.
    """
    descriptor = open_lock(home / _CLEANING)
    try:
        if try_lock(descriptor, fcntl.LOCK_EX):
            for path in home.iterdir():
                if _FOLDER.fullmatch(path.name) and _is_old(path):
                    _remove_unused(EngineDirectory(path))
    finally:
        os.close(descriptor)


def _is_old(folder: Path) -> bool:
    try:
        newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except OSError:  # somebody is at work there
        return False
    return time.time() - newest > _KEPT_SECONDS


def _remove_unused(directory: EngineDirectory) -> None:
    record = directory.read()
    if directory.is_used() or (record is not None and is_alive(record.pid, record.ticks)):
        return
    if record is not None:  # of an engine whose supervisor was killed
        Path(record.socket).unlink(missing_ok=True)
        shutil.rmtree(directory.temporary_path(record.ident), ignore_errors=True)
    shutil.rmtree(directory.path, ignore_errors=True)


def open_lock(path: Path) -> int:
    """A descriptor to lock a file by, which is made if it is missing."""
    return os.open(path, os.O_CREAT | os.O_RDWR, 0o600)


def try_lock(descriptor: int, kind: int) -> bool:
    """Whether the file could be locked at once; `kind` is LOCK_SH or LOCK_EX."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step, readable by its owner alone."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(content, stream, indent=1)
    temporary.replace(path)
