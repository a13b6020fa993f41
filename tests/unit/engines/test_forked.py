"""The processes of a CPU's server are forked where its spec says so."""

from pipelines.engines.forked import FORKED
from pipelines.engines.launch import engine_environment, server_environment
from pipelines.engines.protocol import GeneratorSpec


def test_a_server_that_forks_has_its_threads_set_before_it_imports_torch_and_no_other_is_asked_to() -> None:
    forks = GeneratorSpec("vllm", "m", "d", threads=1, options={"fork": True})
    settings, _ = server_environment(forks)
    assert (settings[FORKED], settings["OMP_NUM_THREADS"]) == ("1", "1")
    assert FORKED not in engine_environment(forks)[0]
    assert FORKED not in server_environment(GeneratorSpec("vllm", "m", "d"))[0]
