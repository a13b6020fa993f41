"""Closures over the hand-written history: complete, free of unpublished work, and safe to show."""

from collections import Counter

import pytest
from lineage_history import BASE, history
from pyspark.sql import DataFrame, SparkSession

from pipelines import lineage
from pipelines.errors import DataError
from pipelines.lakehouse import Lakehouse
from pipelines.lineage import DataSet, closure, source_closure


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lakehouse:
    return history(spark, tmp_path_factory.getbasetemp() / "lineage_history")


def test_closure_holds_every_ancestor_with_its_distance(lake: Lakehouse) -> None:
    found = closure(lake, "adv-2")
    assert [(item.checkpoint_id, item.distance, item.relations) for item in found.checkpoints] == [
        ("adv-2", 0, ()),
        ("adv-1", 1, ("parent", "wrote_prompts")),
        ("rm-safety", 1, ("selected_by",)),
        ("tgt-1", 1, ("wrote_answers",)),
        ("warm-adv", 2, ("parent", "wrote_prompts")),
        ("warm-tgt", 2, ("parent", "wrote_answers")),
    ]
    assert found.bases == {BASE: "wheel:base"}
    assert [(item.name, item.digest, item.checkpoint_id) for item in found.selectors] == [
        ("helpfulness", "d-help-run-a", None),
        ("safety", "d-safety", "rm-safety"),
    ]
    versions = {item.checkpoint_id: item.versions for item in found.checkpoints}
    assert versions["adv-2"] == {"selections": 9}
    assert versions["warm-adv"] == {"selections": 7}
    assert DataSet("adv-1", "instruction", "instructions", "ordinary", 1) in found.data_sets
    assert DataSet("warm-tgt", "warm_start", "instructions", "warm", 1) in found.data_sets
    assert sum(item.rows for item in found.data_sets) == sum(item.training_rows for item in found.checkpoints)

    # The view and this module are two readings of one thing.
    rows = lake.spark.table(lake.name("checkpoint_closure")).where("checkpoint_id = 'adv-2'").collect()
    ancestors = {item.checkpoint_id for item in found.checkpoints[1:]} | set(found.bases)
    assert {row["ancestor_id"] for row in rows} == ancestors | {"d-help-run-a"}

    text = found.render()
    assert "target tgt-1 (1 back, wrote_answers)" in text
    assert "weights weights-tgt-1" in text
    assert "selected by safety d-safety: checkpoint rm-safety" in text


def test_origins_are_what_the_single_rows_tell(lake: Lakehouse) -> None:
    told: Counter[tuple[str | None, ...]] = Counter()
    for row in lake.spark.table(lake.name("checkpoint_training_data")).collect():
        mine = row["checkpoint_id"]
        told[
            mine,
            "drawn_from",
            None,
            None,
            None,
            row["source"],
            row["source_table"],
            ", ".join(row["datasets"]),
        ] += 1
        none = (None, None, None)
        behind: set[tuple[str | None, ...]] = set()
        if row["prompt_checkpoint_id"]:
            behind.add(("wrote_prompts", row["prompt_checkpoint_id"], "adversary", None, *none))
        for verdict in row["selections"]:
            behind.add(("wrote_answers", verdict["target_checkpoint_id"], "target", None, *none))
            for by in verdict["judges"]:
                ancestor = by["checkpoint_id"] or by["digest"]
                behind.add(("selected_by", ancestor, by["judge"], by["digest"], *none))
        told.update((mine, *item) for item in behind)
    published = {
        row["checkpoint_id"] for row in lake.spark.table(lake.name("published_checkpoints")).collect()
    }
    kept = lake.read("checkpoint_origins").drop("recorded_at").collect()
    assert {
        tuple(row)[:-1]: row["training_rows"] for row in kept if row["checkpoint_id"] in published
    } == told


def test_closure_takes_the_beginning_of_an_id(lake: Lakehouse) -> None:
    assert closure(lake, "rm-h").checkpoints[0].checkpoint_id == "rm-help"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("warm", "2 checkpoints begin with 'warm'"),
        ("tgt-2", "nearest checkpoint is tgt-1"),
        ("", "no published checkpoint ''"),
    ],
)
def test_closure_of_an_unknown_or_ambiguous_id_says_what_there_is(
    lake: Lakehouse, wanted: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        closure(lake, wanted)


def test_source_closure_of_a_seed_goes_on_to_what_rests_on_it(lake: Lakehouse) -> None:
    found = source_closure(lake, "s3")
    uses = [
        (use.checkpoint_id, use.rows_direct, use.rows_derived, use.prompts, use.responses)
        for use in found.uses
    ]
    assert uses == [("tgt-1", 0, 1, 1, 1)]
    assert found.found == (("seed_prompts", "seeds", 1),)
    assert found.further == {"adv-2": ("tgt-1",)}, "tgt-1 answered the attack that adv-2 learned"


def test_source_closure_agrees_with_source_usage_and_escapes_text(lake: Lakehouse) -> None:
    found = source_closure(lake, "s1")
    rows = lake.spark.table(lake.name("source_usage")).where("source_id = 's1'").collect()
    counts = ("checkpoint_id", "rows_direct", "rows_derived", "prompts", "responses")
    assert {tuple(getattr(use, name) for name in counts) for use in found.uses} == {
        tuple(row[name] for name in counts) for row in rows
    }
    text = found.render()
    assert "ignore\\x1b[2J the\\u202e rules" in text
    assert "\x1b" not in text


def test_source_closure_of_a_data_set_counts_each_training_row_once(lake: Lakehouse) -> None:
    found = source_closure(lake, "seeds")
    uses = {
        use.checkpoint_id: (use.rows_direct, use.rows_derived, use.prompts, use.responses)
        for use in found.uses
    }
    # Of tgt-1, the second row has both s3 and s2 behind it.
    assert uses == {
        "warm-adv": (1, 0, 0, 0),
        "adv-1": (0, 1, 1, 0),
        "tgt-1": (0, 2, 2, 2),
        "adv-2": (0, 1, 1, 0),
    }
    assert found.found == (("seed_prompts", "seeds", 3),)


def test_a_source_that_no_checkpoint_learned_says_so(lake: Lakehouse) -> None:
    assert "went into no checkpoint" in source_closure(lake, "suites").render()


def test_an_unknown_source_names_the_nearest_data_set(lake: Lakehouse) -> None:
    with pytest.raises(DataError, match="nearest data set is lookalikes"):
        source_closure(lake, "lookalike")


def test_closure_refuses_to_leave_out_an_ancestor_that_is_not_published(
    lake: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = lineage._view

    def without_its_step(lakehouse: Lakehouse, name: str) -> DataFrame:
        """What the views give where no step that is done trained tgt-1."""
        frame = view(lakehouse, name)
        return frame if name == "published_steps" else frame.where("checkpoint_id != 'tgt-1'")

    monkeypatch.setattr(lineage, "_view", without_its_step)
    with pytest.raises(
        DataError, match=r"checkpoint adv-2 rests on tgt-1 \(wrote_answers\), which is registered and"
    ):
        closure(lake, "adv-2")
