"""What `mart verify` finds of a change in what a step read, asked or was answered."""

from collections.abc import Callable

import pytest
from pyspark.sql import functions as F

from pipelines.errors import IntegrityError
from pipelines.runner import Runner
from pipelines.steps.evaluate import EVALUATE_TARGET
from pipelines.verify import verify_run
from tests.e2e.small import SMALLEST


@pytest.fixture
def runner(runner_of: Callable[..., Runner]) -> Runner:
    """Of a run whose warm start was asked the held-out prompts."""
    made = runner_of({**SMALLEST, "data.suites": "sandbox_suites"})
    made.run_step(EVALUATE_TARGET, 0)
    return made


def test_a_change_in_what_was_asked_or_expected_and_an_added_answer_are_found(
    runner: Runner,
) -> None:
    lakehouse = runner.lakehouse
    n = lakehouse.read("responses").count()
    asked = lakehouse.read("requests").orderBy("request_id").first()
    meant = lakehouse.read("evaluation_prompts").where("expected = 'refuse'").first()
    assert asked and meant
    request, text = asked["request_id"], meant["text_sha256"]
    for change in (
        f"requests SET messages = '[]' WHERE request_id = '{request}'",
        f"evaluation_prompts SET expected = 'comply' WHERE text_sha256 = '{text}'",
    ):
        table, _, what = change.partition(" ")
        lakehouse.spark.sql(f"UPDATE {lakehouse.name(table)} {what}")
    answers = lakehouse.read("responses")
    lakehouse.append("responses", answers.limit(1).withColumn("request_id", F.lit("another")))
    found = verify_run(lakehouse, runner.artifacts, "r").differences
    assert found[2:] == [
        f"published rows of round 0 evaluate_target: responses has {n + 1} rows, the step counted {n}",
        "requests of round 0 evaluate_target: 1 rows without request",
    ]
    assert [item.rpartition(":")[0].partition(" since")[0] for item in found[:2]] == [
        "inputs: evaluation_prompts was changed",
        "published rows of round 0 evaluate_target: requests was changed",
    ]
    assert text in found[0] and request in found[1]


def test_rows_that_no_longer_hold_what_was_written_are_differences_and_an_unpublished_step_is_not_looked_at(
    runner: Runner,
) -> None:
    lakehouse = runner.lakehouse
    request = lakehouse.read("requests").limit(1).withColumn("round", F.lit(1))
    lakehouse.append("requests", request.withColumn("request_id", F.lit("of the next round")))
    # A null leaves Spark's hash as it is.
    lakehouse.spark.sql(
        f"UPDATE {lakehouse.name('responses')} SET error = finish_reason, finish_reason = NULL WHERE finish_reason IS NOT NULL"
    )
    lakehouse.spark.sql(f"UPDATE {lakehouse.name('runs')} SET config = 'x', gate_suites = 'x'")
    config, moved = verify_run(lakehouse, runner.artifacts, "r").differences
    where = "published rows of round 0 evaluate_target: responses"
    assert config == "run: the configuration of r does not have the digest that it was begun with"
    assert moved.startswith(f"{where} was changed since version")

    newest = lakehouse.version("responses")
    steps = lakehouse.name("steps")
    lakehouse.spark.sql(
        f"UPDATE {steps} SET writes = regexp_replace(writes, '\"responses\":[0-9 ]+', '\"responses\":99')"
    )
    *others, rewritten = verify_run(lakehouse, runner.artifacts, "r").differences
    assert others == [
        config,
        f"{where} is at version {newest}, a step recorded version 99: it was made anew, or comes from an older copy",
    ]
    assert rewritten.startswith("ledger: UPDATE of steps at version ")
    assert rewritten.endswith(" changed 1 rows: r, 0, evaluate_target, 1, done")
    lakehouse.spark.sql(f"UPDATE {steps} SET counts = 'x'")
    with pytest.raises(
        IntegrityError, match="counts of round 0 evaluate_target of run r .* is no JSON object"
    ):
        verify_run(lakehouse, runner.artifacts, "r")


def test_a_step_whose_row_was_deleted_is_missed(runner: Runner) -> None:
    lakehouse = runner.lakehouse
    lakehouse.spark.sql(f"DELETE FROM {lakehouse.name('steps')} WHERE step = 'evaluate_target'")
    (missed,) = verify_run(lakehouse, runner.artifacts, "r").differences
    assert missed.startswith("ledger: DELETE of steps at version ")
    assert missed.endswith(" removed 1 rows: r, 0, evaluate_target, 1, done")
