"""A reward model served by a host's vLLM engine, whose pooling runner computes a sequence classifier."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.engines.client import EngineClient
from pipelines.engines.protocol import RowErrorKind, Score, ScorerSpec
from pipelines.engines.session import Reply
from pipelines.errors import ConfigError
from pipelines.models import tokenizer_for
from schemas.rendering import cut_pair, encode_pair


@dataclass(frozen=True, slots=True)
class _Pair:
    """What is sent for one response: the server's request, or why there is none."""

    response_id: str
    body: dict[str, Any] | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Verdict:
    """The model's output for one pair, before the sigmoid."""

    response_id: str
    logit: float | None
    error_kind: RowErrorKind | None = None
    error: str | None = None


class PooledClassifierScorer:
    """A model with one output, read through a sigmoid as `ClassifierScorer` reads it, and agreeing with it to 1e-2.

    The server is told what the trainer saw: token ids where a chat template renders the dialogue; elsewhere the two
    texts, cut to fit, which it encodes as its tokenizer's pair (an encoder's token types can't be sent with token ids).

    Raises:
        ConfigError: the model's tokenizer or configuration can't be read, or it has another number of outputs.
    """

    def __init__(self, spec: ScorerSpec) -> None:
        from transformers import AutoConfig

        assert spec.engine is not None  # what opens it has looked
        self._max_length = spec.max_length
        try:
            self._tokenizer = tokenizer_for(spec.model)
            outputs = AutoConfig.from_pretrained(spec.model).num_labels
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"scorer {spec.name!r}: transformers can't read {spec.model}: {error}"
            ) from error
        check_outputs(spec, outputs)
        dialogue = bool(self._tokenizer.chat_template)
        self._client = EngineClient(spec.engine, (), _Pooling("/classify" if dialogue else "/score"))
        self._request = self._dialogue if dialogue else self._pair

    def score(self, items: Iterable[tuple[str, str, str]]) -> Iterator[Score]:
        """Yield one score for each (response id, prompt, response), as they finish.

        Raises:
            EngineError: the engine can't be kept alive, or refuses everything.
        """
        for verdict in self._client.ask(map(self._encoded, items)):
            value = None if verdict.logit is None else _sigmoid(verdict.logit)
            yield Score(verdict.response_id, value, error=verdict.error)

    def _encoded(self, item: tuple[str, str, str]) -> _Pair:
        response_id, prompt, response = item
        try:
            return _Pair(response_id, self._request(prompt, response))
        except ValueError as error:
            return _Pair(response_id, None, f"can't be encoded: {error}"[:500])

    def _dialogue(self, prompt: str, response: str) -> dict[str, Any]:
        return {"input": encode_pair(self._tokenizer, prompt, response, self._max_length)["input_ids"]}

    def _pair(self, prompt: str, response: str) -> dict[str, Any]:
        query, document = cut_pair(self._tokenizer, prompt, response, self._max_length)
        return {"queries": query, "documents": document}

    def close(self) -> None:
        """Let go of the engine; it lives on for others until its lease ends."""
        self._client.close()


def check_outputs(spec: ScorerSpec, outputs: int) -> None:
    """Refuse a classifier that says more than how good a response is.

    Raises:
        ConfigError: it has another number of outputs than one.
    """
    if outputs != 1:
        raise ConfigError(f"scorer {spec.name!r}: {spec.model} has {outputs} outputs; it needs one")


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


class _Pooling:
    """vLLM's `/classify` for token ids and `/score` for two texts, each without the server's own activation."""

    def __init__(self, path: str) -> None:
        self.path = path

    def unfit(self, request: _Pair) -> _Verdict | None:
        return None if request.body else self.failed(request, "unreadable", request.error)

    def body(self, request: _Pair) -> bytes:
        return json.dumps({"model": "base", "use_activation": False, **(request.body or {})}).encode()

    def failed(self, request: _Pair, kind: RowErrorKind, error: str, seconds: float = 0.0) -> _Verdict:
        return _Verdict(request.response_id, None, kind, error[:500])

    def read(self, request: _Pair, reply: Reply) -> _Verdict | None:
        try:
            (data,) = reply.body["data"]
            (logit,) = [data["score"]] if self.path == "/score" else data["probs"]
            value = float(logit)
        except (KeyError, TypeError, ValueError):
            return None
        return _Verdict(request.response_id, value) if math.isfinite(value) else None
