"""Errors out of Spark's tasks, which arrive as text."""

from pipelines.errors import EngineError, raised_in_task

_TOLD = """Job aborted due to stage failure: Task 0 in stage 9.0 failed 4 times, most recent failure:
org.apache.spark.api.python.PythonException: Traceback (most recent call last):
  File "/x/worker.py", line 7, in main
pipelines.errors.EngineError: the endpoint refuses us: HTTP 401
with a body

\tat org.apache.spark.api.python.BasePythonRunner
"""


def test_an_error_of_ours_is_found_with_its_whole_message() -> None:
    found = raised_in_task(RuntimeError(_TOLD))
    assert isinstance(found, EngineError)
    assert str(found) == "the endpoint refuses us: HTTP 401\nwith a body"


def test_other_errors_are_none_of_ours() -> None:
    assert raised_in_task(RuntimeError("pipelines.errors.re: x")) is None
    assert raised_in_task(RuntimeError("ValueError: x")) is None


_HEAD = "Traceback (most recent call last):\n"


def test_an_error_that_another_only_quotes_is_not_believed() -> None:
    told = _HEAD + '  File "/x", line 1, in f\nValueError: no number: x\npipelines.errors.GateBlocked: y\n'
    assert raised_in_task(RuntimeError(told)) is None


def test_an_error_of_ours_is_believed_over_one_that_it_quotes() -> None:
    told = (
        _HEAD
        + '  File "/x", line 1, in f\npipelines.errors.EngineError: HTTP 500\npipelines.errors.GateBlocked: y\n'
    )
    assert isinstance(raised_in_task(RuntimeError(told)), EngineError)


def test_an_error_of_ours_that_followed_on_another_is_found() -> None:
    told = (
        f"{_HEAD}  File \"/x\", line 1, in f\nx.f.<locals>.Odd: 'k'\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        f'{_HEAD}  File "/x", line 2, in f\npipelines.errors.EngineError: it died\n'
    )
    assert str(raised_in_task(RuntimeError(told))) == "it died"


class _Java:
    """An exception of Java's, as py4j has it."""

    def __init__(self, name: str, message: str, cause: "_Java | None" = None) -> None:
        self._name, self._message, self._cause = name, message, cause

    def getClass(self) -> "_Java":
        return self

    def getName(self) -> str:
        return self._name

    def getMessage(self) -> str:
        return self._message

    def getCause(self) -> "_Java | None":
        return self._cause


def _of_java(java: _Java) -> RuntimeError:
    error = RuntimeError(_TOLD)
    error.java_exception = java  # type: ignore[attr-defined]
    return error


def test_a_traceback_that_java_only_quotes_is_not_believed() -> None:
    quoting = _Java("org.apache.spark.SparkNumberFormatException", _TOLD)
    assert raised_in_task(_of_java(_Java("org.apache.spark.SparkException", "aborted", quoting))) is None


def test_a_traceback_is_found_below_what_java_wrapped_it_in() -> None:
    python = _Java("org.apache.spark.api.python.PythonException", _TOLD)
    assert isinstance(
        raised_in_task(_of_java(_Java("org.apache.spark.SparkException", "aborted", python))), EngineError
    )
