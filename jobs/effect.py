"""`mart effect`: what a method did over several runs, and against other runs, as tables."""

import argparse
import json
from dataclasses import asdict

from tabulate import tabulate

from jobs.place import Place
from pipelines.effect import RATES, Effect, Estimate, as_rows, difference, effect
from pipelines.errors import ConfigError


def print_effect(place: Place, options: argparse.Namespace) -> None:
    """Print the figures that the options ask for."""
    found = effect(place.lakehouse, options.runs, options.judge)
    others = [
        (name, effect(place.lakehouse, runs, options.judge)) for name, runs in map(_group, options.against)
    ]
    if options.format == "json":
        for row in as_rows(found):
            print(json.dumps(row))
        for name, other in others:
            for quantity, estimate in _differences(found, other, name):
                print(json.dumps({"figure": f"less {name}", "quantity": quantity, **asdict(estimate)}))
        return
    print(
        f"{len(options.runs)} runs pooled: {', '.join(options.runs)}. In %, with 95 % intervals over prompts; "
        f"labelled by {options.judge}."
    )
    print("\n" + rate_table(found))
    print("\n" + _against_warm_start(found))
    if found.attacks:
        print("\n" + _attacks(found))
    for name, other in others:
        lines = [[quantity, _signed(estimate)] for quantity, estimate in _differences(found, other, name)]
        print("\n" + tabulate(lines, headers=[f"last round, less {name}", "points"], disable_numparse=True))


def _group(text: str) -> tuple[str, list[str]]:
    name, equals, runs = text.partition("=")
    if not equals or not name or not runs:
        raise ConfigError(f"--against takes NAME=RUN,RUN…, got {text!r}")
    return name, runs.split(",")


def _differences(found: Effect, other: Effect, name: str) -> list[tuple[str, Estimate]]:
    if found.rounds != other.rounds:
        raise ConfigError(f"{name} has the rounds {other.rounds}, not {found.rounds}")
    if found.prompts != other.prompts:
        raise ConfigError(f"{name} was asked other held-out prompts; methods are compared on the same ones")
    last = len(found.rounds) - 1
    return [
        (quantity, difference(found.rates[quantity], other.rates[quantity], last)) for quantity, *_ in RATES
    ]


def _percent(estimate: Estimate) -> str:
    if not estimate.prompts:
        return "-"
    return f"{estimate.value * 100:.1f} ({estimate.low * 100:.1f} to {estimate.high * 100:.1f})"


def _signed(estimate: Estimate) -> str:
    if not estimate.prompts:
        return "-"
    return f"{estimate.value * 100:+.1f} ({estimate.low * 100:+.1f} to {estimate.high * 100:+.1f})"


def _heads(found: Effect) -> list[str]:
    return ["warm start" if round == 0 else f"round {round}" for round in found.rounds]


def rate_table(found: Effect) -> str:
    """The rates of each round; the answers behind them stand with each where rounds differ in how many were judged."""
    lines = []
    for name, *_ in RATES:
        estimates = [found.rates[name].rate(at) for at in range(len(found.rounds))]
        answers = {estimate.answers for estimate in estimates}
        same = len(answers) == 1
        cells = [_percent(one) if same else f"{_percent(one)} of {one.answers}" for one in estimates]
        lines.append([name, answers.pop() if same else "", *cells])
    return tabulate(lines, headers=["rate", "answers", *_heads(found)], disable_numparse=True)


def _against_warm_start(found: Effect) -> str:
    later = range(1, len(found.rounds))
    lines = []
    for name, *_ in RATES:
        pooled = found.rates[name]
        if name.startswith("violation"):
            lines.append([f"{name}: lower by % of itself", *[_percent(pooled.reduction(at)) for at in later]])
        else:
            lines.append([f"{name}: points", *[_signed(pooled.change(at)) for at in later]])
    violation = found.rates["violation"]
    lines.append(
        ["violation: points since the round before", *[_signed(violation.change(at, at - 1)) for at in later]]
    )
    if found.likelihood.count.any():
        nats = found.likelihood
        lines.append(
            ["nats a token of reference answers: %", *[_signed(nats.relative_change(at)) for at in later]]
        )
    return tabulate(lines, headers=["since the warm start", *_heads(found)[1:]], disable_numparse=True)


def _attacks(found: Effect) -> str:
    adversaries = sorted({adversary for adversary, _ in found.attacks})
    targets = sorted({target for _, target in found.attacks})
    lines = [
        [
            f"adversary {adversary}" if adversary else "adversary of the warm-up",
            f"{found.distinct.get(adversary, float('nan')) * 100:.0f}",
            *[
                _percent(found.attacks[adversary, target]) if (adversary, target) in found.attacks else "-"
                for target in targets
            ],
        ]
        for adversary in adversaries
    ]
    heads = ["attack success", "distinct", *["warm start" if t == 0 else f"target {t}" for t in targets]]
    return tabulate(lines, headers=heads, disable_numparse=True)
