"""Kills a small run at random moments and starts it again: `python -m tests.chaos --kills 10` (`make chaos N=10`).

Killed, with SIGKILL and one at a time, are the driver, its JVM, a Spark Python worker, the engine's server, its core, and
the trainer, whichever is alive at the moment drawn. A run that has ended is verified and another one begun in
the same lakehouse. At the end everything must prove whole, and no process, socket, lock, temporary folder or piece of
shared memory may be left half a minute later. Prints a JSON report; the exit code is 1 if anything was wrong.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.small import SMALL, Mart

Cmdline = Callable[[str, str], bool]
# Who a process is, by its command line and its parent's.
TARGETS: dict[str, Cmdline] = {
    "jvm": lambda line, parent: "org.apache.spark.deploy" in line or "/bin/java" in line,
    "worker": lambda line, parent: "worker_daemon" in line and "worker_daemon" in parent,
    "server": lambda line, parent: "vllm.entrypoints" in line,
    "core": lambda line, parent: "EngineCore" in line,
    "trainer": lambda line, parent: "training.preload" in line and "training.preload" in parent,
}


def processes(mark: str) -> Iterator[tuple[int, str, str]]:
    """Pid, command line and parent's command line of every process whose environment holds the mark."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() not in (folder / "environ").read_bytes():
                continue
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if stat[0] in "ZX" or int(folder.name) == os.getpid():
                continue
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            above = (Path("/proc") / stat[1] / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        yield int(folder.name), line, above


@dataclass
class Chaos:
    """One session of kills over one lakehouse."""

    mart: Mart
    source: random.Random
    kills: int
    longest: float
    events: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    run: int = 0
    _driver: "subprocess.Popen[bytes] | None" = None

    @property
    def mark(self) -> str:
        """What the environment of every process of the session holds."""
        return str(self.mart.folder.parent)

    @property
    def environment(self) -> dict[str, str]:
        """A folder of its own for temporary files and sockets, to see what is left in it."""
        places = {
            "TMPDIR": self.mart.folder.parent / "tmp",
            "XDG_RUNTIME_DIR": self.mart.folder.parent / "run",
        }
        for place in places.values():
            place.mkdir(exist_ok=True, mode=0o700)
        return self.mart.environment() | {name: str(place) for name, place in places.items()}

    def words(self) -> list[str]:
        """The command of the run that is under way."""
        words = self.mart.run_words()
        words[words.index("t")] = f"run-{self.run}"
        return self.mart.command(*words)

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the driver, or start it again."""
        log = self.mart.folder.parent / f"log-{len(self.events)}.txt"
        with log.open("ab") as stream:
            self._driver = subprocess.Popen(
                self.words(), env=self.environment, stdout=stream, stderr=stream, start_new_session=True
            )
        return self._driver

    def kill_one(self, driver: "subprocess.Popen[bytes]") -> None:
        """Kill a process that is alive, drawn by its kind first."""
        alive: dict[str, list[int]] = {"driver": [driver.pid]}
        for pid, line, above in processes(self.mark):
            for name, matches in TARGETS.items():
                if matches(line, above):
                    alive.setdefault(name, []).append(pid)
        # The rarest kinds first: a trainer or a core is not always there.
        done = [event["target"] for event in self.events]
        fewest = min(done.count(name) for name in alive)
        name = self.source.choice(sorted(name for name in alive if done.count(name) == fewest))
        pid = self.source.choice(alive[name])
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.events.append({"target": name, "at": round(time.monotonic(), 1), "run": self.run})
        print(f"kill {len(self.events)}: {name}", file=sys.stderr, flush=True)

    def ended(self, code: int, *, killed: bool) -> None:
        """What follows when the driver has ended."""
        if code == 0:
            self.verify()
            self.run += 1
        elif not killed:
            self.problems.append(
                f"run-{self.run} ended with {code} though nothing was killed: see {self.mark}"
            )

    def verify(self) -> None:
        """`mart verify` of the run that has just ended."""
        words = self.mart.command("verify", f"run-{self.run}")
        ended = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        if ended.returncode:
            self.problems.append(f"run-{self.run} does not prove whole: {ended.stderr[-2000:]}")
        print(f"run-{self.run}: verify ended with {ended.returncode}", file=sys.stderr, flush=True)

    def go(self) -> None:
        """Kill as often as asked, then let the last run end."""
        driver = self.start()
        killed = False
        while len(self.events) < self.kills and not self.problems:
            try:
                code = driver.wait(self.source.uniform(2.0, self.longest))
            except subprocess.TimeoutExpired:
                self.kill_one(driver)
                killed = True
                continue
            self.ended(code, killed=killed)
            driver, killed = self.start(), False
        for _ in range(4):
            if (code := driver.wait()) == 0 or self.problems:
                break
            self.ended(code, killed=killed)
            driver, killed = self.start(), False
        self.ended(code, killed=killed)
        if code:
            self.problems.append(f"the last run ended with {code}")

    def leftovers(self) -> list[str]:
        """What is left after half a minute."""
        deadline = time.monotonic() + 30
        while (left := [line[:200] for _, line, _ in processes(self.mark)]) and time.monotonic() < deadline:
            time.sleep(1)
        for name in ("tmp", "run"):
            for path in (self.mart.folder.parent / name).rglob("*"):
                # A log of an engine is kept on purpose; so are the lock files beside it, which nobody holds.
                if path.is_socket() or (name == "tmp" and path.parent.name == "tmp"):
                    left.append(str(path))
        return left


def main() -> int:
    """Run it and print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=90.0, help="seconds to the next kill, at most")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    shared = set(os.listdir("/dev/shm"))
    mart = Mart(folder / "lakehouse", SMALL | {"rounds": 1})
    chaos = Chaos(mart, random.Random(options.seed), options.kills, options.longest)
    started = time.monotonic()
    chaos.go()
    chaos.problems += [f"left behind: {item}" for item in chaos.leftovers()]
    chaos.problems += [f"left behind: /dev/shm/{name}" for name in set(os.listdir("/dev/shm")) - shared]
    counts = {name: sum(event["target"] == name for event in chaos.events) for name in ("driver", *TARGETS)}
    report = {
        "kills": counts,
        "runs_ended": chaos.run,
        "seconds": round(time.monotonic() - started),
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
