"""Tiny random models, their tokenizers, and jobs over snapshots that are written here."""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from training_rows import WORDS, Child, reward_rows, sft_rows, write_snapshot
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from schemas.manifests import (
    TrainingJob,
    weights_sha256,
)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """One thread, here and in child processes, so that sums have one order."""
    os.environ["MART_THREADS"] = "1"
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    torch.set_num_threads(1)


def _train(tokenizer: Tokenizer, special: list[str]) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([" ".join(WORDS)] * 5, trainer)
    return tokenizer


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with a ChatML tokenizer, as a directory."""
    path = tmp_path_factory.mktemp("llama")
    trained = _train(Tokenizer(models.BPE()), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, tie_word_embeddings=True, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers with a pair template, as a directory."""
    path = tmp_path_factory.mktemp("bert")
    trained = _train(Tokenizer(models.BPE(unk_token="[UNK]")), ["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    trained.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128,
    )  # fmt: skip
    BertModel(config).save_pretrained(path)
    return path


MakeJob = Callable[..., TrainingJob]


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    """A function that makes a job: base, rows, name of the output, settings, anything else."""

    def make(
        base: Path,
        rows: Sequence[Mapping[str, Any]],
        name: str = "c1",
        settings: dict[str, Any] | None = None,
        **other: Any,
    ) -> TrainingJob:
        snapshot = tmp_path / f"snapshot-{name}"
        manifest = write_snapshot(snapshot, rows)
        values: dict[str, Any] = {
            "kind": "sft", "checkpoint_id": "c1", "run_id": "r1", "round": 1, "role": "target", "seed": 2**62 + 7,
            "base": {"path": str(base), "digest": weights_sha256(base)},
            "snapshot": {"path": str(snapshot), "root": manifest.root, "rows": manifest.rows},
            "output": str(tmp_path / name / "checkpoint"), "settings": settings or {}, **other,
        }  # fmt: skip
        return TrainingJob.model_validate(values)

    return make


@pytest.fixture
def sft_job(make_job: MakeJob, llama: Path) -> MakeJob:
    """A function that makes a small job of supervised fine-tuning: 16 rows, 2 epochs of 4 steps."""

    def make(name: str = "c1", rows: int = 16, **changes: Any) -> TrainingJob:
        other = {key: changes.pop(key) for key in list(changes) if key in TrainingJob.model_fields}
        settings = {
            "epochs": 2, "batch_size": 4, "lora_rank": 4, "lora_dropout": 0.1, "learning_rate": 0.02,
            "save_every_steps": 2, **changes,
        }  # fmt: skip
        return make_job(llama, sft_rows(rows), name, settings, **other)

    return make


@pytest.fixture
def reward_job(make_job: MakeJob, bert: Path) -> MakeJob:
    """A function that makes a small job of reward-model training: 48 rows."""

    def make(name: str = "c1", pairs: bool = False, **changes: Any) -> TrainingJob:
        settings = {
            "epochs": 6, "batch_size": 8, "learning_rate": 0.003, "max_length": 64, "save_every_steps": 5,
            "loss": "pairwise" if pairs else "binary", **changes,
        }  # fmt: skip
        return make_job(bert, reward_rows(48, pairs=pairs), name, settings, kind="reward", role="safety_rm")

    return make


@pytest.fixture
def fork(tmp_path: Path) -> Callable[..., Child]:
    """A function that runs a function in a forked process."""
    count = itertools.count()

    def start(function: Callable[[], int | None], **environment: str) -> Child:
        return Child(tmp_path / f"child-{next(count)}.log", function, environment)

    return start
