"""Suites are data: what is wrong in them is said before a run starts, with the nearest name that is right."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import parser
from pipelines.config import GatesConfig
from pipelines.errors import ConfigError
from pipelines.gates import COLUMNS, CheckResult, Suite, load_suites, sentence
from pipelines.gates.expectations import expectation_names, snake_case
from pipelines.gates.keeper import suites_path
from pipelines.gates.records import wrong_results
from pipelines.plan import ALL
from schemas.digests import canonical_json

SUITES = Path(__file__).parents[2] / "conf" / "gates.yaml"
Load = Callable[..., dict[str, Suite]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads the suites of `conf/gates.yaml` with one passage replaced."""

    def edited(old: str = "", new: str = "", **parameters: float | int | str) -> dict[str, Suite]:
        text = SUITES.read_text(encoding="utf-8")
        assert old in text
        file = tmp_path / "gates.yaml"
        file.write_text(text.replace(old, new, 1) if old else text, encoding="utf-8")
        return load_suites(file, parameters)

    return edited


def test_every_gate_of_the_plan_has_a_suite_whose_checks_have_remedies(load: Load) -> None:
    suites = load()
    assert {gate for step in ALL.values() for gate in step.gates} == set(suites) == set(COLUMNS)
    assert all(check.remedy.endswith(".") for suite in suites.values() for check in suite.checks)


def test_parameters_come_from_the_file_unless_the_run_gives_its_own(load: Load) -> None:
    assert load()["scores"].check("enough_answers").kwargs == {"min_value": 8}
    assert load(min_answers=3)["scores"].check("enough_answers").kwargs == {"min_value": 3}


def test_digest_follows_what_decides_and_nothing_else(load: Load) -> None:
    before = load()
    other = load(min_answers=3)
    assert before["scores"].digest == load()["scores"].digest
    assert before["scores"].digest != other["scores"].digest
    assert before["curated_target"].digest == other["curated_target"].digest
    assert before["scores"].digest == load("Run the step score again", "Score again")["scores"].digest


def test_both_spellings_of_an_expectation_are_the_same_check(load: Load) -> None:
    snake = load("ExpectTableRowCountToBeBetween", "expect_table_row_count_to_be_between")
    assert snake["adversarial_prompts"].digest == load()["adversarial_prompts"].digest


def test_suites_are_the_same_without_asking_great_expectations() -> None:
    assert load_suites(SUITES, {}, asked=False) == load_suites(SUITES, {})
    assert all(
        snake_case(made) == snake_case(snake) == snake for snake, made in expectation_names().items() if snake
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "gates:\n  adversarial_prompts:",
            "gates:\n  adverserial_prompts:",
            "nearest valid one is 'adversarial_prompts'",
        ),
        (
            "ExpectColumnStdevToBeBetween",
            "ExpectColumnStdToBeBetween",
            "nearest valid one is 'ExpectColumnStdevToBeBetween'",
        ),
        (
            "column: repeated",
            "column: repeatd",
            "check 'varied': there is no column 'repeatd'; the nearest valid one is 'repeated'",
        ),
        (
            "min_value: $min_ok",
            "min_value: $min_okay",
            "check 'usable': there is no parameter 'min_okay'; the nearest valid one is 'min_ok'",
        ),
        (
            "min_value: $min_ok",
            "min_vale: $min_ok",
            "there is no parameter 'min_vale'; the nearest valid one is 'min_value'",
        ),
        ("min_value: $min_ok", "min_value: [1]", "refuses {'min_value': [1]}"),
        ("      column: ok\n", "", "expect_column_mean_to_be_between needs a column"),
        (
            "      kwargs: {min_value: $min_prompts}",
            "      column: ok",
            "looks at the whole frame and takes no column",
        ),
        ("name: usable", "name: enough_prompts", "two checks 'enough_prompts'"),
        ("      if_present: true", "      when: true", "there is no key 'when'"),
        (
            "remedy: Raise attack.prompts,",
            "remedied: Raise attack.prompts,",
            "the nearest valid one is 'remedy'",
        ),
        ("  curated_helpfulness_rm: *labels", "", "no checks for gate curated_helpfulness_rm"),
        ("parameters:", "parameter:", "there is no key 'parameter'; the nearest valid one is 'parameters'"),
        ("gates:\n", "gates: [\n", "is not YAML"),
    ],
)
def test_a_mistake_in_a_suite_is_named_with_what_would_be_right(
    load: Load, old: str, new: str, words: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        load(old, new)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"min_answer": 3}, "there is no parameter 'min_answer'; the nearest valid one is 'min_answers'"),
        ({"min_answers": "three"}, "gates.parameters.min_answers = 'three': it takes a number, such as 8"),
    ],
)
def test_a_mistake_in_a_runs_parameters_is_named(
    load: Load, given: dict[str, float | int | str], words: str
) -> None:
    with pytest.raises(ConfigError, match="gates.parameters") as raised:
        load(**given)
    assert words in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no suites at .*nowhere\.yaml"):
        load_suites(tmp_path / "nowhere.yaml", {})


def test_a_check_that_does_not_exist_is_answered_with_the_nearest(load: Load) -> None:
    with pytest.raises(
        ConfigError, match="gate scores has no check 'safety_sprad'; the nearest valid one is 'safety_spread'"
    ):
        load()["scores"].check("safety_sprad")


def _result(name: str, wanted: str, observed: str) -> CheckResult:
    return CheckResult(name, "expect", wanted, observed, success=False, remedy="Do this.", rows=24)


@pytest.mark.parametrize(
    ("wanted", "observed", "words"),
    [
        ('{"column":"ok","min_value":0.8}', '{"observed_value":0.5}', "saw 0.5 of ok and wants at least 0.8"),
        ('{"min_value":2,"max_value":9}', '{"observed_value":1}', "saw 1 and wants 2 to 9"),
        (
            '{"column":"n","max_value":2,"min_value":2}',
            '{"element_count":9,"missing_count":1,"unexpected_count":3}',
            "saw 3 of 8 at fault of n and wants exactly 2",
        ),
        (
            '{"column":"id"}',
            '{"element_count":9,"missing_count":0,"unexpected_count":2}',
            "saw 2 of 9 at fault of id and wants every value to hold",
        ),
        (
            '{"column":"s","min_value":0.1}',
            '{"observed_value":null}',
            "saw no value of s and wants at least 0.1",
        ),
        ('{"column":"s","min_value":0.1}', '{"error":"Spark: CAST"}', "saw Spark: CAST of s"),
        (
            '{"column":"c","max_value":9,"mostly":0.9}',
            '{"element_count":9,"unexpected_count":2}',
            "wants at most 9, in a share of at least 0.9",
        ),
    ],
)
def test_sentence_tells_value_seen_and_value_wanted(wanted: str, observed: str, words: str) -> None:
    told = sentence("scores", [_result("first", wanted, observed), _result("second", "{}", "{}")], "r", 1)
    assert words in told
    assert told.startswith("Gate scores refused 24 rows: check first saw")
    assert "(second failed too); remedy: do this; the ways out" in told


@pytest.mark.parametrize(("round", "fork"), [(2, "a 'b'@1"), (0, None)])
def test_the_ways_out_are_commands_that_are_taken(round: int, fork: str | None) -> None:
    told = sentence("scores", [_result("first", "{}", "{}")], "a 'b'", round)
    override, run = (parser().parse_args(shlex.split(words)[1:]) for words in told.split("`")[1::2])
    assert (override.run_id, override.round, override.gate, override.check) == (
        "a 'b'",
        round,
        "scores",
        "first",
    )
    assert (run.run_id, run.fork) == ("NEW", fork)


def test_a_bare_name_is_a_file_of_the_package_and_any_other_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gates.yaml").touch()
    assert suites_path(GatesConfig()) == SUITES
    assert suites_path(GatesConfig(suites="./gates.yaml")) == Path("gates.yaml")
    assert suites_path(GatesConfig(suites="mine.yaml")) == Path("mine.yaml")


@pytest.mark.parametrize(
    ("where", "changes", "words"),
    [
        (slice(0), {}, []),
        (slice(1), {"suite_digest": "0"}, ["its results name 2 suites: 0, "]),
        (slice(None), {"suite_digest": "0"}, ["name suite 0, but their checks are those of suite"]),
        (slice(1), {"wanted": "{}"}, ["check enough_answers is not as in suite"]),
        (slice(1), {"success": False}, ["published, but its check enough_answers failed"]),
        (slice(1), {"success": False, "let_pass": True}, []),
        (slice(None), {"suite_digest": "0", "wanted": "{}"}, []),  # of a suite that has changed since
        (slice(1), None, ["check enough_answers is not as in suite", "results, the step counted"]),
    ],
)
def test_recorded_results_are_of_their_suite_and_let_their_step_pass(
    load: Load, where: slice, changes: dict[str, Any] | None, words: list[str]
) -> None:
    suite = load()["scores"]
    ids = {"run_id": "r", "round": 1, "attempt": 2}
    rows: list[dict[str, Any]] = [
        {
            **ids, "gate": "scores", "check_name": check.name, "expectation": check.expectation,
            "wanted": canonical_json(check.wanted), "success": True, "suite_digest": suite.digest, "let_pass": None,
        }
        for check in suite.checks
    ]  # fmt: skip
    step = {**ids, "step": "score", "gates": ("scores",), "counts": {"checks_scores": len(rows)}}
    rows[where] = [] if changes is None else [row | changes for row in rows[where]]
    found = list(wrong_results(rows, {"r": {"scores": suite}}, [step], {}))
    assert len(found) == len(words), found
    assert all(part in told for part, told in zip(words, found, strict=True))


def test_results_of_a_suite_that_the_run_did_not_begin_with_are_told(load: Load) -> None:
    before, now = load()["scores"], load(min_answers=3)["scores"]
    rows = [
        {
            "run_id": "r", "round": 1, "attempt": 1, "gate": "scores", "check_name": check.name, "success": True,
            "expectation": check.expectation, "wanted": canonical_json(check.wanted), "suite_digest": now.digest,
        }
        for check in now.checks
    ]  # fmt: skip
    told = f"its results name suite {now.digest}, with which the run did not begin"
    found = list(wrong_results(rows, {"r": {"scores": now}}, [], {"r": {"scores": before.digest}}))
    assert len(found) == 1 and told in found[0]
    assert not list(wrong_results(rows, {"r": {"scores": now}}, [], {"r": {"scores": now.digest}}))
