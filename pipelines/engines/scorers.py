"""Judges in the process that asks: a sequence-classification model, or a Python rule; and the door to all kinds."""

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch

from pipelines.engines.homes import spec_digest
from pipelines.engines.judges import GuardScorer, RubricScorer, values_of_labels
from pipelines.engines.launch import empty_gpu, has_gpu
from pipelines.engines.pooling import PooledClassifierScorer, check_outputs
from pipelines.engines.protocol import Score, Scorer, ScorerSpec
from pipelines.errors import ConfigError
from pipelines.functions import import_function
from pipelines.models import tokenizer_for
from schemas.rendering import encode_pair, padding_id

# Pairs that are sorted by length together: bounds memory, and leaves little padding.
_SORTED_TOGETHER = 16
_open: dict[tuple[int, str], "_Kept"] = {}


class ClassifierScorer:
    """A model with one output, read through a sigmoid in float32: the value is the chance that the response is good.

    A pair's value depends on its batch mates by less than 1e-5: padding is masked, and no number is rounded to 16 bits.

    Raises:
        ConfigError: the model can't be loaded, or has another number of outputs.
    """

    def __init__(self, spec: ScorerSpec) -> None:
        from transformers import AutoModelForSequenceClassification

        self._spec = spec
        self._device = torch.device("cuda" if has_gpu() else "cpu")
        try:
            self._tokenizer = tokenizer_for(spec.model)
            model: Any = AutoModelForSequenceClassification.from_pretrained(spec.model, dtype=torch.float32)
            padding = model.config.pad_token_id
            if padding is None or not 0 <= padding < len(self._tokenizer):
                padding = padding_id(self._tokenizer)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"scorer {spec.name!r}: transformers can't load {spec.model}: {error}"
            ) from error
        check_outputs(spec, model.config.num_labels)
        # A decoder's classification head finds the last token by looking for the padding that its configuration names.
        model.config.pad_token_id = padding
        self._tokenizer.pad_token = self._tokenizer.convert_ids_to_tokens(padding)
        self._model = model.to(self._device).eval()

    def score(self, items: Iterable[tuple[str, str, str]]) -> Iterator[Score]:
        """Yield one score for each (response id, prompt, response), pairs of like length together."""
        source = iter(items)
        while group := list(itertools.islice(source, self._spec.batch_size * _SORTED_TOGETHER)):
            encoded = []
            for response_id, prompt, response in group:
                try:
                    pair = encode_pair(self._tokenizer, prompt, response, self._spec.max_length)
                except ValueError as error:
                    yield Score(response_id, None, error=f"can't be encoded: {error}"[:500])
                else:
                    encoded.append((response_id, pair))
            # Spark's shuffle hands rows on in any order; batch mates shall be the same each time.
            encoded.sort(key=lambda item: (len(item[1]["input_ids"]), item[0]))
            for start in range(0, len(encoded), self._spec.batch_size):
                yield from self._forward(encoded[start : start + self._spec.batch_size])

    @torch.inference_mode()
    def _forward(self, batch: list[tuple[str, dict[str, list[int]]]]) -> list[Score]:
        inputs = self._tokenizer.pad([pair for _, pair in batch], return_tensors="pt", padding_side="right")
        logits = self._model(**inputs.to(self._device)).logits[:, 0]
        values = torch.sigmoid(logits.float()).cpu().tolist()
        return [
            Score(response_id, float(value))
            if not math.isnan(value)
            else Score(response_id, None, error="the value is NaN")
            for (response_id, _), value in zip(batch, values, strict=True)
        ]

    def close(self) -> None:
        """Free the model, and the device's memory."""
        self._model = None
        empty_gpu()


class RuleScorer:
    """A function of (prompt, response) that returns an object with a `.label`.

    `options["values"]` maps each label to a value in [0, 1] or None (`{"refused": 1.0, "complied": 0.0,
    "neither": None}`). A rule that raises on a row, or says an unknown label, gives that row an error and no value.

    Raises:
        ConfigError: no such function, or no values.
    """

    def __init__(self, spec: ScorerSpec) -> None:
        self._function: Callable[[str, str], Any] = import_function(spec.model)
        self._values = values_of_labels(spec)

    def score(self, items: Iterable[tuple[str, str, str]]) -> Iterator[Score]:
        """Yield one score for each (response id, prompt, response), in their order."""
        for response_id, prompt, response in items:
            try:
                label = str(self._function(prompt, response).label)
            except Exception as error:  # noqa: BLE001 (a rule is the user's code; its fault is this row's)
                yield Score(
                    response_id, None, error=f"the rule failed: {type(error).__name__}: {error}"[:500]
                )
                continue
            if label in self._values:
                yield Score(response_id, self._values[label], label)
            else:
                yield Score(
                    response_id, None, label, f"label {label!r} has no value; known: {sorted(self._values)}"
                )


class _Kept(Scorer, Protocol):
    """A scorer that holds a model or connections."""

    def close(self) -> None: ...


def _classifier(spec: ScorerSpec) -> _Kept:
    return ClassifierScorer(spec) if spec.engine is None else PooledClassifierScorer(spec)


_KINDS: Mapping[str, Callable[[ScorerSpec], _Kept]] = {
    "classifier": _classifier,
    "guard": GuardScorer,
    "rubric": RubricScorer,
}


def open_scorer(spec: ScorerSpec) -> Scorer:
    """A scorer for a spec; what holds a model or connections is kept per process.

    Raises:
        ConfigError: the kind is unknown, or the model or function can't be loaded.
    """
    if spec.kind == "rule":
        return RuleScorer(spec)
    if (kind := _KINDS.get(spec.kind)) is None:
        raise ConfigError(
            f"scorer {spec.name!r} has kind {spec.kind!r}, which is unknown; use rule, {', '.join(_KINDS)}"
        )
    engine = spec.engine and spec_digest(spec.engine)
    key = (os.getpid(), f"{spec.digest}:{spec.model}:{spec.max_length}:{spec.batch_size}:{engine}")
    if key not in _open:
        _open[key] = kind(spec)
    return _open[key]


def close_scorers() -> None:
    """Free the judges that this process holds."""
    for scorer in _open.values():
        scorer.close()
    _open.clear()


def free_device() -> None:
    """On a GPU, free the models that this process computes with; clients of engines and endpoints stay."""
    if not has_gpu():
        return
    for key, scorer in list(_open.items()):
        if isinstance(scorer, ClassifierScorer):
            del _open[key]
            scorer.close()
