"""Plain transformers behind the protocol; that its greedy answers equal vLLM's is tested in `test_vllm_engine`."""

import random
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from pipelines.engines.factory import close_generators, open_generator
from pipelines.engines.protocol import Adapter, GenerationRequest, GeneratorSpec
from pipelines.engines.transformers import TransformersGenerator
from pipelines.errors import EngineError


@pytest.fixture(scope="module")
def engine(tiny_model, adapters):
    spec = GeneratorSpec("transformers", str(tiny_model), "tiny", "float32", 192, options={"batch_size": 8})
    yield open_generator(spec, adapters)
    close_generators()


def requests(count: int, adapter: str | None = None, temperature: float = 1.0) -> list[GenerationRequest]:
    found = []
    for index in range(count):
        source = random.Random(index)
        prompt = tuple(source.randint(3, 319) for _ in range(source.randint(3, 30)))
        found.append(GenerationRequest(str(index), prompt, adapter, temperature, 0.9, 10, 2**62 + index))
    return found


def answers(engine, items) -> dict[str, str | None]:
    return {item.request_id: item.text for item in engine.generate(items)}


def test_a_rows_draws_follow_from_its_seed_and_not_from_its_batch(engine):
    first = answers(engine, requests(20))
    assert answers(engine, reversed(requests(20))) == first
    assert len(set(first.values())) > 15


def test_adapters_mixed_in_one_batch_answer_as_each_does_alone(engine):
    names = (None, "adapter-0", "adapter-1")
    rows = [
        replace(item, request_id=f"{name}/{item.request_id}")
        for name in names
        for item in requests(4, name, 0.0)
    ]
    alone = [answers(engine, rows[start : start + 4]) for start in (0, 4, 8)]
    mixed = random.Random(0).sample(rows, len(rows))
    assert answers(engine, mixed) == alone[0] | alone[1] | alone[2]
    assert len({tuple(found.values()) for found in alone}) == 3


def test_an_adapter_that_matches_nothing_in_the_model_is_an_error(tiny_model, adapters, tmp_path):
    path = shutil.copytree(adapters[0].path, tmp_path / "misfit")
    weights = load_file(path / "adapter_model.safetensors")
    save_file(
        {name.replace("layers", "blocks"): tensor for name, tensor in weights.items()},
        path / "adapter_model.safetensors",
    )
    spec = GeneratorSpec("transformers", str(tiny_model), "tiny", "float32", 192)
    with pytest.raises(EngineError, match="'misfit' does not change the engine's output"):
        TransformersGenerator(spec, [adapters[0], Adapter("misfit", str(path))])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_scores_that_are_not_finite_are_their_rows_fault_and_change_no_other_answer(tiny_model, temperature):
    engine = TransformersGenerator(GeneratorSpec("transformers", str(tiny_model), "tiny", "float32", 192))
    mates = requests(5, temperature=temperature)
    wanted = answers(engine, mates)
    seen = {token for item in mates for token in item.token_ids}
    said = {word for text in wanted.values() for word in text.split()}
    other = next(token for token in range(3, 300) if token not in seen and f"w{token}" not in said)
    with torch.no_grad():
        engine._model.get_input_embeddings().weight[other] = float("inf")
    broken = replace(mates[0], request_id="broken", token_ids=(5, other, 9))
    given = replace(broken, request_id="given", scored_tokens=1, max_tokens=0)
    found = {item.request_id: item for item in engine.generate([broken, *mates, given])}
    for outcome in (found.pop("broken"), found.pop("given")):
        assert outcome.error_kind == "unreadable" and "not finite" in outcome.error
    assert {name: item.text for name, item in found.items()} == wanted


def test_what_does_not_fit_is_an_outcome(engine):
    long = GenerationRequest("long", tuple(range(3, 190)), None, 0.0, 1.0, 20, 1)
    (outcome,) = engine.generate([long])
    assert outcome.error_kind == "too_long"


def test_a_given_answer_has_the_likelihood_that_the_model_gives_its_tokens(engine, tiny_model):
    tokens = (5, 9, 30, 41, 77)
    model = LlamaForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        chances = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    wanted = float(chances[2, 41] + chances[3, 77])
    asked = [
        GenerationRequest(str(name), tokens, name, 0.0, 1.0, 0, 1, scored_tokens=2)
        for name in (None, "adapter-0")
    ]
    base, adapted = sorted(engine.generate([*asked, *requests(3)]), key=lambda item: item.logprob is None)[:2]
    by_name = {item.request_id: item for item in (base, adapted)}
    assert by_name["None"].logprob == pytest.approx(wanted, abs=1e-4)
    assert by_name["None"].completion_tokens == 2 and by_name["None"].prompt_tokens == 3
    assert by_name["adapter-0"].logprob != pytest.approx(wanted, abs=1e-2)
