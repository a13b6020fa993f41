"""The one rendering: messages to token ids, for generation, scoring and training alike.

A server's own chat template is used only by endpoints that hide their tokens. Text written by a model or a user is
hostile: special tokens in it are broken up before templating, so that it can't open a turn of its own.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Protocol
from weakref import WeakKeyDictionary

Message = Mapping[str, str]

# The word joiner: invisible, no white space, and no tokenizer gives it a special meaning.
_BREAK = "\u2060"
# Control tokens of the chat formats in use, known whatever tokenizer is at hand: <|im_end|>, the same with full-width
# bars (U+FF5C), <s>, [INST], <<SYS>>. Java, too, reads this pattern.
CONTROL_TOKENS = re.compile(
    r"<[|\uff5c][^<>|\n]{1,64}[|\uff5c]>|</?s>|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT)\]",
    re.I,
)
# Marks that a model writes by itself around its thoughts and its calls of tools: control tokens only in what others wrote.
_MARKS = re.compile(r"</?(?:think|tool_call|tool_response)>", re.I)
_NEVER = "(?!)"
_PLAIN = "Yes."  # an answer that no template changes
# What templates ask for of whoever renders, the same each time. Without a date Llama 3's prints the day's, with which a prompt would
# be another one tomorrow; without the flag those of Qwen 3, GLM and SmolLM 3 have the model think aloud before it answers.
_DAY = date(2024, 7, 26)
_FIXED: Mapping[str, Any] = {
    "date_string": _DAY.strftime("%d %b %Y"),
    "strftime_now": _DAY.strftime,
    "enable_thinking": False,
}


# How every tokenizer is read: transformers would take Mistral's own format, which renders and counts otherwise, where it lies beside.
READING: Mapping[str, Any] = {"trust_remote_code": False, "mistral_format": False}


class Tokenizer(Protocol):
    """What rendering needs of a Hugging Face tokenizer."""

    all_special_tokens: list[str]
    added_tokens_decoder: dict[int, Any]
    chat_template: Any

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...

    def num_special_tokens_to_add(self, pair: bool = ...) -> int: ...

    def __call__(self, text: str, text_pair: str | None = None, **options: Any) -> Any: ...


def has_control_tokens(text: str) -> bool:
    """Whether a text holds a chat-control token of a known format."""
    return CONTROL_TOKENS.search(text) is not None


def neutralise(text: str, tokenizer: Tokenizer | None = None, *, own: bool = False) -> str:
    """Break up chat-control tokens, drop NULs and replace lone surrogates, leaving all other text as it is.

    A word joiner goes after the first character of each control token: a reader sees the same text, a tokenizer
    no longer sees the token.

    Args:
        text: hostile.
        tokenizer: what it marks special is broken up beside the tokens of known formats.
        own: the text is the assistant's turn in a dialogue that it is to go on from or to learn, so the marks around its
            thoughts and calls stay.
    """
    text = text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
    text = CONTROL_TOKENS.sub(_broken, text)
    if not own:
        text = _MARKS.sub(_broken, text)
    if tokenizer is None:
        return text
    special, before = _special_tokens(tokenizer), ""
    while before != text:  # a special token may hold another
        before, text = text, special.sub(_broken, text)
    return text


def _broken(found: re.Match[str]) -> str:
    return found[0][0] + _BREAK + found[0][1:]


_special: WeakKeyDictionary[Tokenizer, re.Pattern[str]] = WeakKeyDictionary()


def _special_tokens(tokenizer: Tokenizer) -> re.Pattern[str]:
    """What finds a tokenizer's special tokens, the longest first; made once a tokenizer.

    `all_special_tokens` has those with a role (end of text, padding) only. Tokens that were added and are not marked special
    can be ordinary words, digits or runs of spaces, so of these only what has a known format is broken up.
    """
    if (made := _special.get(tokenizer)) is None:
        marked = {str(added.content) for added in tokenizer.added_tokens_decoder.values() if added.special}
        tokens = {
            token
            for token in marked.union(tokenizer.all_special_tokens)
            if len(token) > 1 and token.strip() and _BREAK not in token
        }
        ordered = sorted(tokens, key=lambda token: (-len(token), token))
        made = _special[tokenizer] = re.compile("|".join(map(re.escape, ordered)) or _NEVER)
    return made


def safe_messages(messages: Sequence[Message], tokenizer: Tokenizer | None = None) -> list[dict[str, str]]:
    """Messages with their control tokens broken up, as a model is asked with them, whoever renders.

    Args:
        messages: dicts with `role` and `content`.
        tokenizer: as `neutralise` has it.
    """
    return [
        {
            "role": item["role"],
            "content": neutralise(item["content"], tokenizer, own=item["role"] == "assistant"),
        }
        for item in messages
    ]


def render(tokenizer: Tokenizer, messages: Sequence[Message], *, completion: str | None = None) -> list[int]:
    """Token ids of a conversation up to the assistant's turn, or through the end of that turn.

    Args:
        tokenizer: a tokenizer with a chat template.
        messages: dicts with `role` (system, user or assistant) and `content`.
        completion: the assistant's answer; None leaves the turn open for generation.

    A template that prints the date prints 26 July 2024, whatever the day is, and one that has a model think before it answers
    has it answer at once (`enable_thinking`).

    Returns:
        Token ids. With a completion, they begin with the ids of the open turn wherever template and tokenizer allow it.
    """
    rendered = _templated(tokenizer, messages, completion, tokenize=True, return_dict=True)
    return [int(token) for token in rendered["input_ids"]]


def _templated(
    tokenizer: Tokenizer, messages: Sequence[Message], completion: str | None, **options: Any
) -> Any:
    """What the chat template makes of a dialogue, as `render` has it."""
    answer = [] if completion is None else [{"role": "assistant", "content": completion}]
    safe = safe_messages([*messages, *answer], tokenizer)
    return tokenizer.apply_chat_template(safe, add_generation_prompt=completion is None, **_FIXED, **options)


def render_example(
    tokenizer: Tokenizer, messages: Sequence[Message], completion: str
) -> tuple[list[int], list[int]]:
    """Token ids of (prompt, completion) for supervised fine-tuning; their concatenation is the whole dialogue.

    The prompt's ids are exactly those that generation sends, so a model is trained on what it will be asked. An answer that
    begins with white space can share a token with the end of the open turn where the dialogue is encoded at once. A model
    that goes on from the open turn can't write such a token, so there the answer is encoded by itself. So is one whose marks of
    thought the template would move out of it: it is learned as it was written after the open turn.

    Raises:
        ValueError: the chat template renders the open turn differently from the closed one.
    """
    prompt = render(tokenizer, messages)
    whole = render(tokenizer, messages, completion=completion)
    if whole[: len(prompt)] == prompt:
        return prompt, whole[len(prompt) :]
    opened: str = _templated(tokenizer, messages, None, tokenize=False)
    closed: str = _templated(tokenizer, messages, completion, tokenize=False)
    if not closed.startswith(opened):
        plain: str = _templated(tokenizer, messages, _PLAIN, tokenize=False)
        if not plain.startswith(opened + _PLAIN):
            raise ValueError(
                "the chat template renders the prompt differently once an answer follows; "
                "use a template whose generation prompt is a prefix of the assistant's turn"
            )
        closed = opened + neutralise(completion, tokenizer, own=True) + plain[len(opened + _PLAIN) :]
    answer = tokenizer(closed[len(opened) :], add_special_tokens=False, truncation=False, verbose=False)
    return prompt, [int(token) for token in answer["input_ids"]]


def cut_pair(tokenizer: Tokenizer, prompt: str, response: str, max_length: int) -> tuple[str, str]:
    """The heads of a prompt and a response that fit together, control tokens broken up; the whole texts where they fit.

    The response gets at least half of the room, or all of itself if it needs less, and the prompt what is left. A text
    that ends where one of its tokens ends has the same tokens up to there, so the cut texts encode to what was counted. None
    is cut within a character that several tokens make up.

    Args:
        tokenizer: a fast tokenizer; with a chat template the two are a dialogue of two turns, else its pair.
        prompt: the user's last message.
        response: the answer to judge.
        max_length: most tokens, special ones included; at least 8.

    Raises:
        ValueError: `max_length` leaves no room for the two texts.
    """
    texts = neutralise(prompt, tokenizer), neutralise(response, tokenizer)
    taken = (
        len(_turns(tokenizer, "", ""))
        if tokenizer.chat_template
        else tokenizer.num_special_tokens_to_add(pair=True)
    )
    places = [_places(tokenizer, text) for text in texts]
    kept = _shares(len(places[0]), len(places[1]), max_length - taken)
    return _head(texts[0], places[0], kept[0]), _head(texts[1], places[1], kept[1])


def encode_pair(tokenizer: Tokenizer, prompt: str, response: str, max_length: int) -> dict[str, list[int]]:
    """Model inputs of a sequence classifier for one (prompt, response); the same for training and scoring.

    A tokenizer without a chat template encodes the two texts as its pair; one with a chat template renders them as a
    dialogue of two turns. What is too long is cut by `cut_pair`.

    Args:
        tokenizer, prompt, response, max_length: as `cut_pair` has them.

    Returns:
        The tokenizer's model inputs (`input_ids`, `attention_mask`, `token_type_ids` where it has them), each a list
        of one length of at most `max_length`.

    Raises:
        ValueError: `max_length` leaves no room for the two texts.
    """
    cut = cut_pair(tokenizer, prompt, response, max_length)
    if tokenizer.chat_template:
        ids = _turns(tokenizer, *cut)[:max_length]
        return {"input_ids": ids, "attention_mask": [1] * len(ids)}
    encoded = tokenizer(*cut, truncation=True, max_length=max_length, verbose=False)
    return {name: [int(value) for value in values] for name, values in encoded.items()}


def padding_id(tokenizer: Tokenizer) -> int:
    """The token to pad a sequence classifier's inputs with: the tokenizer's own, unless it ends what `encode_pair` gives.

    A decoder's classification head reads the last token that is no padding, and so would read another than the last.

    Raises:
        ValueError: as `encode_pair`.
    """
    last = encode_pair(tokenizer, "a", "b", 4096)["input_ids"][-1]
    named = [getattr(tokenizer, f"{name}_token_id") for name in ("pad", "eos", "bos", "unk")]
    return next(int(token) for token in [*named, 0, 1] if token not in (None, last))


def _shares(prompt: int, response: int, room: int) -> tuple[int, int]:
    """How many of their tokens a prompt and a response keep in a room that may be too small for both."""
    if room < 2:
        raise ValueError(f"max_length leaves {room} tokens for prompt and response; raise it")
    kept = min(response, max(room - prompt, (room + 1) // 2))
    return min(prompt, room - kept), kept


def _turns(tokenizer: Tokenizer, prompt: str, response: str) -> list[int]:
    return render(tokenizer, [{"role": "user", "content": prompt}], completion=response)


def _head(text: str, places: Sequence[tuple[int, int]], count: int) -> str:
    """A text up to the end of so many of its tokens, or of the last before which a character ends."""
    if count == len(places):
        return text
    while count and places[count - 1][1] > places[count][0]:
        count -= 1
    return text[: places[count - 1][1] if count else 0]


def _places(tokenizer: Tokenizer, text: str) -> list[tuple[int, int]]:
    """Where each token of a text begins and ends, in characters."""
    options: dict[str, Any] = {"add_special_tokens": False, "return_offsets_mapping": True}
    encoded = tokenizer(text, truncation=False, verbose=False, **options)
    return [(begin, end) for begin, end in encoded["offset_mapping"]]
