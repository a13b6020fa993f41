"""What `mart verify` finds of a change in what a step read or asked."""

from collections.abc import Callable

from pipelines.runner import Runner
from pipelines.steps.evaluate import EVALUATE_TARGET
from pipelines.verify import verify_run
from tests.e2e.small import SMALLEST


def test_a_change_in_what_was_asked_or_expected_is_found(runner_of: Callable[..., Runner]) -> None:
    runner = runner_of({**SMALLEST, "data.suites": "sandbox_suites"})
    runner.run_step(EVALUATE_TARGET, 0)
    lakehouse = runner.lakehouse
    assert verify_run(lakehouse, runner.artifacts, "r").differences == []
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
    found = verify_run(lakehouse, runner.artifacts, "r").differences
    assert [item.rpartition(":")[0].partition(" since")[0] for item in found] == [
        "inputs: evaluation_prompts was changed",
        "published rows of round 0 evaluate_target: requests was changed",
    ]
    assert text in found[0] and request in found[1]
