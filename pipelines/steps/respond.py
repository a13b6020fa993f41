"""Respond (paper §2.2): the target answers each new prompt, K_tgt samples; plus the two additions of §2.3."""

from collections.abc import Mapping
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.engines.protocol import GenerationOutcome
from pipelines.lakehouse import local_frame
from pipelines.step import GenerationStep, Inputs
from pipelines.steps.attack import attack_pool
from pipelines.steps.common import draw, lot, target_messages, union


def plan(inputs: Inputs) -> DataFrame:
    """Requests to the target: K_tgt samples a prompt; under the preamble, and at several temperatures, where set."""
    context = inputs.context
    respond = context.config.respond
    passed = (
        inputs.this_round("prompt_screenings").where("passed").select(F.col("prompt_id").alias("request_id"))
    )
    prompts = inputs.this_round("adversarial_prompts").join(passed, on="request_id", how="left_semi")
    replay = round(context.config.attack.replay * context.config.attack.prompts)
    columns = ["request_id", "text", "category", "style", "root_seed_ids", "depth"]
    asked = prompts.select(columns)
    if replay and context.round > 1:
        order = lot(context.config.seed, f"replay:{context.round}", "id")
        past = draw(attack_pool(inputs), replay, order, ["category"]).withColumnRenamed("id", "request_id")
        asked = asked.unionByName(past.select(columns))
    temperatures = [respond.sampling.temperature] * respond.samples
    rejection = respond.rejection_sampling
    if context.round in rejection.rounds or (context.is_last and -1 in rejection.rounds):
        temperatures = list(rejection.temperatures)
    plain = _requests(inputs, asked, temperatures, preamble=False, first=0)
    distil = respond.context_distillation
    if context.round not in distil.rounds or not distil.samples:
        return plain
    under = [respond.sampling.temperature] * distil.samples
    return union([plain, _requests(inputs, asked, under, preamble=True, first=len(temperatures))])


def _requests(
    inputs: Inputs, prompts: DataFrame, temperatures: list[float], *, preamble: bool, first: int
) -> DataFrame:
    config = inputs.context.config
    words = config.respond.context_distillation.preamble if preamble else None
    samples = local_frame(
        inputs.context.spark,
        [
            {"sample_index": first + index, "temperature": float(value)}
            for index, value in enumerate(temperatures)
        ],
        "sample_index int, temperature double",
    )
    return prompts.crossJoin(samples).select(
        F.lit(inputs.context.checkpoints["target"]).cast("string").alias("checkpoint_id"),
        target_messages(inputs, F.col("text"), words).alias("messages"),
        F.array("request_id").alias("parent_ids"),
        F.col("request_id").alias("primary_parent"),
        "root_seed_ids",
        "depth",
        F.lit(None).cast("string").alias("suite"),
        "category",
        "style",
        F.col("text").alias("prompt"),
        F.lit(preamble).alias("preamble"),
        "temperature",
        F.lit(config.respond.sampling.top_p).alias("top_p"),
        F.lit(config.respond.sampling.max_tokens).alias("max_tokens"),
        "sample_index",
    )


def outcome(request: Mapping[str, Any], answer: GenerationOutcome) -> dict[str, Any]:
    """The target's answer beside what it was asked."""
    return {
        "suite": request["suite"],
        "prompt_id": request["primary_parent"],
        "prompt": request["prompt"],
        "preamble": bool(request["preamble"]),
        "sample_index": int(request["sample_index"]),
        "temperature": float(request["temperature"]),
        "text": answer.text,
        "logprob": answer.logprob,
    }


RESPOND = GenerationStep(
    name="respond",
    reads=("prompt_screenings", "adversarial_prompts", "selections"),
    writes="responses",
    section="§2.2: A_tgt[i], K_tgt answers a prompt; §2.3 context distillation and rejection sampling",
    gpu=True,
    role="target",
    plan=plan,
    outcome=outcome,
)
