"""A worker sees the GPUs of its task."""

import os

import pytest
from pyspark import TaskContext
from pyspark.resource import ResourceInformation

from pipelines.engines.factory import take_task_devices


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
