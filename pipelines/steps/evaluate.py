"""Evaluate (paper §3): both new models on frozen held-out sets, before the next round."""

from collections.abc import Mapping
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipelines.engines.protocol import GenerationOutcome
from pipelines.lakehouse import local_frame
from pipelines.step import GenerationStep, Inputs
from pipelines.steps import attack, respond
from pipelines.steps.common import target_messages
from schemas.manifests import parse_messages

INSTRUCTIONS = "instructions"  # the suite of ordinary questions with a reference answer


def held_out(inputs: Inputs) -> DataFrame:
    """The frozen prompts of the configuration's data set and split, all suites."""
    data = inputs.context.config.data
    chosen = (F.col("dataset") == (data.suites or "")) & (F.col("split") == data.split)
    return inputs["evaluation_prompts"].where(chosen)


def suite_prompts(inputs: Inputs) -> DataFrame:
    """The held-out prompts that are asked: the same in every round and for every seed."""
    data = inputs.context.config.data
    prompts = held_out(inputs).where(F.col("suite") != INSTRUCTIONS)
    if inputs.context.round:
        return _asked_at_first(inputs, prompts, "evaluate_target")
    if data.suite_limit:
        # In order of the digest, which no one chose; seen and unseen styles are counted apart.
        turn = Window.partitionBy("suite", "seen_style").orderBy("text_sha256")
        prompts = prompts.withColumn("_turn", F.row_number().over(turn)).where(
            F.col("_turn") <= data.suite_limit
        )
    return prompts


def _asked_at_first(inputs: Inputs, prompts: DataFrame, step: str) -> DataFrame:
    """Those prompts that a step asked the warm start, whatever was imported since: rounds are compared on the same ones."""
    first = (
        Inputs(inputs.context.warm_start(), inputs.frames)
        .this_round("responses")
        .where(F.col("step") == step)
    )
    asked = first.select("suite", F.col("prompt_id").alias("text_sha256"))
    return prompts.join(asked, on=["suite", "text_sha256"], how="left_semi")


def _of_a_held_out_prompt() -> list[Column]:
    """The plan's columns that say where a held-out prompt stands in the lineage."""
    return [
        F.array("text_sha256").alias("parent_ids"),
        F.col("text_sha256").alias("primary_parent"),
        F.array().cast("array<string>").alias("root_seed_ids"),
        F.lit(0).alias("depth"),
        *map(F.col, ("suite", "category", "style")),
    ]


def _asked_once(inputs: Inputs, max_tokens: int | None = None) -> list[Column]:
    """The plan's columns that say how an evaluation asks for `text`: once, without preamble, as configured."""
    evaluate = inputs.context.config.evaluate
    return [
        F.col("text").alias("prompt"),
        F.lit(False).alias("preamble"),
        F.lit(evaluate.temperature).alias("temperature"),
        F.lit(1.0).alias("top_p"),
        F.lit(evaluate.max_tokens if max_tokens is None else max_tokens).alias("max_tokens"),
        F.lit(0).alias("sample_index"),
    ]


def plan_target(inputs: Inputs) -> DataFrame:
    """Every held-out prompt to the target in force, once, greedily unless configured otherwise."""
    return suite_prompts(inputs).select(
        F.lit(inputs.context.checkpoints["target"]).cast("string").alias("checkpoint_id"),
        target_messages(inputs, F.col("text")).alias("messages"),
        *_of_a_held_out_prompt(),
        *_asked_once(inputs),
    )


def plan_reference(inputs: Inputs) -> DataFrame:
    """How likely the target in force finds the reference answers to ordinary questions: what it has not forgotten."""
    asked = held_out(inputs).where((F.col("suite") == INSTRUCTIONS) & F.col("reference").isNotNull())
    if inputs.context.round:
        asked = _asked_at_first(inputs, asked, "evaluate_reference")
    return asked.select(
        F.lit(inputs.context.checkpoints["target"]).cast("string").alias("checkpoint_id"),
        target_messages(inputs, F.col("text"), answer=F.col("reference")).alias("messages"),
        *_of_a_held_out_prompt(),
        *_asked_once(inputs, max_tokens=0),
    )


def held_out_pool(inputs: Inputs) -> DataFrame:
    """Held-out forbidden prompts as the adversary's examples, with the columns of `attack.seed_pool`."""
    return (
        suite_prompts(inputs)
        .where("expected = 'refuse'")
        .select(
            F.col("text_sha256").alias("id"),
            "text",
            F.coalesce("category", F.lit("uncategorised")).alias("category"),
            F.coalesce("style", F.lit("unstyled")).alias("style"),
            F.array("text_sha256").alias("root_seed_ids"),
            F.lit(0).alias("depth"),
        )
    )


def plan_adversary(inputs: Inputs) -> DataFrame:
    """The adversary in force writes one prompt like each of some held-out ones, the same ones in every round."""
    pool = held_out_pool(inputs)
    chosen = pool.orderBy("id").limit(inputs.context.config.evaluate.adversary_prompts)
    return attack.requests_for(inputs, chosen, pool, 1, "evaluate_adversary")


def plan_attack(inputs: Inputs) -> DataFrame:
    """What that adversary wrote, asked of the frozen warm start and of the target in force.

    With `evaluate.crossed`, the last round also asks what is missing of the table of every adversary against every
    target.
    """
    context = inputs.context
    now = context.round
    cells = {(now, 0), (now, now)}
    if context.config.evaluate.crossed and context.is_last:
        every = {(adversary, target) for adversary in range(now + 1) for target in range(now + 1)}
        cells |= {(a, t) for a, t in every if a == now or t not in (0, a)}
    pairs = {(adversary, context.targets[target]) for adversary, target in cells}
    asked = local_frame(
        context.spark,
        [{"round": adversary, "checkpoint_id": checkpoint} for adversary, checkpoint in pairs],
        "round int, checkpoint_id string",
    )
    written = inputs["adversarial_prompts"].where("step = 'evaluate_adversary' AND status = 'ok'")
    return (
        written.drop("checkpoint_id")
        .join(F.broadcast(asked), on="round", how="inner")
        .select(
            "checkpoint_id",
            target_messages(inputs, F.col("text")).alias("messages"),
            F.array("request_id").alias("parent_ids"),
            F.col("request_id").alias("primary_parent"),
            "root_seed_ids",
            "depth",
            F.lit("adversary").alias("suite"),
            "category",
            "style",
            *_asked_once(inputs),
        )
    )


EVALUATE_TARGET = GenerationStep(
    name="evaluate_target",
    reads=("evaluation_prompts",),
    reads_round_0=("responses",),
    writes="responses",
    section="§3: the target on frozen held-out sets",
    gpu=True,
    role="target",
    plan=plan_target,
    outcome=respond.outcome,
)


def reference_outcome(request: Mapping[str, Any], answer: GenerationOutcome) -> dict[str, Any]:
    """The reference answer beside its log-probability."""
    row = respond.outcome(request, answer)
    if answer.error_kind is None:
        row["text"] = parse_messages(request["messages"], answered=True)[-1]["content"]
    return row


EVALUATE_REFERENCE = GenerationStep(
    name="evaluate_reference",
    reads=("evaluation_prompts",),
    reads_round_0=("responses",),
    writes="responses",
    section="§3: what the target has not forgotten, by the likelihood of reference answers",
    gpu=True,
    role="target",
    plan=plan_reference,
    outcome=reference_outcome,
)

EVALUATE_ADVERSARY = GenerationStep(
    name="evaluate_adversary",
    reads=("evaluation_prompts",),
    reads_round_0=("responses",),
    writes="adversarial_prompts",
    section="§3: the adversary, shown held-out prompts",
    gpu=True,
    role="adversary",
    plan=plan_adversary,
    outcome=attack.outcome,
)

EVALUATE_ATTACK = GenerationStep(
    name="evaluate_attack",
    reads=("adversarial_prompts",),
    writes="responses",
    section="§3: the adversary against the frozen warm start and against the target in force",
    gpu=True,
    role="target",
    plan=plan_attack,
    outcome=respond.outcome,
)
