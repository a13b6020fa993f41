"""What a checkpoint's training set was made of, counted once: who asks later reads a few rows and not the whole history.

The view `checkpoint_training_data` tells the same of every single row, but for data sets imported since that hold its text, too.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.lakehouse import Lakehouse
from pipelines.steps.common import union
from schemas.digests import digest
from schemas.tables import BY_NAME

READS = (
    "training_examples",
    "seed_prompts",
    "instructions",
    "preferences",
    "adversarial_prompts",
    "responses",
    "selections",
    "scores",
    "scorers",
    "runs",
)
_KEY = BY_NAME["checkpoint_origins"].key


def tables_of(
    lakehouse: Lakehouse, versions: Mapping[str, int] = MappingProxyType({})
) -> dict[str, DataFrame]:
    """The tables of `READS`, each at its version, or as it is now where none is given."""
    return {table: lakehouse.read(table, versions.get(table)) for table in READS}


def origins_of(tables: Mapping[str, DataFrame], checkpoints: Sequence[str]) -> DataFrame:
    """The rows of `checkpoint_origins` for some checkpoints, published or not.

    Args:
        tables: those of `READS`.
        checkpoints: ids.
    """
    table = F.col("source_table")
    examples = (
        tables["training_examples"]
        .where(F.col("checkpoint_id").isin(list(checkpoints)))
        .select(
            "checkpoint_id", "position", "run_id", "round", "role", "source", table, "source_ids", "output"
        )
        .withColumn(
            "prompt_id",
            F.when(table == "adversarial_prompts", F.col("source_ids")[0]).when(
                table == "responses", F.col("source_ids")[1]
            ),
        )
    )
    let_in = _let_in(tables, examples)
    return union(
        [
            _data_sets(tables, examples),
            _prompts(tables, examples),
            _answers(tables, let_in),
            _judges(tables, let_in),
        ]
    )


def keep_origins(
    lakehouse: Lakehouse, tables: Mapping[str, DataFrame], checkpoints: Sequence[str], at: int = 0
) -> None:
    """Append the origins of checkpoints that have none.

    Args:
        lakehouse: the tables.
        tables: those of `READS`, at the versions that count.
        checkpoints: ids.
        at: version of `checkpoint_origins` that was seen to lack them; 0 when a checkpoint is new. The same checkpoints
            again at the same version append nothing.
    """
    once = digest(["origins", at, *sorted(checkpoints)])
    lakehouse.append("checkpoint_origins", origins_of(tables, checkpoints).repartition(1), once=once)


def keep_missing_origins(lakehouse: Lakehouse) -> None:
    """Fill in what registered checkpoints lack: those of a lakehouse that is older than the table."""
    # In this order: what another process registers meanwhile has its origins before.
    registered = {
        row["checkpoint_id"] for row in lakehouse.read("checkpoints").select("checkpoint_id").collect()
    }
    at = lakehouse.version("checkpoint_origins")
    kept = lakehouse.read("checkpoint_origins", at).select("checkpoint_id").distinct().collect()
    if ids := sorted(registered - {row["checkpoint_id"] for row in kept}):
        keep_origins(lakehouse, tables_of(lakehouse), ids, at)


def _counted(frame: DataFrame, relation: str, **identity: Column) -> DataFrame:
    """Training rows by what identifies an origin; what is not given is null."""
    given = {"checkpoint_id": F.col("checkpoint_id"), "relation": F.lit(relation), **identity}
    columns = [given.get(name, F.lit(None).cast("string")).alias(name) for name in _KEY]
    rows = F.countDistinct("position").alias("training_rows")
    return frame.select("position", *columns).groupBy(*_KEY).agg(rows)


def _data_sets(tables: Mapping[str, DataFrame], examples: DataFrame) -> DataFrame:
    """Where the rows came from; a text may stand in several data sets, and what was learned of it tells which are meant."""
    meant = {
        "seed_prompts": (
            "text_sha256",
            (F.col("source") != "benign") | (F.col("i.answer") == F.col("output")),
        ),
        "instructions": ("text_sha256", F.col("i.answer") == F.col("output")),
        "preferences": ("example_sha256", F.concat("i.aspect", F.lit("_rm")) == F.col("role")),
    }
    found = [
        examples.where(F.col("source_table") == table)
        .withColumn("id", F.explode_outer(F.array_distinct("source_ids")))
        .join(tables[table].alias("i"), on=(F.col(f"i.{key}") == F.col("id")) & fits, how="left")
        .groupBy("checkpoint_id", "position", "source", "source_table")
        .agg(F.array_join(F.array_sort(F.collect_set("i.dataset")), ", ").alias("datasets"))
        for table, (key, fits) in meant.items()
    ]
    written = examples.where(~F.col("source_table").isin(list(meant))).select(
        "checkpoint_id", "position", "source", "source_table", F.lit("").alias("datasets")
    )
    return _counted(
        union([*found, written]),
        "drawn_from",
        source=F.col("source"),
        source_table=F.col("source_table"),
        datasets=F.col("datasets"),
    )


def _prompts(tables: Mapping[str, DataFrame], examples: DataFrame) -> DataFrame:
    """The adversaries behind the rows; the bare base is no checkpoint."""
    writers = tables["adversarial_prompts"].select(
        F.col("request_id").alias("prompt_id"), F.col("checkpoint_id").alias("writer")
    )
    written = (
        examples.where(F.col("prompt_id").isNotNull())
        .join(writers, on="prompt_id", how="inner")
        .where(F.col("writer").isNotNull())
    )
    return _counted(written, "wrote_prompts", ancestor_id=F.col("writer"), name=F.lit("adversary"))


def _let_in(tables: Mapping[str, DataFrame], examples: DataFrame) -> DataFrame:
    """checkpoint_id, position, run_id, response_id: the answers whose verdicts made rows of a training set.

    A prompt that is replayed is judged again in a later round: of an attack only its own round's verdicts count.
    """
    columns = ("checkpoint_id", "position", "run_id", "response_id")
    verdicts = tables["selections"]
    kept = verdicts.where("verdict = 'keep'").select("response_id")
    answers = examples.where(F.col("source_table") == "responses").withColumn(
        "response_id", F.col("source_ids")[0]
    )
    won = verdicts.where("verdict = 'attack'").select("run_id", "round", "prompt_id", "response_id")
    attacks = examples.where(F.col("source_table") == "adversarial_prompts")
    return union(
        [
            answers.join(kept, on="response_id", how="left_semi").select(*columns),
            attacks.join(won, on=["run_id", "round", "prompt_id"], how="inner").select(*columns),
        ]
    )


def _answers(tables: Mapping[str, DataFrame], let_in: DataFrame) -> DataFrame:
    """The targets behind the rows: checkpoints, or hosted models by their endpoint."""
    answers = tables["responses"].select(
        F.col("request_id").alias("response_id"), F.col("checkpoint_id").alias("target")
    )
    endpoint = {
        name: F.get_json_object("config", f"$.target.endpoint.{key}")
        for name, key in (("endpoint", "base_url"), ("model", "model"))
    }
    hosted = tables["runs"].select("run_id", *[value.alias(name) for name, value in endpoint.items()])
    written = (
        let_in.join(answers, on="response_id", how="inner")
        .join(hosted, on="run_id", how="left")
        .withColumn("ancestor", F.coalesce("target", "endpoint"))
        .where(F.col("ancestor").isNotNull())
    )
    name = F.when(F.col("target").isNull(), F.col("model")).otherwise(F.lit("target"))
    return _counted(written, "wrote_answers", ancestor_id=F.col("ancestor"), name=name)


def _judges(tables: Mapping[str, DataFrame], let_in: DataFrame) -> DataFrame:
    """The judges behind the rows: checkpoints, or for models given finished their digest."""
    known = (
        tables["scorers"]
        .where("selects")
        .select(
            "run_id", "scorer_digest", F.col("name").alias("scorer"), F.col("checkpoint_id").alias("judge")
        )
    )
    judged = (
        tables["scores"]
        .where("step = 'score'")
        .select("run_id", "response_id", "scorer_digest", "scorer")
        .join(F.broadcast(known), on=["run_id", "scorer_digest", "scorer"], how="inner")
        .drop("run_id")
    )
    return _counted(
        let_in.join(judged, on="response_id", how="inner"),
        "selected_by",
        ancestor_id=F.coalesce("judge", "scorer_digest"),
        name=F.col("scorer"),
        scorer_digest=F.col("scorer_digest"),
    )
