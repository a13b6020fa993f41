"""Identities: SHA-256 over canonical JSON, and what is derived from it.

Two processes on two machines that hold the same content compute the same id. Settings that change only speed stay
out of every digest; see `docs/architecture.md`.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_SEED_SPACE = 2**63


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no white space and no NaN: the one text form of a value.

    Lone surrogates, which UTF-8 cannot carry, are written as ``\\udXXX`` escapes like every other non-ASCII character.

    Raises:
        ValueError: the value holds NaN or an infinity.
        TypeError: the value holds something that JSON has no form for.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def json_object(text: str) -> dict[str, Any] | None:
    """The object that a stored JSON text holds; None where it holds none, as after somebody changed it."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def digest(value: Any) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def text_sha256(text: str) -> str:
    """SHA-256 (64 hex digits) of a text's UTF-8 bytes; a lone surrogate is kept apart from every valid text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def seed_from(identity: str) -> int:
    """A seed in [0, 2**63) that follows from an id, so that a retry draws the very same numbers."""
    return int.from_bytes(hashlib.sha256(f"seed:{identity}".encode()).digest()[:8], "big") % _SEED_SPACE


def root_digest(digests: Iterable[str]) -> str:
    """One digest over row digests in their given order: what a snapshot's manifest is checked against."""
    running = hashlib.sha256()
    for item in digests:
        running.update(item.encode("ascii"))
        running.update(b"\n")
    return running.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read in pieces of 1 MiB."""
    running = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            running.update(piece)
    return running.hexdigest()


def tensors_sha256(files: Iterable[Path]) -> str:
    """Digest of the tensors in safetensors files: names, types, shapes and bytes, in order of name.

    Headers' free-form metadata and the split into files do not count, so the same weights saved by another version
    of a library keep their digest.

    Raises:
        ValueError: a file is not a safetensors file, or a tensor's name stands in two files.
    """
    entries: dict[str, tuple[Path, int, dict[str, Any]]] = {}
    for path in files:
        with path.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if not 0 < size <= path.stat().st_size:
                raise ValueError(f"{path} is not a safetensors file: its header is {size} bytes long")
            header = json.loads(stream.read(size))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if name in entries:
                raise ValueError(f"tensor {name!r} stands both in {entries[name][0]} and in {path}")
            entries[name] = (path, 8 + size, entry)
    running = hashlib.sha256()
    for name in sorted(entries):
        path, start, entry = entries[name]
        begin, end = entry["data_offsets"]
        running.update(canonical_json([name, entry["dtype"], entry["shape"]]).encode("ascii"))
        with path.open("rb") as stream:
            stream.seek(start + begin)
            left = end - begin
            while left:
                piece = stream.read(min(left, 1 << 20))
                if not piece:
                    raise ValueError(f"{path} ends inside tensor {name!r}: the file was cut short")
                running.update(piece)
                left -= len(piece)
    return running.hexdigest()
