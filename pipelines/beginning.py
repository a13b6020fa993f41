"""How a run begins: its row, and the proof that one that is there was begun with the same settings."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from pyspark.sql import Row
from pyspark.sql import functions as F

from pipelines.config import RunConfig
from pipelines.errors import ConfigError
from pipelines.gates.keeper import check_suites, digests_of, suites_of
from pipelines.history import History, now
from pipelines.hosted import check_keys
from pipelines.lakehouse import Lakehouse
from pipelines.origins import keep_missing_origins
from pipelines.plan import TRAINED_BY, steps_of
from pipelines.shown import fork_command
from pipelines.version import code_version
from schemas.digests import canonical_json, digest
from schemas.manifests import SftSettings

# What a run's rounds tell of, and on which held-out prompts.
_KEPT_BY_FORKS = ("model", "target.endpoint", "data.suites", "data.split", "data.suite_limit")


def begin(
    lakehouse: Lakehouse,
    config: RunConfig,
    run_id: str,
    fork: tuple[str, int] | None = None,
    first: Callable[[], None] = lambda: None,
) -> bool:
    """Make the run's row, or check that a run that is there was begun with the same settings; gives whether it was made here.

    What an older version of this package left out of the lakehouse is filled in before.

    Args:
        lakehouse: with its tables in place.
        config: the run's configuration.
        run_id: the run.
        fork: the run and the round that it goes on from.
        first: what a new run needs, its data; a run is not begun where this raises, so that its settings can be mended.

    Raises:
        ConfigError: the id is blank or can't be shown, or a gate's suite is not right. Or the run was begun with other settings
            that affect results, other suites, or no fork or another one; names them. Or the round to fork from is not there, or not whole, or was
            made with settings that a fork can't change.
    """
    if not run_id.strip() or not run_id.isprintable():
        raise ConfigError(f"a run's id is words that can be shown, got {run_id!r}")
    suites = suites_of(config.gates)  # told here, and not by the first step that has a gate
    keep_missing_origins(lakehouse)
    check_keys(lakehouse.spark, [config.target.endpoint, *(judge.endpoint for judge in config.judges)])
    row = _run(lakehouse, run_id)
    new = row is None
    if new:
        if fork:
            _check_fork(lakehouse, config, *fork)
        first()
        lakehouse.append_rows(
            "runs",
            [
                {
                    "run_id": run_id,
                    "config": canonical_json(config.effective),
                    "config_digest": config.digest,
                    "code_version": code_version(),
                    "parent_run_id": fork[0] if fork else None,
                    "parent_round": fork[1] if fork else None,
                    "created_at": now(),
                    "gate_suites": digests_of(suites),
                }
            ],
            once=digest(["begin", run_id]),
        )
        row = _run(lakehouse, run_id)  # of another driver, where that was first
    if row is not None:
        _check_same(row, config)
        if fork and (row["parent_run_id"], row["parent_round"]) != fork:
            whence = (
                f"from {row['parent_run_id']}@{row['parent_round']}"
                if row["parent_run_id"]
                else "from nothing"
            )
            raise ConfigError(
                f"run {run_id} is there and was forked {whence}, not from {fork[0]}@{fork[1]}: give the fork another --run-id"
            )
        check_suites(run_id, row["gate_suites"], suites)
    return new


def check_settings(lakehouse: Lakehouse, config: RunConfig, run_id: str) -> None:
    """Refuse a step of a run under other settings than it was begun with: a scheduler's task reads the configuration anew.

    Raises:
        ConfigError: they affect results and differ; names them.
    """
    if (row := _run(lakehouse, run_id)) is not None:
        _check_same(row, config)


def _check_same(row: Row, config: RunConfig) -> None:
    if row["config_digest"] != config.digest:
        changed = _differences(json.loads(row["config"]), config.effective)
        raise ConfigError(
            f"run {row['run_id']} was begun with other settings: {'; '.join(changed)}. Give this one another --run-id, or fork "
            f"that one: `{fork_command(row['run_id'])}`, with the same --config and --set"
        )


def _run(lakehouse: Lakehouse, run_id: str) -> Row | None:
    return lakehouse.read("runs").where(F.col("run_id") == run_id).head()


def _check_fork(lakehouse: Lakehouse, config: RunConfig, parent: str, round: int) -> None:
    """A fork's rounds are told beside its parent's, and train on from the checkpoints that were in force."""
    history = History(lakehouse, parent)
    if not history.is_done(round, steps_of(config, round)[-1].name):
        raise ConfigError(
            f"run {parent} has not ended its round {round}, so nothing can be forked from there; "
            "`mart status` shows how far it is"
        )
    (row,) = lakehouse.read("runs").where(F.col("run_id") == parent).collect()
    before = json.loads(row["config"])
    kept = [(name, _at(before, name), _at(config.effective, name)) for name in _KEPT_BY_FORKS]
    for role, own in (("adversary", config.adversary.settings), ("target", config.target.settings)):
        checkpoint = history.checkpoint(role, round, TRAINED_BY[role])
        if checkpoint is not None:
            kept.append((f"{role}.settings", _form(lakehouse, checkpoint), own.form))
    if changed := [line for name, old, new in kept for line in _differences(old, new, name)]:
        raise ConfigError(
            f"a fork of run {parent} can't change {'; '.join(changed)}: its rounds are told beside those of {parent} and train "
            "on from their checkpoints. Keep what was, or begin a run of its own, without --fork"
        )


def _at(settings: Mapping[str, Any], name: str) -> Any:
    part: Any = settings
    for key in name.split("."):
        part = part.get(key)
    return part


def _form(lakehouse: Lakehouse, checkpoint: str) -> dict[str, Any]:
    (row,) = lakehouse.read("checkpoints").where(F.col("checkpoint_id") == checkpoint).collect()
    return SftSettings.model_validate_json(row["settings"]).form


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[str] = []
        for key in sorted({*old, *new}):
            found += _differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
        return found
    return [] if old == new else [f"{where} was {json.dumps(old)[:80]}, is {json.dumps(new)[:80]}"]
