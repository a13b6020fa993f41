"""Readers of what users bring: JSON Lines, CSV and Parquet files and tables, one row at a time.

A row that can't be read is a `Refusal` with its line, and reading goes on; a file that is no such file at all is a
`DataError`. Columns are not interpreted here; `pipelines.imports` does that.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.errors import AnalysisException, ParseException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.errors import DataError
from pipelines.shown import escaped
from schemas.digests import file_sha256, root_digest

Row = dict[str, Any]

EXCERPT_CHARACTERS = 200
LONGEST_LINE = 16 << 20  # bytes of one line or cell: what is longer is no row but a file without line ends
_SNIFFED_LINES = 100
_BOM = b"\xef\xbb\xbf"
_SUFFIXES = {
    ".jsonl": "JSON Lines",
    ".ndjson": "JSON Lines",
    ".json": "JSON Lines",
    ".csv": "CSV",
    ".tsv": "CSV",
    ".parquet": "Parquet",
}
_FOREIGN = {
    b"\x1f\x8b": "gzip data; unpack it first",
    b"PK\x03\x04": "a zip archive or an Excel workbook; export it as CSV",
    b"\xff\xfe": "UTF-16 text; convert it to UTF-8",
    b"\xfe\xff": "UTF-16 text; convert it to UTF-8",
    b"(\xb5/\xfd": "zstd data; unpack it first",
}
_TABLE = re.compile(r"(?P<name>[\w-]+\.[\w-]+\.[\w-]+)(?:@(?P<version>\d+))?")
_EXPECTED = "give a JSON Lines (.jsonl), CSV (.csv) or Parquet (.parquet) file, or catalog.schema.table"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An input row that was refused.

    Attributes:
        line: line of the file or row of the table, from 1.
        field: the field at fault, where there is one.
        reason: why, and the remedy.
        excerpt: the value, escaped, at most 200 characters.
    """

    line: int
    field: str | None
    reason: str
    excerpt: str | None = None


def excerpt(value: Any) -> str:
    """A value as one short line: what does not print is escaped, at most 200 characters."""
    shown = (
        value[: EXCERPT_CHARACTERS + 1] if isinstance(value, str) else repr(value)[: EXCERPT_CHARACTERS + 1]
    )
    line = escaped(shown)
    return line if len(line) <= EXCERPT_CHARACTERS else line[: EXCERPT_CHARACTERS - 1] + "…"


class FileSource:
    """A JSON Lines, CSV or Parquet file; gzip and other packings are for the user to unpack.

    Raises:
        DataError: nothing is there, it can't be read, it is a folder, it is empty, or it is none of the formats.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.format = _format(path)
        self.name = escaped(path.name)  # whose bytes may be no UTF-8, and so no value of a table

    def sha256(self) -> str:
        """SHA-256 of the file's bytes."""
        return file_sha256(self.path)

    def rows(self) -> Iterator[tuple[int, Row | Refusal]]:
        """Each row with its line (of a Parquet file, its number), from 1; blank lines are no rows.

        Raises:
            DataError: a Parquet file is damaged further down, or a CSV file ends within quotes.
        """
        if self.format == "Parquet":
            yield from _parquet(self.path)
            return
        with self.path.open("rb") as stream:
            stream.seek(len(_BOM) if stream.read(len(_BOM)) == _BOM else 0)
            yield from _csv(self.path, stream) if self.format == "CSV" else _json_lines(stream)


class TableSource:
    """A table `catalog.schema.table`, or `catalog.schema.table@version`, read through Spark.

    Rows come in the order of their digests, so that one content always has the same line numbers.

    Raises:
        DataError: there is no such table or version.
    """

    def __init__(self, spark: SparkSession, name: str, version: int | None) -> None:
        quoted = ".".join(f"`{part}`" for part in name.split("."))
        if version is None:
            version = _newest(spark, quoted)
        suffix = "" if version is None else f" VERSION AS OF {version}"
        try:
            frame = spark.sql(f"SELECT * FROM {quoted}{suffix}")
            content = F.sha2(F.to_json(F.struct(*(F.col(f"`{column}`") for column in frame.columns))), 256)
            self._ordered: DataFrame = frame.select("*", content.alias("_content")).orderBy("_content")
        except (AnalysisException, ParseException) as error:
            raise DataError(
                f"no table {name}{suffix.lower()} to import: {error.getCondition()}; {_EXPECTED}"
            ) from None
        self.name = name if version is None else f"{name}@{version}"

    def sha256(self) -> str:
        """Digest over the rows' digests in their order: the same content gives the same one in any file layout."""
        return root_digest(row[0] for row in self._ordered.select("_content").toLocalIterator())

    def rows(self) -> Iterator[tuple[int, Row | Refusal]]:
        """Each row with its number, from 1."""
        for number, row in enumerate(self._ordered.drop("_content").toLocalIterator(), start=1):
            yield number, row.asDict(recursive=True)


Source = FileSource | TableSource


def open_source(spark: SparkSession, path: str) -> Source:
    """The file or table that a path names; what exists as a file or ends like one is a file.

    Raises:
        DataError: as `FileSource` and `TableSource`, or nobody has the home that the path begins with.
    """
    table = _TABLE.fullmatch(path)
    try:
        file = Path(path).expanduser()
        is_file = table is None or file.suffix.lower() in _SUFFIXES or file.exists()
    except RuntimeError:
        raise DataError(
            f"{path} begins with the home of a user who has none here; write the path from / on"
        ) from None
    except OSError as error:
        raise _unreadable_path(path, error) from None
    if table is None or is_file:
        return FileSource(file)
    return TableSource(spark, table["name"], None if table["version"] is None else int(table["version"]))


def read_rows(path: Path) -> Iterator[tuple[int, Row | Refusal]]:
    """Each row of a file with its line, from 1, or the refusal of that line.

    Raises:
        DataError: as `FileSource`.
    """
    return FileSource(path).rows()


def _newest(spark: SparkSession, quoted: str) -> int | None:
    """The newest version of a Delta table; None where the table keeps no versions."""
    try:
        row = spark.sql(f"DESCRIBE HISTORY {quoted} LIMIT 1").select("version").head()
    except AnalysisException:
        return None
    return None if row is None else int(row["version"])


def _unreadable_path(path: Path | str, error: OSError) -> DataError:
    return DataError(
        f"{path} can't be read: {error.strerror}; check the name, and the permissions of file and folders"
    )


def _format(path: Path) -> str:
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder, not a file: {_EXPECTED}")
        if not path.is_file():
            raise DataError(f"there is no file at {path}: {_EXPECTED}")
        with path.open("rb") as stream:
            head = stream.read(4096).removeprefix(_BOM)
            while not head.strip() and (more := stream.read(4096)):  # blank lines are no rows
                head = more
    except OSError as error:
        raise _unreadable_path(path, error) from None
    if not head.strip():
        raise DataError(f"{path} is empty, it has no rows: {_EXPECTED}")
    suffix = path.suffix.lower()
    if head.startswith(b"PAR1") or suffix == ".parquet":
        _open_parquet(path)
        return "Parquet"
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise DataError(f"{path} holds {what}")
    if suffix in (".csv", ".tsv"):
        _header(path)
        return "CSV"
    if suffix in _SUFFIXES or head.lstrip().startswith((b"{", b"[")):
        _require_json_lines(path, head)
        return "JSON Lines"
    what = "binary data" if b"\x00" in head else f"a {suffix or 'nameless'} format that is not known here"
    raise DataError(f"{path} holds {what}: {_EXPECTED}")


def _require_json_lines(path: Path, head: bytes) -> None:
    if head.lstrip().startswith(b"["):
        raise DataError(
            f"{path} holds one JSON array, not JSON Lines: write one object a line (jq -c '.[]' does)"
        )
    with path.open("rb") as stream:
        stream.seek(len(_BOM) if stream.read(len(_BOM)) == _BOM else 0)
        first = list(islice(_json_lines(stream), _SNIFFED_LINES))
    if all(isinstance(row, Refusal) for _, row in first):
        binary = "binary data" if b"\x00" in head else "no JSON Lines"
        raise DataError(
            f"{path} holds {binary}: none of its first {len(first)} lines is a JSON object; write one object a line"
        )


def _not_json(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON value")


def _json_lines(stream: BinaryIO) -> Iterator[tuple[int, Row | Refusal]]:
    line = 0
    while raw := stream.readline(LONGEST_LINE + 1):
        line += 1
        if len(raw) > LONGEST_LINE:
            while raw and not raw.endswith(b"\n"):
                raw = stream.readline(LONGEST_LINE)
            yield (
                line,
                Refusal(line, None, f"the line is longer than {LONGEST_LINE} bytes; split or shorten it"),
            )
        elif raw.strip():
            yield line, _json_row(line, raw)


def _json_row(line: int, raw: bytes) -> Row | Refusal:
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_not_json)
    except UnicodeDecodeError as error:
        shown = excerpt(raw[:EXCERPT_CHARACTERS].decode("utf-8", "backslashreplace"))
        return Refusal(
            line, None, f"not UTF-8 at byte {error.start + 1} of the line; save the file as UTF-8", shown
        )
    except RecursionError:
        return Refusal(line, None, "JSON nested too deeply to be read; flatten it", _shown(raw))
    except ValueError as error:
        return Refusal(line, None, f"broken JSON ({error}); write one JSON object a line", _shown(raw))
    if not isinstance(value, dict):
        return Refusal(
            line, None, f"JSON of type {type(value).__name__}, not an object; write {{...}}", excerpt(value)
        )
    return value


def _shown(raw: bytes) -> str:
    return excerpt(raw[: 4 * EXCERPT_CHARACTERS].decode("utf-8", "replace").rstrip())


def _header(path: Path) -> tuple[list[str], str]:
    """The column names of a CSV file and its delimiter, the commonest of comma, semicolon and tab in the header."""
    with path.open("rb") as stream:
        first = stream.readline(LONGEST_LINE).removeprefix(_BOM)
    try:
        text = first.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path} is no UTF-8 text in its first line; save it as CSV in UTF-8") from None
    if "\x00" in text:
        raise DataError(f"{path} holds binary data, not CSV: {_EXPECTED}")
    delimiter = max(",;\t", key=text.count)
    try:
        names = [name.strip() for name in next(csv.reader([text], delimiter=delimiter, strict=True), [])]
    except csv.Error as error:
        raise DataError(
            f"{path} begins with no CSV header ({error}); the first line must name the columns"
        ) from None
    if not names or not all(names) or len(set(names)) != len(names):
        raise DataError(f"{path} begins with the header {names}; give each column a name of its own")
    return names, delimiter


class _RowLines:
    """The lines of a text, which keeps those that its reader has taken since `row` was last emptied."""

    def __init__(self, text: Iterable[str]) -> None:
        self._text = iter(text)
        self.row: list[str] = []
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._text, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.row.append(line)
        return line


def _csv(path: Path, stream: BinaryIO) -> Iterator[tuple[int, Row | Refusal]]:
    names, delimiter = _header(path)
    csv.field_size_limit(LONGEST_LINE)
    lines = _RowLines(io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline=""))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    next(reader)
    while True:
        line = reader.line_num + 1
        lines.row.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            last = reader.line_num
            if lines.ended:  # within quotes: all rows from there on would be lost as one
                opened = last + 1 - _lines_of_last_cell(lines.row, delimiter)
                raise DataError(
                    f"{path} ends within quotes: the quote opened in line {opened} is never closed; close it or double it"
                ) from None
            where = "" if last == line else f" in lines {line} to {last}, none of which was read"
            reason = f"broken CSV ({error}){where}; double the quotes inside quotes and close each one"
            yield line, Refusal(line, None, reason)
            continue
        if cells:
            yield line, _csv_row(line, names, cells)


def _lines_of_last_cell(row: Iterable[str], delimiter: str) -> int:
    """How many lines the last cell of a row reaches over, whose quote may be open."""
    *_, cell = next(csv.reader(row, delimiter=delimiter))
    return max(1, len(io.StringIO(cell, newline="").readlines()))


def _csv_row(line: int, names: list[str], cells: list[str]) -> Row | Refusal:
    if len(cells) != len(names):
        reason = f"{len(cells)} cells where the header has {len(names)}; quote cells that hold the delimiter"
        return Refusal(line, None, reason, excerpt(",".join(cells)))
    for name, cell in zip(names, cells, strict=True):
        if not cell.isascii() and any("\udc80" <= c <= "\udcff" for c in cell):
            return Refusal(line, name, "not UTF-8; save the file as UTF-8", excerpt(cell))
    return dict(zip(names, cells, strict=True))


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is no readable Parquet file ({' '.join(str(error).split())[:200]})"
        ) from None
    if not file.metadata.num_rows:
        raise DataError(f"{path} is empty: a Parquet file without rows")
    _require_readable(path, list(file.schema_arrow))
    return file


def _parquet(path: Path) -> Iterator[tuple[int, Row | Refusal]]:
    line = 0
    with _open_parquet(path) as file:
        batches = file.iter_batches(batch_size=1000)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (pa.ArrowException, OSError) as error:
                raise DataError(
                    f"{path} is damaged after row {line}: {' '.join(str(error).split())[:200]}"
                ) from None
            for at in range(batch.num_rows):
                line += 1
                try:
                    row = batch.slice(at, 1).to_pylist()[0]
                except (ValueError, OverflowError):
                    yield line, _unreadable(line, batch.slice(at, 1))
                else:
                    yield line, row


def _unreadable(line: int, row: pa.RecordBatch) -> Refusal:
    """The refusal of a row with a value that Python has no form for."""
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            column.to_pylist()
        except UnicodeDecodeError:
            return Refusal(line, name, "a text that is not UTF-8; write the column as UTF-8")
        except OverflowError:
            return Refusal(
                line,
                name,
                "a date or time out of range (years 1 to 9999); correct it or leave the column out",
            )
        except ValueError as error:
            return Refusal(line, name, f"a value that can't be read ({error}); correct it")
    raise AssertionError("a row that can't be read has a column that can't")


def _require_readable(path: Path, fields: Sequence[pa.Field], column: str | None = None) -> None:
    names = [field.name for field in fields]
    for field in fields:
        where = f"column {excerpt(column or field.name)!r} of {path}"
        if names.count(field.name) > 1:
            twice = "is there twice" if column is None else f"has two fields {excerpt(field.name)!r}"
            raise DataError(f"{where} {twice}; give each a name of its own")
        kind = field.type
        if pa.types.is_timestamp(kind):
            try:
                pa.scalar(0, kind).as_py()
            except (KeyError, ValueError) as error:
                raise DataError(
                    f"{where} is in the time zone {excerpt(kind.tz)!r}, which is not known here ({type(error).__name__}); "
                    "write it in UTC, or leave it out"
                ) from None
        inner = [kind.field(at) for at in range(kind.num_fields)] if pa.types.is_nested(kind) else []
        _require_readable(path, inner, column or field.name)
