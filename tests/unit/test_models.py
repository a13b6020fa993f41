"""Models and tokenizers on this machine."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file

from pipelines import models
from pipelines.errors import ConfigError
from pipelines.models import LocalModel, TokenizerFiles, check_reads_text, local_model, rendering
from schemas.manifests import weights_sha256
from tests import tiny


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


def test_a_models_digest_is_of_what_is_trained_and_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MART_CACHE", str(tmp_path / "cache"))
    folder = tiny.llama(tmp_path / "model")
    whole = folder / "model.safetensors"
    shutil.copyfile(whole, folder / "consolidated.safetensors")
    with pytest.raises(ConfigError, match="consolidated.safetensors is a second copy of the weights"):
        local_model(str(folder))
    parts = [folder / f"model-{number}.safetensors" for number in (1, 2)]
    tensors = load_file(whole)
    places = {name: parts[number % 2].name for number, name in enumerate(sorted(tensors))}
    for part in parts:
        save_file({name: tensors[name] for name, place in places.items() if place == part.name}, part)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    whole.unlink()
    assert local_model(str(folder)).digest == weights_sha256(folder)


def test_a_base_that_sees_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vision_config": {"hidden_size": 8}}')
    with pytest.raises(ConfigError, match="'see' is not of text alone: its config.json has vision_config"):
        check_reads_text(LocalModel("see", str(tmp_path), "0"))


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["config.json"], "has no whole model in safetensors"),
        (["config.json", "model.safetensors.index.json"], "has no whole model .*model-1.safetensors"),
        (["adapter_config.json", "adapter_model.safetensors"], "is an adapter; merge it into its base first"),
    ],
)
def test_a_directory_that_is_no_model_is_told(tmp_path: Path, files: list[str], told: str) -> None:
    for name in files:
        (tmp_path / name).write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    with pytest.raises(ConfigError, match=told):
        local_model(str(tmp_path))


def test_a_hub_name_may_be_pinned_to_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def fetched(name: str, *, revision: str | None, **_: object) -> str:
        asked.append((name, revision))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    tiny.llama(tmp_path)
    local_model("org/model@abc123")
    local_model("org/model")
    assert asked == [("org/model", "abc123"), ("org/model", None)]
