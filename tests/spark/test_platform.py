"""What a platform's catalog asks for: one that remembers, has grants, and takes names that must be quoted."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from pyspark.sql import SparkSession

from jobs import place
from pipelines.effect import effect
from pipelines.lakehouse import Lakehouse, partition_columns
from pipelines.views import create_views
from schemas.tables import GATE_OVERRIDES


@pytest.fixture
def platform(spark: SparkSession, lakehouse: Lakehouse) -> Iterator[Lakehouse]:
    """A lakehouse in a schema of the catalog's, which says where tables lie."""
    yield Lakehouse(spark, lakehouse.schema)
    spark.sql(f"DROP SCHEMA IF EXISTS {lakehouse.namespace} CASCADE")


@pytest.fixture
def statements(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that the session is given from here on."""
    given: list[str] = []
    sql = type(spark).sql

    def recorded(self: SparkSession, statement: str, *more: Any, **named: Any) -> Any:
        given.append(statement)
        return sql(self, statement, *more, **named)

    monkeypatch.setattr(type(spark), "sql", recorded)
    return given


def test_a_view_that_says_the_same_is_left_alone_with_all_that_was_granted_on_it(
    platform: Lakehouse, statements: list[str]
) -> None:
    create_views(platform, ["published_steps"])
    statements.clear()
    create_views(platform, ["published_steps"])
    assert [words for words in statements if words.startswith("CREATE")] == []


def test_a_view_that_says_something_else_is_replaced(platform: Lakehouse) -> None:
    create_views(platform, ["published_steps"])
    name = platform.name("published_steps")
    platform.spark.sql(f"CREATE OR REPLACE VIEW {name} AS SELECT 1 AS old")
    create_views(platform, ["published_steps"])
    assert "attempt" in platform.spark.table(name).columns


def test_views_that_are_there_are_listed_once(platform: Lakehouse, statements: list[str]) -> None:
    create_views(platform, ["violation_rates"])
    assert len([words for words in statements if words.startswith("SHOW VIEWS")]) == 1


def test_a_schema_that_is_there_needs_no_privilege_to_make_schemas(
    platform: Lakehouse, statements: list[str]
) -> None:
    platform.spark.sql(f"CREATE SCHEMA {platform.namespace}")
    statements.clear()
    platform.ensure([GATE_OVERRIDES])
    assert [words for words in statements if words.startswith("CREATE SCHEMA")] == []


def test_a_schema_that_is_missing_is_made(platform: Lakehouse) -> None:
    platform.ensure([GATE_OVERRIDES])
    assert platform.version("gate_overrides") == 0


@pytest.mark.parametrize(
    ("lines", "columns"),
    [
        (["a", "b"], ()),
        (["a", "# Clustering Information", "# col_name", "a"], ()),
        (["a", "b", "# Partition Information", "# col_name", "a", "b"], ("a", "b")),
        (["a", "# Partition Information", "# col_name", "a", "", "# Delta Statistics Columns", "Column Names"], ("a",)),
        (["a", "# Partition Information", "# col_name", "a", "# Clustering Information", "# col_name", "b"], ("a",)),
    ],
)  # fmt: skip
def test_partition_columns_are_those_of_their_own_section(lines: list[str], columns: tuple[str, ...]) -> None:
    assert partition_columns(lines) == columns


class Parsing:
    """A session that parses what it is given, as Spark does, and has nothing: the local catalog refuses a `-` in names."""

    def __init__(self, spark: SparkSession) -> None:
        self._parser = spark._jsparkSession.sessionState().sqlParser()
        self.statements: list[str] = []
        self.catalog = SimpleNamespace(tableExists=self._lacks, databaseExists=self._lacks)

    def _lacks(self, name: str) -> bool:
        assert self._parser.parseMultipartIdentifier(name).mkString("/").startswith("my-catalog/a-b")
        return False

    def sql(self, statement: str) -> MagicMock:
        self._parser.parsePlan(statement)
        self.statements.append(statement)
        return MagicMock()

    def table(self, name: str) -> MagicMock:
        self._lacks(name)
        raise LookupError(name)


def test_a_schema_may_have_a_hyphen_in_its_name(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session = Parsing(spark)

    @contextmanager
    def opened(scratch: Path, **_: bool) -> Iterator[Parsing]:
        yield session

    monkeypatch.setattr(place, "open_session", opened)
    options = argparse.Namespace(schema="my-catalog.a-b", lakehouse=None, artifacts=tmp_path)
    with place.open_place(options, create=True) as made:
        assert session.statements[-1] == "USE `my-catalog`.`a-b`"
        with pytest.raises(LookupError, match="evaluations"):
            effect(made.lakehouse, ["r"], "truth")
