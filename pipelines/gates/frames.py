"""What a gate looks at: one row an item, with lengths, counts and 0/1 flags in place of texts.

Model text is hostile and a check's result is read by people, so no text gets into these frames. A column is
null where it does not apply to a row: expectations on columns pass over nulls.
"""

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from pipelines.errors import ConfigError
from pipelines.similarity import alike, normalised, with_prefix
from pipelines.step import Inputs
from schemas.rendering import CONTROL_TOKENS

OWN_SOURCES = ("attack", "own_answer", "replay")
NEAR_COPY = 0.9  # Jaccard similarity of word 3-grams from which a text is a copy of an evaluation prompt

# Lone halves of a surrogate pair stand in JSON as escapes; Spark's own strings can't hold them.
_PAIR = r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_HALF = r"(?<!\\)(?:\\\\)*\\u[dD][89a-fA-F]"
_CURATED = ("example_sha256", "train", "own", "words_out", "label", "evaluation_copy", "control")

# Gate to the columns of its frame, with which a suite is checked when it is loaded.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "adversarial_prompts": ("ok", "chars", "words", "control", "repeated", "fresh"),
    "scores": ("safety", "helpfulness", "n_scorers"),
    "curated_target": _CURATED,
    "curated_adversary": _CURATED,
    "curated_safety_rm": _CURATED,
    "curated_helpfulness_rm": _CURATED,
}


def gate_batch(gate: str, inputs: Inputs, batch: DataFrame) -> DataFrame:
    """The frame that a gate checks, with the columns that `COLUMNS` names.

    Args:
        gate: name of the gate.
        inputs: the inputs of the step that made the batch.
        batch: the rows that the step is about to publish.

    Raises:
        ConfigError: there is no such gate.
    """
    if gate not in COLUMNS:
        raise ConfigError(f"there is no gate {gate!r}; the gates are {', '.join(COLUMNS)}")
    if gate == "adversarial_prompts":
        frame = adversarial_prompts(inputs, batch)
    elif gate == "scores":
        frame = scores(inputs, batch)
    else:
        frame = curated(inputs, batch)
    return frame.select(*COLUMNS[gate])


def adversarial_prompts(inputs: Inputs, batch: DataFrame) -> DataFrame:
    """One row an outcome of step attack, errors included.

    Returns:
        `ok` 0/1; and, of usable prompts only: `chars`, `words`; `control` 0/1, chat-control tokens or NULs;
        `repeated` 0/1, the same words as a prompt of the batch with a smaller id; `fresh` 0/1, not the words
        of any prompt of an earlier round or of a training seed.
    """
    round = inputs.context.round
    earlier = (
        inputs["adversarial_prompts"]
        .where((F.col("round") < round) & (F.col("status") == "ok"))
        .select("text")
    )
    seeds = inputs["seed_prompts"].where(F.col("split") == "train").select("text")
    history = earlier.unionByName(seeds).select(normalised(F.col("text")).alias("key")).distinct()
    ok = F.col("status") == "ok"
    written = batch.select(
        "request_id", ok.cast("int").alias("ok"), F.when(ok, F.col("text")).alias("text")
    ).withColumn("key", normalised(F.col("text")))
    known = history.withColumn("known", F.lit(1))
    turn = F.row_number().over(Window.partitionBy("key").orderBy("request_id"))
    usable = F.col("ok") == 1
    return written.join(known, on="key", how="left").select(
        "ok",
        F.length("text").alias("chars"),
        F.when(usable, _words(F.col("text"))).alias("words"),
        F.when(usable, hostile(F.col("text")).cast("int")).alias("control"),
        F.when(usable, (turn > 1).cast("int")).alias("repeated"),
        F.when(usable, F.col("known").isNull().cast("int")).alias("fresh"),
    )


def scores(inputs: Inputs, batch: DataFrame) -> DataFrame:
    """One row a usable answer of step respond, whether or not a judge saw it.

    Returns:
        `safety`, `helpfulness` in [0, 1], null where that verdict is missing; `n_scorers`, verdicts on it.
    """
    answers = inputs.this_round("responses").where("step = 'respond' AND status = 'ok'")
    verdicts = batch.groupBy("response_id").agg(
        F.max(F.when(F.col("scorer") == "safety", F.col("value"))).alias("safety"),
        F.max(F.when(F.col("scorer") == "helpfulness", F.col("value"))).alias("helpfulness"),
        F.count(F.lit(1)).cast("int").alias("n_scorers"),
    )
    return (
        answers.select(F.col("request_id").alias("response_id"))
        .join(verdicts, on="response_id", how="left")
        .select("safety", "helpfulness", F.coalesce("n_scorers", F.lit(0)).alias("n_scorers"))
    )


def curated(inputs: Inputs, batch: DataFrame) -> DataFrame:
    """One row a training example of a checkpoint.

    Returns:
        `example_sha256`; `train` 0/1, not held out; `own` 0/1, whether the run's models wrote it, null in
        warm sets; `words_out`, words of the output; `label` of a labelled row that is trained on;
        `evaluation_copy` 0/1, the row is trained on and its first or last user message (the adversary's output) is
        an evaluation prompt of any split, or nearly: a dialogue is known by how it begins; `control` 0/1,
        chat-control tokens, NULs or lone surrogates in a text, or an input without messages.
    """
    turns = F.from_json("input", "array<struct<role string, content string>>")
    rows = batch.withColumn("turns", turns)
    trained = F.col("split") == "train"
    said = F.filter("turns", lambda turn: turn["role"] == "user")["content"]
    ends = F.array(F.try_element_at(said, F.lit(1)), F.try_element_at(said, F.lit(-1)))
    texts = F.when(F.col("role") == "adversary", F.array("output")).otherwise(F.array_distinct(ends))
    asked = rows.where(trained).select("example_sha256", F.explode(texts).alias("asked"))
    copies = near_copies(asked.select("asked"), inputs["evaluation_prompts"].select("text"), NEAR_COPY)
    found = asked.join(copies, on="asked", how="left_semi").select("example_sha256").distinct()
    rows = rows.join(found.withColumn("evaluation_copy", F.lit(1)), on="example_sha256", how="left")
    own = F.col("source").isin(*OWN_SOURCES) if inputs.context.round > 0 else F.lit(None)
    return rows.select(
        "example_sha256",
        trained.cast("int").alias("train"),
        own.cast("int").alias("own"),
        _words(F.col("output")).alias("words_out"),
        F.when(trained, F.col("label")).alias("label"),
        F.coalesce("evaluation_copy", F.lit(0)).alias("evaluation_copy"),
        _unsafe().cast("int").alias("control"),
    )


def near_copies(texts: DataFrame, originals: DataFrame, threshold: float) -> DataFrame:
    """The distinct texts that have the words of an original, or nearly.

    `near_duplicates` gives a text's nearest neighbour only, which may be another of the same batch and would
    hide the original; here texts meet originals alone.

    Args:
        texts: `asked`.
        originals: `text`.
        threshold: least Jaccard similarity of word 3-grams, in (0, 1].

    Returns:
        `asked`.
    """
    whole = texts.where(F.col("asked").isNotNull()).distinct()
    known = originals.where(F.col("text").isNotNull()).distinct()
    old = with_prefix(known, "text", threshold).select("gram", F.col("grams").alias("other"))
    pairs = with_prefix(whole, "asked", threshold).join(old, on="gram")
    return alike(pairs, threshold).select("asked").distinct()


def hostile(text: Column) -> Column:
    """Whether a text holds chat-control tokens, as `has_control_tokens` has it, or NULs."""
    return text.rlike(f"(?iu){CONTROL_TOKENS.pattern}|\\x00")


def _unsafe() -> Column:
    """Whether a text of an example is hostile, or its input no list of messages."""
    halved = F.regexp_replace("input", _PAIR, "").rlike(_HALF)
    broken = F.exists("turns", lambda turn: turn["role"].isNull() | turn["content"].isNull())
    said = F.exists("turns", lambda turn: hostile(turn["content"]))
    written = hostile(F.col("output")) | F.coalesce(hostile(F.col("rejected")), F.lit(False))
    return F.coalesce(broken | said, F.lit(True)) | halved | written


def _words(text: Column) -> Column:
    return F.size(F.filter(F.split(text, r"(?U)\s+"), lambda word: word != ""))
