"""Models and tokenizers on this machine."""

from pathlib import Path

import pytest

from pipelines import models
from pipelines.models import TokenizerFiles


def test_a_tasks_tokenizer_is_made_among_sparks_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_LOCAL_DIRS", f"{tmp_path},/elsewhere")
    monkeypatch.setattr(models, "tokenizer_for", lambda folder: (folder, sorted(Path(folder).iterdir())))
    folder, files = TokenizerFiles((("tokenizer.json", b"{}"),)).load()
    assert Path(folder).parent == tmp_path
    assert [file.name for file in files] == ["tokenizer.json"]
