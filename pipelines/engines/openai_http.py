"""A hosted model behind an OpenAI-compatible endpoint (Databricks model serving, a hosted target).

The one engine that renders on its own: it takes a request's `messages`, and the server applies its chat template.
"""

import email.utils
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import httpx

from pipelines.engines.outcomes import failed, no_likelihood
from pipelines.engines.protocol import GenerationOutcome, GenerationRequest, GeneratorSpec
from pipelines.errors import ConfigError, EngineError

_PATIENCE_SECONDS = 60.0


class OpenAIGenerator:
    """A `Generator` over `POST {base_url}/chat/completions`, with `options["in_flight"]` (16) requests at a time.

    Options:
        base_url: the endpoint, up to and without `/chat/completions`.
        key_variable: name of the environment variable that holds the key (`OPENAI_API_KEY`); the key itself is in no
            option, table or log.
        attempts: tries a request, 6 by default, with 1, 2, 4 … seconds between them, or what Retry-After says.
        timeout_seconds: of one try, 300 by default.
        send_seed: False for endpoints that refuse a seed.

    Raises:
        ConfigError: there is no base_url, or the variable is not set.
    """

    def __init__(self, spec: GeneratorSpec) -> None:
        base_url = spec.options.get("base_url")
        if not base_url:
            raise ConfigError(
                "an openai engine needs options.base_url, such as https://host/serving-endpoints"
            )
        variable = str(spec.options.get("key_variable", "OPENAI_API_KEY"))
        if variable not in os.environ:
            raise ConfigError(f"environment variable {variable} is not set; it holds the endpoint's key")
        self._spec = spec
        self._in_flight = int(spec.options.get("in_flight", 16))
        self._attempts = int(spec.options.get("attempts", 6))
        self._client = httpx.Client(
            base_url=str(base_url).rstrip("/"),
            headers={"Authorization": f"Bearer {os.environ[variable]}"},
            timeout=httpx.Timeout(float(spec.options.get("timeout_seconds", 300.0)), connect=30.0),
            limits=httpx.Limits(max_connections=self._in_flight),
        )

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GenerationOutcome]:
        """Yield one outcome a request as they finish.

        Raises:
            EngineError: the key is refused, or the endpoint stays away after all attempts.
        """
        source, running = iter(requests), set[Future[GenerationOutcome]]()
        with ThreadPoolExecutor(self._in_flight, thread_name_prefix="mart-openai") as pool:
            try:
                while True:
                    while len(running) < self._in_flight and (request := next(source, None)) is not None:
                        running.add(pool.submit(self._ask, request))
                    if not running:
                        return
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, request: GenerationRequest) -> GenerationOutcome:
        if (refusal := no_likelihood(request)) is not None:
            return refusal
        began, problem = time.monotonic(), ""
        for attempt in range(self._attempts):
            try:
                answer = self._client.post("/chat/completions", json=self._body(request))
            except httpx.TransportError as error:
                problem, pause = f"{type(error).__name__}: {error}", 2.0**attempt
            else:
                if answer.status_code == 200:
                    return _read(request, answer, time.monotonic() - began)
                problem = f"HTTP {answer.status_code}: {answer.text[:400]}"
                if answer.status_code in (401, 403, 404):
                    raise EngineError(f"the endpoint {self._client.base_url} refuses us: {problem}")
                if answer.status_code < 500 and answer.status_code not in (408, 409, 429):
                    long = answer.status_code == 413 or "context length" in problem
                    kind = "too_long" if long else "refused"
                    return failed(request, kind, problem, time.monotonic() - began)  # type: ignore[arg-type]
                pause = retry_after(answer.headers.get("retry-after", ""), 2.0**attempt)
            if attempt + 1 < self._attempts:
                time.sleep(min(pause, _PATIENCE_SECONDS))
        raise EngineError(
            f"the endpoint {self._client.base_url} failed {self._attempts} times; lastly {problem}"
        )

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
        if self._spec.options.get("send_seed", True):
            body["seed"] = request.seed
        if request.stop:
            body["stop"] = list(request.stop)
        return body

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def retry_after(header: str, otherwise: float) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date; `otherwise` where it says neither."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError):
        return otherwise


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
