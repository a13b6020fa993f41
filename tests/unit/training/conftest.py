"""Tiny random models, their tokenizers, and jobs over snapshots that are written here."""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from training_rows import Child, reward_rows, sft_rows, write_snapshot

from schemas.manifests import (
    TrainingJob,
    weights_sha256,
)
from tests import tiny


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One thread, here and in child processes, so that sums have one order."""
    os.environ["MART_THREADS"] = "1"
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with a ChatML tokenizer, as a directory."""
    return tiny.llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers with a pair template, as a directory."""
    return tiny.bert(tmp_path_factory.mktemp("bert"))


def _of_the_job(changes: dict[str, Any]) -> dict[str, Any]:
    """What of the changes is a field of a job, taken out of them; the others are settings."""
    return {key: changes.pop(key) for key in list(changes) if key in TrainingJob.model_fields}


MakeJob = Callable[..., TrainingJob]


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    """A function that makes a job: base, rows, name of the output, settings, anything else."""

    def make(
        base: Path,
        rows: Sequence[Mapping[str, Any]],
        name: str = "c1",
        settings: dict[str, Any] | None = None,
        **other: Any,
    ) -> TrainingJob:
        snapshot = tmp_path / f"snapshot-{name}"
        manifest = write_snapshot(snapshot, rows)
        values: dict[str, Any] = {
            "kind": "sft", "checkpoint_id": "c1", "run_id": "r1", "round": 1, "role": "target", "seed": 2**62 + 7,
            "base": {"path": str(base), "digest": weights_sha256(base)},
            "snapshot": {"path": str(snapshot), "root": manifest.root, "rows": manifest.rows},
            "output": str(tmp_path / name / "checkpoint"), "settings": settings or {}, **other,
        }  # fmt: skip
        return TrainingJob.model_validate(values)

    return make


@pytest.fixture
def sft_job(make_job: MakeJob, llama: Path) -> MakeJob:
    """A function that makes a small job of supervised fine-tuning: 16 rows, 2 epochs of 4 steps."""

    def make(name: str = "c1", rows: int = 16, **changes: Any) -> TrainingJob:
        other = _of_the_job(changes)
        settings = {
            "epochs": 2, "batch_size": 4, "lora_rank": 4, "lora_dropout": 0.1, "learning_rate": 0.02,
            "save_every_steps": 2, **changes,
        }  # fmt: skip
        return make_job(llama, sft_rows(rows), name, settings, **other)

    return make


@pytest.fixture
def reward_job(make_job: MakeJob, bert: Path) -> MakeJob:
    """A function that makes a small job of reward-model training: 48 rows."""

    def make(name: str = "c1", pairs: bool = False, **changes: Any) -> TrainingJob:
        other = _of_the_job(changes)
        settings = {
            "epochs": 6, "batch_size": 8, "learning_rate": 0.003, "max_length": 64, "save_every_steps": 5,
            "loss": "pairwise" if pairs else "binary", **changes,
        }  # fmt: skip
        other = {"kind": "reward", "role": "safety_rm", **other}
        return make_job(bert, reward_rows(48, pairs=pairs), name, settings, **other)

    return make


@pytest.fixture
def fork(tmp_path: Path) -> Callable[..., Child]:
    """A function that runs a function in a forked process."""
    if torch.cuda.is_initialized():
        pytest.skip(
            "a forked process can't use CUDA once this one has; CUDA_VISIBLE_DEVICES= tests it on the CPU"
        )
    count = itertools.count()

    def start(function: Callable[[], int | None], **environment: str) -> Child:
        return Child(tmp_path / f"child-{next(count)}.log", function, environment)

    return start
