"""Folders for what a process needs only while it lives; what killed processes left is removed by the next one."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "mart-spark-"
_LOCK = "owner.lock"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder in `MART_SCRATCH`, or in the system's temporary folder, removed at the end.

    Its owner holds a lock in it, which the kernel frees when the owner dies. A pid would not do: where containers share
    a temporary folder, each sees only its own processes, and would take the folders of the others for abandoned.
    """
    root = Path(os.environ.get("MART_SCRATCH") or tempfile.gettempdir())
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(f"{_PREFIX}*"):
        _remove_if_abandoned(left)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
    # Locked under another name first: a lock that can be found is held, or its owner is dead.
    with (folder / f".{_LOCK}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / f".{_LOCK}").rename(folder / _LOCK)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_if_abandoned(folder: Path) -> None:
    with contextlib.suppress(OSError):  # of another user, or gone meanwhile
        if folder.stat().st_uid != os.getuid():
            return
        with (folder / _LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
