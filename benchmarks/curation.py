"""How selection, duplicate removal and the closure of a checkpoint grow with the data: synthetic tables of several sizes.

`python -m benchmarks.curation [--rows 10000,100000,1000000] [--compiled] [--output FILE]` makes, for each size N, tables in which a fifth
of the texts stand in clusters of three (a text, its copy, a near-copy), and times

- `select`: the verdicts on N answers by two judges (`pipelines.steps.select`);
- `duplicates`: N new texts against each other and a history of as many (`pipelines.similarity`), exact copies included;
- `origins`: what the training set of a checkpoint of N rows was made of, each row with its prompt, answer, verdicts and judges, which is
  counted while the checkpoint is trained (`pipelines.origins`);
- `closure`: what made that checkpoint, as it is asked later (`pipelines.lineage`).

It prints seconds, rows found, the peak memory of Spark's JVM so far, and between the smallest and the largest size the exponent of
growth: 1 is linear. As JSON with the machine's description.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.machine import give_result
from jobs.flags import config_path
from pipelines.config import load_config
from pipelines.lakehouse import Lakehouse
from pipelines.lineage import closure
from pipelines.origins import keep_missing_origins, origins_of, tables_of
from pipelines.session import open_session
from pipelines.similarity import near_duplicates
from pipelines.step import Inputs, RoundContext
from pipelines.steps import select
from pipelines.views import create_views
from schemas.tables import BY_NAME

_WORDS, _VOCABULARY = 12, 20_000
_DEFAULTS = {
    "STRING": "''",
    "INT": "0",
    "BIGINT": "0",
    "DOUBLE": "0.5D",
    "BOOLEAN": "false",
    "TIMESTAMP": "now()",
}
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def texts(spark: SparkSession, rows: int, salt: int) -> DataFrame:
    """`id`, `text`: of every fifteen rows three are one cluster, a text, its copy, and one with another last word."""
    place, cluster = F.col("n") % 15, F.floor(F.col("n") / 15)
    source = F.when(place < 3, cluster * 15).otherwise(F.col("n"))

    def word(at: Column) -> Column:
        changed = (place == 2) & (at == _WORDS - 1)
        drawn = F.xxhash64(F.lit(salt), F.when(changed, F.col("n")).otherwise(source), at)
        return F.concat(F.lit("w"), F.pmod(drawn, F.lit(_VOCABULARY)).cast("string"))

    words = F.transform(F.sequence(F.lit(0), F.lit(_WORDS - 1)), word)
    return spark.range(rows).withColumnRenamed("id", "n").select(
        F.format_string("%d-%012d", F.lit(salt), "n").alias("id"), F.array_join(words, " ").alias("text")
    )  # fmt: skip


def filled(frame: DataFrame, table: str) -> DataFrame:
    """A frame with the columns that it lacks for a table: null, or where that can't be, something plain."""
    columns = []
    for column in BY_NAME[table].columns:
        if column.name in frame.columns:
            value = F.col(column.name)
        elif column.nullable:
            value = F.lit(None)
        else:
            value = F.expr(_DEFAULTS.get(column.type, "array()"))
        columns.append(value.cast(column.type).alias(column.name))
    return frame.select(*columns)


class Made:
    """Synthetic tables of one size."""

    def __init__(self, spark: SparkSession, folder: Path, rows: int) -> None:
        self.spark = spark
        self.rows = rows
        self.lakehouse = Lakehouse(spark, f"bench_{rows}", folder / str(rows))
        self.lakehouse.ensure()
        create_views(self.lakehouse)
        n = spark.range(rows).withColumnRenamed("id", "n")
        run = {"run_id": F.lit("r"), "round": F.lit(1)}
        prompt, answer = (F.format_string(f"{letter}%012d", "n") for letter in "pa")
        self._add("runs", spark.range(1).select(F.lit("r").alias("run_id"), F.lit("{}").alias("config")))
        self._add(
            "adversarial_prompts",
            n.withColumns(
                run
                | {
                    "request_id": prompt,
                    "step": F.lit("attack"),
                    "checkpoint_id": F.lit("adv"),
                    "status": F.lit("ok"),
                    "purpose": F.lit("attack"),
                    "text": F.lit("words"),
                }
            ),
        )
        self._add(
            "responses",
            n.withColumns(
                run
                | {
                    "request_id": answer,
                    "prompt_id": prompt,
                    "step": F.lit("respond"),
                    "checkpoint_id": F.lit("tgt-0"),
                    "status": F.lit("ok"),
                    "purpose": F.lit("attack"),
                    "text": F.lit("words"),
                }
            ),
        )
        judges = F.explode(F.array(F.lit("safety"), F.lit("helpfulness"))).alias("scorer")
        chance = F.pmod(F.xxhash64("n", "scorer"), F.lit(1000)) / 1000
        self._add(
            "scores",
            n.select("n", judges).withColumns(
                run
                | {
                    "response_id": answer,
                    "step": F.lit("score"),
                    "scorer_digest": F.col("scorer"),
                    "value": chance,
                    "status": F.lit("ok"),
                }
            ),
        )
        self._add(
            "scorers",
            spark.range(1).select(judges).withColumns(
                {"run_id": F.lit("r"), "scorer_digest": F.col("scorer"), "name": F.col("scorer"), "selects": F.lit(True), "kind": F.lit("classifier")}
            ),
        )  # fmt: skip
        self._add(
            "selections",
            n.withColumns(run | {"prompt_id": prompt, "response_id": answer, "verdict": F.lit("keep")}),
        )
        self._add(
            "training_examples",
            n.withColumns(
                run | {
                    "checkpoint_id": F.lit("tgt-1"), "position": F.col("n"), "role": F.lit("target"), "split": F.lit("train"), "weight": F.lit(1.0),
                    "source": F.lit("own_answer"), "source_table": F.lit("responses"), "source_ids": F.array(answer, prompt),
                }
            ),
        )  # fmt: skip
        for name, role in (("adv", "adversary"), ("tgt-0", "target")):  # what it goes on from, of a row each
            row = spark.range(1).select(
                F.lit(name).alias("checkpoint_id"),
                F.lit(role).alias("role"),
                F.lit("warm_start").alias("source"),
                F.lit("instructions").alias("source_table"),
            )
            self._add("training_examples", row.withColumns(run))
        made = [("adv", "adversary", 0, None), ("tgt-0", "target", 0, None), ("tgt-1", "target", 1, "tgt-0")]
        shaped = spark.createDataFrame(
            made, "checkpoint_id string, role string, round int, parent_checkpoint_id string"
        )
        self._add("checkpoints", shaped.withColumns({"run_id": F.lit("r"), "base_digest": F.lit("base")}))
        self.lakehouse.append_rows(
            "steps",
            [
                {
                    "run_id": "r", "round": round, "step": f"train_{name}", "attempt": 1, "state": "done",
                    "started_at": _NOW, "ended_at": _NOW, "reads": "{}", "writes": "{}",
                    "counts": json.dumps({"checkpoint_id": name}), "busy_seconds": 0.0,
                }
                for name, _, round, _ in made
            ],
        )  # fmt: skip

        keep_missing_origins(self.lakehouse)
        self.texts = [str(folder / f"texts_{rows}_{salt}") for salt in (1, 2)]
        for salt, path in enumerate(self.texts):
            texts(spark, rows, salt).write.parquet(path)

    def _add(self, table: str, frame: DataFrame) -> None:
        filled(frame, table).write.format("delta").mode("append").saveAsTable(self.lakehouse.name(table))

    def select(self) -> int:
        """Verdicts on every answer."""
        config = load_config(config_path("sandbox"))
        context = RoundContext(
            self.spark, config, "r", 1, checkpoints={}, targets={}, scorers={}, base="", began_in="r"
        )
        frames = {table: self.lakehouse.read(table) for table in ("responses", "scores")}
        return _counted(select.build(Inputs(context, frames)))

    def duplicates(self) -> int:
        """New texts that repeat one before them."""
        new, history = (self.spark.read.parquet(path) for path in self.texts)
        return _counted(near_duplicates(new, history, 0.8))

    def origins(self) -> int:
        """Origins of the checkpoint with all the rows."""
        return _counted(origins_of(tables_of(self.lakehouse), ["tgt-1"]))

    def closure(self) -> int:
        """Checkpoints in the closure of the one with all the rows."""
        return len(closure(self.lakehouse, "tgt-1").checkpoints)


def _counted(frame: DataFrame) -> int:
    """Rows of a frame, every column of them computed."""
    # Spark leaves out what a mere count doesn't need.
    hashed = frame.select(F.xxhash64(*frame.columns).alias("hash"))
    row = hashed.agg(F.count("hash").alias("rows"), F.bit_xor("hash")).head()
    assert row is not None
    return int(row["rows"])


def _peak_gib(spark: SparkSession) -> float:
    """The most memory that the JVM has held so far, GiB."""
    jvm: Any = spark.sparkContext._jvm
    pid = jvm.java.lang.ProcessHandle.current().pid()
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    return math.nan


def measure(made: Made) -> dict[str, Any]:
    """Seconds and rows found of everything that is timed, and the JVM's peak memory after it."""
    line: dict[str, Any] = {"rows": made.rows}
    for work in (made.select, made.duplicates, made.origins, made.closure):
        started = time.perf_counter()
        found = work()
        line[work.__name__] = {"seconds": round(time.perf_counter() - started, 2), "found": found}
        print(f"{made.rows} rows:", work.__name__, line[work.__name__], file=sys.stderr, flush=True)
    line["peak_gib"] = round(_peak_gib(made.spark), 2)
    return line


def main() -> int:
    """Measure every size and print the growth."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="10000,100000,1000000", help="sizes")
    parser.add_argument(
        "--compiled",
        action="store_true",
        help="have Spark and Java compile what they run, as on a cluster; on one machine `mart` has them interpret it, "
        "since a round there is many queries over small tables",
    )
    parser.add_argument("--output", type=Path, help="a JSON file for the result")
    options = parser.parse_args()
    sizes = sorted(int(rows) for rows in options.rows.split(","))
    with tempfile.TemporaryDirectory() as name:
        lines: list[dict[str, Any]] = []
        java = "-XX:TieredStopAtLevel=4" if options.compiled else ""
        with open_session(Path(name) / "scratch", java_options=java) as spark:
            if options.compiled:
                spark.conf.set("spark.sql.codegen.wholeStage", "true")
                spark.conf.set("spark.sql.codegen.factoryMode", "FALLBACK")
                spark.conf.set("spark.sql.shuffle.partitions", "200")  # Spark's default
            for rows in sizes:
                made = Made(spark, Path(name), rows)
                if not lines:
                    measure(made)  # thrown away: whatever is done for the first time takes longer
                lines.append(measure(made))
    figures: dict[str, Any] = {"compiled": options.compiled, "sizes": lines}
    if len(sizes) > 1:
        span = math.log(sizes[-1] / sizes[0])
        figures["exponent"] = {
            what: round(math.log(lines[-1][what]["seconds"] / lines[0][what]["seconds"]) / span, 2)
            for what in ("select", "duplicates", "origins", "closure")
        }
    give_result("curation", figures, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
