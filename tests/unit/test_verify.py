"""What `mart verify` makes of rows, without Spark."""

import tracemalloc
from collections.abc import Iterator
from typing import Any

from pipelines.verify_checkpoints import wrong_rows
from schemas.digests import root_digest
from schemas.manifests import sft_example_sha256


def _row(position: int) -> dict[str, Any]:
    text = f"row {position}"
    example = sft_example_sha256(text, text, 1.0, "target")
    return {"position": position, "input": text, "output": text, "weight": 1.0, "example_sha256": example}


def test_training_rows_are_proved_without_being_kept() -> None:
    n = 5_000
    root = root_digest(_row(position)["example_sha256"] for position in range(n))

    def rows() -> Iterator[dict[str, Any]]:
        for position in range(n):
            yield _row(position) | ({"output": "changed"} if position == 7 else {})

    tracemalloc.start()
    found = wrong_rows(rows(), {"role": "target", "training_root": root})
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [
        "training row 7 does not have the digest of its content",
        f"its {n} training rows do not give the root that its recipe names",
    ]
    assert most < 64 * n, "less than the digests of all of them"
