"""Great Expectations asked about a frame: every check has a result, whatever happens."""

import json
import logging
import math
import re
import shlex
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.gates.expectations import context, expectation_class
from pipelines.gates.suites import Check, Suite
from pipelines.shown import fork_command
from schemas.digests import canonical_json

log = logging.getLogger(__name__)

_SPARK_CLASS = re.compile(r"\[([A-Z][A-Z0-9_.]+)\]")
_COUNTS = ("observed_value", "element_count", "missing_count", "unexpected_count", "unexpected_percent")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check saw.

    Attributes:
        check_name: the check.
        expectation: Great Expectations' class, in snake case.
        wanted: its column and parameters, JSON.
        observed: what was seen, JSON: counts and figures, never a text of the batch; `error` where it could
            not be seen, `applied` false where the check does not apply to the batch.
        success: whether it held.
        remedy: what to do where it did not.
        rows: rows of the frame.
    """

    check_name: str
    expectation: str
    wanted: str
    observed: str
    success: bool
    remedy: str
    rows: int


def run_gate(suite: Suite, frame: DataFrame) -> list[CheckResult]:
    """Ask all checks of a gate, in the suite's order.

    A check that can't be computed, or that has no value to look at, has failed; it never counts as passed.

    Args:
        suite: the gate's checks.
        frame: from `gate_batch`; computed once.
    """
    started = time.monotonic()
    frame = frame.persist()
    try:
        columns = sorted({check.column for check in suite.checks if check.if_present and check.column})
        counted = frame.agg(
            F.count(F.lit(1)).alias("rows"), *[F.count(name).alias(name) for name in columns]
        ).head()
        counts = counted.asDict() if counted else {"rows": 0}
        rows = int(counts["rows"])
        # Of nothing at all nothing holds; of a batch, what it has no values for is not asked.
        absent = {name for name in columns if rows and not counts[name]}
        asked = [check for check in suite.checks if not (check.if_present and check.column in absent)]
        seen = _ask(asked, frame)
    finally:
        frame.unpersist()
    results = []
    for check in suite.checks:
        success, observed = seen.get(check.name, (True, {"applied": False}))
        results.append(
            CheckResult(
                check_name=check.name,
                expectation=check.expectation,
                wanted=canonical_json(check.wanted),
                observed=canonical_json(observed),
                success=success,
                remedy=check.remedy,
                rows=rows,
            )
        )
    failed = sum(not result.success for result in results)
    taken = time.monotonic() - started
    log.info(
        "gate %s: %d checks on %d rows, %d failed, %.1f s", suite.gate, len(results), rows, failed, taken
    )
    return results


def _ask(checks: Sequence[Check], frame: DataFrame) -> dict[str, tuple[bool, dict[str, Any]]]:
    """Success and what was seen of each check, by its name."""
    with _batch(frame) as batch:
        seen = _validate(batch, checks)
        if len(checks) > 1:
            # Many figures come from one query: one that can't be had spoils its neighbours'.
            for check in checks:
                if {*seen[check.name][1]} == {"error"}:
                    seen |= _validate(batch, [check])
    return seen


def _validate(batch: Any, checks: Sequence[Check]) -> dict[str, tuple[bool, dict[str, Any]]]:
    import great_expectations as gx

    suite = gx.ExpectationSuite(name="gate", expectations=[_expectation(check) for check in checks])
    try:
        results = batch.validate(suite, result_format="BASIC").results
    except Exception as error:  # noqa: BLE001 - whatever keeps a check from an answer is its failure, told as that
        return {check.name: (False, {"error": _reason(error)}) for check in checks}
    seen = {result.expectation_config.meta["check"]: _seen(result) for result in results}
    return {check.name: seen.get(check.name, (False, {"error": "no answer"})) for check in checks}


def _expectation(check: Check) -> Any:
    column = {"column": check.column} if check.column else {}
    return expectation_class(check.expectation)(**check.kwargs, **column, meta={"check": check.name})


def _seen(result: Any) -> tuple[bool, dict[str, Any]]:
    """Success and figures of one validation result."""
    problem = _exception(result.exception_info or {})
    if problem is not None:
        return False, {"error": problem}
    figures = {name: _figure(result.result[name]) for name in _COUNTS if name in result.result}
    if "element_count" in figures and figures["element_count"] == (figures.get("missing_count") or 0):
        return False, {**figures, "error": "no value to check"}
    return bool(result.success), figures


def _exception(info: Mapping[str, Any]) -> str | None:
    """Why a result has no figures: the info is of one exception, or of several by metric."""
    if "raised_exception" in info:
        return _reason(info["exception_message"]) if info["raised_exception"] else None
    for inner in info.values():
        return _reason(inner["exception_message"])
    return None


def _reason(error: object) -> str:
    """Why there is no figure, in at most 300 characters; Spark quotes values, so of it only the class."""
    words = str(error).strip()
    if spark := _SPARK_CLASS.search(words):
        return f"Spark: {spark[1]}"
    return next(iter(words.splitlines()), type(error).__name__)[:300]


def _figure(value: Any) -> int | float | str | None:
    """A figure to 6 digits (sums of the same numbers differ in the last ones); of anything else its kind."""
    if value is None or isinstance(value, int):
        return value
    try:
        number = float(value) if not isinstance(value, str | list | dict) else None
    except (TypeError, ValueError):
        number = None
    if number is None:
        return type(value).__name__
    return float(f"{number:.6g}") if math.isfinite(number) else str(number)


@contextmanager
def _batch(frame: DataFrame) -> Iterator[Any]:
    """The whole frame as a batch of Great Expectations; its data source goes again, with what it caches."""
    name = f"gate_{uuid.uuid4().hex}"
    sources = context().data_sources
    source = sources.add_spark(name, persist=False)  # the frame is persisted already, and let go by us
    try:
        asset = source.add_dataframe_asset(name=name)
        yield asset.add_batch_definition_whole_dataframe(name).get_batch(
            batch_parameters={"dataframe": frame}
        )
    finally:
        sources.delete(name)


def sentence(gate: str, results: Sequence[CheckResult], run_id: str, round: int) -> str:
    """What a person reads of a gate: the first failed check, what it saw and wanted, and the ways out.

    Args:
        gate: the gate.
        results: all of its results, or those that no one overrode.
        run_id, round: whose batch it was.
    """
    failed = [result for result in results if not result.success]
    if not failed:
        return f"Gate {gate} has {len(results)} checks, and none failed."
    first, *others = failed
    wanted = json.loads(first.wanted)
    column = wanted.pop("column", None)
    about = f" of {column}" if column else ""
    also = f" ({', '.join(other.check_name for other in others)} failed too)" if others else ""
    saw = _saw(json.loads(first.observed))
    remedy = first.remedy[:1].lower() + first.remedy[1:].rstrip(".")
    # Before round 0 there is nothing to go on from.
    on, command = "in another run", "mart run --run-id NEW"
    if round > 0:
        on, command = f"from round {round - 1}", fork_command(run_id, round - 1)
    return (
        f"Gate {gate} refused {first.rows} rows: check {first.check_name} saw {saw}{about} and wants "
        f"{_want(wanted)}{also}; remedy: {remedy}; the ways out are to let the batch pass by name with "
        f"`mart override {shlex.quote(run_id)} --round {round} --gate {gate} --check {shlex.quote(first.check_name)} "
        f"--by YOU --reason WHY`, or to go on {on} under changed settings with `{command} --set KEY=VALUE`, beside "
        "this run's --config and --set."
    )


def _want(wanted: dict[str, Any]) -> str:
    low, high, mostly = (wanted.pop(name, None) for name in ("min_value", "max_value", "mostly"))
    bounds = {
        (True, True): f"{low} to {high}" if low != high else f"exactly {low}",
        (True, False): f"at least {low}",
        (False, True): f"at most {high}",
    }.get((low is not None, high is not None))
    parts = [bounds] if bounds else []
    parts += [f"{name} {value}" for name, value in wanted.items()]
    parts += [f"in a share of at least {mostly}"] if mostly is not None else []
    return ", ".join(parts) or "every value to hold"


def _saw(observed: Mapping[str, Any]) -> str:
    if "error" in observed:
        return str(observed["error"])
    if "observed_value" in observed:
        return str(observed["observed_value"]) if observed["observed_value"] is not None else "no value"
    judged = observed.get("element_count", 0) - (observed.get("missing_count") or 0)
    return f"{observed.get('unexpected_count')} of {judged} at fault"
