"""A small cut of the sandbox's world, so that the main job runs in minutes: few seeds, labels and held-out prompts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox.world import build_world

Row = dict[str, Any]


def _some(rows: tuple[Row, ...], cell: Callable[[Row], Any], each: int) -> list[Row]:
    """The first `each` rows of every cell."""
    seen: dict[Any, int] = {}
    kept = []
    for row in rows:
        seen[cell(row)] = seen.get(cell(row), 0) + 1
        if seen[cell(row)] <= each:
            kept.append(row)
    return kept


def export(folder: Path) -> None:
    """Write the cut as JSONL files, as `sandbox.export.export` writes the whole."""
    world = build_world()
    lists = {
        "seeds": _some(world.seeds, lambda row: (row["category"], row["style"]), 2),
        "benign": _some(world.benign, lambda row: (row["category"], row["style"]), 1),
        "instructions": list(world.instructions[:24]),
        "warm_start": _some(world.warm_start, lambda row: row["kind"], 6),
        "evaluation_prompts": _some(
            world.evaluation_prompts, lambda row: (row["suite"], row["split"], row["seen_style"]), 4
        ),
        "labels": _some(
            world.labels, lambda row: (row["kind"], row["safe"], row["helpful"], row["split"]), 6
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in lists.items():
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
