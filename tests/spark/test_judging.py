"""Judges that a run was begun without read what it answered, and are reported beside its own; nothing else changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.flags import config_path
from jobs.main_job import run_judges
from jobs.place import Place
from pipelines.beginning import begin
from pipelines.config import JudgeConfig, load_config
from pipelines.errors import ConfigError
from pipelines.history import History, now
from pipelines.judging import left_to_read
from pipelines.lakehouse import Lakehouse
from pipelines.plan import steps_of
from pipelines.runner import Runner
from pipelines.verify import verify_run
from pipelines.views import create_views

# Answers by script, to held-out prompts and to the adversary's, without a training.
UNTRAINED = {
    "data.warm_start": None, "adversary.warm_pairs": 0, "adversary.enabled": False, "target.enabled": False,
    "evaluate.adversary_prompts": 2, "engine.chunk_rows": 64,
}  # fmt: skip
RULE = {"function": "sandbox.judge:truth"}
VALUES = {"refused": 1.0, "answered": 1.0, "neither": None}
OWN = RULE | {"name": "strict", "values": VALUES | {"complied": 0.0}}
# The same words with other values: another judge, whose figures must be the same.
LATER = RULE | {"name": "lenient", "values": VALUES | {"complied": 0.4}}
WRITTEN = ("scores", "scorers", "round_metrics", "steps")


def _figures(lakehouse: Lakehouse, judge: str) -> list[tuple[Any, ...]]:
    rows = lakehouse.read("round_metrics").where(f"judge = '{judge}'")
    columns = ("round", "metric", "slice", "value", "low", "high", "successes", "n")
    return sorted(tuple(row) for row in rows.select(*columns).collect())


def _verdicts(lakehouse: Lakehouse, judge: str) -> list[tuple[Any, ...]]:
    rows = lakehouse.read("scores").where(f"scorer = '{judge}'")
    return sorted(tuple(row) for row in rows.select("run_id", "round", "response_id", "label").collect())


def test_a_judge_that_comes_later_reads_once_what_the_others_read_and_nothing_else_changes(
    runner_of: Callable[..., Runner],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runner = runner_of(UNTRAINED | {"judges": [OWN]})
    runner.run_round(0)
    lakehouse, place = runner.lakehouse, Place(runner.lakehouse, runner.artifacts, tmp_path)
    asked = {table: lakehouse.version(table) for table in ("requests", "adversarial_prompts", "responses")}
    # Without the held-out sets, which the run knows.
    data = runner.config.data.model_copy(update={"suites": None})
    judges = [JudgeConfig(**OWN), JudgeConfig(**LATER)]
    later = runner.config.model_copy(update={"data": data, "judges": judges})

    record = Runner._record

    def killed(self: Runner, event: Any, *more: Any) -> None:
        if event["step"] == "report_lenient":
            raise KeyboardInterrupt
        record(self, event, *more)

    with monkeypatch.context() as patched:
        patched.setattr(Runner, "_record", killed)
        with pytest.raises(KeyboardInterrupt):
            run_judges(place, later, "r")
    begin(lakehouse, runner.config, "f", ("r", 0))
    run_judges(place, later, "f")  # what a fork has of another run is read as that run's
    assert "violation, lenient" in capsys.readouterr().out
    written = {table: lakehouse.version(table) for table in WRITTEN}
    run_judges(place, later, "r")
    assert "nothing to do" in capsys.readouterr().out
    assert written == {table: lakehouse.version(table) for table in WRITTEN}

    assert _verdicts(lakehouse, "lenient") == _verdicts(lakehouse, "strict")
    figures = _figures(lakehouse, "lenient")
    assert figures == _figures(lakehouse, "strict")
    assert {metric for _, metric, *_ in figures} >= {"violation_rate", "adversary_success_rate"}
    assert asked == {table: lakehouse.version(table) for table in asked}
    create_views(lakehouse, ["round_overview"])
    overview = lakehouse.spark.table(lakehouse.name("round_overview")).collect()
    assert [row["judge"] for row in overview] == ["strict"]
    assert verify_run(lakehouse, runner.artifacts, "f").differences == []
    begin(lakehouse, runner.config, "r")  # as `mart run` does that goes on
    history = History(lakehouse, "r")
    assert history.next_round(lambda n: [step.name for step in steps_of(runner.config, n)]) == 1


def _done(run_id: str, step: str) -> dict[str, Any]:
    return {
        "run_id": run_id, "round": 0, "step": step, "attempt": 1, "state": "done", "started_at": now(),
        "ended_at": now(), "reads": "{}", "writes": "{}", "counts": "{}", "busy_seconds": 0.0,
    }  # fmt: skip


def test_what_can_not_be_judged_is_refused_in_a_sentence(lakehouse: Lakehouse) -> None:
    run = {"config": "{}", "config_digest": "c", "code_version": "0", "created_at": now()}
    lakehouse.append_rows("runs", [run | {"run_id": "r"}, run | {"run_id": "new"}])
    lakehouse.append_rows("steps", [_done("r", "evaluate_score"), _done("r", "report")])
    verdict = {
        "run_id": "r", "round": 0, "step": "evaluate_score", "response_id": "x", "scorer_digest": "another",
        "scorer": "truth", "status": "ok",
    }  # fmt: skip
    lakehouse.append_rows("scores", [verdict])
    config = load_config(config_path("sandbox"))
    for run_id, names, told in (
        ("r", [], "judge truth is not the one whose verdicts run r has by that name"),
        ("r", ["safety"], "safety is a reward model, by which a run selects"),
        ("r", ["guard"], "the configuration has no judge 'guard'; it has truth"),
        ("new", [], "run new has ended no round"),
        ("none", [], "there is no run 'none'"),
    ):
        with pytest.raises(ConfigError, match=told):
            left_to_read(lakehouse, config, run_id, names)
