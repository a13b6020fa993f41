"""Generation by a host's vLLM engine: completions of prompts given as token ids, with seeds and adapters.

A request's seed comes with it, so an answer that is asked for again after the engine died is the same.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pipelines.engines.client import EngineClient
from pipelines.engines.outcomes import failed, scored, too_long
from pipelines.engines.protocol import (
    Adapter,
    GenerationOutcome,
    GenerationRequest,
    GeneratorSpec,
    RowErrorKind,
)
from pipelines.engines.session import Reply
from pipelines.errors import ConfigError


class VllmGenerator:
    """A `Generator` that talks to the spec's engine, which it starts or finds when it first needs it.

    Args:
        spec: the engine.
        adapters: the adapters that requests may name; loaded before the first request, and again after a restart.
        in_flight: as `EngineClient` has it.

    Use from one thread at a time.
    """

    def __init__(self, spec: GeneratorSpec, adapters: Sequence[Adapter] = (), *, in_flight: int = 0) -> None:
        if adapters and not spec.max_adapters:
            raise ConfigError(
                f"{len(adapters)} adapters are to be served, but the engine's max_adapters is 0"
            )
        self._names = {adapter.name for adapter in adapters}
        self._client = EngineClient(spec, adapters, _Completions(spec.max_model_len), in_flight=in_flight)

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GenerationOutcome]:
        """Yield one outcome a request as they finish; `requests` is read only as fast as answers return.

        Raises:
            EngineError: the engine can't be kept alive, or refuses everything.
            ConfigError: a request names an adapter that this generator was not opened with.
        """
        yield from self._client.ask(self._checked(requests))

    def _checked(self, requests: Iterable[GenerationRequest]) -> Iterator[GenerationRequest]:
        for request in requests:
            if request.adapter is not None and request.adapter not in self._names:
                raise ConfigError(
                    f"request {request.request_id} names adapter {request.adapter!r}; "
                    f"this generator serves {sorted(self._names) or 'none'}"
                )
            yield request

    def close(self) -> None:
        """Let go of the engine; it lives on for others until its lease ends."""
        self._client.close()


class _Completions:
    """vLLM's `/v1/completions`."""

    path = "/v1/completions"

    def __init__(self, max_model_len: int) -> None:
        self._max_model_len = max_model_len

    def unfit(self, request: GenerationRequest) -> GenerationOutcome | None:
        return too_long(request, self._max_model_len)

    def failed(
        self, request: GenerationRequest, kind: RowErrorKind, error: str, seconds: float = 0.0
    ) -> GenerationOutcome:
        return failed(request, kind, error, seconds)

    def body(self, request: GenerationRequest) -> bytes:
        """What the model's generation config would change is set to have no effect."""
        body: dict[str, Any] = {
            "model": request.adapter or "base",
            "prompt": request.token_ids,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": request.seed,
            "stop": list(request.stop),
            "skip_special_tokens": True,
            "priority": request.priority,
        }
        if request.scored_tokens:  # one token is the fewest that the server writes
            body |= {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        return json.dumps(body).encode()

    def read(self, request: GenerationRequest, reply: Reply) -> GenerationOutcome | None:
        try:
            choice, usage = reply.body["choices"][0], reply.body["usage"]
            text, reason = choice["text"], choice["finish_reason"]
            tokens, prompt = int(usage["completion_tokens"]), int(usage["prompt_tokens"])
            if request.scored_tokens:
                given = request.token_ids[-request.scored_tokens :]
                places = choice["prompt_logprobs"][-request.scored_tokens :]
                chances = [
                    float(place[str(token)]["logprob"]) for place, token in zip(places, given, strict=True)
                ]
                return scored(request, sum(chances), reply.seconds)
        except (KeyError, IndexError, TypeError, ValueError):
            return None
        if not isinstance(text, str) or reason not in ("stop", "length"):
            return None
        return GenerationOutcome(request.request_id, text, reason, prompt, tokens, reply.seconds)
