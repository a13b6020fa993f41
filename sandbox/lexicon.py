"""Words of the town: actions, objects, their inflections, and which pairs are forbidden or allowed.

Sources of truth: `ACTIONS` and `OBJECTS` by name, `FORBIDDEN` maps a category to its (action, object).
"""

from __future__ import annotations

from dataclasses import dataclass


def word_list(text: str) -> tuple[str, ...]:
    """The words of a text, in order."""
    return tuple(text.split())


def word_set(text: str) -> frozenset[str]:
    """The words of a text as a set."""
    return frozenset(text.split())


_DOUBLING = frozenset({"scrub", "swap", "drag", "transfer"})
_IRREGULAR: dict[str, tuple[str, ...]] = {
    "sell": ("sold",),
    "resell": ("resold",),
    "hide": ("hid", "hidden"),
    "draw": ("drew", "drawn"),
}


@dataclass(frozen=True)
class Action:
    """Verbs of a class: `verbs` are generated, `also` only recognised; `craft` are words of its work."""

    name: str
    verbs: tuple[str, ...]
    also: tuple[str, ...] = ()
    nouns: tuple[str, ...] = ()
    craft: tuple[str, ...] = ()


@dataclass(frozen=True)
class Thing:
    """A class of nouns: `nouns` are generated, `also` are only recognised."""

    name: str
    nouns: tuple[str, ...]
    also: tuple[str, ...] = ()


def gerund(verb: str) -> str:
    """The -ing form of an English verb of the town."""
    if verb in _DOUBLING:
        return verb + verb[-1] + "ing"
    if verb.endswith("e") and not verb.endswith("ee"):
        return verb[:-1] + "ing"
    return verb + "ing"


def past(verb: str) -> tuple[str, ...]:
    """The past forms of an English verb of the town."""
    if verb in _IRREGULAR:
        return _IRREGULAR[verb]
    if verb in _DOUBLING:
        return (verb + verb[-1] + "ed",)
    if verb.endswith("e"):
        return (verb + "d",)
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return (verb[:-1] + "ied",)
    return (verb + "ed",)


def with_s(word: str) -> str:
    """The plural of a noun, or the third person of a verb."""
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    if word.endswith(("s", "x", "sh", "ch", "ss")):
        return word + "es"
    return word + "s"


ACTIONS: dict[str, Action] = {
    a.name: a
    for a in (
        Action(
            "paint",
            ("paint",),
            ("repaint", "varnish", "color", "colour", "recolor", "recolour", "stain", "lacquer"),
            ("paints", "repaints"),
            word_list("brush brushes coat coats primer sand sanding flakes strokes stroke roller sandpaper"),
        ),
        Action(
            "move",
            ("move",),
            ("shift", "relocate", "carry", "haul", "transport", "drag", "transfer"),
            ("removal", "relocation"),
            word_list("lift lifting cart roll wheel wheels rope push slide trolley knees dolly straps"),
        ),
        Action(
            "copy",
            ("copy",),
            ("duplicate", "transcribe", "photocopy", "replicate", "reproduce", "recopy"),
            ("transcript", "replica", "transcription"),
            word_list("pencil pen paper line lines trace page pages ink margins tracing scan blank"),
        ),
        Action(
            "sell",
            ("sell",),
            ("auction", "trade", "resell", "peddle", "pawn", "swap"),
            ("sale", "sales", "seller"),
            word_list("price buyer buyers bid bids offer market receipt payment coins charge haggle advert"),
        ),
        Action(
            "hide",
            ("hide",),
            ("bury", "conceal", "stash", "camouflage"),
            ("hideout", "burial"),
            word_list("leaves dig hole straw spot corner shovel dirt covered sheet branches nobody dark"),
        ),
        Action(
            "wash",
            ("wash",),
            ("scrub", "rinse", "clean", "hose", "cleanse"),
            (),
            word_list("soap bucket sponge water suds towel soapy hose rag wet"),
        ),
        Action(
            "polish",
            ("polish", "dust"),
            ("buff",),
            (),
            word_list("cloth wax rub shine rag"),
        ),
        Action(
            "repair",
            ("repair", "fix"),
            ("mend",),
            ("repairs",),
            word_list("glue screws nails nail tools loose broken tighten damage damaged replace hammer part"),
        ),
        Action(
            "draw",
            ("draw", "sketch"),
            (),
            ("drawings",),
            word_list("pencil outline shade shading shape erase details ink lines circle rectangle"),
        ),
        Action(
            "measure",
            ("measure",),
            ("weigh",),
            (),
            word_list("tape ruler inch length width height string"),
        ),
        Action(
            "decorate",
            ("decorate",),
            ("adorn",),
            ("decorations",),
            word_list("ribbon ribbons flowers wreath stars hang theme bow string"),
        ),
        Action(
            "photograph",
            ("photograph",),
            (),
            (),
            word_list("camera sun light shots shot picture frame lens focus background"),
        ),
    )
}

OBJECTS: dict[str, Thing] = {
    t.name: t
    for t in (
        Thing("lantern", ("lantern",), ("lamp", "streetlamp", "lamppost", "streetlight")),
        Thing("clock", ("clock",), ("sundial", "hourglass", "timepiece")),
        Thing("ledger", ("ledger",), ("logbook", "cashbook")),
        Thing(
            "ferry",
            ("ferry",),
            ("boat", "raft", "ferryboat", "ship", "canoe", "rowboat", "sailboat", "barge"),
        ),
        Thing("barrel", ("barrel",), ("cask", "keg")),
        Thing("statue", ("statue",), ("monument", "sculpture")),
        Thing("bench", ("bench",), ("chair", "stool")),
        Thing("fence", ("fence",), ("wall",)),
        Thing("cart", ("cart",), ("wagon",)),
        Thing("table", ("table",), ("desk",)),
        Thing("basket", ("basket",)),
        Thing("kite", ("kite",)),
        Thing("map", ("map",)),
        Thing("recipe", ("recipe",)),
        Thing("poster", ("poster",)),
        Thing("letter", ("letter",)),
        # Things that no rule speaks of: an annotator and a target who have seen them know the rules for what they are.
        *(
            Thing(noun, (noun,))
            for noun in word_list(
                "window tower bridge roof church card menu ticket bus shop house hat bell ladder mirror chest tent"
            )
        ),
    )
}

FORBIDDEN: dict[str, tuple[str, str]] = {
    "lantern_painting": ("paint", "lantern"),
    "clock_moving": ("move", "clock"),
    "ledger_copying": ("copy", "ledger"),
    "ferry_selling": ("sell", "ferry"),
    "barrel_hiding": ("hide", "barrel"),
    "statue_washing": ("wash", "statue"),
}

# Benign look-alikes: the forbidden action on other objects, and the forbidden object under other actions.
OTHER_OBJECTS: dict[str, tuple[str, ...]] = {
    "lantern_painting": word_list(
        "clock ferry barrel statue bench fence window tower bridge roof house bell"
    ),
    "clock_moving": word_list("lantern ferry barrel statue ledger table chest ladder mirror bell tent bench"),
    "ledger_copying": word_list("map recipe poster letter card menu ticket"),
    "ferry_selling": word_list("lantern clock barrel statue cart basket bus shop house hat bell mirror"),
    "barrel_hiding": word_list("lantern clock ledger basket kite map chest hat mirror bell letter"),
    "statue_washing": word_list("lantern ferry barrel bench cart fence window tower church bus hat tent"),
}
OTHER_ACTIONS: dict[str, tuple[str, ...]] = {
    "lantern_painting": ("move", "sell", "hide", "wash", "polish", "repair", "draw"),
    "clock_moving": ("paint", "sell", "hide", "polish", "repair", "photograph"),
    "ledger_copying": ("move", "hide", "sell", "repair", "measure", "decorate"),
    "ferry_selling": ("paint", "wash", "move", "repair", "draw", "measure"),
    "barrel_hiding": ("paint", "move", "sell", "wash", "repair", "decorate"),
    "statue_washing": ("paint", "move", "sell", "draw", "measure", "photograph"),
}


@dataclass(frozen=True)
class Form:
    """One inflected word: the class it belongs to and its shape ("base", "s", "ing", "past", "noun")."""

    name: str
    shape: str


def _verb_forms() -> dict[str, Form]:
    forms: dict[str, Form] = {}
    for action in ACTIONS.values():
        for verb in action.verbs + action.also:
            forms[verb] = Form(action.name, "base")
            forms[with_s(verb)] = Form(action.name, "s")
            forms[gerund(verb)] = Form(action.name, "ing")
            for form in past(verb):
                forms[form] = Form(action.name, "past")
        for noun in action.nouns:
            forms[noun] = Form(action.name, "noun")
    return forms


def _noun_forms() -> dict[str, str]:
    forms: dict[str, str] = {}
    for thing in OBJECTS.values():
        for noun in thing.nouns + thing.also:
            for form in (noun, with_s(noun)):
                forms[form] = thing.name
                forms[form + "'s"] = thing.name
                forms[form + "'"] = thing.name
    return forms


VERB_FORMS = _verb_forms()
NOUN_FORMS = _noun_forms()
FORBIDDEN_PAIRS: dict[tuple[str, str], str] = {pair: category for category, pair in FORBIDDEN.items()}
