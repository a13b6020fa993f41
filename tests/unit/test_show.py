"""Rows for people and programs, as `mart sql` prints them, without Spark."""

import csv
import io
import json
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from pyspark.sql import Row
from pyspark.sql import types as T

from jobs.show import show_frame
from pipelines.errors import DataError


class Frame:
    """Rows with the schema that a query gave them."""

    def __init__(self, columns: Mapping[str, T.DataType] | T.StructType, *rows: tuple[Any, ...]) -> None:
        fields = columns if isinstance(columns, T.StructType) else T.StructType()
        if not isinstance(columns, T.StructType):
            for name, kind in columns.items():
                fields.add(name, kind)
        self.schema, self.columns = fields, fields.names
        self._rows = [Row(*fields.names)(*values) for values in rows]

    def toLocalIterator(self) -> Any:
        return iter(self._rows)

    def limit(self, most: int) -> "Frame":
        return self

    def collect(self) -> list[Row]:
        return self._rows


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(frame: Frame, format: str, out: io.StringIO | None = None) -> str:
    out = out or io.StringIO(newline="")
    show_frame(frame, format, out)  # type: ignore[arg-type]
    return out.getvalue()


def as_json(kind: T.DataType, value: Any) -> Any:
    return json.loads(shown(Frame({"a": kind}, (value,)), "json"))["a"]


TWICE = T.StructType([T.StructField("a", T.LongType()), T.StructField("a", T.LongType())])


def test_json_of_two_columns_of_one_name_is_refused() -> None:
    with pytest.raises(DataError, match="2 columns are named 'a'.* different names with AS"):
        shown(Frame(TWICE, (1, 2)), "json")


def test_json_of_two_fields_of_one_name_is_refused() -> None:
    with pytest.raises(DataError, match="2 fields of s are named 'a'"):
        shown(Frame({"s": T.ArrayType(TWICE)}), "json")


def test_numbers_that_are_not_finite_are_null_in_json() -> None:
    assert as_json(T.ArrayType(T.DoubleType()), [float("nan"), float("inf"), 0.5]) == [None, None, 0.5]


@pytest.mark.parametrize(
    ("key", "written"),
    [(date(2026, 11, 1), "2026-11-01"), (Row(x=1), '{"x": 1}'), (True, "true"), (7, "7"), ("7", "7")],
)
def test_keys_that_json_has_no_form_for_are_written_as_text(key: Any, written: str) -> None:
    assert as_json(T.MapType(T.StringType(), T.LongType()), {key: 1}) == {written: 1}


def test_a_row_within_a_row_is_an_object_in_json() -> None:
    assert as_json(T.StructType(), Row(x=Row(y=[1]))) == {"x": {"y": [1]}}


def test_texts_that_look_like_numbers_stay_as_they_are_in_a_table() -> None:
    texts = ["007", "1e5", "1_000", "1.50"]
    lines = shown(Frame({"a": T.StringType()}, *((text,) for text in texts)), "table").split("\n")
    assert [line.rstrip() for line in lines[2:6]] == texts


def test_numbers_are_to_the_right_in_a_table() -> None:
    columns = {"n": T.LongType(), "d": T.DecimalType(20, 3)}
    lines = shown(Frame(columns, (1, Decimal("5.000")), (100, Decimal("123456789.125"))), "table").split("\n")
    assert lines[2:4] == ["  1          5.000", "100  123456789.125"]


def test_a_table_without_rows_has_its_heads() -> None:
    assert shown(Frame({"a": T.StringType(), "b": T.LongType()}), "table").split()[:2] == ["a", "b"]


@pytest.mark.parametrize("format", ["table", "csv", "json"])
def test_heads_of_columns_can_not_drive_a_terminal(format: str) -> None:
    frame = Frame({"\x1b[31m\x7f": T.StringType()}, ("\x1b[32m\x7f",))
    out = shown(frame, format, Terminal())
    assert "\x1b" not in out and "\x7f" not in out


TEXTS = ["a\nb", "a\\nb", "a\u00a0b", "a\u200db", '"', "\x1b[31m", ""]


def test_csv_for_a_program_has_the_texts_as_they_are() -> None:
    frame = Frame({"a": T.StringType(), "b": T.LongType()}, *((text, 1) for text in TEXTS))
    read = list(csv.reader(io.StringIO(shown(frame, "csv"), newline="")))
    assert read == [["a", "b"], *([text, "1"] for text in TEXTS)]


def test_csv_on_a_terminal_is_escaped_so_that_the_texts_can_be_had_back() -> None:
    frame = Frame({"a": T.StringType(), "b": T.LongType()}, *((text, 1) for text in TEXTS))
    out = shown(frame, "csv", Terminal(newline=""))
    assert "\x1b" not in out
    read = [row[0] for row in csv.reader(io.StringIO(out, newline=""))][1:]
    assert [cell.encode("latin-1", "backslashreplace").decode("unicode_escape") for cell in read] == TEXTS
