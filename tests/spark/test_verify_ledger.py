"""What `mart verify` finds in the history of tables that are only ever appended to."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pyspark.sql import functions as F

from pipelines.lakehouse import Lakehouse
from pipelines.verify_ledger import rewritten


def _result(run_id: str, check: str, *, success: bool = False) -> dict[str, Any]:
    return {
        "run_id": run_id, "round": 1, "gate": "scores", "check_name": check, "attempt": 1, "expectation": "e", "wanted": "{}",
        "observed": "{}", "success": success, "suite_digest": "d", "rows": 1, "recorded_at": datetime(2026, 1, 1, tzinfo=UTC),
    }  # fmt: skip


@pytest.fixture
def results(lakehouse: Lakehouse) -> str:
    """The name of `quality_results`, with three refusals of the run r and one of another, each a commit."""
    for run_id, check in (("r", "rows"), ("r", "spread"), ("r", "usual"), ("other", "rows")):
        lakehouse.append_rows("quality_results", [_result(run_id, check)])
    return lakehouse.name("quality_results")


def _found(lakehouse: Lakehouse) -> list[str]:
    return list(rewritten(lakehouse, {"quality_results": F.col("run_id") == "r"}))


def _told(lakehouse: Lakehouse) -> list[str]:
    """What is found, without when."""
    return [f"{item.partition(' (')[0]}{item.partition(')')[2]}" for item in _found(lakehouse)]


def test_a_row_that_was_deleted_or_changed_is_named_with_the_commit_that_did_it(
    lakehouse: Lakehouse, results: str
) -> None:
    lakehouse.spark.sql(f"UPDATE {results} SET success = true WHERE check_name = 'spread'")
    version = lakehouse.version("quality_results")
    lakehouse.spark.sql(f"DELETE FROM {results} WHERE check_name IN ('rows', 'usual')")
    lakehouse.append_rows("quality_results", [_result("r", "later")])
    changed, removed = _found(lakehouse)
    assert changed.startswith(f"UPDATE of quality_results at version {version} ({datetime.now(UTC):%Y-%m-}")
    assert changed.endswith(" UTC) changed 1 rows: r, 1, scores, spread, 1")
    assert removed.startswith(f"DELETE of quality_results at version {version + 1} (")
    assert removed.endswith(" removed 2 rows: r, 1, scores, rows, 1; r, 1, scores, usual, 1")


@pytest.mark.parametrize(
    ("change", "operation"),
    [
        ("INSERT OVERWRITE {0} SELECT * FROM {0} WHERE check_name != 'spread'", "WRITE"),
        (
            "MERGE INTO {0} AS t USING (SELECT 'spread' AS c) AS s ON t.check_name = s.c WHEN MATCHED THEN DELETE",
            "MERGE",
        ),
        ("RESTORE TABLE {0} TO VERSION AS OF 1", "RESTORE"),
    ],
)
def test_a_row_is_missed_whatever_commit_took_it_away(
    lakehouse: Lakehouse, results: str, change: str, operation: str
) -> None:
    lakehouse.spark.sql(change.format(results))
    (told,) = _told(lakehouse)
    assert told.startswith(f"{operation} of quality_results at version 5 removed ")
    assert "r, 1, scores, spread, 1" in told


def test_what_concerns_another_run_or_leaves_all_rows_is_no_difference(
    lakehouse: Lakehouse, results: str
) -> None:
    for change in (
        "DELETE FROM {} WHERE run_id = 'other'",
        "ALTER TABLE {} SET TBLPROPERTIES ('mine' = 'x')",
        "OPTIMIZE {}",
        "UPDATE {} SET observed = observed",
        "INSERT OVERWRITE {0} SELECT * FROM {0}",
    ):
        lakehouse.spark.sql(change.format(results))
    assert _found(lakehouse) == []


def test_a_table_that_was_brought_back_holds(lakehouse: Lakehouse, results: str) -> None:
    version = lakehouse.version("quality_results")
    lakehouse.spark.sql(f"UPDATE {results} SET success = true")
    lakehouse.spark.sql(f"DELETE FROM {results} WHERE check_name = 'rows'")
    lakehouse.spark.sql(f"RESTORE TABLE {results} TO VERSION AS OF {version}")
    lakehouse.append_rows("quality_results", [_result("r", "later")])
    assert _found(lakehouse) == []


def test_a_row_that_was_brought_back_and_deleted_again_is_missed(lakehouse: Lakehouse, results: str) -> None:
    version = lakehouse.version("quality_results")
    for _ in range(2):
        lakehouse.spark.sql(f"DELETE FROM {results} WHERE check_name = 'rows'")
        lakehouse.spark.sql(f"RESTORE TABLE {results} TO VERSION AS OF {version}")
    assert _found(lakehouse) == []
    lakehouse.spark.sql(f"DELETE FROM {results} WHERE check_name = 'rows'")
    assert _told(lakehouse) == [
        f"DELETE of quality_results at version {version + 1} removed 1 rows: r, 1, scores, rows, 1"
    ]


def test_where_the_rows_before_are_no_longer_stored_nothing_else_is_said(
    lakehouse: Lakehouse, results: str
) -> None:
    lakehouse.spark.sql(f"DELETE FROM {results} WHERE check_name = 'rows'")
    check = "spark.databricks.delta.retentionDurationCheck.enabled"
    lakehouse.spark.conf.set(check, "false")
    lakehouse.spark.sql(f"VACUUM {results} RETAIN 0 HOURS")
    lakehouse.spark.conf.unset(check)
    assert _told(lakehouse) == [
        "DELETE of quality_results at version 5: the rows before or after it can't be read any more, so that what it took "
        "away can't be told"
    ]
