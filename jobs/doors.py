"""What each `mart` command does: open the place, call the pipeline, print."""

import argparse
import json
import logging
import sys
from collections.abc import Callable

from jobs.flags import choices, config_path, fork_point, pairs
from jobs.place import Place, open_place
from pipelines.config import ImportConfig, RunConfig, load_config
from pipelines.errors import ConfigError
from pipelines.shown import printable

log = logging.getLogger("mart")


def open_door(options: argparse.Namespace) -> None:
    """Run the command that the options name."""
    doors: dict[str, Callable[[argparse.Namespace], None]] = {
        "run": _run,
        "step": _step,
        "judge": _judge,
        "describe": _describe,
        "data": _import,
        "sql": _sql,
        "lineage": _lineage,
        "status": _status,
        "summary": _summary,
        "effect": _effect,
        "verify": _verify,
        "override": _override,
        "export": _export,
    }
    doors[options.door](options)


def _config(options: argparse.Namespace) -> RunConfig:
    overrides = list(options.overrides)
    if getattr(options, "rounds", None) is not None:
        overrides.append(f"rounds={options.rounds}")
    return load_config(config_path(options.config), overrides)


def _run(options: argparse.Namespace) -> None:
    from jobs.main_job import run_all
    from pipelines.gates.expectations import import_ahead

    config = _config(options)
    fork = fork_point(options.fork)
    if fork and not options.run_id:
        raise ConfigError("--fork needs a --run-id for the new run")
    run_id = options.run_id or f"{config.name}-{config.seed}"
    import_ahead()
    with open_place(options, create=True) as place:
        run_all(place, config, run_id, fork)


def _step(options: argparse.Namespace) -> None:
    from jobs.main_job import run_one
    from pipelines.gates.expectations import import_ahead
    from pipelines.plan import ALL

    if options.name == "begin" or (options.name in ALL and ALL[options.name].gates):
        import_ahead()
    with open_place(options, create=options.name == "begin") as place:
        run_one(place, _config(options), options)


def _judge(options: argparse.Namespace) -> None:
    from jobs.main_job import run_judges

    config = load_config(config_path(options.config), options.overrides)
    with open_place(options) as place:
        run_judges(place, config, options.run_id, options.judge, options.rounds)


def _describe(options: argparse.Namespace) -> None:
    from jobs.describe import describe

    print(describe(_config(options), options.format))


def _import(options: argparse.Namespace) -> None:
    from pipelines.imports import import_source

    item = ImportConfig(
        path=options.source,
        kind=options.kind,
        dataset=options.dataset,
        fields=pairs(options.field, "--field"),
        values=pairs(options.value, "--value"),
        where=choices(options.where, "--where"),
        licence=options.licence,
    )
    with open_place(options, create=True) as place:
        totals = import_source(place.lakehouse, item)
    print(
        f"{options.source}: {totals.rows_in} rows in, {totals.new} new, {totals.repeated} repeated, "
        f"{totals.refused} refused"
        + (
            f"; reasons: mart sql \"SELECT * FROM import_refusals WHERE import_id = '{totals.import_id}'\""
            if totals.refused
            else ""
        )
    )


def _sql(options: argparse.Namespace) -> None:
    from jobs.show import show_query

    with open_place(options, everything=True) as place:
        show_query(place.lakehouse.spark, options.query, options.format, sys.stdout)


def _lineage(options: argparse.Namespace) -> None:
    from pipelines.lineage import CLOSURE_VIEWS, SOURCE_VIEWS, closure, source_closure

    if bool(options.checkpoint) == bool(options.source):
        raise ConfigError("name either a checkpoint or a --source")
    with open_place(options, views=CLOSURE_VIEWS if options.checkpoint else SOURCE_VIEWS) as place:
        if options.checkpoint:
            print(closure(place.lakehouse, options.checkpoint).render())
        else:
            print(source_closure(place.lakehouse, options.source).render())


def _status(options: argparse.Namespace) -> None:
    from jobs.show import show_status

    with open_place(options) as place:
        show_status(place.lakehouse, options.run_id)


def _summary(options: argparse.Namespace) -> None:
    from jobs.summary import summary

    with open_place(options) as place:
        print(summary(place.lakehouse, options.run_id))


def _effect(options: argparse.Namespace) -> None:
    from jobs.effect import print_effect
    from pipelines.effect import VIEWS

    with open_place(options, views=VIEWS) as place:
        print_effect(place, options)


def _verify(options: argparse.Namespace) -> None:
    from pipelines.errors import IntegrityError
    from pipelines.verify import verify_run
    from schemas.tables import BY_NAME

    with open_place(options, asks_models=False) as place:
        place.lakehouse.ready(*BY_NAME)  # it reads most: several at a time
        findings = verify_run(place.lakehouse, place.artifacts, options.run_id)
    for line in findings.checked:
        print(printable(line))
    if findings.differences:
        raise IntegrityError("\n".join(findings.differences))
    print(f"run {options.run_id} holds: {len(findings.checked)} things checked, no difference")


def _override(options: argparse.Namespace) -> None:
    with open_place(options) as place:
        row = {
            "run_id": options.run_id,
            "round": options.round,
            "gate": options.gate,
            "check_name": options.check,
            "approved_by": options.by,
            "reason": options.reason,
        }
        _must_have_failed(place, row)
        place.lakehouse.append_rows("gate_overrides", [row])
    print(f"recorded: {options.by} lets {options.check} of gate {options.gate} pass in round {options.round}")


def _must_have_failed(place: Place, row: dict[str, object]) -> None:
    from pyspark.sql import functions as F

    failed = place.lakehouse.read("quality_results").where(~F.col("success"))
    for name in ("run_id", "round", "gate", "check_name"):
        failed = failed.where(F.col(name) == F.lit(row[name]))
    if failed.isEmpty():
        raise ConfigError(
            f"check {row['check_name']} of gate {row['gate']} did not fail in round {row['round']} of {row['run_id']}: "
            "there is nothing to override"
        )


def _export(options: argparse.Namespace) -> None:
    from jobs.export import export_merged

    with open_place(options) as place:
        print(json.dumps(export_merged(place, options.checkpoint, options.merged)))
