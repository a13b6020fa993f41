"""A run's engine goes from step to step, is taken from none that uses it, and ends with the run or by its lease."""

import time
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobs import main_job
from jobs.place import Place
from pipelines import runner
from pipelines.artifacts import Artifacts
from pipelines.engines.homes import spec_digest
from pipelines.engines.host import running_engines
from pipelines.engines.of_run import RunEngines, end_engines, owner_of
from pipelines.engines.protocol import GeneratorSpec
from pipelines.errors import EngineError
from pipelines.lakehouse import Lakehouse
from pipelines.runner import Runner
from tests.unit.engines.test_host import eventually, starts


@pytest.fixture
def spec(make_spec: Callable[..., GeneratorSpec]) -> GeneratorSpec:
    """An engine of run `r` that ends when its lease was not renewed for 4 s."""
    return make_spec(owner=owner_of("r", "mart", Path("lakehouse")), lease=4.0)


@pytest.fixture
def step(spec: GeneratorSpec) -> Callable[[], RunEngines]:
    """Makes what the process of a single step has of the engines of run `r`; 6 s are for the next one to come."""
    return lambda: RunEngines(spec.owner, spec.home, handover=6.0)


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


def test_an_engine_begun_ahead_is_waited_for_when_it_is_asked(spec: GeneratorSpec, tmp_path: Path) -> None:
    engines = RunEngines(spec.owner, spec.home)
    engines.start(spec, ahead=True)
    engines.start(spec)
    ready = running_engines(spec.home)
    engines.end()
    assert [record.state for record in ready] == ["ready"]
    assert len(starts(tmp_path)) == 1


def test_what_goes_wrong_ahead_is_told_when_the_engine_is_asked(
    make_spec: Callable[..., GeneratorSpec],
) -> None:
    broken = make_spec("broken")
    engines = RunEngines(broken.owner, broken.home)
    engines.start(broken, ahead=True)
    with pytest.raises(EngineError, match="CUDA out of memory"):
        engines.start(broken)
    engines.end()


def test_the_end_of_a_run_ends_an_engine_that_is_starting(make_spec: Callable[..., GeneratorSpec]) -> None:
    slow = make_spec("slow")
    engines = RunEngines(slow.owner, slow.home)
    engines.start(slow, ahead=True)
    engines.end()
    assert running_engines(slow.home) == []


def test_a_device_is_freed_when_no_other_step_uses_its_engine(
    step: Callable[[], RunEngines], spec: GeneratorSpec
) -> None:
    user, keeper, trainer = step(), step(), step()
    user.start(spec)
    keeper.keep_found()
    with ThreadPoolExecutor(1) as pool:
        freed = pool.submit(trainer.free_device)
        time.sleep(1.0)
        assert end_engines(spec.owner, spec.home) == 0
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


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Makes the place of a lakehouse below a folder, without its tables; engines' home is the test's own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(runner, "History", lambda *_: None)
    monkeypatch.setattr(main_job, "RunLease", lambda *_: SimpleNamespace(release=lambda: None))

    def make(name: str) -> Any:
        lakehouse = Lakehouse(cast(Any, None), folder=tmp_path / name / "tables")
        return Place(lakehouse, Artifacts(tmp_path / "artifacts"), tmp_path / name)

    return make


def run_of(place: Any, **how: Any) -> Runner:
    return Runner(place.lakehouse, place.artifacts, cast(Any, SimpleNamespace(gates=None)), "r", **how)


def test_a_single_step_leaves_the_engine_which_ends_with_the_run(
    spec: GeneratorSpec, place: Callable[[str], Any]
) -> None:
    def left_by(**how: bool) -> int:
        it = run_of(place("lakehouse"), **how)
        it.engines.start(replace(spec, home="", owner=it.engines.owner))
        it.close()
        return len(running_engines())

    assert left_by(single_step=True) == 1
    options = Namespace(name="end", run_id="r", holder=None)
    main_job.run_one(place("another"), cast(Any, None), options)
    assert running_engines(), "another lakehouse's"
    main_job.run_one(place("lakehouse"), cast(Any, None), options)
    assert not running_engines()
    assert left_by() == 0


def test_a_driver_that_lost_its_run_leaves_the_engine_to_the_one_that_has_it(
    spec: GeneratorSpec, place: Callable[[str], Any]
) -> None:
    before = run_of(place("lakehouse"), lease=cast(Any, SimpleNamespace(lost="taken over")))
    now = run_of(place("lakehouse"))
    for driver in (before, now):
        driver.engines.start(replace(spec, home="", owner=driver.engines.owner))
    before.close()
    left = len(running_engines())
    now.close()
    assert left == 1 and not running_engines()


def test_a_run_leaves_the_engine_of_the_same_run_in_another_lakehouse(
    spec: GeneratorSpec, place: Callable[[str], Any], tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "link").symlink_to("one")
    mine, mine_too, other = (run_of(place(name)) for name in ("one", "link", "other"))
    for it in (mine, mine_too, other):
        it.engines.start(replace(spec, home="", owner=it.engines.owner))
    assert len(starts(tmp_path)) == 2
    mine.close()
    (left,) = running_engines()
    assert left.owner == other.engines.owner
    mine_too.close()
    other.close()
