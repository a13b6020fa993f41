"""A target behind an endpoint: asked by messages, never trained, paid for."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pyspark.sql import Row, SparkSession

from jobs.summary import summary
from pipelines.errors import ConfigError, EngineError
from pipelines.lakehouse import Lakehouse
from pipelines.lineage import CLOSURE_VIEWS, closure
from pipelines.runner import Runner
from pipelines.steps.evaluate import EVALUATE_ADVERSARY, EVALUATE_TARGET
from pipelines.steps.score import EVALUATE_SCORE
from pipelines.verify import verify_run
from pipelines.views import create_views
from tests.http_endpoint import JsonHandler, serving
from tests.spark.runs import runners

RunnerOf = Callable[..., Runner]

PROMPT_TOKENS, COMPLETION_TOKENS = 300_000, 100_000
USAGE = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS}
PRICES = {"prompt_price": 2.0, "completion_price": 10.0}
EACH = (PROMPT_TOKENS * 2.0 + COMPLETION_TOKENS * 10.0) / 1e6  # what an answer or a verdict costs


class Hosted(JsonHandler):
    """Repeats what it was asked, at a price, with a status that a test may set; a filter holds back every third answer."""

    seen: ClassVar[list[dict[str, Any]]] = []
    status: ClassVar[int] = 200

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


def _target(base_url: str, **endpoint: Any) -> dict[str, Any]:
    """The settings of a run whose target is `Hosted`, with settings of the endpoint."""
    sets = {
        "base_url": base_url,
        "model": "my-chat",
        "key_variable": "HOME",  # Spark's workers have the environment that their JVM began with
        **endpoint,
    }
    return {
        "engine.chunks_in_flight": 1,
        "target.enabled": False,
        **{f"target.endpoint.{key}": value for key, value in sets.items()},
    }


@pytest.fixture
def runner(runner_of: RunnerOf) -> Iterator[RunnerOf]:
    """Makes a runner against `Hosted`, with settings of the endpoint and further ones."""
    Hosted.seen, Hosted.status = [], 200
    with serving(Hosted) as base_url:

        def make(
            run_id: str = "r",
            fork: tuple[str, int] | None = None,
            settings: dict[str, Any] | None = None,
            **endpoint: Any,
        ) -> Runner:
            sets = {"engine.chunk_rows": 4, **_target(base_url, **endpoint), **(settings or {})}
            return runner_of(sets, run_id, fork)

        yield make


@dataclass(frozen=True)
class Paid:
    """What a round left in which the target and a judge, a rubric, are paid for.

    Attributes:
        answers, requests: rows of `responses` and `requests`.
        verdicts: rows of `scores` that are the rubric's.
        costs: step to what it counted as its cost.
        asked: what was posted for the answers.
        refusal: what the judge's step ended with while the judge's budget was spent; empty where it did not end so.
        asked_meanwhile: what was posted by that step.
    """

    answers: list[Row]
    requests: list[Row]
    verdicts: list[Row]
    costs: Mapping[str, float]
    asked: list[dict[str, Any]]
    refusal: str
    asked_meanwhile: list[dict[str, Any]]


def _rubric(base_url: str) -> dict[str, Any]:
    """A judge that is `Hosted`, with a budget of 1."""
    endpoint = {"base_url": base_url, "model": "my-judge", "key_variable": "HOME", "budget": 1.0, **PRICES}
    rubric = {"name": "rubric", "kind": "rubric", "rubric": "words", "values": {"refused": 1.0}}
    return rubric | {"endpoint": endpoint}


@pytest.fixture(scope="module")
def paid(spark: SparkSession, imported: Path, tmp_path_factory: pytest.TempPathFactory) -> Paid:
    """Round 0 on held-out prompts; the judge's budget is spent when its step begins, and no longer when it begins again."""
    folder = tmp_path_factory.mktemp("paid")
    lakehouse = Lakehouse(spark, "paid", folder / "lakehouse")
    spent = {
        "run_id": "r", "round": 0, "step": "x", "response_id": "x", "scorer_digest": "x", "scorer": "rubric",
        "status": "ok", "prompt_tokens": 1_000_000, "completion_tokens": 0,
    }  # fmt: skip
    Hosted.seen, Hosted.status = [], 200
    with serving(Hosted) as base_url, runners(lakehouse, imported, folder, folder / "cache") as runner_of:
        settings = {
            "data.warm_start": None,
            "adversary.warm_pairs": 0,
            "evaluate.adversary_prompts": 0,
            "judges": [_rubric(base_url)],
            **_target(base_url, **PRICES),
            "engine.chunk_rows": 64,
        }
        asker = runner_of(settings)
        asker.run_step(EVALUATE_TARGET, 0)
        asked = [*Hosted.seen]
        lakehouse.append_rows("scores", [spent])
        refusal = _refusal(asker)
        asked_meanwhile = Hosted.seen[len(asked) :]
        spark.sql(f"DELETE FROM {lakehouse.name('scores')} WHERE step = 'x'")
        asker.run_step(EVALUATE_SCORE, 0)
    return Paid(
        answers=lakehouse.read("responses").collect(),
        requests=lakehouse.read("requests").collect(),
        verdicts=lakehouse.read("scores").where("scorer = 'rubric'").collect(),
        costs={name: asker.history.counts(0, name)["cost"] for name in ("evaluate_target", "evaluate_score")},
        asked=asked,
        refusal=refusal,
        asked_meanwhile=asked_meanwhile,
    )


def _refusal(asker: Runner) -> str:
    """What the judge's step ends with, where that is an error of the configuration."""
    try:
        asker.run_step(EVALUATE_SCORE, 0)
    except ConfigError as error:
        return str(error)
    return ""


def test_it_is_asked_once_with_the_messages_of_each_request(paid: Paid) -> None:
    answered = [row for row in paid.answers if row["finish_reason"] != "content_filter"]
    assert answered and all(row["text"] == "you said: " + row["prompt"] for row in answered)
    assert {row["checkpoint_id"] for row in paid.answers} == {None}
    assert {body["seed"] for body in paid.asked} == {row["seed"] for row in paid.requests}
    assert len(paid.asked) == len(paid.answers)
    assert {body["model"] for body in paid.asked} == {"my-chat"}


def test_an_answer_that_a_filter_held_back_is_an_empty_one_and_no_error(paid: Paid) -> None:
    held_back = [row for row in paid.answers if row["finish_reason"] == "content_filter"]
    assert 0 < len(held_back) < len(paid.answers)
    assert all(row["text"] == "" and row["status"] == "ok" for row in held_back)


def test_what_its_answers_cost_is_counted(paid: Paid) -> None:
    assert paid.costs["evaluate_target"] == pytest.approx(EACH * len(paid.answers))


def test_what_a_judge_takes_is_kept_and_counted(paid: Paid) -> None:
    assert paid.verdicts and {(row["prompt_tokens"], row["completion_tokens"]) for row in paid.verdicts} == {
        (PROMPT_TOKENS, COMPLETION_TOKENS)
    }
    assert paid.costs["evaluate_score"] == pytest.approx(EACH * len(paid.verdicts))


def test_a_judge_whose_budget_is_spent_is_not_asked(paid: Paid) -> None:
    assert "the verdicts of judge rubric have cost 2.00 of the 1.00" in paid.refusal
    assert paid.asked_meanwhile == []


def test_a_round_against_it_trains_the_adversary_reports_and_proves_whole(
    runner: RunnerOf,
) -> None:
    # What it answers on held-out sets, other tests look at.
    unevaluated = {
        "data.suites": None,
        "data.warm_start": None,
        "adversary.warm_pairs": 0,
        "evaluate.adversary_prompts": 0,
        "engine.chunk_rows": 64,
    }
    whole = runner(settings=unevaluated)
    for round in (0, 1):
        whole.run_round(round)
    lakehouse = whole.lakehouse
    create_views(lakehouse, CLOSURE_VIEWS)
    roles = {(row["role"], row["round"]): row for row in lakehouse.read("checkpoints").collect()}
    assert roles.keys() == {("adversary", 1)}
    under_preamble = [body for body in Hosted.seen if body["messages"][0]["role"] == "system"]
    assert under_preamble, "context distillation asks under the preamble"
    text = summary(lakehouse, "r")
    assert "attack success in the round, truth" in text and "round 1" in text
    found = closure(lakehouse, roles["adversary", 1]["checkpoint_id"])
    assert list(found.hosted.values()) == ["my-chat"] and "hosted target my-chat at http://" in found.render()
    assert verify_run(lakehouse, whole.artifacts, "r").differences == []


def test_a_step_that_dies_is_on_record_with_an_error_of_ours_as_its_sentence_and_any_other_with_its_type(
    runner: RunnerOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise RuntimeError("no such number")

    dying = runner()
    with monkeypatch.context() as patched:
        patched.setattr(dying, "_execute", die)
        with pytest.raises(RuntimeError, match="no such number"):
            dying.run_step(EVALUATE_TARGET, 0)
    Hosted.status = 401
    with pytest.raises(EngineError, match="^the endpoint http://.* refuses us: HTTP 401") as raised:
        dying.run_step(EVALUATE_TARGET, 0)
    steps = dying.lakehouse.read("steps").collect()
    assert sorted((row["attempt"], row["state"], row["error"]) for row in steps) == [
        (1, "failed", "RuntimeError: no such number"),
        (2, "failed", str(raised.value)),
    ]


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
