"""How a command ends: one sentence, which can't drive a terminal, and its exit code."""

import logging

import pytest

from jobs import cli, doors
from pipelines.errors import DataError

HOSTILE = "the value '\x1b]0;title\x07\r' is none\nwrite another"


def ended(monkeypatch: pytest.MonkeyPatch, error: Exception) -> int:
    def fail(_: object) -> None:
        raise error

    monkeypatch.delenv("DATABRICKS_RUNTIME_VERSION", raising=False)
    monkeypatch.setattr(doors, "open_door", fail)
    return cli.main(["describe"])


def test_the_lines_of_an_error_are_printed_and_what_they_quote_drives_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, DataError(HOSTILE)) == 2
    assert capsys.readouterr().err == "mart: the value '\\x1b]0;title\\x07\\r' is none\nwrite another\n"


def test_an_error_that_nobody_foresaw_ends_with_1_and_drives_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, RuntimeError(HOSTILE)) == 1
    told = capsys.readouterr().err
    assert (
        told.startswith("Traceback") and "RuntimeError: the value '\\x1b]0;title\\x07\\r' is none\n" in told
    )


def test_a_line_of_the_log_drives_no_terminal() -> None:
    record = logging.LogRecord("mart", logging.INFO, "", 0, "read %s", (HOSTILE,), None)
    assert "\x1b" not in cli._Printable("%(message)s").format(record)
