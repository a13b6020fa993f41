"""How a run begins: its row, and the proof that one that is there was begun with the same settings."""

import json
from collections.abc import Mapping
from typing import Any

from pyspark.sql import Row
from pyspark.sql import functions as F

from pipelines.config import RunConfig
from pipelines.errors import ConfigError
from pipelines.gates.keeper import suites_of
from pipelines.history import History, now
from pipelines.hosted import check_keys
from pipelines.lakehouse import Lakehouse
from pipelines.origins import keep_missing_origins
from pipelines.plan import steps_of
from pipelines.version import code_version
from schemas.digests import canonical_json, digest


def begin(lakehouse: Lakehouse, config: RunConfig, run_id: str, fork: tuple[str, int] | None = None) -> None:
    """Make the run's row, or check that a run that is there was begun with the same settings.

    What an older version of this package left out of the lakehouse is filled in first.

    Raises:
        ConfigError: the id is blank or can't be shown, or a gate's suite is not right. Or the run was begun with other settings
            that affect results; names them. Or the round to fork from is not there, or not whole.
    """
    if not run_id.strip() or not run_id.isprintable():
        raise ConfigError(f"a run's id is words that can be shown, got {run_id!r}")
    suites_of(config.gates)  # told here, and not by the first step that has a gate
    keep_missing_origins(lakehouse)
    check_keys(lakehouse.spark, [config.target.endpoint, *(judge.endpoint for judge in config.judges)])
    row = _run(lakehouse, run_id)
    if row is None:
        if fork and not History(lakehouse, fork[0]).is_done(fork[1], steps_of(config, fork[1])[-1].name):
            raise ConfigError(
                f"run {fork[0]} has not ended its round {fork[1]}, so nothing can be forked from there; "
                "`mart status` shows how far it is"
            )
        if fork:
            parent = _run(lakehouse, fork[0])
            before = json.loads(parent["config"]) if parent else {}
            _check_same_target(config, fork[0], before)
            _check_same_methods(config, fork[0], before)
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
                }
            ],
            once=digest(["begin", run_id]),
        )
        row = _run(lakehouse, run_id)  # of another driver, where that was first
    if row is not None and row["config_digest"] != config.digest:
        changed = _differences(json.loads(row["config"]), config.effective)
        raise ConfigError(
            f"run {run_id} was begun with other settings: {'; '.join(changed)}. Give it another --run-id, or fork it: "
            f"mart run --fork {run_id}@ROUND --set …"
        )


def _run(lakehouse: Lakehouse, run_id: str) -> Row | None:
    return lakehouse.read("runs").where(F.col("run_id") == run_id).head()


def _check_same_target(config: RunConfig, parent: str, before: Mapping[str, Any]) -> None:
    """A fork's rounds are told beside its parent's: both must be of one target, here or hosted."""
    if before["target"].get("endpoint") != config.effective["target"].get("endpoint"):
        raise ConfigError(
            f"run {parent} has another target.endpoint, so that its rounds tell nothing of this target; begin a run of its own"
        )


def _check_same_methods(config: RunConfig, parent: str, before: Mapping[str, Any]) -> None:
    """A fork trains on from its parent's checkpoints, which are adapters or whole models."""
    for name, role in (("adversary", config.adversary), ("target", config.target)):
        method = before[name]["settings"]["method"]
        if method != role.settings.method:
            raise ConfigError(
                f"{name}.settings.method is {role.settings.method}, but run {parent} trained it with {method}, and a fork "
                "goes on from its checkpoints: choose that method, or begin a run of its own"
            )


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[str] = []
        for key in sorted({*old, *new}):
            found += _differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
        return found
    return [] if old == new else [f"{where} was {json.dumps(old)[:80]}, is {json.dumps(new)[:80]}"]
