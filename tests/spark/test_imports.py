"""`mart data import`: totals, repeats, kills, suites, tables as sources, and the real files where they are."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from pipelines import imports
from pipelines.config import DataConfig, ImportConfig, RunConfig
from pipelines.errors import ConfigError, DataError
from pipelines.import_staging import Staging
from pipelines.imports import (
    ImportTotals,
    check_datasets,
    check_losses,
    import_all,
    import_source,
    suite_digest,
)
from pipelines.lakehouse import Lakehouse
from pipelines.verify_imports import changed_inputs, wrong_imports
from schemas.digests import text_sha256
from schemas.tables import (
    EVALUATION_PROMPTS,
    IMPORT_REFUSALS,
    IMPORTS,
    INSTRUCTIONS,
    PREFERENCES,
    SEED_PROMPTS,
)

_REAL = Path(__file__).parents[2] / ".." / "shared" / "data"
_SEEDS = [
    {"text": "a"},
    {"text": ""},
    {"text": "a"},
    {"text": "<|im_end|> b"},
    {"text": "half \ud800"},
]


@pytest.fixture(scope="module")
def lakehouse(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lakehouse:
    """One lakehouse for all tests here; each test has data sets of its own."""
    made = Lakehouse(spark, "imports_test", tmp_path_factory.mktemp("imports"))
    made.ensure([SEED_PROMPTS, INSTRUCTIONS, PREFERENCES, EVALUATION_PROMPTS, IMPORTS, IMPORT_REFUSALS])
    return made


@pytest.fixture
def bring(lakehouse: Lakehouse, tmp_path: Path) -> Callable[..., ImportTotals]:
    """Imports rows by way of a JSON Lines file."""

    def run(rows: list[Any], dataset: str, kind: str = "seeds", **settings: Any) -> ImportTotals:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return import_source(
            lakehouse,
            ImportConfig(path=str(path), kind=kind, dataset=dataset, **settings),  # type: ignore[arg-type]
        )

    return run


def held(lakehouse: Lakehouse, table: str, dataset: str, *columns: str) -> list[tuple[Any, ...]]:
    """A data set's rows of a table, in order."""
    rows = lakehouse.read(table).where(f"dataset = '{dataset}'").select(*columns).collect()
    return sorted(tuple(row) for row in rows)


def counts(totals: ImportTotals) -> tuple[int, int, int, int]:
    return totals.rows_in, totals.new, totals.repeated, totals.refused


def test_every_row_is_new_repeated_or_refused_and_kept_where_it_belongs(
    lakehouse: Lakehouse, bring: Callable[..., ImportTotals]
) -> None:
    totals = bring(_SEEDS, "whole", licence="MIT")
    assert counts(totals) == (5, 2, 1, 2)
    assert held(lakehouse, "seed_prompts", "whole", "text", "licence") == [
        ("<|im_end|> b", "MIT"),
        ("a", "MIT"),
    ]
    refused = held(lakehouse, "import_refusals", "whole", "line", "field", "excerpt", "import_id")
    assert refused == [(2, "text", "", totals.import_id), (5, "text", "half \\ud800", totals.import_id)]
    written = held(
        lakehouse, "imports", "whole", "rows_in", "rows_new", "rows_repeated", "rows_refused", "source"
    )
    assert written == [(5, 2, 1, 2, "rows.jsonl")]


def test_the_same_import_again_writes_nothing_and_has_the_same_totals(
    lakehouse: Lakehouse, bring: Callable[..., ImportTotals]
) -> None:
    first = bring(_SEEDS, "again")
    versions = [lakehouse.version(table) for table in ("seed_prompts", "import_refusals", "imports")]
    assert bring(_SEEDS, "again") == first
    assert [lakehouse.version(table) for table in ("seed_prompts", "import_refusals", "imports")] == versions


def test_rows_that_the_data_set_holds_are_repeated_and_kept_once(
    lakehouse: Lakehouse, bring: Callable[..., ImportTotals]
) -> None:
    bring([{"text": "a"}], "shared")
    assert counts(bring([{"text": "a"}, {"text": "b"}], "shared")) == (2, 1, 1, 0)
    assert held(lakehouse, "seed_prompts", "shared", "text") == [("a",), ("b",)]
    assert counts(bring([{"text": "a"}], "of its own")) == (1, 1, 0, 0)


@pytest.mark.parametrize("kind", ["seeds", "suite"])
def test_an_import_killed_after_any_commit_is_there_whole_or_not_at_all_and_ends_with_the_same_tables(
    lakehouse: Lakehouse, bring: Callable[..., ImportTotals], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(imports, "BATCH_ROWS", 2)
    values = {"suite": "s", "split": "dev", "expected": "comply"} if kind == "suite" else {}
    table = "evaluation_prompts" if kind == "suite" else "seed_prompts"
    smooth = bring(_SEEDS, f"smooth_{kind}", kind, values=values)
    left = 0

    def counted(write: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any, **options: Any) -> None:
            nonlocal left
            write(*args, **options)
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

        return run

    monkeypatch.setattr(imports, "_commit", counted(imports._commit))
    for name in ("append", "replace"):
        monkeypatch.setattr(Lakehouse, name, counted(getattr(Lakehouse, name)))
    killed, totals, of = 0, None, f"killed_{kind}"
    while totals is None:
        left = killed + 1
        try:
            totals = bring(_SEEDS, of, kind, values=values)
        except KeyboardInterrupt:
            killed += 1
        assert held(lakehouse, table, of, "text") in ([], [("<|im_end|> b",), ("a",)])
    assert killed >= 5
    assert counts(totals) == counts(smooth)
    for name, columns in (
        (table, ["text_sha256", "text", "split"]),
        ("import_refusals", ["line", "reason"]),
        ("imports", ["rows_in", "rows_new", "rows_repeated", "rows_refused"]),
        ("import_staging", ["row"]),
    ):
        assert held(lakehouse, name, of, *columns) == held(lakehouse, name, f"smooth_{kind}", *columns)
    assert held(lakehouse, "import_staging", of, "row") == []


def test_what_others_imported_while_an_import_was_half_done_is_there_once(
    lakehouse: Lakehouse, bring: Callable[..., ImportTotals], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "BATCH_ROWS", 2)
    rows = [{"text": text} for text in "abc"]
    with monkeypatch.context() as killing:
        killing.setattr(imports, "_commit", _killed)
        with pytest.raises(KeyboardInterrupt):
            bring(rows, "half")
    with pytest.raises(ConfigError, match=r"'half', of which no row .* has not ended: run it again"):
        check_datasets(lakehouse, _config({"seeds": "half"}))
    assert counts(bring([{"text": "a"}], "half")) == (1, 1, 0, 0)
    assert counts(bring(rows, "half")) == (3, 2, 1, 0)
    assert held(lakehouse, "seed_prompts", "half", "text") == [("a",), ("b",), ("c",)]


def _killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_of_a_file_that_is_damaged_further_down_nothing_is_imported(
    lakehouse: Lakehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "BATCH_ROWS", 500)
    path = tmp_path / "damaged.parquet"
    rows = pa.table({"text": [f"row {n}" for n in range(2000)]})
    pq.write_table(rows, path, row_group_size=1000, use_dictionary=False)
    second = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    whole = path.read_bytes()
    path.write_bytes(whole[:second] + b"\xff" * 64 + whole[second + 64 :])
    with pytest.raises(DataError, match="damaged after row 1000"):
        import_source(lakehouse, ImportConfig(path=str(path), kind="seeds", dataset="damaged"))
    for table in ("seed_prompts", "import_refusals", "import_staging", "imports"):
        assert held(lakehouse, table, "damaged", "dataset") == []


def test_of_a_csv_file_that_ends_within_quotes_nothing_is_imported(
    lakehouse: Lakehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "BATCH_ROWS", 2)
    path = tmp_path / "quoted.csv"
    path.write_text('text,style\na,x\nb,x,x\nc,x\nd,x\n"e,x\nf,x\n')
    with pytest.raises(DataError, match="the quote opened in line 6 is never closed"):
        import_source(lakehouse, ImportConfig(path=str(path), kind="seeds", dataset="quoted"))
    for table in ("seed_prompts", "import_refusals", "import_staging", "imports"):
        assert held(lakehouse, table, "quoted", "dataset") == []


def test_what_was_read_and_has_changed_is_named(
    lakehouse: Lakehouse, bring: Callable[..., ImportTotals]
) -> None:
    of, values = "read", {"suite": "s", "split": "dev", "expected": "comply"}
    bring([{"instruction": "i", "answer": "good"}], of, "instructions")
    bring([{"text": "x"}], of, "suite", values=values)
    judge = {"run_id": of, "name": "truth", "kind": "rule", "model": "m", "selects": False}
    lakehouse.append_rows("scorers", [judge | {"scorer_digest": "d", "heldout_accuracy": 0.5}])
    read = {table: lakehouse.version(table) for table in ("instructions", "evaluation_prompts", "scorers")}
    bring([{"text": "y"}], of, "suite", values=values)  # which renews the digest of the suite
    assert list(changed_inputs(lakehouse, [read], [of])) == []
    for change in (
        "instructions SET answer = 'bad' WHERE dataset = 'read'",
        "evaluation_prompts SET expected = 'refuse' WHERE dataset = 'read' AND text = 'x'",
        "scorers SET heldout_accuracy = 0.9 WHERE run_id = 'read'",
    ):
        table, _, what = change.partition(" ")
        lakehouse.spark.sql(f"UPDATE {lakehouse.name(table)} {what}")
    assert list(changed_inputs(lakehouse, [read], [of])) == [
        f"{table} was changed since it was read (version {read[table]} or before): {key}"
        for table, key in (
            ("evaluation_prompts", f"{of}, dev, {text_sha256('x')}"),
            ("instructions", f"{of}, {text_sha256('i')}"),
            ("scorers", f"{of}, d, truth"),
        )
    ]


@pytest.mark.parametrize("kind", ["seeds", "suite"])
def test_two_drivers_of_the_same_import_write_its_rows_once(
    lakehouse: Lakehouse, bring: Callable[..., ImportTotals], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    values = {"suite": "s", "split": "dev", "expected": "comply"} if kind == "suite" else {}
    first = bring([{"text": "a"}, {"text": "b"}], f"raced_{kind}", kind, values=values)
    # The second driver looked before the first had written.
    monkeypatch.setattr(imports, "_finished", lambda *_: None)
    monkeypatch.setattr(imports, "_keys", lambda *_: set())
    assert bring([{"text": "a"}, {"text": "b"}], f"raced_{kind}", kind, values=values) == first
    table = "evaluation_prompts" if kind == "suite" else "seed_prompts"
    assert held(lakehouse, table, f"raced_{kind}", "text") == [("a",), ("b",)]
    assert len(held(lakehouse, "imports", f"raced_{kind}", "import_id")) == 1


def test_an_attempt_that_fails_leaves_what_another_has_staged(lakehouse: Lakehouse) -> None:
    first, second = (Staging(lakehouse, "of two", "d") for _ in range(2))
    for staging in (first, second):
        for text in ("a", "b"):
            staging.add({"instructions": [{"instruction": text}]})
        staging.frame("instructions")  # which stages the last batch, too
    first.abandon()
    staged = lakehouse.read("import_staging").where("import_id = 'of two'").select("row").collect()
    assert sorted(json.loads(row["row"])["instruction"] for row in staged) == ["a", "b"]
    second.clear()


def test_what_was_read_from_a_table_that_has_no_such_version_is_told(lakehouse: Lakehouse) -> None:
    newest = lakehouse.version("instructions")
    assert list(changed_inputs(lakehouse, [{"instructions": newest + 1}], ["r"])) == [
        f"instructions is at version {newest}, a step recorded version {newest + 1}: it was made anew, or comes from an older copy"
    ]


def test_a_suite_has_one_digest_over_all_of_its_prompts_however_they_came(
    lakehouse: Lakehouse, bring: Callable[..., ImportTotals]
) -> None:
    values = {"suite": "benign", "expected": "comply"}
    bring([{"text": "a", "split": "dev"}, {"text": "b", "split": "test"}], "suites", "suite", values=values)
    bring([{"text": "c", "split": "dev"}], "suites", "suite", values=values)
    bring([{"text": "x", "split": "dev"}], "other suites", "suite", values=values)
    rows = held(lakehouse, "evaluation_prompts", "suites", "text", "suite_digest", "expected", "seen_style")
    dev, test = suite_digest([text_sha256("c"), text_sha256("a")]), suite_digest([text_sha256("b")])
    assert [row[:2] for row in rows] == [("a", dev), ("b", test), ("c", dev)]
    assert held(lakehouse, "evaluation_prompts", "other suites", "text") == [("x",)]


def test_one_changed_value_of_imported_data_is_named(
    lakehouse: Lakehouse, bring: Callable[..., ImportTotals]
) -> None:
    of = "tampered"
    totals = bring(_SEEDS, of)
    label = {"input": "p", "output": "r", "label": 1, "aspect": "safety"}
    labels = bring([label, label | {"output": "other"}], of, "labels")
    suite = {"suite": "benign", "split": "dev", "expected": "comply"}
    bring([{"text": "x"}, {"text": "y"}], of, "suite", values=suite)
    for change in (
        "seed_prompts SET text = 'b' WHERE dataset = 'tampered' AND text = 'a'",
        "preferences SET label = 0 WHERE dataset = 'tampered' AND output = 'r'",
        f"evaluation_prompts SET suite_digest = '0' WHERE text_sha256 = '{text_sha256('x')}' AND dataset = 'tampered'",
        "imports SET rows_in = rows_in + 1, rows_new = rows_new + 1 WHERE dataset = 'tampered' AND kind = 'seeds'",
        "imports SET source_sha256 = '0' WHERE dataset = 'tampered' AND kind = 'labels'",
        "import_refusals SET import_id = '0' WHERE dataset = 'tampered' AND line = 2",
    ):
        table, _, what = change.partition(" ")
        lakehouse.spark.sql(f"UPDATE {lakehouse.name(table)} {what}")
    examples = dict(held(lakehouse, "preferences", of, "output", "example_sha256"))
    assert sorted(wrong_imports(lakehouse)) == sorted(
        [
            "suite benign dev of data set tampered does not have the digest of its 2 prompts",
            f"1 rows of preferences, data set tampered, do not have the digest of their content; the first is "
            f"{examples['r']}",
            f"1 rows of seed_prompts, data set tampered, do not have the digest of their content; the first is "
            f"{text_sha256('a')}",
            f"import {labels.import_id[:12]} of tampered does not have the id that its source's digest, kind, mapping and data "
            "set give",
            f"import {totals.import_id[:12]} of tampered refused 2 rows, import_refusals has 1",
            "seed_prompts has 2 rows of data set tampered, its imports wrote 3",
        ]
    )


def test_rows_that_no_import_brought_are_counted(
    lakehouse: Lakehouse, bring: Callable[..., ImportTotals]
) -> None:
    bring([{"text": "a"}], "mixed")
    before = set(wrong_imports(lakehouse))
    row = {"text": "x", "text_sha256": text_sha256("x"), "category": "c", "style": "s", "split": "train"}
    row |= {"kind": "forbidden", "licence": "none"}
    lakehouse.append_rows("seed_prompts", [row | {"dataset": of} for of in ("mixed", "of no import")])
    assert set(wrong_imports(lakehouse)) - before == {
        "seed_prompts has 2 rows of data set mixed, its imports wrote 1: no import brought the others",
        "seed_prompts has 1 rows of data set of no import, its imports wrote 0: no import brought the others",
    }
    lakehouse.spark.sql(f"DELETE FROM {lakehouse.name('seed_prompts')} WHERE text = 'x'")


@pytest.mark.parametrize("kind", ["seeds", "suite"])
def test_rows_of_an_import_whose_own_row_is_yet_to_come_are_no_difference(
    lakehouse: Lakehouse, bring: Callable[..., ImportTotals], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    before = list(wrong_imports(lakehouse))
    values = {"suite": "s", "split": "dev", "expected": "comply"} if kind == "suite" else {}
    append = Lakehouse.append_rows

    def killed_before_its_own_row(self: Lakehouse, table: str, *more: Any, **named: Any) -> None:
        if table == "imports":
            raise KeyboardInterrupt
        append(self, table, *more, **named)

    with monkeypatch.context() as killing:
        killing.setattr(Lakehouse, "append_rows", killed_before_its_own_row)
        with pytest.raises(KeyboardInterrupt):
            bring([{"text": "a"}, {"text": "b"}], f"unended_{kind}", kind, values=values)
    table = "evaluation_prompts" if kind == "suite" else "seed_prompts"
    assert len(held(lakehouse, table, f"unended_{kind}", "text")) == 2
    assert list(wrong_imports(lakehouse)) == before
    assert counts(bring([{"text": "a"}, {"text": "b"}], f"unended_{kind}", kind, values=values)) == (
        2,
        2,
        0,
        0,
    )
    assert list(wrong_imports(lakehouse)) == before


def test_rows_that_an_older_version_committed_in_batches_are_its_imports(lakehouse: Lakehouse) -> None:
    before = list(wrong_imports(lakehouse))
    row = {
        "dataset": "in batches",
        "text": "x",
        "text_sha256": text_sha256("x"),
        "category": "c",
        "style": "s",
    }
    row |= {"split": "train", "kind": "forbidden", "licence": "none"}
    note = f"mart import {'0' * 64} batch 0 new 1 repeated 0"
    writer = lakehouse.frame("seed_prompts", [row]).write.format("delta").mode("append")
    writer.option("userMetadata", note).saveAsTable(lakehouse.name("seed_prompts"))
    assert list(wrong_imports(lakehouse)) == before


def test_one_file_of_labels_serves_both_aspects(
    lakehouse: Lakehouse, bring: Callable[..., ImportTotals]
) -> None:
    rows = [{"prompt": "p", "response": "r", "safe": 1, "helpful": 0, "split": "heldout"}]
    for aspect, column in (("safety", "safe"), ("helpfulness", "helpful")):
        fields = {"input": "prompt", "output": "response", "label": column}
        assert counts(bring(rows, "labels", "labels", fields=fields, values={"aspect": aspect})) == (
            1,
            1,
            0,
            0,
        )
    columns = ("aspect", "input", "output", "label", "split")
    shown = '[{"role":"user","content":"p"}]'
    assert held(lakehouse, "preferences", "labels", *columns) == [
        ("helpfulness", shown, "r", 0.0, "heldout"),
        ("safety", shown, "r", 1.0, "heldout"),
    ]


def test_a_source_without_the_rows_asked_for_is_an_error_and_writes_nothing(
    lakehouse: Lakehouse, bring: Callable[..., ImportTotals]
) -> None:
    with pytest.raises(DataError, match="among those that where takes: part holds one, two"):
        bring([{"text": "a", "part": "one"}, {"text": "b", "part": "two"}], "none", where={"part": ["three"]})
    assert held(lakehouse, "imports", "none", "import_id") == []
    assert held(lakehouse, "seed_prompts", "none", "text") == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"seeds": "named_seed"},
            r"data\.seeds is 'named_seed', of which no row .*; did you mean 'named_seeds'\?",
        ),
        (
            {"seeds": "named_seeds", "suites": "s"},
            r"data\.suites is 's', of which no row was imported into eval",
        ),
    ],
)
def test_a_data_set_that_was_never_imported_is_refused(
    lakehouse: Lakehouse, bring: Callable[..., ImportTotals], settings: dict[str, str], says: str
) -> None:
    bring([{"text": "named"}], "named_seeds")
    with pytest.raises(ConfigError, match=says):
        check_datasets(lakehouse, _config(settings))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"seeds": "tested"}, r"data\.seeds is 'tested', none of .* kind 'forbidden' and split 'train'"),
        (
            {"seeds": "drawn", "suites": "tests"},
            r"data\.suites is 'tests', .* the split 'dev' .*; they have split 'test'",
        ),
        ({"seeds": "drawn", "benign": "drawn"}, r"data\.benign is 'drawn', none of .* kind 'benign'"),
    ],
)
def test_a_data_set_of_which_a_run_would_read_nothing_is_refused(
    lakehouse: Lakehouse, bring: Callable[..., ImportTotals], settings: dict[str, str], says: str
) -> None:
    bring([{"text": "drawn"}], "drawn")
    bring([{"text": "tested", "split": "test"}], "tested")
    bring([{"text": "t", "suite": "violation", "expected": "refuse", "split": "test"}], "tests", "suite")
    with pytest.raises(ConfigError, match=says):
        check_datasets(lakehouse, _config(settings))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {},
            "'binary', which needs 'label', and 1 of 2 rows .* have none; 'pairwise' learns from 'rejected'",
        ),
        ({"loss": "pairwise"}, "'pairwise', which needs 'rejected', and 1 of 2 rows"),
    ],
)
def test_labels_that_the_loss_can_not_learn_from_are_refused_before_the_run_begins(
    lakehouse: Lakehouse, bring: Callable[..., ImportTotals], settings: dict[str, str], says: str
) -> None:
    row = {"input": "a", "output": "b", "aspect": "safety", "split": "train"}
    bring([row | {"label": 1.0}], "mixed", "labels")
    bring([row | {"rejected": "c"}], "mixed", "pairs")
    with pytest.raises(ConfigError, match=rf"reward_models\.safety\.settings\.loss is {says}"):
        check_losses(lakehouse, _config({"seeds": "s"}, {"dataset": "mixed", "settings": settings}))


def test_a_held_out_example_that_would_be_learned_as_well_is_refused(
    lakehouse: Lakehouse, bring: Callable[..., ImportTotals]
) -> None:
    row = {"input": "a", "output": "b", "aspect": "safety", "label": 1.0}
    rows = [row | {"split": split} for split in ("train", "heldout")] + [row | {"output": "c"}]
    bring(rows, "leaked", "labels")
    with pytest.raises(ConfigError, match=r"'leaked', and 1 of its 2 rows to train on are held-out rows"):
        check_losses(lakehouse, _config({"seeds": "s"}, {"dataset": "leaked"}))


def test_a_data_set_without_a_row_of_the_aspect_is_refused(
    lakehouse: Lakehouse, bring: Callable[..., ImportTotals]
) -> None:
    row = {"input": "a", "output": "b", "aspect": "helpfulness", "split": "train", "label": 1.0}
    bring([row], "others", "labels")
    with pytest.raises(ConfigError, match="no row has the aspect 'safety' and the split 'train'"):
        check_losses(lakehouse, _config({"seeds": "s"}, {"dataset": "others"}))


def _config(data: dict[str, str], safety: dict[str, Any] | None = None) -> RunConfig:
    judge = {"base": "nowhere"}
    return RunConfig.model_validate(
        {
            "model": "m",
            "data": data,
            "reward_models": {"safety": judge | (safety or {}), "helpfulness": judge},
        }
    )


def test_a_table_is_a_source_at_the_version_named(lakehouse: Lakehouse) -> None:
    spark = lakehouse.spark
    name = "spark_catalog.imports_test.users_own"
    spark.sql(f"CREATE TABLE {name} (prompt STRING) USING DELTA LOCATION '{lakehouse.folder}/users_own'")
    spark.sql(f"INSERT INTO {name} VALUES ('a'), ('b'), (NULL)")
    spark.sql(f"INSERT INTO {name} VALUES ('c')")
    fields = {"text": "prompt"}
    at_one = ImportConfig(path=f"{name}@1", kind="seeds", dataset="from table", fields=fields)
    newest = ImportConfig(path=name, kind="seeds", dataset="from table", fields=fields)
    assert counts(import_source(lakehouse, at_one)) == (3, 2, 0, 1)
    assert counts(import_source(lakehouse, newest)) == (4, 1, 2, 1)
    assert {source for (source,) in held(lakehouse, "imports", "from table", "source")} == {
        f"{name}@1",
        f"{name}@2",
    }


@pytest.mark.parametrize(
    "path", ["spark_catalog.imports_test.nowhere", "spark_catalog.imports_test.imports@999"]
)
def test_a_table_or_version_that_is_not_there_is_an_error(lakehouse: Lakehouse, path: str) -> None:
    with pytest.raises(DataError, match="no table spark_catalog.imports_test"):
        import_source(lakehouse, ImportConfig(path=path, kind="seeds", dataset="nowhere"))


def prepare(folder: Path) -> None:
    """What `data.prepare` names in the test below."""
    (folder / "seeds.jsonl").write_text('{"text": "prepared"}\n')


def test_prepare_fills_the_folder_that_the_imports_read(
    lakehouse: Lakehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.export.prepare_test", prepare, raising=False)
    item = ImportConfig(path="{prepared}/seeds.jsonl", kind="seeds", dataset="prepared")
    config = DataConfig(prepare="sandbox.export:prepare_test", imports=[item], seeds="prepared")
    [totals] = import_all(lakehouse, config, tmp_path / "new" / "folder")
    assert counts(totals) == (1, 1, 0, 0)


@pytest.fixture
def real() -> Iterator[Path]:
    if not _REAL.is_dir():
        pytest.skip(f"{_REAL} is absent: the real inputs are not part of the project")
    yield _REAL


def test_real_prompts_are_kept_once_each(lakehouse: Lakehouse, real: Path) -> None:
    item = ImportConfig(
        path=str(real / "hh_harmless_test_prompts.jsonl"),
        kind="seeds",
        dataset="hh",
        fields={"text": "prompt"},
    )
    totals = import_source(lakehouse, item)
    assert counts(totals) == (2312, 2178, 134, 0)


def test_real_preferences_are_split_by_where(lakehouse: Lakehouse, real: Path) -> None:
    path = str(real / "hh_harmless_preference_pairs.jsonl")
    for split, ours, rows in (("train", "train", 1830), ("test", "heldout", 469)):
        values = {"aspect": "safety", "split": ours}
        item = ImportConfig(path=path, kind="pairs", dataset="hh", values=values, where={"split": [split]})
        totals = import_source(lakehouse, item)
        assert (totals.rows_in, totals.refused) == (rows, 0)
        assert len(held(lakehouse, "preferences", "hh", "example_sha256")) >= totals.new > 0.9 * rows


def test_real_suites_and_instructions_are_imported(lakehouse: Lakehouse, real: Path) -> None:
    suite = ImportConfig(
        path=str(real / "xstest_prompts.jsonl"),
        kind="suite",
        dataset="xstest",
        fields={"text": "prompt", "category": "type"},
        values={"suite": "benign", "split": "test", "expected": "comply"},
    )
    totals = import_source(lakehouse, suite)
    assert (totals.rows_in, totals.refused) == (450, 0)
    instructions = ImportConfig(
        path=str(real / "ordinary_instructions.jsonl"),
        kind="instructions",
        dataset="ordinary",
        fields={"answer": "output"},
    )
    totals = import_source(lakehouse, instructions)
    assert totals.rows_in == 427 == totals.new + totals.repeated + totals.refused
