"""The requests of `benchmarks.alternatives` through datatrove; run by it in an environment that has datatrove."""

import argparse
import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Any

from datatrove.data import Document  # type: ignore[import-not-found]
from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner  # type: ignore[import-not-found]
from datatrove.pipeline.inference.servers import vllm_server  # type: ignore[import-not-found]
from datatrove.pipeline.writers.jsonl import JsonlWriter  # type: ignore[import-not-found]

# When a request was sent, which waits for the server, and when its answer came; it is written as it comes.
times: list[float] = []
_send = vllm_server.VLLMServer._make_request


async def _timed(server: Any, payload: Any) -> Any:
    times.append(time.time())
    answer = await _send(server, payload)
    times.append(time.time())
    return answer


async def rollout(document: Document, generate: Any) -> Any:
    """One request a document, as token ids with its own seed."""
    answer = await generate(dict(document.metadata["request"]))
    return {"text": answer.text, "tokens": answer.usage["completion_tokens"]}


def main() -> None:
    """Ask, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arguments", help="of the server, JSON")
    parser.add_argument("model")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, required=True)
    options = parser.parse_args()
    lines = [json.loads(line) for line in (options.folder / "requests.jsonl").open()][: options.rows]
    names = ("seed", "temperature", "top_p", "max_tokens")
    documents = [
        Document(
            text="",
            id=line["request_id"],
            metadata={"request": {"prompt": line["token_ids"], **{name: line[name] for name in names}}},
        )
        for line in lines
    ]
    # vLLM is in the environment of the server, which is another.
    vllm_server.check_required_dependencies = lambda *_: None
    vllm_server.VLLMServer._make_request = _timed
    arguments = json.loads(options.arguments)
    output = options.folder / "datatrove"
    shutil.rmtree(output, ignore_errors=True)
    runner = InferenceRunner(
        rollout_fn=rollout,
        config=InferenceConfig(
            server_type="vllm",
            model_name_or_path=options.model,
            model_max_context=arguments.pop("max_model_len"),
            use_chat=False,
            model_kwargs={name.replace("_", "-"): value for name, value in arguments.items()},
            max_concurrent_generations=256,
        ),
        output_writer=JsonlWriter(str(output), output_filename="${rank}.jsonl", compression=None),
    )
    asyncio.run(runner.run_async(documents))
    written = [json.loads(line) for path in output.glob("*.jsonl") for line in path.open()]
    tokens = [answer["tokens"] for row in written for answer in row["metadata"]["rollout_results"]]
    asked = {"ready": min(times), "done": max(times), "tokens": tokens}
    (options.folder / "asked.json").write_text(json.dumps(asked))


if __name__ == "__main__":
    main()
