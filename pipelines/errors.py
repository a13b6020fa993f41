"""The errors a user can meet, each with the exit code that `mart` ends with."""

import re


class MartError(Exception):
    """Root of every error this project raises on purpose; its message says what is wrong and what to do."""

    exit_code = 1


class ConfigError(MartError):
    """The command line, the configuration or an input file can't be used as it is."""

    exit_code = 2


class DataError(ConfigError):
    """An input row, file or table does not have the promised form."""


class SchemaError(ConfigError):
    """A table lacks or alters something that `schemas/` promises."""


class GateBlocked(MartError):
    """A quality gate refused a batch; nothing was published for training."""

    exit_code = 3


class EngineError(MartError):
    """An engine died, hung, or refuses every request: worth another try, no row's own fault."""

    exit_code = 4


class SparkDied(MartError):
    """The JVM of Spark's driver ended by itself: worth another try, with more memory if it had too little."""

    exit_code = 4


class TrainingFailed(MartError):
    """A training job ended without a checkpoint that proves right."""

    exit_code = 4


class IntegrityError(MartError):
    """What is stored differs from what its recorded digests say."""

    exit_code = 5


class RunHeld(MartError):
    """Another driver holds the run's lease."""

    exit_code = 6


_TRACEBACK = "Traceback (most recent call last):\n"
# The frames of a traceback, which are indented, and the exception below them, to the first blank line or line of Java.
_RAISED = re.compile(
    rf"{re.escape(_TRACEBACK)}(?:[ \t][^\n]*\n)*([^\s:]+):?(.*?)(?=\n\s*\n|\n\tat |\Z)", re.DOTALL
)
_AND_THEN = re.compile(
    r"\n\n(?:During handling of the above exception, another exception occurred"
    rf"|The above exception was the direct cause of the following exception):\n\n(?={re.escape(_TRACEBACK)})"
)


def raised_in_task(error: BaseException) -> MartError | None:
    """The error of ours that a Spark task died of, out of the traceback that Spark hands on as text; None if it is none.

    Only the exception below a traceback's frames counts, and none that its message quotes.
    """
    told = _told_by_python(error)
    at = told.find(_TRACEBACK)
    while at >= 0 and (found := _RAISED.match(told, at)):
        module, _, name = found[1].rpartition(".")
        kind = globals().get(name) if module == __name__ else None
        if isinstance(kind, type) and issubclass(kind, MartError):
            return kind(found[2].strip())
        then = _AND_THEN.search(told, found.end())
        at = then.end() if then else -1
    return None


def _told_by_python(error: BaseException) -> str:
    """What Python said in the task. Where Java's exceptions are at hand, it is looked for there: Java's own quote what rows hold."""
    java = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
    if java is None:
        return str(error)
    while java is not None:
        if java.getClass().getName() == "org.apache.spark.api.python.PythonException":
            return str(java.getMessage())
        java = java.getCause()
    return ""
