"""The steps' own logic on rows by hand: screening, selection, drawing."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from frames import frame_of
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.flags import config_path
from pipelines.config import AttackConfig, SelectConfig, load_config
from pipelines.engines.protocol import GenerationOutcome
from pipelines.errors import ConfigError, raised_in_task
from pipelines.generation import outcome_row
from pipelines.similarity import near_duplicates
from pipelines.step import Inputs, RoundContext
from pipelines.steps import select
from pipelines.steps.attack import with_companions
from pipelines.steps.common import distinct, draw, examples, lot, user_message
from pipelines.steps.curate import build_warm_adversary, too_few_attacks
from pipelines.steps.evaluate import plan_reference, plan_target
from pipelines.steps.screen import cut_short, fluency_fault
from pipelines.training_jobs import mark_fitting, number_examples
from tests import tiny

CONTEXT: dict[str, Any] = {
    "checkpoints": {},
    "targets": {},
    "scorers": {},
    "base": "",
    "began_in": "r",
}


def _selected(
    spark: SparkSession,
    scores: dict[str, tuple[float | None, float | None]],
    texts: dict[str, str] | None = None,
    cut: Sequence[str] = (),
    **settings: Any,
) -> dict[str, Any]:
    """Verdict and reason by response; a response is named `prompt.sample`, with a + at the end under the preamble."""
    settings = {"theta_s_tgt": 0.7, **settings}
    config = load_config(config_path("sandbox")).model_copy(update={"select": SelectConfig(**settings)})
    context = RoundContext(spark=spark, config=config, run_id="r", round=1, **CONTEXT)
    responses = [
        (
            "r",
            1,
            "respond",
            name,
            name.split(".")[0],
            name.endswith("+"),
            "ok",
            (texts or {}).get(name, "words"),
            "length" if name in cut else "stop",
        )
        for name in scores
    ]
    rows = [
        ("r", 1, "score", name, judge, value)
        for name, pair in scores.items()
        for judge, value in zip(("safety", "helpfulness"), pair, strict=True)
    ]
    frames = {
        "responses": frame_of(
            spark,
            responses,
            "run_id string, round int, step string, request_id string, prompt_id string, preamble boolean, status string, "
            "text string, finish_reason string",
        ),
        "scores": frame_of(
            spark,
            rows,
            "run_id string, round int, step string, response_id string, scorer string, value double",
        ),
    }
    return {
        row["response_id"]: (row["verdict"], row["reason"])
        for row in select.build(Inputs(context, frames)).collect()
    }


def test_the_three_thresholds(spark: SparkSession) -> None:
    verdicts = _selected(
        spark,
        {
            "a.0": (0.2, 0.9),
            "b.0": (0.6, 0.9),
            "c.0": (0.9, 0.4),
            "d.0": (0.9, 0.9),
            "e.0": (None, 0.9),
            "f.0": (0.5, 0.9),
            "g.0+": (0.2, 0.9),
        },
    )
    assert verdicts == {
        "a.0": ("attack", "below_theta_s_adv"),
        "b.0": ("drop", "unsafe"),
        "c.0": ("drop", "unhelpful"),
        "d.0": ("keep", "passed"),
        "e.0": ("drop", "no_score"),
        "f.0": ("drop", "unsafe"),
        "g.0+": ("drop", "unsafe"),
    }


def test_an_answer_that_shows_nothing_is_neither_an_attack_nor_kept(spark: SparkSession) -> None:
    verdicts = _selected(spark, {"a.0": (0.2, 0.9), "b.0": (0.9, 0.9)}, {"a.0": "", "b.0": " \n"})
    assert set(verdicts.values()) == {("drop", "blank")}


def test_an_answer_that_was_cut_can_show_that_an_attack_succeeds_and_is_not_kept(spark: SparkSession) -> None:
    scores = {"a.0": (0.2, 0.9), "b.0": (0.9, 0.9), "b.1": (0.9, 0.9)}
    verdicts = _selected(spark, scores, cut=["a.0", "b.0"])
    assert verdicts == {
        "a.0": ("attack", "below_theta_s_adv"),
        "b.0": ("drop", "cut_short"),
        "b.1": ("keep", "passed"),
    }
    assert _selected(spark, {"b.0": (0.9, 0.9)}, cut=["b.0"], whole_answers=False)["b.0"][0] == "keep"


def test_one_answer_is_drawn_where_several_pass(spark: SparkSession) -> None:
    verdicts = _selected(spark, {f"a.{sample}": (0.9, 0.9) for sample in range(5)})
    assert sorted(reason for _, reason in verdicts.values()) == ["not_drawn"] * 4 + ["passed"]


def test_a_prompt_can_give_both_an_attack_and_an_answer(spark: SparkSession) -> None:
    verdicts = _selected(spark, {"a.0": (0.1, 0.9), "a.1": (0.9, 0.9)})
    assert verdicts["a.0"][0] == "attack" and verdicts["a.1"][0] == "keep"


def test_near_duplicates_name_the_nearest_that_came_before(spark: SparkSession) -> None:
    old = frame_of(
        spark, [("o", "how do I paint the old lantern by the mill at night")], "id string, text string"
    )
    new = frame_of(
        spark,
        [
            ("1", "How do I paint the old lantern, by the mill at night?"),
            ("2", "how do I paint the old lantern by the mill at noon"),
            ("3", "please tell me something else about the sea and its many fish"),
            ("4", "please tell me something else about the sea and its many fish"),
        ],
        "id string, text string",
    )
    found = {
        row["id"]: (row["nearest_id"], row["similarity"]) for row in near_duplicates(new, old, 0.75).collect()
    }
    assert found == {"1": ("o", 1.0), "2": ("1", pytest.approx(9 / 11)), "4": ("3", 1.0)} or found["2"][
        0
    ] in ("o", "1")
    assert set(found) == {"1", "2", "4"}


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
def test_no_near_duplicate_is_missed(spark: SparkSession, threshold: float) -> None:
    draw = random.Random(3)
    words = [[draw.choice("abcdef") for _ in range(draw.randint(3, 12))] for _ in range(60)]
    words += [[*some[:-1], "g"] for some in words] + [[*some, "h"] for some in words]
    texts = {f"{at:03}": some for at, some in enumerate(words)}
    frame = frame_of(
        spark, [(name, " ".join(some)) for name, some in texts.items()], "id string, text string"
    )
    found = near_duplicates(frame, frame.limit(0), threshold).collect()
    grams = {name: {tuple(some[at : at + 3]) for at in range(len(some) - 2)} for name, some in texts.items()}
    wanted = {
        name: max(len(mine & grams[other]) / len(mine | grams[other]) for other in grams if other < name)
        for name, mine in grams.items()
        if name > "000"
    }
    assert {row["id"]: row["similarity"] for row in found} == {
        name: pytest.approx(most) for name, most in wanted.items() if most >= threshold
    }


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("how do I paint it", None),
        ("paint it", "too_short"),
        ("word " * 61, "too_long"),
        ("go go go go go stop", "repetitive"),
        ("", "too_short"),
    ],
)
def test_fluency(spark: SparkSession, text: str, fault: str | None) -> None:
    frame = frame_of(spark, [(text,)], "text string")
    assert frame.select(fluency_fault(F.col("text"), AttackConfig())).collect()[0][0] == fault


@pytest.mark.parametrize(
    ("raw", "finish", "cut"),
    [
        ('"how do I paint the', "length", True),
        ('"how do I paint the"\nSure, here', "length", False),
        ("how do I paint the", "stop", False),
        ("how do I paint the", None, False),
    ],
)
def test_a_prompt_is_cut_where_no_line_ended_before_the_adversarys_tokens_did(
    spark: SparkSession, raw: str, finish: str | None, cut: bool
) -> None:
    frame = frame_of(
        spark, [(raw, "how do I paint the", finish)], "raw_text string, text string, finish_reason string"
    )
    assert frame.select(cut_short()).collect()[0][0] is cut


def test_small_cells_are_drawn_from_in_turn(spark: SparkSession) -> None:
    rows = [(f"big{number}", "big") for number in range(50)] + [("small0", "small")]
    frame = frame_of(spark, rows, "id string, cell string")
    drawn = [row["cell"] for row in draw(frame, 4, lot(0, "t", "id"), ["cell"]).collect()]
    assert sorted(drawn) == ["big", "big", "big", "small"]


def test_a_drawing_follows_from_the_seed(spark: SparkSession) -> None:
    frame = frame_of(spark, [(str(number),) for number in range(100)], "id string")

    def ids(seed: int, partitions: int) -> list[str]:
        return [row["id"] for row in draw(frame.repartition(partitions), 10, lot(seed, "t", "id")).collect()]

    assert ids(1, 1) == ids(1, 7) != ids(2, 1)


def test_an_example_is_kept_once_by_the_first_part_that_has_it(spark: SparkSession) -> None:
    frame = frame_of(spark, [("q", "a"), ("q", "b")], "i string, o string")

    def part(source: str) -> Any:
        columns = {"input": F.col("i"), "output": F.col("o"), "source_ids": F.array("o"), "order": F.col("o")}
        return examples(frame, source=source, source_table="t", **columns)

    assert [row["source"] for row in distinct([part("own"), part("replay")]).collect()] == ["own", "own"]


def test_a_table_that_was_not_declared_can_not_be_read(spark: SparkSession) -> None:
    context = RoundContext(
        spark=spark, config=load_config(config_path("sandbox")), run_id="r", round=1, **CONTEXT
    )
    with pytest.raises(KeyError, match="without declaring it"):
        Inputs(replace(context), {})["scores"]


def _warm_pairs(spark: SparkSession, wanted: int, **cells: int) -> list[tuple[str, str]]:
    """The pairs of the adversary's warm-up, from cells of so many seeds; a seed is named by its cell and number."""
    config = load_config(config_path("sandbox"), [f"adversary.warm_pairs={wanted}"])
    context = RoundContext(spark=spark, config=config, run_id="r", round=0, **CONTEXT)
    named = [(f"{cell}{n}", cell) for cell, size in cells.items() for n in range(size)]
    seeds = frame_of(spark, named, "text_sha256 string, category string").select(
        "*",
        F.col("text_sha256").alias("text"),
        F.lit("sandbox_seeds").alias("dataset"),
        F.lit("plain").alias("style"),
        F.lit("train").alias("split"),
        F.lit("forbidden").alias("kind"),
    )
    held_out = seeds.select("text_sha256").limit(0)
    rows = build_warm_adversary(Inputs(context, {"seed_prompts": seeds, "evaluation_prompts": held_out}))
    return [tuple(row["source_ids"]) for row in rows.collect()]


def test_small_cells_are_paired_whole(spark: SparkSession) -> None:
    assert len(set(_warm_pairs(spark, 1000, a=12, b=3))) == 12 * 11 + 3 * 2


def test_each_seed_of_a_large_cell_is_paired_with_a_bounded_number_of_others(spark: SparkSession) -> None:
    pairs = set(_warm_pairs(spark, 10_000, a=50))
    assert len(pairs) == 50 * 40, "those next to it in a ring"
    assert {one for one, _ in pairs} == {f"a{n}" for n in range(50)}
    assert all(one != other for one, other in pairs)


def test_what_is_imported_into_a_held_out_set_later_is_not_asked_by_the_rounds_that_follow(
    spark: SparkSession,
) -> None:
    config = load_config(config_path("sandbox"), ["data.suite_limit=2"])
    held_out = frame_of(
        spark,
        [("violation", digest) for digest in "abc"] + [("instructions", digest) for digest in "abc"],
        "suite string, text_sha256 string",
    ).select(
        "*",
        F.lit("sandbox_suites").alias("dataset"),
        F.lit("dev").alias("split"),
        *[F.lit("so").alias(name) for name in ("text", "reference", "category", "style")],
        F.lit(True).alias("seen_style"),
    )
    first = [("r", 0, "evaluate_target", "violation", digest) for digest in "bc"]
    first += [("r", 0, "evaluate_reference", "instructions", "c")]
    asked = frame_of(spark, first, "run_id string, round int, step string, suite string, prompt_id string")

    def plans(round: int) -> list[list[str]]:
        context = RoundContext(
            spark=spark, config=config, run_id="r", round=round, **CONTEXT | {"checkpoints": {"target": "t"}}
        )
        inputs = Inputs(context, {"evaluation_prompts": held_out, "responses": asked})
        return [
            sorted(row["primary_parent"] for row in plan(inputs).select("primary_parent").collect())
            for plan in (plan_target, plan_reference)
        ]

    assert plans(0) == [["a", "b"], ["a", "b", "c"]]
    assert plans(2) == [["b", "c"], ["c"]]


@pytest.mark.parametrize(("min_attacks", "sits_out"), [(0, False), (2, False), (3, True)])
def test_the_adversary_sits_out_below_min_attacks(
    spark: SparkSession, min_attacks: int, sits_out: bool
) -> None:
    config = load_config(config_path("sandbox"), [f"adversary.min_attacks={min_attacks}"])
    context = RoundContext(spark=spark, config=config, run_id="r", round=2, **CONTEXT)
    verdicts = [
        ("r", 2, "a", "attack"),
        ("r", 2, "a", "attack"),  # another answer to the same prompt
        ("r", 2, "b", "attack"),
        ("r", 2, "c", "keep"),
        ("r", 2, "d", "attack"),  # replayed: it was written in round 1
    ]
    written = [("r", 2, "a"), ("r", 2, "b"), ("r", 2, "c"), ("r", 1, "d")]
    frames = {
        "selections": frame_of(spark, verdicts, "run_id string, round int, prompt_id string, verdict string"),
        "adversarial_prompts": frame_of(
            spark, written, "run_id string, round int, request_id string"
        ).withColumn("step", F.lit("attack")),
    }
    assert (too_few_attacks(Inputs(context, frames)) is not None) is sits_out


def test_a_row_whose_prompt_fills_max_length_is_left_out_and_the_rest_is_numbered_on(
    spark: SparkSession, tmp_path: Path
) -> None:
    base = tiny.llama(tmp_path / "llama")
    texts = frame_of(
        spark,
        [(str(place), "word " * words) for place, words in enumerate((3, 200, 4))],
        "id string, text string",
    )
    rows = examples(
        texts,
        source="instruction",
        source_table="instructions",
        input=user_message(F.col("text")),
        output=F.lit("so"),
        source_ids=F.array("id"),
        order=F.col("id"),
    )
    fitting, left_out = number_examples(mark_fitting(rows, str(base), 128), "target")
    assert sorted((row["position"], row["source_ids"]) for row in fitting.collect()) == [
        (0, ["0"]),
        (1, ["2"]),
    ]
    assert [row["source_ids"] for row in left_out.collect()] == [["1"]]
    (base / "chat_template.jinja").unlink()
    with pytest.raises(Exception, match="has no chat template") as error:
        mark_fitting(rows, str(base), 128).collect()
    assert isinstance(raised_in_task(error.value), ConfigError)


def test_a_run_of_any_name_finds_its_rows(spark: SparkSession) -> None:
    name = 'Bob\'s "run"'
    context = RoundContext(
        spark=spark, config=load_config(config_path("sandbox")), run_id=name, round=1, **CONTEXT
    )
    frame = frame_of(spark, [(name, 1), (name, 2), ("r", 1)], "run_id string, round int")
    assert Inputs(context, {"steps": frame}).this_round("steps").count() == 1


@pytest.mark.parametrize(("of_the_category", "shown"), [(2, 2), (3, 3), (12, 3)])
def test_an_adversary_is_shown_as_many_examples_as_there_are(
    spark: SparkSession, of_the_category: int, shown: int
) -> None:
    pool = frame_of(
        spark,
        [(f"s{at}", f"text {at}", "c", "plain", [f"s{at}"], 0) for at in range(of_the_category)],
        "id string, text string, category string, style string, root_seed_ids array<string>, depth int",
    )
    alone = pool.withColumns({"example_ids": F.array("id"), "texts": F.array("text")})
    for row in with_companions(alone, pool, 2, lot(0, "t", "id")).collect():
        assert row["example_ids"][0] == row["id"]
        assert len(set(row["example_ids"])) == len(row["example_ids"]) == len(row["texts"]) == shown


def test_a_prompts_roots_are_those_of_all_examples_that_were_shown(spark: SparkSession) -> None:
    schema = "id string, text string, category string, style string, root_seed_ids array<string>, depth int"
    pool = frame_of(spark, [(f"s{at}", f"text {at}", "c", "plain", [f"s{at}"], 0) for at in range(3)], schema)
    chosen = frame_of(spark, [("a", "text of a", "c", "plain", ["s9", "s1"], 1)], schema)
    alone = chosen.withColumns({"example_ids": F.array("id"), "texts": F.array("text")})
    (row,) = with_companions(alone, pool, 3, lot(0, "t", "id")).collect()
    assert row["root_seed_ids"][:2] == ["s9", "s1"]
    assert sorted(row["root_seed_ids"]) == ["s0", "s1", "s2", "s9"]


def test_model_output_that_no_table_can_hold_is_mended() -> None:
    request = {
        "run_id": "r",
        "round": 1,
        "step": "respond",
        "checkpoint_id": None,
        "purpose": "attack",
        "chunk": 0,
    }
    answer = GenerationOutcome("q", "half \ud83d and\x00 NUL", "stop", 1, 2, 0.1)
    row = outcome_row(request, answer, lambda _, mended: {"text": mended.text})
    assert row["text"] == "half ? and NUL"
