"""Writes the world as JSON Lines, the format in which users bring their own data, and gives its digest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path
from uuid import uuid4

from sandbox.world import build_world


def export(folder: Path) -> dict[str, Path]:
    """Writes `<list>.jsonl` for each list into `folder`, made if missing; returns the paths by list."""
    world = build_world()
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[str, Path] = {}
    for field in fields(world):
        path = folder / f"{field.name}.jsonl"
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in getattr(world, field.name)]
        content = "".join(lines).encode()
        if not path.is_file() or path.read_bytes() != content:  # another run may be reading it
            written = folder / f".{field.name}.{uuid4().hex}"
            written.write_bytes(content)
            written.replace(path)
        paths[field.name] = path
    return paths


def content_digest() -> str:
    """SHA-256 (hex) over the canonical JSON of the whole world."""
    world = build_world()
    content = {field.name: getattr(world, field.name) for field in fields(world)}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()
