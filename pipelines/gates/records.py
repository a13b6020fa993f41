"""`mart verify` of gates: their recorded results against the suites, and against what the published steps counted."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipelines.gates.suites import Suite
from schemas.digests import canonical_json

Result = Mapping[str, Any]  # a row of `quality_results`, and `let_pass`: whether it was overridden


def wrong_results(
    results: Iterable[Result],
    suites: Mapping[str, Mapping[str, Suite]],
    steps: Sequence[Mapping[str, Any]],
    begun: Mapping[str, Mapping[str, str]],
) -> Iterator[str]:
    """What of a run's gate results does not hold.

    Args:
        results: of the run and its forks' ancestors.
        suites: suites by run and gate, as they are today; results of a suite that asked something else can't be
            recomputed, and need only agree with each other.
        steps: published steps: run_id, round, step, attempt, counts, and `gates`, the names of the step's gates.
        begun: the suites' digests by run and gate that a run began with, where it kept them.
    """
    batches: dict[tuple[str, int, str, int], list[Result]] = {}
    for row in results:
        batches.setdefault((row["run_id"], row["round"], row["gate"], row["attempt"]), []).append(row)
    for (run_id, round, gate, attempt), rows in sorted(batches.items()):
        where = f"round {round} gate {gate}, attempt {attempt}"
        yield from (f"{where}: {wrong}" for wrong in _wrong_suite(rows, suites.get(run_id, {}).get(gate)))
        others = {row["suite_digest"] for row in rows} - {begun[run_id].get(gate)} if run_id in begun else ()
        for other in sorted(others):
            yield f"{where}: its results name suite {other}, with which the run did not begin"
    for item in steps:
        where = f"round {item['round']} {item['step']}"
        for gate in item["gates"]:
            rows = batches.get((item["run_id"], item["round"], gate, item["attempt"]), [])
            counted = item["counts"].get(f"checks_{gate}", 0)
            if len(rows) != counted:
                yield f"{where}: gate {gate} has {len(rows)} results, the step counted {counted}"
            for name in sorted(
                row["check_name"] for row in rows if not row["success"] and not row["let_pass"]
            ):
                yield f"{where} is published, but its check {name} failed, and nobody let it pass"


def _wrong_suite(rows: Sequence[Result], suite: Suite | None) -> Iterator[str]:
    """What is wrong with the suite that a batch's results name."""
    digests = sorted({row["suite_digest"] for row in rows})
    if len(digests) > 1:
        yield f"its results name {len(digests)} suites: {', '.join(digests)}"
    if len(digests) > 1 or suite is None:
        return
    asked = {row["check_name"]: (row["expectation"], row["wanted"]) for row in rows}
    wanted = {check.name: (check.expectation, canonical_json(check.wanted)) for check in suite.checks}
    if asked == wanted and digests != [suite.digest]:
        yield f"its results name suite {digests[0]}, but their checks are those of suite {suite.digest}"
    if asked != wanted and digests == [suite.digest]:
        names = sorted(name for name in {*asked, *wanted} if asked.get(name) != wanted.get(name))
        yield f"check {', '.join(names)} is not as in suite {suite.digest}, which its results name"
