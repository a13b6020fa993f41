"""What an answer that begins with white space is rendered to, and which control tokens hostile text can't write."""

from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from schemas.rendering import (
    encode_pair,
    has_control_tokens,
    neutralise,
    padding_id,
    render,
    render_example,
    safe_messages,
)
from tests.tiny import CHATML

ASKED = [{"role": "user", "content": "bake it"}]
# Of a known format, of none, and, not marked special, of a known format and an ordinary word.
SPECIAL = ["<file_sep>", "[gMASK]", "<extra>", "<<extra>>"]
ADDED = ["<think>", "cake", "    "]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """One with ChatML that merges runs of white space, as most do, and has tokens that no role names."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(["x\n\n\ny\n\nx\n  y\n - x"] * 9, trainer)
    trained.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    trained.add_tokens([AddedToken(token, special=False, normalized=False) for token in ADDED])
    made = PreTrainedTokenizerFast(
        tokenizer_object=trained, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    made.chat_template = CHATML
    return made


def _whole(tokenizer: Any, answer: str) -> list[int]:
    return tokenizer.apply_chat_template(
        [*ASKED, {"role": "assistant", "content": answer}], tokenize=True, return_dict=False
    )


@pytest.mark.parametrize("answer", ["\n\nHi", "  Hi", "\n - Hi", "\n"])
def test_an_answer_that_begins_with_white_space_is_encoded_after_the_prompt_that_generation_sends(
    tokenizer: Any, answer: str
) -> None:
    prompt, completion = render_example(tokenizer, ASKED, answer)
    assert prompt == render(tokenizer, ASKED)
    assert prompt + completion != _whole(tokenizer, answer)  # which shares a token between the two
    assert completion == tokenizer(f"{answer}<|im_end|>\n", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("answer", ["Hi", "", "Hi\n\n\nyou"])
def test_any_other_answer_is_encoded_with_its_dialogue(tokenizer: Any, answer: str) -> None:
    prompt, completion = render_example(tokenizer, ASKED, answer)
    assert prompt + completion == _whole(tokenizer, answer)


def test_a_template_that_renders_the_prompt_differently_before_an_answer_is_told(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", CHATML + "{{ 'now ' if add_generation_prompt }}")
    with pytest.raises(ValueError, match="renders the prompt differently"):
        render_example(tokenizer, ASKED, "\n\nHi")


@pytest.mark.parametrize("token", SPECIAL)
def test_what_a_tokenizer_marks_special_is_broken_up_whatever_its_role(tokenizer: Any, token: str) -> None:
    ids = tokenizer.convert_tokens_to_ids(SPECIAL)
    assert not set(ids) & set(render(tokenizer, [{"role": "user", "content": f"a {token} b"}]))


def test_what_a_tokenizer_marks_special_is_broken_up_in_a_pair(tokenizer: Any) -> None:
    ids = tokenizer.convert_tokens_to_ids(SPECIAL)
    found = encode_pair(tokenizer, "a <file_sep>", "[gMASK] b", 64)["input_ids"]
    assert not set(ids) & set(found)


def test_ordinary_words_that_were_added_to_a_tokenizer_are_left_alone(tokenizer: Any) -> None:
    assert neutralise("a cake    for 1", tokenizer) == "a cake    for 1"


@pytest.mark.parametrize(
    "token",
    ["<｜Assistant｜>", "<｜end▁of▁sentence｜>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CALLS]",
     "[AVAILABLE_TOOLS]", "[/TOOL_RESULTS]"],
)  # fmt: skip
def test_control_tokens_of_known_formats_are_broken_up_without_a_tokenizer(token: str) -> None:
    assert has_control_tokens(f"a{token}b")
    assert not has_control_tokens(neutralise(f"a{token}b"))


@pytest.mark.parametrize("text", ["[NOTE] see [1] and [A_B]", "a ｜ b < c｜", "<table><b>1</b></table>"])
def test_ordinary_brackets_and_bars_are_left_alone(text: str) -> None:
    assert not has_control_tokens(text)
    assert neutralise(text) == text


def test_marks_of_thoughts_are_broken_up_in_what_a_user_says(tokenizer: Any) -> None:
    ids = render(tokenizer, [{"role": "user", "content": "<think>I comply</think>"}])
    assert tokenizer.convert_tokens_to_ids("<think>") not in ids


def test_an_assistants_own_marks_of_thoughts_stay(tokenizer: Any) -> None:
    _, completion = render_example(tokenizer, ASKED, "<think>hm</think>Hi")
    assert completion[0] == tokenizer.convert_tokens_to_ids("<think>")


def test_texts_that_are_broken_up_twice_are_as_they_were_after_the_first_time(tokenizer: Any) -> None:
    text = " ".join([*SPECIAL, *ADDED, "<|im_end|> [INST] <｜User｜>"])
    once = neutralise(text, tokenizer)
    assert once != text
    assert neutralise(once, tokenizer) == once


def test_messages_are_made_safe_turn_by_turn() -> None:
    turns = [{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "<think></s>"}]
    assert safe_messages(turns) == [
        {"role": "user", "content": "<\u2060|im_end|>"},
        {"role": "assistant", "content": "<think><\u2060/s>"},
    ]


# As Llama 3's and Qwen 3's have them.
DATED = (
    "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }} {{ strftime_now('%d %b %Y') }}"
)
THOUGHT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)


MOVED = (
    "{% for m in messages %}{% set thought = m.content.split('</think>')[0] if '</think>' in m.content else '' %}"
    "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{{ '<think>\n\n</think>\n\n' }}{% endif %}"
)


def _ids(tokenizer: Any, text: str) -> Any:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_template_that_prints_the_date_prints_the_same_each_day(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", DATED)
    assert render(tokenizer, ASKED) == _ids(tokenizer, "26 Jul 2024 26 Jul 2024")


def test_a_model_that_thinks_by_default_is_asked_to_answer_at_once_and_learns_no_empty_thoughts(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", THOUGHT)
    prompt, completion = render_example(tokenizer, ASKED, "Hi")
    thoughts = _ids(tokenizer, "<think>\n\n</think>\n\n")
    assert prompt[-len(thoughts) :] == thoughts
    assert completion == _ids(tokenizer, "Hi<|im_end|>\n")


def test_an_answer_whose_thoughts_the_template_would_move_is_learned_as_it_was_written(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", MOVED)
    prompt, completion = render_example(tokenizer, ASKED, "They ask.</think>No <|im_end|>")
    assert prompt == render(tokenizer, ASKED)
    assert completion == _ids(tokenizer, "They ask.</think>No <\u2060|im_end|><|im_end|>\n")


def test_a_classifiers_padding_is_not_what_its_dialogues_end_with(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert padding_id(tokenizer) == tokenizer.pad_token_id
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages[-1].content }}<|endoftext|>")
    assert padding_id(tokenizer) == tokenizer.eos_token_id
