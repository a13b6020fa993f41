"""Column expressions that several steps share."""

from collections.abc import Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipelines.step import Inputs


def lot(seed: int, purpose: str, *columns: str | Column) -> Column:
    """A number drawn for a row, as hex text: sorting by it is a random order that any run with the seed repeats."""
    parts = [F.col(item) if isinstance(item, str) else item for item in columns]
    return F.sha2(F.concat_ws("|", F.lit(f"{seed}:{purpose}"), *parts), 256)


def draw(frame: DataFrame, rows: int, order: Column, cells: Sequence[str] = ()) -> DataFrame:
    """At most `rows` rows in a random order, taken from the cells in turn so that small cells are not crowded out.

    Args:
        frame: rows to draw from.
        rows: how many.
        order: from `lot`.
        cells: columns that name a row's cell; none draws from all rows alike.
    """
    drawn = frame.withColumn("_lot", order)
    if cells:
        turn = Window.partitionBy(*cells).orderBy("_lot")
        drawn = drawn.withColumn("_turn", F.row_number().over(turn)).orderBy("_turn", "_lot").drop("_turn")
    else:
        drawn = drawn.orderBy("_lot")
    return drawn.limit(rows).drop("_lot")


def user_message(text: Column) -> Column:
    """One user turn as JSON messages, as `pipelines.prompts.messages_json` writes it."""
    return messages((F.lit("user"), text))


def messages(*turns: tuple[Column, Column]) -> Column:
    """Turns of (role, content) as the JSON text of messages."""
    return F.to_json(
        F.array(*[F.struct(role.alias("role"), content.alias("content")) for role, content in turns])
    )


def target_messages(
    inputs: Inputs, text: Column, preamble: str | None = None, answer: Column | None = None
) -> Column:
    """A prompt to the target as JSON messages, and a given answer to it; the twin of `pipelines.prompts.target_messages`."""
    words = "\n".join(part for part in (preamble, inputs.context.config.system) if part)
    turns = [(F.lit("system"), F.lit(words))] if words else []
    given = [] if answer is None else [(F.lit("assistant"), answer)]
    return messages(*turns, (F.lit("user"), text), *given)


def union(frames: Sequence[DataFrame]) -> DataFrame:
    """All rows of frames with the same columns."""
    return reduce(lambda left, right: left.unionByName(right), frames)


def distinct(frames: Sequence[DataFrame]) -> DataFrame:
    """All examples of several frames, each (input, output) once: the first frame that has it keeps it."""
    ranked = union([frame.withColumn("_frame", F.lit(rank)) for rank, frame in enumerate(frames)])
    turn = Window.partitionBy("input", "output").orderBy("_frame", "order")
    return ranked.withColumn("_turn", F.row_number().over(turn)).where("_turn = 1").drop("_turn", "_frame")


def examples(
    frame: DataFrame,
    *,
    source: str,
    source_table: str,
    input: Column,
    output: Column,
    source_ids: Column,
    order: Column,
    weight: float = 1.0,
    label: Column | None = None,
    rejected: Column | None = None,
    split: Column | None = None,
) -> DataFrame:
    """Rows of a curated set, before the runner numbers them."""
    return frame.select(
        input.alias("input"),
        output.alias("output"),
        F.lit(weight).alias("weight"),
        (label if label is not None else F.lit(None)).cast("double").alias("label"),
        (rejected if rejected is not None else F.lit(None)).cast("string").alias("rejected"),
        (split if split is not None else F.lit("train")).alias("split"),
        F.lit(source).alias("source"),
        F.lit(source_table).alias("source_table"),
        source_ids.alias("source_ids"),
        order.alias("order"),
    )
