"""A hosted model behind an OpenAI-compatible endpoint (Databricks model serving, a hosted target).

The one engine that renders on its own: it takes a request's `messages`, and the server applies its chat template.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpx

from pipelines.engines.endpoint import Endpoint, said
from pipelines.engines.outcomes import failed, no_likelihood
from pipelines.engines.protocol import GenerationOutcome, GenerationRequest, GeneratorSpec
from pipelines.errors import ConfigError


class OpenAIGenerator:
    """A `Generator` over an endpoint. The spec's options are those of `Endpoint`, and `send_seed`.

    Raises:
        ConfigError: the variable of the key is not set.
    """

    def __init__(self, spec: GeneratorSpec) -> None:
        self._spec = spec
        self._endpoint = Endpoint(spec.options)

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GenerationOutcome]:
        """Yield one outcome a request as they finish.

        Raises:
            EngineError: the key is refused, or the endpoint stays away after all attempts.
        """
        return self._endpoint.each(self._ask, requests)

    def _ask(self, request: GenerationRequest) -> GenerationOutcome:
        if (refusal := no_likelihood(request)) is not None:
            return refusal
        began = time.monotonic()
        answer = self._endpoint.post(self._body(request))
        seconds = time.monotonic() - began
        if answer.status_code == 200:
            return _read(request, answer, seconds)
        problem = said(answer)
        long = answer.status_code == 413 or "context length" in problem
        return failed(request, "too_long" if long else "refused", problem, seconds)

    def _body(self, request: GenerationRequest) -> dict[str, Any]:
        if not request.messages:
            raise ConfigError(f"request {request.request_id} has no messages, which an openai engine sends")
        body: dict[str, Any] = {
            "model": request.adapter or self._spec.model,
            "messages": [{"role": role, "content": content} for role, content in request.messages],
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


def _read(request: GenerationRequest, answer: httpx.Response, seconds: float) -> GenerationOutcome:
    try:
        content = answer.json()
        choice, usage = content["choices"][0], content.get("usage") or {}
        text, reason = choice["message"]["content"], choice["finish_reason"]
        prompt, tokens = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
    except (KeyError, IndexError, TypeError, ValueError):
        return failed(request, "unreadable", f"not an answer: {answer.text[:400]}", seconds)
    if not isinstance(text, str):
        return failed(request, "refused", f"no text, finish reason {reason}", seconds)
    finish = "length" if reason == "length" else "stop"
    return GenerationOutcome(request.request_id, text, finish, prompt, tokens, seconds)
