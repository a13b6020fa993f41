"""The judges of a run: where each comes from, what identifies it, and what is known of its errors."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipelines.artifacts import Artifacts
from pipelines.config import EngineConfig, JudgeConfig, RunConfig
from pipelines.engines.homes import CLIENT_OPTIONS
from pipelines.engines.protocol import GeneratorSpec, ScorerSpec
from pipelines.functions import import_function, source_digests
from pipelines.models import local_model
from schemas.digests import digest

# Those of `engine.options` that are not a generator's alone.
_ENGINES_OPTIONS = CLIENT_OPTIONS | {"fork", "server_env"}


def judges_options(engine: EngineConfig) -> dict[str, Any]:
    """The options of an engine that serves a judge beside the generator's."""
    kept = {name: value for name, value in engine.options.items() if name in _ENGINES_OPTIONS}
    return {**kept, "in_flight": engine.in_flight}


def reward_model_spec(
    config: RunConfig,
    aspect: str,
    checkpoint: Mapping[str, Any] | None,
    artifacts: Artifacts,
    place: GeneratorSpec,
) -> ScorerSpec:
    """A reward model, trained by this project or given as a finished classifier.

    Args:
        config: the run's.
        aspect: `safety` or `helpfulness`.
        checkpoint: its row, or None of a finished classifier.
        artifacts: where checkpoints are.
        place: what an engine that serves it has in common with the run's others.
    """
    model = config.reward_models[aspect]  # type: ignore[index]
    if checkpoint is not None:
        path, weights = str(artifacts.root / checkpoint["path"]), checkpoint["weights_sha256"]
    else:
        local = local_model(model.base)
        path, weights = local.path, local.digest
    identity: list[Any] = ["classifier", aspect, weights, model.max_length]
    engine = None
    if model.backend == "vllm":
        identity.append(model.backend)
        engine = replace(
            place,
            backend="vllm",
            model=path,
            model_digest=weights,
            dtype="float32",  # as transformers computes it: bfloat16 moves values by more than they may differ
            max_model_len=model.max_length,
            memory_share=model.memory_share,
            serves="verdicts",
            options=judges_options(config.engine),
        )
    return ScorerSpec(
        name=aspect,
        kind="classifier",
        model=path,
        digest=digest(identity),
        max_length=model.max_length,
        engine=engine,
    )


def judge_spec(judge: JudgeConfig, tasks: int = 1, place: GeneratorSpec | None = None) -> ScorerSpec:
    """An evaluation judge; the digest of a rule covers its module and what this imports of its own package.

    Args:
        judge: its configuration.
        tasks: how many tasks ask it together, which share the limits of an endpoint.
        place: what an engine that serves it has in common with the run's others, options included; without it, such a
            judge can be named and not asked.

    Raises:
        ConfigError: there is no such function.
    """
    if judge.kind == "rule":
        assert judge.function is not None  # the configuration's validator has looked
        import_function(judge.function)
        identity = digest(["rule", judge.function, judge.values, source_digests(judge.function)])
        return ScorerSpec(
            judge.name, "rule", judge.function, identity, options={"values": dict(judge.values)}
        )
    settings = {"rubric": judge.rubric, "values": dict(judge.values), **judge.options}
    if judge.model is not None:
        local = local_model(judge.model)
        engine = place and replace(
            place,
            backend="vllm",
            model=local.path,
            model_digest=local.digest,
            max_model_len=judge.max_length,
            memory_share=judge.memory_share,
            serves="judgements",
        )
        identity = digest([judge.kind, local.digest, judge.max_length, settings])
        return ScorerSpec(judge.name, judge.kind, judge.model, identity, engine=engine, options=settings)
    endpoint = judge.endpoint
    assert endpoint is not None  # likewise
    identity = digest([judge.kind, endpoint.base_url, endpoint.model, settings])
    options = {**settings, **endpoint.options_of(tasks)}
    return ScorerSpec(judge.name, judge.kind, endpoint.model, identity, options=options)


def scorer_rows(
    run_id: str, specs: Mapping[str, ScorerSpec], checkpoints: Mapping[str, Mapping[str, Any] | None]
) -> list[dict[str, Any]]:
    """Rows of `scorers`, with each reward model's agreement with held-out labels."""
    rows = []
    for name, spec in specs.items():
        checkpoint = checkpoints.get(name)
        metrics = json.loads(checkpoint["metrics"]) if checkpoint else {}
        held_out = {key: value for key, value in metrics.items() if key.startswith("heldout")}
        rows.append(
            {
                "run_id": run_id,
                "scorer_digest": spec.digest,
                "name": name,
                "kind": spec.kind,
                "model": checkpoint["base"] if checkpoint else spec.model,
                "checkpoint_id": checkpoint["checkpoint_id"] if checkpoint else None,
                "selects": spec.kind == "classifier" and name in ("safety", "helpfulness"),
                "heldout_accuracy": held_out.get("heldout_accuracy", held_out.get("heldout_pair_accuracy")),
                "heldout_n": held_out.get("heldout_accuracy_n", held_out.get("heldout_pair_accuracy_n")),
                "heldout_metrics": json.dumps(held_out, sort_keys=True) if held_out else None,
            }
        )
    return rows
