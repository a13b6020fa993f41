"""Engines of one model each: which requests go together, and what serves them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipelines import generation
from pipelines.beginning import begin
from pipelines.engines.protocol import GenerationRequest, GeneratorSpec
from pipelines.errors import ConfigError, raised_in_task
from pipelines.generation import Ask, Chunk, ask_all, chunks_of, write_requests
from pipelines.history import now
from pipelines.lakehouse import Lakehouse, local_frame
from pipelines.plan import steps_of
from pipelines.prompts import messages_json, target_messages
from pipelines.runner import Runner
from pipelines.step import PLAN_SCHEMA, Counts
from pipelines.steps.respond import RESPOND
from pipelines.verify import verify_run
from schemas.manifests import weights_sha256
from tests import tiny
from tests.e2e.small import SMALLEST

WHOLE = {"engine.serving": "merged", "target.settings.method": "full", "target.warm_settings": None}


def _planned(checkpoint: str | None, number: int) -> dict[str, Any]:
    text = f"prompt {number}"
    return {
        "checkpoint_id": checkpoint, "messages": messages_json(target_messages(text)), "parent_ids": [text], "depth": 0,
        "primary_parent": text, "root_seed_ids": [], "prompt": text, "preamble": False, "temperature": 0.0, "top_p": 1.0,
        "max_tokens": 4, "sample_index": 0,
    }  # fmt: skip


def test_a_chunk_is_for_one_checkpoint(lakehouse: Lakehouse, tmp_path: Path) -> None:
    lakehouse.ready("requests", "responses")
    rows = [_planned(name, number) for number in range(3) for name in (None, "a", "b")]
    base = str(tiny.llama(tmp_path / "llama", positions=512))
    ids = {"run_id": "r", "round": 1, "base": base, "chunk_rows": 2, "partitions": 2}
    write_requests(lakehouse, RESPOND, local_frame(lakehouse.spark, rows, PLAN_SCHEMA), ids)
    found = chunks_of(lakehouse, RESPOND, ids)
    assert [(chunk.number, chunk.left, set(chunk.checkpoints)) for chunk in found] == [
        (0, 2, set()), (1, 1, set()), (2, 2, {"a"}), (3, 1, {"a"}), (4, 2, {"b"}), (5, 1, {"b"}),
    ]  # fmt: skip


@pytest.mark.parametrize("template", [None, "{{ raise_exception('no such turn') }}"])
def test_a_template_that_is_missing_or_can_not_render_is_told(
    lakehouse: Lakehouse, tmp_path: Path, template: str | None
) -> None:
    base = tiny.llama(tmp_path / "llama", positions=512)
    file = base / "chat_template.jinja"
    file.unlink() if template is None else file.write_text(template)
    ids = {"run_id": "r", "round": 1, "base": str(base), "chunk_rows": 2, "partitions": 1}
    plan = local_frame(lakehouse.spark, [_planned(None, 0)], PLAN_SCHEMA)
    with pytest.raises(Exception, match="chat template") as error:
        write_requests(lakehouse, RESPOND, plan, ids)
    told = raised_in_task(error.value)
    assert isinstance(told, ConfigError) and "the messages of step respond" in str(told)


def told_priority(request: GenerationRequest) -> str:
    """A script that answers with the place in the queue that a request has."""
    return str(request.priority)


def test_a_chunk_that_was_begun_before_another_goes_first(
    lakehouse: Lakehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakehouse.ready("requests", "responses")
    base = str(tiny.llama(tmp_path / "llama", positions=512))
    ids = {"run_id": "r", "round": 1, "base": base, "chunk_rows": 2, "partitions": 2}
    plan = local_frame(lakehouse.spark, [_planned(None, number) for number in range(4)], PLAN_SCHEMA)
    write_requests(lakehouse, RESPOND, plan, ids)
    asked: list[Ask] = []
    asker = generation._asker
    monkeypatch.setattr(generation, "_asker", lambda ask, names: asked.append(ask) or asker(ask, names))
    ask = Ask(GeneratorSpec("scripted", base, "d"), {}, RESPOND.outcome)
    ask_all(lakehouse, RESPOND, ask, ids, chunks_of(lakehouse, RESPOND, ids), chunks_in_flight=1)
    first, second = asked
    assert 0 < first.priority < second.priority

    spec = GeneratorSpec("scripted", base, "d", options={"script": f"{__name__}:told_priority"})
    rows = lakehouse.read("requests").toPandas()
    answers = pd.concat(asker(replace(first, spec=spec), ["text"])(iter([rows])))
    assert set(answers["text"]) == {str(first.priority)}


@pytest.fixture
def runner(runner_of: Callable[..., Runner]) -> Runner:
    """A runner whose engines serve one model each, and that knows two checkpoints of whole models."""
    made = runner_of(SMALLEST | WHOLE)
    for name in ("a", "b"):
        tiny.llama(made.artifacts.root / name, positions=512, seed=ord(name))
        made._checkpoints[name] = {
            "checkpoint_id": name,
            "kind": "full",
            "path": name,
            "weights_sha256": weights_sha256(made.artifacts.root / name),
            "base": "the base",
            "base_digest": made.base.digest,
        }
    return made


def test_each_checkpoint_gets_an_engine_of_its_own_one_after_the_other(runner: Runner) -> None:
    names = [None, "a", "a", "b"]
    chunks = [Chunk(at, 1, 1, frozenset([name] if name else [])) for at, name in enumerate(names)]
    served = list(runner._served(None, chunks))
    root = runner.artifacts.root
    assert [spec.model for spec, _, _ in served] == [runner.base.path, str(root / "a"), str(root / "b")]
    assert len({spec.model_digest for spec, _, _ in served}) == 3
    assert [[chunk.number for chunk in some] for _, _, some in served] == [[0], [1, 2], [3]]
    assert all(spec.alone and not spec.max_adapters and adapters is None for spec, adapters, _ in served)


def test_a_checkpoint_of_another_base_is_not_served(runner: Runner) -> None:
    runner._checkpoints["a"]["base_digest"] = "0" * 64
    chunk = Chunk(0, 1, 1, frozenset(["a"]))
    with pytest.raises(ConfigError, match="checkpoint a was trained on the base .* set model to the one"):
        list(runner._served(None, [chunk]))


def _ended(runner: Runner, step: str, **counted: Any) -> None:
    event = {"run_id": "r", "round": 0, "step": step, "attempt": 1, "started_at": now()}
    runner._record(event, "done", {}, {}, Counts(values=counted), None)


def test_a_fork_keeps_its_parents_base_form_and_held_out_prompts_and_may_change_what_is_learned(
    runner_of: Callable[..., Runner],
) -> None:
    runner = runner_of(SMALLEST)
    settings = runner.config.target.settings
    checkpoint = {
        "checkpoint_id": "w", "run_id": "bootstrap", "round": 0, "role": "target", "kind": "lora", "base": "b",
        "base_digest": "b", "recipe": "{}", "training_root": "t", "training_rows": 1, "training_table_version": 0,
        "weights_sha256": "w", "path": "w", "settings": settings.model_dump_json(), "metrics": "{}",
        "environment": "{}", "code_version": "0",
    }  # fmt: skip
    runner.lakehouse.append_rows("checkpoints", [checkpoint])
    origin = {
        "checkpoint_id": "w",
        "relation": "drawn_from",
        "training_rows": 1,
    }  # or each `begin` looks for them
    runner.lakehouse.append_rows("checkpoint_origins", [origin])
    _ended(runner, "train_warm_target", role="target", checkpoint_id="w")
    _ended(runner, steps_of(runner.config, 0)[-1].name)

    def fork(name: str, data: Any = None, learned: Any = None, **changes: Any) -> None:
        target = runner.config.target.model_copy(
            update={"settings": settings.model_copy(update=learned or {})}
        )
        changes |= {"target": target, "data": runner.config.data.model_copy(update=data or {})}
        begin(runner.lakehouse, runner.config.model_copy(update=changes), name, ("r", 0))

    for told, changed in (
        ("model was .*, is ./other.", {"model": "/other"}),
        ('data.split was "dev", is "test"', {"data": {"split": "test"}}),
        ('data.suites was null, is "others"', {"data": {"suites": "others"}}),
        ("data.suite_limit was 108, is 9", {"data": {"suite_limit": 9}}),
        ("target.settings.lora_rank was 16, is 8", {"learned": {"lora_rank": 8}}),
        ('target.settings.method was "lora", is "full"', {"learned": {"method": "full"}}),
    ):
        with pytest.raises(ConfigError, match=f"a fork of run r can't change .*{told}"):
            fork("other", **changed)
    fork(
        "other",
        learned={"learning_rate": 1e-5},
        seed=7,
        mix=runner.config.mix.model_copy(update={"replay": 1.0}),
    )


def test_whole_models_and_merged_adapters_are_trained_and_asked_round_after_round(
    runner_of: Callable[..., Runner],
) -> None:
    made = runner_of(SMALLEST | WHOLE | {"rounds": 2})
    for round in (0, 1):
        made.run_round(round)
    assert verify_run(made.lakehouse, made.artifacts, "r").differences == []
    names = [step.name for step in steps_of(made.config, 2)]
    for step in steps_of(made.config, 2)[: names.index("respond") + 1]:
        made.run_step(step, 2)
    kinds = {row["checkpoint_id"]: row["kind"] for row in made.lakehouse.read("checkpoints").collect()}
    asked = made.lakehouse.read("requests").where("round = 2").select("step", "checkpoint_id").distinct()
    assert sorted((row["step"], kinds[row["checkpoint_id"]]) for row in asked.collect()) == [
        ("attack", "lora"),
        ("respond", "full"),
    ]
    (adversary,) = (name for name, kind in kinds.items() if kind == "lora")
    assert made.artifacts.merged(adversary).is_dir()
