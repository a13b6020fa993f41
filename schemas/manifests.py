"""The files that Spark and the training jobs hand each other: snapshot, job and checkpoint manifests.

Spark writes a snapshot of a training set and a job; a training job, which has no Spark, proves both, trains, and
writes a checkpoint whose manifest comes last. Imports only the standard library and pydantic.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from schemas.digests import digest, file_sha256, tensors_sha256

SNAPSHOT_FILE = "snapshot.json"
CHECKPOINT_FILE = "checkpoint.json"
CARD_FILE = "README.md"  # a checkpoint in words
MERGED_FILE = "merged.json"
FORMAT_VERSION: Literal[1] = 1

SFT_COLUMNS = ("position", "input", "output", "weight", "role", "example_sha256")
REWARD_COLUMNS = ("position", "input", "output", "label", "rejected", "split", "example_sha256")

# Settings that change how fast a checkpoint is made and not what it holds; no digest counts them.
SPEED_ONLY = frozenset({"save_every_steps", "gradient_checkpointing"})

Kind = Literal["sft", "reward"]
Role = Literal["target", "adversary", "safety_rm", "helpfulness_rm"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# An id becomes part of a path, so it can't hold a separator or begin with a dot.
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,199}$")]


def _plain_name(name: str) -> str:
    if not name or name in {".", ".."} or "/" in name or "\\" in name or "\x00" in name:
        raise ValueError(f"{name!r} is not a plain file name")
    return name


FileName = Annotated[str, AfterValidator(_plain_name)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Strict):
    """A file beside a manifest: its plain name, SHA-256 and size in bytes."""

    name: FileName
    sha256: Sha256
    bytes: int = Field(ge=0)

    @classmethod
    def of(cls, path: Path) -> "FileEntry":
        """The entry of a file as it lies on disk now."""
        return cls(name=path.name, sha256=file_sha256(path), bytes=path.stat().st_size)

    def difference(self, directory: Path) -> str | None:
        """What differs between this entry and the file under `directory`, in words; None if nothing does."""
        path = directory / self.name
        if not path.is_file():
            return f"{path} is missing"
        if (size := path.stat().st_size) != self.bytes:
            return f"{path} holds {size} bytes, its manifest says {self.bytes}"
        if (found := file_sha256(path)) != self.sha256:
            return f"{path} has SHA-256 {found}, its manifest says {self.sha256}"
        return None


class SnapshotManifest(_Strict):
    """`snapshot.json`, beside the Parquet files of a training set read at one table version.

    `root` is `schemas.digests.root_digest` over the rows' `example_sha256` in order of `position`.
    """

    format: Literal[1] = FORMAT_VERSION
    table: str
    table_version: int = Field(ge=0)
    rows: int = Field(ge=0)
    columns: tuple[str, ...]
    root: Sha256
    files: tuple[FileEntry, ...]


class LoopSettings(_Strict):
    """How any model is trained.

    `batch_size` is the number of examples between two optimizer micro-steps over *all* processes, so a recipe means
    the same on one device and on eight. `warmup_ratio` is a share of all steps. With `bfloat16` the arithmetic and
    frozen weights are bfloat16; weights that learn stay float32. `auto` is bfloat16 on a device that computes it, else
    float32; the checkpoint's environment records which.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    learning_rate: float = Field(gt=0, lt=1)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    gradient_accumulation: int = Field(default=1, ge=1)
    max_length: int = Field(ge=8)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    scheduler: Literal["linear", "cosine", "constant"] = "linear"
    max_grad_norm: float = Field(default=1.0, ge=0)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    save_every_steps: int = Field(
        default=100, ge=0, description="0: no state that could be resumed; speed only"
    )
    gradient_checkpointing: bool = Field(default=False, description="less memory, more time; speed only")

    def recipe(self) -> dict[str, Any]:
        """The settings that decide what is learned, as JSON values: what a checkpoint's id is a digest of."""
        return self.model_dump(mode="json", exclude=set(SPEED_ONLY))


class SftSettings(LoopSettings):
    """Supervised fine-tuning: a LoRA adapter on a frozen base, or all weights. `max_length` is in tokens."""

    method: Literal["lora", "full"] = "lora"
    lora_rank: int = Field(default=16, ge=1)
    lora_alpha: float = Field(default=32, gt=0)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    learning_rate: float = Field(default=3e-4, gt=0, lt=1)
    epochs: int = Field(default=3, ge=1)
    batch_size: int = Field(default=4, ge=1)
    max_length: int = Field(default=512, ge=8)

    @property
    def form(self) -> dict[str, Any]:
        """What a checkpoint keeps for all trainings that go on from it, by the settings' names."""
        lora = {
            "lora_rank": self.lora_rank,
            "lora_alpha": self.lora_alpha,
            "target_modules": sorted(set(self.target_modules)),
        }
        return {"method": self.method, **(lora if self.method == "lora" else {})}


# Of each loss of a reward model, what it needs of a row besides its input and output.
LOSS_FIELDS = {"binary": "label", "pairwise": "rejected"}


class RewardSettings(LoopSettings):
    """A reward model with one logit.

    `binary` learns labels in [0, 1] by cross-entropy; `pairwise` learns to put `output` above `rejected`
    (Bradley-Terry). `objective_note` says in words what a high score means.
    """

    loss: Literal["binary", "pairwise"] = "binary"
    learning_rate: float = Field(default=5e-5, gt=0, lt=1)
    epochs: int = Field(default=2, ge=1)
    batch_size: int = Field(default=32, ge=1)
    max_length: int = Field(default=256, ge=8)
    weight_decay: float = Field(default=0.01, ge=0)
    objective_note: str = ""

    @property
    def needed_field(self) -> str:
        """What each training row must have."""
        return LOSS_FIELDS[self.loss]

    def recipe(self) -> dict[str, Any]:
        """As in `LoopSettings`; the note in words decides nothing."""
        return self.model_dump(mode="json", exclude={*SPEED_ONLY, "objective_note"})


class ModelRef(_Strict):
    """A model directory and the digest of its tensors (`weights_sha256`)."""

    path: str
    digest: Sha256


class ParentRef(ModelRef):
    """The checkpoint that training starts from."""

    checkpoint_id: Identifier


class SnapshotRef(_Strict):
    """A snapshot directory and what it must prove to hold."""

    path: str
    root: Sha256
    rows: int = Field(ge=1)


class TrackingRef(_Strict):
    """Where MLflow listens; without one, `MLFLOW_TRACKING_URI` and `MLFLOW_EXPERIMENT_NAME` decide."""

    uri: str | None = None
    experiment: str = "mart"


class TrainingJob(_Strict):
    """The `--manifest` of a training job.

    `output` is the checkpoint's directory; `destination`, if it is copied elsewhere afterwards, where MLflow is told that
    it lies. `scratch` holds resumable states and defaults to a neighbour of `output`. The seed is in [0, 2**63).
    """

    format: Literal[1] = FORMAT_VERSION
    kind: Kind
    checkpoint_id: Identifier
    run_id: str
    round: int = Field(ge=0)
    role: Role
    base: ModelRef
    parent: ParentRef | None = None
    snapshot: SnapshotRef
    output: str
    destination: str | None = None
    scratch: str | None = None
    settings: SftSettings | RewardSettings
    seed: int = Field(ge=0, lt=2**63)
    code_version: str | None = None
    tracking: TrackingRef | None = None

    @field_validator("settings", mode="before")
    @classmethod
    def _settings_of_the_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kind: type[LoopSettings] = RewardSettings if info.data.get("kind") == "reward" else SftSettings
        if isinstance(value, LoopSettings) and not isinstance(value, kind):
            raise ValueError(
                f"kind {info.data.get('kind')!r} takes {kind.__name__}, not {type(value).__name__}"
            )
        return kind.model_validate(value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _role_of_the_kind(self) -> "TrainingJob":
        if (self.kind == "reward") != (self.role in {"safety_rm", "helpfulness_rm"}):
            raise ValueError(f"kind {self.kind!r} does not train a {self.role!r}")
        return self

    def identity(self) -> str:
        """Digest of everything that decides the weights, paths and speed left out; states of another are not resumed."""
        kept = self.model_dump(
            mode="json", include={"kind", "checkpoint_id", "run_id", "round", "role", "seed"}
        )
        parent = self.parent and [self.parent.checkpoint_id, self.parent.digest]
        sources = [self.base.digest, parent, self.snapshot.root, self.snapshot.rows]
        return digest([kept, sources, self.settings.recipe()])


class CheckpointManifest(_Strict):
    """`checkpoint.json`, the last file written to a checkpoint's directory: what it is and how it came to be.

    `weights_sha256` covers tensors alone (`schemas.digests.tensors_sha256`); for an adapter, the adapter's.
    `resumed` counts how often training went on from a saved state.
    """

    format: Literal[1] = FORMAT_VERSION
    checkpoint_id: Identifier
    kind: Kind
    role: Role
    round: int
    run_id: str
    base_digest: Sha256
    parent_checkpoint_id: str | None
    parent_digest: Sha256 | None
    snapshot_root: Sha256
    snapshot_rows: int
    weights_sha256: Sha256
    files: tuple[FileEntry, ...]
    settings: dict[str, Any]
    seed: int
    code_version: str
    environment: dict[str, Any]
    metrics: dict[str, float | int]
    resumed: int = Field(ge=0)

    @property
    def files_sha256(self) -> str:
        """Digest of the files listed, by which a table can tell that the list is still the one that was registered.

        The card is left out, which says how long it took: two drivers may train a warm start that they share at a time.
        """
        listed = [[entry.name, entry.bytes, entry.sha256] for entry in self.files if entry.name != CARD_FILE]
        return digest(sorted(listed))

    def differences(self, directory: Path) -> list[str]:
        """In what the files of a checkpoint's directory are not what this manifest says; empty where all proves."""
        wrong = [difference for entry in self.files if (difference := entry.difference(directory))]
        if not wrong:
            try:
                found = weights_sha256(directory)
            except (OSError, ValueError, KeyError) as error:
                return [f"the weights in {directory} can't be read: {error}"]
            if found != self.weights_sha256:
                wrong = [f"the weights in {directory} have digest {found}, expected {self.weights_sha256}"]
        # Whatever lies there, some loader may read it, such as an adapter's configuration or older weights.
        listed = {CHECKPOINT_FILE, *(entry.name for entry in self.files)}
        there = (path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir())
        stray = sorted({path.relative_to(directory).as_posix() for path in there} - listed)
        return wrong + [f"{directory} holds {name}, which {CHECKPOINT_FILE} does not list" for name in stray]


def sft_example_sha256(input: str, output: str, weight: float, role: str) -> str:
    """Digest of a row for supervised fine-tuning; `input` is the JSON text of the messages, as the row holds it."""
    return digest([input, output, float(weight), role])


def reward_example_sha256(
    input: str, output: str, label: float | None, rejected: str | None, split: str
) -> str:
    """Digest of a reward model's row; `input` is the JSON text of the messages, as the row holds it."""
    return digest([input, output, None if label is None else float(label), rejected, split])


def parse_messages(text: str, *, answered: bool = False) -> list[dict[str, str]]:
    """The messages in a row's `input`.

    Args:
        text: JSON.
        answered: whether they may end with a turn of the assistant.

    Raises:
        ValueError: the text is not a JSON list of objects with the texts `role` and `content`, ending with the user.
    """
    messages = json.loads(text)
    if not isinstance(messages, list) or not messages:
        raise ValueError("input is not a JSON list of messages")
    for message in messages:
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise ValueError("a message of input does not have exactly the keys role and content")
        if message["role"] not in {"system", "user", "assistant"} or not isinstance(message["content"], str):
            raise ValueError(f"a message of input has role {message['role']!r} or a content that is no text")
    if messages[-1]["role"] not in ("user", "assistant" if answered else "user"):
        raise ValueError(f"input ends with the turn of {messages[-1]['role']!r}, not of 'user'")
    return messages


def valid_share(value: float | None) -> bool:
    """Whether a label is absent or in [0, 1]."""
    return value is None or (math.isfinite(value) and 0 <= value <= 1)


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that make up the weights in a model's or adapter's directory.

    Raises:
        FileNotFoundError: there are none.
    """
    for name in ("adapter_model.safetensors", "model.safetensors"):
        if (directory / name).is_file():
            return [directory / name]
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        names: Iterable[str] = json.loads(index.read_text())["weight_map"].values()
        return [directory / _plain_name(name) for name in sorted(set(names))]
    raise FileNotFoundError(
        f"{directory} holds no model.safetensors, model.safetensors.index.json or adapter_model.safetensors"
    )


def weights_sha256(directory: Path) -> str:
    """Digest of the tensors of the model or adapter in a directory; see `schemas.digests.tensors_sha256`."""
    return tensors_sha256(weight_files(directory))
