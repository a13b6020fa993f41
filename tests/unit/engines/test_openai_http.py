"""The client of hosted endpoints: what is tried again, what is a row's outcome, what ends the batch."""

import time
import uuid
from dataclasses import replace
from typing import ClassVar

import pytest

from pipelines.config import EndpointConfig, TargetEndpointConfig
from pipelines.engines import endpoint as client
from pipelines.engines.endpoint import key_in, retry_after
from pipelines.engines.factory import open_generator
from pipelines.engines.protocol import GenerationRequest, GeneratorSpec
from pipelines.errors import ConfigError, EngineError
from tests.http_endpoint import JsonHandler, serving


class Endpoint(JsonHandler):
    """Answers by the first message's text; `busy` and numbers are refused once with a Retry-After."""

    seen: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        body = self.body()
        word = body["messages"][0]["content"]
        self.seen.append(word)
        if word == "open":
            self.reply(400, {"error": "we were sent", "headers": dict(self.headers)})
        elif self.headers["Authorization"] != "Bearer secret":
            self.reply(401, {})
        elif word == "busy" and self.seen.count("busy") == 1:
            self.reply(429, {}, {"Retry-After": "0"})
        elif word.isdigit() and self.seen.count(word) == 1:
            self.reply(429, {}, {"Retry-After": word})
        elif word == "slow":
            time.sleep(0.4)
            choice = {"message": {"content": word}, "finish_reason": "stop"}
            self.reply(200, {"choices": [choice], "usage": {"prompt_tokens": 4, "completion_tokens": 1}})
        elif word.startswith("broken"):
            self.reply(500, {"error": "it broke"})
        elif word.startswith("bad"):
            self.reply(400, {"error": {"message": "bad row"}, "request_id": uuid.uuid4().hex, "input": word})
        elif word.startswith("flagged") or "lapsed" in self.seen:
            self.reply(403, {"error": {"code": 403, "message": "forbidden"}})
        elif word == "unpaid":
            self.reply(402, {"error": {"code": 402, "message": "insufficient credits"}})
        elif word.startswith("wrapped") and self.seen.count(word) == 1:
            code = {"code": int(word[7:])} if word[7:] else {}
            self.reply(200, {"error": {"message": "it broke", **code}}, {"Retry-After": "0"})
        elif word == "telling":
            self.reply(400, {"error": "we were sent", "headers": dict(self.headers)})
        elif word == "filtered-400":
            self.reply(400, {"error": {"code": "content_filter"}})
        elif word == "uncounted":
            self.reply(200, {"choices": [{"message": {"content": word}, "finish_reason": "stop"}]})
        elif word == "filtered-bare":
            self.reply(200, {"choices": [{"message": {}, "finish_reason": "content_filter"}]})
        elif word == "filtered":
            choice = {"message": {"content": None}, "finish_reason": "content_filter"}
            self.reply(200, {"choices": [choice], "usage": {"prompt_tokens": 4, "completion_tokens": 0}})
        elif word == "half":
            self.reply(200, {"choices": [{"message": {"content": "half an"}, "finish_reason": "error"}]})
        elif word == "odd":
            self.reply(200, {"nothing": 1})
        elif word == "deep":
            self.reply_raw(200, b"[" * 5000)
        else:
            choice = {"message": {"content": f"{word} {body['seed']}"}, "finish_reason": "stop"}
            self.reply(200, {"choices": [choice], "usage": {"prompt_tokens": 4, "completion_tokens": 2}})


@pytest.fixture
def spec(monkeypatch):
    monkeypatch.setenv("TEST_KEY", "secret")
    Endpoint.seen = []
    with serving(Endpoint) as base_url:
        endpoint = TargetEndpointConfig(
            base_url=base_url, model="hosted", key_variable="TEST_KEY", attempts=2
        )
        yield GeneratorSpec("openai", "hosted", "0", options=endpoint.options_of(1))


def ask(spec, *words: str):
    requests = [
        GenerationRequest(word, (), None, 1.0, 1.0, 8, 3, messages=(("user", word),)) for word in words
    ]
    return {item.request_id: item for item in open_generator(spec).generate(requests)}


def test_rows_are_answered_tried_again_or_marked(spec):
    found = ask(spec, "hello", "busy", "bad", "odd")
    assert (found["hello"].text, found["hello"].prompt_tokens, found["hello"].completion_tokens) == (
        "hello 3",
        4,
        2,
    )
    assert found["busy"].text == "busy 3"
    assert found["bad"].error_kind == "refused"
    assert found["odd"].error_kind == "unreadable"


def test_half_an_answer_that_ends_with_an_error_is_none(spec):
    assert ask(spec, "hello", "half")["half"].error_kind == "unreadable"


def test_an_answer_that_is_nested_too_deep_is_unreadable(spec):
    assert ask(spec, "hello", "deep")["deep"].error_kind == "unreadable"


def test_a_prompts_control_tokens_are_broken_up_as_those_of_local_rendering_are(spec):
    ask(spec, "hi<|im_end|>")
    assert Endpoint.seen == ["hi<\u2060|im_end|>"]


def test_the_key_is_not_quoted_from_an_endpoint_that_repeats_what_it_was_sent(spec):
    error = ask(spec, "hello", "telling")["telling"].error
    assert "Bearer [the key]" in error and "secret" not in error


def test_a_refused_key_ends_the_batch_and_a_missing_one_is_named(spec, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "wrong")
    with pytest.raises(EngineError, match="refuses us: HTTP 401"):
        ask(spec, "hello")
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(ConfigError, match="TEST_KEY is not set"):
        open_generator(spec)


def test_a_prompt_that_is_forbidden_is_held_back_where_harmless_words_are_answered(spec):
    found = ask(spec, *(f"flagged-{number}" for number in range(30)), "hello")
    assert found.pop("hello").text == "hello 3"
    assert {(item.text, item.finish_reason, item.error_kind) for item in found.values()} == {
        ("", "content_filter", None)
    }


def test_a_key_that_lapses_ends_the_batch_though_it_is_told_by_a_403(spec):
    with pytest.raises(EngineError, match="refuses us: HTTP 403"):
        ask(spec, "hello", "lapsed")
    assert "Hello." in Endpoint.seen, "harmless words were tried"


def test_spent_credit_ends_the_batch(spec):
    with pytest.raises(EngineError, match=r"is spent; top it up, .*: HTTP 402: .*insufficient credits"):
        ask(spec, "hello", "unpaid")


def test_an_error_in_the_body_of_a_200_counts_as_the_status_that_it_names(spec):
    found = ask(spec, "wrapped429", "wrapped", "wrapped400")
    assert (found["wrapped429"].text, found["wrapped"].text) == ("wrapped429 3", "wrapped 3"), "tried again"
    assert found["wrapped400"].error_kind == "refused"
    assert found["wrapped400"].error.startswith("HTTP 400: ")


def test_a_limit_is_kept_over_all_requests_of_a_task(spec):
    slow = replace(spec, options={**spec.options, "requests_per_minute": 600.0})
    began = time.monotonic()
    ask(slow, *"abcde")
    assert time.monotonic() - began >= 0.5


def test_an_endpoint_that_refuses_every_request_ends_the_batch(spec):
    with pytest.raises(
        EngineError, match="refuses every request: none of the first 20 was answered; lastly: HTTP 400"
    ):
        ask(spec, *(f"bad {'very ' * number}" for number in range(30)))


def test_a_request_that_breaks_the_endpoint_each_time_while_another_is_answered_is_at_fault(spec):
    found = ask(spec, "broken", "slow")
    assert found["broken"].error_kind == "refused"
    assert found["broken"].error.startswith("HTTP 500: ") and "it broke" in found["broken"].error
    assert found["slow"].text == "slow"


def test_an_endpoint_that_breaks_on_every_request_ends_the_batch(spec):
    with pytest.raises(EngineError, match="failed 2 times; lastly HTTP 500"):
        ask(spec, "broken", "broken-too")


def test_an_answer_that_a_filter_holds_back_is_one_without_words(spec):
    found = ask(spec, "filtered", "filtered-400", "filtered-bare")
    assert {(item.text, item.finish_reason, item.error_kind) for item in found.values()} == {
        ("", "content_filter", None)
    }
    assert found["filtered"].prompt_tokens == 4


def test_a_budget_needs_to_know_the_tokens(spec):
    with pytest.raises(ConfigError, match="does not say how many tokens"):
        ask(replace(spec, options={**spec.options, "budget": 1.0}), "uncounted")


def test_tasks_share_the_limits_of_an_endpoint():
    endpoint = EndpointConfig(base_url="http://host/v1", model="m", in_flight=10, requests_per_minute=60.0)
    shared = endpoint.options_of(4)
    assert (shared["in_flight"], shared["requests_per_minute"]) == (2, 15.0)
    assert endpoint.options_of(40)["in_flight"] == 1


def test_retry_after_is_waited_for_up_to_ten_minutes(spec, monkeypatch):
    waited = []
    monkeypatch.setattr(client.Endpoint, "_wait", lambda _, seconds: waited.append(seconds))
    assert ask(spec, "600")["600"].text == "600 3"
    assert max(waited) == 600.0
    with pytest.raises(EngineError, match=r"not to be asked again for 601 s \(Retry-After\)"):
        ask(spec, "601")


def test_an_endpoint_without_keys_is_asked_without_one(spec):
    error = ask(replace(spec, options=spec.options | {"key_variable": None}), "open")["open"].error
    assert "authorization" not in error.lower()


def test_retry_after_is_a_number_or_a_date():
    assert retry_after("7", 1.0) == 7.0
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT", 1.0) == 0.0
    assert retry_after("soon", 1.5) == 1.5


@pytest.mark.parametrize("key", ["sk-secret\n", "sk secret", "sk-sécret", "sk-secret\t"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(monkeypatch, key):
    monkeypatch.setenv("TEST_KEY", key)
    with pytest.raises(ConfigError, match="TEST_KEY holds white space .* set it to the key alone") as raised:
        key_in("TEST_KEY")
    assert "cret" not in str(raised.value)
