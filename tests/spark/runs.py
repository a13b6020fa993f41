"""Runs over the small world, with answers by script, whose steps a test takes one by one."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipelines.artifacts import Artifacts
from pipelines.beginning import begin
from pipelines.lakehouse import Lakehouse
from pipelines.runner import Runner
from tests.e2e.small import SCRIPTED, SMALL, Mart, tiny_models


@contextmanager
def runners(
    lakehouse: Lakehouse, imported: Path, folder: Path, cache: Path
) -> Iterator[Callable[..., Runner]]:
    """What begins a run of one round over the small world, with answers by script and the settings given: its runner.

    Args:
        lakehouse: without tables yet; what `imported` holds is copied into it.
        folder: for models and artifacts.
        cache: in place of the user's.
    """
    models = tiny_models(folder / "models")
    assert lakehouse.folder is not None
    shutil.copytree(imported, lakehouse.folder)
    with pytest.MonkeyPatch.context() as patched, ExitStack() as opened:
        patched.setenv("MART_CACHE", str(cache))

        def make(settings: dict[str, Any], run_id: str = "r", fork: tuple[str, int] | None = None) -> Runner:
            config = Mart(folder, SMALL | SCRIPTED | models | {"rounds": 1} | settings).config()
            begin(lakehouse, config, run_id, fork)
            made = Runner(lakehouse, Artifacts(folder / "artifacts"), config, run_id)
            return opened.enter_context(closing(made))

        yield make
