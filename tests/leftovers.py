"""What the processes of a session left on this host: `tests.chaos` looks for it while runs go on and when one has ended."""

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.engines.homes import EngineDirectory, EngineRecord, try_lock
from pipelines.engines.host import running_engines
from pipelines.engines.processes import find, members, shared_memory

DRIVER = "MART_CHAOS_DRIVER"  # the number of the driver that a process descends from
SHARED = Path("/dev/shm")


@dataclass(frozen=True)
class Seen:
    """A process: its pid, its command line and its parent's, and the number of its driver."""

    pid: int
    line: str
    above: str
    driver: str


def processes(mark: str) -> Iterator[Seen]:
    """Every live process but this one whose environment holds the mark."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            if mark.encode() not in environment:
                continue
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if stat[0] in "ZX" or int(folder.name) == os.getpid():
                continue
            line, above = _command_line(folder), _command_line(Path("/proc") / stat[1])
        except OSError:
            continue
        number = environment.partition(f"{DRIVER}=".encode())[2].partition(b"\0")[0].decode()
        yield Seen(int(folder.name), line, above, number)


def _command_line(process: Path) -> str:
    return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def suspects(folder: Path, driver: int | None, grace: float) -> set[str]:
    """Processes, sockets and temporary folders for which no living driver and no engine that somebody keeps accounts.

    Args:
        folder: of the session, which the environment of each of its processes names; its sockets lie below `run`, its temporary
            files below `tmp`.
        driver: the number of the driver that lives; None where none does.
        grace: an engine whose lease is older (seconds) should have ended.
    """
    engines = list(_kept_engines(folder / "run" / "mart", grace))
    pids = {item.pid for record, _ in engines for item in members(record.group)}
    pids |= {record.pid for record, _ in engines}
    found = {
        f"process {seen.pid} of driver {seen.driver}: {seen.line[:200]}"
        for seen in processes(str(folder))
        if seen.pid not in pids and seen.driver != str(driver)
    }
    theirs = {path for record, temporary in engines for path in (Path(record.socket), temporary)}
    for path in _below(folder / "run", folder / "tmp"):
        if (path.suffix == ".tmp" or path.is_socket()) and theirs.isdisjoint((path, *path.parents)):
            found.add(str(path))
    return found


def _kept_engines(home: Path, grace: float) -> Iterator[tuple[EngineRecord, Path]]:
    """The engines that run and whose lease is fresh, each with its folder for temporary files."""
    for record in running_engines(str(home)):
        directory = EngineDirectory(home / record.folder)
        try:
            age = time.time() - directory.lease_path.stat().st_mtime
        except OSError:
            continue
        if age <= grace:
            yield record, directory.temporary_path(record.ident)


def held_locks(folder: Path) -> set[str]:
    """Lock files below a folder that somebody holds."""
    return {str(path) for path in _below(folder) if path.suffix == ".lock" and _is_held(path)}


def _is_held(lock: Path) -> bool:
    try:
        with lock.open("r+") as stream:
            return not try_lock(stream.fileno(), fcntl.LOCK_EX)
    except FileNotFoundError:  # gone meanwhile
        return False


def unused_shared_memory(before: Iterable[str]) -> set[str]:
    """Pieces of shared memory that were not there before and that no living process has mapped."""
    new = {path for path in SHARED.iterdir() if path.name not in before}
    alive = [item for path in Path("/proc").glob("[0-9]*") if (item := find(int(path.name))) is not None]
    return {str(path) for path in new - shared_memory(alive)}


def _below(*folders: Path) -> Iterator[Path]:
    """Everything below the folders; what vanishes meanwhile may be missing."""
    for folder in folders:
        for place, inner, files in os.walk(folder):
            yield from (Path(place) / name for name in (*inner, *files))
