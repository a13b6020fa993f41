"""What can end a training job, each with the exit code of its command."""


class TrainingError(Exception):
    """Root of every error of a training job; the message says what is wrong and what to do."""

    exit_code = 4


class JobError(TrainingError):
    """The manifest or its settings can't be used as they are."""

    exit_code = 2


class ProofError(TrainingError):
    """A snapshot, base, parent or checkpoint differs from what its digests say."""

    exit_code = 3


class DivergedError(TrainingError):
    """The loss or the gradient stopped being finite."""


class BusyError(TrainingError):
    """Another process on this host is training the same checkpoint."""
