"""Checkpoints as whole models, for engines without adapters."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.artifacts import Artifacts
from pipelines.errors import IntegrityError, TrainingFailed
from pipelines.merging import merged_model
from pipelines.models import LocalModel, local_model
from schemas.manifests import weights_sha256
from training import merge, sft
from training.command import run


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MART_CACHE", str(tmp_path / "cache"))
    local_model.cache_clear()


def _row(job: Any, root: Path, kind: str = "lora") -> dict[str, Any]:
    return {
        "checkpoint_id": job.checkpoint_id,
        "path": str(Path(job.output).relative_to(root)),
        "kind": kind,
        "weights_sha256": weights_sha256(Path(job.output)),
    }


@pytest.mark.slow
def test_an_adapter_is_merged_once_and_a_changed_copy_is_refused(sft_job: Any, tmp_path: Path) -> None:
    job = sft_job(epochs=1)
    run(job, sft.train)
    artifacts, base = Artifacts(tmp_path), local_model(job.base.path)
    row = _row(job, tmp_path)
    model = merged_model(artifacts, row, base)
    assert model == LocalModel(
        model.path, str(artifacts.merged("c1")), weights_sha256(artifacts.merged("c1"))
    )
    weights = artifacts.merged("c1") / "model.safetensors"
    made = weights.stat().st_mtime_ns
    assert merged_model(artifacts, row, base) == model
    assert weights.stat().st_mtime_ns == made
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    local_model.cache_clear()
    with pytest.raises(IntegrityError, match="delete it, and it is made again"):
        merged_model(artifacts, row, base)


def _run_here(command: list[str], **_: Any) -> "subprocess.CompletedProcess[bytes]":
    """`subprocess.run` of `training.merge`, in this process."""
    assert command[:3] == [sys.executable, "-m", "training.merge"]
    return subprocess.CompletedProcess(command, merge.main(command[3:]))


def test_an_adapter_that_does_not_prove_is_not_merged(
    sft_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = sft_job(epochs=1)
    run(job, sft.train)
    (Path(job.output) / "adapter_config.json").write_text("{}")
    monkeypatch.setattr("pipelines.merging.subprocess.run", _run_here)
    monkeypatch.setattr(merge, "end_with_parent", lambda: None)
    with pytest.raises(TrainingFailed, match=r"could not be merged into its base \(code 3\)"):
        merged_model(Artifacts(tmp_path), _row(job, tmp_path), local_model(job.base.path))
    assert not Artifacts(tmp_path).merged("c1").exists()


def test_a_whole_model_is_served_where_it_lies(sft_job: Any, tmp_path: Path) -> None:
    job = sft_job(epochs=1, method="full")
    run(job, sft.train)
    model = merged_model(Artifacts(tmp_path), _row(job, tmp_path, "full"), local_model(job.base.path))
    assert model.path == str(Path(job.output).resolve())
    assert model.digest == weights_sha256(Path(job.output))
