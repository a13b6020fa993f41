"""A generator for tests whose answer depends on the request alone, behind the same protocol as the real ones."""

import random
import time
from collections.abc import Callable, Iterable, Iterator

from pipelines.engines.outcomes import scored, too_long
from pipelines.engines.protocol import GenerationOutcome, GenerationRequest, GeneratorSpec
from pipelines.functions import import_function

_WORDS = [
    "paper",
    "lamp",
    "river",
    "stone",
    "bread",
    "wheel",
    "green",
    "silver",
    "quiet",
    "little",
    "seven",
    "morning",
    "window",
    "garden",
    "letter",
    "open",
    "carry",
    "follow",
    "answer",
    "because",
    "under",
    "after",
    "never",
    "always",
    "maybe",
    "please",
    "sorry",
    "sure",
    "here",
    "there",
    "it",
    "is",
    "not",
]

Script = Callable[[GenerationRequest], str | GenerationOutcome]


def words_by_seed(request: GenerationRequest) -> str:
    """The default script: a few words drawn by the request's seed, id and adapter."""
    source = random.Random(f"{request.seed}:{request.request_id}:{request.adapter}")
    return " ".join(
        source.choice(_WORDS) for _ in range(source.randint(1, max(1, min(request.max_tokens, 24))))
    )


class ScriptedGenerator:
    """A `Generator` without a model.

    `options["script"]` is the `package.module:function` that answers: it takes the request and returns a text, or a whole
    `GenerationOutcome` where a test wants an error; without it the answer is words drawn by the seed.
    `options["delay_seconds"]` is what each answer takes, so that tests have something to kill. A word counts as a token.
    """

    def __init__(self, spec: GeneratorSpec) -> None:
        self._script: Script = words_by_seed
        if script := spec.options.get("script"):
            self._script = import_function(str(script))
        self._delay = float(spec.options.get("delay_seconds", 0.0))
        self._max_model_len = spec.max_model_len

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[GenerationOutcome]:
        """Yield one outcome a request, in their order."""
        for request in requests:
            if self._delay:
                time.sleep(self._delay)
            yield too_long(request, self._max_model_len) or self._answer(request)

    def _answer(self, request: GenerationRequest) -> GenerationOutcome:
        if request.scored_tokens:
            source = random.Random(f"{request.token_ids}:{request.adapter}")
            given = -sum(source.expovariate(1.0) for _ in range(request.scored_tokens))
            return scored(request, given, self._delay)
        answer = self._script(request)
        if isinstance(answer, GenerationOutcome):
            return answer
        words = answer.split(" ")
        cut = words[: request.max_tokens]
        reason = "stop" if len(cut) == len(words) else "length"
        prompt = len(request.token_ids)
        return GenerationOutcome(request.request_id, " ".join(cut), reason, prompt, len(cut), self._delay)

    def close(self) -> None:
        """Nothing to let go of."""
