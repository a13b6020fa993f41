"""Kills a small run at random moments and starts it again: `python -m tests.chaos --kills 10` (`make chaos N=10`).

Killed, with SIGKILL and one at a time, are the driver, its JVM (in local mode the executor as well; tests/e2e/test_cluster.py
kills a worker with its executors), a Spark Python worker, the engine's server, its core, and the trainer, whichever is alive at the
moment drawn. A run that has ended is verified and another one begun in the same lakehouse.

Every few seconds it looks for what dead drivers and engines left: processes of a driver that is gone and of no engine
on record whose lease is fresh, sockets and temporary folders of no such engine, and what lay among temporary files when a driver ended.
Each must be gone once the next driver has lived for an engine's lease and 15 s more. `mart verify` proves the run that is
under way, beside the driver, after every fifth kill, or as often as `--verify-each` says: it takes as long as some kills are
apart (`verify_seconds` in the report). When a run has ended,
no process, socket, held lock, temporary folder or piece of shared memory may be left half a minute later.
A dead worker or engine is replaced while its run goes on, an engine that was killed while it started apart: a driver that
ends of another cause than a kill of itself, its JVM, a trainer or such an engine is a problem, too.
Prints a JSON report; the exit code is 1 if anything was wrong.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.e2e.small import SMALL, Mart
from tests.leftovers import DRIVER, SHARED, held_locks, processes, suspects, unused_shared_memory

_SUBMIT, _DAEMON, _PRELOAD = "org.apache.spark.deploy", "-m pipelines.worker_daemon", "-m training.preload"
_WARDEN = "-m pipelines.engines.warden"
_NOT_STARTED = "mart: the engine did not start"
Cmdline = Callable[[str, str], bool]
# Who a process is, by its command line and its parent's: what it starts has its words, too, for a moment.
TARGETS: dict[str, Cmdline] = {
    "jvm": lambda line, parent: _SUBMIT in line and _SUBMIT not in parent,
    "worker": lambda line, parent: _DAEMON in line and _DAEMON in parent,
    "server": lambda line, parent: "vllm.entrypoints" in line and _WARDEN in parent and _WARDEN not in line,
    "core": lambda line, parent: "EngineCore" in line,
    "trainer": lambda line, parent: _PRELOAD in line and _PRELOAD in parent,
}
KINDS = ("driver", *TARGETS)
_TICK_SECONDS = 2.0
_MARGIN_SECONDS = 15.0  # beyond an engine's lease
_SETTLED_SECONDS = 5.0  # after a kill, until it is verified


@dataclass
class Chaos:
    """One session of kills over one lakehouse.

    Attributes:
        mart: the lakehouse and the settings of its runs; its folder's parent is the session's own.
        source: of the random moments.
        kills: how many.
        kinds: of which.
        pauses: the least and the most seconds before a kill.
        most: kills of one kind, at most; where nothing else is alive, the next one waits for another kind.
        once: of a kind, what a driver must have logged before one is killed.
        runs: how many end, at most.
        verify_each: kills between two proofs of a run that is under way; 0 proves only runs that have ended.
    """

    mart: Mart
    source: random.Random
    kills: int
    pauses: tuple[float, float]
    kinds: Collection[str] = KINDS
    most: int = sys.maxsize
    once: Mapping[str, str] = field(default_factory=dict)
    runs: int = sys.maxsize
    verify_each: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    run: int = 0
    drivers: int = 0
    verifications: list[float] = field(default_factory=list)
    ends: list[dict[str, Any]] = field(default_factory=list)
    _driver: "subprocess.Popen[bytes] | None" = None
    _killed: list[str] = field(default_factory=list)
    _began: float = 0.0
    _killed_at: float = 0.0
    _looked: float = 0.0
    _unproved: int = 0
    _orphans: set[Path] = field(default_factory=set)
    _suspected: dict[str, float] = field(default_factory=dict)
    _shared: frozenset[str] = field(default_factory=lambda: frozenset(os.listdir(SHARED)))

    @property
    def folder(self) -> Path:
        """What the environment of every process of the session names."""
        return self.mart.folder.parent

    @cached_property
    def grace(self) -> float:
        """Seconds that what a dead driver left may outlive the start of the next one."""
        return self.mart.config().engine.lease_seconds + _MARGIN_SECONDS

    @property
    def environment(self) -> dict[str, str]:
        """A folder of its own for temporary files and sockets, to see what is left in it."""
        places = {"TMPDIR": self.folder / "tmp", "XDG_RUNTIME_DIR": self.folder / "run"}
        for place in places.values():
            place.mkdir(exist_ok=True, mode=0o700)
        named = {name: str(place) for name, place in places.items()}
        return self.mart.environment() | named | {DRIVER: str(self.drivers)}

    @property
    def _log(self) -> Path:
        """What the driver says."""
        return self.folder / f"log-{self.drivers}.txt"

    def words(self) -> list[str]:
        """The command of the run that is under way."""
        return self.mart.command(*replace(self.mart, run=f"run-{self.run}").run_words())

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the driver, or start it again."""
        self.drivers += 1
        self._killed = []
        with self._log.open("ab") as stream:
            self._driver = subprocess.Popen(
                self.words(), env=self.environment, stdout=stream, stderr=stream, start_new_session=True
            )
        self._began = time.monotonic()
        return self._driver

    def kill_one(self, driver: "subprocess.Popen[bytes]") -> bool:
        """Kill a process that is alive, drawn by its kind first; gives whether there was one to kill."""
        alive: dict[str, list[int]] = {"driver": [driver.pid]}
        for seen in processes(str(self.folder)):
            for name, matches in TARGETS.items():
                if matches(seen.line, seen.above):
                    alive.setdefault(name, []).append(seen.pid)
        done = [event["target"] for event in self.events]
        said = (
            "".join(log.read_text(errors="replace") for log in self.folder.glob("log-*.txt"))
            if self.once
            else ""
        )
        able = [name for name in alive if name in self.kinds]
        wanted = [name for name in able if done.count(name) < self.most and self.once.get(name, "") in said]
        if not wanted:
            return False
        # The rarest kinds first: a trainer or a core is not always there.
        fewest = min(done.count(name) for name in wanted)
        name = self.source.choice(sorted(name for name in wanted if done.count(name) == fewest))
        pid = self.source.choice(alive[name])
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self._killed_at = time.monotonic()
        self._unproved += 1
        self._killed.append(name)
        self.events.append({"target": name, "at": round(self._killed_at, 1), "run": self.run})
        print(f"kill {len(self.events)}: {name}", file=sys.stderr, flush=True)
        return True

    def _had_to_end(self) -> bool:
        """Whether what was killed since the driver's start ends it: a worker, or an engine that runs, does not."""
        if {"driver", "jvm", "trainer"} & set(self._killed):
            return True
        said = self._log.read_text(errors="replace")
        return bool({"server", "core"} & set(self._killed)) and _NOT_STARTED in said

    def ended(self, code: int) -> None:
        """What follows when the driver has ended."""
        self.ends.append({"run": self.run, "code": code, "killed": self._killed})
        self._orphans |= set((self.folder / "tmp").iterdir())
        if code == 0:
            self.verify()
            self.problems += [f"left behind by run-{self.run}: {item}" for item in self.leftovers()]
            self.run += 1
        elif not self._had_to_end():
            killed = ", ".join(self._killed) or "nothing"
            self.problems.append(
                f"run-{self.run} ended with {code}, and {killed} was killed: see {self._log}"
            )

    def verify(self) -> None:
        """`mart verify` of the run that is under way or has just ended."""
        self._unproved = 0
        words = self.mart.command("verify", f"run-{self.run}")
        started = time.monotonic()
        ended = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        self.verifications.append(round(time.monotonic() - started, 1))
        unbegun = ended.returncode == 2 and "there is no " in ended.stderr
        if ended.returncode and not unbegun:
            self.problems.append(f"run-{self.run} does not prove whole: {ended.stderr[-2000:]}")
        print(f"run-{self.run}: verify ended with {ended.returncode}", file=sys.stderr, flush=True)

    def suspects(self) -> set[str]:
        """What nobody alive accounts for: as `tests.leftovers` has it, and what lay among temporary files when a driver ended.

        A killed trainer's lock, an empty file, is the next trainer's: while the run goes on it may lie there.
        """
        alive = self._driver is not None and self._driver.poll() is None
        found = suspects(self.folder, self.drivers if alive else None, self.grace)
        theirs = {path for path in self._orphans if alive and path.match("mart-train-*.lock")}
        return found | {str(path) for path in self._orphans - theirs if path.exists()}

    def look(self) -> None:
        """Every few seconds: note what is suspect, and complain of what has been for too long."""
        now = time.monotonic()
        if now - self._looked < _TICK_SECONDS:
            return
        self._looked = now
        self._suspected = {name: self._suspected.get(name, now) for name in self.suspects()}
        for name, since in self._suspected.items():
            if now - max(since, self._began) > self.grace:
                self.problems.append(f"left behind while run-{self.run} went on: {name}")

    def wait(self, driver: "subprocess.Popen[bytes]", seconds: float) -> int | None:
        """Wait for the driver's end or for so long, with an eye on what is left behind; gives its exit code or None."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self.problems:
            try:
                return driver.wait(min(left, _TICK_SECONDS))
            except subprocess.TimeoutExpired:
                self.look()
            settled = time.monotonic() - max(self._killed_at, self._began) > _SETTLED_SECONDS
            if settled and 0 < self.verify_each <= self._unproved:
                self.verify()
        return driver.poll()

    def go(self) -> None:
        """Kill as often as asked, then let the last run end."""
        driver = self.start()
        try:
            pause = self.source.uniform(*self.pauses)
            while len(self.events) < self.kills and not self.problems:
                code = self.wait(driver, pause)
                if code is not None:
                    self.ended(code)
                    if self.run == self.runs:
                        return
                    driver = self.start()
                elif not self.kill_one(driver):
                    pause = 0.2
                    continue
                pause = self.source.uniform(*self.pauses)
            for _ in range(4):
                while (code := self.wait(driver, _TICK_SECONDS)) is None and not self.problems:
                    pass
                if not code or self.problems:
                    break
                self.ended(code)
                driver = self.start()
            if not self.problems:
                self.ended(driver.wait())
                if driver.returncode:
                    self.problems.append(f"the last run ended with {driver.returncode}")
        finally:
            driver.kill()
            driver.wait()

    def leftovers(self) -> list[str]:
        """What is left after half a minute, with no driver alive; a log of an engine is kept on purpose."""
        deadline = time.monotonic() + 30
        while (left := self._all_left()) and time.monotonic() < deadline:
            time.sleep(1)
        return sorted(left)

    def _all_left(self) -> set[str]:
        temporary = {str(path) for path in (self.folder / "tmp").iterdir()}
        return self.suspects() | temporary | held_locks(self.folder) | unused_shared_memory(self._shared)


def main() -> int:
    """Run it and print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=90.0, help="seconds to the next kill, at most")
    parser.add_argument(
        "--verify-each", type=int, default=5, help="kills from one proof to the next; 0: ended runs only"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    chaos = Chaos(
        Mart(folder / "lakehouse", SMALL | {"rounds": 1}),
        random.Random(options.seed),
        options.kills,
        (2.0, options.longest),
        verify_each=options.verify_each,
    )
    started = time.monotonic()
    chaos.go()
    report = {
        "kills": {name: sum(event["target"] == name for event in chaos.events) for name in KINDS},
        "runs_ended": chaos.run,
        "ends": chaos.ends,
        "seconds": round(time.monotonic() - started),
        "verify_seconds": chaos.verifications,
        "problems": chaos.problems,
    }
    print(json.dumps(report, indent=1))
    if not options.keep and not chaos.problems:
        shutil.rmtree(folder)
    else:
        print(f"kept: {folder}", file=sys.stderr)
    return 1 if chaos.problems else 0


if __name__ == "__main__":
    sys.exit(main())
