"""The loop that both kinds of training share: a Trainer with one loss, resumable states and loud failure."""

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from schemas.manifests import LoopSettings
from training.errors import DivergedError, JobError
from training.runtime import barrier, computing_dtype, rank, shared, world_size
from training.states import STATE_WEIGHTS, StateKeeper, newest_state

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]
# The sum of weighted losses in a batch. `batch["loss_weight"]` sums to what it is divided by.
Objective = Callable[[nn.Module, Batch], Tensor]
Collate = Callable[[Sequence[Mapping[str, Any]]], Batch]

_REPORT_SECONDS = 30.0


@dataclass(frozen=True)
class Fit:
    """What training came to.

    Attributes:
        losses: (step, mean loss of that step), all steps, those before a resume included.
        seconds: wall-clock seconds of training, those before a resume up to its state included.
        resumed: how often training went on from a state.
    """

    losses: list[tuple[int, float]]
    seconds: float
    resumed: int

    def metrics(self) -> dict[str, float | int]:
        """Steps, seconds, and the mean loss over the first and last tenth of the steps."""
        values = [loss for _, loss in self.losses]
        tenth = max(1, len(values) // 10)
        return {
            "steps": len(values),
            "seconds": round(self.seconds, 3),
            "train_loss_start": sum(values[:tenth]) / tenth,
            "train_loss_end": sum(values[-tenth:]) / tenth,
        }


class Rows(Dataset[Mapping[str, Any]]):
    """Tokenised rows, in order of position."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self._rows[index]


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch; call it before a model draws its first weights."""
    set_seed(seed % 2**32)


def pad(sequences: Sequence[Sequence[int] | Sequence[float]], value: float, dtype: torch.dtype) -> Tensor:
    """Rows of different lengths as one tensor [rows, longest], padded on the right."""
    longest = max(len(sequence) for sequence in sequences)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in sequences], dtype=dtype)


def fit(
    model: nn.Module,
    rows: Sequence[Mapping[str, Any]],
    collate: Collate,
    objective: Objective,
    settings: LoopSettings,
    *,
    seed: int,
    scratch: Path,
    identity: str,
) -> Fit:
    """Train a model in place, from the newest whole state if there is one.

    The loss of a step is the objective summed over all its micro-batches and processes, divided by the sum of
    `loss_weight` over them. Same model, rows, settings, seed, device and number of threads and processes give the
    same weights, however often the process was killed on the way. With several processes, the last batch of an epoch
    is filled up with rows of its beginning.

    Args:
        model: on the CPU; weights that learn are float32.
        rows: tokenised rows.
        collate: rows to a batch, which holds `loss_weight`.
        objective: see `Objective`.
        settings: how to train.
        seed: in [0, 2**63).
        scratch: directory on a local disk for states.
        identity: digest of all that decides the weights; states of another identity are not used.

    Raises:
        JobError: the batch can't be shared evenly among the processes.
        DivergedError: loss or gradient stopped being finite.
    """
    arguments = _arguments(settings, len(rows), seed, scratch / "states")
    found = newest_state(scratch / "states", identity) if rank() == 0 else None
    found = shared(found)
    keeper = StateKeeper(
        identity, found[1]["resumed"] + 1 if found else 0, found[1]["seconds"] if found else 0.0
    )
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=Rows(rows),
        data_collator=collate,
        callbacks=[_Watch(), keeper],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.objective = objective
    if found:
        log.info("resuming from %s", found[0].name)
    barrier()
    trainer.train(resume_from_checkpoint=str(found[0]) if found else None)
    # The model's `forward` computes as it did before, without the Trainer's autocast: who measures it next serves it so.
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    history = [
        (int(entry["step"]), float(entry["loss"])) for entry in trainer.state.log_history if "loss" in entry
    ]
    return Fit(history, keeper.seconds, keeper.resumed)


def _warmup_steps(settings: LoopSettings, rows: int) -> int:
    """Whole steps of warm-up, rounded down: rounded up, the only step of a tiny set would have a learning rate of 0."""
    steps = (
        math.ceil(math.ceil(rows / settings.batch_size) / settings.gradient_accumulation) * settings.epochs
    )
    return int(settings.warmup_ratio * steps)


def _arguments(settings: LoopSettings, rows: int, seed: int, directory: Path) -> TrainingArguments:
    processes = world_size()
    if settings.batch_size % processes:
        raise JobError(
            f"batch_size {settings.batch_size} can't be shared evenly by {processes} processes; start "
            f"{math.gcd(settings.batch_size, processes)} of them, or change batch_size in the recipe"
        )
    cpu = not torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(directory),
        per_device_train_batch_size=settings.batch_size // processes,
        gradient_accumulation_steps=settings.gradient_accumulation,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup" if settings.scheduler == "constant" else settings.scheduler,
        warmup_steps=_warmup_steps(settings, rows),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=computing_dtype(settings.dtype) is torch.bfloat16,
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        seed=seed % 2**32,
        use_cpu=cpu,
        ddp_backend=("gloo" if cpu else "nccl") if processes > 1 else None,
        ddp_find_unused_parameters=False,
        # Nothing that learns is a buffer; and processes may read their share of a batch in different numbers of passes.
        ddp_broadcast_buffers=False,
        save_strategy="steps" if settings.save_every_steps else "no",
        save_steps=settings.save_every_steps or 500,
        save_total_limit=None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        dataloader_pin_memory=not cpu,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
    )
    # Several GPUs without torchrun would mean torch's DataParallel; one is used instead.
    if arguments.n_gpu > 1:
        log.warning("using one of %d GPUs; start the job with torchrun to use them all", arguments.n_gpu)
        arguments._n_gpu = 1
    return arguments


class _Trainer(Trainer):
    """A Trainer whose loss is exactly the weighted mean over everything between two optimizer steps."""

    loss_is_scaled_for_ga = True
    objective: Objective

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """A state's weights: an adapter as peft has it, a whole model as it is in memory.

        What `save_pretrained` writes has the names and shapes of the base's file, which for some models are others than those of
        the parameters; a state is read back without that translation, and what has no name there would stay the base's.
        """
        if hasattr(self.model, "peft_config"):
            super()._save(output_dir, state_dict)
            return
        folder = Path(str(output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self._whole(), str(folder / STATE_WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if hasattr(self.model, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        load_model(self._whole(), Path(resume_from_checkpoint) / STATE_WEIGHTS, strict=True)

    def _whole(self) -> nn.Module:
        assert self.model is not None
        return self.model

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        total = torch.stack([batch["loss_weight"].sum() for batch in batches]).sum().to(device)
        return batches, self.accelerator.gather(total).sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        # DistributedDataParallel averages gradients over the processes; the divisor counts all of them already.
        assert num_items_in_batch is not None
        return self.objective(model, inputs) / num_items_in_batch * self.accelerator.num_processes


class _Watch(TrainerCallback):
    """Fails on a loss or gradient that is not finite, and shows progress: a bar to a person, lines to a log."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._reported = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if rank() == 0:
            log.info("training: %d steps, from step %d", state.max_steps, state.global_step)
            watched = sys.stderr.isatty()
            self._bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                unit="step",
                desc="training",
                disable=not watched,
            )
            self._reported = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        for name in ("loss", "grad_norm"):
            value = float(logs.get(name, 0.0))
            if not math.isfinite(value):
                raise DivergedError(
                    f"{name} is {value} at step {state.global_step} of {state.max_steps}; lower learning_rate, or "
                    "look for broken examples; resuming from a state would end the same way"
                )
        if self._bar is None:
            return
        self._bar.update(state.global_step - self._bar.n)
        self._bar.set_postfix(loss=f"{logs['loss']:.3f}")
        if self._bar.disable:
            self._bar.n = state.global_step
            if time.monotonic() - self._reported >= _REPORT_SECONDS:
                self._reported = time.monotonic()
                log.info("step %d of %d, loss %.4f", state.global_step, state.max_steps, logs["loss"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._bar is not None:
            self._bar.close()
