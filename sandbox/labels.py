"""Labelled answers for the two reward models, right by construction and never by the judge.

In each group a forbidden and a benign request of one category and style get the same kinds of answer, so
that the label follows from what was asked *and* whether it was given, not from either text alone. An annotator of the
train split is shown the rows that decide its question, and few others: whether help is safe, whether a refusal was due.
A small encoder that sees all kinds alike learns to tell a refusal from an answer and nothing of what was asked.
"""

from __future__ import annotations

import random

from sandbox.answers import Request, help_answer, house_answer, house_refusal, refusal, refusal_then_help
from sandbox.lexicon import FORBIDDEN, word_list
from sandbox.tasks import tasks
from sandbox.templates import SEEN_STYLES
from sandbox.writer import Writer

Row = dict[str, str | int | bool | None]
FLIPPED = 0.04  # share of each label of the train split that is turned over
_OTHERS = 0.3  # share of the rows that decide nothing which an annotator sees all the same
_BARE = 0.35
_HOUSE = 0.5  # share of answers in the manner of the target that is to be judged
_LETTERS = "bcdfghjklmnpqrstvwxz"
_SALAD = word_list(
    "cloud seven purple of spoon running banana the nine slowly window green if fish very tree up"
)


def labelled(writer: Writer, split: str, groups: int, seed: int) -> list[Row]:
    """Rows of a split ("train" or "heldout"): prompt, response, labels, their truth, split, kind and who sees them."""
    rng = random.Random(f"{seed} {split}")
    cells = [(category, style) for category in FORBIDDEN for style in SEEN_STYLES]
    rng.shuffle(cells)
    rows: list[Row] = []
    for at in range(groups):
        category, style = cells[at % len(cells)]
        bad = writer.forbidden(category, style, "train", 1)[0]
        good, other = writer.benign(category, style, "train", 2)
        if rng.random() < 0.5:
            good, other = other, good
        rows += _group(at // len(cells) + at, bad, good, other[1], rng)
    for row in rows:
        row["split"] = split
        for sees in ("safety_sees", "helpfulness_sees"):
            row[sees] = bool(row[sees]) or split == "heldout" or rng.random() < _OTHERS
    rows = [row for row in rows if row["safety_sees"] or row["helpfulness_sees"]]
    rng.shuffle(rows)
    if split == "train":
        for label in ("safe", "helpful"):
            for row in rng.sample(rows, round(FLIPPED * len(rows))):
                row[label] = 1 if row[label] == 0 else 0
    return rows


def _group(
    at: int,
    bad: tuple[str, Request],
    good: tuple[str, Request],
    other: Request,
    rng: random.Random,
) -> list[Row]:
    variants = ("complied", "truncated", "turned", "complied")
    rows = [
        _row(bad, "complied", rng, forbidden=True),
        _row(bad, variants[at % 4], rng, forbidden=True),
        _row(bad, "refused", rng, forbidden=True),
        _row(good, "complied", rng, forbidden=False),
        _row(good, variants[(at + 1) % 4], rng, forbidden=False),
        _row(good, "refused", rng, forbidden=False),
    ]
    rows[0]["safety_sees"] = rows[3]["safety_sees"] = True  # help on the forbidden and on the benign request
    prompt, request = bad if at % 2 else good
    unhelpful = ("echo", "off_topic", "gibberish", "off_topic", "empty", "off_topic")[(at // 2) % 6]
    response = _unhelpful(unhelpful, prompt, request, other, rng)
    return [*rows, _labels(prompt, response, unhelpful, safe=1, helpful=0)]


def _row(asked: tuple[str, Request], kind: str, rng: random.Random, forbidden: bool) -> Row:
    prompt, request = asked
    if kind == "refused":
        text = (house_refusal if rng.random() < _HOUSE else refusal)(request, rng)
        if rng.random() < 0.1:
            text = _cut(text, 0.7, rng)
        return _labels(prompt, text, "refused", safe=1, helpful=int(forbidden))
    if kind == "turned":
        text = refusal_then_help(request, rng)
    else:
        house = rng.random() < _HOUSE
        text = house_answer(request, rng) if house else help_answer(request, rng, bare=_BARE)
        if kind == "truncated":
            text = _cut(text, 0.6, rng)
    return _labels(prompt, text, kind, safe=int(not forbidden), helpful=1)


def _labels(prompt: str, response: str, kind: str, safe: int, helpful: int) -> Row:
    return {
        "prompt": prompt,
        "response": response,
        "safe": safe,
        "helpful": helpful,
        "true_safe": safe,
        "true_helpful": helpful,
        "split": "",
        "kind": kind,
        "safety_sees": False,
        "helpfulness_sees": kind == "refused" or not helpful,
    }


def _cut(text: str, least: float, rng: random.Random) -> str:
    """The first part of a text, as a limit on new tokens leaves it: at least `least` of its words."""
    words = text.split()
    keep = rng.randint(min(len(words) - 1, max(8, int(least * len(words)))), len(words) - 1)
    return " ".join(words[:keep])


def _unhelpful(kind: str, prompt: str, request: Request, other: Request, rng: random.Random) -> str:
    if kind == "empty":
        return rng.choice(("", " ", "...", "\n"))
    if kind == "echo":
        return prompt if rng.random() < 0.6 else " ".join([prompt] * 2)
    if kind == "gibberish":
        letters = " ".join(
            "".join(rng.choices(_LETTERS, k=rng.randint(2, 7))) for _ in range(rng.randint(5, 14))
        )
        salad = " ".join(rng.choices(_SALAD, k=rng.randint(8, 16)))
        stuck = " ".join([request.named] * rng.randint(6, 14))
        return rng.choice((letters, salad, stuck))
    if other.action != request.action and rng.random() < 0.6:
        return help_answer(other, rng, bare=0.0)
    return rng.choice(tasks("train"))[1]
