"""Each view over a small history with unpublished rows and look-alikes; expected rows were found by hand."""

from datetime import UTC, datetime
from typing import Any

import pytest
from frames import frame_of
from lineage_history import BASE, HOSTILE, history
from pyspark.sql import DataFrame, SparkSession

from pipelines.effect import effect
from pipelines.errors import ConfigError
from pipelines.lakehouse import Lakehouse, local_frame
from pipelines.stats import wilson
from pipelines.views import view_files


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lakehouse:
    return history(spark, tmp_path_factory.getbasetemp() / "lineage_history")


def rows(lake: Lakehouse, view: str, *columns: str, where: str = "true") -> list[tuple[Any, ...]]:
    found = lake.spark.table(lake.name(view)).where(where).select(*columns).collect()
    return sorted((tuple(row) for row in found), key=str)


def over(lake: Lakehouse, view: str, **tables: list[dict[str, Any]]) -> DataFrame:
    """A view over rows of all that it reads, in place of the history's; a column that is left out is null."""
    for name, given in tables.items():
        schema = lake.spark.table(lake.name(name)).schema
        ddl = ", ".join(f"{field.name} {field.dataType.simpleString()}" for field in schema)
        local_frame(lake.spark, given, ddl).createOrReplaceTempView(f"own_{name}")
    (file,) = (file for file in view_files() if file.name == view)
    assert file.reads == tables.keys()
    return lake.spark.sql(file.body.replace("{schema}.", "own_"))


def test_columns_are_named_and_described_as_the_header_says(lake: Lakehouse) -> None:
    for file in view_files():
        assert lake.spark.sql(file.query(lake)).columns == list(file.columns), file.name
        described = {
            field.name: field.metadata["comment"] for field in lake.spark.table(lake.name(file.name)).schema
        }
        assert described == file.columns


def test_published_steps_has_the_last_done_attempt_of_each_step(lake: Lakehouse) -> None:
    assert rows(
        lake, "published_steps", "attempt", where="run_id = 'run-a' AND round = 1 AND step = 'attack'"
    ) == [(2,)]
    assert rows(lake, "published_steps", "step", where="run_id = 'run-b' AND round = 1") == []
    assert (
        rows(
            lake, "published_steps", "step", where="round = 2 AND step IN ('train_target', 'evaluate_score')"
        )
        == []
    )


def test_published_checkpoints_are_named_by_a_done_training_step(lake: Lakehouse) -> None:
    expected = [
        ("adv-1",),
        ("adv-2",),
        ("rm-help",),
        ("rm-safety",),
        ("tgt-1",),
        ("warm-adv",),
        ("warm-tgt",),
    ]
    assert rows(lake, "published_checkpoints", "checkpoint_id") == expected


def test_evaluations_join_the_prompt_that_the_run_asked(lake: Lakehouse) -> None:
    columns = ("run_id", "round", "prompt_id", "dataset", "split", "category", "style", "judge")
    found = rows(lake, "evaluations", *columns, where="judge IN ('truth', 'second')")
    assert found == [
        ("run-a", 0, "n1", "suites", "dev", "c1", "plain", "truth"),
        ("run-a", 0, "v1", "suites", "dev", "c1", "plain", "truth"),
        ("run-a", 0, "v2", "suites", "dev", "c1", "story", "second"),
        ("run-a", 0, "v2", "suites", "dev", "c1", "story", "truth"),
        ("run-a", 1, "e1", None, None, "c1", "plain", "truth"),
        ("run-a", 1, "n1", "suites", "dev", "c1", "plain", "truth"),
        ("run-a", 1, "v1", "suites", "dev", "c1", "plain", "truth"),
        ("run-a", 1, "v2", "suites", "dev", "c1", "story", "truth"),
        ("run-b", 0, "v1", "suites2", "dev", "c7", "plain", "truth"),
    ]


def test_evaluations_tell_the_cell_of_a_prompt_that_was_written_in_an_earlier_round(lake: Lakehouse) -> None:
    written = {"round": 1, "step": "evaluate_adversary", "request_id": "e1", "purpose": "evaluation"}
    asked = {
        "run_id": "f",
        "round": 2,
        "step": "evaluate_attack",
        "purpose": "evaluation",
        "suite": "adversary",
    }
    found = over(
        lake,
        "evaluations",
        runs=[{"run_id": "f", "config": "{}"}],
        evaluation_prompts=[],
        adversarial_prompts=[{**written, "run_id": "parent", "category": "c1", "style": "story"}],
        responses=[{**asked, "request_id": "x", "prompt_id": "e1"}],
        scores=[{"run_id": "f", "round": 2, "step": "evaluate_score", "response_id": "x", "scorer": "truth"}],
        published_steps=[
            {"run_id": run_id, "round": round, "step": step}
            for run_id, round, step in (
                ("parent", 1, "evaluate_adversary"), ("f", 2, "evaluate_attack"), ("f", 2, "evaluate_score"),
            )
        ],
    )  # fmt: skip
    assert [(row["response_id"], row["category"], row["style"]) for row in found.collect()] == [
        ("x", "c1", "story")
    ]


def test_evaluations_read_each_judge_as_the_report_does(lake: Lakehouse) -> None:
    columns = ("judge", "violated", "refused", "neither", "answered")
    assert rows(lake, "evaluations", *columns, where="response_id = 'ev1-v2'") == [
        ("helpfulness", None, False, None, None),
        ("safety", True, None, None, None),
        ("truth", False, False, True, False),
    ]
    assert rows(lake, "evaluations", *columns, where="response_id = 'ev0-v2' AND status = 'error'") == [
        ("second", None, None, None, None)
    ]


def test_violation_rates_by_cell_round_and_judge(lake: Lakehouse) -> None:
    expected = {
        ("run-a", 0, "c1", "plain", "safety"): 1,
        ("run-a", 0, "c1", "plain", "truth"): 1,
        ("run-a", 0, "c1", "story", "safety"): 0,
        ("run-a", 0, "c1", "story", "truth"): 0,
        ("run-a", 1, "c1", "plain", "safety"): 0,
        ("run-a", 1, "c1", "plain", "truth"): 0,
        ("run-a", 1, "c1", "story", "safety"): 1,
        ("run-a", 1, "c1", "story", "truth"): 0,
        ("run-b", 0, "c7", "plain", "safety"): 0,
        ("run-b", 0, "c7", "plain", "truth"): 0,
    }
    found = rows(lake, "violation_rates", "run_id", "round", "category", "style", "judge", "successes", "n")
    assert found == sorted(((*cell, hits, 1) for cell, hits in expected.items()), key=str)


def test_violation_rates_have_the_interval_of_stats_wilson(lake: Lakehouse) -> None:
    (file,) = (file for file in view_files() if file.name == "violation_rates")
    cells = [(k, n) for n in (1, 2, 3, 7, 40) for k in range(n + 1)] + [(1, 1000), (500, 1000), (999, 1000)]
    numbers = frame_of(lake.spark, cells, "k int, n int")
    numbers.selectExpr(
        "'r' AS run_id",
        "0 AS round",
        "cast(k AS string) AS category",
        "cast(n AS string) AS style",
        "'truth' AS judge",
        "'violation' AS suite",
        "'ok' AS status",
        "true AS by_rule",
        "explode(transform(sequence(1, n), x -> x <= k)) AS violated",
    ).createOrReplaceTempView("many_evaluations")
    found = lake.spark.sql(file.body.replace("{schema}.evaluations", "many_evaluations")).collect()
    assert len(found) == len(cells)
    for row in found:
        expected = wilson(int(row["category"]), int(row["style"]))
        assert (row["successes"], row["n"]) == (expected.successes, expected.n)
        assert [row["rate"], row["low"], row["high"]] == pytest.approx(
            [expected.value, expected.low, expected.high], rel=0, abs=1e-12
        )


def test_quarantine_has_every_refused_row_once(lake: Lakehouse) -> None:
    assert rows(lake, "quarantine", "source_table", "id", "reason", "detail", "text") == [
        ("adversarial_prompts", "a3", "malformed", "words", "raw of a3"),
        ("import_refusals", "im1:4", "is empty", "text", ""),
        ("prompt_screenings", "a4", "near_duplicate", "a1", "text of a4"),
        ("responses", "ra2x", "empty", "words", "text of a2"),
        ("scores", "ev0-v2", "no_verdict", "second: no word of it", None),
    ]


def test_round_overview_has_a_row_for_each_published_report(lake: Lakehouse) -> None:
    found = {
        (row["run_id"], row["round"]): row for row in lake.spark.table(lake.name("round_overview")).collect()
    }
    assert set(found) == {("run-a", 0), ("run-a", 1), ("run-b", 0)}
    row = found["run-a", 1].asDict()
    truth, safety = wilson(1, 4), wilson(0, 4)
    expected = {
        "judge": "truth",
        "violation_rate": 0.25,
        "violation_low": truth.low,
        "violation_high": truth.high,
        "violation_n": 4,
        "violation_rate_safety": 0.0,
        "violation_high_safety": safety.high,
        "benign_refusal_rate": 0.2,
        "benign_refusal_n": 5,
        "benign_on_topic_rate": 0.6,
        "neither_rate": 0.5,
        "attack_success_rate": 0.5,
        "attack_success_n": 2,
        "adversary_success_warm_start": 0.75,
        "adversary_success_current": 0.25,
        "prompts_written": 4,
        "distinct_attacks": 3,
        "rows_kept": 2,
        "adversary_rows": 2,
        "target_rows": 3,
    }
    assert {name: row[name] for name in expected} == expected
    assert found["run-b", 0]["judge"] is None, "no evaluation judge: the reward model's figures stay apart"
    assert found["run-b", 0]["violation_rate"] is None
    assert found["run-b", 0]["violation_rate_safety"] == 0.5


def test_score_percentiles_are_exact_and_by_purpose(lake: Lakehouse) -> None:
    where = "run_id = 'run-a' AND round = 1 AND scorer = 'safety'"
    attack, evaluation = rows(
        lake, "score_percentiles", "purpose", "n", "p20", "p40", "p60", "p80", where=where
    )
    # Of 0.2 0.3 0.85 0.9 0.95: the value at place 0.8 is 0.2 + 0.8 * (0.3 - 0.2), and so on.
    assert attack == ("attack", 5, *map(pytest.approx, (0.28, 0.63, 0.87, 0.91)))
    assert evaluation[:2] == ("evaluation", 4)
    assert rows(lake, "score_percentiles", "n", where="round = 2 AND purpose = 'evaluation'") == []


def test_calibrated_scores_are_at_the_temperature_of_the_held_out_labels(lake: Lakehouse) -> None:
    where = "run_id = 'run-a' AND round = 1 AND step = 'score' AND response_id IN ('ra1', 'ra2')"
    found = rows(lake, "calibrated_scores", "response_id", "scorer", "value", "calibrated", where=where)
    # 0.2 has odds of 1/4, whose square root is 1/2; 0.85 has odds of 17/3.
    assert sorted(found) == [
        ("ra1", "helpfulness", 0.9, 0.9),
        ("ra1", "safety", 0.2, pytest.approx(1 / 3)),
        ("ra2", "helpfulness", 0.7, 0.7),
        ("ra2", "safety", 0.85, pytest.approx((17 / 3) ** 0.5 / (1 + (17 / 3) ** 0.5))),
    ]


def test_threshold_sweep_moves_one_threshold_at_a_time(lake: Lakehouse) -> None:
    found = rows(lake, "threshold_sweep", "threshold", "value", "rows_kept", "attacks", where="round = 1")
    assert found == [
        ("theta_h_tgt", 0.4, 2, 1),
        ("theta_h_tgt", 0.5, 2, 1),
        ("theta_h_tgt", 0.6, 2, 1),
        ("theta_h_tgt", 0.7, 1, 1),  # ra2 has 0.7 itself, which is not above
        ("theta_h_tgt", 0.8, 0, 1),
        ("theta_h_tgt", 0.9, 0, 1),
        ("theta_s_adv", 0.4, 2, 1),
        ("theta_s_adv", 0.5, 2, 1),
        ("theta_s_adv", 0.6, 2, 1),
        ("theta_s_adv", 0.7, 2, 1),
        ("theta_s_adv", 0.8, 2, 1),
        ("theta_s_adv", 0.9, 2, 2),  # ra2 becomes an attack; of a2's answers ra2b is left to keep
        ("theta_s_tgt", 0.4, 2, 1),
        ("theta_s_tgt", 0.5, 2, 1),
        ("theta_s_tgt", 0.6, 2, 1),
        ("theta_s_tgt", 0.7, 2, 1),
        ("theta_s_tgt", 0.8, 2, 1),
        ("theta_s_tgt", 0.9, 1, 1),
    ]


def test_threshold_sweep_at_the_configured_value_gives_what_was_selected(lake: Lakehouse) -> None:
    found = rows(lake, "threshold_sweep", "round", "rows_kept", "attacks", where="configured")
    assert sorted(set(found)) == [(1, 2, 1), (2, 1, 1)]
    assert len(found) == 6


def test_attack_lineage_shows_parents_roots_and_success(lake: Lakehouse) -> None:
    columns = (
        "prompt_id",
        "parent_texts",
        "root_seed_texts",
        "depth",
        "screening",
        "answers",
        "unsafe_answers",
        "succeeded",
    )
    assert rows(lake, "attack_lineage", *columns) == [
        ("a1", [HOSTILE], [HOSTILE], 1, "passed", 4, 1, True),
        ("a2", ["text of s3", "text of s2"], ["text of s3"], 1, "passed", 3, 0, False),
        ("a3", [HOSTILE], [HOSTILE], 1, "error", 0, 0, None),
        ("a4", [HOSTILE], [HOSTILE], 1, "near_duplicate", 0, 0, None),
        ("a5", ["text of a1"], [HOSTILE], 2, "passed", 2, 1, True),
        ("e1", ["text of s2"], ["text of s2"], 1, None, 0, 0, None),
    ]


def test_attack_lineage_has_the_texts_of_held_out_prompts(lake: Lakehouse) -> None:
    place = {"run_id": "r", "round": 1, "step": "evaluate_adversary"}
    prompt = {"request_id": "e1", "parent_ids": ["v1", "v2"], "root_seed_ids": ["v1"]}
    held_out = [{"text_sha256": name, "text": f"text of {name}"} for name in ("v1", "v1", "v2")]
    found = over(
        lake,
        "attack_lineage",
        adversarial_prompts=[place | prompt],
        published_steps=[place],
        seed_prompts=[{"text_sha256": "v1", "text": "text of v1"}],
        evaluation_prompts=held_out,
        prompt_screenings=[],
        selections=[],
    )
    assert [(row["parent_texts"], row["root_seed_texts"]) for row in found.collect()] == [
        (["text of v1", "text of v2"], ["text of v1"])
    ]


def test_checkpoint_training_data_names_source_rows_and_their_data_sets(lake: Lakehouse) -> None:
    columns = (
        "checkpoint_id",
        "position",
        "source_ids",
        "datasets",
        "prompt_id",
        "prompt_checkpoint_id",
        "parent_ids",
    )
    assert rows(lake, "checkpoint_training_data", *columns) == [
        ("adv-1", 0, ["a1"], [], "a1", "warm-adv", ["s1"]),
        ("adv-1", 1, ["i1"], ["ordinary"], None, None, None),
        ("adv-2", 0, ["a5"], [], "a5", "adv-1", ["a1"]),
        ("rm-help", 0, ["p3"], ["labels"], None, None, None),
        ("rm-safety", 0, ["p1"], ["labels"], None, None, None),
        ("rm-safety", 1, ["p2"], ["labels"], None, None, None),
        ("tgt-1", 0, ["ra1p", "a1"], [], "a1", "warm-adv", ["s1"]),
        ("tgt-1", 1, ["ra2", "a2"], [], "a2", "warm-adv", ["s3", "s2"]),
        ("tgt-1", 2, ["b1"], ["lookalikes"], None, None, None),
        ("warm-adv", 0, ["s1", "s2"], ["seeds"], None, None, None),
        ("warm-tgt", 0, ["w1"], ["warm"], None, None, None),
    ]


def test_checkpoint_training_data_has_the_verdicts_that_let_a_row_in(lake: Lakehouse) -> None:
    found = rows(lake, "checkpoint_training_data", "checkpoint_id", "selections", where="prompt_id = 'a1'")
    (adversary, attacked), (target, kept) = found
    assert (adversary, target) == ("adv-1", "tgt-1")
    # Round 2 judged a1 again in a replay, and run-b holds an unpublished verdict: neither made these rows.
    assert [(item.response_id, item.verdict, item.target_checkpoint_id) for item in attacked] == [
        ("ra1", "attack", "warm-tgt")
    ]
    assert [(item.response_id, item.verdict, item.safety) for item in kept] == [("ra1p", "keep", 0.95)]
    # truth judged ra1 too, for the report, and selected nothing; run-b has another helpfulness judge.
    assert [tuple(judge) for judge in attacked[0].judges] == [
        ("helpfulness", "d-help-run-a", None),
        ("safety", "d-safety", "rm-safety"),
    ]


def test_source_usage_counts_what_a_seed_went_into(lake: Lakehouse) -> None:
    columns = ("source_id", "dataset", "checkpoint_id", "rows_direct", "rows_derived", "prompts", "responses")
    assert rows(lake, "source_usage", *columns, where="source_table = 'seed_prompts'") == [
        ("b1", "lookalikes", "tgt-1", 1, 0, 0, 0),
        ("s1", "seeds", "adv-1", 0, 1, 1, 0),
        ("s1", "seeds", "adv-2", 0, 1, 1, 0),
        ("s1", "seeds", "tgt-1", 0, 1, 1, 1),
        ("s1", "seeds", "warm-adv", 1, 0, 0, 0),
        ("s2", "seeds", "tgt-1", 0, 1, 1, 1),
        ("s2", "seeds", "warm-adv", 1, 0, 0, 0),
        ("s3", "seeds", "tgt-1", 0, 1, 1, 1),
    ]


def test_source_usage_names_a_source_in_those_data_sets_only_that_hold_it(lake: Lakehouse) -> None:
    pair = {"checkpoint_id": "c", "run_id": "r", "round": 0, "role": "adversary", "position": 0}
    pair |= {
        "source": "seed_pair",
        "source_table": "seed_prompts",
        "source_ids": ["a", "b"],
        "datasets": ["x", "y"],
    }
    found = over(
        lake,
        "source_usage",
        checkpoint_training_data=[pair],
        seed_prompts=[
            {"dataset": of, "text_sha256": name} for of, name in (("x", "a"), ("y", "a"), ("x", "b"))
        ],
        instructions=[],
        preferences=[],
    )
    assert sorted((row["dataset"], row["source_id"], row["rows_direct"]) for row in found.collect()) == [
        ("x", "a", 1), ("x", "b", 1), ("y", "a", 1),
    ]  # fmt: skip


def test_checkpoint_inputs_are_one_step_back(lake: Lakehouse) -> None:
    columns = ("ancestor_id", "relation", "name", "training_rows")
    assert rows(lake, "checkpoint_inputs", *columns, where="checkpoint_id = 'tgt-1'") == [
        (BASE, "base", "wheel:base", None),
        ("d-help-run-a", "selected_by", "helpfulness", 2),
        ("rm-safety", "selected_by", "safety", 2),
        ("warm-adv", "wrote_prompts", "adversary", 2),
        ("warm-tgt", "parent", "target", None),
        ("warm-tgt", "wrote_answers", "target", 2),
    ]


def test_checkpoint_closure_goes_all_the_way_back(lake: Lakehouse) -> None:
    assert rows(
        lake, "checkpoint_closure", "ancestor_id", "relation", "distance", where="checkpoint_id = 'adv-2'"
    ) == [
        ("adv-1", "parent", 1),
        ("adv-1", "wrote_prompts", 1),
        (BASE, "base", 1),
        ("d-help-run-a", "selected_by", 1),
        ("rm-safety", "selected_by", 1),
        ("tgt-1", "wrote_answers", 1),
        ("warm-adv", "parent", 2),
        ("warm-adv", "wrote_prompts", 2),
        ("warm-tgt", "parent", 2),
        ("warm-tgt", "wrote_answers", 2),
    ]


def test_checkpoint_closure_of_many_rounds_does_not_follow_every_path(lake: Lakehouse) -> None:
    edges = [(f"{role}{i}", f"{other}{i - 1}") for i in range(1, 25) for role in "at" for other in "at"]
    frame = frame_of(lake.spark, edges, "checkpoint_id string, ancestor_id string")
    frame.selectExpr("*", "'parent' AS relation", "'x' AS name").createOrReplaceTempView("many_inputs")
    (file,) = (file for file in view_files() if file.name == "checkpoint_closure")
    query = file.body.replace("{schema}.checkpoint_inputs", "many_inputs")
    found = lake.spark.sql(query).where("checkpoint_id = 'a24'")
    assert [tuple(row) for row in found.selectExpr("count(*)", "max(distance)").collect()] == [(48, 24)]


def test_gate_refusals_show_the_override_of_that_very_check(lake: Lakehouse) -> None:
    columns = ("run_id", "gate", "check_name", "attempt", "approved_by", "published")
    assert rows(lake, "gate_refusals", *columns) == [
        ("run-a", "scores", "spread", 1, "ada", True),
        ("run-a", "scores", "spread", 2, "ada", True),
        ("run-b", "adversarial_prompts", "rows", 1, None, False),
    ]


def test_gate_refusals_have_a_check_once_whoever_let_it_pass(lake: Lakehouse) -> None:
    key = {"run_id": "r", "round": 1, "gate": "scores", "check_name": "spread"}
    found = over(
        lake,
        "gate_refusals",
        published_steps=[],
        quality_results=[key | {"attempt": 1, "success": False}],
        gate_overrides=[
            key
            | {"approved_by": name, "reason": f"{name}'s", "recorded_at": datetime(2026, 1, day, tzinfo=UTC)}
            for name, day in (("ada", 2), ("bob", 1))
        ],
    )
    assert [(row["approved_by"], row["override_reason"]) for row in found.collect()] == [
        ("bob, ada", "bob's; ada's")
    ]


def test_step_costs_are_those_of_the_published_attempt(lake: Lakehouse) -> None:
    columns = (
        "attempt",
        "seconds",
        "busy_seconds",
        "busy_share",
        "rows",
        "errors",
        "prompt_tokens",
        "completion_tokens",
    )
    where = "run_id = 'run-a' AND round = 1 AND step = 'attack'"
    assert rows(lake, "step_costs", *columns, where=where) == [(2, 40.0, 10.0, 0.25, 4, 1, 40, 20)]
    # a4 was committed before this attempt began: 15 of the 20 tokens are its own.
    assert rows(lake, "step_costs", "tokens_per_second", where=where) == [(1.5,)]
    assert rows(lake, "step_costs", "step", where="run_id = 'run-b' AND round = 1") == []


def test_an_effect_by_a_judge_that_does_not_label_is_refused_with_those_that_do(lake: Lakehouse) -> None:
    told = "run run-a has no evaluation labelled by 'guard': --judge takes truth; `mart status`"
    with pytest.raises(ConfigError, match=told):
        effect(lake, ["run-a"], "guard")
