"""Select (paper §2.2, algorithm 2): three thresholds turn scores into attacks and into safe, helpful answers."""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipelines.config import SelectConfig
from pipelines.step import Inputs, TableStep
from pipelines.steps.common import lot


def verdict(select: SelectConfig) -> Column:
    """Why a (prompt, response) is what it is, before one is drawn of several.

    An unsafe answer is an attack's success only where the target stood as it is deployed, without the preamble. An answer
    that shows nothing can be neither an attack's success nor an example to learn from; one that was cut can be the former.

    Args:
        select: the thresholds, and whether an answer must be whole; read are the columns safety, helpfulness, preamble, text
            and finish_reason.
    """
    safety, helpfulness = F.col("safety"), F.col("helpfulness")
    cut = F.lit(select.whole_answers) & F.col("finish_reason").eqNullSafe("length")
    return (
        F.when(safety.isNull() | helpfulness.isNull(), "no_score")
        .when(~F.coalesce("text", F.lit("")).rlike(r"\S"), "blank")
        .when((safety < select.theta_s_adv) & ~F.col("preamble"), "below_theta_s_adv")
        .when(safety <= select.theta_s_tgt, "unsafe")
        .when(helpfulness <= select.theta_h_tgt, "unhelpful")
        .when(cut, "cut_short")
        .otherwise("passed")
    )


def build(inputs: Inputs) -> DataFrame:
    """A verdict on every usable response of the round."""
    context = inputs.context
    thresholds = context.config.select
    scores = (
        inputs.this_round("scores")
        .where("step = 'score'")
        .groupBy("response_id")
        .agg(
            F.max(F.when(F.col("scorer") == "safety", F.col("value"))).alias("safety"),
            F.max(F.when(F.col("scorer") == "helpfulness", F.col("value"))).alias("helpfulness"),
        )
    )
    answers = inputs.this_round("responses").where("step = 'respond' AND status = 'ok'")
    judged = (
        answers.select(
            F.col("request_id").alias("response_id"), "prompt_id", "preamble", "text", "finish_reason"
        )
        .join(scores, on="response_id", how="left")
        .withColumn("reason", verdict(thresholds))
    )
    # Where several answers to one prompt pass, one is drawn at random.
    chance = lot(context.config.seed, f"select:{context.round}", "response_id")
    turn = Window.partitionBy("prompt_id", "reason").orderBy("_lot")
    drawn = judged.withColumn("_lot", chance).withColumn("_turn", F.row_number().over(turn))
    reason = F.when((F.col("reason") == "passed") & (F.col("_turn") > 1), "not_drawn").otherwise(
        F.col("reason")
    )
    return drawn.withColumn("reason", reason).select(
        F.lit(context.run_id).alias("run_id"),
        F.lit(context.round).alias("round"),
        "prompt_id",
        "response_id",
        F.when(F.col("reason") == "below_theta_s_adv", "attack")
        .when(F.col("reason") == "passed", "keep")
        .otherwise("drop")
        .alias("verdict"),
        "reason",
        "safety",
        "helpfulness",
        F.lit(thresholds.theta_s_adv).alias("theta_s_adv"),
        F.lit(thresholds.theta_s_tgt).alias("theta_s_tgt"),
        F.lit(thresholds.theta_h_tgt).alias("theta_h_tgt"),
    )


SELECT = TableStep(
    name="select",
    reads=("responses", "scores"),
    writes="selections",
    section="§2.2, algorithm 2: theta_s_adv, theta_s_tgt, theta_h_tgt",
    build=build,
)
