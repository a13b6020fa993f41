"""`mart export` onto a disk that takes no renames, killed and not."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs import export
from pipelines.errors import DataError, IntegrityError
from schemas.manifests import MERGED_FILE
from training.errors import ProofError

FILES = (MERGED_FILE, "model.safetensors", "config.json")


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Merging by script; where it wrote."""
    monkeypatch.setenv("MART_CACHE", str(tmp_path / "cache"))
    places: list[Path] = []

    def merge(source: Path, base: Path, output: Path) -> None:
        places.append(output)
        output.mkdir(parents=True)
        for name in FILES:
            (output / name).write_text(f"{name} of {source}")

    monkeypatch.setattr(export, "merge", merge)
    return places


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of another disk: nothing is renamed into it, or within it."""
    folder, rename = tmp_path / "volume", os.rename

    def refuse(source: Any, target: Any) -> None:
        if folder in (Path(target), *Path(target).parents):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    return folder


def _written(folder: Path, source: str = "a") -> None:
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        name: f"{name} of {source}" for name in FILES
    }


def test_a_model_is_made_on_the_local_disk_and_copied_to_a_volume_with_its_manifest_last(
    built: list[Path], volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    copy = shutil.copyfile

    def noted(file: Any, to: Any, **more: Any) -> Any:
        copied.append(Path(to).name)
        return copy(file, to, **more)

    monkeypatch.setattr(shutil, "copyfile", noted)
    export.write_merged(Path("a"), Path("base"), "c1", volume / "model")
    _written(volume / "model")
    assert volume not in built[0].parents
    assert copied[-1] == MERGED_FILE and len(copied) == len(FILES)
    assert not built[0].exists()


def test_an_export_that_was_killed_is_made_again(
    built: list[Path], volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(file: Any, to: Any, **more: Any) -> None:
        Path(to).write_text("half")
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(shutil, "copyfile", dies)
        export.write_merged(Path("other"), Path("base"), "c1", volume)
    assert any(volume.iterdir())
    export.write_merged(Path("a"), Path("base"), "c1", volume)
    _written(volume)


def test_a_folder_that_holds_something_else_is_left_alone(built: list[Path], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(DataError, match="is not an empty directory"):
        export.write_merged(Path("a"), Path("base"), "c1", tmp_path)
    assert not built and (tmp_path / "mine.txt").exists()


def test_a_base_whose_weights_changed_is_told_as_what_does_not_prove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def merge(*_: object) -> None:
        raise ProofError("base has other weights")

    monkeypatch.setenv("MART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(export, "merge", merge)
    with pytest.raises(IntegrityError, match="base has other weights"):
        export.write_merged(tmp_path, tmp_path, "c", tmp_path / "out")
