"""The scripted generator answers by the request alone."""

import pytest

from pipelines.engines.factory import open_generator
from pipelines.engines.protocol import GenerationRequest, GeneratorSpec
from pipelines.errors import ConfigError


def spec(**options) -> GeneratorSpec:
    return GeneratorSpec("scripted", "script", "0", max_model_len=64, options=options)


def requests(count: int) -> list[GenerationRequest]:
    return [GenerationRequest(f"r{seed}", (1, 2), None, 1.0, 1.0, 8, seed) for seed in range(count)]


def shout(request: GenerationRequest) -> str:
    return f"LOUD {request.seed}"


def test_answers_depend_on_the_request_alone():
    forward = {item.request_id: item.text for item in open_generator(spec()).generate(requests(20))}
    backward = {
        item.request_id: item.text for item in open_generator(spec()).generate(reversed(requests(20)))
    }
    assert forward == backward
    assert len(set(forward.values())) > 10


def test_a_script_is_found_by_its_name():
    outcomes = list(open_generator(spec(script=f"{__name__}:shout")).generate(requests(2)))
    assert [item.text for item in outcomes] == ["LOUD 0", "LOUD 1"]
    with pytest.raises(ConfigError, match="package.module:function"):
        open_generator(spec(script="nowhere:nothing"))


def test_lengths_are_kept():
    long = GenerationRequest("long", tuple(range(60)), None, 1.0, 1.0, 8, 1)
    (outcome,) = open_generator(spec()).generate([long])
    assert outcome.error_kind == "too_long"
    assert all(item.completion_tokens <= 8 for item in open_generator(spec()).generate(requests(20)))


def test_an_unknown_backend_is_named():
    with pytest.raises(ConfigError, match="'tgi' is unknown"):
        open_generator(GeneratorSpec("tgi", "m", "0"))
