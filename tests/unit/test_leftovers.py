"""What counts as left behind, by the words of `tests.leftovers`."""

import fcntl
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.engines.homes import EngineDirectory, EngineRecord
from pipelines.engines.processes import boot_id, find
from tests.leftovers import DRIVER, held_locks, suspects


@pytest.fixture
def folder() -> Iterator[Path]:
    """A session's folder with a short path, below which sockets fit."""
    with tempfile.TemporaryDirectory(prefix="left-") as name:
        (Path(name) / "run" / "mart").mkdir(parents=True)
        yield Path(name)


@pytest.fixture
def engine(folder: Path) -> EngineDirectory:
    """What an engine has lying about: its socket and its folder for temporary files."""
    directory = EngineDirectory(folder / "run" / "mart" / ("d" * 16))
    directory.path.mkdir()
    directory.temporary_path("i" * 32).mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(directory.socket_path("i" * 32))
    return directory


def test_a_process_of_a_dead_driver_is_suspected(folder: Path) -> None:
    with subprocess.Popen(["sleep", "60"], env={DRIVER: "1", "MART_CACHE": str(folder)}) as process:
        try:
            assert [item.split()[1] for item in suspects(folder, 2, 1.0)] == [str(process.pid)]
            assert suspects(folder, 1, 1.0) == set()
        finally:
            process.kill()


def test_an_engine_accounts_for_what_it_has_until_nobody_keeps_it(
    folder: Path, engine: EngineDirectory
) -> None:
    lying_about = {engine.socket_path("i" * 32), str(engine.temporary_path("i" * 32))}
    assert suspects(folder, 1, 30.0) == lying_about
    me = find(os.getpid())
    assert me is not None
    engine.write(
        EngineRecord(
            "ready", "i" * 32, "d" * 64, "o", engine.socket_path("i" * 32), "", me.pid, me.ticks, boot=boot_id()
        )
    )  # fmt: skip
    engine.renew()
    assert suspects(folder, 1, 30.0) == set()
    os.utime(engine.lease_path, (0, 0))
    assert suspects(folder, 1, 30.0) == lying_about


def test_a_lock_counts_while_somebody_holds_it(folder: Path) -> None:
    lock = folder / "run" / "engine.lock"
    with lock.open("w") as stream:
        assert held_locks(folder) == set()
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert held_locks(folder) == {str(lock)}
