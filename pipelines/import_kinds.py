"""What each kind of import needs of a row, and which row of which table it becomes.

Imported text is hostile: what could not be stored, shown or tokenised is refused with the remedy. Chat-control
tokens, HTML and SQL are plain text here; rendering neutralises the first, reports escape the second, and no text
reaches an SQL string.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.prompts import messages_json
from schemas.digests import text_sha256
from schemas.manifests import reward_example_sha256

LONGEST_TEXT = 20_000  # characters
_LONGEST_NAME = 200
_ROLES = ("system", "user", "assistant")
_BOOLEANS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}

Reader = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of ours.

    Attributes:
        name: what `fields` and `values` call it.
        read: turns a source's value into ours; raises ValueError with what is wrong with it and the remedy.
        required: whether a row without it is refused; otherwise it gets the default.
        default: its value where the source has none.
        also: further names of the source's column, tried when nothing is mapped.
    """

    name: str
    read: Reader
    required: bool = False
    default: Any = None
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Columns it is read from when nothing is mapped, the first that a row has."""
        return (self.name, *self.also)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of import: the table it fills, its fields, and the row they make."""

    table: str
    fields: tuple[Field, ...]
    build: Callable[[Mapping[str, Any]], dict[str, Any]]


def text(value: Any) -> str:
    """A text that is worth keeping and can be stored.

    Raises:
        ValueError: it is no text, shows nothing, is over 20,000 characters, or holds a NUL or a lone surrogate.
    """
    if not isinstance(value, str):
        raise ValueError(f"is of type {type(value).__name__}, not text; write it as a string")
    if len(value) > LONGEST_TEXT:
        raise ValueError(
            f"has {len(value):,} characters, over the limit of {LONGEST_TEXT:,}; shorten or split it"
        )
    if not any(letter.isprintable() and not letter.isspace() for letter in value.replace("\x00", "")):
        raise ValueError("is empty or shows nothing but white space; fill it in or remove the row")
    return _storable(value)


def _storable(value: str) -> str:
    if "\x00" in value:
        raise ValueError("holds a NUL character (U+0000); remove it")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        raise ValueError(
            f"holds a lone surrogate (U+{code:04X}), half a character that UTF-8 can't carry; repair its encoding"
        ) from None
    return value


def _answer(value: Any) -> str:
    """A judged answer; it may be empty, since a model's may, and a judge must learn what that is worth."""
    return value if (isinstance(value, str) and value.isspace()) or value == "" else text(value)


def _or_default(read: Reader, default: Any) -> Reader:
    """As `read`, but an empty text, which is how CSV writes nothing, gives the default."""
    return lambda value: default if isinstance(value, str) and not value.strip() else read(value)


def _name(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    found = text(value).strip()
    if len(found) > _LONGEST_NAME:
        raise ValueError(
            f"has {len(found)} characters, over the limit of {_LONGEST_NAME} for a name; shorten it"
        )
    return found


def _one_of(*options: str) -> Reader:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value.strip() not in options:
            raise ValueError(
                f"is none of {', '.join(options)}; correct it, or set it under values and pick rows by where"
            )
        return value.strip()

    return read


def _boolean(value: Any) -> bool:
    found = value if isinstance(value, bool) else _BOOLEANS.get(str(value).strip().lower())
    if found is None:
        raise ValueError("is no boolean; write true or false")
    return found


def _label(value: Any) -> float:
    remedy = "is no label; write a number in [0, 1], 1 for safe or helpful, or true or false"
    if isinstance(value, str):
        value = _BOOLEANS.get(value.strip().lower(), value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(remedy) from None
    if not math.isfinite(number) or not 0 <= number <= 1:
        raise ValueError(remedy)
    return number


def _dialogue(value: Any) -> str:
    """A prompt, or messages that end with the user, as the JSON text that tables hold."""
    if isinstance(value, str):
        return messages_json([{"role": "user", "content": text(value)}])
    if not isinstance(value, list) or not value:
        raise ValueError("is neither a prompt nor a list of messages; write [{role, content}, ...]")
    messages = [_message(at, message) for at, message in enumerate(value, start=1)]
    if messages[-1]["role"] != "user":
        raise ValueError("ends with a turn that is not the user's; leave the answer to the output field")
    size = sum(len(message["content"]) for message in messages)
    if size > LONGEST_TEXT:
        raise ValueError(f"has {size:,} characters, over the limit of {LONGEST_TEXT:,}; shorten the dialogue")
    return messages_json(messages)


def _message(at: int, message: Any) -> dict[str, str]:
    if not isinstance(message, dict) or set(message) != {"role", "content"}:
        raise ValueError(
            f"has a message {at} without exactly the keys role and content; write {{role, content}}"
        )
    if message["role"] not in _ROLES:
        raise ValueError(f"has a message {at} of an unknown role; write {', '.join(_ROLES)}")
    try:
        return {"role": message["role"], "content": text(message["content"])}
    except ValueError as error:
        raise ValueError(f"has a message {at} whose content {error}") from None


def _optional(name: str, read: Reader, default: Any = None, also: tuple[str, ...] = ()) -> Field:
    return Field(name, _or_default(read, default), default=default, also=also)


_TEXT = Field("text", text, required=True)
_SEED_FIELDS = (
    _TEXT,
    _optional("category", _name, "uncategorised"),
    _optional("style", _name, "unstyled"),
    _optional("split", _one_of("train", "dev", "test"), "train"),
)
_DIALOGUE = Field("input", _dialogue, required=True, also=("messages", "prompt"))
_JUDGED = (
    Field("aspect", _one_of("safety", "helpfulness"), required=True),
    _optional("annotator", _name, "unknown"),
    _optional("split", _one_of("train", "heldout"), "train"),
)


def _seed(values: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {"answer": None, **values, "kind": kind, "text_sha256": text_sha256(values["text"])}


def _instruction(values: Mapping[str, Any]) -> dict[str, Any]:
    row = dict(values)
    added = row.pop("input")
    instruction = row["instruction"] if added is None else f"{row['instruction']}\n\n{added}"
    if len(instruction) > LONGEST_TEXT:
        raise ValueError(
            f"instruction and input have {len(instruction):,} characters, over the limit of {LONGEST_TEXT:,}; shorten them"
        )
    return {**row, "instruction": instruction, "text_sha256": text_sha256(instruction)}


def _prompt(values: Mapping[str, Any]) -> dict[str, Any]:
    return {**values, "text_sha256": text_sha256(values["text"])}


def _preference(values: Mapping[str, Any]) -> dict[str, Any]:
    row = {"label": None, "rejected": None, **values}
    if row["rejected"] == row["output"]:
        raise ValueError(
            "the preferred and the rejected answer are the same; remove the row, it says nothing"
        )
    content = reward_example_sha256(row["input"], row["output"], row["label"], row["rejected"], row["split"])
    return {**row, "example_sha256": content}


KINDS: dict[str, Kind] = {
    "seeds": Kind("seed_prompts", _SEED_FIELDS, lambda values: _seed(values, "forbidden")),
    "benign": Kind(
        "seed_prompts",
        (*_SEED_FIELDS, Field("answer", text, required=True)),
        lambda values: _seed(values, "benign"),
    ),
    "instructions": Kind(
        "instructions",
        (
            Field("instruction", text, required=True),
            Field("answer", text, required=True),
            _optional("input", text),
            _optional("kind", _name, "instruction"),
            _optional("split", _one_of("train", "dev", "test", "warm_start"), "train"),
        ),
        _instruction,
    ),
    "suite": Kind(
        "evaluation_prompts",
        (
            _TEXT,
            Field("suite", _name, required=True),
            Field("split", _one_of("dev", "test"), required=True),
            Field("expected", _one_of("refuse", "comply"), required=True),
            _optional("category", _name),
            _optional("style", _name),
            _optional("seen_style", _boolean),
            _optional("reference", text),
        ),
        _prompt,
    ),
    "labels": Kind(
        "preferences",
        (
            _DIALOGUE,
            Field("output", _answer, True, also=("response",)),
            Field("label", _label, True),
            *_JUDGED,
        ),
        _preference,
    ),
    "pairs": Kind(
        "preferences",
        (_DIALOGUE, Field("output", text, True, also=("chosen",)), Field("rejected", text, True), *_JUDGED),
        _preference,
    ),
}
