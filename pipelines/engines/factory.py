"""Opens what a spec names, in the process that asks.

On a CPU a model that the process computes itself stays for the next task of the same Spark worker. On a GPU it goes at the
task's end, since an idle worker lives for another minute, in which a training may need the memory.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipelines.engines.protocol import Adapter, Generator, GeneratorSpec, Scorer, ScorerSpec
from pipelines.engines.scripted import ScriptedGenerator
from pipelines.errors import ConfigError
from schemas.digests import digest

_open_models: dict[tuple[int, str], Generator] = {}


def open_generator(spec: GeneratorSpec, adapters: Sequence[Adapter] = ()) -> Generator:
    """A generator for a spec; close it when done.

    A `transformers` one holds its model in this process: on a CPU the same spec and adapters give the same object until it
    is closed with `close_generators`. A `vllm` client is cheap and new each time; its engine is the host's.

    Raises:
        ConfigError: the backend is unknown, or its model can't be loaded.
    """
    take_task_devices()
    match spec.backend:
        case "scripted":
            return ScriptedGenerator(spec)
        case "vllm":
            from pipelines.engines.vllm import VllmGenerator

            return VllmGenerator(spec, adapters)
        case "openai":
            from pipelines.engines.openai_http import OpenAIGenerator

            return OpenAIGenerator(spec)
        case "transformers":
            return _transformers(spec, adapters)
    raise ConfigError(
        f"engine backend {spec.backend!r} is unknown; use vllm, transformers, openai or scripted"
    )


def take_task_devices() -> None:
    """Let this Spark worker, and the engine that it finds or starts, see only the GPUs that Spark gave its task.

    Without such resources, or outside a task, whatever `CUDA_VISIBLE_DEVICES` says stays.
    """
    from pyspark import TaskContext

    context = TaskContext.get()
    given = context.resources().get("gpu") if context else None
    if given is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(given.addresses)


class _Shared:
    """A generator whose owner is this process: closing the handle keeps the model on a CPU."""

    def __init__(self, generator: Generator) -> None:
        self.generate = generator.generate

    def close(self) -> None:
        """Keep the model for the next one who opens it; on a GPU, free it."""
        from pipelines.engines.launch import has_gpu

        if has_gpu():
            close_generators()


def _transformers(spec: GeneratorSpec, adapters: Sequence[Adapter]) -> Generator:
    from pipelines.engines.homes import spec_digest
    from pipelines.engines.transformers import TransformersGenerator

    key = (os.getpid(), digest([spec_digest(spec), sorted([item.name, item.path] for item in adapters)]))
    if key not in _open_models:
        close_generators()  # one model at a time is what a host has memory for
        _open_models[key] = TransformersGenerator(spec, adapters)
    return _Shared(_open_models[key])


def close_generators() -> None:
    """Free the models that this process holds for generation."""
    for generator in _open_models.values():
        generator.close()
    _open_models.clear()


@contextmanager
def open_scorer(spec: ScorerSpec) -> Iterator[Scorer]:
    """A scorer for a spec, for one task.

    Raises:
        ConfigError: the kind is unknown, or the model or function can't be loaded.
    """
    from pipelines.engines import scorers

    take_task_devices()
    try:
        yield scorers.open_scorer(spec)
    finally:
        scorers.free_device()
