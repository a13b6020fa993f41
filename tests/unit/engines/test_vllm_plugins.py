"""vLLM takes up our plugins in the servers started here, and in no other."""

import subprocess
import sys

import pytest

from pipelines.engines.forked import FORKED
from pipelines.engines.grouped_lora import GROUPED_LORA

# vLLM is imported once; each child is then what a server is that starts with these variables.
_CODE = """
import os, sys
from vllm.platforms.cpu import CpuPlatform
from vllm.plugins import load_general_plugins
from vllm.utils.system_utils import get_mp_context
# The platform's own part needs a whole configuration.
CpuPlatform.check_and_update_config = classmethod(lambda cls, config: os.environ.update(VLLM_WORKER_MULTIPROC_METHOD="spawn"))
for variables in sys.argv[1:]:
    if not os.fork():
        os.environ.update(pair.split("=") for pair in variables.split())
        load_general_plugins()
        CpuPlatform.check_and_update_config(None)
        print(get_mp_context().get_start_method(), CpuPlatform.get_punica_wrapper().rpartition(".")[2], flush=True)
        os._exit(0)
    os.wait()
"""


def test_vllm_takes_each_up_only_in_the_servers_started_here() -> None:
    pytest.importorskip("vllm")
    said = {
        f"{FORKED}= {GROUPED_LORA}=": "spawn PunicaWrapperCPU",
        f"{FORKED}=1 {GROUPED_LORA}=": "fork PunicaWrapperCPU",
        f"{FORKED}= {GROUPED_LORA}=all": "spawn GroupedLora",
        f"{FORKED}= {GROUPED_LORA}=logits": "spawn GroupedLogits",
    }
    ended = subprocess.run(
        [sys.executable, "-c", _CODE, *said], env={"PATH": ""}, capture_output=True, text=True
    )
    assert ended.stdout.splitlines()[-len(said) :] == list(said.values()), ended.stderr
