"""The `mart` command as its users run it, a process of its own, with sets and settings as small as the gates allow."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.flags import config_path
from pipelines.config import RunConfig, load_config

ROOT = Path(__file__).parents[2]
# Nothing here is about quality.
SMALL = {
    "data.prepare": "tests.e2e.world:export",
    "attack.prompts": 16,
    "attack.sampling.max_tokens": 24,
    "respond.sampling.max_tokens": 24,
    "respond.samples": 1,
    "respond.context_distillation.samples": 1,
    "evaluate.max_tokens": 16,
    "evaluate.adversary_prompts": 4,
    "engine.chunk_rows": 16,
    "engine.kv_cache_gib": 0.5,
    "engine.max_num_seqs": 32,
    "mix.max_rows": 12,
    "mix.min_rows": 4,
    "adversary.warm_pairs": 16,
    "adversary.min_attacks": 0,
    "adversary.settings.epochs": 1,
    "adversary.warm_settings.epochs": 1,
    "target.settings.epochs": 1,
    "target.warm_settings.epochs": 1,
    "reward_models.safety.settings.epochs": 1,
    "reward_models.helpfulness.settings.epochs": 1,
    # Reward models of a handful of labels tell little: every answer is to be of some use.
    "select.theta_s_adv": 0.5,
    "select.theta_s_tgt": 0.0,
    "select.theta_h_tgt": 0.0,
    "select.whole_answers": False,  # which few tokens are enough for
    "gates.parameters.min_ok": 0.3,
    "gates.parameters.min_usual_length": 0.1,
    "gates.parameters.min_fresh": 0.0,
    "gates.parameters.min_answers": 1,
    "gates.parameters.min_spread": 0.0,
    "gates.parameters.min_target_rows": 2,
    "gates.parameters.min_adversary_rows": 1,
    "gates.parameters.max_own_target": 1.0,
    "gates.parameters.min_own_target": 0.0,
    "gates.parameters.min_own_adversary": 0.0,
    "gates.parameters.min_labels": 8,
}


# The same without a model that can speak: answers by script, and the trainers learn on tiny random models.
SCRIPTED = {
    "engine.backend": "scripted",
    "attack.sampling.max_tokens": 12,
    "respond.sampling.max_tokens": 12,
    "gates.parameters.min_ok": 0.0,
    "gates.parameters.max_repeated": 1.0,
}


# With tiny models: one round of everything but what is trained or evaluated before it.
SMALLEST = {
    "rounds": 1,
    "data.warm_start": None,
    "data.suites": None,
    "adversary.warm_pairs": 0,
    "evaluate.adversary_prompts": 0,
    "engine.chunk_rows": 64,  # all of a step's rows
}


# An engine of vLLM in place of the script, for a tiny random model; it outlives its driver until the next one is there.
REAL = {
    "engine.backend": "vllm",
    "engine.options": {"fork": True},
    "engine.lease_seconds": 60,
    "attack.fluency": False,  # it never ends a line
}
# With a head that vLLM's CPU kernels have.
SIZES = {"hidden_size": 128, "num_key_value_heads": 2, "head_dim": 64}


def tiny_models(folder: Path) -> dict[str, Any]:
    """Settings that name tiny random models, made in a folder: both roles' base and a finished judge."""
    from tests import tiny  # torch and transformers, which few need

    judge = str(tiny.bert(folder / "judge", classifier=True))
    return {
        "model": str(tiny.llama(folder / "llama", positions=512, **SIZES)),
        "reward_models.helpfulness.begins_with": None,
        **{
            f"reward_models.{aspect}.{key}": value
            for aspect in ("safety", "helpfulness")
            for key, value in {"base": judge, "dataset": None, "max_length": 128}.items()
        },
    }


@dataclass(frozen=True)
class Mart:
    """The `mart` command over one lakehouse, with the settings of one run."""

    folder: Path
    settings: dict[str, Any]
    run: str = "t"

    def command(self, *words: str) -> list[str]:
        """The words of a call, with the lakehouse where the command takes one."""
        place = [] if words[0] == "describe" else ["--lakehouse", str(self.folder)]
        return [sys.executable, "-m", "jobs.cli", *words, *place]

    def own_environment(self) -> dict[str, str]:
        """What a call needs of its own: a cache, so that nothing of another test is found."""
        return {"MART_CACHE": str(self.folder.parent / "cache")}

    def environment(self) -> dict[str, str]:
        """The whole environment of a call."""
        return {**os.environ, **self.own_environment(), "PYTHONPATH": str(ROOT)}

    def _sets(self) -> list[str]:
        return [f"{key}={json.dumps(value)}" for key, value in self.settings.items()]

    def _settings_words(self) -> list[str]:
        return [
            "--config",
            "sandbox",
            "--run-id",
            self.run,
            *(word for text in self._sets() for word in ("--set", text)),
        ]

    def config(self) -> RunConfig:
        """The configuration with these settings."""
        return load_config(config_path("sandbox"), self._sets())

    def run_words(self, *more: str) -> list[str]:
        """The words of `mart run` with these settings."""
        return ["run", *self._settings_words(), *more]

    def step_words(self, name: str) -> list[str]:
        """The words of `mart step NAME` with these settings, held by one scheduler."""
        return ["step", name, *self._settings_words(), "--holder", "test"]

    def __call__(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        ended = subprocess.run(
            self.command(*words),
            env=self.environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and ended.returncode:
            pytest.fail(f"mart {' '.join(words[:2])} ended with {ended.returncode}:\n{_told(ended.stderr)}")
        return ended


def _told(stderr: str) -> str:
    """What Java said, and the end: a JVM that dies says why long before Python's tracebacks end."""
    of_java = [
        line for line in stderr.splitlines() if re.search(r" (ERROR|FATAL) |^(Caused by: )?java\.", line)
    ]
    return "\n".join([*of_java[:40], "[…]", stderr[-4000:]])
