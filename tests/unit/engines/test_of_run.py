"""A run's engine goes from step to step, is taken from none that uses it, and ends with the run or by its lease."""

import time
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs import main_job
from pipelines import runner
from pipelines.engines.homes import spec_digest
from pipelines.engines.host import running_engines
from pipelines.engines.of_run import RunEngines, end_engines, owner_of
from pipelines.engines.protocol import GeneratorSpec
from pipelines.runner import Runner
from tests.unit.engines.test_host import eventually, starts


@pytest.fixture
def spec(make_spec: Callable[..., GeneratorSpec]) -> GeneratorSpec:
    """An engine of run `r` that ends when its lease was not renewed for 4 s."""
    return make_spec(owner=owner_of("r"), lease=4.0)


@pytest.fixture
def step(spec: GeneratorSpec) -> Callable[[], RunEngines]:
    """Makes what the process of a single step has of the engines of run `r`; 6 s are for the next one to come."""
    return lambda: RunEngines("r", spec.home, handover=6.0)


def test_steps_hand_the_engine_on_and_the_lease_ends_it_when_none_comes(
    step: Callable[[], RunEngines], spec: GeneratorSpec, tmp_path: Path
) -> None:
    first, beside, third, fourth = (step() for _ in range(4))
    first.start(spec)
    beside.start(spec)
    first.let_go()
    beside.let_go()
    time.sleep(5.0)
    assert running_engines(spec.home), "its lease of 4 s was made longer"
    third.keep_found()
    time.sleep(2.5)
    assert running_engines(spec.home), "a step that asks nothing keeps it"
    fourth.start(spec)
    third.let_go()
    fourth.let_go()
    assert len(starts(tmp_path)) == 1
    assert eventually(lambda: not running_engines(spec.home))


def test_a_device_is_freed_when_no_other_step_uses_its_engine(
    step: Callable[[], RunEngines], spec: GeneratorSpec
) -> None:
    user, keeper, trainer = step(), step(), step()
    user.start(spec)
    keeper.keep_found()
    with ThreadPoolExecutor(1) as pool:
        freed = pool.submit(trainer.free_device)
        time.sleep(1.0)
        assert end_engines("r", spec.home) == 0
        assert running_engines(spec.home) and not freed.done()
        user.let_go()
        freed.result(10)
    assert not running_engines(spec.home)
    keeper.let_go()


def test_an_engine_of_other_settings_makes_room(step: Callable[[], RunEngines], spec: GeneratorSpec) -> None:
    before, after = step(), step()
    before.start(spec)
    before.let_go()
    other = replace(spec, max_num_seqs=4)
    after.start(other)
    (left,) = running_engines(spec.home)
    after.let_go()
    assert left.state == "ready" and left.digest == spec_digest(other)


def test_a_single_step_leaves_the_engine_which_ends_with_the_run(
    spec: GeneratorSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(runner, "History", lambda *_: None)
    monkeypatch.setattr(main_job, "RunLease", lambda *_: SimpleNamespace(release=lambda: None))
    spec = replace(spec, home="")
    nothing = SimpleNamespace(lakehouse=None, gates=None)

    def left_by(**how: bool) -> int:
        it = Runner(nothing, nothing, nothing, "r", **how)
        it.engines.start(spec)
        it.close()
        return len(running_engines())

    assert left_by(single_step=True) == 1
    main_job.run_one(nothing, nothing, Namespace(name="end", run_id="r", holder=None))
    assert not running_engines()
    assert left_by() == 0
