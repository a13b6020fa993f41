"""The main job: all rounds in one process, or one step of one round for a scheduler."""

import argparse
import contextlib
import logging
import signal
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from jobs.flags import fork_point
from jobs.place import Place
from jobs.summary import summary
from pipelines.beginning import begin, check_settings
from pipelines.config import RunConfig
from pipelines.engines.of_run import end_engines
from pipelines.errors import ConfigError
from pipelines.history import History
from pipelines.imports import check_datasets, check_losses, import_all
from pipelines.judging import JudgeRunner, left_to_read
from pipelines.lease import RunLease, process_holder
from pipelines.plan import ALL, steps_of
from pipelines.runner import Runner, engines_owner

log = logging.getLogger("mart")


@contextlib.contextmanager
def _ended_by_terminate() -> Iterator[None]:
    """Turn SIGTERM, a scheduler's way to cancel, into an orderly end."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_all(place: Place, config: RunConfig, run_id: str, fork: tuple[str, int] | None) -> None:
    """Import the data, then run every round that is left, and print the summary."""
    clock = time.monotonic()
    lease = RunLease(place.lakehouse, run_id, process_holder())
    with _ended_by_terminate():
        new = begin(place.lakehouse, config, run_id, fork, first=partial(_bring, place, config, fork))
        with _held(lease):
            if not new:
                import_data(place, config)
            with _runner(place, config, run_id, lease=lease) as runner:
                for round in range(config.rounds + 1):
                    runner.run_round(round)
    print(summary(place.lakehouse, run_id))
    where = place.folder or place.lakehouse.schema
    print(f"\n{time.monotonic() - clock:.0f} s; tables and checkpoints are in {where}")
    print(f"ask further with: mart sql \"SELECT * FROM round_overview WHERE run_id = '{run_id}'\"")


def _runner(place: Place, config: RunConfig, run_id: str, **more: Any) -> contextlib.closing[Runner]:
    return contextlib.closing(
        Runner(place.lakehouse, place.artifacts, config, run_id, tracking_uri=place.tracking_uri, **more)
    )


@contextlib.contextmanager
def _held(lease: RunLease) -> Iterator[RunLease]:
    lease.acquire()
    try:
        yield lease
    finally:
        lease.release()


def _bring(place: Place, config: RunConfig, fork: tuple[str, int] | None) -> None:
    """The data of a run that is to begin, which must do for what it will learn; a fork has its reward models."""
    import_data(place, config)
    if fork is None:
        check_losses(place.lakehouse, config)


def import_data(place: Place, config: RunConfig) -> None:
    """Import what the configuration names; what is imported already is left as it is."""
    prepared = place.artifacts.root / "prepared"
    for item, totals in zip(
        config.data.imports, import_all(place.lakehouse, config.data, prepared), strict=True
    ):
        log.info(
            "import %s: %d in, %d new, %d repeated, %d refused",
            item.dataset,
            totals.rows_in,
            totals.new,
            totals.repeated,
            totals.refused,
        )
    check_datasets(place.lakehouse, config)


def run_one(place: Place, config: RunConfig, options: argparse.Namespace) -> None:
    """One step of one round, as a task of a scheduler: `begin` and `end` take and release the run for `--holder`.

    A step leaves its engine on this host to the next one; `end` ends it.
    """
    lakehouse, run_id = place.lakehouse, options.run_id
    # A scheduler's lease outlives its tasks' processes; it lapses a day after the last step began if `end` never ran.
    lease = RunLease(
        lakehouse, run_id, f"scheduler:{options.holder}" if options.holder else process_holder(), 86400.0
    )
    if options.name == "begin":
        fork = fork_point(options.fork)
        new = begin(lakehouse, config, run_id, fork, first=partial(_bring, place, config, fork))
        resolve_round(History(lakehouse, run_id), config, options.round)
        lease.acquire(renew=False)
        if not new:
            import_data(place, config)
        return
    if options.name == "end":
        owner = engines_owner(lakehouse, place.artifacts, run_id)
        log.info("%d engines ended", end_engines(owner))
        lease.release()
        return
    if options.name not in ALL:
        raise ConfigError(
            f"there is no step {options.name!r}; `mart describe` lists them, besides begin and end"
        )
    check_settings(lakehouse, config, run_id)
    lease.acquire(renew=False)
    try:
        with _runner(place, config, run_id, lease=lease, single_step=True) as runner:
            round = resolve_round(runner.history, config, options.round)
            if options.name in [step.name for step in steps_of(config, round)]:
                runner.run_step(ALL[options.name], round)
            else:
                log.info(
                    "round %d has no step %s under this configuration: nothing to do", round, options.name
                )
    finally:
        if not options.holder:
            lease.release()


def run_judges(
    place: Place, config: RunConfig, run_id: str, names: Sequence[str] = (), last: int | None = None
) -> None:
    """Have the configuration's judges read what a run answered and they have not read yet, and print the summary."""
    holder = process_holder()
    with _ended_by_terminate(), _held(RunLease(place.lakehouse, run_id, holder)) as lease:
        left = left_to_read(place.lakehouse, config, run_id, names, last)
        for reading in left:
            # What a fork has of another run is read as that run's.
            own = reading.run_id == run_id
            held = (
                contextlib.nullcontext(lease)
                if own
                else _held(RunLease(place.lakehouse, reading.run_id, holder))
            )
            with (
                held as its,
                contextlib.closing(
                    JudgeRunner(place.lakehouse, place.artifacts, config, reading, lease=its)
                ) as runner,
            ):
                runner.read()
    if left:
        print(summary(place.lakehouse, run_id))
    else:
        print(f"nothing to do: these judges have read every round of run {run_id} that has ended")


def resolve_round(history: History, config: RunConfig, round: str) -> int:
    """The round that a step is for: a number, or `next`, the first round that has an unpublished step.

    Every task of a scheduled round asks for itself, so the last step, `report`, is what ends a round.

    Raises:
        ConfigError: it is neither, or the run has ended its last round.
    """
    if round.isdecimal():
        return int(round)
    if round != "next":
        raise ConfigError(f"--round takes a number or next, got {round!r}")
    found = history.next_round(lambda number: [step.name for step in steps_of(config, number)])
    if found > config.rounds:
        raise ConfigError(
            f"run {history.run_id} has ended all its {config.rounds} rounds; pause its schedule, or raise `rounds` in the "
            "configuration to go on"
        )
    return found
