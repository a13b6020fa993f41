"""Manifests, exit codes, merging, cards and tracking."""

import json
import logging
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from schemas.manifests import RewardSettings, SftSettings, TrainingJob, weights_sha256
from training import command, merge, sft, tracking
from training.cards import model_card
from training.command import load_job, main, run
from training.errors import JobError, ProofError


def _write(path: Path, job: TrainingJob, **changes: Any) -> Path:
    values = {**job.model_dump(mode="json"), **changes}
    path.write_text(json.dumps(values))
    return path


def test_a_job_comes_back_from_its_json(sft_job: Any, tmp_path: Path) -> None:
    job = sft_job()
    assert load_job(_write(tmp_path / "job.json", job), "sft") == job


def test_an_unknown_key_is_answered_with_the_nearest(sft_job: Any, tmp_path: Path) -> None:
    path = _write(tmp_path / "job.json", sft_job(), settings={"learning_rte": 1e-4})
    with pytest.raises(JobError, match=r"settings\.learning_rte: unknown key, did you mean 'learning_rate'"):
        load_job(path, "sft")


@pytest.mark.parametrize(
    "change", [{"role": "safety_rm"}, {"checkpoint_id": "../up"}, {"settings": {"epochs": 0}}, {"seed": -1}]
)
def test_a_job_that_makes_no_sense_is_refused(sft_job: Any, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(JobError):
        load_job(_write(tmp_path / "job.json", sft_job(), **change), "sft")


def test_speed_and_paths_stay_out_of_a_jobs_identity(sft_job: Any) -> None:
    job = sft_job()
    settings = job.settings.model_copy(update={"save_every_steps": 77, "gradient_checkpointing": True})
    same = job.model_copy(update={"settings": settings, "output": "/elsewhere", "scratch": "/tmp"})
    assert same.identity() == job.identity()
    other = job.model_copy(update={"settings": job.settings.model_copy(update={"epochs": 9})})
    assert other.identity() != job.identity()


@pytest.mark.parametrize("settings", [SftSettings(), RewardSettings(objective_note="x")])
def test_a_recipe_holds_all_that_decides_the_weights(settings: Any) -> None:
    left_out = set(type(settings).model_fields) - set(settings.recipe())
    assert left_out <= {"save_every_steps", "gradient_checkpointing", "objective_note"}


def test_each_kind_of_failure_has_its_exit_code(
    sft_job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = sft_job(epochs=1)
    path = tmp_path / "job.json"
    command = ["--manifest", str(path)]
    assert main("sft", sft.train, command) == 2, "no manifest"
    assert main("reward", sft.train, ["--manifest", str(_write(path, job))]) == 2, "another kind"
    _write(path, job, snapshot={**job.snapshot.model_dump(), "rows": 99})
    assert main("sft", sft.train, command) == 3
    _write(path, job)
    broken = sft.completion_loss
    with monkeypatch.context() as patch:
        patch.setattr(sft, "completion_loss", lambda *how: lambda *batch: broken(*how)(*batch) * float("inf"))
        assert main("sft", sft.train, command) == 4
    assert main("sft", sft.train, command) == 0


def test_a_merged_adapter_answers_as_base_and_adapter_do(sft_job: Any, tmp_path: Path) -> None:
    job = sft_job()
    manifest = run(job, sft.train)
    merge.merge(Path(job.output), Path(job.base.path), tmp_path / "merged")
    ids = AutoTokenizer.from_pretrained(tmp_path / "merged")("how do you bake", return_tensors="pt").input_ids
    base = AutoModelForCausalLM.from_pretrained(job.base.path)
    plain = base(ids).logits
    adapted = PeftModel.from_pretrained(base, job.output)(ids).logits
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(ids).logits
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(merged, plain, atol=1e-2)
    note = json.loads((tmp_path / "merged" / "merged.json").read_text())
    assert note == {
        "checkpoint_id": manifest.checkpoint_id,
        "weights_sha256": weights_sha256(tmp_path / "merged"),
    }


def test_merging_refuses_another_base_and_a_full_directory(sft_job: Any, tmp_path: Path, bert: Path) -> None:
    job = sft_job(epochs=1)
    run(job, sft.train)
    with pytest.raises(ProofError, match="base: the weights in"):
        merge.merge(Path(job.output), bert, tmp_path / "merged")
    with pytest.raises(JobError, match="not an empty directory"):
        merge.merge(Path(job.output), Path(job.base.path), Path(job.output))


def test_a_card_says_what_a_checkpoint_is_made_of(sft_job: Any) -> None:
    job = sft_job(epochs=1)
    manifest = run(job, sft.train)
    card = (Path(job.output) / "README.md").read_text()
    assert card == model_card(manifest)
    for fact in (
        manifest.weights_sha256,
        manifest.snapshot_root,
        manifest.base_digest,
        "under protection",
        "| epochs | 1 |",
    ):
        assert fact in card


def test_a_run_is_logged_to_mlflow_with_its_training_set_and_checkpoint(sft_job: Any, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    job = sft_job(epochs=1)
    manifest = run(job, sft.train)
    tracked = TrainingJob.model_validate(
        {
            **job.model_dump(),
            "tracking": {"uri": uri, "experiment": "rounds"},
            "destination": str(tmp_path / "artifacts" / "checkpoints" / "c1"),
        }
    )
    losses = [(step, 1.0) for step in range(1, 5)]
    assert tracking.track(tracked, manifest, losses, limit_s=240), "a new database is slow on a busy box"
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name("rounds")
    assert found is not None
    [logged] = client.search_runs([found.experiment_id])
    assert logged.data.tags["mart.checkpoint_id"] == "c1"
    assert logged.data.params["learning_rate"] == "0.02"
    assert logged.data.metrics["completion_tokens"] == manifest.metrics["completion_tokens"]
    assert len(client.get_metric_history(logged.info.run_id, "train_loss")) == 4
    [used] = logged.inputs.dataset_inputs
    assert used.tags[0].value == manifest.snapshot_root
    place = urlparse(logged.info.artifact_uri)
    kept = tmp_path / place.scheme / place.path.lstrip("/")
    for name in ("checkpoint.json", "README.md"):
        assert (kept / name).read_bytes() == (Path(job.output) / name).read_bytes()
    assert logged.outputs is not None
    model = client.get_logged_model(logged.outputs.model_outputs[0].model_id)
    assert model.source_run_id == logged.info.run_id and str(model.status) == "READY"
    assert model.tags["mart.weights_sha256"] == manifest.weights_sha256
    assert model.tags["mart.path"] == "artifacts/checkpoints/c1"
    assert str(tmp_path).encode() not in (tmp_path / "mlflow.db").read_bytes(), "so that both can be moved"


def test_what_a_killed_trainer_had_half_logged_is_removed_and_nothing_is_logged_twice(
    sft_job: Any, tmp_path: Path
) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    job = sft_job(epochs=1)
    manifest = run(job, sft.train)
    tracked = TrainingJob.model_validate(
        {**job.model_dump(), "tracking": {"uri": uri, "experiment": "rounds"}}
    )
    client = MlflowClient(tracking_uri=uri)
    number = client.create_experiment("rounds")
    half = client.create_run(number, tags={"mart.checkpoint_id": manifest.checkpoint_id})
    for _ in range(2):
        assert tracking.track(tracked, manifest, [], limit_s=240)
    [logged] = client.search_runs([number])
    assert logged.info.status == "FINISHED" and logged.info.run_id != half.info.run_id


def test_a_checkpoint_whose_trainer_was_killed_before_it_was_logged_is_logged_by_the_next(
    sft_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def track(job: TrainingJob, *_: Any) -> None:
        asked.append(job.checkpoint_id)
        if len(asked) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "track", track)
    job = sft_job(epochs=1)
    with pytest.raises(KeyboardInterrupt):
        run(job, sft.train)
    for _ in range(2):
        run(job, sft.train)
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("uri", "wish", "name"),
    [
        ("sqlite:////lakehouse/mlflow.db", None, "mart"),
        ("databricks", None, "/Shared/mart"),
        ("databricks://staging", "rounds", "/Shared/rounds"),
        ("databricks", "/Users/me/rounds", "/Users/me/rounds"),
    ],
)
def test_an_experiment_on_databricks_is_a_path_in_the_workspace(
    uri: str, wish: str | None, name: str
) -> None:
    assert tracking.experiment_name(uri, wish) == name


def test_a_trainer_is_given_the_drivers_credentials_for_databricks_and_goes_without_where_there_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow.utils import databricks_utils

    from pipelines.training_jobs import _credentials

    there = {"DATABRICKS_HOST": "https://host", "DATABRICKS_TOKEN": "token"}
    monkeypatch.setattr(databricks_utils, "get_databricks_env_vars", lambda uri: there)
    assert _credentials("databricks") == there and _credentials("sqlite:///mlflow.db") == {}

    def none(uri: str) -> None:
        raise RuntimeError("no notebook here")

    monkeypatch.setattr(databricks_utils, "get_databricks_env_vars", none)
    assert _credentials("databricks") == {}


def test_an_experiment_that_another_trainer_makes_first_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    made = client.create_experiment("rounds")
    look, seen = client.get_experiment_by_name, []

    def too_early(name: str) -> Any:
        seen.append(name)
        return look(name) if len(seen) > 1 else None

    monkeypatch.setattr(client, "get_experiment_by_name", too_early)
    assert tracking._experiment(client, "rounds") == made


def test_a_failing_or_hanging_mlflow_costs_an_error_line_and_bounded_time(
    sft_job: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = sft_job(epochs=1, tracking={"uri": "http://user:secret@nowhere.invalid"})
    manifest = run(sft_job("other", epochs=1), sft.train)

    def refuse(*_: Any) -> None:
        raise ConnectionError("http://user:secret@nowhere.invalid is down")

    with caplog.at_level(logging.ERROR):
        monkeypatch.setattr(tracking, "_log", refuse)
        assert not tracking.track(job, manifest, [])
        monkeypatch.setattr(tracking, "_log", lambda *_: time.sleep(30))
        started = time.monotonic()
        assert not tracking.track(job, manifest, [], limit_s=0.2)
    assert time.monotonic() - started < 5
    assert "MLflow refused checkpoint c1 (ConnectionError)" in caplog.text
    assert "did not answer within" in caplog.text
    assert "secret" not in caplog.text
