"""Fixtures of the tests that need Spark: one session for all of them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipelines.imports import import_all
from pipelines.lakehouse import Lakehouse
from pipelines.runner import Runner
from pipelines.session import open_session
from tests.e2e.small import SMALL, Mart
from tests.spark.runs import runners


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """A local session with Delta."""
    with open_session(tmp_path_factory.mktemp("spark"), master="local[2,4]") as session:
        yield session


@pytest.fixture
def lakehouse(spark: SparkSession, tmp_path: Path) -> Lakehouse:
    """A lakehouse of the test's own, without tables."""
    return Lakehouse(spark, f"t_{tmp_path.name}".replace("-", "_"), tmp_path / "lakehouse")


@pytest.fixture(scope="session")
def imported(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a lakehouse that has all tables, and the small world's data in them: what a test copies, it need not make."""
    folder = tmp_path_factory.mktemp("imported")
    tables = folder / "lakehouse"
    made = Lakehouse(spark, "imported", tables)
    made.ensure()
    import_all(made, Mart(tables, SMALL).config().data, folder / "prepared")
    return tables


@pytest.fixture
def runner_of(
    lakehouse: Lakehouse, imported: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Runner]]:
    """See `runners`."""
    with runners(lakehouse, imported, tmp_path, tmp_path_factory.mktemp("cache")) as make:
        yield make
