"""What several drivers do at the same time in one lakehouse is done once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from pipelines import beginning, runner
from pipelines.beginning import begin
from pipelines.errors import ConfigError
from pipelines.runner import Runner
from tests.e2e.small import SMALLEST


def _meet(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
    """Two callers of a function wait for each other."""
    both, function = Barrier(2, timeout=120), getattr(module, name)

    def meet(*arguments: Any) -> Any:
        both.wait()
        return function(*arguments)

    monkeypatch.setattr(module, name, meet)


def test_the_judges_of_a_run_are_entered_once(
    runner_of: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = runner_of(SMALLEST)
    second = Runner(first.lakehouse, first.artifacts, first.config, first.run_id)
    _meet(monkeypatch, runner, "scorer_rows")
    with ThreadPoolExecutor(2) as pool:
        for known in [pool.submit(Runner.scorers.func, it) for it in (first, second)]:
            assert set(known.result()) == {"safety", "helpfulness", "truth"}
    assert first.lakehouse.read("scorers").count() == 3


def test_a_run_that_two_begin_with_other_settings_is_that_of_the_first(
    runner_of: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = runner_of(SMALLEST)
    configs = [made.config, made.config.model_copy(update={"seed": 5})]
    _meet(monkeypatch, beginning, "code_version")
    with ThreadPoolExecutor(2) as pool:
        begun = [pool.submit(begin, made.lakehouse, config, "other") for config in configs]
        errors = [error for one in begun if (error := one.exception()) is not None]
    assert [type(error) for error in errors] == [ConfigError]
    assert "begun with other settings: seed" in str(errors[0])
    assert made.lakehouse.read("runs").where("run_id = 'other'").count() == 1
