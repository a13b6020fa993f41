"""Identities are the same everywhere, and differ where content does."""

import json
import struct
from pathlib import Path

import pytest

from schemas.digests import canonical_json, digest, root_digest, seed_from, tensors_sha256, text_sha256


def _safetensors(path: Path, tensors: dict[str, bytes], metadata: dict[str, str] | None = None) -> Path:
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    start = 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [start, start + len(data)]}
        start += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(tensors.values()))
    return path


def test_the_order_of_keys_does_not_count() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})


def test_not_a_number_has_no_digest() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_any_text_has_a_digest_of_its_own() -> None:
    texts = ["", "a", "a\x00", "\ud800", "?", "\ufffd"]
    assert len({text_sha256(text) for text in texts}) == len(texts)


def test_seeds_follow_from_ids_and_fit_a_signed_64_bit_number() -> None:
    seeds = [seed_from(str(number)) for number in range(1000)]
    assert seeds == [seed_from(str(number)) for number in range(1000)]
    assert all(0 <= seed < 2**63 for seed in seeds) and len(set(seeds)) == 1000


def test_the_root_depends_on_order_and_length() -> None:
    assert len({root_digest(items) for items in (["a", "b"], ["b", "a"], ["ab"], [])}) == 4


def test_tensors_keep_their_digest_under_other_metadata_and_files(tmp_path: Path) -> None:
    whole = _safetensors(tmp_path / "whole", {"x": b"123", "y": b"45"})
    other = _safetensors(tmp_path / "other", {"y": b"45", "x": b"123"}, {"format": "pt"})
    parts = [_safetensors(tmp_path / "1", {"x": b"123"}), _safetensors(tmp_path / "2", {"y": b"45"})]
    assert tensors_sha256([whole]) == tensors_sha256([other]) == tensors_sha256(parts)


def test_one_changed_byte_changes_the_digest(tmp_path: Path) -> None:
    first = _safetensors(tmp_path / "a", {"x": b"123"})
    second = _safetensors(tmp_path / "b", {"x": b"124"})
    assert tensors_sha256([first]) != tensors_sha256([second])


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = _safetensors(tmp_path / "a", {"x": b"123"})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut short"):
        tensors_sha256([path])
