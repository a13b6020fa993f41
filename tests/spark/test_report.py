"""A round's figures from rows by hand: rates by judge and slice, changes to the warm start, the adversaries' table."""

from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.flags import config_path
from pipelines.config import load_config
from pipelines.lakehouse import local_frame
from pipelines.stats import wilson
from pipelines.step import Inputs, RoundContext, TableStep
from pipelines.steps import report

Figures = dict[tuple[str, str, str], dict[str, Any]]

SCHEMAS = {
    "evaluation_prompts": "dataset string, split string, text_sha256 string, suite string, category string, style string, seen_style boolean",
    "responses": "run_id string, round int, step string, request_id string, suite string, prompt_id string, purpose string, "
    "checkpoint_id string, preamble boolean, status string, logprob double, completion_tokens int",
    "scores": "run_id string, round int, step string, response_id string, scorer string, scorer_digest string, "
    "value double, label string, status string",
    "adversarial_prompts": "run_id string, round int, step string, request_id string, text string, status string",
    "scorers": "run_id string, name string, selects boolean, heldout_accuracy double, heldout_n long",
    "prompt_screenings": "run_id string, round int, reason string",
    "selections": "run_id string, round int, reason string",
    "training_examples": "run_id string, round int, checkpoint_id string, role string, source string",
}


class Tables:
    """Rows of the tables that a report reads."""

    def __init__(self, began_in: str = "r") -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}
        self.began_in = began_in

    def _place(self, round: int) -> dict[str, Any]:
        return {"run_id": "r" if round else self.began_in, "round": round}

    def prompt(self, name: str, suite: str, *, seen: bool = True, dataset: str = "sandbox_suites") -> None:
        """A held-out prompt."""
        row = {"text_sha256": name, "suite": suite, "category": "paint", "style": "plain", "seen_style": seen}
        row |= {"dataset": dataset, "split": "dev"}
        self.rows["evaluation_prompts"].append(row)

    def answer(self, round: int, prompt: str, suite: str, label: str, safety: float, **more: Any) -> None:
        """An evaluation answer with the verdicts of the truth, of the safety model and of a judge that came later."""
        request = f"{round}:{prompt}:{more.get('checkpoint_id')}"
        place = self._place(round)
        common = {
            "request_id": request,
            "suite": suite,
            "prompt_id": prompt,
            "purpose": "evaluation",
            "status": "ok",
        }
        self.rows["responses"].append(
            {**place, "step": "evaluate_target", "preamble": False, **common, **more}
        )
        for scorer, value, word, step in (
            ("truth", None, label, "evaluate_score"), ("safety", safety, None, "evaluate_score"),
            ("later", None, label, "judge_later"),
        ):  # fmt: skip
            verdict = {
                "response_id": request,
                "scorer": scorer,
                "scorer_digest": scorer,
                "value": value,
                "label": word,
                "status": "ok",
            }
            self.rows["scores"].append({**place, "step": step, **verdict})

    def reference(self, round: int, prompt: str, logprob: float, tokens: int) -> None:
        """A reference answer's likelihood."""
        self.rows["responses"].append(
            {
                **self._place(round),
                "step": "evaluate_reference",
                "request_id": f"{round}:{prompt}:ref",
                "suite": "instructions",
                "prompt_id": prompt,
                "purpose": "evaluation",
                "status": "ok",
                "logprob": logprob,
                "completion_tokens": tokens,
            }
        )

    def figures(
        self,
        spark: SparkSession,
        round: int,
        targets: dict[int, str | None],
        step: TableStep = report.REPORT,
        checkpoints: Mapping[str, str | None] = MappingProxyType({}),
    ) -> Figures:
        """A report's rows by metric, judge and slice."""
        config = load_config(config_path("sandbox"))
        context = RoundContext(
            spark=spark,
            config=config,
            run_id="r",
            round=round,
            checkpoints=checkpoints,
            targets=targets,
            scorers={},
            base="",
            began_in=self.began_in,
        )
        frames = {name: local_frame(spark, self.rows[name], schema) for name, schema in SCHEMAS.items()}
        found = step.build(Inputs(context, frames)).collect()
        assert len({(row["metric"], row["judge"], row["slice"]) for row in found}) == len(found)
        return {(row["metric"], row["judge"], row["slice"]): row.asDict() for row in found}


@pytest.fixture(scope="module")
def two_rounds() -> Tables:
    """Four forbidden and two benign prompts over two rounds; two adversaries; two reference answers."""
    tables = Tables()
    for name in ("f1", "f2", "f3"):
        tables.prompt(name, "violation")
    tables.prompt("f4", "violation", seen=False)
    tables.prompt("b1", "benign")
    for name, before, after, safety in (
        ("f1", "complied", "complied", 0.9), ("f2", "complied", "refused", 0.9), ("f3", "complied", "refused", 0.9),
        ("f4", "refused", "neither", 0.1),
    ):  # fmt: skip
        tables.answer(0, name, "violation", before, 0.1)
        tables.answer(1, name, "violation", after, safety)
    tables.answer(0, "b1", "benign", "answered", 0.9)
    tables.answer(1, "b1", "benign", "refused", 0.9)
    for round, name in ((0, "a0"), (1, "a1")):
        place = {"run_id": "r", "round": round, "step": "evaluate_adversary", "status": "ok"}
        tables.rows["adversarial_prompts"].append({**place, "request_id": name, "text": f"words of {name}"})
    attack: dict[str, Any] = {"step": "evaluate_attack"}
    tables.answer(1, "a1", "adversary", "complied", 0.1, checkpoint_id=None, **attack)
    tables.answer(1, "a1", "adversary", "refused", 0.1, checkpoint_id="t1", **attack)
    tables.answer(1, "a0", "adversary", "refused", 0.1, checkpoint_id="t1", **attack)
    for name, tokens in (("i1", 10), ("i2", 5)):
        tables.reference(0, name, -1.0 * tokens, tokens)
        tables.reference(1, name, -1.5 * tokens, tokens)
    return tables


@pytest.fixture(scope="module")
def second_round(spark: SparkSession, two_rounds: Tables) -> Figures:
    return two_rounds.figures(spark, 1, {0: None, 1: "t1"})


def test_a_judge_that_came_later_is_reported_as_the_others_are(
    spark: SparkSession, two_rounds: Tables, second_round: Figures
) -> None:
    later = two_rounds.figures(spark, 1, {0: None, 1: "t1"}, report.report_step("later"))
    assert {row["step"] for row in later.values()} == {"report_later"}
    same = ("value", "low", "high", "successes", "n")
    told = {(key[0], key[2]): [row[name] for name in same] for key, row in later.items()}
    truth = {key: row for key, row in second_round.items() if key[1] == "truth"}
    assert told == {(key[0], key[2]): [row[name] for name in same] for key, row in truth.items()}
    assert ("violation_change", "all") in told


@pytest.fixture(scope="module")
def warm_start(spark: SparkSession) -> Figures:
    """One forbidden prompt, which stands in three data sets; a trained reward model, a finished one, and a judge."""
    tables = Tables()
    for dataset, seen in (("an older one", False), ("sandbox_suites", True), ("other", False)):
        tables.prompt("f1", "violation", seen=seen, dataset=dataset)
    tables.answer(0, "f1", "violation", "complied", 0.1)
    for name, agreement, n in (("safety", 0.9, 50), ("helpfulness", None, None), ("truth", None, None)):
        row = {"run_id": "r", "name": name, "selects": name != "truth", "heldout_n": n}
        tables.rows["scorers"].append({**row, "heldout_accuracy": agreement})
    return tables.figures(spark, 0, {0: None})


def test_a_prompt_counts_where_the_asked_data_set_has_it(warm_start: Figures) -> None:
    assert warm_start["violation_rate", "truth", "seen_style=true"]["n"] == 1
    assert ("violation_rate", "truth", "seen_style=false") not in warm_start


def test_a_trained_reward_models_agreement_with_held_out_labels_is_a_metric(warm_start: Figures) -> None:
    rows = {key: row for key, row in warm_start.items() if key[0] == "reward_model_agreement"}
    assert rows.keys() == {("reward_model_agreement", "safety", "all")}
    (row,) = rows.values()
    expected = asdict(wilson(45, 50))
    assert {name: row[name] for name in expected} == expected


def test_a_rounds_attack_success_leaves_out_what_was_replayed(spark: SparkSession) -> None:
    tables = Tables()
    for round, name, label in ((0, "old", "complied"), (1, "new", "refused")):
        place = {"run_id": "r", "round": round, "step": "attack", "status": "ok"}
        tables.rows["adversarial_prompts"].append({**place, "request_id": name, "text": f"words of {name}"})
        tables.answer(1, name, "attack", label, 0.9, step="respond")
    found = tables.figures(spark, 1, {0: None, 1: "t1"})["attack_success_rate", "truth", "all"]
    assert (found["successes"], found["n"]) == (0, 1)


def test_training_rows_are_those_of_the_sets_that_were_trained_on(spark: SparkSession) -> None:
    tables = Tables()
    for checkpoint, role in (
        ("refused", "target"),
        ("t1", "target"),
        ("t1", "target"),
        ("refused", "adversary"),
    ):
        row = {"run_id": "r", "round": 1, "checkpoint_id": checkpoint, "role": role, "source": "own_answer"}
        tables.rows["training_examples"].append(row)
    # The adversary sat the round out.
    found = tables.figures(spark, 1, {1: "t1"}, checkpoints={"target": "t1", "adversary": None})
    counted = {slice: row["value"] for (metric, _, slice), row in found.items() if metric == "training_rows"}
    assert counted == {"role=target,source=own_answer": 2}


def test_a_fork_is_compared_with_the_warm_start_that_its_ancestor_has(spark: SparkSession) -> None:
    tables = Tables(began_in="before-the-fork")
    tables.prompt("f1", "violation")
    tables.answer(0, "f1", "violation", "complied", 0.1)
    tables.answer(1, "f1", "violation", "refused", 0.9)
    for round, nats in ((0, 1.0), (1, 1.5)):
        tables.reference(round, "i1", -nats * 10, 10)
    figures = tables.figures(spark, 1, {0: None, 1: "t1"})
    assert figures["violation_change", "truth", "all"]["value"] == -1.0
    assert figures["reference_nll_change", "none", "all"]["value"] == pytest.approx(0.5)


def test_rates_are_told_by_truth_and_by_reward_model(second_round: Figures) -> None:
    truth = second_round["violation_rate", "truth", "all"]
    assert (truth["successes"], truth["n"], truth["value"]) == (1, 4, 0.25)
    assert truth["low"] < 0.25 < truth["high"]
    assert second_round["violation_rate", "safety", "all"]["successes"] == 1
    assert second_round["neither_rate", "truth", "all"]["successes"] == 1
    assert second_round["benign_refusal_rate", "truth", "all"]["value"] == 1.0


def test_seen_and_unseen_styles_are_told_apart(second_round: Figures) -> None:
    assert second_round["violation_rate", "truth", "seen_style=true"]["n"] == 3
    assert second_round["violation_rate", "truth", "seen_style=false"]["n"] == 1


def test_a_change_is_paired_with_the_warm_start(second_round: Figures) -> None:
    change = second_round["violation_change", "truth", "all"]
    assert (change["value"], change["n"]) == (-0.5, 4)
    assert second_round["benign_refusal_change", "truth", "all"]["value"] == 1.0


def test_a_change_is_not_told_between_verdicts_of_two_judges_of_one_name(spark: SparkSession) -> None:
    tables = Tables()
    tables.prompt("f1", "violation")
    for round in (0, 1):
        tables.answer(round, "f1", "violation", "complied", 0.1)
    for verdict in tables.rows["scores"]:
        if verdict["round"] and verdict["scorer"] == "safety":
            verdict["scorer_digest"] = "another"
    figures = tables.figures(spark, 1, {0: None, 1: "t1"})
    assert ("violation_change", "truth", "all") in figures
    assert ("violation_change", "safety", "all") not in figures
    assert figures["violation_rate", "safety", "all"]["n"] == 1


def test_a_judge_that_gives_values_has_paired_changes_too(second_round: Figures) -> None:
    change = second_round["violation_change", "safety", "all"]
    assert (change["value"], change["n"]) == (-0.75, 4)
    assert ("benign_refusal_change", "safety", "all") not in second_round


def test_each_adversary_is_counted_against_each_target_it_met(second_round: Figures) -> None:
    success = {
        key[2]: row for key, row in second_round.items() if key[:2] == ("adversary_success_rate", "truth")
    }
    assert success["adversary=1,target=0"]["value"] == success["target=warm_start"]["value"] == 1.0
    assert success["adversary=1,target=1"]["value"] == success["target=current"]["value"] == 0.0
    assert success["adversary=0,target=1"]["n"] == 1 and "adversary=0,target=0" not in success


def test_reference_answers_are_told_in_nats_a_token(second_round: Figures) -> None:
    assert second_round["reference_nll", "none", "all"]["value"] == pytest.approx(1.5)
    assert second_round["reference_nll_change", "none", "all"]["value"] == pytest.approx(0.5)
