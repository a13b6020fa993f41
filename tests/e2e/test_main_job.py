"""The main job, whole and small: Spark, Delta, Great Expectations, vLLM and the trainers are the real ones.

Its run is the short form of `make chaos`: processes that it consists of are killed at random moments, one of each kind but the engine's core
(tests/engine/test_vllm_engine.py kills that), and it is started again.
"""

import contextlib
import json
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.lakehouse import Lakehouse
from pipelines.origins import keep_missing_origins
from schemas.manifests import CHECKPOINT_FILE, FileEntry
from tests.chaos import KINDS, Chaos
from tests.e2e.small import SMALL, Mart
from tests.leftovers import processes

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

# An engine's restart is the longest part of what a kill costs.
KILLED = [kind for kind in KINDS if kind != "core"]


@pytest.fixture(scope="module")
def chaos() -> Iterator[Chaos]:
    """One round on the real model and engine, as it was killed."""
    # vLLM's own sockets fit below a short path.
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    settings = SMALL | {
        "rounds": 1,
        "engine.options.fork": True,
        "reward_models.safety.backend": "vllm",
    }
    # A worker and a trainer whenever they are alive; the others with requests, chunks and an engine behind them.
    chaos = Chaos(
        Mart(folder / "lakehouse", settings),
        random.Random(0),
        kills=len(KILLED),
        kinds=KILLED,
        pauses=(2.0, 20.0),
        most=1,
        once=dict.fromkeys(("driver", "jvm", "server"), "round 0 evaluate_target: "),
        runs=1,
    )
    chaos.go()
    yield chaos
    if not chaos.problems:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def finished(chaos: Chaos) -> Mart:
    """The run that has ended."""
    return replace(chaos.mart, run="run-0")


def test_a_run_in_which_a_process_of_each_kind_is_killed_proves_whole_and_leaves_nothing(
    chaos: Chaos,
) -> None:
    assert chaos.problems == []
    assert sorted(event["target"] for event in chaos.events) == sorted(KILLED)


def test_every_step_of_both_rounds_is_published_once(finished: Any, told: Any) -> None:
    query = "SELECT round, step, count(*) AS n FROM steps WHERE state = 'done' GROUP BY round, step"
    rows = [json.loads(line) for line in told(finished, "sql", query, "--format", "json").splitlines()]
    assert {row["n"] for row in rows} == {1}
    assert {row["step"] for row in rows if row["round"] == 1} >= {
        "attack",
        "respond",
        "select",
        "train_target",
        "evaluate_reference",
        "report",
    }


def test_each_attempt_names_the_process_that_drove_it(finished: Any, look: Any) -> None:
    drivers = {row["driven_by"] for row in look(finished, "steps").select("driven_by").collect()}
    assert len(drivers) > 1
    assert all(name.startswith("process:") for name in drivers)


def test_the_summary_shows_both_rounds_by_truth_and_by_reward_model(finished: Any, told: Any) -> None:
    text = told(finished, "summary", finished.run)
    for words in (
        "violation, truth",
        "violation, safety",
        "benign refusal, helpfulness",
        "agreement with held-out labels, safety",
        "warm start",
        "round 1",
    ):
        assert words in text


def test_the_effect_is_told_with_intervals_and_by_adversary_and_target(finished: Any, told: Any) -> None:
    rows = [
        json.loads(line) for line in told(finished, "effect", finished.run, "--format", "json").splitlines()
    ]
    by_name = {(row["figure"], row["quantity"], row["round"]): row for row in rows}
    violation = by_name["rate", "violation", 1]
    assert 0 <= violation["low"] <= violation["value"] <= violation["high"] <= 1
    assert violation["answers"] == violation["prompts"] > 0
    assert ("reduction since the warm start", "violation", 1) in by_name
    assert ("relative change to the warm start", "nats a token of reference answers", 1) in by_name
    assert {("attack success", "adversary 0", 0), ("attack success", "adversary 1", 0)} <= set(by_name)


def test_each_trained_adapter_has_weights_of_its_own(finished: Any, look: Any) -> None:
    rows = look(finished, "checkpoints").where("kind = 'lora'").collect()
    assert sorted((row["role"], row["round"]) for row in rows) == [
        ("adversary", 0), ("adversary", 1), ("target", 0), ("target", 1),
    ]  # fmt: skip
    assert len({row["weights_sha256"] for row in rows}) == 4


def test_the_helpfulness_model_began_with_the_safety_model(finished: Any, look: Any) -> None:
    rows = {row["role"]: row for row in look(finished, "checkpoints").where("kind = 'classifier'").collect()}
    assert rows["helpfulness_rm"]["parent_checkpoint_id"] == rows["safety_rm"]["checkpoint_id"]
    assert rows["safety_rm"]["parent_checkpoint_id"] is None


def test_every_checkpoint_is_logged_to_mlflow_beside_the_tables(finished: Any, look: Any) -> None:
    rows = look(finished, "checkpoints").collect()
    with contextlib.closing(sqlite3.connect(finished.folder / "mlflow.db")) as store:
        kept = "SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active'"
        asked = f"SELECT value FROM tags WHERE key = 'mart.checkpoint_id' AND run_uuid IN ({kept})"
        logged = store.execute(asked).fetchall()
    assert sorted(value for (value,) in logged) == sorted(row["checkpoint_id"] for row in rows)


def _last_target(finished: Any, look: Any) -> Any:
    return look(finished, "checkpoints").where("role = 'target' AND round = 1").collect()[0]


def test_lineage_names_the_data_of_the_last_target(finished: Any, look: Any, told: Any) -> None:
    row = _last_target(finished, look)
    text = told(finished, "lineage", row["checkpoint_id"][:12])
    assert "safety" in text and "sandbox_labels" in text


def test_lineage_refuses_a_checkpoint_whose_origins_are_not_kept_until_a_run_begins(
    finished: Any, look: Any, told: Any, spark: Any
) -> None:
    row, table = _last_target(finished, look), f"delta.`{finished.folder / 'tables' / 'checkpoint_origins'}`"
    before = told(finished, "lineage", row["checkpoint_id"])
    version = spark.sql(f"DESCRIBE HISTORY {table}").head()["version"]
    spark.sql(f"DELETE FROM {table}")
    try:
        refused = told(finished, "lineage", row["checkpoint_id"], code=2)
        keep_missing_origins(Lakehouse(spark, "mart", finished.folder / "tables"))
        after = told(finished, "lineage", row["checkpoint_id"])
    finally:
        spark.sql(f"RESTORE TABLE {table} TO VERSION AS OF {version}")
    assert "was registered before its origins were kept" in refused
    assert after == before


def _relisted(folder: Path) -> dict[Path, bytes]:
    """Change a checkpoint's adapter settings, and what its manifest says of them; gives both files as they were."""
    settings, manifest = folder / "adapter_config.json", folder / CHECKPOINT_FILE
    before = {file: file.read_bytes() for file in (settings, manifest)}
    settings.write_text(json.dumps(json.loads(before[settings]) | {"lora_alpha": 1}))
    listed = json.loads(before[manifest])
    new = FileEntry.of(settings).model_dump()
    listed["files"] = [new if entry["name"] == new["name"] else entry for entry in listed["files"]]
    manifest.write_text(json.dumps(listed))
    return before


def test_one_changed_byte_of_weights_one_changed_row_or_digest_and_lost_origins_are_found(
    finished: Any, look: Any, told: Any, spark: Any
) -> None:
    path = finished.folder / "artifacts" / _last_target(finished, look)["path"] / "adapter_model.safetensors"
    whole = path.read_bytes()
    table = f"delta.`{finished.folder / 'tables' / 'training_examples'}`"
    row = "role = 'target' AND round = 1 AND position = 0"
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    adversary = look(finished, "checkpoints").where("role = 'adversary' AND round = 1").collect()[0]
    relisted = _relisted(finished.folder / "artifacts" / adversary["path"])
    spark.sql(f"UPDATE {table} SET output = concat(output, ' ') WHERE {row}")
    tampered = {
        "checkpoint_origins": "DELETE FROM {} WHERE relation = 'wrote_answers'",
        "seed_prompts": "UPDATE {} SET text = concat(text, ' ')",
        "quality_results": "UPDATE {} SET suite_digest = '0' WHERE round = 1 AND check_name = 'enough_answers'",
    }
    names = {name: f"delta.`{finished.folder / 'tables' / name}`" for name in tampered}
    versions = {name: spark.sql(f"DESCRIBE HISTORY {names[name]}").head()["version"] for name in tampered}
    for name, statement in tampered.items():
        spark.sql(statement.format(names[name]))
    try:
        text = told(finished, "verify", finished.run, code=5)
    finally:
        path.write_bytes(whole)
        for file, content in relisted.items():
            file.write_bytes(content)
        spark.sql(f"UPDATE {table} SET output = substr(output, 1, length(output) - 1) WHERE {row}")
        for name, version in versions.items():
            spark.sql(f"RESTORE TABLE {names[name]} TO VERSION AS OF {version}")
    assert "rows of seed_prompts, data set" in text
    assert ": its results name 2 suites" in text
    assert "of its origins are not what its training rows give" in text
    assert "UPDATE of quality_results at version" in text
    assert "adapter_model.safetensors" in text
    assert f"its table says files_sha256 {adversary['files_sha256']}" in text
    assert "training row 0 does not have the digest of its content" in text


def test_settings_that_affect_results_can_not_change_on_the_way(finished: Any, told: Any) -> None:
    text = told(finished, *finished.run_words("--set", "select.theta_s_adv=0.4"), code=2)
    assert "select.theta_s_adv was 0.5, is 0.4" in text


def test_a_second_run_of_the_same_command_does_nothing_again(finished: Any, look: Any, told: Any) -> None:
    before = look(finished, "steps").count()
    assert "warm start" in told(finished, *finished.run_words())
    assert look(finished, "steps").count() == before


def test_no_engine_is_left(finished: Any) -> None:
    deadline = time.monotonic() + 30
    mine = str(finished.folder.parent)
    while time.monotonic() < deadline and (left := [seen.line for seen in processes(mine)]):
        time.sleep(1)
    assert not left


def test_describe_lists_the_steps_that_ran(finished: Any, look: Any) -> None:
    listed = {
        item["step"]
        for item in json.loads(finished("describe", "--config", "sandbox", "--format", "json").stdout)
    }
    ran = {row["step"] for row in look(finished, "steps").select("step").distinct().collect()}
    assert ran <= listed
