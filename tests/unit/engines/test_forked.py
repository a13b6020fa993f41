"""The processes of a CPU's server are forked, and only those of the servers started here."""

from pipelines.engines.forked import FORKED
from pipelines.engines.launch import engine_environment, server_environment
from pipelines.engines.protocol import GeneratorSpec
from tests.unit.engines import in_vllm

# The platform's own part needs a whole configuration.
_SETUP = """
from vllm.platforms.cpu import CpuPlatform
from vllm.utils.system_utils import get_mp_context
CpuPlatform.check_and_update_config = classmethod(lambda cls, config: os.environ.update(VLLM_WORKER_MULTIPROC_METHOD="spawn"))
def said():
    CpuPlatform.check_and_update_config(None)
    return get_mp_context().get_start_method()
"""


def test_vllm_takes_it_up_only_in_the_servers_started_here() -> None:
    assert in_vllm.said(_SETUP, FORKED, ["1", ""]) == ["fork", "spawn"]


def test_a_server_that_forks_has_its_threads_set_before_it_imports_torch_and_no_other_is_asked_to() -> None:
    forks = GeneratorSpec("vllm", "m", "d", threads=1, options={"fork": True})
    settings, _ = server_environment(forks)
    assert (settings[FORKED], settings["OMP_NUM_THREADS"]) == ("1", "1")
    assert FORKED not in engine_environment(forks)[0]
    assert FORKED not in server_environment(GeneratorSpec("vllm", "m", "d"))[0]
