"""The processes of a CPU's server are forked, and only those of the servers started here."""

import subprocess
import sys

import pytest

from pipelines.engines.forked import FORKED
from pipelines.engines.launch import engine_environment, server_environment
from pipelines.engines.protocol import GeneratorSpec

# The platform's own part needs a whole configuration.
_CODE = """
import os, sys
from vllm.platforms.cpu import CpuPlatform
from vllm.plugins import load_general_plugins
from vllm.utils.system_utils import get_mp_context
CpuPlatform.check_and_update_config = classmethod(lambda cls, config: os.environ.update(VLLM_WORKER_MULTIPROC_METHOD="spawn"))
for asked in sys.argv[2:]:
    if not os.fork():
        os.environ[sys.argv[1]] = asked
        load_general_plugins()
        CpuPlatform.check_and_update_config(None)
        print(get_mp_context().get_start_method(), flush=True)
        os._exit(0)
    os.wait()
"""


def test_vllm_takes_it_up_only_in_the_servers_started_here() -> None:
    pytest.importorskip("vllm")
    words = [sys.executable, "-c", _CODE, FORKED, "1", ""]
    said = subprocess.run(words, env={"PATH": ""}, capture_output=True, text=True)
    assert said.stdout.split()[-2:] == ["fork", "spawn"], said.stderr


def test_a_server_that_forks_has_its_threads_set_before_it_imports_torch_and_no_other_is_asked_to() -> None:
    forks = GeneratorSpec("vllm", "m", "d", threads=1, options={"fork": True})
    settings, _ = server_environment(forks)
    assert (settings[FORKED], settings["OMP_NUM_THREADS"]) == ("1", "1")
    assert FORKED not in engine_environment(forks)[0]
    assert FORKED not in server_environment(GeneratorSpec("vllm", "m", "d"))[0]
