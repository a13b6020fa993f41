"""The `mart` command.

Exit codes: 0 success; 2 wrong usage, configuration or data; 3 a gate refused a batch; 4 an engine or a training
failed; 5 what is stored does not prove; 6 the run is held by another driver; 130 it was stopped; 1 anything else.
"""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from pipelines.errors import MartError
from pipelines.shown import printable_lines

log = logging.getLogger("mart")
_ON_DATABRICKS = "DATABRICKS_RUNTIME_VERSION"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="mart", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--verbose", action="store_true", help="log more, with tracebacks")
    doors = top.add_subparsers(dest="door", required=True, metavar="COMMAND")

    where = argparse.ArgumentParser(add_help=False)
    where.add_argument(
        "--lakehouse",
        type=Path,
        default=None,
        help="local folder of tables and artifacts (default: lakehouse)",
    )
    where.add_argument("--schema", default=None, help="catalog.schema of a platform, instead of --lakehouse")
    where.add_argument("--artifacts", type=Path, default=None, help="artifact root; goes with --schema")

    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument(
        "--config", default="sandbox", help="YAML file, or the name of one in conf/ (default: sandbox)"
    )
    settings.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="replace a setting"
    )

    run = doors.add_parser(
        "run", parents=[where, settings], help="run all rounds, or go on where a run was ended"
    )
    run.add_argument(
        "--run-id", default=None, help="name of the run (default: the configuration's name and seed)"
    )
    run.add_argument("--rounds", type=int, default=None, help="rounds after the warm start")
    run.add_argument(
        "--fork",
        default=None,
        metavar="RUN@ROUND",
        help="begin a new run, --run-id, after that round of another",
    )

    step = doors.add_parser(
        "step", parents=[where, settings], help="run one step of one round, as a scheduler does"
    )
    step.add_argument("name", help="step, or begin or end; `mart describe` lists them")
    step.add_argument("--run-id", required=True)
    step.add_argument("--round", default="next", help="number of the round, or next")
    step.add_argument(
        "--holder",
        default=None,
        help="the scheduler's own name of this run, which holds the lease from begin to end",
    )
    step.add_argument("--fork", default=None, metavar="RUN@ROUND", help="with begin: fork that run")

    judge = doors.add_parser(
        "judge",
        parents=[where, settings],
        help="have further judges read what a run answered; nothing is generated",
    )
    judge.add_argument("run_id")
    judge.add_argument(
        "--judge",
        action="append",
        default=[],
        metavar="NAME",
        help="a judge of the configuration; again for another (default: all of them)",
    )
    judge.add_argument(
        "--rounds", type=int, default=None, help="rounds after the warm start (default: all that have ended)"
    )

    describe = doors.add_parser("describe", parents=[settings], help="print the rounds as they will run")
    describe.add_argument("--format", choices=("text", "json"), default="text")

    data = doors.add_parser("data", help="bring data in").add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    load = data.add_parser("import", parents=[where], help="import a file or table")
    load.add_argument("source", help="JSONL, CSV or Parquet file, or a table")
    load.add_argument(
        "--kind", required=True, choices=("seeds", "benign", "pairs", "labels", "instructions", "suite")
    )
    load.add_argument("--dataset", required=True, help="name the data set gets")
    load.add_argument(
        "--field", action="append", default=[], metavar="OURS=THEIRS", help="which of their fields is ours"
    )
    load.add_argument(
        "--value", action="append", default=[], metavar="OURS=VALUE", help="the same value for every row"
    )
    load.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="THEIRS=VALUE",
        help="take only rows with that value; again for another value",
    )
    load.add_argument("--licence", default="unknown")

    sql = doors.add_parser(
        "sql", parents=[where], help="ask in SQL; tables and views go by their plain names"
    )
    sql.add_argument("query")
    sql.add_argument("--format", choices=("table", "json", "csv"), default="table")

    lineage = doors.add_parser(
        "lineage", parents=[where], help="what made a checkpoint, or what a source went into"
    )
    lineage.add_argument("checkpoint", nargs="?")
    lineage.add_argument("--source", default=None, help="a text digest or a data set")

    status = doors.add_parser("status", parents=[where], help="runs, their rounds and who drives them")
    status.add_argument("--run-id", default=None)

    summary = doors.add_parser("summary", parents=[where], help="the figures of a run, round by round")
    summary.add_argument("run_id")

    effect = doors.add_parser(
        "effect", parents=[where], help="what a method did, pooled over runs with different seeds"
    )
    effect.add_argument("runs", nargs="+", metavar="RUN")
    effect.add_argument("--judge", default="truth", help="evaluation judge that labels")
    effect.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="NAME=RUN,RUN",
        help="compare with other runs, same prompts",
    )
    effect.add_argument("--format", choices=("table", "json"), default="table")

    verify = doors.add_parser("verify", parents=[where], help="recompute ids, totals and digests of a run")
    verify.add_argument("run_id")

    override = doors.add_parser("override", parents=[where], help="let a blocked batch pass, by name")
    override.add_argument("run_id")
    override.add_argument("--round", type=int, required=True)
    override.add_argument("--gate", required=True)
    override.add_argument("--check", required=True)
    override.add_argument("--by", required=True, help="who decides")
    override.add_argument("--reason", required=True)

    export = doors.add_parser(
        "export", parents=[where], help="a checkpoint as a plain Hugging Face directory"
    )
    export.add_argument("checkpoint")
    export.add_argument("--merged", type=Path, required=True, metavar="DIR")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = parser().parse_args(argv)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for noisy in ("py4j", "httpx", "great_expectations", "numexpr", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from jobs import doors

        doors.open_door(options)
    except MartError as error:
        if options.verbose:
            log.exception("traceback")
        print(f"mart: {printable_lines(str(error))}", file=sys.stderr)
        if _ON_DATABRICKS in os.environ:
            raise  # a wheel task there looks at no exit code: only an exception fails it
        return error.exit_code
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("mart: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception:  # nothing that we foresaw; its text may quote what rows hold, too
        if _ON_DATABRICKS in os.environ:
            raise
        print(printable_lines(traceback.format_exc().rstrip("\n")), file=sys.stderr)
        return 1
    return 0


class _Printable(logging.Formatter):
    """Lines of a log that can't drive a terminal, whatever text they quote."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


if __name__ == "__main__":
    sys.exit(main())
