"""A target behind an endpoint: asked by messages, never trained, paid for."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from jobs.summary import summary
from pipelines.errors import ConfigError, EngineError
from pipelines.lakehouse import Lakehouse
from pipelines.lineage import closure
from pipelines.runner import Runner
from pipelines.steps.evaluate import EVALUATE_ADVERSARY, EVALUATE_TARGET
from pipelines.verify import verify_run
from pipelines.views import create_views
from tests.http_endpoint import JsonHandler, serving

RunnerOf = Callable[..., Runner]

PROMPT_TOKENS, COMPLETION_TOKENS = 300_000, 100_000
USAGE = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS}
PRICES = {"prompt_price": 2.0, "completion_price": 10.0}


class Hosted(JsonHandler):
    """Repeats what it was asked, at a price, with a status that a test may set; a filter holds back every third answer."""

    seen: ClassVar[list[dict[str, Any]]] = []
    status: ClassVar[int] = 200
    base_url: ClassVar[str] = ""

    def do_POST(self) -> None:
        body = self.body()
        self.seen.append(body)
        if "response_format" in body:  # a rubric's
            verdict = {"message": {"content": '{"label": "refused"}'}}
            return self.reply(self.status, {"choices": [verdict], "usage": USAGE})
        asked = body["messages"][-1]["content"]
        choice: dict[str, Any] = {"message": {"content": f"you said: {asked}"}, "finish_reason": "stop"}
        if body["seed"] % 3 == 0:
            choice = {"message": {"content": None}, "finish_reason": "content_filter"}
        self.reply(self.status, {"choices": [choice], "usage": USAGE})


@pytest.fixture
def runner(runner_of: RunnerOf) -> Iterator[RunnerOf]:
    """Makes a runner against `Hosted`, with settings of the endpoint and further ones."""
    Hosted.seen, Hosted.status = [], 200
    with serving(Hosted) as base_url:
        Hosted.base_url = base_url

        def make(
            run_id: str = "r",
            fork: tuple[str, int] | None = None,
            settings: dict[str, Any] | None = None,
            **endpoint: Any,
        ) -> Runner:
            sets = {
                "engine.chunk_rows": 4, "engine.chunks_in_flight": 1, "target.enabled": False,
                "target.endpoint.base_url": base_url, "target.endpoint.model": "my-chat",
                "target.endpoint.key_variable": "HOME",  # Spark's workers have the environment that their JVM began with
                **{f"target.endpoint.{key}": value for key, value in endpoint.items()},
                **(settings or {}),
            }  # fmt: skip
            return runner_of(sets, run_id, fork)

        yield make


def test_it_is_asked_with_the_messages_and_its_cost_is_counted(runner: RunnerOf) -> None:
    asker = runner(**PRICES)
    asker.run_step(EVALUATE_TARGET, 0)
    answers = asker.lakehouse.read("responses").collect()
    held_back = [row for row in answers if row["finish_reason"] == "content_filter"]
    assert 0 < len(held_back) < len(answers)
    assert all(row["text"] == "" and row["status"] == "ok" for row in held_back)
    assert all(row["text"] == "you said: " + row["prompt"] for row in answers if row not in held_back)
    assert {row["checkpoint_id"] for row in answers} == {None}
    requests = {row["seed"]: row for row in asker.lakehouse.read("requests").collect()}
    assert {body["seed"] for body in Hosted.seen} == requests.keys() and len(Hosted.seen) == len(answers)
    assert {body["model"] for body in Hosted.seen} == {"my-chat"}
    each = (PROMPT_TOKENS * 2.0 + COMPLETION_TOKENS * 10.0) / 1e6
    assert asker.history.counts(0, "evaluate_target")["cost"] == pytest.approx(each * len(answers))


def test_a_round_against_it_trains_the_adversary_reports_and_proves_whole(
    runner: RunnerOf,
) -> None:
    # What it answers on held-out sets, other tests look at.
    unevaluated = {
        "data.suites": None,
        "data.warm_start": None,
        "adversary.warm_pairs": 0,
        "evaluate.adversary_prompts": 0,
    }
    whole = runner(settings=unevaluated)
    for round in (0, 1):
        whole.run_round(round)
    lakehouse = whole.lakehouse
    create_views(lakehouse)
    roles = {(row["role"], row["round"]): row for row in lakehouse.read("checkpoints").collect()}
    assert roles.keys() == {("adversary", 1)}
    under_preamble = [body for body in Hosted.seen if body["messages"][0]["role"] == "system"]
    assert under_preamble, "context distillation asks under the preamble"
    text = summary(lakehouse, "r")
    assert "attack success in the round, truth" in text and "round 1" in text
    found = closure(lakehouse, roles["adversary", 1]["checkpoint_id"])
    assert list(found.hosted.values()) == ["my-chat"] and "hosted target my-chat at http://" in found.render()
    assert verify_run(lakehouse, whole.artifacts, "r").differences == []


def _with_rubric(runner: RunnerOf) -> Runner:
    """A runner whose round 0 is answers to held-out prompts and a rubric's verdicts on them, with a budget of 1."""
    endpoint = {
        "base_url": Hosted.base_url,
        "model": "my-judge",
        "key_variable": "HOME",
        "budget": 1.0,
        **PRICES,
    }
    rubric = {"name": "rubric", "kind": "rubric", "rubric": "words", "values": {"refused": 1.0}}
    return runner(
        settings={
            "judges": [rubric | {"endpoint": endpoint}],
            "data.warm_start": None,
            "adversary.warm_pairs": 0,
            "evaluate.adversary_prompts": 0,
        }
    )


def test_what_a_judge_takes_is_kept_and_counted(runner: RunnerOf) -> None:
    asker = _with_rubric(runner)
    asker.run_round(0)
    verdicts = asker.lakehouse.read("scores").where("scorer = 'rubric'").collect()
    assert verdicts and {(row["prompt_tokens"], row["completion_tokens"]) for row in verdicts} == {
        (PROMPT_TOKENS, COMPLETION_TOKENS)
    }
    each = (PROMPT_TOKENS * 2.0 + COMPLETION_TOKENS * 10.0) / 1e6
    assert asker.history.counts(0, "evaluate_score")["cost"] == pytest.approx(each * len(verdicts))


def test_a_judge_whose_budget_is_spent_is_not_asked(runner: RunnerOf) -> None:
    asker = _with_rubric(runner)
    spent = {
        "run_id": "r", "round": 0, "step": "x", "response_id": "x", "scorer_digest": "x", "scorer": "rubric",
        "status": "ok", "prompt_tokens": 1_000_000, "completion_tokens": 0,
    }  # fmt: skip
    asker.lakehouse.append_rows("scores", [spent])
    with pytest.raises(ConfigError, match=r"the verdicts of judge rubric have cost 2\.00 of the 1\.00"):
        asker.run_round(0)
    assert not [body for body in Hosted.seen if "response_format" in body]


def test_an_error_in_a_task_reaches_the_user_as_its_sentence(runner: RunnerOf) -> None:
    Hosted.status = 401
    refused = runner()
    with pytest.raises(EngineError, match="^the endpoint http://.* refuses us: HTTP 401") as raised:
        refused.run_step(EVALUATE_TARGET, 0)
    failed = refused.lakehouse.read("steps").where("state = 'failed'").collect()
    assert [row["error"] for row in failed] == [str(raised.value)]


def test_a_step_that_dies_of_an_error_that_is_not_ours_is_on_record(
    runner: RunnerOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise RuntimeError("no such number")

    dying = runner()
    monkeypatch.setattr(dying, "_execute", die)
    with pytest.raises(RuntimeError, match="no such number"):
        dying.run_step(EVALUATE_TARGET, 0)
    steps = [(row["state"], row["error"]) for row in dying.lakehouse.read("steps").collect()]
    assert steps == [("failed", "RuntimeError: no such number")]


def test_a_key_that_is_not_there_is_missed_before_anything_begins(runner: RunnerOf) -> None:
    with pytest.raises(ConfigError, match="environment variable NO_SUCH_KEY is not set"):
        runner(key_variable="NO_SUCH_KEY")


def test_a_fork_can_not_change_the_target(runner: RunnerOf, lakehouse: Lakehouse) -> None:
    runner()
    for step in ("evaluate_score", "report"):
        lakehouse.append_rows("steps", [_done("r", 0, step)])
    with pytest.raises(ConfigError, match='target.endpoint.model was "my-chat", is "another"'):
        runner("f", ("r", 0), model="another")


def _done(run_id: str, round: int, step: str) -> dict[str, Any]:
    from pipelines.history import now

    return {
        "run_id": run_id, "round": round, "step": step, "attempt": 1, "state": "done", "started_at": now(),
        "ended_at": now(), "reads": "{}", "writes": "{}", "counts": "{}", "busy_seconds": 0.0,
    }  # fmt: skip


def test_a_step_stops_at_the_budget_its_neighbour_ends_and_only_it_goes_on_with_a_larger_one(
    runner: RunnerOf,
) -> None:
    untrained = {"adversary.warm_pairs": 0}
    short = runner(budget=2.0, settings=untrained, **PRICES)
    with pytest.raises(ConfigError, match=r"cost 6\.40 of the 2\.00 that target\.endpoint\.budget allows"):
        short.run_round(0)
    assert len(Hosted.seen) == 4, "one chunk, and none after it"
    lakehouse = short.lakehouse
    steps = [(row["step"], row["state"]) for row in lakehouse.read("steps").collect()]
    assert sorted(steps) == [("evaluate_adversary", "done"), ("evaluate_target", "failed")]
    longer = runner(budget=1000.0, settings=untrained, **PRICES)
    longer.run_step(EVALUATE_TARGET, 0)
    longer.run_step(EVALUATE_ADVERSARY, 0)
    asked = lakehouse.read("requests").where("step = 'evaluate_target'").count()
    assert len(Hosted.seen) == asked == lakehouse.read("responses").count() > 4
    done = [row["step"] for row in lakehouse.read("steps").where("state = 'done'").collect()]
    assert sorted(done) == ["evaluate_adversary", "evaluate_target"]
