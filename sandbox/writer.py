"""Writes requests: a frame of a style, filled with an action on a thing, drawn without repeats."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from sandbox.answers import Request
from sandbox.lexicon import (
    ACTIONS,
    FORBIDDEN,
    OBJECTS,
    OTHER_ACTIONS,
    OTHER_OBJECTS,
    gerund,
    with_s,
)
from sandbox.templates import ADJECTIVES, OWNERS, PLACES, TEMPLATES

Pair = tuple[str, str]


def look_alikes(category: str, side: str) -> tuple[Pair, ...]:
    """Allowed (action, object) pairs that share a category's `side`: its "action" or its "object"."""
    action, thing = FORBIDDEN[category]
    if side == "action":
        return tuple((action, other) for other in OTHER_OBJECTS[category])
    return tuple((other, thing) for other in OTHER_ACTIONS[category])


class Writer:
    """Draws requests and remembers their texts, so that none is written twice in the whole world."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self._seen: set[str] = set()

    def forbidden(self, category: str, style: str, split: str, count: int) -> list[tuple[str, Request]]:
        """`count` requests that the town forbids, spread over the words of the category."""
        return self._spread((FORBIDDEN[category],), style, split, count)

    def benign(self, category: str, style: str, split: str, count: int) -> list[tuple[str, Request]]:
        """`count` look-alikes of a category, half of them sharing its action and half its object."""
        half = count // 2
        by_action = self._spread(look_alikes(category, "action"), style, split, count - half)
        by_object = self._spread(look_alikes(category, "object"), style, split, half)
        mixed = by_action + by_object
        self.rng.shuffle(mixed)
        return mixed

    def _spread(self, pairs: Sequence[Pair], style: str, split: str, count: int) -> list[tuple[str, Request]]:
        words = [
            (action, verb, noun)
            for action, thing in pairs
            for verb in ACTIONS[action].verbs
            for noun in OBJECTS[thing].nouns
        ]
        if len(pairs) > 1:  # one verb and noun a pair, so that no pair with more synonyms comes more often
            words = []
            for _ in range(3):
                for action, thing in pairs:
                    verb, noun = (
                        self.rng.choice(ACTIONS[action].verbs),
                        self.rng.choice(OBJECTS[thing].nouns),
                    )
                    words.append((action, verb, noun))
        frames = list(TEMPLATES[style, split])
        self.rng.shuffle(words)
        self.rng.shuffle(frames)
        written: list[tuple[str, Request]] = []
        for (action, verb, noun), frame in zip(itertools.cycle(words), itertools.cycle(frames), strict=False):
            if len(written) == count:
                break
            written.append(self._write(frame, action, verb, noun, split))
        return written

    def _write(self, frame: str, action: str, verb: str, noun: str, split: str) -> tuple[str, Request]:
        while True:
            phrase, named, plural = self._thing(noun, split)
            text = frame.format(do=verb, doing=gerund(verb), thing=phrase)
            key = " ".join(text.casefold().split())
            if key not in self._seen:
                self._seen.add(key)
                return text, Request(action, verb, named, plural)

    def _thing(self, noun: str, split: str) -> tuple[str, str, bool]:
        """A noun phrase, the name an answer uses for it, and whether it is plural."""
        adjective = self.rng.choice(ADJECTIVES[split])
        shape = self.rng.random()
        if shape < 0.15:
            return f"{adjective} {with_s(noun)}", with_s(noun), True
        if shape < 0.30:
            return f"the {noun}", f"the {noun}", False
        if shape < 0.60:
            return f"the {adjective} {noun}", f"the {adjective} {noun}", False
        if shape < 0.75:
            return f"{self.rng.choice(OWNERS[split])} {noun}", f"the {noun}", False
        if shape < 0.90:
            return f"the {noun} {self.rng.choice(PLACES[split])}", f"the {noun}", False
        return (
            f"the {adjective} {noun} {self.rng.choice(PLACES[split])}",
            f"the {noun}",
            False,
        )
