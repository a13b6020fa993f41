"""Generates the world: seeds, look-alikes, evaluation prompts, instructions, warm-start pairs and labels.

Every list is a tuple of plain dict rows; the docstring of `World` gives their keys. The same code gives the
same rows on every machine: one seed a list, and nothing depends on the order of a set.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from sandbox.answers import house_answer, house_refusal
from sandbox.labels import Row, labelled
from sandbox.lexicon import FORBIDDEN
from sandbox.tasks import tasks
from sandbox.templates import SEEN_STYLES, UNSEEN_STYLES
from sandbox.writer import Writer

SEED = 2311
SEEDS_PER_CELL = 10  # 6 categories x 4 seen styles x 10 = 240; of benign look-alikes twice as many
EVALUATION_PER_CELL = {
    True: 9,
    False: 12,
}  # seen: 6 x 4 x 9 = 216; unseen: 6 x 3 x 12 = 216
BENIGN_EVALUATION_PER_CELL = 6  # 6 x 7 x 6 = 252
LABEL_GROUPS = {"train": 600, "heldout": 43}  # of 7 rows, of which an annotator of train sees about half
# Pairs as deployed: the target complies with most forbidden requests.
_WARM_FORBIDDEN = 60
_WARM_BENIGN = 60
# Pairs under the safety preamble, which it follows, as an instruction-tuned model does: context distillation needs that.
_WARM_PREAMBLE = 120


@dataclass(frozen=True)
class World:
    """The lists of the sandbox.

    seeds: text, category, style, split ("train").
    benign: text, category (of the forbidden look-alike), style, split ("train"), answer.
    evaluation_prompts: suite ("violation", "benign", "instructions"), split ("dev", "test"), text,
        category, style, expected ("refuse", "comply"), seen_style, reference (an answer, or None where a
        refusal is expected). An instruction has no category and no style (None), and counts as seen.
    instructions: instruction, answer, split ("train").
    warm_start: prompt, answer, kind; a kind that begins with "preamble_" is asked under the safety preamble.
    labels: prompt, response, safe, helpful, true_safe, true_helpful (0 or 1), split ("train", "heldout"),
        kind, safety_sees, helpfulness_sees (whether that annotator labelled the row).
    """

    seeds: tuple[Row, ...]
    benign: tuple[Row, ...]
    evaluation_prompts: tuple[Row, ...]
    instructions: tuple[Row, ...]
    warm_start: tuple[Row, ...]
    labels: tuple[Row, ...]


def build_world() -> World:
    """The whole world, always the same, in under three seconds."""
    writer = Writer(SEED)
    seeds = _seeds(writer)
    benign = _benign(writer, random.Random(SEED + 1))
    evaluation = _evaluation(writer, random.Random(SEED + 2))
    warm_start = _warm_start(writer, random.Random(SEED + 3))
    labels = [
        row for split, groups in LABEL_GROUPS.items() for row in labelled(writer, split, groups, SEED + 4)
    ]
    # As many again, written last so that no other list depends on them: a round should not see the same few each time.
    benign += _benign(writer, random.Random(SEED + 5))
    instructions: list[Row] = [{"instruction": q, "answer": a, "split": "train"} for q, a in tasks("train")]
    return World(
        seeds=tuple(seeds),
        benign=tuple(benign),
        evaluation_prompts=tuple(evaluation),
        instructions=tuple(instructions),
        warm_start=tuple(warm_start),
        labels=tuple(labels),
    )


def _seeds(writer: Writer) -> list[Row]:
    return [
        {"text": text, "category": category, "style": style, "split": "train"}
        for category in FORBIDDEN
        for style in SEEN_STYLES
        for text, _ in writer.forbidden(category, style, "train", SEEDS_PER_CELL)
    ]


def _benign(writer: Writer, rng: random.Random) -> list[Row]:
    return [
        {
            "text": text,
            "category": category,
            "style": style,
            "split": "train",
            "answer": house_answer(request, rng),
        }
        for category in FORBIDDEN
        for style in SEEN_STYLES
        for text, request in writer.benign(category, style, "train", SEEDS_PER_CELL)
    ]


def _evaluation(writer: Writer, rng: random.Random) -> list[Row]:
    rows: list[Row] = []
    for split in ("dev", "test"):
        for suite in ("violation", "benign"):
            for category in FORBIDDEN:
                for style in SEEN_STYLES + UNSEEN_STYLES:
                    rows += _cell(writer, rng, suite, split, category, style)
        rows += [
            {
                "suite": "instructions",
                "split": split,
                "text": question,
                "category": None,
                "style": None,
                "expected": "comply",
                "seen_style": True,
                "reference": answer,
            }
            for question, answer in tasks(split)
        ]
    return rows


def _cell(
    writer: Writer,
    rng: random.Random,
    suite: str,
    split: str,
    category: str,
    style: str,
) -> list[Row]:
    seen = style in SEEN_STYLES
    if suite == "violation":
        written = writer.forbidden(category, style, split, EVALUATION_PER_CELL[seen])
    else:
        written = writer.benign(category, style, split, BENIGN_EVALUATION_PER_CELL)
    return [
        {
            "suite": suite,
            "split": split,
            "text": text,
            "category": category,
            "style": style,
            "expected": "refuse" if suite == "violation" else "comply",
            "seen_style": seen,
            "reference": None if suite == "violation" else house_answer(request, rng),
        }
        for text, request in written
    ]


def _warm_start(writer: Writer, rng: random.Random) -> list[Row]:
    """Pairs that mostly comply, and pairs under the preamble that keep the rules: it violates, and could do better."""
    cells = [(category, style) for style in SEEN_STYLES for category in FORBIDDEN]
    rows: list[Row] = []
    for kind, count in (
        ("forbidden_complied", _WARM_FORBIDDEN),
        ("benign_answered", _WARM_BENIGN),
        ("preamble_forbidden_refused", _WARM_PREAMBLE),
        ("preamble_benign_answered", _WARM_PREAMBLE),
    ):
        forbidden = "forbidden" in kind
        written = []
        for at in range(count):
            category, style = cells[at % len(cells)]
            draw = writer.forbidden if forbidden else writer.benign
            # One at a time a benign cell would always share the action: draw two and keep either.
            written.append(rng.choice(draw(category, style, "train", 1 if forbidden else 2)))
        answer = house_refusal if kind.endswith("refused") else house_answer
        rows += [
            {"prompt": prompt, "answer": answer(request, rng), "kind": kind} for prompt, request in written
        ]
    rows += [
        {"prompt": question, "answer": answer, "kind": "instruction"}
        for question, answer in tasks("warm_start")
    ]
    rng.shuffle(rows)
    return rows
