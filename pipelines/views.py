"""The views of `sql/`: one file each, created in the order in which they read each other."""

import logging
import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path

from pipelines.bundled import bundled
from pipelines.errors import ConfigError
from pipelines.lakehouse import Lakehouse, quote
from schemas.digests import digest
from schemas.tables import BY_NAME

log = logging.getLogger(__name__)

_DEFINITION = "mart.definition"
_COLUMN = re.compile(r"([a-z][a-z0-9_]*): (.+)")
_READS = re.compile(r"\{schema\}\.([a-z_]+)")


@dataclass(frozen=True)
class ViewFile:
    """A file of `sql/`: a comment with the view's question and its columns, then a query.

    In the comment, the question comes first; after an empty line, `name: what it holds` for each column in
    order, going on in lines that are indented further. `{schema}` in the query stands for the schema.
    """

    name: str
    text: str

    @cached_property
    def _header(self) -> list[str]:
        lines = self.text.splitlines()
        length = next((place for place, line in enumerate(lines) if not line.startswith("--")), len(lines))
        return [line.removeprefix("--").removeprefix(" ") for line in lines[:length]]

    @property
    def question(self) -> str:
        """What the view answers."""
        gap = self._header.index("") if "" in self._header else len(self._header)
        return " ".join(self._header[:gap])

    @cached_property
    def columns(self) -> dict[str, str]:
        """Column names and comments, in order.

        Raises:
            ValueError: the comment holds something else, or a column twice.
        """
        found: dict[str, str] = {}
        gap = self._header.index("") if "" in self._header else len(self._header)
        for line in self._header[gap + 1 :]:
            match = _COLUMN.fullmatch(line)
            if match and match[1] not in found:
                found[match[1]] = match[2]
            elif line.startswith("  ") and found:
                found[list(found)[-1]] += " " + line.strip()
            else:
                raise ValueError(
                    f"sql/{self.name}.sql: {line!r} describes no further column; write `-- name: meaning`"
                )
        return found

    @property
    def body(self) -> str:
        """The query."""
        return "\n".join(self.text.splitlines()[len(self._header) :])

    @property
    def reads(self) -> frozenset[str]:
        """Tables and views that the query names."""
        return frozenset(_READS.findall(self.body))

    def query(self, lakehouse: Lakehouse) -> str:
        """The query over a lakehouse."""
        return self.body.replace("{schema}", lakehouse.namespace)

    def definition(self, lakehouse: Lakehouse) -> str:
        """The digest of all that the view says, which it keeps as its property `mart.definition`."""
        return digest([self.question, list(self.columns.items()), self.query(lakehouse)])

    def statement(self, lakehouse: Lakehouse, *, replace: bool = True) -> str:
        """The statement that creates the view, and otherwise replaces it or leaves it as it is."""
        columns = ", ".join(f"`{name}` COMMENT {quote(comment)}" for name, comment in self.columns.items())
        create = "CREATE OR REPLACE VIEW" if replace else "CREATE VIEW IF NOT EXISTS"
        return (
            f"{create} {lakehouse.name(self.name)} ({columns}) COMMENT {quote(self.question)} "
            f"TBLPROPERTIES ({quote(_DEFINITION)} = {quote(self.definition(lakehouse))}) AS\n{self.query(lakehouse)}"
        )


def view_files(folder: Path | None = None) -> tuple[ViewFile, ...]:
    """The views of a folder, by default the package's, each after those it reads."""
    files = {
        path.stem: ViewFile(path.stem, path.read_text(encoding="utf-8"))
        for path in sorted((folder or bundled("sql")).glob("*.sql"))
    }
    order = TopologicalSorter({name: sorted(file.reads & files.keys()) for name, file in files.items()})
    return tuple(files[name] for name in order.static_order())


def create_views(lakehouse: Lakehouse, only: Collection[str] = ()) -> None:
    """Create the views in the lakehouse's schema that are missing, and replace those that say something else.

    One that says the same is left alone: replacing takes its owner, and Unity Catalog drops the grants on it. Only
    definitions are written, so it may be done at every start; locally it has to be: the catalog forgets. The tables
    they read are made ready.

    Args:
        lakehouse: the tables.
        only: names of the views that are wanted, which brings what they read; all of them when empty. Each takes
            some 0.6 s of a core, as Spark analyses it down to the tables.

    Raises:
        ConfigError: there is no view of that name.
    """
    started = time.monotonic()
    files = view_files()
    if unknown := sorted(set(only) - {file.name for file in files}):
        raise ConfigError(
            f"there is no view {unknown[0]!r}; there are {', '.join(file.name for file in files)}"
        )
    wanted = set(only) or {file.name for file in files}
    for file in reversed(files):
        if file.name in wanted:
            wanted |= file.reads
    made = [file for file in files if file.name in wanted]
    lakehouse.ready(*sorted({table for file in made for table in file.reads & BY_NAME.keys()}))
    there = _views_there(lakehouse)
    left = 0
    for file in made:
        known = file.name in there
        if known and lakehouse.properties(file.name).get(_DEFINITION) == file.definition(lakehouse):
            left += 1
        else:
            replace = known or lakehouse.folder is not None
            lakehouse.spark.sql(file.statement(lakehouse, replace=replace))
    log.info("%d views created in %.1f s, %d left", len(made) - left, time.monotonic() - started, left)


def _views_there(lakehouse: Lakehouse) -> frozenset[str]:
    """Names of the views that a platform's catalog has. The local one has none when a command starts, and is not asked."""
    if lakehouse.folder is not None:
        return frozenset()
    rows = lakehouse.spark.sql(f"SHOW VIEWS IN {lakehouse.namespace}").collect()
    return frozenset(row["viewName"] for row in rows)
