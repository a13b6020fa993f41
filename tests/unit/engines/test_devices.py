"""A worker sees the GPUs of its task, and gives their memory back."""

import os
from contextlib import closing

import pytest
from pyspark import TaskContext
from pyspark.resource import ResourceInformation

from pipelines.engines import factory, launch, transformers
from pipelines.engines.factory import open_generator, take_task_devices
from pipelines.engines.homes import on_device
from pipelines.engines.protocol import GeneratorSpec


class _Task:
    def __init__(self, **addresses: list[str]) -> None:
        self._given = {name: ResourceInformation(name, value) for name, value in addresses.items()}

    def resources(self) -> dict[str, ResourceInformation]:
        return self._given


@pytest.mark.parametrize(("task", "seen"), [(_Task(gpu=["2", "3"]), "2,3"), (_Task(), "0"), (None, "0")])
def test_a_worker_sees_the_gpus_that_spark_gave_its_task(
    monkeypatch: pytest.MonkeyPatch, task: _Task | None, seen: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(TaskContext, "get", lambda: task)
    take_task_devices()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen


@pytest.mark.parametrize(
    ("gpu", "expected"), [(False, ["opened"]), (True, ["opened", "closed", "opened", "closed"])]
)
def test_the_next_task_finds_a_model_that_generates_on_a_cpu_and_the_memory_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, expected: list[str]
) -> None:
    calls: list[str] = []

    class Model:
        generate = None

        def __init__(self, *_: object) -> None:
            calls.append("opened")

        def close(self) -> None:
            calls.append("closed")

    monkeypatch.setattr(transformers, "TransformersGenerator", Model)
    monkeypatch.setattr(launch, "has_gpu", lambda: gpu)
    monkeypatch.setattr(factory, "_open_models", {})
    for _ in range(2):
        with closing(open_generator(GeneratorSpec("transformers", "m", "0"))):
            pass
    assert calls == expected


@pytest.mark.parametrize(
    ("mine", "engines", "shared"),
    [("", "0", True), ("0", "", True), ("0,1", "1", True), ("0", "1", False), ("0", "0", True)],
)
def test_a_process_without_named_devices_has_all_of_the_host(
    monkeypatch: pytest.MonkeyPatch, mine: str, engines: str, shared: bool
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mine)
    assert on_device(engines) == shared
