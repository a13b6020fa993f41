"""The real vLLM server on the CPU: one start for the module, and forked ones where a test needs an engine of its own."""

import json
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipelines.config import TargetEndpointConfig
from pipelines.engines.homes import EngineDirectory
from pipelines.engines.host import EngineHandle, ensure_engine, keep_alive, stop_engine
from pipelines.engines.judges import GuardScorer, RubricScorer
from pipelines.engines.launch import has_gpu, server_environment
from pipelines.engines.openai_http import OpenAIGenerator
from pipelines.engines.pooling import PooledClassifierScorer
from pipelines.engines.processes import find, members
from pipelines.engines.protocol import GenerationRequest, GeneratorSpec, ScorerSpec
from pipelines.engines.scorers import ClassifierScorer
from pipelines.engines.transformers import TransformersGenerator
from pipelines.engines.vllm import VllmGenerator
from tests import tiny
from tests.over_tcp import over_tcp

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
pytest.importorskip("vllm")


@pytest.fixture(scope="module")
def spec(tiny_model: Path, tmp_path_factory):
    if has_gpu():
        pytest.skip(
            "vLLM serves adapters on a GPU in 16 bits, in which greedy answers need not be those of transformers"
        )
    spec = GeneratorSpec(
        backend="vllm",
        model=str(tiny_model),
        model_digest="tiny",
        dtype="float32",
        max_model_len=192,
        max_num_seqs=32,
        kv_cache_gib=0.25,
        max_adapters=3,
        max_lora_rank=8,
        lora_modules=("down_proj", "q_proj", "v_proj"),
        owner="test",
        home=str(tmp_path_factory.mktemp("home")),
        lease_seconds=15.0,
    )
    with keep_alive(spec):
        yield spec
    stop_engine(spec)


@pytest.fixture(scope="module")
def engine(spec, adapters):
    generator = VllmGenerator(spec, adapters)
    yield generator
    generator.close()


@pytest.fixture(scope="module")
def reference(spec, adapters):
    return TransformersGenerator(replace(spec, backend="transformers"), adapters)


def requests(
    count: int, adapter: str | None = None, temperature: float = 0.0, tokens: int = 12, tag: str = ""
):
    """Short random prompts of uneven length."""
    for index in range(count):
        source = random.Random(index)
        prompt = tuple(source.randint(3, 319) for _ in range(source.randint(3, 20)))
        yield GenerationRequest(f"{tag}{index}", prompt, adapter, temperature, 1.0, tokens, 2**62 + index)


def answers(generator, items) -> dict[str, tuple[str | None, str | None, int]]:
    return {
        item.request_id: (item.text, item.finish_reason, item.completion_tokens)
        for item in generator.generate(items)
    }


def mapped_shared_memory(pid: int) -> set[Path]:
    """Files in /dev/shm that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {
        Path(line.split(maxsplit=5)[5]) for line in lines if "/dev/shm/" in line and "(deleted)" not in line
    }


def engine_core(server: EngineHandle) -> int:
    """The process of a server that runs the model."""
    cores = [
        item.pid
        for item in members(server.pgid)
        if "EngineCore" in Path(f"/proc/{item.pid}/cmdline").read_text()
    ]
    assert len(cores) == 1, cores
    return cores[0]


@pytest.mark.parametrize("adapter", [None, "adapter-0", "adapter-1"])
def test_greedy_equals_transformers(engine, reference, adapter):
    ours, theirs = answers(engine, requests(12, adapter)), answers(reference, requests(12, adapter))
    assert ours == theirs
    assert len({text for text, _, _ in ours.values()}) > 6


def test_adapters_in_one_batch_answer_as_each_does_alone(engine):
    names = ["adapter-0", "adapter-1", None]
    alone = [answers(engine, requests(8, name, tag=f"{name}/")) for name in names]
    mixed = [item for name in names for item in requests(8, name, tag=f"{name}/")]
    random.Random(0).shuffle(mixed)
    together = answers(engine, mixed)
    assert together == alone[0] | alone[1] | alone[2]
    texts = [[text for text, _, _ in group.values()] for group in alone]
    assert texts[0] != texts[1] != texts[2] != texts[0]


def test_what_waits_goes_by_priority(spec, adapters):
    later = [replace(item, priority=2) for item in requests(64, tokens=40, tag="later/")]
    sooner = [replace(item, priority=1) for item in requests(16, tokens=40, tag="sooner/")]
    core = engine_core(ensure_engine(spec))

    def held() -> Iterator[GenerationRequest]:
        """All requests, while EngineCore stands still for two seconds: it finds all waiting, however slowly they are sent."""
        os.kill(core, signal.SIGSTOP)
        threading.Timer(2.0, os.kill, (core, signal.SIGCONT)).start()
        yield from later + sooner

    with closing(VllmGenerator(spec, adapters, in_flight=len(later + sooner))) as generator:
        answers(generator, requests(1))  # its adapters are loaded, which a held EngineCore would not do
        ended = [item.request_id.partition("/")[0] for item in generator.generate(held())]
    assert ended.count("sooner") == 16
    assert "sooner" not in ended[-16:], (
        "32 run at a time; what was sent last, of those that waited, went first"
    )


def test_a_seed_reproduces_whatever_the_batch(engine):
    first = answers(engine, requests(40, temperature=1.0))
    again = answers(engine, list(requests(40, temperature=1.0))[20:])
    assert again == {name: first[name] for name in again}
    assert len({text for text, _, _ in first.values()}) > 30


def test_long_prompts_with_seeds_do_not_kill_the_engine(engine, spec):
    before = ensure_engine(spec)
    items = [
        GenerationRequest(
            str(seed), tuple(3 + (seed + place) % 300 for place in range(170)), None, 1.0, 1.0, 20, seed
        )
        for seed in range(80)
    ]
    assert len(answers(engine, items)) == 80
    assert ensure_engine(spec) == before


def test_what_does_not_fit_is_an_outcome(engine):
    long = GenerationRequest("long", tuple(range(3, 200)), None, 0.0, 1.0, 8, 1)
    found = {item.request_id: item for item in engine.generate([*requests(3), long])}
    assert found["long"].error_kind == "too_long"
    assert found["0"].text


def test_the_proof_of_each_adapter_is_recorded(engine, spec):
    list(engine.generate(requests(1)))
    proofs = json.loads(EngineDirectory.of(spec).proofs_path.read_text())["adapters"]
    assert proofs["adapter-0"]["change"] > 0.01
    assert not proofs["adapter-0"]["untrained"]
    assert proofs["adapter-2"]["untrained"]


def test_a_given_answer_has_the_likelihood_that_transformers_gives_it(engine, reference):
    asked = [
        replace(item, request_id=f"{name}/{item.request_id}", max_tokens=0, scored_tokens=2)
        for name in (None, "adapter-0", "adapter-1")
        for item in requests(6, name)
    ]
    asked = [replace(item, token_ids=(*item.token_ids, 9, 30)) for item in asked]
    ours, theirs = (
        {item.request_id: item.logprob for item in generator.generate([*asked, *requests(3)])}
        for generator in (engine, reference)
    )
    assert ours == pytest.approx(theirs, abs=1e-3)
    assert len({round(value, 3) for value in ours.values() if value}) > 12


def test_a_stop_string_ends_the_answer_before_it(engine, reference):
    item = next(iter(requests(1, temperature=0.0)))
    word = answers(engine, [item])["0"][0].split()[3]
    stopped = replace(item, stop=(word,))
    assert answers(engine, [stopped])["0"][:2] == answers(reference, [stopped])["0"][:2]
    assert word not in answers(engine, [stopped])["0"][0]


@pytest.fixture
def hosted(spec, monkeypatch):
    """The same server as an endpoint that is reached from afar."""
    monkeypatch.setenv("TEST_KEY", "no-one-asks-for-it")
    with over_tcp(ensure_engine(spec).socket) as base_url:
        yield TargetEndpointConfig(base_url=base_url, model="base", key_variable="TEST_KEY").options_of(1)


@pytest.fixture(params=["hosted", "own"])
def judge_of(request, engine, spec):
    """Makes the spec of a judge that asks the same server: as an endpoint, or as an engine of this host."""
    place = request.getfixturevalue("hosted") if request.param == "hosted" else {}
    own = spec if request.param == "own" else None
    return lambda kind, **options: ScorerSpec(
        kind, kind, "base", "0", engine=own, options={**place, **options}
    )


def _said_to(tokenizer, words: str) -> list[int]:
    """Token ids of one user turn, as the server's chat template renders it."""
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": words}], tokenize=True, return_dict=False
    )


def test_an_endpoint_gives_what_the_engine_gives_for_the_rendered_messages(engine, hosted, tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    words = {str(row): " ".join(f"w{3 + (7 * row + place) % 300}" for place in range(9)) for row in range(12)}

    def asked(name: str, text: str) -> GenerationRequest:
        ids = tuple(_said_to(tokenizer, text))
        return GenerationRequest(name, ids, None, 0.0, 1.0, 12, 1, messages=(("user", text),))

    requests = [asked(name, text) for name, text in words.items()]
    endpoint = OpenAIGenerator(GeneratorSpec("openai", "base", "0", options=hosted))
    found = {item.request_id: item for item in endpoint.generate(requests)}
    endpoint.close()
    assert {
        name: (item.text, item.finish_reason, item.completion_tokens) for name, item in found.items()
    } == answers(engine, requests)
    assert {name: item.prompt_tokens for name, item in found.items()} == {
        request.request_id: len(request.token_ids) for request in requests
    }


def test_a_guard_is_read_through_the_chances_of_its_two_words(judge_of, tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    turns = [{"role": "user", "content": "w9 w8"}, {"role": "assistant", "content": "w7"}]
    ids = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    with torch.no_grad():
        chances = model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    first, second = (int(token) for token in chances.topk(2).indices)
    safe, unsafe = tokenizer.convert_ids_to_tokens([second, first])
    guard = GuardScorer(judge_of("guard", safe=safe, unsafe=unsafe, within=1))
    with closing(guard):
        (score,) = guard.score([("r", "w9 w8", "w7")])
    assert score.error is None
    assert score.value == pytest.approx(float(chances[second] / (chances[first] + chances[second])), abs=1e-3)


def test_a_rubrics_verdict_is_bound_to_its_labels(judge_of):
    values = {"complied": 0.0, "refused": 1.0}
    rubric = RubricScorer(judge_of("rubric", rubric="w9 w8", values=values))
    with closing(rubric):
        scores = list(rubric.score([(str(row), f"w{row + 3} w40", "w7 w80") for row in range(20)]))
    assert [score.error for score in scores] == [None] * 20
    assert {(score.label, score.value) for score in scores} <= set(values.items())
    assert all(score.completion_tokens >= 2 for score in scores)


def test_when_enginecore_is_killed_all_rows_come_back_and_nothing_stays(engine, spec, adapters, monkeypatch):
    before = ensure_engine(spec)
    ours = [path for item in members(before.pgid) for path in mapped_shared_memory(item.pid)]
    assert ours
    # The one in its place is forked, which starts in a third of the time.
    forked = server_environment(replace(spec, options={"fork": True}))
    monkeypatch.setattr("pipelines.engines.host.server_environment", lambda _: forked)
    expected = answers(engine, requests(64, "adapter-1", tokens=120))
    outcomes = engine.generate(requests(64, "adapter-1", tokens=120))
    found = [next(outcomes)]
    os.kill(engine_core(before), signal.SIGKILL)
    found += outcomes
    assert {
        item.request_id: (item.text, item.finish_reason, item.completion_tokens) for item in found
    } == expected
    after = ensure_engine(spec)
    assert after.ident != before.ident
    assert members(before.pgid) == []
    assert stop_engine(spec)
    assert members(after.pgid) == []
    assert find(after.pid) is None
    assert not [path for path in ours if path.exists()]


def test_an_adapter_merged_into_the_base_answers_as_it_does_beside_it(spec, reference, tiny_model, adapters):
    path = Path(adapters[0].path).with_name("merged")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), adapters[0].path)
    model.merge_and_unload().save_pretrained(path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(path)
    merged = replace(
        spec, model=str(path), model_digest="merged", max_adapters=0, alone=True, options={"fork": True}
    )
    # In float32 a sum of weights and a sum of products differ in the last bits only, less than greedy words are apart.
    expected = answers(reference, requests(12, adapters[0].name))
    with closing(VllmGenerator(merged)) as generator:
        assert answers(generator, requests(12)) == expected
    assert stop_engine(merged)


@pytest.mark.parametrize("kind", [tiny.bert, tiny.llama])
def test_a_reward_model_gives_what_transformers_gives(spec, tmp_path, kind):
    # Heads of a size that vLLM's CPU kernels have, and weights large enough for values all over [0, 1].
    sizes = {"hidden_size": 128, "num_key_value_heads": 2, "head_dim": 64, "initializer_range": 0.2}
    model = kind(tmp_path / "model", classifier=True, **sizes)
    source = random.Random(0)
    texts = [" ".join(source.choices(tiny.WORDS, k=source.randint(1, 60))) for _ in range(80)]
    items = [(str(row), texts[row], texts[row + 40]) for row in range(40)]
    alone = ScorerSpec("safety", "classifier", str(model), "0", max_length=96)
    engine = replace(
        spec,
        model=str(model),
        model_digest=kind.__name__,
        max_model_len=96,
        max_adapters=0,
        serves="verdicts",
        options={"fork": True},
    )
    with closing(PooledClassifierScorer(replace(alone, engine=engine))) as scorer:
        ours = {score.response_id: score.value for score in scorer.score(items)}
    assert stop_engine(engine)
    theirs = {score.response_id: score.value for score in ClassifierScorer(alone).score(items)}
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert max(theirs.values()) - min(theirs.values()) > 0.3
