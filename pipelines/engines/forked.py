"""A vLLM plugin: on the CPU, a server's processes are forked from it, in place of being started afresh.

vLLM's CPU platform has EngineCore and its worker spawned: each is a new interpreter that imports torch, transformers
and vLLM once more, so that a start takes twice as long on two cores. What they are forked from has imported all of that and
computed nothing yet. OpenMP reads its variables when torch is imported, which is before the fork: `launch` says how many
threads there are, and no thread is bound to a core.

Loaded in every vLLM process by the entry point `vllm.general_plugins`, and inert unless `FORKED` is set, which
`launch` does for the servers it starts.
"""

import os
from multiprocessing import resource_tracker
from typing import Any

FORKED = "MART_FORKED"
# What vLLM reads when it makes a process; its platform sets it for each configuration.
_METHOD = "VLLM_WORKER_MULTIPROC_METHOD"


def register() -> None:
    """Have vLLM's CPU platform leave processes to be forked, where the environment asks for it."""
    if not os.environ.get(FORKED):
        return
    from vllm.platforms.cpu import CpuPlatform

    # The tracker of shared memory is begun here: the server's end kills all that EngineCore has begun.
    resource_tracker.ensure_running()
    as_it_was = CpuPlatform.check_and_update_config  # bound to its class

    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        as_it_was(vllm_config)
        os.environ[_METHOD] = "fork"

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)  # type: ignore[method-assign, assignment]
