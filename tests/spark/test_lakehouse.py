"""Tables are made, checked and migrated from `schemas/`, and written so that nothing doubles."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import Column as SparkColumn
from pyspark.sql import functions as F

from pipelines.errors import ConfigError, RunHeld, SchemaError
from pipelines.lakehouse import Lakehouse, quote
from schemas.model import Column
from schemas.tables import BY_NAME, GATE_OVERRIDES, PROMPT_SCREENINGS, SELECTIONS


def _override(**changes: Any) -> dict[str, Any]:
    row = {"run_id": "r", "round": 1, "gate": "scores", "check_name": "c", "approved_by": "x", "reason": "y"}
    return row | changes


def test_a_table_is_found_again_by_a_catalog_that_forgot_it(lakehouse: Lakehouse) -> None:
    lakehouse.ensure([GATE_OVERRIDES])
    lakehouse.append_rows("gate_overrides", [_override()])
    again = Lakehouse(lakehouse.spark, f"{lakehouse.schema}_again", lakehouse.folder)
    again.ensure([GATE_OVERRIDES])
    assert again.read("gate_overrides").count() == 1


def test_a_table_whose_maker_died_before_its_first_commit_is_made(lakehouse: Lakehouse) -> None:
    assert lakehouse.folder is not None
    log_folder = lakehouse.folder / "gate_overrides" / "_delta_log"
    (log_folder / "_staged_commits").mkdir(parents=True)
    draft = log_folder / ".00000000000000000000.json.5c0e.tmp"
    draft.touch()
    for path in (draft, log_folder / "_staged_commits", log_folder):
        os.utime(path, (0, 0))
    lakehouse.ensure([GATE_OVERRIDES])
    assert lakehouse.version("gate_overrides") == 0
    assert not draft.exists()


def test_a_commit_under_the_same_id_is_written_once(lakehouse: Lakehouse) -> None:
    lakehouse.ensure([GATE_OVERRIDES])
    for _ in range(2):
        lakehouse.append_rows("gate_overrides", [_override()], once="commit-1")
    assert lakehouse.read("gate_overrides").count() == 1


def test_a_scope_is_replaced_and_the_rest_is_left(lakehouse: Lakehouse) -> None:
    lakehouse.ensure([GATE_OVERRIDES])
    lakehouse.append_rows("gate_overrides", [_override(), _override(round=2)])
    lakehouse.replace(
        "gate_overrides",
        lakehouse.frame("gate_overrides", [_override(reason="new")]),
        {"run_id": "r", "round": 1},
    )
    rows = {(row["round"], row["reason"]) for row in lakehouse.read("gate_overrides").collect()}
    assert rows == {(1, "new"), (2, "y")}


def test_rows_that_may_not_be_replaced_any_more_stay(lakehouse: Lakehouse) -> None:
    def may() -> None:
        raise RunHeld("another has it")

    lakehouse.ensure([GATE_OVERRIDES])
    lakehouse.append_rows("gate_overrides", [_override()])
    with pytest.raises(RunHeld):
        lakehouse.replace("gate_overrides", lakehouse.frame("gate_overrides", []), {"run_id": "r"}, may=may)
    assert lakehouse.read("gate_overrides").count() == 1


def test_the_last_change_is_the_last_commit_that_may_have_changed_or_removed_rows(
    lakehouse: Lakehouse,
) -> None:
    def replace_round(round: int) -> int:
        rows = lakehouse.frame("gate_overrides", [_override(round=round)])
        lakehouse.replace("gate_overrides", rows, {"run_id": "r", "round": round})
        return lakehouse.version("gate_overrides")

    def run(statement: str) -> int:
        lakehouse.spark.sql(statement.format(lakehouse.name("gate_overrides")))
        return lakehouse.version("gate_overrides")

    lakehouse.ensure([GATE_OVERRIDES])
    lakehouse.append_rows("gate_overrides", [_override()])
    replace_round(2)
    run("ALTER TABLE {} SET TBLPROPERTIES ('mart.note' = 'x')")
    assert lakehouse.changes("gate_overrides")[1] < 1, "nothing but what was added"
    changed = run("UPDATE {} SET reason = 'z' WHERE round = 2")
    lakehouse.append_rows("gate_overrides", [_override(round=3)])
    assert lakehouse.changes("gate_overrides")[1] == changed
    assert replace_round(3) == lakehouse.changes("gate_overrides")[1]
    for statement in ("DELETE FROM {} WHERE round = 1", "RESTORE {} TO VERSION AS OF 1"):
        assert run(statement) == lakehouse.changes("gate_overrides")[1]
    lakehouse.spark.conf.set("spark.databricks.delta.history.metricsEnabled", False)
    try:
        assert replace_round(4) == lakehouse.changes("gate_overrides")[1], (
            "which does not say what it removed"
        )
    finally:
        lakehouse.spark.conf.unset("spark.databricks.delta.history.metricsEnabled")


def test_a_row_outside_a_check_is_refused(lakehouse: Lakehouse) -> None:
    lakehouse.ensure([SELECTIONS])
    row = {
        "run_id": "r", "round": 1, "prompt_id": "p", "response_id": "a", "verdict": "maybe", "reason": "x",
        "theta_s_adv": 0.5, "theta_s_tgt": 0.5, "theta_h_tgt": 0.5,
    }  # fmt: skip
    with pytest.raises(Exception, match="verdict_known"):
        lakehouse.append_rows("selections", [row])


def test_a_column_that_is_missing_is_named(lakehouse: Lakehouse) -> None:
    shorter = replace(
        PROMPT_SCREENINGS, columns=tuple(c for c in PROMPT_SCREENINGS.columns if c.name != "reason")
    )
    lakehouse.ensure([shorter])
    with pytest.raises(SchemaError, match="prompt_screenings differs from its schema: reason is missing"):
        lakehouse.ensure([PROMPT_SCREENINGS])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("ALTER COLUMN reason DROP NOT NULL", r"reason may be null.*ALTER COLUMN `reason` SET NOT NULL"),
        (
            "DROP CONSTRAINT verdict_known",
            r"constraint verdict_known is missing.*ADD CONSTRAINT verdict_known CHECK \(verdict IN",
        ),
        (
            "SET TBLPROPERTIES ('delta.logRetentionDuration' = 'interval 30 days')",
            "delta.logRetentionDuration is interval 30 days.*SET TBLPROPERTIES .*3650 days",
        ),
    ],
)
def test_a_rule_of_ours_that_was_altered_is_named_with_what_puts_it_back(
    lakehouse: Lakehouse, change: str, told: str
) -> None:
    lakehouse.ensure([SELECTIONS])
    lakehouse.ensure([SELECTIONS])
    lakehouse.spark.sql(f"ALTER TABLE {lakehouse.name('selections')} {change}")
    with pytest.raises(SchemaError, match=f"table selections differs from its schema: {told}"):
        lakehouse.ensure([SELECTIONS])


def test_a_table_that_is_partitioned_otherwise_is_refused(lakehouse: Lakehouse) -> None:
    lakehouse.ensure([replace(GATE_OVERRIDES, partitioned_by=())])
    with pytest.raises(SchemaError, match="it is partitioned by nothing, not run_id"):
        lakehouse.ensure([GATE_OVERRIDES])


def test_a_column_that_a_platform_adds_is_not_our_business(lakehouse: Lakehouse) -> None:
    more = replace(
        GATE_OVERRIDES, columns=(*GATE_OVERRIDES.columns, Column("theirs", "STRING", "x", nullable=True))
    )
    lakehouse.ensure([more])
    lakehouse.ensure([GATE_OVERRIDES])
    assert "theirs" not in lakehouse.read("gate_overrides").columns


def test_an_older_table_migrates_forward(lakehouse: Lakehouse) -> None:
    lakehouse.ensure([GATE_OVERRIDES])
    lakehouse.append_rows("gate_overrides", [_override()])
    newer = replace(
        GATE_OVERRIDES,
        columns=(
            *GATE_OVERRIDES.columns,
            Column("ticket", "STRING", "where it was discussed", nullable=True),
        ),
        version=2,
        added={2: ("ticket",)},
    )
    lakehouse.ensure([newer])
    assert lakehouse.stored_version("gate_overrides") == 2
    assert lakehouse.spark.table(lakehouse.name("gate_overrides")).select("ticket").collect()[0][0] is None


def test_a_version_from_before_a_migration_reads_with_nulls(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakehouse.ensure([GATE_OVERRIDES])
    lakehouse.append_rows("gate_overrides", [_override()])
    before = lakehouse.version("gate_overrides")
    ticket = Column("ticket", "STRING", "where it was discussed", nullable=True)
    newer = replace(
        GATE_OVERRIDES, columns=(*GATE_OVERRIDES.columns, ticket), version=2, added={2: ("ticket",)}
    )
    lakehouse.ensure([newer])
    monkeypatch.setitem(BY_NAME, "gate_overrides", newer)
    assert [row["ticket"] for row in lakehouse.read("gate_overrides", before).collect()] == [None]


def test_a_table_of_a_newer_package_is_refused(lakehouse: Lakehouse) -> None:
    lakehouse.ensure([replace(GATE_OVERRIDES, version=3)])
    with pytest.raises(SchemaError, match="has schema version 3, this code knows 1"):
        lakehouse.ensure([GATE_OVERRIDES])


def test_a_schema_name_can_hold_no_sql(spark: Any) -> None:
    with pytest.raises(ConfigError, match="is no schema name"):
        Lakehouse(spark, "mart; DROP TABLE x")


@pytest.mark.parametrize("text", ["it's", 'a "b"', "back\\slash", "\\' OR 1=1 --", "line\nbreak"])
def test_a_quoted_text_comes_back_as_it_was(spark: Any, text: str) -> None:
    assert spark.sql(f"SELECT {quote(text)} AS text").head()["text"] == text


def test_two_drivers_that_replace_rows_of_one_partition_both_do(lakehouse: Lakehouse, tmp_path: Path) -> None:
    lakehouse.ensure([SELECTIONS])
    begun, goes_on = tmp_path / "begun", tmp_path / "goes on"

    def wait() -> None:
        begun.touch()
        for _ in range(600):
            if goes_on.exists():
                return
            time.sleep(0.1)
        raise TimeoutError(f"{goes_on} never came")

    def replaced(response: str, reason: SparkColumn) -> None:
        row = {
            "run_id": "r", "round": 1, "prompt_id": "p", "response_id": response, "verdict": "keep", "reason": "x",
            "theta_s_adv": 0.5, "theta_s_tgt": 0.5, "theta_h_tgt": 0.5,
        }  # fmt: skip
        frame = lakehouse.frame("selections", [row]).withColumn("reason", reason)
        lakehouse.replace("selections", frame, {"run_id": "r", "round": 1, "response_id": response})

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(replaced, "a", F.udf(lambda reason: [reason, wait()][0], "string")("reason"))
        while not begun.exists():
            assert not first.done()
            time.sleep(0.05)
        replaced("b", F.col("reason"))
        goes_on.touch()
        first.result()
    assert {row["response_id"] for row in lakehouse.read("selections").collect()} == {"a", "b"}


def test_drivers_that_make_a_table_at_once_all_find_it(lakehouse: Lakehouse) -> None:
    # Each with a schema of its own in the catalog over one folder, as processes have catalogs of their own.
    drivers = [
        Lakehouse(lakehouse.spark, f"{lakehouse.schema}_{name}", lakehouse.folder) for name in ("a", "b", "c")
    ]
    with ThreadPoolExecutor(len(drivers)) as pool:
        for made in [pool.submit(driver.ensure, [GATE_OVERRIDES]) for driver in drivers]:
            made.result()
    drivers[0].append_rows("gate_overrides", [_override()])
    assert drivers[2].read("gate_overrides").count() == 1
