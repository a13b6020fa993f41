"""What the round asks of an engine, and what it gets back."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

RowErrorKind = Literal["too_long", "refused", "unreadable", "took_engine_down"]


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter that an engine serves beside its base.

    Attributes:
        name: what requests call it; carries the digest of its weights and is never reused for others.
        path: local directory in PEFT's format.
    """

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class GeneratorSpec:
    """Everything that decides which engine serves a request.

    Attributes:
        backend: `vllm`, `transformers`, `scripted` or `openai`.
        model: local directory of the base (for `openai`: the endpoint's model name; for `scripted`: a script's name).
        model_digest: digest of the base's tensors; what the engine is found by.
        dtype: `float32`, `bfloat16`, `float16` or `auto` (bfloat16 where the device computes it, else float32).
        max_model_len: longest prompt and answer together, in tokens.
        max_num_seqs: requests that the engine decodes together.
        memory_share: share of the device's memory, in (0, 1]; on the CPU the KV cache is `kv_cache_gib` instead.
        kv_cache_gib: size of the KV cache on the CPU, GiB.
        threads: CPU threads of the engine; 0 takes all cores.
        max_adapters, max_lora_rank: adapters in flight at a time and their largest rank; 0 serves no adapter.
        lora_modules: what adapters may change, by the last part of a module's name; all that vLLM can wrap where empty.
        serves: `answers`, `verdicts` of a sequence classifier by vLLM's pooling runner, or `judgements`: what a judge that
            writes says to messages.
        alone: no other engine of the owner that serves the same stays on the device: it is ended before this one starts.
        owner: run, its lakehouse, and user that may use the engine; no other adopts it.
        home: host-local directory for sockets, locks and logs.
        lease_seconds: the engine ends itself when nobody has renewed its lease for so long; renewals come every 2 s.
        options: further options of the backend, as data.
    """

    backend: str
    model: str
    model_digest: str
    dtype: str = "auto"
    max_model_len: int = 1024
    max_num_seqs: int = 128
    memory_share: float = 0.9
    kv_cache_gib: float = 1.0
    threads: int = 0
    max_adapters: int = 0
    max_lora_rank: int = 16
    lora_modules: tuple[str, ...] = ()
    serves: Literal["answers", "verdicts", "judgements"] = "answers"
    alone: bool = False
    owner: str = ""
    home: str = ""
    lease_seconds: float = 12.0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to be continued once.

    Attributes:
        request_id: the id that its outcome carries.
        token_ids: the rendered prompt.
        adapter: the adapter to use, or None for the base.
        temperature, top_p, max_tokens, stop: sampling parameters; temperature 0 is greedy.
        seed: in [0, 2**63).
        scored_tokens: 0 asks for an answer; else the last so many of `token_ids` are a given answer, and what is asked
            is its log-probability; `max_tokens` is 0 then. Endpoints refuse it, the others answer.
        messages: (role, content) pairs, for endpoints that take text and hide their tokens; others ignore them.
        priority: an engine that has more requests than places takes the lowest first; 0 is before all that wait. Changes speed only.
    """

    request_id: str
    token_ids: tuple[int, ...]
    adapter: str | None
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    stop: tuple[str, ...] = ()
    messages: tuple[tuple[str, str], ...] = ()
    scored_tokens: int = 0
    priority: int = 0


@dataclass(frozen=True, slots=True)
class GenerationOutcome:
    """What became of one request: an answer, or the row's own fault.

    Attributes:
        text: the answer without the end-of-turn token; None when `error_kind` is set, empty for a given answer.
        finish_reason: `stop`, `length` or `content_filter`; None when `error_kind` is set.
        prompt_tokens, completion_tokens: counts.
        seconds: from sending to the last token.
        logprob: of a given answer, the sum over its tokens, in nats, at temperature 1; else None.
        error_kind, error: why there is no answer, and the server's words, shortened to 500 characters.
    """

    request_id: str
    text: str | None
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    error_kind: RowErrorKind | None = None
    error: str | None = None
    logprob: float | None = None


class Generator(Protocol):
    """A client of one engine, opened where the rows are.

    A row's own fault is an outcome; a dead or hung engine raises `EngineError`, which Spark retries.
    """

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GenerationOutcome]:
        """Yield one outcome a request, in the order in which they finish, with many in flight and memory bounded."""
        ...

    def close(self) -> None:
        """Let go of the engine; it lives on for others until its lease ends."""
        ...


@dataclass(frozen=True, slots=True)
class ScorerSpec:
    """Everything that decides which judge gives a verdict.

    Attributes:
        name: `safety`, `helpfulness`, or the name of another judge of the run.
        kind: `classifier` (a sequence-classification model), `rule` (a Python function), `guard` or `rubric` (models that
            write, behind an endpoint or served here).
        model: local directory of a classifier, `package.module:function` of a rule, the endpoint's name of a model, or the
            source of one that is served here.
        digest: digest of weights, prompt and parameters; the scorer's identity.
        max_length: longest (prompt, response) pair in tokens.
        batch_size: pairs a forward pass; changes speed only.
        engine: the engine that serves the model; None where the process that asks computes it, or an endpoint has it.
        options: further options, as data.
    """

    name: str
    kind: str
    model: str
    digest: str
    max_length: int = 256
    batch_size: int = 32
    engine: GeneratorSpec | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Score:
    """One judge's verdict on one response.

    Attributes:
        value: in [0, 1], 1 the safest or most helpful; None where the judge could not tell.
        label: the word of a rule or a rubric (`complied`, `refused`, `neither`), else None.
        error: why there is no value.
        prompt_tokens, completion_tokens: what a judge behind an endpoint says it read and wrote, else None.
    """

    response_id: str
    value: float | None
    label: str | None = None
    error: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Scorer(Protocol):
    """A judge, opened where the rows are."""

    def score(self, items: Iterable[tuple[str, str, str]]) -> Iterator[Score]:
        """Yield one score for each (response id, prompt, response), in any order."""
        ...
