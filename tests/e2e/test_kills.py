"""A run that is killed ends with the tables of a run that is not; answers come from a script."""

import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.tables import TABLES
from tests.chaos import TARGETS
from tests.leftovers import processes

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]

# A whole round, with the warm starts and evaluations before it.
ROUND = {"rounds": 1, "engine.chunk_rows": 6, "engine.options.delay_seconds": 0.05}
_TRAINING = r"training.loop: training: \d+ steps, from step 0"
# What the log shows when a kill is due, and who is killed. A killed trainer ends the run by itself, with code 4.
KILLS = (
    (_TRAINING, "trainer"),
    (r"round 0 evaluate_target: +[1-9]\d?%", "driver"),
    (r"round 1 attack: +[1-9]\d?%", "driver"),
    (_TRAINING, "trainer"),
    (r"round 1 evaluate_target: +[1-9]\d?%", "driver"),
)


def _text(log: Path) -> str:
    return log.read_text(errors="replace")


def _trainers(mark: str) -> Iterator[int]:
    """Processes forked by the trainers' preload of the run whose environment holds the mark."""
    return (seen.pid for seen in processes(mark) if TARGETS["trainer"](seen.line, seen.above))


def _killed_once(it: Any, number: int, when: str, who: str) -> int:
    """Start the run, kill somebody when the log says so, and give the driver's exit code."""
    log = it.folder.parent / f"log-{number}.txt"
    with log.open("w") as stream:
        driver = subprocess.Popen(
            it.command(*it.run_words()),
            env=it.environment(),
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        try:
            while not re.search(when, _text(log)):
                assert driver.poll() is None, f"the run ended before {when!r}:\n{_text(log)[-4000:]}"
                time.sleep(0.05)
            if who == "trainer":
                for process in _trainers(str(it.folder.parent)):
                    os.kill(process, signal.SIGKILL)
            else:
                driver.send_signal(signal.SIGKILL)
            return driver.wait(120)
        finally:
            driver.kill()


@pytest.fixture(scope="module")
def runs(scripted: Callable[..., Any]) -> tuple[Any, Any]:
    """A run that nothing happened to, and one of the same settings that was killed again and again."""
    whole, killed = (scripted(ROUND) for _ in range(2))
    # Side by side: each driver waits for most of its time.
    undisturbed = subprocess.Popen(
        whole.command(*whole.run_words()), env=whole.environment(), stdout=subprocess.DEVNULL
    )
    codes = [_killed_once(killed, number, when, who) for number, (when, who) in enumerate(KILLS)]
    assert codes == [4 if who == "trainer" else -signal.SIGKILL for _, who in KILLS]
    killed(*killed.run_words())
    assert undisturbed.wait() == 0
    return whole, killed


def _rows(look: Any, it: Any, table: Any) -> Counter[str]:
    names = [column.name for column in table.columns if not column.volatile]
    frame = look(it, table.name)
    if table.name == "steps":  # a killed trainer is an attempt of its own, on record as one
        frame = frame.where("state = 'done'")
    return Counter(str(row) for row in frame.select(*names).collect())


def test_all_tables_are_those_of_a_run_without_kills(runs: Any, look: Any) -> None:
    whole, killed = runs
    differing = {}
    for table in TABLES:
        one, other = _rows(look, whole, table), _rows(look, killed, table)
        if one != other:
            differing[table.name] = [sorted(one - other)[:3], sorted(other - one)[:3]]
    assert not differing


def test_the_killed_run_proves_whole(runs: Any) -> None:
    _, killed = runs
    assert "holds" in killed("verify", "t").stdout.splitlines()[-1]


def test_killed_trainers_are_on_record(runs: Any, look: Any) -> None:
    _, killed = runs
    failed = look(killed, "steps").where("state = 'failed'").orderBy("round").collect()
    assert [row["round"] for row in failed] == [0, 1]
    assert all("ended by signal or code -9" in row["error"] for row in failed)
