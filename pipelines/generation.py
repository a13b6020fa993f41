"""Generation inside Spark: a plan becomes requests, chunks of requests become commits of outcomes.

A chunk is one commit in which every request has a row. What is left to do is requests without outcomes, nothing else;
several chunks are in flight, so that a kill costs a chunk and the tail of one hides behind the next.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from tqdm import tqdm

from pipelines.engines.protocol import Adapter, GenerationOutcome, GenerationRequest, GeneratorSpec
from pipelines.lakehouse import Lakehouse
from pipelines.models import TokenizerFiles, rendering
from pipelines.step import PLAN_COLUMNS, GenerationStep
from schemas.digests import digest, seed_from
from schemas.manifests import parse_messages
from schemas.rendering import Tokenizer, render, render_example
from schemas.tables import BY_NAME

log = logging.getLogger(__name__)

_ROWS_A_BATCH = 16  # outcomes that leave a task together; small, so that little is held back


@dataclass(frozen=True, slots=True)
class Ask:
    """Everything a Spark task needs to ask an engine; travels to the executors.

    Attributes:
        spec: the engine.
        adapters: checkpoint id to its adapter; None where the engine serves one model, which is what all requests are for.
        outcome: the step's function from request row and outcome to columns.
        priority: as requests have it.
    """

    spec: GeneratorSpec
    adapters: Mapping[str, Adapter] | None
    outcome: Callable[[Mapping[str, Any], GenerationOutcome], dict[str, Any]]
    priority: int = 0

    def adapter_of(self, checkpoint_id: str | None) -> str | None:
        """What a request for a checkpoint tells the engine; None asks the model that the engine has."""
        if checkpoint_id is None or self.adapters is None:
            return None
        return self.adapters[checkpoint_id].name


def write_requests(
    lakehouse: Lakehouse, step: GenerationStep, plan: DataFrame, ids: Mapping[str, Any]
) -> None:
    """Render a plan, give each row its id and seed, and commit all requests of the step at once, once and for all.

    Args:
        lakehouse: the tables.
        step: the step that asks.
        plan: rows with `PLAN_COLUMNS`.
        ids: run_id, round, base (a directory), chunk_rows and partitions.
    """
    run_id, round, base = ids["run_id"], ids["round"], ids["base"]
    name, role = step.name, step.role
    names, schema = _computed("requests")
    purpose = "evaluation" if name.startswith("evaluate") else "attack"

    files = TokenizerFiles.of(base)  # the base itself may be on the driver's node only

    def finish(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        tokenizer = files.load()
        for batch in batches:
            rows = []
            for item in batch.to_dict("records"):
                row = {key: _plain(value) for key, value in item.items()}
                with rendering(tokenizer, base, f"step {name}"):
                    input_ids, given = rendered_input(tokenizer, row["messages"])
                place = {"run_id": run_id, "round": round, "step": name}
                row |= place | {"input_ids": input_ids, "scored_tokens": given}
                request_id = digest(request_identity(row))
                rows.append(
                    row
                    | {
                        "request_id": request_id,
                        "chunk": 0,
                        "role": role,
                        "purpose": purpose,
                        "input_sha256": digest(input_ids),
                        "seed": seed_from(request_id),
                    }
                )
            yield pd.DataFrame([[row[key] for key in names] for row in rows], columns=names)

    # Two equal requests (same prompt, same parents, same sample) would be one and the same question.
    # Few partitions: each worker that renders loads the tokenizer first.
    spread = plan.select(*PLAN_COLUMNS).repartition(ids["partitions"])
    rendered = spread.mapInPandas(finish, schema).dropDuplicates(["request_id"])
    # A chunk is for one checkpoint, which an engine of its own may serve.
    turn = Window.partitionBy("run_id", "checkpoint_id").orderBy("request_id")
    part = F.floor((F.row_number().over(turn) - 1) / F.lit(ids["chunk_rows"]))
    order = Window.partitionBy("run_id").orderBy("checkpoint_id", "part")
    numbered = (
        rendered.withColumn("part", part).withColumn("chunk", F.dense_rank().over(order) - 1).drop("part")
    )
    lakehouse.append("requests", numbered, once=digest([run_id, round, name, "requests"]))


def rendered_input(tokenizer: Tokenizer, messages: str) -> tuple[list[int], int]:
    """Token ids of JSON messages, and how many of the last ones are a given answer, the assistant's turn at the end."""
    turns = parse_messages(messages, answered=True)
    if turns[-1]["role"] != "assistant":
        return render(tokenizer, turns), 0
    prompt, answer = render_example(tokenizer, turns[:-1], turns[-1]["content"])
    return prompt + answer, len(answer)


def request_identity(row: Mapping[str, Any]) -> list[Any]:
    """What a request's id is a digest of: the same question in the same place has the same id, and so the same seed."""
    place = [row["run_id"], int(row["round"]), row["step"], _plain(row["checkpoint_id"])]
    content = [[int(token) for token in row["input_ids"]], [str(parent) for parent in row["parent_ids"]]]
    sampling = [float(row["temperature"]), float(row["top_p"]), int(row["max_tokens"])]
    sampling += [int(row["scored_tokens"])] if row["scored_tokens"] else []
    return [*place, *content, sampling, int(row["sample_index"])]


def _messages(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((turn["role"], turn["content"]) for turn in parse_messages(text))


def _plain(value: Any) -> Any:
    """A pandas cell as the Python value that JSON knows."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    if hasattr(value, "tolist"):
        return value.tolist()
    return value


def _of_step(ids: Mapping[str, Any], step: str) -> Any:
    return (F.col("run_id") == ids["run_id"]) & (F.col("round") == ids["round"]) & (F.col("step") == step)


@dataclass(frozen=True, slots=True)
class Chunk:
    """How far a chunk of a step's requests has come.

    Attributes:
        number: the chunk.
        requests: its requests.
        left: those without an outcome.
        checkpoints: id of the checkpoint they are for, empty for the bare base; several in a run begun before
            each chunk was for one.
    """

    number: int
    requests: int
    left: int
    checkpoints: frozenset[str]


def chunks_of(lakehouse: Lakehouse, step: GenerationStep, ids: Mapping[str, Any]) -> list[Chunk]:
    """The chunks of a step that was planned, none of one that was not; one query."""
    requests = lakehouse.read("requests").where(_of_step(ids, step.name))
    done = lakehouse.read(step.writes).where(_of_step(ids, step.name))
    rows = (
        requests.select("request_id", "chunk", "checkpoint_id")
        .join(done.select("request_id", F.lit(1).alias("done")), on="request_id", how="left")
        .groupBy("chunk")
        .agg(
            F.count("*").alias("requests"),
            F.count_if(F.col("done").isNull()).alias("left"),
            F.collect_set("checkpoint_id").alias("checkpoints"),
        )
        .collect()
    )
    found = [Chunk(row["chunk"], row["requests"], row["left"], frozenset(row["checkpoints"])) for row in rows]
    return sorted(found, key=lambda chunk: chunk.number)


def ask_all(
    lakehouse: Lakehouse,
    step: GenerationStep,
    ask: Ask,
    ids: Mapping[str, Any],
    found: Sequence[Chunk],
    chunks_in_flight: int,
    before_chunk: Callable[[], None] = lambda: None,
) -> None:
    """Ask for every request of the step that has no outcome yet, chunk by chunk.

    Args:
        lakehouse: the tables.
        step: the step that asks.
        ask: what a task needs.
        ids: as `write_requests` has them.
        found: from `chunks_of`.
        chunks_in_flight: chunks asked at a time.
        before_chunk: called before each; what it raises ends the step.

    Raises:
        Exception: of the first chunk that failed; chunks committed by then stay.
    """
    requests = lakehouse.read("requests").where(_of_step(ids, step.name))
    chunks = [(chunk.number, chunk.left) for chunk in found if chunk.left]
    if not chunks:
        return
    names, schema = _computed(step.writes)

    def one(chunk: int) -> None:
        before_chunk()
        rows = requests.where(F.col("chunk") == chunk).repartition(ids["partitions"], "request_id")
        # What began first goes first, in any step: chunks that share an engine would otherwise end late, all at once, and a
        # batch of several adapters takes longer than batches of one each. Two chunks can begin within a millisecond.
        in_turn = replace(ask, priority=time.time_ns() // 1000)
        answered = rows.mapInPandas(_asker(in_turn, names), schema)
        once = digest([ids["run_id"], ids["round"], step.name, step.writes, chunk])
        lakehouse.append(step.writes, answered, once=once)

    total = sum(count for _, count in chunks)
    with (
        ThreadPoolExecutor(max_workers=chunks_in_flight, thread_name_prefix="chunk") as pool,
        tqdm(total=total, desc=f"round {ids['round']} {step.name}", unit="row", leave=False) as bar,
    ):
        waiting = [(pool.submit(one, chunk), count) for chunk, count in chunks]
        try:
            for future, count in waiting:
                future.result()
                bar.update(count)
        except BaseException:
            for future, _ in waiting:
                future.cancel()
            raise


def _computed(table: str) -> tuple[list[str], str]:
    """Names, and the schema as DDL, of a table's columns but for `recorded_at`, which the commit adds."""
    columns = [column for column in BY_NAME[table].columns if column.name != "recorded_at"]
    return [column.name for column in columns], ", ".join(
        f"`{column.name}` {column.type}" for column in columns
    )


def _asker(ask: Ask, columns: Sequence[str]) -> Callable[[Iterable[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """The function that a Spark task runs over its rows: many requests in flight, rows out as they finish."""

    def run(batches: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        from pipelines.engines.factory import open_generator

        pending: dict[str, dict[str, Any]] = {}
        hosted = ask.spec.backend == "openai"

        def requests() -> Iterator[GenerationRequest]:
            for batch in batches:
                for row in batch.to_dict("records"):
                    pending[row["request_id"]] = row
                    yield GenerationRequest(
                        request_id=row["request_id"],
                        token_ids=tuple(int(token) for token in row["input_ids"]),
                        adapter=ask.adapter_of(_plain(row["checkpoint_id"])),
                        temperature=float(row["temperature"]),
                        top_p=float(row["top_p"]),
                        max_tokens=int(row["max_tokens"]),
                        seed=int(row["seed"]),
                        scored_tokens=int(row["scored_tokens"]),
                        priority=ask.priority,
                        messages=_messages(row["messages"]) if hosted else (),
                    )

        ready: list[dict[str, Any]] = []
        generator = open_generator(ask.spec, tuple((ask.adapters or {}).values()))
        with closing(generator):
            for answer in generator.generate(requests()):
                ready.append(outcome_row(pending.pop(answer.request_id), answer, ask.outcome))
                if len(ready) >= _ROWS_A_BATCH:
                    yield _frame(ready, columns)
                    ready = []
        if pending:
            raise RuntimeError(f"the engine left {len(pending)} requests without an outcome")
        if ready:
            yield _frame(ready, columns)

    return run


def _frame(rows: list[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series([row[name] for row in rows], dtype=object) for name in columns})


def _storable(text: str | None) -> str | None:
    """Model output as tables hold it: without NULs, and with a question mark for half of a character, which UTF-8 can't carry."""
    return None if text is None else text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def outcome_row(
    request: Mapping[str, Any],
    answer: GenerationOutcome,
    outcome: Callable[[Mapping[str, Any], GenerationOutcome], dict[str, Any]],
) -> dict[str, Any]:
    """A row of the outcome table: what every outcome has, and what the step makes of it."""
    failed = answer.error_kind is not None
    answer = replace(answer, text=_storable(answer.text), error=_storable(answer.error))
    row = {
        "request_id": answer.request_id,
        "run_id": request["run_id"],
        "round": int(request["round"]),
        "step": request["step"],
        "checkpoint_id": _plain(request["checkpoint_id"]),
        "purpose": request["purpose"],
        "status": "error" if failed else "ok",
        "error_kind": answer.error_kind,
        "error": None if answer.error is None else answer.error[:500],
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "seconds": answer.seconds,
        "chunk": int(request["chunk"]),
    }
    return row | outcome({key: _plain(value) for key, value in request.items()}, answer)
