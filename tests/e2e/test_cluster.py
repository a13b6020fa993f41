"""A round on a Spark cluster of its own: a standalone master, two workers, the package shipped.

Answers come from a script. The steps up to the attack are submissions of their own, as a scheduler's are, and one `mart run` does the others.
`make e2e` has every step submitted, and the executors start a real engine, of a tiny random model.
"""

import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pyspark
import pytest

from pipelines import local_jvm
from pipelines.plan import needs, steps_of
from pipelines.step import Step
from tests import built
from tests.e2e.small import REAL, ROOT, SMALLEST, Mart
from tests.leftovers import processes

pytestmark = pytest.mark.timeout(1500)

SPARK = Path(pyspark.__file__).parent
# Each attack has one answer; and a step of a few seconds, to kill a worker in, whatever answers.
SLOW = SMALLEST | {
    "engine.chunk_rows": 4,
    "respond.context_distillation.rounds": [],
    "respond.rejection_sampling.rounds": [],
}
BACKENDS: dict[str, dict[str, Any]] = {
    "scripted": {"engine.options.delay_seconds": 1.0},
    "vllm": REAL | {"engine.max_num_seqs": 1, "attack.sampling.max_tokens": 128},
}
# The steps of round 1 that are submitted one by one; of a backend that is not here, all of them.
ONE_BY_ONE = {"scripted": ("attack",)}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@dataclass
class Cluster:
    """A standalone master and its workers, all on this host."""

    folder: Path
    shipped: Path
    port: int = field(default_factory=_free_port)
    ui: int = field(default_factory=_free_port)
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """What is submitted to."""
        return f"spark://127.0.0.1:{self.port}"

    def start(self, name: str, kind: str, *words: str) -> None:
        """Start a master or a worker, a session of its own with all its executors."""
        home = self.folder / name
        home.mkdir()
        with (home / "log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                [str(SPARK / "bin" / "spark-class"), f"org.apache.spark.deploy.{kind}", *words],
                env=self.environment(SPARK_WORKER_DIR=str(home), SPARK_DAEMON_MEMORY="256m"),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def environment(self, **more: str) -> dict[str, str]:
        """What Spark's processes see: nothing of this checkout but through the installed environment."""
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        kept |= {"SPARK_HOME": str(SPARK), "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}
        return kept | {"SPARK_LOCAL_DIRS": str(self.folder / "local"), **more}

    def state(self) -> dict[str, int]:
        """How many workers live and how many applications there were, as the master says; none before it answers."""
        with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{self.ui}/json/", timeout=5) as answer:
            said = json.load(answer)
            applications = [*said["activeapps"], *said["completedapps"]]
            return {"workers": said["aliveworkers"], "applications": len(applications)}
        return {"workers": 0, "applications": 0}

    def start_worker(self, name: str, cores: int, memory: str) -> None:
        """Start a worker, unless it runs."""
        if name in self.running:
            return
        home = self.folder / name
        if home.exists():  # of one that was killed
            home.rename(home.with_suffix(f".{time.monotonic_ns()}"))
        self.start(
            name, "worker.Worker", "--host", "127.0.0.1", "--cores", str(cores), "--memory", memory,
            "--webui-port", "0", self.url,
        )  # fmt: skip

    def await_workers(self, count: int) -> None:
        """Wait until so many have told the master that they are there."""
        deadline = time.monotonic() + 240
        while self.state()["workers"] < count:
            assert time.monotonic() < deadline, (self.folder / "master" / "log").read_text()
            time.sleep(0.2)

    def kill(self, name: str) -> None:
        """SIGKILL a worker and its executors."""
        process = self.running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def submit(
        self, log: Path, words: Sequence[str], environment: dict[str, str], cores: int, fetches: bool
    ) -> "subprocess.Popen[bytes]":
        """Submit a `mart` command, as a user does from any folder, for so many cores: an executor has two.

        `fetches` has Spark fetch Delta's jars and hand them to its executors.
        """
        # Three JVMs a step on two cores: what they would gain by compiling, they never live to spend. As on a cluster whose
        # nodes have them, Delta's jars are on the class path, and an archive of classes; one submission fetches the jars.
        java, packages, class_path = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC", [], {}
        prepared = local_jvm.prepared()
        exclusive = prepared.settings if prepared else {}
        found = None if fetches else prepared
        if found is None:
            delta = importlib.metadata.version("delta-spark")
            scala = f"{'.'.join(pyspark.__version__.split('.')[:2])}_2.13"
            packages = [
                "--packages",
                f"io.delta:delta-spark_{scala}:{delta}",
                "--exclude-packages",
                "org.apache.*:*",
                *(["--jars", str(local_jvm.log_store_jar())] if exclusive else []),
            ]
        else:
            jars = os.pathsep.join(found.jars)
            class_path = {"spark.driver.extraClassPath": jars, "spark.executor.extraClassPath": jars}
            java += f" -XX:SharedArchiveFile={found.archive}" if found.archive else ""
        settings = {
            "spark.executor.memory": "700m", "spark.driver.memory": "1g", "spark.executor.cores": "2",
            "spark.cores.max": str(cores), **class_path, **exclusive,
            "spark.driver.extraJavaOptions": java, "spark.executor.extraJavaOptions": java,
            "spark.sql.shuffle.partitions": "2", "spark.sql.codegen.wholeStage": "false",
            "spark.sql.codegen.factoryMode": "NO_CODEGEN", "spark.ui.enabled": "false",
        }  # fmt: skip
        with log.open("wb") as stream:
            return subprocess.Popen(
                [
                    str(SPARK / "bin" / "spark-submit"), "--master", self.url, *packages, "--py-files", str(self.shipped),
                    *(word for key, value in settings.items() for word in ("--conf", f"{key}={value}")),
                    str(ROOT / "jobs" / "submit.py"), *words,
                ],
                env=environment, cwd=self.folder, stdout=stream, stderr=stream, start_new_session=True,
            )  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    shipped = folder / "mart.zip"
    shutil.copy(built.wheel(tmp_path_factory.mktemp("source")), shipped)
    found = Cluster(folder, shipped)
    try:
        found.start(
            "master",
            "master.Master",
            "--host",
            "127.0.0.1",
            "--port",
            str(found.port),
            "--webui-port",
            str(found.ui),
        )
        yield found
    finally:
        for name in list(found.running):
            found.kill(name)


class Submission:
    """A submitted command, with its log."""

    def __init__(
        self, cluster: Cluster, it: Mart, *words: str, cores: int = 2, fetches: bool = False
    ) -> None:
        self._words = " ".join(words[:2])
        self._log = cluster.folder / f"{words[0]}-{words[1].strip('-')}.log"
        environment = cluster.environment(**it.own_environment(), PYTHONPATH=str(ROOT))
        self._driver = cluster.submit(self._log, it.command(*words)[3:], environment, cores, fetches)

    @property
    def log(self) -> str:
        """What was logged so far."""
        return self._log.read_text(errors="replace")

    def wait_for(self, what: Callable[[], bool]) -> None:
        """Wait until something holds; the command must not end before."""
        deadline = time.monotonic() + 240
        while not what():
            assert self._driver.poll() is None, f"{self._words} ended too early:\n{self.log[-5000:]}"
            assert time.monotonic() < deadline, f"{self._words} did not get there:\n{self.log[-5000:]}"
            time.sleep(0.05)

    def ended(self) -> str:
        """Wait for the end, which must be good, and give the log."""
        try:
            code: int | None = self._driver.wait(300)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._driver.pid, signal.SIGKILL)
        assert code == 0, f"{self._words} ended with {code}:\n{self.log[-5000:]}"
        return self.log


def _commits(it: Mart, table: str) -> int:
    return len(list((it.folder / "tables" / table / "_delta_log").glob("*.json")))


@dataclass(frozen=True)
class Round:
    """A round that ran on the cluster: its lakehouse, the logs, how many applications it was, and engines' processes after it."""

    mart: Mart
    logs: dict[str, str]
    applications: int
    engines_left: list[str]


@pytest.fixture(scope="module", params=["scripted", pytest.param("vllm", marks=pytest.mark.long)])
def finished(cluster: Cluster, scripted: Callable[..., Mart], request: pytest.FixtureRequest) -> Round:
    """A round; a worker is killed when the first chunk of attacks is there and others are not."""
    # An executor has two cores; the first worker takes two of them, also when the second is gone.
    cluster.start_worker("one", 4, "2g")
    cluster.start_worker("two", 2, "1g")
    cluster.await_workers(2)
    before = cluster.state()["applications"]
    it = scripted(SLOW | BACKENDS[request.param])
    logs = {"begin": Submission(cluster, it, *it.step_words("begin")).ended()}
    for number in (0, 1):
        steps = [
            step for step in steps_of(it.config(), number) if _is_submitted(request.param, number, step.name)
        ]
        logs |= {f"{number} {name}": log for name, log in _scheduled(cluster, it, number, steps).items()}
    logs["end"] = Submission(cluster, it, *it.step_words("end")).ended()
    if request.param in ONE_BY_ONE:
        logs["run"] = Submission(cluster, it, *it.run_words(), fetches=True).ended()
    left = [seen.line for seen in processes(str(cluster.folder)) if "pipelines.engines" in seen.line]
    return Round(it, logs, cluster.state()["applications"] - before, left)


def _is_submitted(backend: str, number: int, step: str) -> bool:
    return number == 0 or backend not in ONE_BY_ONE or step in ONE_BY_ONE[backend]


def _scheduled(cluster: Cluster, it: Mart, number: int, steps: Sequence[Step]) -> dict[str, str]:
    """Steps of a round as a scheduler runs them, each when all that it builds on has ended, two at a time; their logs."""
    waiting = list(steps)
    names = {step.name for step in waiting}
    running: dict[Future[str], str] = {}
    logs: dict[str, str] = {}
    with ThreadPoolExecutor(2) as pool:
        while waiting or running:
            free = [step for step in waiting if (needs(step) & names) <= logs.keys()][: 2 - len(running)]
            for step in free:
                waiting.remove(step)
                fetches = (number, step.name) == (1, "respond")
                running[pool.submit(_submitted, cluster, it, step.name, fetches)] = step.name
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                logs[running.pop(ended)] = ended.result()
    return logs


def _submitted(cluster: Cluster, it: Mart, name: str, fetches: bool) -> str:
    before = _commits(it, "adversarial_prompts")
    cores = 4 if name == "attack" else 2
    running = Submission(cluster, it, *it.step_words(name), cores=cores, fetches=fetches)
    if name == "attack":
        running.wait_for(lambda: _commits(it, "adversarial_prompts") > before)
        cluster.kill("two")
    return running.ended()


def test_a_round_of_submissions_proves_whole(finished: Round, told: Any) -> None:
    assert "holds" in told(finished.mart, "verify", "t").splitlines()[-1]


def test_every_step_ran_on_the_cluster(finished: Round) -> None:
    assert finished.applications == len(finished.logs)


def test_each_step_names_the_schedulers_run(finished: Round, look: Any) -> None:
    steps = look(finished.mart, "steps").where("step = 'attack'").collect()
    assert [row["driven_by"] for row in steps] == ["scheduler:test"]


def test_a_worker_killed_in_mid_generation_costs_nothing(finished: Round, look: Any) -> None:
    it = finished.mart
    assert "Lost executor" in finished.logs["1 attack"]
    attempts = look(it, "steps").where("step = 'attack' AND round = 1").collect()
    assert [(row["state"], row["attempt"]) for row in attempts] == [("done", 1)]
    asked = look(it, "requests").where("step = 'attack'").select("request_id").collect()
    answered = look(it, "adversarial_prompts").where("step = 'attack'").select("request_id").collect()
    assert sorted(asked) == sorted(answered)


def test_no_engine_outlives_the_run(finished: Round) -> None:
    assert not finished.engines_left


def test_executors_run_the_package_that_was_shipped(cluster: Cluster) -> None:
    script = cluster.folder / "where.py"
    script.write_text(
        "from pyspark.sql import SparkSession\n"
        "def where(_):\n    import pipelines\n    return [pipelines.__file__]\n"
        "spark = SparkSession.builder.getOrCreate()\n"
        "print(spark.sparkContext.parallelize([0], 1).mapPartitions(where).collect()[0])\n"
        "spark.stop()\n"
    )
    words = [str(SPARK / "bin" / "spark-submit"), "--master", cluster.url, "--py-files", str(cluster.shipped)]
    done = subprocess.run(
        [*words, str(script)],
        env=cluster.environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert f"{cluster.shipped.name}/pipelines" in done.stdout
