"""An adapter merged into its base, as a plain Hugging Face directory: `python -m training.merge`."""

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from schemas.manifests import CARD_FILE, MERGED_FILE, CheckpointManifest, weights_sha256
from training.cards import model_card
from training.causal import forget_generation
from training.checkpoints import copy_tokenizer, prove_checkpoint, prove_weights
from training.errors import JobError, TrainingError
from training.runtime import end_with_parent

log = logging.getLogger(__name__)


def merge(checkpoint: Path, base: Path, output: Path) -> CheckpointManifest:
    """Write base and adapter as one model, which loads without peft; a whole model is copied.

    The sum is made in float32 and kept in the base's type. `merged.json`, written last, holds the checkpoint's id and
    the digest of the merged weights.

    Args:
        checkpoint: directory with `checkpoint.json`, which is proved first.
        base: the directory of the base that the checkpoint names.
        output: a directory on a local disk that does not exist or is empty; weights are renamed into place.

    Raises:
        ProofError: checkpoint or base differ from their digests.
        JobError: `output` holds something.
    """
    manifest = prove_checkpoint(checkpoint)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise JobError(f"{output} is not an empty directory; choose another")
    output.mkdir(parents=True, exist_ok=True)
    if manifest.settings.get("method") == "lora":
        prove_weights(base, manifest.base_digest, "base")
        model: Any = AutoModelForCausalLM.from_pretrained(
            base, dtype="auto", trust_remote_code=False, local_files_only=True, use_safetensors=True
        )
        forget_generation(model)
        # Some models keep single weights, such as a router's, in float32 where the others are not.
        dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
        merged: Any = PeftModel.from_pretrained(model.to(torch.float32), str(checkpoint)).merge_and_unload()
        for name, tensor in merged.state_dict(keep_vars=True).items():
            tensor.data = tensor.data.to(dtypes[name])
        merged.save_pretrained(output)
        copy_tokenizer(base, output)
    else:
        for entry in manifest.files:
            shutil.copyfile(checkpoint / entry.name, output / entry.name)
    (output / CARD_FILE).write_text(model_card(manifest))
    done = {"checkpoint_id": manifest.checkpoint_id, "weights_sha256": weights_sha256(output)}
    (output / MERGED_FILE).write_text(json.dumps(done, indent=1) + "\n")
    log.info("merged checkpoint %s into %s", manifest.checkpoint_id, output)
    return manifest


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit codes as those of the trainers."""
    parser = argparse.ArgumentParser(prog="python -m training.merge", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    end_with_parent()
    try:
        merge(options.checkpoint, options.base, options.output)
    except TrainingError as error:
        log.error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
