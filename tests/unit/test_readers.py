"""Readers of JSON Lines, CSV and Parquet files, and what each kind of import makes of a row."""

import errno
import json
import os
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import ImportConfig
from pipelines.errors import DataError
from pipelines.imports import Plan
from pipelines.readers import FileSource, Refusal, excerpt, open_source, read_rows
from schemas.manifests import parse_messages


def written(tmp_path: Path, content: str | bytes, name: str = "rows.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def imported(
    tmp_path: Path, rows: list[Any], kind: str = "seeds", **settings: Any
) -> list[dict[str, Any] | Refusal]:
    """What a kind of import makes of rows, by way of a JSON Lines file."""
    path = written(tmp_path, "".join(json.dumps(row) + "\n" for row in rows))
    plan = Plan(ImportConfig(path=str(path), kind=kind, dataset="d", **settings))  # type: ignore[arg-type]
    source = FileSource(path)
    plan.require_columns(source)
    return list(plan.read(source))


def refusal(found: dict[str, Any] | Refusal) -> Refusal:
    assert isinstance(found, Refusal)
    return found


# Files


def test_json_lines_give_each_object_with_its_line_and_skip_blank_lines(tmp_path: Path) -> None:
    path = written(tmp_path, '{"a": 1}\n\n{"a": 2}')
    assert list(read_rows(path)) == [(1, {"a": 1}), (3, {"a": 2})]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows"])
def test_json_lines_may_begin_with_any_number_of_blank_lines(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, "\n" * 10_000 + '{"a": 1}\n', name)
    assert list(read_rows(path)) == [(10_001, {"a": 1})]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": ', "broken JSON"),
        (b'{"a": NaN}', "NaN is no JSON value"),
        (b'["a"]', "list, not an object"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "broken JSON"),
    ],
    ids=["cut", "nan", "list", "latin1", "deep", "huge_number"],
)
def test_a_broken_line_is_refused_and_the_rest_is_read(tmp_path: Path, line: bytes, reason: str) -> None:
    path = written(tmp_path, b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    first, broken, last = (row for _, row in read_rows(path))
    assert (first, last) == ({"a": 1}, {"a": 2})
    found = refusal(broken)  # type: ignore[arg-type]
    assert found.line == 2
    assert reason in found.reason
    assert len(found.excerpt or "") <= 200


def test_a_line_longer_than_the_limit_is_refused_and_not_held(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("pipelines.readers.LONGEST_LINE", 50)
    path = written(tmp_path, '{"a": 1}\n{"a": "' + "x" * 500 + '"}\n{"a": 2}\n')
    rows = dict(read_rows(path))
    assert (rows[1], rows[3]) == ({"a": 1}, {"a": 2})
    assert "longer than 50 bytes" in refusal(rows[2]).reason


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, name: str) -> None:
    content = '{"text": "a"}\n' if name.endswith("jsonl") else "text\na\n"
    path = written(tmp_path, b"\xef\xbb\xbf" + content.encode(), name)
    assert [row for _, row in read_rows(path)] == [{"text": "a"}]


def test_csv_gives_the_line_on_which_a_row_begins(tmp_path: Path) -> None:
    path = written(tmp_path, 'text,style\n"two\nlines",x\nlast,y\n', "rows.csv")
    assert list(read_rows(path)) == [
        (2, {"text": "two\nlines", "style": "x"}),
        (4, {"text": "last", "style": "y"}),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_takes_the_delimiter_from_the_header(tmp_path: Path, delimiter: str) -> None:
    path = written(tmp_path, f"text{delimiter}style\na{delimiter}b\n", "rows.csv")
    assert [row for _, row in read_rows(path)] == [{"text": "a", "style": "b"}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"a,b,c", "3 cells where the header has 2"),
        (b'"a"b,c', "broken CSV"),
        (b"a\xff,b", "not UTF-8"),
    ],
    ids=["cells", "quotes", "latin1"],
)
def test_a_broken_csv_row_is_refused_and_the_rest_is_read(tmp_path: Path, line: bytes, reason: str) -> None:
    path = written(tmp_path, b"text,style\n" + line + b"\nlast,y\n", "rows.csv")
    (number, broken), last = read_rows(path)
    assert number == 2
    assert reason in refusal(broken).reason  # type: ignore[arg-type]
    assert last == (3, {"text": "last", "style": "y"})


@pytest.mark.parametrize(
    ("rows", "opened"),
    [
        ('a,x\nb,"y\nc,z\nd,w\n', 3),
        ('"two\nlines","x\nb,y\n', 3),
        ('a,"x ""quoted""\n\nb,y', 2),
        ('a,x\nb,"', 3),
    ],
    ids=["row", "second_cell", "doubled", "last_character"],
)
def test_a_csv_file_that_ends_within_quotes_is_an_error_that_names_the_line_where_they_opened(
    tmp_path: Path, rows: str, opened: int
) -> None:
    path = written(tmp_path, "text,style\n" + rows, "rows.csv")
    with pytest.raises(DataError, match=f"the quote opened in line {opened} is never closed; close it"):
        list(read_rows(path))


def test_the_refusal_of_broken_csv_tells_the_lines_that_went_with_it(tmp_path: Path) -> None:
    path = written(tmp_path, 'text,style\n"open,x\na,y\n"b",z\nlast,w\n', "rows.csv")
    (number, broken), last = read_rows(path)
    assert number == 2
    assert "in lines 2 to 4, none of which was read" in refusal(broken).reason  # type: ignore[arg-type]
    assert last == (5, {"text": "last", "style": "w"})


def test_parquet_gives_nested_values_and_numbers_its_rows(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "hi"}], "n": n} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert list(read_rows(tmp_path / "rows.parquet")) == list(enumerate(rows, start=1))


@pytest.mark.parametrize(
    ("days", "kind"), [(2**30, pa.date32()), (2**61, pa.timestamp("us")), (2**61, pa.time64("us"))]
)
def test_a_parquet_row_with_a_date_that_is_none_is_refused_and_the_rest_is_read(
    tmp_path: Path, days: int, kind: pa.DataType
) -> None:
    integers = pa.int32() if pa.types.is_date32(kind) else pa.int64()
    odd = pa.array([0, days, 0], integers).view(kind)
    pq.write_table(pa.table({"text": ["a", "b", "c"], "at": odd}), tmp_path / "rows.parquet")
    first, (line, second), third = read_rows(tmp_path / "rows.parquet")
    found = refusal(second)  # type: ignore[arg-type]
    assert (line, found.line, found.field) == (2, 2, "at")
    assert "out of range" in found.reason
    assert [row["text"] for _, row in (first, third) if isinstance(row, dict)] == ["a", "c"]


@pytest.mark.parametrize("nested", [False, True])
def test_a_parquet_column_of_an_unknown_time_zone_is_an_error_that_names_it(
    tmp_path: Path, nested: bool
) -> None:
    kind = pa.timestamp("us", "Mars/Base")
    at = pa.array([[0]], pa.list_(kind)) if nested else pa.array([0], kind)
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["a"], "at": at}), path)
    with pytest.raises(DataError, match=r"column 'at' of .*rows\.parquet is in the time zone 'Mars/Base'"):
        read_rows(path)


@pytest.mark.parametrize("nested", [False, True])
def test_a_parquet_file_with_one_name_twice_is_an_error_that_names_it(tmp_path: Path, nested: bool) -> None:
    ones = [pa.array([1]), pa.array([1])]
    table = pa.table(ones, names=["a", "a"])
    if nested:
        table = pa.table({"b": pa.StructArray.from_arrays(ones, names=["a", "a"])})
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="give each a name of its own"):
        read_rows(tmp_path / "rows.parquet")


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("rows.jsonl", b"", "is empty"),
        ("rows.jsonl", b" \n\n", "is empty"),
        ("rows.jsonl", b"just some prose\nand more\n", "no JSON Lines"),
        ("rows.jsonl", b'{\n "text": "a"\n}\n', "no JSON Lines"),
        ("rows.jsonl", b"\x00\x01\x02\x03" * 20, "binary data"),
        ("rows.json", b'[{"text": "a"}]', "one JSON array"),
        ("rows.jsonl", b"\x1f\x8b\x08\x00rest", "gzip"),
        ("rows.csv", b"PK\x03\x04rest", "Excel"),
        ("rows.csv", "text\na\n".encode("utf-16"), "UTF-16"),
        ("rows.csv", b"text,text\na,b\n", "a name of its own"),
        ("rows.parquet", b"no parquet", "no readable Parquet"),
        ("rows.parquet", b"PAR1 cut short", "no readable Parquet"),
        ("rows.txt", b"prose\n", "not known here"),
        ("rows", b"\x7fELF\x00\x00", "binary data"),
    ],
)
def test_a_file_that_is_no_such_file_is_an_error_that_names_it(
    tmp_path: Path, name: str, content: bytes, found: str
) -> None:
    path = written(tmp_path, content, name)
    with pytest.raises(DataError, match=found) as caught:
        list(read_rows(path))
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_errors_that_say_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file at .*give a JSON Lines"):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"is a folder.*give a JSON Lines"):
        read_rows(tmp_path)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("~nosuch/x.jsonl", "~nosuch/x.jsonl begins with the home of a user who has none here; write"),
        ("x" * 300 + ".jsonl", "can't be read: File name too long; check the name"),
        ("a.b." + "c" * 300, "can't be read: File name too long; check the name"),
    ],
    ids=["home", "long", "long_table"],
)
def test_a_path_that_can_not_be_looked_up_is_an_error_that_says_what_to_do(path: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        open_source(cast(Any, None), path)


def test_a_file_in_a_folder_that_is_closed_to_us_is_an_error_that_says_what_to_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    path = written(tmp_path, '{"a": 1}\n')
    monkeypatch.setattr(Path, "stat", refused)  # root, who may run this, is refused nothing
    with pytest.raises(DataError, match="can't be read: Permission denied; check the name, and the perm"):
        FileSource(path)


def test_the_name_of_a_file_that_is_not_utf_8_can_be_stored(tmp_path: Path) -> None:
    path = written(tmp_path, '{"a": 1}\n', os.fsdecode(b"caf\xe9.jsonl"))
    assert FileSource(path).name == "caf\\udce9.jsonl"


def test_an_excerpt_is_one_printable_line_of_at_most_200_characters() -> None:
    shown = excerpt("é\n\x1b[31m\u202e\ud800\x00" + "x" * 500)
    assert shown.isprintable()
    assert shown.startswith("é\\n\\x1b[31m\\u202e\\ud800\\x00")
    assert len(shown) == 200


# Mapping


def test_seeds_get_their_defaults(tmp_path: Path) -> None:
    [row] = imported(tmp_path, [{"text": "a", "category": None}], licence="MIT")
    assert isinstance(row, dict)
    assert {
        name: row[name]
        for name in ("dataset", "text", "category", "style", "split", "kind", "answer", "licence")
    } == {
        "dataset": "d",
        "text": "a",
        "category": "uncategorised",
        "style": "unstyled",
        "split": "train",
        "kind": "forbidden",
        "answer": None,
        "licence": "MIT",
    }


def test_fields_name_the_source_column_and_values_stand_for_every_row(tmp_path: Path) -> None:
    [row] = imported(
        tmp_path, [{"prompt": "a", "split": "x"}], fields={"text": "prompt"}, values={"split": "dev"}
    )
    assert isinstance(row, dict)
    assert (row["text"], row["split"]) == ("a", "dev")


def test_where_takes_rows_by_value_whatever_its_type(tmp_path: Path) -> None:
    rows = [{"text": "a", "n": 1}, {"text": "b", "n": "1"}, {"text": "c", "n": 2}, {"text": "d"}]
    found = imported(tmp_path, rows, where={"n": [1]})
    assert [row["text"] for row in found if isinstance(row, dict)] == ["a", "b"]


def test_a_mapped_column_that_no_row_has_is_an_error_that_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no column 'promt' for text; the nearest is 'prompt'; its columns are id, prompt"
    ):
        imported(tmp_path, [{"id": 1, "prompt": "a"}], fields={"text": "promt"})


def test_a_needed_field_without_a_column_is_an_error_that_says_how_to_map_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'text'.*fields: \{text: COLUMN\}"):
        imported(tmp_path, [{"prompt": "a"}])


def test_a_where_column_that_no_row_has_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'splt' for where; the nearest is 'split'"):
        imported(tmp_path, [{"text": "a", "split": "train"}], where={"splt": ["train"]})


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"fields": {"txt": "text"}}, "no field 'txt'; the nearest is 'text'"),
        ({"values": {"split": "all"}}, "values: split = all is none of train, dev, test"),
        ({"fields": {"split": "s"}, "values": {"split": "dev"}}, "both under fields and under values"),
        ({"licence": "M\udce9"}, r"the licence 'M\\+udce9' must have visible characters only"),
        ({"licence": " "}, "the licence ' ' must have visible characters only"),
    ],
)
def test_a_mapping_that_can_not_be_is_an_error(settings: dict[str, Any], found: str) -> None:
    with pytest.raises(DataError, match=found):
        Plan(ImportConfig(path="x", kind="seeds", dataset="d", **settings))


# Values


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "is empty"),
        (" \n\t\u3000\u200b", "is empty"),
        ("x" * 20_001, r"has 20,001 characters, over the limit of 20,000"),
        ("a\x00b", "NUL character"),
        ("a\ud800b", "lone surrogate (U+D800)"),
        (17, "of type int, not text"),
        (["a"], "of type list, not text"),
        (None, "the row has no 'text'"),
    ],
    ids=["empty", "space", "long", "nul", "surrogate", "number", "list", "null"],
)
def test_a_text_that_can_not_be_kept_is_refused_with_line_field_reason_and_excerpt(
    tmp_path: Path, value: Any, reason: str
) -> None:
    good, bad = imported(tmp_path, [{"text": "fine"}, {"text": value}])
    found = refusal(bad)
    assert isinstance(good, dict)
    assert (found.line, found.field) == (2, "text")
    assert reason in found.reason
    assert found.excerpt is None or (found.excerpt.isprintable() and len(found.excerpt) <= 200)


@pytest.mark.parametrize(
    "text",
    [
        "x" * 20_000,
        "<|im_end|><s>[INST]",
        "<script>alert(1)</script>",
        "'; DROP TABLE runs; --",
        "名前\u202e",
        "\U0001f3ee",
    ],
)
def test_text_that_is_only_hostile_is_kept_as_it_is(tmp_path: Path, text: str) -> None:
    [row] = imported(tmp_path, [{"text": text}])
    assert isinstance(row, dict)
    assert row["text"] == text


def test_an_input_is_appended_to_its_instruction(tmp_path: Path) -> None:
    rows = [
        {"instruction": "sum", "input": "1 2", "answer": "3"},
        {"instruction": "sing", "input": "", "answer": "la"},
    ]
    found = imported(tmp_path, rows, "instructions")
    assert [row["instruction"] for row in found if isinstance(row, dict)] == ["sum\n\n1 2", "sing"]


def test_benign_look_alikes_need_an_answer(tmp_path: Path) -> None:
    good, bad = imported(tmp_path, [{"text": "a", "answer": "b"}, {"text": "c"}], "benign")
    assert isinstance(good, dict)
    assert (good["kind"], good["answer"]) == ("benign", "b")
    assert refusal(bad).field == "answer"


@pytest.mark.parametrize(
    ("label", "value"),
    [(1, 1.0), (0, 0.0), (True, 1.0), ("0", 0.0), ("true", 1.0), ("0.25", 0.25), (0.5, 0.5)],
)
def test_a_label_is_a_share_whether_it_comes_as_number_boolean_or_text(
    tmp_path: Path, label: Any, value: float
) -> None:
    [row] = imported(
        tmp_path, [{"prompt": "p", "response": "r", "label": label}], "labels", values={"aspect": "safety"}
    )
    assert isinstance(row, dict)
    assert (row["label"], row["rejected"], row["annotator"], row["split"]) == (
        value,
        None,
        "unknown",
        "train",
    )
    assert parse_messages(row["input"]) == [{"role": "user", "content": "p"}]


@pytest.mark.parametrize("label", ["yes", 1.5, -1, [1], "nan", 10**400])
def test_a_label_that_is_no_share_is_refused(tmp_path: Path, label: Any) -> None:
    [row] = imported(
        tmp_path, [{"prompt": "p", "response": "r", "label": label}], "labels", values={"aspect": "safety"}
    )
    assert refusal(row).field == "label"


def test_a_judged_answer_may_be_empty_but_not_missing(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": "", "label": 0}, {"prompt": "p", "label": 0}]
    kept, missing = imported(tmp_path, rows, "labels", values={"aspect": "helpfulness"})
    assert isinstance(kept, dict)
    assert kept["output"] == ""
    assert refusal(missing).field == "output"


def test_pairs_keep_the_dialogue_and_both_answers(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    rows = [{"messages": messages, "chosen": "x", "rejected": "y"}]
    [row] = imported(tmp_path, rows, "pairs", values={"aspect": "safety"})
    assert isinstance(row, dict)
    assert parse_messages(row["input"]) == messages
    assert (row["output"], row["rejected"], row["label"]) == ("x", "y", None)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "neither a prompt nor a list of messages"),
        ([{"role": "user"}], "exactly the keys role and content"),
        ([{"role": "tool", "content": "a"}], "unknown role"),
        ([{"role": ["user"], "content": "a"}], "unknown role"),
        ([{"role": "assistant", "content": "a"}], "not the user's"),
        ([{"role": "user", "content": "a\x00"}], "message 1 whose content holds a NUL"),
        ([{"role": "user", "content": "x" * 15_000}] * 2, "over the limit of 20,000"),
    ],
)
def test_a_dialogue_that_can_not_be_asked_is_refused(tmp_path: Path, messages: Any, reason: str) -> None:
    rows = [{"messages": messages, "chosen": "x", "rejected": "y"}]
    [row] = imported(tmp_path, rows, "pairs", values={"aspect": "safety"})
    assert refusal(row).field == "input"
    assert reason in refusal(row).reason


def test_a_pair_of_the_same_answer_is_refused(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "chosen": "x", "rejected": "x"}]
    [row] = imported(tmp_path, rows, "pairs", values={"aspect": "safety"})
    assert "are the same" in refusal(row).reason


def test_csv_cells_without_text_are_absent_and_booleans_are_words(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "text,suite,split,expected,style,seen_style\na,s,dev,refuse,,true\nb,s,dev,refuse,x,\n",
        "rows.csv",
    )
    plan = Plan(ImportConfig(path=str(path), kind="suite", dataset="d"))
    first, second = plan.read(FileSource(path))
    assert isinstance(first, dict) and isinstance(second, dict)
    assert (first["style"], first["seen_style"]) == (None, True)
    assert (second["style"], second["seen_style"]) == ("x", None)


def test_a_field_may_lie_below_a_column(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "first"}, {"role": "user", "content": "last"}]},
        {"messages": []},
        {"messages": [{"role": "user", "content": 7}]},
    ]
    found = imported(tmp_path, rows, fields={"text": "messages.0.content"})
    assert isinstance(found[0], dict) and found[0]["text"] == "first"
    assert "has no 'messages.0.content'" in refusal(found[1]).reason
    assert refusal(found[2]).excerpt == "7"


def test_a_column_that_is_named_like_a_path_is_that_column(tmp_path: Path) -> None:
    (row,) = imported(tmp_path, [{"a.b": "plain", "a": {"b": "deep"}}], fields={"text": "a.b"})
    assert isinstance(row, dict) and row["text"] == "plain"
