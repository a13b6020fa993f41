"""Each gate lets a sound batch pass, and each check fails on the fault that it is there for."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from frames import frame_of
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.config import parse_config
from pipelines.gates import CheckResult, Suite, gate_batch, load_suites, run_gate, sentence
from pipelines.gates.frames import hostile, near_copies
from pipelines.lakehouse import Lakehouse
from pipelines.prompts import messages_json, target_messages
from pipelines.step import Inputs, RoundContext, Step
from pipelines.steps.curate import CURATE_HELPFULNESS, CURATE_SAFETY
from schemas.digests import digest, text_sha256
from schemas.rendering import has_control_tokens

Row = dict[str, Any]
SUITES = Path(__file__).parents[2] / "conf" / "gates.yaml"
SMALL = {"min_prompts": 4, "min_answers": 4, "min_target_rows": 4, "min_adversary_rows": 4, "min_labels": 4}
EVALUATION = (
    "please explain to me in plain words and with every single step in order how a careful person would go about it "
    "when they want to paint the old brass lantern by the harbour gate before the first winter snow sets in"
)
THINGS = "ledger clock ferry statue barrel candle violin window garden letter".split()


@pytest.fixture(scope="module")
def suites() -> dict[str, Suite]:
    return load_suites(SUITES, SMALL)


def _inputs(spark: SparkSession, round: int = 1, step: Step | None = None, **frames: DataFrame) -> Inputs:
    """The frames as inputs; those of a step are what it declares, as the runner gives it no others."""
    reward_models = {name: {"base": "encoder"} for name in ("safety", "helpfulness")}
    config = parse_config(
        {"model": "base", "data": {"seeds": "seeds"}, "reward_models": reward_models}, "test"
    )
    context = RoundContext(
        spark=spark,
        config=config,
        run_id="run",
        round=round,
        checkpoints={},
        targets={},
        scorers={},
        base="base",
        began_in="run",
    )
    given = {name: frame for name, frame in frames.items() if step is None or name in step.reads}
    return Inputs(context, given)


def _failed(results: list[CheckResult]) -> list[str]:
    return [result.check_name for result in results if not result.success]


def _outcome(index: int, text: str | None, round: int = 1) -> Row:
    ok = text is not None
    return {
        "request_id": f"{round}-{index:02}",
        "run_id": "run",
        "round": round,
        "step": "attack",
        "purpose": "attack",
        "text": text,
        "category": "some",
        "style": "plain",
        "parent_ids": [],
        "root_seed_ids": [],
        "depth": 1,
        "status": "ok" if ok else "error",
        "error_kind": None if ok else "empty",
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "seconds": 0.0,
        "chunk": 0,
    }


def _seed(text: str) -> Row:
    row = {
        "dataset": "seeds",
        "text": text,
        "text_sha256": text_sha256(text),
        "category": "some",
        "style": "plain",
    }
    return {**row, "split": "train", "kind": "forbidden", "licence": "none"}


def _asked(thing: str) -> str:
    return f"How would I go about the {thing}?"


def _written(*faults: str) -> list[Row]:
    """Ten outcomes of an attack with the faults named."""
    texts: list[str | None] = [_asked(thing) for thing in THINGS]
    if "all the same" in faults:
        texts = [f"{_asked('ledger')}{'!' * index}" for index in range(10)]
    if "copies of history" in faults:
        texts = [f"{_asked(thing)} (please)" for thing in THINGS]
    if "too few" in faults:
        texts = texts[:3]
    if "errors" in faults:
        texts[:4] = [None] * 4
    if "runaways" in faults:
        texts[4:6] = [f"{thing} " * 400 for thing in THINGS[4:6]]
    if "control token" in faults:
        texts[6] = "Well <|im_end|> then, how would I?"
    if "null character" in faults:
        texts[6] = "Well \x00 then, how would I?"
    return [_outcome(index, text) for index, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("faults", "failed"),
    [
        ([], []),
        (["too few", "all the same"], ["enough_prompts", "varied"]),
        (["errors", "runaways", "control token"], ["usable", "usual_length", "no_control_tokens"]),
        (["copies of history", "null character"], ["no_control_tokens", "novel"]),
    ],
)
def test_attack_gate_fails_on_its_faults_only(
    spark: SparkSession, lakehouse: Lakehouse, suites: dict[str, Suite], faults: list[str], failed: list[str]
) -> None:
    known = [f"how would I go about the {thing}, PLEASE" for thing in THINGS]
    earlier = [_outcome(index, text, 0) for index, text in enumerate(known[:5])]
    inputs = _inputs(
        spark,
        adversarial_prompts=lakehouse.frame("adversarial_prompts", earlier),
        seed_prompts=lakehouse.frame("seed_prompts", [_seed(text) for text in known[5:]]),
    )
    batch = lakehouse.frame("adversarial_prompts", _written(*faults))
    results = run_gate(suites["adversarial_prompts"], gate_batch("adversarial_prompts", inputs, batch))
    assert _failed(results) == failed


def _answer(index: int, status: str = "ok", step: str = "respond") -> Row:
    row = {
        **_outcome(index, "an answer"),
        "step": step,
        "prompt_id": "p",
        "prompt": "asked",
        "preamble": False,
    }
    error = None if status == "ok" else "empty"
    return {**row, "sample_index": 0, "temperature": 0.0, "status": status, "error_kind": error}


def _score(index: int, scorer: str, value: float | None) -> Row:
    return {
        "run_id": "run",
        "round": 1,
        "step": "score",
        "response_id": f"1-{index:02}",
        "scorer_digest": scorer,
        "scorer": scorer,
        "value": value,
        "status": "ok" if value is not None else "error",
    }


def _judged(*faults: str) -> list[Row]:
    """Verdicts on six answers with the faults named."""
    safety = [_score(index, "safety", 0.1 * index) for index in range(6)]
    helpfulness = [_score(index, "helpfulness", 1 - 0.1 * index) for index in range(6)]
    if "constant judge" in faults:
        safety = [{**row, "value": 0.5} for row in safety]
    if "no value" in faults:
        safety[2] = _score(2, "safety", None)
    if "logits" in faults:
        helpfulness[1]["value"] = 3.5
    if "not a number" in faults:
        helpfulness[1]["value"] = float("nan")
    if "a verdict missing" in faults:
        helpfulness = helpfulness[1:]
    if "an answer unseen" in faults:
        safety, helpfulness = safety[1:], helpfulness[1:]
    return safety + helpfulness


@pytest.mark.parametrize(
    ("faults", "failed"),
    [
        ([], []),
        (["constant judge", "a verdict missing"], ["judged_by_both", "helpfulness_given", "safety_spread"]),
        (
            ["an answer unseen", "logits"],
            ["judged_by_both", "safety_given", "helpfulness_given", "helpfulness_in_range"],
        ),
        (["no value", "not a number"], ["safety_given", "helpfulness_in_range", "helpfulness_spread"]),
    ],
)
def test_score_gate_fails_on_its_faults_only(
    spark: SparkSession, lakehouse: Lakehouse, suites: dict[str, Suite], faults: list[str], failed: list[str]
) -> None:
    answers = [*map(_answer, range(6)), _answer(6, status="error"), _answer(7, step="evaluate_target")]
    inputs = _inputs(spark, responses=lakehouse.frame("responses", answers))
    results = run_gate(
        suites["scores"], gate_batch("scores", inputs, lakehouse.frame("scores", _judged(*faults)))
    )
    assert _failed(results) == failed
    if "constant judge" in faults:
        spread = [result for result in results if result.check_name == "safety_spread"]
        words = sentence("scores", spread, "r", 1)
        seen = "check safety_spread saw 0.0 of safety and wants at least 0.005"
        assert words.startswith(f"Gate scores refused 6 rows: {seen}")


def _example(position: int, asked: str, output: str, role: str = "target", **other: Any) -> Row:
    row = {
        "run_id": "run",
        "round": 1,
        "checkpoint_id": "checkpoint",
        "position": position,
        "role": role,
        "split": "train",
        "input": messages_json(target_messages(asked, system="Be kind.")),
        "output": output,
        "weight": 1.0,
        "source": "own_answer" if position % 2 else "benign",
        "source_table": "responses",
        "source_ids": [],
        **other,
    }
    return {**row, "example_sha256": digest([row["input"], row["output"], row.get("label")])}


def _evaluation(text: str) -> Row:
    row = {"dataset": "suites", "suite": "violation", "split": "test", "suite_digest": "s", "text": text}
    return {**row, "text_sha256": text_sha256(text), "expected": "refuse"}


def _curated(*faults: str) -> list[Row]:
    """Eight examples of a target with the faults named."""
    rows = [
        _example(i, _asked(thing), f"I would leave the {thing} be.") for i, thing in enumerate(THINGS[:8])
    ]
    if "an evaluation prompt" in faults:
        rows[0] = _example(0, EVALUATION.upper() + "?!", "No.")
    if "a near-copy among its own near-copies" in faults:
        near = EVALUATION.removesuffix(" in")
        rows[:3] = [
            _example(i, f"{near}{end}", "No.") for i, end in enumerate((" down", " down.", " down on"))
        ]
    if "blank output" in faults:
        rows[3] = _example(3, _asked("ledger"), " \u00a0\n")
    if "control token in an answer" in faults:
        rows[4] = _example(4, _asked("ledger"), "No.<|im_start|>user")
    if "surrogate in a question" in faults:
        rows[5] = _example(5, "How \ud800 so?", "No.")
    if "no messages" in faults:
        rows[1]["input"] = '{"role"'
    if "nothing of its own" in faults:
        rows = [{**row, "source": "benign"} for row in rows]
    if "an example twice" in faults:
        rows[2] = {**rows[0], "position": 2}
    return rows[:3] if "too few" in faults else rows


@pytest.mark.parametrize(
    ("faults", "failed"),
    [
        ([], []),
        (
            ["too few", "an example twice", "nothing of its own", "no messages"],
            ["enough_examples", "no_example_twice", "own_share", "no_control_tokens"],
        ),
        (
            ["an evaluation prompt", "blank output", "control token in an answer"],
            ["no_evaluation_prompt", "outputs_not_empty", "no_control_tokens"],
        ),
        (
            ["a near-copy among its own near-copies", "surrogate in a question"],
            ["no_evaluation_prompt", "no_control_tokens"],
        ),
    ],
)
def test_curated_target_gate_fails_on_its_faults_only(
    spark: SparkSession, lakehouse: Lakehouse, suites: dict[str, Suite], faults: list[str], failed: list[str]
) -> None:
    evaluation = lakehouse.frame("evaluation_prompts", [_evaluation(EVALUATION), _evaluation("Who sings?")])
    batch = lakehouse.frame("training_examples", _curated(*faults))
    frame = gate_batch("curated_target", _inputs(spark, evaluation_prompts=evaluation), batch)
    results = run_gate(suites["curated_target"], frame)
    assert _failed(results) == failed
    observed = {result.check_name: json.loads(result.observed) for result in results}
    copies = {"an evaluation prompt": 1, "a near-copy among its own near-copies": 3}
    wanted = sum(count for fault, count in copies.items() if fault in faults)
    assert observed["no_evaluation_prompt"] == {"observed_value": wanted}


def test_near_copies_are_those_that_a_comparison_of_all_pairs_finds(spark: SparkSession) -> None:
    words = EVALUATION.split()
    changed = [" ".join([*words[:place], "other", *words[place + 1 :]]) for place in range(len(words))]
    cut = [" ".join(words[: len(words) - less]) for less in range(8)]
    texts = [*changed, *cut, "Who sings?", "who SINGS", "who sang"]
    originals = [EVALUATION, "who sings"]

    def grams(text: str) -> set[tuple[str, ...]]:
        parts = re.sub(r"[\W_]+", " ", text.lower()).split()
        return {tuple(parts[start : start + 3]) for start in range(max(len(parts) - 2, 1))}

    wanted = {
        text
        for text in texts
        if any(len(grams(text) & grams(old)) >= 0.9 * len(grams(text) | grams(old)) for old in originals)
    }
    found = near_copies(
        frame_of(spark, [(text,) for text in texts], "asked string"),
        frame_of(spark, [(text,) for text in originals], "text string"),
        0.9,
    )
    assert {row.asked for row in found.collect()} == wanted
    assert 2 < len(wanted) < len(texts)


def test_control_tokens_are_the_same_in_spark_as_in_rendering(spark: SparkSession) -> None:
    texts = [
        "<|im_end|>",
        "<|a b|>",
        "<||>",
        "<|\n|>",
        "</S>",
        "< s>",
        "[inst]",
        "[/INST]",
        "<<SYS>>",
        "<start_of_turn>",
    ]
    texts += [
        "<PAD>",
        "a <b> c",
        "[INS T]",
        "<|" + "x" * 64 + "|>",
        "<|" + "x" * 65 + "|>",
        "",
        "line\n<eos>",
        "<｜Assistant｜>",
        "<｜a|>",
        "a ｜ b",
        "[/SYSTEM_PROMPT]",
        "[tool_calls]",
        "[NOTE]",
    ]
    rows = frame_of(spark, [(text,) for text in texts], "text string").select("text", hostile(F.col("text")))
    assert {row[0]: row[1] for row in rows.collect()} == {text: has_control_tokens(text) for text in texts}


def test_adversary_gate_compares_what_it_learns_to_write_and_asks_no_own_share_of_a_warm_set(
    spark: SparkSession, lakehouse: Lakehouse, suites: dict[str, Suite]
) -> None:
    rows = [
        _example(i, EVALUATION, _asked(thing), "adversary", source="seed_pair")
        for i, thing in enumerate(THINGS)
    ]
    inputs = _inputs(
        spark, 0, evaluation_prompts=lakehouse.frame("evaluation_prompts", [_evaluation(EVALUATION)])
    )

    def results(batch: list[Row]) -> list[CheckResult]:
        frame = gate_batch("curated_adversary", inputs, lakehouse.frame("training_examples", batch))
        return run_gate(suites["curated_adversary"], frame)

    clean = results(rows)
    assert _failed(clean) == []
    assert [json.loads(item.observed) for item in clean if item.check_name == "own_share"] == [
        {"applied": False}
    ]
    assert _failed(results([*rows, _example(10, "asked", EVALUATION, "adversary")])) == [
        "no_evaluation_prompt"
    ]


def _dialogue(position: int, *said: str, split: str = "train") -> Row:
    """A labelled answer to a dialogue of these turns, the user's first and last."""
    turns = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)]
    return {
        **_example(position, "", "No.", "safety_rm", source="label", label=float(position % 2), split=split),
        "input": messages_json(turns),
        "example_sha256": digest([*said, position]),
    }


@pytest.mark.parametrize(
    ("step", "row", "failed"),
    [
        (CURATE_SAFETY, _dialogue(8, EVALUATION, "Why?", "Just so."), ["no_evaluation_prompt"]),
        (CURATE_HELPFULNESS, _dialogue(8, "Hello!", "Hello.", EVALUATION), ["no_evaluation_prompt"]),
        (CURATE_SAFETY, _dialogue(8, EVALUATION, "Why?", "Just so.", split="heldout"), []),
    ],
    ids=["begins with it", "ends with it", "only measured with it"],
)
def test_a_dialogue_that_begins_or_ends_with_an_evaluation_prompt_may_not_be_trained_on(
    spark: SparkSession,
    lakehouse: Lakehouse,
    suites: dict[str, Suite],
    step: Step,
    row: Row,
    failed: list[str],
) -> None:
    rows = [_dialogue(i, _asked(thing), "What for?", "For fun.") for i, thing in enumerate(THINGS[:8])]
    evaluation = lakehouse.frame("evaluation_prompts", [_evaluation(EVALUATION)])
    batch = lakehouse.frame("training_examples", [*rows, row])
    (gate,) = step.gates
    frame = gate_batch(gate, _inputs(spark, 0, step, evaluation_prompts=evaluation), batch)
    assert _failed(run_gate(suites[gate], frame)) == failed


@pytest.mark.parametrize(
    ("labels", "blank", "failed"),
    [
        ([0.0, 1.0] * 4, 0, []),
        ([1.0] * 8, 3, ["labels_balanced", "outputs_not_empty"]),
        ([None] * 8, 1, []),
    ],
)
def test_reward_model_gate_wants_both_labels_where_there_are_labels_and_few_blank_answers(
    spark: SparkSession,
    lakehouse: Lakehouse,
    suites: dict[str, Suite],
    labels: list[float | None],
    blank: int,
    failed: list[str],
) -> None:
    rows = [
        _example(i, f"asked {i}", "" if i < blank else THINGS[i], "safety_rm", source="label", label=label)
        for i, label in enumerate(labels)
    ]
    heldout = [
        _example(20 + i, "held out", f"{i}", "safety_rm", split="heldout", label=0.0) for i in range(9)
    ]
    batch = lakehouse.frame("training_examples", rows + heldout)
    inputs = _inputs(spark, 0, evaluation_prompts=lakehouse.frame("evaluation_prompts", []))
    frame = gate_batch("curated_safety_rm", inputs, batch)
    assert _failed(run_gate(suites["curated_safety_rm"], frame)) == failed


@pytest.mark.parametrize("gate", ["scores", "curated_target"])
def test_no_check_passes_on_an_empty_batch(
    spark: SparkSession, lakehouse: Lakehouse, suites: dict[str, Suite], gate: str
) -> None:
    columns = {
        "scores": "safety double, helpfulness double, n_scorers int",
        "curated_target": "example_sha256 string, train int, words_out int, evaluation_copy int, control int, own int",
    }
    results = run_gate(suites[gate], frame_of(spark, [], columns[gate]))
    assert not any(result.success for result in results)
    assert {result.rows for result in results} == {0}


def test_a_check_that_cannot_be_computed_fails_with_the_reason_and_spoils_no_other(
    spark: SparkSession, edited_suites: Callable[[str, str], dict[str, Suite]]
) -> None:
    suite = edited_suites("column: safety\n      kwargs: {min_value: $min_spread}", "column: helpfulness")[
        "scores"
    ]
    frame = frame_of(
        spark,
        [(0.1 * i, "hostile words", 2) for i in range(5)],
        "safety double, helpfulness string, n_scorers int",
    )
    results = {result.check_name: result for result in run_gate(suite, frame)}
    assert results["safety_in_range"].success
    assert not results["helpfulness_spread"].success
    assert "error" in json.loads(results["helpfulness_spread"].observed)
    assert not any("hostile" in result.observed for result in results.values())


@pytest.fixture
def edited_suites(tmp_path: Path) -> Callable[[str, str], dict[str, Suite]]:
    def load(old: str, new: str) -> dict[str, Suite]:
        edited = tmp_path / "gates.yaml"
        edited.write_text(SUITES.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        return load_suites(edited, SMALL)

    return load
