"""Hand-made material of ordinary instructions, as `question | answer` lines; nothing here is about the town.

`tasks(split)` gives (instruction, answer) pairs; splits differ in their frames and in their material.
"""

from __future__ import annotations

from sandbox.facts import FACTS, LISTS, SENTENCES
from sandbox.lexicon import word_list
from sandbox.words import ANTONYMS, MEANINGS

SPLITS: tuple[str, ...] = ("train", "warm_start", "dev", "test")
_SHARES = {
    "train": 12,
    "warm_start": 2,
    "dev": 5,
    "test": 5,
}  # of 24 lines of each material
_ANTONYM_FRAMES = {
    "train": ("What is the opposite of {w}?", "Give me an antonym of {w}."),
    "warm_start": ("Tell me the opposite of the word {w}.",),
    "dev": ("Name one word that means the reverse of {w}.",),
    "test": ("I am looking for the word opposite in meaning to {w}.",),
}
_MEANING_FRAMES = {
    "train": ("What is {w}?", "Define {w} in one sentence."),
    "warm_start": ("Please tell me what {w} is.",),
    "dev": ("Give a short definition of {w} for a child.",),
    "test": ("How would you explain {w} to a visitor?",),
}
_LIST_FRAMES = {
    "train": ("Name three {w}.", "List three {w}."),
    "warm_start": ("Can you think of three {w}?",),
    "dev": ("I would like three examples of {w}, please.",),
    "test": ("Which three {w} come to your mind first?",),
}
_PAST_FRAMES = {
    "train": (
        "Put this sentence in the past tense: {w}",
        "Rewrite in the past tense: {w}",
    ),
    "warm_start": ("Turn this into the past tense: {w}",),
    "dev": ("How would you say this about yesterday? {w}",),
    "test": ("Say that the following happened last week: {w}",),
}
_SUM_FRAMES = {
    "train": (
        "{n} has {a} {t} and gets {b} more. How many {t} does {n} have now?",
        "{n} had {c} {t} and gave away {b}. How many {t} are left?",
    ),
    "warm_start": ("If {n} buys {a} {t} and then {b} more, how many {t} is that?",),
    "dev": ("There are {a} {t} on the shelf. {n} adds another {b}. What is the total?",),
    "test": ("A bag holds {c} {t}. {n} takes out {b} of those. How many stay in the bag?",),
}
_NAMES = word_list("Tom Lily Sam Nora Ben Ella Max Ruth Leo Ivy Jack Rosa Omar Kim")
_COUNTED = word_list(
    "apples pens shells coins books stamps cookies marbles eggs buttons pears cards stickers"
)


def _lines(material: str) -> list[tuple[str, str]]:
    rows = [line.partition("|") for line in material.strip().splitlines()]
    return [(left.strip(), right.strip()) for left, _, right in rows]


def _part(rows: list[tuple[str, str]], split: str) -> list[tuple[str, str]]:
    """The rows of a split: each block of 24 lines is dealt out by `_SHARES`, to all splits."""
    deal: list[str] = []
    left = dict(_SHARES)
    while sum(left.values()):
        name = max(left, key=lambda s: (left[s] / _SHARES[s], _SHARES[s]))
        left[name] -= 1
        deal.append(name)
    return [row for at, row in enumerate(rows) if deal[at % len(deal)] == split]


def _framed(
    material: str, frames: dict[str, tuple[str, ...]], split: str, answer: str
) -> list[tuple[str, str]]:
    used = frames[split]
    rows = _part(_lines(material), split)
    return [
        (
            used[at % len(used)].format(w=left),
            answer.format(w=left, r=right, R=right[:1].upper() + right[1:]),
        )
        for at, (left, right) in enumerate(rows)
    ]


def _sums(split: str) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    frames = _SUM_FRAMES[split]
    for at in range(_SHARES[split] * 4):
        shift = at + 5 * SPLITS.index(split)
        name, thing = _NAMES[shift % len(_NAMES)], _COUNTED[(3 * shift) % len(_COUNTED)]
        a, b = 2 + (5 * shift) % 9, 1 + (7 * shift) % 8
        frame = frames[at % len(frames)]
        total = a if "{c}" in frame else a + b
        sign = f"{a + b} minus {b}" if "{c}" in frame else f"{a} plus {b}"
        question = frame.format(n=name, t=thing, a=a, b=b, c=a + b)
        rows.append((question, f"{sign} is {total}, so the answer is {total} {thing}."))
    return rows


def tasks(split: str) -> list[tuple[str, str]]:
    """Distinct (instruction, answer) pairs of a split: words, lists, facts, rewriting and sums."""
    rows = (
        _framed(ANTONYMS, _ANTONYM_FRAMES, split, "The opposite of {w} is {r}.")
        + _framed(MEANINGS, _MEANING_FRAMES, split, "{R}")
        + _framed(LISTS, _LIST_FRAMES, split, "Three {w} are {r}.")
        + _framed(SENTENCES, _PAST_FRAMES, split, "{r}")
        + _part(_lines(FACTS), split)
        + _sums(split)
    )
    return list(dict(rows).items())
