"""A hosted model behind an OpenAI-compatible endpoint (Databricks model serving, a hosted target).

The one engine that renders on its own: it takes a request's `messages`, and the server applies its chat template. Their
control tokens are broken up before, as those of local rendering are.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import httpx

from pipelines.engines.endpoint import Endpoint
from pipelines.engines.outcomes import Refusals, failed, no_likelihood
from pipelines.engines.protocol import GenerationOutcome, GenerationRequest, GeneratorSpec
from pipelines.errors import ConfigError
from schemas.rendering import safe_messages

# What endpoints call an answer that a filter of theirs held back: the refusal of the system that was asked.
_FILTERED = "content_filter"


class OpenAIGenerator:
    """A `Generator` over an endpoint. The spec's options are those of `Endpoint`, `send_seed` and `budget`.

    What a filter of the endpoint holds back, before it or the model, is an answer without words and not an error: it counts as
    *neither*, and stays in the rates.

    Raises:
        ConfigError: the variable of the key is not set.
    """

    def __init__(self, spec: GeneratorSpec) -> None:
        self._spec = spec
        self._endpoint = Endpoint(spec.options)

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GenerationOutcome]:
        """Yield one outcome a request as they finish.

        Raises:
            EngineError: as `Endpoint.post`, or the first requests are all refused.
            ConfigError: there is a budget, and the endpoint tells no tokens.
        """
        refusals = Refusals(f"the endpoint {self._endpoint.base_url}")
        for outcome in self._endpoint.each(self._ask, requests):
            refusals.count(outcome)
            yield outcome

    def _ask(self, request: GenerationRequest) -> GenerationOutcome:
        if (refusal := no_likelihood(request)) is not None:
            return refusal
        answer = self._endpoint.post(self._body(request))
        seconds = answer.elapsed.total_seconds()
        if answer.status_code == 200:
            return self._read(request, answer, seconds)
        problem = self._endpoint.said(answer)
        if answer.status_code == 403 or _FILTERED in answer.text:
            return GenerationOutcome(request.request_id, "", _FILTERED, 0, 0, seconds)
        long = answer.status_code == 413 or "context length" in problem
        return failed(request, "too_long" if long else "refused", problem, seconds)

    def _read(self, request: GenerationRequest, answer: httpx.Response, seconds: float) -> GenerationOutcome:
        try:
            content = answer.json()
            choice, usage = content["choices"][0], content.get("usage")
            message, reason = choice["message"], choice["finish_reason"]
            text = message.get("content")
            if text is None and (reason == _FILTERED or message.get("refusal")):
                text = message.get("refusal") or ""
            prompt, tokens = (
                int((usage or {}).get(f"{kind}_tokens") or 0) for kind in ("prompt", "completion")
            )
        except (AttributeError, KeyError, IndexError, TypeError, ValueError, RecursionError):
            return failed(
                request, "unreadable", f"not an answer: {self._endpoint.quoted(answer.text)}", seconds
            )
        if self._spec.options["budget"] and not usage:
            raise ConfigError(
                f"the endpoint {self._endpoint.base_url} does not say how many tokens an answer took, so no budget can "
                "be kept: set target.endpoint.budget to null"
            )
        if reason == "error":
            return failed(request, "unreadable", "the endpoint's model failed in mid-answer", seconds)
        if not isinstance(text, str):
            return failed(request, "refused", f"no text, finish reason {reason}", seconds)
        finish = reason if reason in ("length", _FILTERED) else "stop"
        return GenerationOutcome(request.request_id, text, finish, prompt, tokens, seconds)

    def _body(self, request: GenerationRequest) -> dict[str, Any]:
        if not request.messages:
            raise ConfigError(f"request {request.request_id} has no messages, which an openai engine sends")
        body: dict[str, Any] = {
            "model": request.adapter or self._spec.model,
            "messages": safe_messages(
                [{"role": role, "content": content} for role, content in request.messages]
            ),
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_tokens": request.max_tokens,
        }
        if self._spec.options["send_seed"]:
            body["seed"] = request.seed
        if request.stop:
            body["stop"] = list(request.stop)
        return body

    def close(self) -> None:
        """Close the connections."""
        self._endpoint.close()
