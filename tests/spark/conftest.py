"""Fixtures of the tests that need Spark: one session for all of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipelines.lakehouse import Lakehouse
from pipelines.session import open_session


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """A local session with Delta."""
    with open_session(tmp_path_factory.mktemp("spark"), master="local[2,4]") as session:
        yield session


@pytest.fixture
def lakehouse(spark: SparkSession, tmp_path: Path) -> Lakehouse:
    """A lakehouse of the test's own, without tables."""
    return Lakehouse(spark, f"t_{tmp_path.name}".replace("-", "_"), tmp_path / "lakehouse")
