"""What `mart verify` makes of rows, without Spark."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipelines.verify_checkpoints import wrong_rows
from schemas.digests import root_digest
from schemas.manifests import (
    CHECKPOINT_FILE,
    CheckpointManifest,
    FileEntry,
    sft_example_sha256,
    weights_sha256,
)


def _row(position: int) -> dict[str, Any]:
    text = f"row {position}"
    example = sft_example_sha256(text, text, 1.0, "target")
    return {"position": position, "input": text, "output": text, "weight": 1.0, "example_sha256": example}


def test_training_rows_are_proved_without_being_kept() -> None:
    n = 5_000
    root = root_digest(_row(position)["example_sha256"] for position in range(n))

    def rows() -> Iterator[dict[str, Any]]:
        for position in range(n):
            yield _row(position) | ({"output": "changed"} if position == 7 else {})

    tracemalloc.start()
    found = wrong_rows(rows(), {"role": "target", "training_root": root})
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [
        "training row 7 does not have the digest of its content",
        f"its {n} training rows do not give the root that its recipe names",
    ]
    assert most < 64 * n, "less than the digests of all of them"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint's folder as a trainer leaves it."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_file({"x": np.zeros(2, dtype=np.float32)}, folder / "adapter_model.safetensors")
    (folder / "README.md").write_text("a card")
    manifest = CheckpointManifest(
        checkpoint_id="c", kind="sft", role="target", round=1, run_id="r", base_digest="0" * 64, parent_checkpoint_id=None,
        parent_digest=None, snapshot_root="0" * 64, snapshot_rows=1, weights_sha256=weights_sha256(folder),
        files=tuple(FileEntry.of(path) for path in sorted(folder.iterdir())), settings={}, seed=1, code_version="v",
        environment={}, metrics={}, resumed=0,
    )  # fmt: skip
    (folder / CHECKPOINT_FILE).write_text(manifest.model_dump_json())
    return folder


def _differences(folder: Path) -> list[str]:
    return CheckpointManifest.model_validate_json((folder / CHECKPOINT_FILE).read_text()).differences(folder)


def test_a_checkpoint_with_what_its_manifest_lists_has_no_differences(checkpoint: Path) -> None:
    (checkpoint / "empty").mkdir()
    assert _differences(checkpoint) == []


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.bin", "other.safetensors", "below/config.json", ".hidden"]
)
def test_a_file_that_a_checkpoints_manifest_does_not_list_is_named(checkpoint: Path, name: str) -> None:
    (checkpoint / name).parent.mkdir(exist_ok=True)
    (checkpoint / name).write_text("{}")
    assert _differences(checkpoint) == [f"{checkpoint} holds {name}, which checkpoint.json does not list"]
