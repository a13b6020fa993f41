"""Plain transformers behind the generator's protocol: the reference, and for hosts that vLLM has no build for.

Correctness above speed: batches padded on the left, a sampling loop of its own with one random generator a row, so that a
row's draws follow from its seed and not from its batch mates.
"""

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from pipelines.engines.adapters import PROBE, prove_change
from pipelines.engines.launch import empty_gpu, has_gpu
from pipelines.engines.outcomes import failed, scored, too_long
from pipelines.engines.protocol import Adapter, GenerationOutcome, GenerationRequest, GeneratorSpec
from pipelines.errors import ConfigError
from pipelines.models import tokenizer_for

# Tokens of the prompt that the first token of an answer is decoded after.
_CONTEXT_TOKENS = 6
_NOT_FINITE = "the model's scores are not finite: they overflow in float16, and not in bfloat16 or float32 (engine.dtype)"


class TransformersGenerator:
    """A `Generator` that holds the model in this process; `options["batch_size"]` (16) rows decode together.

    Raises:
        ConfigError: the model or an adapter can't be loaded.
        EngineError: an adapter changes nothing.
    """

    def __init__(self, spec: GeneratorSpec, adapters: Sequence[Adapter] = ()) -> None:
        self._spec = spec
        self._batch_size = int(spec.options.get("batch_size", 16))
        self._device = torch.device("cuda" if has_gpu() else "cpu")
        self._model, self._tokenizer = _load_base(spec)
        self._ends = _end_tokens(self._model, self._tokenizer)
        self._adapters = {adapter.name for adapter in adapters}
        if adapters:
            self._load(adapters)
        self._model.to(self._device).eval()
        if adapters:
            self._prove(adapters)

    def _load(self, adapters: Sequence[Adapter]) -> None:
        from peft import PeftModel

        # PEFT keeps adapters as modules, whose names may hold no dot; so each gets a plain one.
        self._modules = {adapter.name: f"adapter_{index}" for index, adapter in enumerate(adapters)}
        for adapter in adapters:
            module = self._modules[adapter.name]
            try:
                if isinstance(self._model, PeftModel):
                    self._model.load_adapter(adapter.path, adapter_name=module)
                else:
                    self._model = PeftModel.from_pretrained(self._model, adapter.path, adapter_name=module)
            except (OSError, ValueError, RuntimeError) as error:
                raise ConfigError(
                    f"adapter {adapter.name!r} at {adapter.path} can't be loaded: {error}"
                ) from error

    def _prove(self, adapters: Sequence[Adapter]) -> None:
        """PEFT only warns of weights that fit nothing in the model."""
        with self._model.disable_adapter():
            base, again = (self._logprobs(PROBE, len(PROBE) - 1).tolist() for _ in range(2))
        for adapter in adapters:
            self._model.set_adapter(self._modules[adapter.name])
            prove_change(adapter, base, again, self._logprobs(PROBE, len(PROBE) - 1).tolist())

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GenerationOutcome]:
        """Yield one outcome a request; a batch of rows at a time, those of one adapter together.

        Raises:
            ConfigError: a request names an adapter that this generator was not opened with.
        """
        source = iter(requests)
        while batch := list(itertools.islice(source, self._batch_size)):
            fitting = []
            for request in batch:
                if request.adapter is not None and request.adapter not in self._adapters:
                    raise ConfigError(
                        f"request {request.request_id} names adapter {request.adapter!r}, not opened here"
                    )
                if outcome := too_long(request, self._spec.max_model_len):
                    yield outcome
                else:
                    fitting.append(request)
            for adapter in dict.fromkeys(request.adapter for request in fitting):
                yield from self._decode([item for item in fitting if item.adapter == adapter], adapter)

    def _decode(self, batch: list[GenerationRequest], adapter: str | None) -> list[GenerationOutcome]:
        if adapter is not None:
            self._model.set_adapter(self._modules[adapter])
        elif self._adapters:
            with self._model.disable_adapter():
                return self._answer(batch)
        return self._answer(batch)

    def _answer(self, batch: list[GenerationRequest]) -> list[GenerationOutcome]:
        began = time.monotonic()
        given = [request for request in batch if request.scored_tokens]
        asked = [request for request in batch if not request.scored_tokens]
        scores = [float(self._logprobs(item.token_ids, item.scored_tokens).double().sum()) for item in given]
        rows = self._sample(asked) if asked else []
        seconds = time.monotonic() - began
        return [
            *(
                scored(request, score, seconds)
                if math.isfinite(score)
                else failed(request, "unreadable", _NOT_FINITE, seconds)
                for request, score in zip(given, scores, strict=True)
            ),
            *(row.outcome(self._tokenizer, seconds) for row in rows),
        ]

    @torch.inference_mode()
    def _logprobs(self, token_ids: Sequence[int], scored: int) -> torch.Tensor:
        """Log probabilities of the last so many tokens, each given those before it."""
        tokens = torch.tensor([token_ids], device=self._device)
        logits: torch.Tensor = self._model(input_ids=tokens).logits[0, -scored - 1 : -1].float()
        return logits.log_softmax(-1).gather(-1, tokens[0, -scored:, None])[:, 0]

    @torch.inference_mode()
    def _sample(self, batch: list[GenerationRequest]) -> list["_Row"]:
        rows = [_Row(request, self._ends) for request in batch]
        width = max(len(request.token_ids) for request in batch)
        padded = [[0] * (width - len(item.token_ids)) + list(item.token_ids) for item in batch]
        shown = [[0] * (width - len(item.token_ids)) + [1] * len(item.token_ids) for item in batch]
        tokens = torch.tensor(padded, device=self._device)
        mask = torch.tensor(shown, device=self._device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = None
        while True:
            result = self._model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            cache = result.past_key_values
            logits = result.logits[:, -1].float().cpu()
            for row, scores in zip(rows, logits, strict=True):
                row.take(scores, self._tokenizer)
            if all(row.reason for row in rows):
                return rows
            tokens = torch.tensor([[row.last] for row in rows], device=self._device)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            positions = positions[:, -1:] + 1

    def close(self) -> None:
        """Free the model, and the device's memory."""
        self._model = None
        empty_gpu()


class _Row:
    """One request's decoding state."""

    def __init__(self, request: GenerationRequest, ends: frozenset[int]) -> None:
        self._request = request
        self._ends = ends
        self._tokens: list[int] = []
        self._text: str | None = None
        self._random = torch.Generator().manual_seed(request.seed)
        self.last = 0
        self.reason: str | None = None

    def take(self, scores: torch.Tensor, tokenizer: Any) -> None:
        """Choose the next token from its scores (a vector over the vocabulary), unless the row has ended.

        Scores that give no chances end it: a NaN, an infinity, or minus infinity for every token.
        """
        if self.reason:
            return
        if not scores.logsumexp(-1).isfinite():
            self.reason = _NOT_FINITE
            return
        self.last = choose(scores, self._request.temperature, self._request.top_p, self._random)
        self._tokens.append(self.last)
        if self.last in self._ends:
            self.reason = "stop"
        elif self._request.stop and (text := self._stopped(tokenizer)) is not None:
            self._text, self.reason = text, "stop"
        elif len(self._tokens) >= self._request.max_tokens:
            self.reason = "length"

    def _decoded(self, tokenizer: Any) -> str:
        """The answer as the prompt's continuation, as vLLM decodes it: a first word keeps the space before it."""
        prompt = list(self._request.token_ids[-_CONTEXT_TOKENS:])
        before: str = tokenizer.decode(prompt, skip_special_tokens=True)
        whole: str = tokenizer.decode(prompt + self._tokens, skip_special_tokens=True)
        return whole[len(before) :]

    def _stopped(self, tokenizer: Any) -> str | None:
        text = self._decoded(tokenizer)
        places = [place for word in self._request.stop if (place := text.find(word)) >= 0]
        return text[: min(places)] if places else None

    def outcome(self, tokenizer: Any, seconds: float) -> GenerationOutcome:
        """The finished row."""
        request = self._request
        if self.reason == _NOT_FINITE:
            return failed(request, "unreadable", _NOT_FINITE, seconds)
        text = self._text
        if text is None:
            text = self._decoded(tokenizer)
        count = len(self._tokens)
        return GenerationOutcome(
            request.request_id, text, self.reason, len(request.token_ids), count, seconds
        )


def choose(scores: torch.Tensor, temperature: float, top_p: float, source: torch.Generator) -> int:
    """The next token: greedy at temperature 0, else drawn from the smallest set of tokens with mass `top_p`."""
    if temperature == 0:
        return int(scores.argmax())
    chances, order = (scores / temperature).softmax(-1).sort(descending=True, stable=True)
    if top_p < 1:
        chances = chances.masked_fill(chances.cumsum(-1) - chances >= top_p, 0.0)
    return int(order[torch.multinomial(chances, 1, generator=source)])


def _load_base(spec: GeneratorSpec) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        text: Any = AutoConfig.from_pretrained(spec.model).get_text_config()
        capped = getattr(text, "attn_logit_softcapping", None) is not None  # which only the plain kernel does
        model = AutoModelForCausalLM.from_pretrained(
            spec.model, dtype=_torch_dtype(spec.dtype), attn_implementation="eager" if capped else None
        )
        return model, tokenizer_for(spec.model)
    except (OSError, ValueError) as error:
        raise ConfigError(f"transformers can't load {spec.model}: {error}") from error


def _torch_dtype(dtype: str) -> torch.dtype:
    if dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
    return torch.bfloat16 if has_gpu() else torch.float32


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's and those of the generation config."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    several = configured if isinstance(configured, (list, tuple)) else [configured]
    return frozenset(int(token) for token in (*several, tokenizer.eos_token_id) if token is not None)
