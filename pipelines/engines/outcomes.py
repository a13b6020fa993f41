"""Outcomes that every engine words alike."""

from typing import Protocol

from pipelines.engines.protocol import GenerationOutcome, GenerationRequest, RowErrorKind
from pipelines.errors import EngineError


class Fallible(Protocol):
    """An outcome of any kind, as far as faults go."""

    @property
    def error_kind(self) -> RowErrorKind | None: ...

    @property
    def error(self) -> str | None: ...


def failed(
    request: GenerationRequest, kind: RowErrorKind, error: str, seconds: float = 0.0
) -> GenerationOutcome:
    """A row's own fault, its words shortened to 500 characters."""
    return GenerationOutcome(
        request_id=request.request_id,
        text=None,
        finish_reason=None,
        prompt_tokens=len(request.token_ids),
        completion_tokens=0,
        seconds=seconds,
        error_kind=kind,
        error=error[:500],
    )


class Refusals:
    """Ends a batch whose first requests are refused, or answered with nothing that can be read, each of them: no row's fault.

    A row that is too long, or was set apart, says nothing of the others: it neither counts nor ends the watch, which the
    first answer does. What a filter holds back is an answer.

    Args:
        who: what refuses, in the error's words.
    """

    _FIRST = 20

    def __init__(self, who: str) -> None:
        self._who = who
        self._refused = 0
        self._answered = False

    def count(self, outcome: Fallible) -> None:
        """Look at the next outcome of a request that was sent.

        Raises:
            EngineError: it is one too many.
        """
        if self._answered or outcome.error_kind in ("too_long", "took_engine_down"):
            return
        if outcome.error_kind is None:
            self._answered = True
            return
        self._refused += 1
        if self._refused >= self._FIRST:
            raise EngineError(
                f"{self._who} refuses every request: none of the first {self._FIRST} was answered; lastly: {outcome.error}"
            )


def scored(request: GenerationRequest, logprob: float, seconds: float) -> GenerationOutcome:
    """The outcome of a request for the log-probability of a given answer."""
    given = request.scored_tokens
    prompt = len(request.token_ids) - given
    return GenerationOutcome(request.request_id, "", "stop", prompt, given, seconds, logprob=logprob)


def no_likelihood(request: GenerationRequest) -> GenerationOutcome | None:
    """The outcome of a request for a likelihood where the engine gives none, else None."""
    if not request.scored_tokens:
        return None
    return failed(
        request, "refused", "an endpoint gives no likelihood of a given answer; vllm and transformers do"
    )


def too_long(request: GenerationRequest, max_model_len: int) -> GenerationOutcome | None:
    """The outcome of a request whose prompt and answer together exceed the engine's length, else None.

    vLLM would shorten `max_tokens` without a word (`get_max_tokens`); a row that asks for more than fits is refused.
    """
    if len(request.token_ids) + request.max_tokens <= max_model_len:
        return None
    return failed(
        request,
        "too_long",
        f"{len(request.token_ids)} prompt tokens and max_tokens {request.max_tokens} exceed max_model_len {max_model_len}",
    )
