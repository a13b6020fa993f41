"""A target behind an endpoint: asked by messages, never trained, paid for."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from jobs.cli import config_path
from pipelines.artifacts import Artifacts
from pipelines.config import load_config
from pipelines.errors import ConfigError, EngineError
from pipelines.imports import import_all
from pipelines.lakehouse import Lakehouse
from pipelines.runner import Runner, begin
from pipelines.steps.evaluate import EVALUATE_TARGET
from tests import tiny
from tests.http_endpoint import JsonHandler, serving

PROMPT_TOKENS, COMPLETION_TOKENS = 300_000, 100_000


class Hosted(JsonHandler):
    """Repeats what it was asked, at a price."""

    seen: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = self.body()
        self.seen.append(body)
        choice = {
            "message": {"content": "you said: " + body["messages"][-1]["content"]},
            "finish_reason": "stop",
        }
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS}
        self.reply(200, {"choices": [choice], "usage": usage})


@pytest.fixture
def runner(
    lakehouse: Lakehouse,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Runner]]:
    """Makes a runner over the small world, with further settings of the endpoint."""
    monkeypatch.setenv("MART_CACHE", str(tmp_path_factory.mktemp("cache")))
    Hosted.seen = []
    model = tiny.llama(tmp_path / "llama", positions=512)
    lakehouse.ensure()
    with serving(Hosted) as base_url:

        def make(**more: Any) -> Runner:
            sets = {
                "model": str(model), "data.prepare": "tests.e2e.world:export", "engine.chunk_rows": 4,
                "engine.chunks_in_flight": 1, "target.enabled": False, "target.endpoint.base_url": base_url,
                "target.endpoint.model": "m", "target.endpoint.key_variable": "HOME",
                **{f"target.endpoint.{key}": value for key, value in more.items()},
            }  # fmt: skip
            config = load_config(config_path("sandbox"), [f"{key}={value}" for key, value in sets.items()])
            begin(lakehouse, config, "r")
            import_all(lakehouse, config.data, tmp_path / "prepared")
            return Runner(lakehouse, Artifacts(tmp_path / "artifacts"), config, "r")

        yield make


def test_it_is_asked_with_the_messages_and_its_cost_is_counted(runner: Callable[..., Runner]) -> None:
    asker = runner(prompt_price=2.0, completion_price=10.0)
    asker.run_step(EVALUATE_TARGET, 0)
    answers = asker.lakehouse.read("responses").collect()
    assert answers and all(row["text"] == "you said: " + row["prompt"] for row in answers)
    assert {row["checkpoint_id"] for row in answers} == {None}
    requests = {row["seed"]: row for row in asker.lakehouse.read("requests").collect()}
    assert {body["seed"] for body in Hosted.seen} == requests.keys() and len(Hosted.seen) == len(answers)
    assert {body["model"] for body in Hosted.seen} == {"m"}
    each = (PROMPT_TOKENS * 2.0 + COMPLETION_TOKENS * 10.0) / 1e6
    assert asker.history.counts(0, "evaluate_target")["cost"] == pytest.approx(each * len(answers))


def test_an_error_in_a_task_reaches_the_user_as_its_sentence(runner: Callable[..., Runner]) -> None:
    keyless = runner(key_variable="NO_SUCH_KEY")
    with pytest.raises(
        ConfigError, match="^environment variable NO_SUCH_KEY is not set; it holds the endpoint's key$"
    ):
        keyless.run_step(EVALUATE_TARGET, 0)
    failed = keyless.lakehouse.read("steps").where("state = 'failed'").collect()
    assert [row["error"] for row in failed] == [
        "environment variable NO_SUCH_KEY is not set; it holds the endpoint's key"
    ]


def test_a_step_stops_when_the_budget_is_spent_and_goes_on_with_a_larger_one(
    runner: Callable[..., Runner],
) -> None:
    prices = {"prompt_price": 2.0, "completion_price": 10.0}
    short = runner(budget=2.0, **prices)
    with pytest.raises(EngineError, match=r"cost 6\.40 of the 2\.00 that target\.endpoint\.budget allows"):
        short.run_step(EVALUATE_TARGET, 0)
    assert len(Hosted.seen) == 4, "one chunk, and none after it"
    longer = runner(budget=1000.0, **prices)
    longer.run_step(EVALUATE_TARGET, 0)
    asked = longer.lakehouse.read("requests").count()
    assert len(Hosted.seen) == asked == longer.lakehouse.read("responses").count() > 4
