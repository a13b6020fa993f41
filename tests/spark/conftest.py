"""Fixtures of the tests that need Spark: one session for all of them."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from pipelines.artifacts import Artifacts
from pipelines.beginning import begin
from pipelines.imports import import_all
from pipelines.lakehouse import Lakehouse
from pipelines.runner import Runner
from pipelines.session import open_session
from tests.e2e.small import SCRIPTED, SMALL, Mart, tiny_models


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
    lakehouse: Lakehouse,
    imported: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Runner]]:
    """Begins a run of one round over the small world, with answers by script and the settings given; its runner."""
    monkeypatch.setenv("MART_CACHE", str(tmp_path_factory.mktemp("cache")))
    models = tiny_models(tmp_path / "models")
    assert lakehouse.folder is not None
    shutil.copytree(imported, lakehouse.folder)
    with ExitStack() as opened:

        def make(settings: dict[str, Any], run_id: str = "r", fork: tuple[str, int] | None = None) -> Runner:
            config = Mart(tmp_path, SMALL | SCRIPTED | models | {"rounds": 1} | settings).config()
            begin(lakehouse, config, run_id, fork)
            made = Runner(lakehouse, Artifacts(tmp_path / "artifacts"), config, run_id)
            return opened.enter_context(closing(made))

        yield make
