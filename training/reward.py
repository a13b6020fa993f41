"""A reward model with one logit, safety or helpfulness: `python -m training.reward --manifest job.json`.

It reads (last user prompt, response) as `schemas.rendering.encode_pair` encodes it. Trained on labels by
cross-entropy, or on preferred and rejected answers by the Bradley-Terry loss.
"""

import logging
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from schemas.manifests import RewardSettings, TrainingJob, parse_messages
from schemas.rendering import READING, Tokenizer, encode_pair, padding_id
from training.checkpoints import copy_tokenizer
from training.command import Trained, main
from training.errors import JobError
from training.lengths import passes
from training.loop import Batch, fit, pad, seed_everything
from training.metrics import held_out
from training.runtime import rank

log = logging.getLogger(__name__)

_PADDING = {"attention_mask": 0, "token_type_ids": 0}
_EVALUATION_BATCH = 64


def tokenise(table: pa.Table, tokenizer: Tokenizer, max_length: int) -> tuple[list[dict[str, Any]], int]:
    """The rows of a snapshot as model inputs.

    Returns:
        Rows with `inputs` (the answer's), `rejected` (the other answer's, or None), `label`, `split` and `position`;
        how many encodings fill `max_length`, which is at least how many were truncated.
    """
    rows = []
    full = 0
    for row in table.to_pylist():
        prompt = parse_messages(row["input"])[-1]["content"]
        inputs = encode_pair(tokenizer, prompt, row["output"], max_length)
        other = (
            None if row["rejected"] is None else encode_pair(tokenizer, prompt, row["rejected"], max_length)
        )
        full += sum(len(item["input_ids"]) >= max_length for item in (inputs, other) if item)
        rows.append(
            {
                **{name: row[name] for name in ("label", "split", "position")},
                "inputs": inputs,
                "rejected": other,
            }
        )
    return rows, full


def training_rows(rows: Sequence[dict[str, Any]], settings: RewardSettings) -> list[dict[str, Any]]:
    """The rows of split `train`.

    Raises:
        JobError: there are none, or some lack what the loss needs; the message names positions.
    """
    chosen = [row for row in rows if row["split"] == "train"]
    needed = settings.needed_field
    if lacking := [row["position"] for row in chosen if row[needed] is None]:
        raise JobError(
            f"the loss {settings.loss!r} needs {needed!r}, null at the positions {lacking[:20]} "
            f"({len(lacking)} in all); change settings.loss or the training set"
        )
    if not chosen:
        raise JobError("the snapshot has no rows of split 'train'")
    return chosen


def batch_inputs(inputs: Sequence[Mapping[str, list[int]]], pad_id: int) -> Batch:
    """Encodings as tensors [rows, longest], padded on the right."""
    return {
        name: pad([item[name] for item in inputs], _PADDING.get(name, pad_id), torch.long)
        for name in inputs[0]
    }


def collator(settings: RewardSettings, pad_id: int) -> Callable[[Sequence[Mapping[str, Any]]], Batch]:
    """A function from n rows to a batch: model inputs, `loss_weight` [n] of ones, and for labels `labels` [n].

    For pairs, the inputs are the n preferred answers and then the n others.
    """

    def collate(rows: Sequence[Mapping[str, Any]]) -> Batch:
        weight = torch.ones(len(rows))
        chosen = [row["inputs"] for row in rows]
        if settings.loss == "pairwise":
            return {
                **batch_inputs([*chosen, *(row["rejected"] for row in rows)], pad_id),
                "loss_weight": weight,
            }
        labels = torch.tensor([row["label"] for row in rows], dtype=torch.float32)
        return {**batch_inputs(chosen, pad_id), "labels": labels, "loss_weight": weight}

    return collate


def reward_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The sum over a batch of cross-entropies with `labels`, or without them of Bradley-Terry losses, in nats."""
    inputs = {name: value for name, value in batch.items() if name not in {"labels", "loss_weight"}}
    parts = passes(inputs)
    found = torch.cat([model(**part).logits.squeeze(-1).float() for _, part in parts])
    logits = found[torch.cat([rows for rows, _ in parts]).argsort()]
    if "labels" in batch:
        return nn.functional.binary_cross_entropy_with_logits(logits, batch["labels"], reduction="sum")
    chosen, rejected = logits.chunk(2)
    return -nn.functional.logsigmoid(chosen - rejected).sum()


@torch.no_grad()
def score(model: nn.Module, inputs: Sequence[Mapping[str, list[int]]], pad_id: int) -> np.ndarray[Any, Any]:
    """A logit for each encoding, float64 [n]; batches are by length, so the order of rows does not matter."""
    model.eval()
    device = next(model.parameters()).device
    order = sorted(range(len(inputs)), key=lambda index: len(inputs[index]["input_ids"]))
    logits = np.zeros(len(inputs))
    for start in range(0, len(order), _EVALUATION_BATCH):
        part = order[start : start + _EVALUATION_BATCH]
        batch = batch_inputs([inputs[index] for index in part], pad_id)
        output = model(**{name: value.to(device) for name, value in batch.items()}).logits
        logits[part] = output.squeeze(-1).float().cpu().numpy()
    return logits


def evaluate(model: nn.Module, rows: Sequence[dict[str, Any]], pad_id: int) -> dict[str, float | int]:
    """Metrics on the rows of split `heldout`, which nothing is tuned on; see `training.metrics.held_out`."""
    held = [row for row in rows if row["split"] == "heldout"]
    logits = score(model, [row["inputs"] for row in held], pad_id)
    labelled = [place for place, row in enumerate(held) if row["label"] is not None]
    paired = [place for place, row in enumerate(held) if row["rejected"] is not None]
    others = score(model, [held[place]["rejected"] for place in paired], pad_id)
    labels = np.array([held[place]["label"] for place in labelled], dtype=np.float64)
    return held_out(logits[labelled], labels, logits[paired], others)


def train(job: TrainingJob, table: pa.Table, scratch: Path) -> Trained:
    """Train a job's reward model on proven rows; see `training.command.run`."""
    settings = job.settings
    if not isinstance(settings, RewardSettings) or "split" not in table.column_names:
        raise JobError(
            "a reward model needs rows with label or rejected, and split; this snapshot has others"
        )
    source = job.parent.path if job.parent else job.base.path
    tokenizer: Any = AutoTokenizer.from_pretrained(source, local_files_only=True, **READING)
    rows, full = tokenise(table, tokenizer, settings.max_length)
    learned = training_rows(rows, settings)
    seed_everything(job.seed)
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        source,
        num_labels=1,
        dtype=torch.float32,
        trust_remote_code=False,
        local_files_only=True,
        use_safetensors=True,
    )
    pad_id = padding_id(tokenizer)
    model.config.pad_token_id = pad_id
    if settings.max_length > (most := getattr(model.config, "max_position_embeddings", settings.max_length)):
        raise JobError(
            f"max_length {settings.max_length} is above the {most} positions of {source}; lower it"
        )
    log.info("%d rows to learn from, %d held out", len(learned), len(rows) - len(learned))
    done = fit(
        model, learned, collator(settings, pad_id), reward_loss, settings,
        seed=job.seed, scratch=scratch, identity=job.identity(),
    )  # fmt: skip
    tokens = sum(len(row["inputs"]["input_ids"]) for row in learned)
    metrics: dict[str, float | int] = {"tokens": tokens, "full_length_examples": full}
    built = scratch / "built"
    if rank() == 0:
        metrics |= evaluate(model, rows, pad_id)
        shutil.rmtree(built, ignore_errors=True)
        model.save_pretrained(built)
        copy_tokenizer(Path(source), built)
    return Trained(built, done, metrics)


if __name__ == "__main__":
    sys.exit(main("reward", train))
