"""The doors that a scheduler and an operator use, on a lakehouse without a trained model."""

import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from pyspark.sql import SparkSession

from jobs.cli import main
from jobs.main_job import resolve_round
from jobs.show import show_query, show_status
from pipelines.config import load_config
from pipelines.errors import ConfigError, DataError
from pipelines.history import History
from pipelines.lakehouse import Lakehouse
from pipelines.plan import steps_of

Door = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def folder(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("doors")
    seeds = [{"text": f"Please paint lantern number {n}.", "category": "lanterns"} for n in range(3)]
    (root / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in seeds))
    judge = {"base": "nowhere", "dataset": None}
    config = {
        "model": "nowhere",
        "rounds": 1,
        "data": {
            "imports": [{"path": str(root / "seeds.jsonl"), "kind": "seeds", "dataset": "mine"}],
            "seeds": "mine",
        },
        "engine": {"backend": "scripted"},
        "reward_models": {"safety": judge, "helpfulness": judge},
    }
    (root / "run.yaml").write_text(yaml.safe_dump(config))
    yield root
    spark.sql("USE default")
    spark.sql("DROP SCHEMA IF EXISTS mart CASCADE")


@pytest.fixture
def door(folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Door:
    """Runs a command over the lakehouse; gives its exit code and all that it said."""
    caplog.set_level(logging.INFO)

    def run(*words: str) -> tuple[int, str]:
        caplog.clear()
        code = main([*words, "--lakehouse", str(folder / "lakehouse")])
        said = capsys.readouterr()
        return code, said.out + said.err + caplog.text

    return run


@pytest.fixture
def step(folder: Path, door: Door) -> Door:
    """Runs `mart step` of the run `nightly` for a scheduler's run."""
    return lambda name, holder, *more: door(*_step_words(folder, name, holder), *more)


def _step_words(folder: Path, name: str, holder: str) -> list[str]:
    config = str(folder / "run.yaml")
    return ["step", name, "--run-id", "nightly", "--config", config, "--holder", holder]


@pytest.fixture(scope="module")
def begun(folder: Path) -> None:
    """The run, taken by the scheduler's run `monday` for all tests here; one that lets it go takes it again."""
    words = _step_words(folder, "begin", "monday")
    assert main([*words, "--lakehouse", str(folder / "lakehouse")]) == 0


@pytest.mark.usefixtures("begun")
def test_a_run_that_a_scheduler_began_is_refused_to_another_until_it_ends(step: Door) -> None:
    code, said = step("begin", "tuesday")
    assert code == 6 and "run nightly is held by scheduler:monday" in said
    assert step("end", "monday")[0] == 0
    assert step("begin", "tuesday")[0] == 0
    assert step("end", "tuesday")[0] == 0
    assert step("begin", "monday")[0] == 0


def test_what_was_never_begun_can_be_ended(folder: Path, door: Door) -> None:
    words = ["end", "--run-id", "failed in begin", "--config", str(folder / "run.yaml"), "--holder", "monday"]
    assert door("step", *words)[0] == 0


@pytest.mark.parametrize("run_id", ["", " ", "a\x1b[2Jb", "a\nb"])
def test_a_run_id_that_can_not_be_shown_is_refused(folder: Path, door: Door, run_id: str) -> None:
    code, said = door("step", "begin", "--run-id", run_id, "--config", str(folder / "run.yaml"))
    assert code == 2 and f"a run's id is words that can be shown, got {run_id!r}" in said


@pytest.mark.usefixtures("begun")
def test_begin_imports_the_data_once(step: Door) -> None:
    code, said = step("begin", "monday")
    assert code == 0 and "import mine: 3 in, 3 new, 0 repeated, 0 refused" in said
    assert "was finished before" in said


@pytest.mark.usefixtures("begun")
def test_a_step_out_of_turn_is_told_what_goes_before_it(step: Door) -> None:
    code, said = step("respond", "monday", "--round", "1")
    assert code == 2 and "step respond of round 1 needs round 0" in said and "run `mart step" in said


@pytest.mark.usefixtures("begun")
def test_the_next_round_of_a_new_run_is_the_warm_start(step: Door) -> None:
    code, said = step("attack", "monday", "--round", "next")
    assert code == 0 and "round 0 has no step attack" in said


@pytest.mark.usefixtures("begun")
def test_a_schedule_is_told_that_its_run_has_ended_all_rounds(folder: Path, spark: SparkSession) -> None:
    config = load_config(folder / "run.yaml")
    history = History(Lakehouse(spark, "mart", folder / "lakehouse" / "tables"), "nightly")
    for round in (0, 1):
        for step in steps_of(config, round):
            history.record_done(round, step.name, {})
    with pytest.raises(ConfigError, match="run nightly has ended all its 1 rounds; pause its schedule"):
        resolve_round(history, config, "next")


@pytest.mark.usefixtures("begun")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nonsense", "monday"], "there is no step 'nonsense'"),
        (["attack", "monday", "--round", "last"], "--round takes a number or next"),
        (["begin", "monday", "--fork", "nightly"], "--fork takes RUN@ROUND"),
        (
            ["begin", "monday", "--fork", "weekly@1"],
            "nightly is there and was forked from nothing, not from weekly@1",
        ),
        (["attack", "monday", "--set", "seed=9"], "nightly was begun with other settings: seed was 0, is 9"),
    ],
)
def test_a_wrong_word_is_named(step: Door, words: list[str], told: str) -> None:
    code, said = step(*words)
    assert code == 2 and told in said


@pytest.mark.usefixtures("begun")
@pytest.mark.parametrize(
    ("fork", "told"),
    [
        ("weekly@0", "there is no run 'weekly'; there are nightly"),
        ("nightly@0", "run nightly has not ended its round 0"),
    ],
)
def test_only_a_whole_round_of_a_run_can_be_forked(folder: Path, door: Door, fork: str, told: str) -> None:
    words = ["--run-id", "side-run", "--config", str(folder / "run.yaml")]
    code, said = door("step", "begin", *words, "--holder", "monday", "--fork", fork)
    assert code == 2 and told in said
    assert "side-run" not in door("status")[1]


@pytest.mark.usefixtures("begun")
def test_status_says_who_drives_a_run(door: Door) -> None:
    code, said = door("status")
    assert code == 0 and "nightly" in said and "scheduler:monday" in said


@pytest.mark.usefixtures("begun")
@pytest.mark.parametrize(
    ("run_id", "code", "told"),
    [("nightly", 6, "run nightly is held by scheduler:monday"), ("weekly", 2, "there is no run 'weekly'")],
)
def test_a_run_is_judged_if_it_is_there_and_no_one_drives_it(
    folder: Path, door: Door, run_id: str, code: int, told: str
) -> None:
    ended, said = door("judge", run_id, "--config", str(folder / "run.yaml"))
    assert ended == code and told in said


@pytest.mark.usefixtures("begun")
def test_a_check_that_did_not_fail_can_not_be_overridden(door: Door) -> None:
    words = "--round 1 --gate scores --check safety_spread --by me --reason asked".split()
    code, said = door("override", "nightly", *words)
    assert code == 2 and "did not fail in round 1 of nightly" in said


@pytest.mark.usefixtures("begun")
def test_a_checkpoint_that_is_not_there_can_not_be_exported(door: Door, tmp_path: Path) -> None:
    code, said = door("export", "abc", "--merged", str(tmp_path / "model"))
    assert code == 2 and "0 checkpoints begin with 'abc'" in said and not (tmp_path / "model").exists()


def test_timestamps_are_shown_in_utc_wherever_the_driver_is(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.StringIO()
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "America/New_York")
        time.tzset()
        show_query(lakehouse.spark, "SELECT TIMESTAMP '2026-01-01 12:00:00' AS t", "csv", out)
        assert time.tzname[0] == "EST"
    time.tzset()
    assert "2026-01-01 12:00:00" in out.getvalue()


@pytest.mark.parametrize("run_id", ["nightly", 'Bob\'s "run"'])
def test_status_tells_of_the_run_that_is_asked_for(
    lakehouse: Lakehouse, capsys: pytest.CaptureFixture[str], run_id: str
) -> None:
    known = ["nightly", 'Bob\'s "run"']
    row = {"config": "{}", "config_digest": "c", "code_version": "0", "created_at": datetime.now(UTC)}
    lakehouse.ready("runs")
    lakehouse.append_rows("runs", [{"run_id": name, **row} for name in known])
    show_status(lakehouse, run_id)
    said = capsys.readouterr().out
    assert [name for name in known if name in said] == [run_id]
    with pytest.raises(ConfigError, match="there is no run 'x'; there are Bob's \"run\", nightly"):
        show_status(lakehouse, "x")


@pytest.mark.parametrize("format", ["table", "csv"])
@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("SELECT nothing", "Spark does not take the query: .*UNRESOLVED_COLUMN"),
        ("SELECT 1/0", "the query failed while it ran: .DIVIDE_BY_ZERO. .*try_divide"),
        ("SELECT DATE '+10000-01-01'", "a value of the result can't be shown .*AS STRING"),
        ("SELECT 1/id FROM range(9)", "the query failed while it ran: .DIVIDE_BY_ZERO. .*try_divide"),
    ],
)
def test_a_query_that_fails_is_told_in_a_line(
    spark: SparkSession, query: str, told: str, format: str
) -> None:
    with pytest.raises(DataError, match=told) as error:
        show_query(spark, query, format, io.StringIO())
    assert "\n" not in str(error.value)


def test_a_folder_without_a_lakehouse_is_not_made_by_asking(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--lakehouse", str(tmp_path / "none")]) == 2
    assert "there is no lakehouse" in capsys.readouterr().err and not (tmp_path / "none").exists()
