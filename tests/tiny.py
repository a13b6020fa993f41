"""Tiny random models as directories, for tests where quality is no matter and loading is."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

WORDS = "how do you make a cake bread soup with salt sugar flour please tell me the best way to bake it now".split()
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


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


def llama(
    path: Path, positions: int = 256, seed: int = 0, *, classifier: bool = False, **settings: Any
) -> Path:
    """A random Llama of two layers with a ChatML tokenizer, as a directory; with a classifier's head, a finished reward model.

    Args:
        path: the directory.
        positions, seed: of the model.
        classifier: whether it is one.
        settings: of its configuration, in place of those here.
    """
    trained = _train(Tokenizer(models.BPE()), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(path)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=positions, tie_word_embeddings=not classifier, pad_token_id=0,
        num_labels=1 if classifier else 2,
    )  # fmt: skip
    config.update(settings)
    (LlamaForSequenceClassification if classifier else LlamaForCausalLM)(config).save_pretrained(path)
    return path


def bert(path: Path, *, classifier: bool = False, **settings: Any) -> Path:
    """A random BERT of two layers with a pair template, likewise."""
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
        max_position_embeddings=128, num_labels=1,
    )  # fmt: skip
    config.update(settings)
    model = BertForSequenceClassification(config) if classifier else BertModel(config)
    model.save_pretrained(path)
    return path
