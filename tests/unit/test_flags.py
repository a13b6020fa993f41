"""What the values of flags stand for, and which are refused."""

import pytest

from jobs.flags import choices, fork_point, pairs
from jobs.main_job import resolve_round
from pipelines.errors import ConfigError


def test_a_mapping_named_twice_is_refused() -> None:
    assert pairs(["text=prompt", "category=a=b"], "--field") == {"text": "prompt", "category": "a=b"}
    with pytest.raises(ConfigError, match="--field names text twice, as 'prompt' and as 'body'; keep one"):
        pairs(["text=prompt", "text=body"], "--field")


def test_rows_may_be_picked_by_several_values_of_a_field() -> None:
    assert choices(["split=a", "kind=x", "split=b"], "--where") == {"split": ["a", "b"], "kind": ["x"]}


@pytest.mark.parametrize("nothing", [None, ""])
def test_no_fork_is_no_text_or_an_empty_one(nothing: str | None) -> None:
    assert fork_point(nothing) is None
    assert fork_point("run@1@2") == ("run@1", 2)


def test_a_round_is_a_number_that_can_be_read() -> None:
    with pytest.raises(ConfigError, match="--round takes a number or next, got '²'"):
        resolve_round(None, None, "²")  # type: ignore[arg-type]
