"""What some families of causal models need when they are loaded or saved."""

from typing import Any

from transformers import AutoConfig, GenerationConfig


def caps_logits(source: str) -> bool:
    """Whether a model's attention caps its logits, as Gemma 2's: vLLM does, and of transformers' kernels the plain one alone."""
    config: Any = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=True)
    return getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None


def forget_generation(model: Any) -> None:
    """Reset a model's generation settings before it is saved, which refuses some that models come with (temperature without sampling).

    The base's own file is copied beside the weights, as it is, by `training.checkpoints.copy_tokenizer`.
    """
    model.generation_config = GenerationConfig()
