"""`mart describe`: the rounds as they will run, from the same plan that runs them."""

import json
from typing import Any

from pipelines.config import RunConfig
from pipelines.gates.keeper import suites_path
from pipelines.plan import steps_of
from pipelines.step import CurateStep, GenerationStep, Step, TrainStep
from schemas.tables import BY_NAME


def _kind(step: Step, config: RunConfig) -> str:
    if isinstance(step, GenerationStep):
        hosted = config.endpoint_of(step.role)
        return f"generate with {hosted.model if hosted else config.engine.backend} ({step.role})"
    if isinstance(step, TrainStep):
        return f"train {step.role} outside Spark"
    if isinstance(step, CurateStep):
        return f"training set of {step.role}"
    return "reward models and judges" if step.gpu else "Spark"


def describe(config: RunConfig, format: str = "text") -> str:
    """Each step of the warm start and of a round: what it implements, reads, writes, is keyed by, and what gates it."""
    parts = (("round 0, the warm start", 0), (f"each of rounds 1 to {config.rounds}", 1))
    plan: list[dict[str, Any]] = [
        {
            "when": when,
            "step": step.name,
            "runs": _kind(step, config),
            "reads": list(step.inputs),
            "writes": [step.writes, *step.also_writes],
            "key": list(BY_NAME[step.writes].key),
            "gates": list(step.gates),
            "section": step.section,
        }
        for when, round in parts
        for step in steps_of(config, round)
    ]
    if format == "json":
        return json.dumps(plan, indent=1)
    lines = [
        f"run {config.name}, seed {config.seed}, settings {config.digest[:12]}, model {config.model}",
        f"gates of {suites_path(config.gates)}",
    ]
    for when, _ in parts:
        lines += ["", when]
        for item in (item for item in plan if item["when"] == when):
            lines.append(f"  {item['step']:<22}{item['runs']}")
            lines.append(
                f"  {'':<22}  {', '.join(item['reads'])} -> {', '.join(item['writes'])} ({', '.join(item['key'])})"
            )
            if item["gates"]:
                lines.append(f"  {'':<22}  gate: {', '.join(item['gates'])}")
            lines.append(f"  {'':<22}  {item['section']}")
    return "\n".join(lines)
