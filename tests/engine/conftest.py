"""A tiny random llama with two trained-looking LoRA adapters: real weights for the real engine, where quality is no matter."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipelines.engines.protocol import Adapter

VOCABULARY = 320
# All the JSON that a model of whole words can write.
JSON = ('{"label":', '"refused"}', '"complied"}', '"neither"}')


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Directory of a two-layer llama of head size 64 and a word-level tokenizer, in safetensors."""
    path = tmp_path_factory.mktemp("tiny") / "base"
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {
        f"w{index}": index for index in range(3, VOCABULARY - len(JSON))
    }
    words |= {word: VOCABULARY - len(JSON) + index for index, word in enumerate(JSON)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    fast.chat_template = "{% for message in messages %}<s> {{ message['content'] }} {% endfor %}"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.15,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    fast.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def adapters(tiny_model: Path) -> list[Adapter]:
    """Two adapters of rank 8 with random lora_B, which change the output, and one untrained, which does not."""
    found = []
    for index, spread in enumerate((0.3, 0.3, 0.0)):
        torch.manual_seed(10 + index)
        config = LoraConfig(
            r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"
        )
        model = get_peft_model(LlamaForCausalLM.from_pretrained(tiny_model), config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=spread)
        path = tiny_model.parent / f"adapter-{index}"
        model.save_pretrained(path)
        found.append(Adapter(f"adapter-{index}", str(path)))
    return found
