"""Lakehouses for the end-to-end tests, and a session to look at them with."""

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs import cli
from pipelines.session import open_session
from tests.e2e.small import SCRIPTED, SMALL, Mart, tiny_models


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """A session to look at tables with: a `mart sql` takes half a minute to start."""
    with open_session(tmp_path_factory.mktemp("spark"), asks_models=False) as session:
        yield session


Look = Callable[[Mart, str], DataFrame]


@pytest.fixture(scope="module")
def look(spark: SparkSession) -> Look:
    """A table of a lakehouse as it is now."""
    return lambda mart, table: spark.read.format("delta").load(str(mart.folder / "tables" / table))


Told = Callable[..., str]


@pytest.fixture(scope="module")
def told(spark: SparkSession) -> Told:
    """What a `mart` command prints that only looks, asked in this process and its session; of one lakehouse a module."""

    def tell(mart: Mart, *words: str, code: int = 0) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(printed):
            ended = cli.main([*words, "--lakehouse", str(mart.folder)])
        assert ended == code, printed.getvalue()
        return printed.getvalue()

    return tell


@pytest.fixture(scope="session")
def mart(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Mart]:
    """Makes a `Mart` over a new lakehouse, with further settings."""

    def make(**settings: Any) -> Mart:
        folder = tmp_path_factory.mktemp("mart")
        return Mart(
            folder / "lakehouse", SMALL | {key.replace("__", "."): value for key, value in settings.items()}
        )

    return make


@pytest.fixture(scope="session")
def scripted(
    mart: Callable[..., Mart], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[dict[str, Any]], Mart]:
    """Makes a `Mart` whose answers come from a script and whose models are tiny, with further settings."""
    models = tiny_models(tmp_path_factory.mktemp("models"))
    return lambda settings: mart(**{**SCRIPTED, **models, **settings})
