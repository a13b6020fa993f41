"""The errors a user can meet, each with the exit code that `mart` ends with."""


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
