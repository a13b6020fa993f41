"""`mart export` says what does not prove, and ends with the exit code of that."""

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from jobs import export
from pipelines.errors import IntegrityError
from training.errors import ProofError


def test_a_base_whose_weights_changed_is_told_as_what_does_not_prove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def merge(*_: object) -> None:
        raise ProofError("base has other weights")

    place = MagicMock()
    place.artifacts.root = tmp_path
    found = place.lakehouse.read.return_value.where.return_value
    found.collect.return_value = [{"path": "c", "base": "b", "checkpoint_id": "c"}]
    monkeypatch.setattr(export, "F", MagicMock())
    monkeypatch.setattr(export, "prove_checkpoint", lambda _: None)
    monkeypatch.setattr(export, "local_model", lambda _: SimpleNamespace(path="b"))
    monkeypatch.setattr(export, "merge", merge)
    with pytest.raises(IntegrityError, match="base has other weights"):
        export.export_merged(place, "c", tmp_path / "out")
