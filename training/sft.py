"""Supervised fine-tuning of a target or an adversary: `python -m training.sft --manifest job.json`.

The loss is the cross-entropy of the completion's tokens, each example times its weight (MART, section 2: both models
learn from the curated (input, output) pairs of a round). Prompts are rendered as generation renders them.
"""

import inspect
import logging
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from schemas.manifests import SftSettings, TrainingJob, parse_messages
from schemas.rendering import READING, Tokenizer, render_example
from training.causal import caps_logits, forget_generation
from training.checkpoints import copy_tokenizer, normalise_adapter_config
from training.command import Trained, main
from training.errors import JobError, ProofError
from training.lengths import passes
from training.loop import Batch, Objective, fit, pad, seed_everything
from training.runtime import computing_dtype, rank
from training.trees import TokenTree, logits_at, reads_trees, tree_of

log = logging.getLogger(__name__)

_SHORT = 512  # tokens; plain attention keeps a square of them for each head and row


def tokenise(
    table: pa.Table, tokenizer: Tokenizer, max_length: int
) -> tuple[list[dict[str, Any]], dict[str, float | int]]:
    """The rows of a snapshot as token ids, and counts.

    What goes beyond `max_length` tokens is cut from the completion's end and counted.

    Returns:
        Rows with `input_ids` (prompt and completion), `prompt_tokens` and `weight`; the metrics `truncated_examples`,
        `tokens` and `completion_tokens`, of one epoch.

    Raises:
        JobError: a prompt leaves no room for a completion; the message names the positions.
        ProofError: the chat template can't render a row.
    """
    rows: list[dict[str, Any]] = []
    too_long: list[int] = []
    truncated = 0
    for row in table.to_pylist():
        try:
            prompt, completion = render_example(tokenizer, parse_messages(row["input"]), row["output"])
        except ValueError as error:
            raise ProofError(f"the row at position {row['position']} can't be rendered: {error}") from error
        if len(prompt) >= max_length:
            too_long.append(row["position"])
            continue
        truncated += len(prompt) + len(completion) > max_length
        ids = (prompt + completion)[:max_length]
        rows.append({"input_ids": ids, "prompt_tokens": len(prompt), "weight": row["weight"]})
    if too_long:
        some = ", ".join(map(str, too_long[:20])) + (", …" if len(too_long) > 20 else "")
        raise JobError(
            f"{len(too_long)} prompts fill max_length {max_length} and leave no room for a completion, at positions "
            f"{some}; raise max_length or leave them out of the training set"
        )
    total = sum(len(row["input_ids"]) for row in rows)
    prompts = sum(row["prompt_tokens"] for row in rows)
    counts = {"truncated_examples": int(truncated), "tokens": total, "completion_tokens": total - prompts}
    return rows, counts


def collator(pad_id: int) -> Callable[[Sequence[Mapping[str, Any]]], Batch]:
    """A function from rows to a batch: `input_ids`, `attention_mask` and `loss_weight`, each [rows, longest].

    `loss_weight` is an example's weight on its completion's tokens and 0 elsewhere.
    """

    def collate(rows: Sequence[Mapping[str, Any]]) -> Batch:
        ids = [row["input_ids"] for row in rows]
        weights = [
            [0.0] * row["prompt_tokens"] + [row["weight"]] * (len(row["input_ids"]) - row["prompt_tokens"])
            for row in rows
        ]
        return {
            "input_ids": pad(ids, pad_id, torch.long),
            "attention_mask": pad([[1] * len(row) for row in ids], 0, torch.long),
            "loss_weight": pad(weights, 0.0, torch.float32),
        }

    return collate


def completion_loss(keeps_logits: bool, tree_dtype: torch.dtype | None = None) -> Objective:
    """The weighted sum of cross-entropies over completion tokens.

    Args:
        keeps_logits: whether the model can give the logits of some tokens only (`logits_to_keep`).
        tree_dtype: what the model computes in, if a batch may be read as a tree of its tokens.
    """

    def of_one_pass(model: nn.Module, batch: Batch) -> Tensor:
        inputs = dict(batch)
        weight = inputs.pop("loss_weight")
        # The places at which some row has a token of its completion; prompts are often the longer part.
        learned = (weight > 0).any(dim=0).nonzero().flatten()
        logits = logits_at(model, inputs, learned - 1, keeps_logits).float()
        nll = nn.functional.cross_entropy(
            logits.flatten(0, 1), inputs["input_ids"][:, learned].flatten(), reduction="none"
        )
        return (nll * weight[:, learned].flatten()).sum()

    def of_tree(model: nn.Module, tree: TokenTree, dtype: torch.dtype) -> Tensor:
        logits = logits_at(model, tree.inputs(dtype), tree.parents, keeps_logits).float()
        nll = nn.functional.cross_entropy(logits[0], tree.tokens[0, tree.learned], reduction="none")
        return (nll * tree.weights).sum()

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        if tree_dtype is not None and (tree := tree_of(batch)) is not None:
            return of_tree(model, tree, tree_dtype)
        return torch.stack([of_one_pass(model, part) for _, part in passes(batch)]).sum()

    return loss


def load_model(job: TrainingJob, settings: SftSettings) -> nn.Module:
    """The model to train: an adapter on its frozen base, new or the parent's, or all weights of parent or base.

    Raises:
        JobError: a target module is in no layer or is tied to another, or the parent's adapter has another form than the settings ask for.
    """
    lora = settings.method == "lora"
    source = job.base.path if lora or job.parent is None else job.parent.path
    computes = computing_dtype(settings.dtype)
    # On a CPU, torch's fused attention takes three times as long backward in bfloat16 as in float32, on short rows.
    plain = computes is torch.bfloat16 and not torch.cuda.is_available() and settings.max_length <= _SHORT
    model = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=computes if lora else torch.float32,
        attn_implementation="eager" if plain or caps_logits(source) else None,
        trust_remote_code=False,
        local_files_only=True,
        use_safetensors=True,
    )
    if not lora:
        forget_generation(model)
        return model
    linear = {name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    if absent := sorted(set(settings.target_modules) - linear):
        raise JobError(f"target_modules {absent} name no linear layer of {source}; it has {sorted(linear)}")
    _refuse_tied_head(model, settings, source)
    if job.parent is not None:
        adapted = PeftModel.from_pretrained(model, job.parent.path, is_trainable=True)
        adapted.peft_config[
            "default"
        ].base_model_name_or_path = job.base.path  # the states' only; peft looks there
        _same_form(adapted, settings)
        return adapted
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]  # peft divides it; a float is fine
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.target_modules),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def _refuse_tied_head(model: Any, settings: SftSettings, source: str) -> None:
    """An adapter on an output layer that shares its weights with the embeddings would change both where it is merged."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embeddings.weight:
        return
    names = {name.rpartition(".")[2] for name, part in model.named_modules() if part is head}
    if targeted := sorted(names & set(settings.target_modules)):
        raise JobError(
            f"target_modules name {targeted[0]}, which shares its weights with the embeddings of {source}: merged, an adapter "
            "there would change both; leave it out"
        )


def _same_form(model: PeftModel, settings: SftSettings) -> None:
    config: Any = model.peft_config["default"]
    parent = settings.model_copy(
        update={
            "lora_rank": config.r,
            "lora_alpha": config.lora_alpha,
            "target_modules": tuple(config.target_modules),
        }
    )
    if parent.form != settings.form:
        raise JobError(
            f"the parent's adapter has the form {parent.form}, the settings ask for {settings.form}; "
            "an adapter keeps its form over the rounds"
        )
    for module in model.modules():
        if isinstance(dropout := getattr(module, "lora_dropout", None), nn.ModuleDict):
            dropout["default"] = nn.Dropout(settings.lora_dropout) if settings.lora_dropout else nn.Identity()


def save(model: Any, job: TrainingJob, settings: SftSettings, built: Path) -> None:
    """Write the finished weights and what is needed to load them to an empty directory."""
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir()
    if settings.method == "lora":
        model.save_pretrained(built, save_embedding_layers=False)
        normalise_adapter_config(built, job.base.digest)
        return
    model.to(computing_dtype(settings.dtype))
    model.save_pretrained(built)
    copy_tokenizer(Path(job.parent.path if job.parent else job.base.path), built)


def train(job: TrainingJob, table: pa.Table, scratch: Path) -> Trained:
    """Train a job's checkpoint on proven rows; see `training.command.run`."""
    settings = job.settings
    if not isinstance(settings, SftSettings) or "weight" not in table.column_names:
        raise JobError(
            "supervised fine-tuning needs rows with input, output and weight; this snapshot has others"
        )
    if stray := sorted(set(table.column("role").to_pylist()) - {job.role}):
        raise JobError(f"the snapshot has rows for the role {stray[0]!r}, the job trains {job.role!r}")
    tokenizer: Any = AutoTokenizer.from_pretrained(job.base.path, local_files_only=True, **READING)
    rows, counts = tokenise(table, tokenizer, settings.max_length)
    log.info(
        "%d examples, %d tokens, %d truncated", len(rows), counts["tokens"], counts["truncated_examples"]
    )
    seed_everything(job.seed)
    model = load_model(job, settings)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    keeps_logits = "logits_to_keep" in inspect.signature(base.forward).parameters
    dtype = computing_dtype(settings.dtype)
    # On a GPU, small batches wait for kernels to be launched, not for tokens; not measured.
    trees = not torch.cuda.is_available() and reads_trees(model, keeps_logits, dtype)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    done = fit(
        model, rows, collator(pad_id), completion_loss(keeps_logits, dtype if trees else None), settings,
        seed=job.seed, scratch=scratch, identity=job.identity(),
    )  # fmt: skip
    if rank() == 0:
        save(model, job, settings, scratch / "built")
    return Trained(scratch / "built", done, counts)


if __name__ == "__main__":
    sys.exit(main("sft", train))
