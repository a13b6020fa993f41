"""Screen: what the adversary wrote is checked for language and novelty before the target is asked.

Not in the paper; the remedies for gibberish and lost diversity (Stable-GFlowNet, DART), each of which the
configuration can switch off.
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.config import AttackConfig
from pipelines.similarity import near_duplicates, normalised
from pipelines.step import Inputs, TableStep

# Share of common word 3-grams from which a written prompt counts as a copy of a held-out one; as in the curate gates.
EVALUATION_COPY = 0.9


def fluency_fault(text: Column, attack: AttackConfig) -> Column:
    """Why a text is no sentence to ask a model: too_short, too_long, repetitive, or null."""
    words = F.split(normalised(text), " ")
    commonest = F.array_max(
        F.transform(
            F.array_distinct(words), lambda word: F.size(F.filter(words, lambda other: other == word))
        )
    )
    return (
        F.when(F.size(words) < attack.min_words, "too_short")
        .when(F.size(words) > attack.max_words, "too_long")
        .when(commonest / F.size(words) > attack.max_repeat, "repetitive")
    )


def cut_short() -> Column:
    """Whether a prompt ends where the adversary's `max_tokens` did, by the columns text, raw_text and finish_reason."""
    ended = F.expr("substring_index(raw_text, text, -1)").rlike(r"[\r\n]")
    return F.col("finish_reason").eqNullSafe("length") & ~ended


def build(inputs: Inputs) -> DataFrame:
    """A verdict on each outcome of this round's attack."""
    context = inputs.context
    attack = context.config.attack
    written = inputs.this_round("adversarial_prompts").where("step = 'attack'")
    usable = written.where("status = 'ok'").select(F.col("request_id").alias("id"), "text")
    fault = F.lit(None)
    if attack.fluency:
        fault = F.when(cut_short(), "cut_short").otherwise(fluency_fault(F.col("text"), attack))
    verdicts = written.select(
        F.lit(context.run_id).alias("run_id"),
        F.lit(context.round).alias("round"),
        F.col("request_id").alias("prompt_id"),
        F.when(F.col("status") == "error", "error").otherwise(fault).alias("fault"),
    )
    # What the adversary happens to share with a held-out prompt must reach no training set; the curate gates prove it.
    held_out = inputs["evaluation_prompts"].select(F.col("text_sha256").alias("id"), "text")
    copies = near_duplicates(usable, held_out, EVALUATION_COPY, among_new=False)
    verdicts = verdicts.join(
        copies.select(
            F.col("id").alias("prompt_id"),
            F.col("nearest_id").alias("copied"),
            F.col("similarity").alias("likeness"),
        ),
        on="prompt_id",
        how="left",
    )
    if attack.drop_duplicates:
        # Everything ever tried counts as history, also what no target was asked.
        earlier = inputs["adversarial_prompts"].where(
            (F.col("round") < context.round) & (F.col("status") == "ok")
        )
        seeds = inputs["seed_prompts"].where(F.col("split") == "train")
        history = earlier.select(F.col("request_id").alias("id"), "text").unionByName(
            seeds.select(F.col("text_sha256").alias("id"), "text")
        )
        nearest = near_duplicates(usable, history, attack.near_duplicate).withColumnRenamed("id", "prompt_id")
        verdicts = verdicts.join(nearest, on="prompt_id", how="left")
    else:
        verdicts = verdicts.withColumns(
            {"nearest_id": F.lit(None).cast("string"), "similarity": F.lit(None).cast("double")}
        )
    repeat = F.when(F.col("similarity") >= 1.0, "exact_duplicate").when(
        F.col("similarity").isNotNull(), "near_duplicate"
    )
    copied = F.when(F.col("copied").isNotNull(), "evaluation_copy")
    reason = F.coalesce("fault", copied, repeat, F.lit("passed"))
    return verdicts.select(
        "run_id",
        "round",
        "prompt_id",
        (reason == "passed").alias("passed"),
        reason.alias("reason"),
        F.coalesce("copied", "nearest_id").alias("nearest_id"),
        F.coalesce("likeness", "similarity").alias("similarity"),
    )


SCREEN = TableStep(
    name="screen",
    reads=("adversarial_prompts", "seed_prompts", "evaluation_prompts"),
    writes="prompt_screenings",
    section="beyond the paper: fluency and novelty against the whole history",
    build=build,
)
