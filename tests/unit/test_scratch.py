"""Scratch folders: each has an owner, and only those whose owner is dead are removed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.scratch import scratch_folder

_OWNER = """
import time
from jobs.scratch import scratch_folder
with scratch_folder() as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MART_SCRATCH", str(tmp_path / "made" / "anew"))
    return tmp_path


def test_a_folder_goes_with_the_end_of_its_use() -> None:
    with scratch_folder() as folder:
        (folder / "spill").write_text("x")
    assert not folder.exists()


def test_a_folder_in_use_stays_and_one_of_a_killed_process_goes() -> None:
    owner = subprocess.Popen([sys.executable, "-c", _OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    folder = Path(owner.stdout.readline().strip())
    try:
        with scratch_folder():
            assert folder.exists()
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        owner.stdout.close()
    with scratch_folder():
        assert not folder.exists()
