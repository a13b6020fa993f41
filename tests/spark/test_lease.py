"""One driver a run at a time."""

import os
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from pipelines.errors import ConfigError, RunHeld
from pipelines.history import now
from pipelines.lakehouse import Lakehouse
from pipelines.lease import RunLease, is_dead, process_holder
from pipelines.runner import Runner
from pipelines.steps.evaluate import EVALUATE_TARGET
from schemas.tables import RUNS
from tests.e2e.small import SMALLEST


@pytest.fixture
def run(lakehouse: Lakehouse) -> Lakehouse:
    """A lakehouse with the run `r`."""
    lakehouse.ensure([RUNS])
    row: dict[str, Any] = {
        "run_id": "r",
        "config": "{}",
        "config_digest": "d",
        "code_version": "0",
        "created_at": now(),
    }
    lakehouse.append_rows("runs", [row])
    return lakehouse


def test_a_second_driver_is_told_who_holds_the_run(run: Lakehouse) -> None:
    RunLease(run, "r", "scheduler:first").acquire(renew=False)
    with pytest.raises(RunHeld, match="run r is held by scheduler:first until"):
        RunLease(run, "r", "scheduler:second").acquire(renew=False)


def test_a_run_that_was_let_go_can_be_taken(run: Lakehouse) -> None:
    first = RunLease(run, "r", "scheduler:first")
    first.acquire()
    first.release()
    RunLease(run, "r", "scheduler:second").acquire(renew=False)


def test_a_holder_may_ask_again(run: Lakehouse) -> None:
    for _ in range(2):
        RunLease(run, "r", "scheduler:first").acquire(renew=False)


def test_a_lease_that_lapsed_can_be_taken(run: Lakehouse) -> None:
    RunLease(run, "r", "scheduler:first", seconds=-1).acquire(renew=False)
    RunLease(run, "r", "scheduler:second").acquire(renew=False)


def test_a_driver_whose_lease_lapsed_and_was_taken_is_told_when_it_looks(run: Lakehouse) -> None:
    first = RunLease(run, "r", "scheduler:first", seconds=-1)
    first.acquire(renew=False)
    first.check()
    RunLease(run, "r", "scheduler:second").acquire(renew=False)
    with pytest.raises(RunHeld, match="run r was taken over by scheduler:second"):
        first.check()


def test_a_step_that_another_driver_took_meanwhile_is_not_published(
    runner_of: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_of({**SMALLEST, "data.suites": "sandbox_suites"})
    lakehouse = runner.lakehouse
    for told_within in (False, True):  # as a step that replaces rows is
        lease = RunLease(lakehouse, "r", f"scheduler:first, {told_within}", seconds=-1)
        lease.acquire(renew=False)

        def taken_meanwhile(*_: Any, lease: RunLease = lease, told_within: bool = told_within) -> Any:
            RunLease(lakehouse, "r", "scheduler:second", seconds=-1).acquire(renew=False)
            if told_within:
                lease.check()
            return lakehouse.read("responses")

        monkeypatch.setattr(Runner, "_execute", taken_meanwhile)
        with (
            closing(Runner(lakehouse, runner.artifacts, runner.config, "r", lease=lease)) as late,
            pytest.raises(RunHeld, match="scheduler:second"),
        ):
            late.run_step(EVALUATE_TARGET, 0)
    assert lakehouse.read("steps").isEmpty()


def test_a_dead_process_of_this_host_lets_go_at_once(run: Lakehouse) -> None:
    kind, host, _, _, nonce = process_holder().split(":")
    RunLease(run, "r", f"{kind}:{host}:{2**22 + 1}:123:{nonce}").acquire(renew=False)
    RunLease(run, "r", process_holder()).acquire(renew=False)


def test_a_process_number_used_again_is_not_the_holder() -> None:
    kind, host, pid, ticks, nonce = process_holder().split(":")
    assert pid == str(os.getpid())
    assert is_dead(f"{kind}:{host}:{pid}:{int(ticks) - 1}:{nonce}") and not is_dead(process_holder())


def test_nothing_is_said_of_processes_on_other_hosts_or_in_other_containers() -> None:
    kind, host, pid, _, nonce = process_holder().split(":")
    numbering, nonce = nonce.split("-")
    assert not is_dead(f"{kind}:elsewhere:{pid}:1:{numbering}-{nonce}")
    assert not is_dead(f"{kind}:{host}:{pid}:1:another-{nonce}")


def test_a_run_that_is_not_there_is_named(run: Lakehouse) -> None:
    with pytest.raises(ConfigError, match="there is no run 'q'"):
        RunLease(run, "q", "me").acquire(renew=False)
