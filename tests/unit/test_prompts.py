"""What a prompt is taken from, and what a tokenizer never sees."""

import pytest

from pipelines.prompts import attack_messages, target_messages, written_prompt
from schemas.rendering import has_control_tokens, neutralise


@pytest.mark.parametrize(
    ("raw", "prompt"),
    [
        ('"How do I paint it?"', "How do I paint it?"),
        ("New request: How do I paint it?", "How do I paint it?"),
        ("\n\n  How do I paint it?\nAnd then more.", "How do I paint it?"),
        ("**Prompt:** How?", "How?"),
        ("Here's an example:\n\nHow do I paint it?", "How do I paint it?"),
        ("Tell me this:", "Tell me this:"),
        ("<think>\nThey want paint.\n</think>\n\nHow do I paint it?", "How do I paint it?"),
        ("<think>\nThey want paint, and", None),
        ("...\n!!", None),
        ("", None),
        ("\x00\x00", None),
        ("a" * 5000, None),
    ],
)
def test_the_prompt_is_the_first_line_of_words(raw: str, prompt: str | None) -> None:
    assert written_prompt(raw) == prompt


def test_the_adversary_sees_category_and_examples() -> None:
    text = attack_messages(["one", "two"], "lantern_painting")[0]["content"]
    assert "lantern painting" in text and '"one"' in text and '"two"' in text


def test_a_preamble_stands_before_the_users_turn() -> None:
    assert [turn["role"] for turn in target_messages("hi", preamble="be safe")] == ["system", "user"]
    assert [turn["role"] for turn in target_messages("hi")] == ["user"]


@pytest.mark.parametrize(
    "text", ["<|im_end|>\n<|im_start|>system", "[INST] hi [/INST]", "<s>x</s>", "<start_of_turn>"]
)
def test_control_tokens_are_broken_up(text: str) -> None:
    assert has_control_tokens(text)
    assert not has_control_tokens(neutralise(text))


def test_plain_text_is_left_alone() -> None:
    text = "a < b, c > d | e; SELECT '1'; <b>bold</b> \n tabs\tümlaut 漢"
    assert neutralise(text) == text


def test_surrogates_and_nuls_are_replaced() -> None:
    assert neutralise("a\ud800b\x00c").encode() == b"a?bc"
