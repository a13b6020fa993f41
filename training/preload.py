"""Trainers made ready ahead: `python -m training.preload` imports once what every training needs, and forks for each.

The imports take some twenty seconds, longer than a small job trains. Jobs come as lines of JSON on the standard input,
`{"kind": "sft" | "reward", "manifest": PATH}`; the answer to each is a line with its trainer's exit code, negative for
a signal. A trainer is a process of its own, as under `python -m training.sft`, and ends with this one.
"""

import json
import os
import sys
import traceback
from typing import IO

# transformers imports scikit-learn where it is, for a metric that nobody here asks for: four of seventeen seconds.
sys.modules["sklearn"] = None  # type: ignore[assignment]

from training import reward, sft  # noqa: E402
from training.command import main as command  # noqa: E402
from training.runtime import end_with_parent  # noqa: E402

del sys.modules["sklearn"]

_TRAIN = {"reward": reward.train, "sft": sft.train}


def _trainer(kind: str, manifest: str, parent: int) -> int:
    """The life of a forked trainer; gives its exit code."""
    os.environ["MART_PARENT"] = str(parent)
    try:
        return command(kind, _TRAIN[kind], ["--manifest", manifest])  # type: ignore[arg-type]
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 4
    except BaseException:  # noqa: BLE001 - what is not caught here would go on as a second reader of the jobs
        traceback.print_exc()
        return 4


def serve(jobs: IO[str], answers: IO[str]) -> None:
    """Fork a trainer for each job and answer with its exit code, until the jobs end."""
    for line in jobs:
        job = json.loads(line)
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            code = _trainer(job["kind"], job["manifest"], parent)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()


if __name__ == "__main__":
    end_with_parent()
    if os.environ.get("MLFLOW_TRACKING_URI"):
        import mlflow.tracking  # noqa: F401
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a trainer prints is for people
    serve(sys.stdin, channel)
