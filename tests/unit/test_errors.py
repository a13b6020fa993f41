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
