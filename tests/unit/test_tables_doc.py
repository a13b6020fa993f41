"""docs/tables.md is what schemas/tables.py says, and the files of sql/ say what views.py needs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.errors import ConfigError
from pipelines.views import ViewFile, create_views, view_files
from schemas.document import PATH, document
from schemas.model import Column, Table
from schemas.tables import BY_NAME


def test_tables_doc_is_up_to_date() -> None:
    assert PATH.read_text(encoding="utf-8") == document(), "run: python -m schemas.document > docs/tables.md"


def test_document_escapes_cells_and_lists_added_columns() -> None:
    columns = (Column("a", "INT", "x | y < z"), Column("b", "INT", "later", nullable=True, volatile=True))
    page = document(
        [Table("t", grain="a", owner="o", key=("a",), columns=columns, version=2, added={2: ("b",)})]
    )
    assert "| `a` | INT |  |  | x \\| y &lt; z |" in page
    assert "| `b` | INT | yes | yes | later |" in page
    assert "- added in version 2: `b`" in page


def test_every_view_reads_what_exists_and_comes_after_what_it_reads() -> None:
    seen = set(BY_NAME)
    for file in view_files():
        assert file.reads <= seen, f"{file.name} reads {file.reads - seen}"
        assert file.question and file.columns
        seen.add(file.name)


def test_only_views_that_say_so_read_unpublished_rows() -> None:
    published = {"published_steps", "published_checkpoints"}
    files = {file.name: file for file in view_files()}
    for file in files.values():
        through = file.reads & files.keys()
        assert file.name == "published_steps" or through, f"{file.name} reads nothing that is published"
    assert published <= files.keys()


@pytest.mark.parametrize("line", ["-- Not a column", "-- a: again"])
def test_a_header_that_describes_no_column_is_refused(line: str) -> None:
    text = f"-- A question?\n--\n-- a: one\n{line}\nSELECT 1"
    with pytest.raises(ValueError, match="describes no further column"):
        _ = ViewFile("v", text).columns


def test_a_header_is_read_apart_from_the_query() -> None:
    file = ViewFile(
        "v", "-- A question?\n-- More.\n--\n-- a: one\n--   and more\n-- b: two\nSELECT 1 -- {schema}.t\n"
    )
    assert file.question == "A question? More."
    assert file.columns == {"a": "one and more", "b": "two"}
    assert file.reads == {"t"}


def test_wanted_views_bring_what_they_read_in_order() -> None:
    made: list[str] = []
    ready: set[str] = set()
    spark = SimpleNamespace(sql=lambda statement: made.append(statement.split("`")[1]))
    lakehouse: Any = SimpleNamespace(
        spark=spark,
        folder=Path("tables"),
        namespace="`mart`",
        name=lambda name: f"`{name}`",
        ready=lambda *names: ready.update(names),
    )
    create_views(lakehouse, ["violation_rates"])
    assert made == ["published_steps", "evaluations", "violation_rates"]
    assert "scores" in ready and "seed_prompts" not in ready
    with pytest.raises(ConfigError, match="there is no view 'rates'; there are published_steps"):
        create_views(lakehouse, ["rates"])
