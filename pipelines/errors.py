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


_IN_A_TASK = re.compile(
    rf"^{re.escape(__name__)}\.(\w+): (.*?)(?=\n\s*\n|\n\tat |\Z)", re.MULTILINE | re.DOTALL
)


def raised_in_task(error: BaseException) -> MartError | None:
    """The error of ours that a Spark task died of, out of the traceback that Spark hands on as text; None if it is none."""
    found = _IN_A_TASK.findall(str(error))
    if not found:
        return None
    name, message = found[-1]
    kind = globals().get(name)
    return kind(message.strip()) if isinstance(kind, type) and issubclass(kind, MartError) else None
