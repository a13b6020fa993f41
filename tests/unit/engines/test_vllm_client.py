"""What the vLLM client makes of a server that misbehaves: a row's fault is an outcome, the engine's is mended."""

import asyncio
import itertools
import json
import os
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.engines.homes import EngineDirectory
from pipelines.engines.protocol import Adapter
from pipelines.engines.session import EngineSession
from pipelines.engines.uds import is_healthy
from pipelines.engines.vllm import VllmGenerator
from pipelines.errors import ConfigError, EngineError


@pytest.fixture
def open_client():
    opened = []

    def make(spec, *adapters, **options):
        opened.append(VllmGenerator(spec, adapters, **options))
        return opened[-1]

    yield make
    for generator in opened:
        generator.close()


def lines(tmp_path: Path, name: str) -> list[str]:
    return (tmp_path / "state" / name).read_text().split()


def adapter(tmp_path: Path, name: str) -> Adapter:
    path = tmp_path / name
    path.mkdir()
    (path / "adapter_config.json").write_text("{}")
    return Adapter(name, str(path))


def test_every_request_gets_its_own_answer_and_the_input_is_read_lazily(
    make_spec, make_request, open_client, tmp_path
):
    taken = 0

    def requests():
        nonlocal taken
        for seed in range(60):
            taken += 1
            yield make_request(seed)

    outcomes = open_client(make_spec(), in_flight=10).generate(requests())
    first = next(outcomes)
    assert taken <= 11
    answers = {item.request_id: item.text for item in [first, *outcomes]}
    assert answers == {f"r{seed}": f"base {seed}" for seed in range(60)}
    assert int((tmp_path / "state" / "most").read_text()) <= 10
    assert first.prompt_tokens == 3
    assert first.completion_tokens == 3


def test_json_that_is_nested_too_deep_is_its_rows_fault(make_spec, make_request, open_client):
    requests = [make_request(0), make_request(1, 8), make_request(2, 9)]
    found = {item.request_id: item for item in open_client(make_spec()).generate(requests)}
    kinds = {name: item.error_kind for name, item in found.items()}
    assert kinds == {"r0": None, "r1": "unreadable", "r2": "refused"}


def test_a_rows_own_fault_is_its_outcome(make_spec, make_request, open_client):
    kinds = {1: 400, 2: 413, 3: 3, 4: 7}
    requests = [make_request(0), *(make_request(seed, kind) for seed, kind in kinds.items())]
    requests.append(make_request(5, max_tokens=600))
    found = {item.request_id: item for item in open_client(make_spec()).generate(requests)}
    assert found["r0"].text == "base 0"
    assert {name: item.error_kind for name, item in found.items()} == {
        "r0": None, "r1": "refused", "r2": "too_long", "r3": "unreadable", "r4": "refused", "r5": "too_long",
    }  # fmt: skip
    assert found["r1"].error == "bad row 1"
    assert found["r4"].error == "HTTP 500: this row always fails"


def test_a_dropped_connection_is_asked_again_without_replacing_the_engine(
    make_spec, make_request, open_client, tmp_path
):
    outcomes = list(open_client(make_spec()).generate(make_request(seed, 2) for seed in range(5)))
    assert {item.text for item in outcomes} == {f"base {seed}" for seed in range(5)}
    assert len(lines(tmp_path, "starts")) == 1


def test_after_the_engines_death_all_rows_come_back_and_the_adapters_are_there(
    make_spec, make_request, open_client, tmp_path
):
    one = adapter(tmp_path, "one")
    client = open_client(make_spec(adapters=1), one)
    requests = [make_request(seed, 6 if seed == 7 else 1, "one") for seed in range(30)]
    outcomes = list(client.generate(requests))
    assert {item.text for item in outcomes} == {f"one {seed}" for seed in range(30)}
    assert len(lines(tmp_path, "starts")) == 2
    assert lines(tmp_path, "loads") == ["one", "one"]


def test_a_request_that_takes_engines_down_is_found_out_and_no_other_is_blamed(
    make_spec, make_request, open_client, tmp_path
):
    requests = [make_request(seed, 4 if seed == 3 else 1) for seed in range(20)]
    kinds = Counter((item.request_id if item.error_kind else "", item.error_kind) for item in
                    open_client(make_spec()).generate(requests))  # fmt: skip
    assert kinds == {("", None): 19, ("r3", "took_engine_down"): 1}
    assert len(lines(tmp_path, "starts")) <= 4


def test_a_request_is_blamed_only_for_what_happened_while_no_client_had_another_in_flight(
    make_spec, make_request, open_client, tmp_path
):
    spec, ended = make_spec(), threading.Event()

    def others():
        yield make_request(1000, 4)
        yield from itertools.takewhile(
            lambda _: not ended.is_set(), (make_request(seed) for seed in itertools.count(1001))
        )

    mine, beside = open_client(spec), open_client(spec)
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(lambda: list(beside.generate(others())))
        try:
            ours = list(mine.generate(make_request(seed, 1 if seed else 4) for seed in range(20)))
        finally:
            ended.set()
    blamed = {item.request_id: item.error_kind for item in [*ours, *theirs.result()] if item.error_kind}
    assert blamed == {"r0": "took_engine_down", "r1000": "took_engine_down"}
    in_flight = dict(line.split(":") for line in lines(tmp_path, "company"))
    assert in_flight == {"0": "1", "1000": "1"}, "at each one's last engine"


def test_a_request_that_finds_the_engine_dead_is_not_blamed_for_it(make_spec, tmp_path):
    spec = make_spec()
    body = json.dumps({"model": "base", "prompt": [1], "seed": 1}).encode()

    async def replies():
        session = EngineSession(spec, (), EngineDirectory.of(spec))
        try:
            first = await session.ask("/v1/completions", body)
            os.kill(int(lines(tmp_path, "starts")[0]), signal.SIGKILL)
            while is_healthy(session._engine.socket):
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.1)
            return first, await session.ask_alone("/v1/completions", body)
        finally:
            await session.close()

    assert [(reply.status, reply.lost) for reply in asyncio.run(replies())] == [(200, False)] * 2
    assert len(lines(tmp_path, "starts")) == 2


def test_a_hanging_engine_is_replaced(make_spec, make_request, open_client, tmp_path):
    client = open_client(make_spec(hang_seconds=1.0))
    outcomes = list(client.generate(make_request(seed, 5 if seed == 8 else 1) for seed in range(16)))
    assert {item.text for item in outcomes} == {f"base {seed}" for seed in range(16)}
    assert len(lines(tmp_path, "starts")) == 2


@pytest.mark.parametrize(
    ("kind", "patience", "engines"), [(10, 0.5, 1), (12, 0.1, 2)], ids=["for a while", "without end"]
)
def test_an_engine_that_computes_has_ten_times_as_long(
    make_spec, make_request, open_client, tmp_path, kind, patience, engines
):
    (outcome,) = open_client(make_spec(hang_seconds=patience)).generate([make_request(0, kind)])
    assert outcome.text == "base 0"
    assert len(lines(tmp_path, "starts")) == engines


@pytest.mark.parametrize(
    ("kinds", "words"), [((400,), "bad row 19"), ((3,), "not an answer"), ((400, 3), "not an answer")]
)
def test_a_server_that_refuses_everything_is_the_engines_fault(
    make_spec, make_request, open_client, kinds, words
):
    too_long = [make_request(100, max_tokens=600), make_request(101, 413)]
    requests = [*too_long, *(make_request(seed, kinds[seed % len(kinds)]) for seed in range(40))]
    with pytest.raises(EngineError, match=f"none of the first 20 was answered; lastly: {words}"):
        list(open_client(make_spec(), in_flight=1).generate(requests))


def test_an_adapter_that_changes_nothing_is_an_error(make_spec, make_request, open_client, tmp_path):
    client = open_client(make_spec(adapters=1), adapter(tmp_path, "same"))
    with pytest.raises(EngineError, match="'same' does not change the engine's output"):
        list(client.generate([make_request(0, adapter="same")]))


def test_an_engine_that_hangs_over_an_adapter_is_replaced_once(
    make_spec, make_request, open_client, tmp_path
):
    client = open_client(make_spec(adapters=1, hang_seconds=0.2), adapter(tmp_path, "stuck-once"))
    (outcome,) = client.generate([make_request(0, adapter="stuck-once")])
    assert outcome.text == "stuck-once 0"
    assert len(lines(tmp_path, "starts")) == 2
    client = open_client(make_spec(adapters=1, hang_seconds=0.1), adapter(tmp_path, "stuck"))
    with pytest.raises(
        EngineError, match="died or hung twice while it loaded or proved adapter 'stuck': timed out"
    ):
        list(client.generate([make_request(0, adapter="stuck")]))
    assert len(lines(tmp_path, "starts")) == 3


def test_an_adapter_is_loaded_once_for_all_clients(make_spec, make_request, open_client, tmp_path):
    one = adapter(tmp_path, "one")
    for seed in range(3):
        list(open_client(make_spec(adapters=1), one).generate([make_request(seed, adapter="one")]))
    assert lines(tmp_path, "loads") == ["one"]


def test_an_unknown_adapter_is_named(make_spec, make_request, open_client, tmp_path):
    with pytest.raises(ConfigError, match="names adapter 'two'"):
        list(
            open_client(make_spec(adapters=1), adapter(tmp_path, "one")).generate(
                [make_request(0, adapter="two")]
            )
        )
    with pytest.raises(ConfigError, match="max_adapters is 0"):
        open_client(make_spec(), Adapter("one", "/nowhere"))


def test_a_caller_who_stops_early_leaves_nothing_in_flight(make_spec, make_request, open_client):
    client = open_client(make_spec())
    outcomes = client.generate(make_request(seed) for seed in range(50))
    next(outcomes)
    outcomes.close()
    assert len(list(client.generate(make_request(seed) for seed in range(5)))) == 5
