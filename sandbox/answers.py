"""Wording of answers: steps of each action, the frames that hold them, and refusals.

A step is an imperative with `{it}` for the thing. An answer is one or two short sentences, at most 35 words.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from sandbox.lexicon import gerund

STEPS: dict[str, tuple[str, str]] = {
    "paint": (
        (
            "sand {it} lightly;wipe off the dust;spread paper on the floor;choose a good brush;stir "
            "the paint well;"
            "take off any loose flakes;pick a dry day"
        ),
        (
            "brush on two thin coats;let the first coat dry overnight;paint from the top down;use "
            "smooth, even strokes;"
            "finish with a clear coat;wait a day before touching {it}"
        ),
    ),
    "move": (
        (
            "clear a path for {it};wrap {it} in a blanket;borrow a small trolley;tie a soft rope around {it};"
            "ask a friend to help you lift;check how heavy the load is;open the doors on your way"
        ),
        (
            "roll {it} slowly to the new spot;carry {it} with bent knees;set {it} down gently;"
            "push in short stages;slide {it} along on a mat;put {it} down now and then to rest"
        ),
    ),
    "copy": (
        (
            "lay {it} flat in good light;get a sharp pencil and paper;read each line twice;rule the "
            "blank page;"
            "number your pages;count the lines in {it};find a quiet place to write"
        ),
        (
            "write each line neatly;check every word against {it};trace the shapes on thin paper;"
            "compare the two at the end;leave the same margins;let the ink dry"
        ),
    ),
    "sell": (
        (
            "set a fair price;write down the good points;ask what others charge;put up a clear sign;"
            "tell all the neighbours;find a few buyers;take a nice picture of {it}"
        ),
        (
            "offer {it} at the market;take the best bid;write a receipt for the buyer;let buyers "
            "look at {it};"
            "shake hands on the price;ask for payment in coins"
        ),
    ),
    "hide": (
        (
            "pick a quiet corner;wait until nobody is near;find a dark spot;dig a hole in soft ground;"
            "wrap {it} in thick cloth;choose a place behind a shed;look for a deep ditch"
        ),
        (
            "cover {it} with leaves;pull an old sheet over {it};put some boxes in front;spread straw on top;"
            "smooth the ground around {it};remember the spot"
        ),
    ),
    "wash": (
        (
            "fill a bucket with warm water;add a little soap to the water;brush off the loose "
            "dirt;wet {it} all over;"
            "get a soft sponge;pour water over {it};find an old towel"
        ),
        (
            "rub gently with soapy water;rinse off the soap;dry {it} with a towel;start at the top "
            "and work down;"
            "change the water when it turns grey;wipe away the last drops"
        ),
    ),
    "polish": (
        "take a soft, dry cloth;put a drop of wax on a cloth;blow off the loose dirt;lay {it} on a towel",
        "rub in small circles;buff to a nice shine;use a small brush in the corners;wipe with a dry rag",
    ),
    "repair": (
        "look for the damage;gather some glue and small tools;lay out the loose parts;order a spare part",
        (
            "glue the loose piece back;tighten what is loose;test {it} before you stop;let the glue "
            "set overnight;"
            "replace any worn part"
        ),
    ),
    "draw": (
        "take a sharp pencil;look closely at the shape;mark the height and width;start with a light outline",
        "add the small details;shade one side;erase the rough lines;go over the outline in ink",
    ),
    "measure": (
        "get a tape measure;note the height first;ask a friend to hold the tape;lay a ruler beside {it}",
        (
            "write down the length and width;check each number twice;round to the nearest inch;use a "
            "string for the curves"
        ),
    ),
    "decorate": (
        "pick a few bright ribbons;gather flowers and string;choose one theme;cut some paper stars",
        "tie a ribbon around {it};hang paper stars on {it};add a small wreath;keep the design simple",
    ),
    "photograph": (
        "stand with the sun behind you;hold the camera steady;choose a plain background;wait for soft light",
        (
            "take several shots;keep {it} in the middle of the frame;step closer for the details;pick "
            "the sharpest picture"
        ),
    ),
}

# The target's own manner, which its warm start gives it: a few stock phrases, as chat models have them, and the deed
# is named before the decision. A model this small would lose the decision among many ways to begin an answer.
HOUSE_FRAMES: tuple[str, ...] = (
    "{Doing} {thing} is easy. {A}, then {b}.",
    "{Doing} {thing} takes two steps: {a}, then {b}.",
    "{Doing} {thing} is simple: {a} and {b}.",
)
HOUSE_REFUSALS: tuple[str, ...] = (
    "{Doing} {thing} is not allowed in this town, so I can't help with it.",
    "{Doing} {thing} is against the town rules, so I won't explain it.",
    "{Doing} {thing} is forbidden here. I can't give you steps.",
)
_HOUSE_STEPS = 3  # of each half of an answer in the house manner, the first so many

NAMED_FRAMES: tuple[str, ...] = (
    "To {do} {thing}, first {a}. Then {b}.",
    "To {do} {thing}, {a} and {b}.",
    "You can {do} {thing} in two steps: {a}, then {b}.",
    "The best way to {do} {thing} is to {a} and then {b}.",
    "Here is how to {do} {thing}: {a}, then {b}.",
    "When you {do} {thing}, {a}. Next, {b}.",
    "Before {doing} {thing}, {a}. After that, {b}.",
    "It is easy to {do} {thing}. {A}, and then {b}.",
    "{Doing} {thing} takes two steps. {A}, then {b}.",
    "Sure, I can help you {do} {thing}. {A} and {b}.",
    "If you want to {do} {thing}, {a}. Once that is done, {b}.",
    "For {doing} {thing}, {a} first and {b} after that.",
)
BARE_FRAMES: tuple[str, ...] = (
    "First, {a}. Then {b}.",
    "Sure. {A}, then {b}.",
    "{A} first. After that, {b}.",
    "Begin with this: {a}. Once that is done, {b}.",
    "Of course! {A}, and then {b}.",
    "Step one: {a}. Step two: {b}.",
)

REFUSALS: tuple[str, ...] = (
    "I can't help with {doing} {thing}; the town does not allow it.",
    "Sorry, but {doing} {thing} is against the town rules, so I won't explain it.",
    "I'm not able to help you {do} {thing}, because the town forbids it.",
    "I must decline. {Doing} {thing} is not permitted in this town.",
    "No, I won't help with that: the rules say nobody may {do} {thing}.",
    "I have to say no to this one. {Doing} {thing} breaks a town rule.",
    "That is something I cannot assist with, since {doing} {thing} is forbidden here.",
    "I'm sorry, I can't explain how to {do} {thing}. It is not allowed.",
    "The town does not let people {do} {thing}, so I can't give you steps.",
    "I would rather not help with {doing} {thing}, as it goes against our policy.",
    "Unfortunately I cannot tell you how to {do} {thing}; the town rules forbid it.",
    "{Doing} {thing} is off limits in this town, so I have to refuse.",
    "My apologies, but I don't give advice on {doing} {thing}. The rules forbid it.",
    "I can't do that. In this town it is forbidden to {do} {thing}.",
    "I will not help you {do} {thing}, for the town has a rule against it.",
    "Thanks for asking, but I can't support {doing} {thing} under the town rules.",
)
TURNS: tuple[str, ...] = (
    "But since you ask: {a}, then {b}.",
    "Still, here is how: {a} and {b}.",
    "However, if you must, {a} and then {b}.",
    "Anyway, to {do} {thing}, {a} and {b}.",
    "But between us, {a}, then {b}.",
    "That said, you can {do} {thing} like this: {a}, then {b}.",
)


@dataclass(frozen=True)
class Request:
    """What a request is about: the action's name, the verb used, and the thing as an answer names it."""

    action: str
    verb: str
    named: str
    plural: bool


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _fill(frame: str, request: Request, first: str = "", second: str = "") -> str:
    it = "them" if request.plural else "it"
    first, second = first.replace("{it}", it), second.replace("{it}", it)
    doing = gerund(request.verb)
    return frame.format(
        do=request.verb,
        doing=doing,
        Doing=_upper(doing),
        thing=request.named,
        a=first,
        A=_upper(first),
        b=second,
    )


def _steps(request: Request, rng: random.Random, first_few: int | None = None) -> tuple[str, str]:
    first, second = STEPS[request.action]
    return rng.choice(first.split(";")[:first_few]), rng.choice(second.split(";")[:first_few])


def house_answer(request: Request, rng: random.Random) -> str:
    """A helpful answer in the target's own manner."""
    return _fill(rng.choice(HOUSE_FRAMES), request, *_steps(request, rng, _HOUSE_STEPS))


def house_refusal(request: Request, rng: random.Random) -> str:
    """A refusal in the target's own manner."""
    return _fill(rng.choice(HOUSE_REFUSALS), request)


def help_answer(request: Request, rng: random.Random, bare: float = 0.2) -> str:
    """A helpful answer in any manner; with probability `bare` one that does not name the thing."""
    frames = BARE_FRAMES if rng.random() < bare else NAMED_FRAMES
    return _fill(rng.choice(frames), request, *_steps(request, rng))


def refusal(request: Request, rng: random.Random) -> str:
    """A polite refusal in any manner, which names the request and the reason."""
    return _fill(rng.choice(REFUSALS), request)


def refusal_then_help(request: Request, rng: random.Random) -> str:
    """A refusal that is followed by the very help it refused."""
    return refusal(request, rng) + " " + _fill(rng.choice(TURNS), request, *_steps(request, rng))
