"""Kills and several processes, with real processes."""

import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import Trainer

from schemas.manifests import ModelRef, weights_sha256
from training import lengths, reward, sft, states
from training.checkpoints import prove_checkpoint
from training.command import main, run
from training.errors import BusyError
from training.runtime import only_trainer
from training.states import newest_state


def _command(manifest: Path) -> int:
    return main("sft", sft.train, ["--manifest", str(manifest)])


def _dying(method: str, count: int, manifest: Path) -> int:
    """The command, which kills its own process the n-th time that a method of the Trainer is called."""
    original, calls = getattr(Trainer, method), []

    def dying(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args, **kwargs)

    setattr(Trainer, method, dying)
    return _command(manifest)


def _states(job: Any) -> list[str]:
    return sorted(path.name for path in (Path(job.output).parent / "c1.work" / "states").iterdir())


def test_killed_between_and_in_saves_a_job_ends_with_the_weights_of_an_undisturbed_one(
    sft_job: Any, fork: Any, tmp_path: Path
) -> None:
    undisturbed = run(sft_job("undisturbed"), sft.train)
    job = sft_job("killed")
    manifest = tmp_path / "job.json"
    manifest.write_text(job.model_dump_json())
    # 2 epochs of 4 steps, a save every 2: the sixth training step, after the save of step 4, in the second epoch.
    killed = fork(lambda: _dying("training_step", 6, manifest))
    assert killed.wait() == -signal.SIGKILL, killed.log
    assert _states(job) == ["checkpoint-2", "checkpoint-4"]
    # Resumed from step 4, the first save is that of step 6; it dies with the model written and the optimizer not.
    killed = fork(lambda: _dying("_save_optimizer_and_scheduler", 1, manifest))
    assert killed.wait() == -signal.SIGKILL, killed.log
    assert "resuming from checkpoint-4" in killed.log
    assert "checkpoint-6" in _states(job)
    done = fork(lambda: _command(manifest))
    assert done.wait() == 0, done.log
    assert "discarding the state checkpoint-6: it is not whole" in done.log
    there = prove_checkpoint(Path(job.output))
    assert there.weights_sha256 == undisturbed.weights_sha256
    assert there.resumed == 1
    assert there.metrics["steps"] == 8
    assert there.metrics["train_loss_start"] == undisturbed.metrics["train_loss_start"]


class Killed(BaseException):
    """What ends a training in this process as a kill would, with nothing done after it."""


@pytest.fixture
def killed_at_the_first_save(monkeypatch: Any) -> Callable[[], AbstractContextManager[None]]:
    """Makes the time in which a training is killed once its first state is whole."""
    original = states.StateKeeper.on_save

    def dying(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        original(self, args, state, control, **kwargs)
        raise Killed

    @contextmanager
    def killing() -> Iterator[None]:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(states.StateKeeper, "on_save", dying)
            yield

    return killing


def test_killed_in_the_middle_of_an_epoch_a_job_resumes_on_the_same_rows(
    sft_job: Any, killed_at_the_first_save: Any
) -> None:
    undisturbed = run(sft_job("undisturbed", save_every_steps=3), sft.train)
    job = sft_job("killed", save_every_steps=3)
    with killed_at_the_first_save():
        run(job, sft.train)
    resumed = run(job, sft.train)
    assert resumed.resumed == 1
    assert resumed.weights_sha256 == undisturbed.weights_sha256


def _of_older_names(bert: Path, folder: Path) -> Path:
    """The same model with its norms' weights under names that transformers reads as others, as many files on hubs have them."""
    shutil.copytree(bert, folder)
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        end = next((end for end in names if name.endswith(end)), "")
        tensors[name.removesuffix(end) + names.get(end, "")] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("trains", ["all weights", "a reward model"])
def test_a_model_that_learns_whole_resumes_with_all_its_weights(
    sft_job: Any, reward_job: Any, bert: Path, tmp_path: Path, killed_at_the_first_save: Any, trains: str
) -> None:
    if trains == "all weights":
        make: Any = partial(sft_job, method="full", learning_rate=0.01)
        train: Any = sft.train
    else:
        older = _of_older_names(bert, tmp_path / "older")
        base = ModelRef(path=str(older), digest=weights_sha256(older))

        def make(name: str) -> Any:
            return reward_job(name).model_copy(update={"base": base})

        train = reward.train
    undisturbed = run(make("undisturbed"), train)
    job = make("killed")
    with killed_at_the_first_save():
        run(job, train)
    resumed = run(job, train)
    assert resumed.resumed == 1
    assert resumed.weights_sha256 == undisturbed.weights_sha256


def _reading(way: str, manifest: Path) -> int:
    """The command in a process that reads a batch as a tree, as one padded pass, or every row alone."""
    if way != "tree":
        lengths.PASS["cpu"] = {"padded": 10_000, "alone": 0}[way]
        sft.tree_of = lambda batch: None  # type: ignore[assignment]
    return _command(manifest)


@pytest.mark.parametrize("first", ["padded", "tree"])
def test_two_processes_end_with_one_checkpoint_however_many_passes_each_takes(
    sft_job: Any, fork: Any, tmp_path: Path, first: str
) -> None:
    job = sft_job("many", epochs=1)
    manifest = tmp_path / "job.json"
    manifest.write_text(job.model_dump_json())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What torchrun sets for its processes.
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    children = [
        fork(partial(_reading, way, manifest), **group, RANK=str(n), LOCAL_RANK=str(n))
        for n, way in enumerate((first, "alone"))
    ]
    for child in children:
        assert child.wait() == 0, child.log
    there = prove_checkpoint(Path(job.output))
    assert there.environment["processes"] == 2
    assert there.metrics["steps"] == 4, "batch_size counts over both processes"
    assert not (Path(job.output).parent / "c1.work").exists()


def _state(directory: Path, step: int, identity: str = "job", **marker: Any) -> Path:
    path = directory / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "optimizer.pt").write_bytes(b"1234")
    values = {
        "format": 2,
        "identity": identity,
        "processes": 1,
        "resumed": 0,
        "seconds": 1.0,
        "files": {"optimizer.pt": 4},
        **marker,
    }
    (path / "complete.json").write_text(json.dumps(values))
    return path


@pytest.mark.parametrize("damage", ["no marker", "cut file", "lost file", "half a marker"])
def test_a_state_that_is_not_whole_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    good, bad = _state(tmp_path, 9), _state(tmp_path, 10)
    if damage == "no marker":
        (bad / "complete.json").unlink()
    elif damage == "cut file":
        (bad / "optimizer.pt").write_bytes(b"1")
    elif damage == "lost file":
        (bad / "optimizer.pt").unlink()
    else:
        (bad / "complete.json").write_text('{"identity": "jo')
    found = newest_state(tmp_path, "job")
    assert found is not None and found[0] == good
    assert not bad.exists()


@pytest.mark.parametrize("other", [{"identity": "another"}, {"processes": 2}, {"format": 1}])
def test_a_state_of_another_job_number_of_processes_or_format_is_not_used(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    _state(tmp_path, 3, **other)
    assert newest_state(tmp_path, "job") is None


def test_two_trainers_of_one_checkpoint_do_not_meet(tmp_path: Path) -> None:
    with only_trainer(tmp_path), pytest.raises(BusyError, match="another process"), only_trainer(tmp_path):
        pytest.fail("both train")
    with only_trainer(tmp_path):
        pass


def test_a_trainer_leaves_no_lock_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with only_trainer(tmp_path / "work"):
        assert list(tmp_path.glob("*.lock"))
    assert not list(tmp_path.glob("*.lock"))
