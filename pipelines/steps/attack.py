"""Attack (paper §2.1): the adversary writes K_adv new prompts for each example drawn from P_adv[i-1]."""

import math
from collections.abc import Mapping
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipelines.engines.protocol import GenerationOutcome
from pipelines.prompts import attack_messages, messages_json, written_prompt
from pipelines.step import GenerationStep, Inputs
from pipelines.steps.common import draw, lot
from schemas.digests import text_sha256

_POOL = ["id", "text", "category", "style", "root_seed_ids", "depth"]


def seed_pool(inputs: Inputs) -> DataFrame:
    """Forbidden training seeds as a pool: id, text, category, style, root_seed_ids, depth 0.

    A seed that is a held-out prompt as well stays out: what is evaluated must not be what is trained on.
    """
    config = inputs.context.config
    seeds = inputs["seed_prompts"].where(
        (F.col("dataset") == config.data.seeds) & (F.col("split") == "train") & (F.col("kind") == "forbidden")
    )
    held_out = inputs["evaluation_prompts"].select("text_sha256")
    return seeds.join(held_out, on="text_sha256", how="left_anti").select(
        F.col("text_sha256").alias("id"),
        "text",
        "category",
        "style",
        F.array("text_sha256").alias("root_seed_ids"),
        F.lit(0).alias("depth"),
    )


def attack_pool(inputs: Inputs) -> DataFrame:
    """The successful attacks of the round before: the same columns as `seed_pool`."""
    before = inputs.context.round - 1
    won = inputs["selections"].where((F.col("round") == before) & (F.col("verdict") == "attack"))
    return (
        inputs["adversarial_prompts"]
        .where((F.col("round") == before) & (F.col("purpose") == "attack"))
        .join(won.select(F.col("prompt_id").alias("request_id")).distinct(), on="request_id", how="left_semi")
        .select(F.col("request_id").alias("id"), "text", "category", "style", "root_seed_ids", "depth")
    )


def plan(inputs: Inputs) -> DataFrame:
    """Requests to the adversary: half from the last round's successes, half from seeds where seeds are kept."""
    config, round = inputs.context.config, inputs.context.round
    attack = config.attack
    order = lot(config.seed, f"attack:{round}", "id")
    seeds = seed_pool(inputs)
    if round == 1:
        chosen = draw(seeds, attack.prompts, order, ["category", "style"])
    else:
        attacks = draw(attack_pool(inputs), attack.prompts, order, ["category"])
        if attack.keep_seeds:
            # Successes first, but never more than half: the rest comes from seeds, so that attacks don't collapse.
            half = attacks.limit(math.ceil(attack.prompts / 2))
            ranked = half.withColumn("_rank", F.lit(0)).unionByName(
                draw(seeds, attack.prompts, order, ["category", "style"]).withColumn("_rank", F.lit(1))
            )
            chosen = ranked.orderBy("_rank", order).limit(attack.prompts).drop("_rank")
        else:
            chosen = attacks
    return requests_for(inputs, chosen, seeds, attack.per_example, f"attack:{round}")


def requests_for(inputs: Inputs, chosen: DataFrame, pool: DataFrame, samples: int, purpose: str) -> DataFrame:
    """Plan rows that ask the adversary for a prompt like each chosen one.

    Args:
        inputs: the step's inputs.
        chosen: the examples, with the pool's columns.
        pool: where a second and third example of the same category come from.
        samples: prompts asked for an example.
        purpose: keeps this step's random order apart from others'.
    """
    config = inputs.context.config
    attack = config.attack
    shown = chosen.select(*_POOL, F.array("id").alias("example_ids"), F.array("text").alias("texts"))
    if attack.examples > 1:
        shown = with_companions(
            shown, pool, attack.examples - 1, lot(config.seed, f"companions:{purpose}", "id")
        )
    message = F.udf(lambda texts, category: messages_json(attack_messages(texts, category)), "string")
    return shown.crossJoin(
        inputs.context.spark.range(samples).select(F.col("id").cast("int").alias("sample_index"))
    ).select(
        F.lit(inputs.context.checkpoints["adversary"]).cast("string").alias("checkpoint_id"),
        message("texts", "category").alias("messages"),
        F.col("example_ids").alias("parent_ids"),
        F.col("id").alias("primary_parent"),
        "root_seed_ids",
        (F.col("depth") + 1).alias("depth"),
        F.lit(None).cast("string").alias("suite"),
        "category",
        "style",
        F.col("text").alias("prompt"),
        F.lit(False).alias("preamble"),
        F.lit(attack.sampling.temperature).alias("temperature"),
        F.lit(attack.sampling.top_p).alias("top_p"),
        F.lit(attack.sampling.max_tokens).alias("max_tokens"),
        "sample_index",
    )


def with_companions(shown: DataFrame, pool: DataFrame, more: int, order: Column) -> DataFrame:
    """Each example with the next ones of its category in a random order, itself left out; their roots are its own, too."""
    turn = Window.partitionBy("category").orderBy("_lot")
    ranked = (
        pool.withColumn("_lot", order)
        .withColumn("_rank", F.row_number().over(turn))
        .groupBy("category")
        .agg(F.sort_array(F.collect_list(F.struct("_rank", "id", "text", "root_seed_ids"))).alias("_all"))
    )
    joined = shown.join(ranked, on="category", how="left")
    ring = joined.withColumn("_ring", F.filter("_all", lambda item: item["id"] != F.col("id")))
    # Where the category has fewer, all of them; the order begins anew after the last.
    size = F.greatest(F.size("_ring"), F.lit(1))
    others = F.slice(F.concat("_ring", "_ring"), 1 + F.pmod(F.hash("id"), size), F.least(F.lit(more), size))
    return ring.withColumn("_others", F.coalesce(others, F.array())).select(
        *[name for name in _POOL if name != "root_seed_ids"],
        F.array_union("root_seed_ids", F.flatten("_others.root_seed_ids")).alias("root_seed_ids"),
        F.concat("example_ids", F.transform("_others", lambda item: item["id"])).alias("example_ids"),
        F.concat("texts", F.transform("_others", lambda item: item["text"])).alias("texts"),
    )


def outcome(request: Mapping[str, Any], answer: GenerationOutcome) -> dict[str, Any]:
    """The prompt that the adversary wrote; an answer without one is `malformed`, kept with its raw text."""
    text = written_prompt(answer.text) if answer.text is not None else None
    row: dict[str, Any] = {
        "raw_text": answer.text,
        "text": text,
        "text_sha256": None if text is None else text_sha256(text),
        "category": request["category"],
        "style": request["style"],
        "parent_ids": list(request["parent_ids"]),
        "root_seed_ids": list(request["root_seed_ids"]),
        "depth": int(request["depth"]),
    }
    if answer.error_kind is None and text is None:
        row |= {"status": "error", "error_kind": "malformed", "error": "the answer holds no prompt"}
    return row


ATTACK = GenerationStep(
    name="attack",
    reads=("seed_prompts", "evaluation_prompts", "adversarial_prompts", "selections"),
    writes="adversarial_prompts",
    section="§2.1: P_gen[i] from P_adv[i-1], K_adv prompts an example",
    gates=("adversarial_prompts",),
    gpu=True,
    role="adversary",
    plan=plan,
    outcome=outcome,
)
