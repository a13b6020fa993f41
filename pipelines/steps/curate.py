"""Curate: the training sets of both models in a round (paper §2.1 and §2.2), with what the remedies mix in."""

from dataclasses import replace

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from pipelines.prompts import attack_messages, messages_json
from pipelines.step import CurateStep, Inputs
from pipelines.steps.attack import seed_pool
from pipelines.steps.common import distinct, draw, examples, lot, target_messages

PREAMBLE_KIND = "preamble_"
_RING = 40  # pairs that a seed of a large cell is drawn from


def _share(rows: int, multiple: float, least: int) -> int:
    return max(round(rows * multiple), least) if multiple > 0 else 0


def _instructions(inputs: Inputs, rows: int, purpose: str) -> list[DataFrame]:
    config = inputs.context.config
    if not rows or config.data.instructions is None:
        return []
    source = inputs["instructions"].where(
        (F.col("dataset") == config.data.instructions) & (F.col("split") == "train")
    )
    order = lot(config.seed, f"{purpose}:{inputs.context.round}", "text_sha256")
    return [
        examples(
            draw(source, rows, order),
            source="instruction",
            source_table="instructions",
            input=target_messages(inputs, F.col("instruction")),
            output=F.col("answer"),
            source_ids=F.array("text_sha256"),
            order=order,
        )
    ]


def _offspring(inputs: Inputs) -> DataFrame:
    """The round's own successful attacks; one that was replayed has been learned before."""
    won = inputs.this_round("selections").where("verdict = 'attack'")
    return (
        inputs.this_round("adversarial_prompts")
        .where("step = 'attack'")
        .join(won.select(F.col("prompt_id").alias("request_id")), on="request_id", how="left_semi")
    )


def build_adversary(inputs: Inputs) -> DataFrame:
    """(parent example → successful offspring), with ordinary instructions mixed in so that it keeps its language."""
    context = inputs.context
    config = context.config
    order = lot(config.seed, f"adversary:{context.round}", "request_id")
    offspring = _offspring(inputs)
    asked = inputs.this_round("requests").where("step = 'attack'").select("request_id", "messages")
    kept = draw(offspring, config.mix.max_rows, order, ["category"]).join(asked, on="request_id", how="inner")
    pairs = examples(
        kept,
        source="attack",
        source_table="adversarial_prompts",
        input=F.col("messages"),
        output=F.col("text"),
        source_ids=F.array("request_id"),
        order=order,
    )
    rows = _share(kept.count(), config.mix.adversary_instructions, config.mix.min_rows)
    return distinct([pairs, *_instructions(inputs, rows, "adversary_instructions")])


def too_few_attacks(inputs: Inputs) -> str | None:
    """Why the adversary is not trained in a round; None where it is."""
    least = inputs.context.config.adversary.min_attacks
    if not least:
        return None
    won = _offspring(inputs).count()
    if won >= least:
        return None
    return (
        f"{won} successful attacks, and adversary.min_attacks asks for {least}: the adversary stays as it is"
    )


def _own_answers(inputs: Inputs, selections: DataFrame, rows: int, source: str, purpose: str) -> DataFrame:
    kept = selections.where("verdict = 'keep'").select(F.col("response_id").alias("request_id"))
    answers = inputs["responses"].join(kept, on="request_id", how="left_semi")
    order = lot(inputs.context.config.seed, f"{purpose}:{inputs.context.round}", "request_id")
    return examples(
        draw(answers, rows, order),
        source=source,
        source_table="responses",
        input=target_messages(
            inputs, F.col("prompt")
        ),  # the preamble is left out of the training pair (§2.3)
        output=F.col("text"),
        source_ids=F.array("request_id", "prompt_id"),
        order=order,
    )


def build_target(inputs: Inputs) -> DataFrame:
    """The target's own best answers, with earlier ones replayed and benign and ordinary examples mixed in."""
    context = inputs.context
    config, mix = context.config, context.config.mix
    own = _own_answers(inputs, inputs.this_round("selections"), mix.max_rows, "own_answer", "target")
    kept = own.count()
    parts = [own]
    if (replayed := _share(kept, mix.replay, 0)) and context.round > 1:
        earlier = inputs["selections"].where(F.col("round") < context.round)
        parts.append(_own_answers(inputs, earlier, replayed, "replay", "target_replay"))
    benign = _share(kept, mix.target_benign, mix.min_rows)
    if benign and config.data.benign is not None:
        source = inputs["seed_prompts"].where(
            (F.col("dataset") == config.data.benign)
            & (F.col("split") == "train")
            & (F.col("kind") == "benign")
            & F.col("answer").isNotNull()
        )
        order = lot(config.seed, f"benign:{context.round}", "text_sha256")
        parts.append(
            examples(
                draw(source, benign, order, ["category", "style"]),
                source="benign",
                source_table="seed_prompts",
                input=target_messages(inputs, F.col("text")),
                output=F.col("answer"),
                source_ids=F.array("text_sha256"),
                order=order,
            )
        )
    rows = _share(kept, mix.target_instructions, mix.min_rows // 2)
    return distinct([*parts, *_instructions(inputs, rows, "target_instructions")])


def build_warm_target(inputs: Inputs) -> DataFrame:
    """Warm-start pairs of the target, which give it what the paper's base has: instruction following, some safety.

    Pairs whose kind begins with `preamble_` are asked under the preamble of context distillation.
    """
    config = inputs.context.config
    source = inputs["instructions"].where(
        (F.col("dataset") == (config.data.warm_start or "")) & (F.col("split") == "warm_start")
    )
    order = lot(0, "warm_target", "text_sha256")
    asked = F.col("instruction")
    preamble = config.respond.context_distillation.preamble
    return examples(
        source,
        source="warm_start",
        source_table="instructions",
        input=F.when(
            F.col("kind").startswith(PREAMBLE_KIND), target_messages(inputs, asked, preamble)
        ).otherwise(target_messages(inputs, asked)),
        output=F.col("answer"),
        source_ids=F.array("text_sha256"),
        order=order,
    )


def build_warm_adversary(inputs: Inputs) -> DataFrame:
    """Pairs of seeds from the same (category, style) cell, one as example, one to be written (paper §2.1)."""
    config = inputs.context.config
    cell = ("category", "style")
    seeds = seed_pool(inputs).select(F.col("id").alias("text_sha256"), "text", *cell)
    # All pairs of a cell grow with its square: in a large one, each seed meets those that come next in a ring.
    turn = Window.partitionBy(*cell).orderBy(lot(0, "warm_adversary_ring", "text_sha256"))
    ring = seeds.withColumns(
        {"place": F.row_number().over(turn) - 1, "size": F.count("*").over(Window.partitionBy(*cell))}
    ).where("size > 1")
    steps = F.sequence(F.lit(1), F.least(F.lit(_RING), F.col("size") - 1))
    asked = (
        ring.withColumn("step", F.explode(steps))
        .withColumn("place", F.pmod(F.col("place") + F.col("step"), F.col("size")))
        .drop("step", "size")
    )
    other = ring.select(F.col("text_sha256").alias("to_id"), F.col("text").alias("to_text"), *cell, "place")
    pairs = asked.join(other, on=[*cell, "place"], how="inner").drop("place")
    order = lot(0, "warm_adversary", "text_sha256", "to_id")
    message = F.udf(lambda text, category: messages_json(attack_messages([text], category)), "string")
    return examples(
        draw(pairs, config.adversary.warm_pairs, order, ["category", "style"]),
        source="seed_pair",
        source_table="seed_prompts",
        input=message("text", "category"),
        output=F.col("to_text"),
        source_ids=F.array("text_sha256", "to_id"),
        order=order,
    )


def _reward_examples(inputs: Inputs, aspect: str) -> DataFrame:
    config = inputs.context.config
    dataset = config.reward_models[aspect].dataset or ""  # type: ignore[index]
    source = inputs["preferences"].where((F.col("dataset") == dataset) & (F.col("aspect") == aspect))
    return examples(
        source,
        source="label",
        source_table="preferences",
        input=F.col("input"),
        output=F.col("output"),
        source_ids=F.array("example_sha256"),
        order=lot(0, f"reward:{aspect}", "example_sha256"),
        label=F.col("label"),
        rejected=F.col("rejected"),
        split=F.col("split"),
    )


def _curate(
    name: str, role: str, build: object, reads: tuple[str, ...], section: str, *, warm: bool
) -> CurateStep:
    return CurateStep(
        name=name,
        role=role,  # type: ignore[arg-type]
        build=build,  # type: ignore[arg-type]
        reads=reads,
        writes="training_examples",
        section=section,
        gates=(f"curated_{role}",),
        warm=warm,
    )


CURATE_SAFETY = _curate(
    "curate_safety",
    "safety_rm",
    lambda i: _reward_examples(i, "safety"),
    ("preferences", "evaluation_prompts"),
    "§3.1: data of S_s",
    warm=True,
)
CURATE_HELPFULNESS = _curate(
    "curate_helpfulness",
    "helpfulness_rm",
    lambda i: _reward_examples(i, "helpfulness"),
    ("preferences", "evaluation_prompts"),
    "§3.1: data of S_h",
    warm=True,
)
CURATE_WARM_TARGET = _curate(
    "curate_warm_target",
    "target",
    build_warm_target,
    ("instructions", "evaluation_prompts"),
    "§3.1: the instruction-tuned base, here with a short warm start",
    warm=True,
)
CURATE_WARM_ADVERSARY = _curate(
    "curate_warm_adversary",
    "adversary",
    build_warm_adversary,
    ("seed_prompts", "evaluation_prompts"),
    "§2.1: warm-up on pairs from the same cell",
    warm=True,
)
CURATE_ADVERSARY = replace(
    _curate(
        "curate_adversary",
        "adversary",
        build_adversary,
        ("selections", "adversarial_prompts", "requests", "instructions", "evaluation_prompts"),
        "§2.1: (example, successful offspring) pairs",
        warm=False,
    ),
    reason_to_sit_out=too_few_attacks,
)
CURATE_TARGET = _curate(
    "curate_target",
    "target",
    build_target,
    ("selections", "responses", "seed_prompts", "instructions", "evaluation_prompts"),
    "§2.2: (prompt, own best answer) pairs",
    warm=False,
)
