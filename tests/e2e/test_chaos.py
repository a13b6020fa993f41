"""The short form of `make chaos`: a run of a tiny random model on the real engine, in which each target is killed once."""

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import KINDS, Chaos
from tests.e2e.small import REAL, SCRIPTED, SMALL, SMALLEST, Mart, tiny_models

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1500)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, below which vLLM's own sockets fit."""
    made = Path(tempfile.mkdtemp(prefix="chaos-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_a_run_in_which_each_process_is_killed_once_proves_whole_and_leaves_nothing(folder: Path) -> None:
    settings = SMALL | SCRIPTED | tiny_models(folder / "models") | SMALLEST | REAL
    mart = Mart(folder / "lakehouse", settings)
    chaos = Chaos(mart, random.Random(0), kills=len(KINDS), pauses=(2.0, 10.0), most=1)
    chaos.go()
    assert chaos.problems == []
    assert sorted(event["target"] for event in chaos.events) == sorted(KINDS)
    assert chaos.run, "no run ended"
