"""Processes on this host: which ones live, whose they are, and how a whole group of them is ended.

A pid alone proves nothing, since the kernel gives it out again: a process is known by its pid and its start time in
clock ticks (`/proc/PID/stat`, field 22). Linux only, as vLLM is.
"""

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_TRACKERS_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Process:
    """A live or zombie process: its ids, its start in ticks since boot, its CPU time in seconds."""

    pid: int
    parent: int
    group: int
    session: int
    ticks: int
    cpu_seconds: float
    zombie: bool


def boot_id() -> str:
    """What tells this boot of this host from every other; the empty string where the kernel does not say."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def find(pid: int) -> Process | None:
    """The process of that pid, or None."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    state, parent, group, session = fields[0], int(fields[1]), int(fields[2]), int(fields[3])
    cpu = (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND
    return Process(pid, parent, group, session, int(fields[19]), cpu, state in "ZX")


def is_alive(pid: int, ticks: int) -> bool:
    """Whether the very process that had this pid and start time still runs; a zombie does not."""
    process = find(pid)
    return process is not None and process.ticks == ticks and not process.zombie


def members(group: int) -> list[Process]:
    """Live processes of a process group or of the session of the same id."""
    if group <= 1:
        return []
    found = (find(int(entry.name)) for entry in _PROC.iterdir() if entry.name.isdigit())
    return [
        item for item in found if item is not None and not item.zombie and group in (item.group, item.session)
    ]


def kill_group(group: int, leader_ticks: int, *, wait_seconds: float = 10.0) -> bool:
    """SIGKILL every process of a group and of its session, wait until none is left, and free their shared memory.

    Args:
        group: id of the group, which is the pid of its first process.
        leader_ticks: start time of that process; if another process holds the pid now, nothing is killed.
        wait_seconds: how long to wait for the kernel to end them.

    Returns:
        Whether none is left.
    """
    leader = find(group)
    if group <= 1 or (leader is not None and leader.ticks != leader_ticks) or group == os.getpgrp():
        return True
    return kill_members(group, wait_seconds=wait_seconds)


def kill_members(group: int, *, but: int = 0, wait_seconds: float = 10.0) -> bool:
    """`kill_group` without its proof, for a process of the group, which `but` spares.

    Python's resource trackers are the last to go: they remove the shared memory and semaphores that processes of the
    group made, once all of those are dead. What is mapped is removed here as well, but a process may die between making
    and mapping it, or after the last that had it mapped.
    """
    deadline = time.monotonic() + wait_seconds
    trackers_deadline = time.monotonic() + _TRACKERS_SECONDS
    shared: set[Path] = set()
    while left := [item for item in members(group) if item.pid != but]:
        shared |= shared_memory(left)
        users = [item for item in left if not _is_tracker(item.pid)]
        if users:
            trackers_deadline = time.monotonic() + _TRACKERS_SECONDS
        for item in users or (left if time.monotonic() > trackers_deadline else ()):
            with suppress(ProcessLookupError):
                os.kill(item.pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    for path in shared:
        path.unlink(missing_ok=True)
    return True


def _is_tracker(pid: int) -> bool:
    try:
        return b"resource_tracker import main" in (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return False


def shared_memory(processes: list[Process]) -> set[Path]:
    """Files in /dev/shm that processes have mapped, and semaphores named after them: nobody else removes them once
    those are killed."""
    found: set[Path] = set()
    for item in processes:
        found |= set(Path("/dev/shm").glob(f"sem.loky-{item.pid}-*"))
        try:
            maps = (_PROC / str(item.pid) / "maps").read_text(errors="replace")
        except OSError:
            continue
        paths = (line.split(maxsplit=5)[5] for line in maps.splitlines() if "/dev/shm/" in line)
        found |= {Path(path) for path in paths if not path.endswith("(deleted)")}
    return {path for path in found if path.parent == Path("/dev/shm")}
