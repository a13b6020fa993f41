"""Models and tokenizers on this machine."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines import models
from pipelines.errors import ConfigError
from pipelines.models import TokenizerFiles, rendering


def test_a_tasks_tokenizer_is_made_among_sparks_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_LOCAL_DIRS", f"{tmp_path},/elsewhere")
    monkeypatch.setattr(models, "tokenizer_for", lambda folder: (folder, sorted(Path(folder).iterdir())))
    folder, files = TokenizerFiles((("tokenizer.json", b"{}"),)).load()
    assert Path(folder).parent == tmp_path
    assert [file.name for file in files] == ["tokenizer.json"]


def test_messages_that_can_not_be_rendered_are_told_in_a_sentence() -> None:
    tokenizer = SimpleNamespace(chat_template="words")
    with (
        pytest.raises(ConfigError, match="the messages of step respond can't be rendered for base: no way"),
        rendering(tokenizer, "base", "step respond"),
    ):
        raise ValueError("no way")
