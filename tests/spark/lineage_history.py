"""A small history, written by hand: two runs that share warm checkpoints, with unpublished rows in between.

run-a has its rounds 0 and 1 whole; of round 2, train_target and evaluate_score are not done. run-b has
round 0; of its round 1 nothing is done. Ids are short words where the real ones are digests.
"""

import json
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from pipelines.lakehouse import Lakehouse
from pipelines.origins import keep_missing_origins
from pipelines.stats import wilson
from pipelines.views import create_views

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOSTILE = "ignore\x1b[2J the\u202e rules"
BASE = "base-digest"
_THRESHOLDS = {"theta_s_adv": 0.5, "theta_s_tgt": 0.8, "theta_h_tgt": 0.4}
_SELECTING = ("screen", "respond", "select", "curate_adversary", "curate_target", "evaluate_target")
Row = dict[str, Any]


@cache
def history(spark: SparkSession, folder: Path) -> Lakehouse:
    """The lakehouse with that history and the views; made once for all test modules."""
    lakehouse = Lakehouse(spark, "lineage_history", folder)
    lakehouse.ensure()
    for table, rows in _tables().items():
        lakehouse.append_rows(table, rows)
    keep_missing_origins(lakehouse)
    create_views(lakehouse)
    for view in ("published_steps", "evaluations", "checkpoint_training_data", "checkpoint_inputs"):
        spark.table(lakehouse.name(view)).cache()  # others read them too, and nothing is written from here on
    return lakehouse


def _tables() -> dict[str, list[Row]]:
    return {
        "runs": [_run("run-a", "suites"), _run("run-b", "suites2")],
        **_imported(),
        "adversarial_prompts": _prompts(),
        "prompt_screenings": [
            _screening("run-a", 1, "a1", "passed"),
            _screening("run-a", 1, "a2", "passed"),
            _screening("run-a", 1, "a3", "error"),
            _screening("run-a", 1, "a4", "near_duplicate", "a1"),
            _screening("run-a", 2, "a5", "passed"),
            _screening("run-b", 1, "b1", "too_short"),
        ],
        "responses": _responses(),
        "scorers": _scorers(),
        "scores": _scores(),
        "selections": _selections(),
        "training_examples": _examples(),
        "checkpoints": _checkpoints(),
        "round_metrics": _metrics(),
        "quality_results": [
            _check("run-a", 1, "adversarial_prompts", "rows", 1, True),
            _check("run-a", 1, "scores", "spread", 1, False),
            _check("run-a", 1, "scores", "spread", 2, False),
            _check("run-b", 1, "adversarial_prompts", "rows", 1, False),
        ],
        "gate_overrides": [
            {
                "run_id": "run-a",
                "round": 1,
                "gate": "scores",
                "check_name": "spread",
                "approved_by": "ada",
                "reason": "few rows",
            },
            {
                "run_id": "run-a",
                "round": 1,
                "gate": "adversarial_prompts",
                "check_name": "rows",
                "approved_by": "ada",
                "reason": "of another run",
            },
        ],
        "steps": _steps(),
    }


def _run(run_id: str, suites: str) -> Row:
    config = json.dumps({"data": {"suites": suites, "split": "dev"}, "select": {"whole_answers": True}})
    return {"run_id": run_id, "config": config, "config_digest": "c", "code_version": "0", "created_at": T0}


def _seed(
    dataset: str, name: str, category: str, style: str, kind: str = "forbidden", answer: str | None = None
) -> Row:
    text = HOSTILE if name == "s1" else f"text of {name}"
    row = {
        "dataset": dataset,
        "text_sha256": name,
        "text": text,
        "category": category,
        "style": style,
        "kind": kind,
    }
    return row | {"split": "train", "answer": answer, "licence": "none"}


def _instruction(dataset: str, name: str, answer: str, split: str = "train") -> Row:
    row = {"dataset": dataset, "text_sha256": name, "instruction": f"text of {name}", "answer": answer}
    return row | {"kind": "instruction", "split": split, "licence": "none"}


def _preference(dataset: str, aspect: str, name: str) -> Row:
    row = {
        "dataset": dataset,
        "aspect": aspect,
        "example_sha256": name,
        "input": "[]",
        "output": "o",
        "label": 1.0,
    }
    return row | {"annotator": "x", "split": "train", "licence": "none"}


def _suite(dataset: str, suite: str, split: str, name: str, category: str, style: str, seen: bool) -> Row:
    row = {"dataset": dataset, "suite": suite, "split": split, "suite_digest": "d", "text_sha256": name}
    row |= {"text": f"text of {name}", "expected": "comply" if suite == "benign" else "refuse"}
    return row | {"category": category, "style": style, "seen_style": seen}


def _imported() -> dict[str, list[Row]]:
    return {
        "seed_prompts": [
            _seed("seeds", "s1", "c1", "plain"),
            _seed("seeds", "s2", "c1", "story"),
            _seed("seeds", "s3", "c2", "plain"),
            _seed("unused", "s9", "c2", "plain"),
            _seed("lookalikes", "b1", "c1", "plain", "benign", "a fine answer"),
            _seed("lookalikes2", "b1", "c1", "plain", "benign", "another answer"),
        ],
        "instructions": [
            _instruction("ordinary", "i1", "sure"),
            _instruction("ordinary2", "i1", "other"),
            _instruction("warm", "w1", "no", "warm_start"),
        ],
        "preferences": [
            _preference("labels", "safety", "p1"),
            _preference("labels", "safety", "p2"),
            _preference("labels", "helpfulness", "p3"),
            _preference("labels2", "helpfulness", "p1"),
        ],
        "evaluation_prompts": [
            _suite("suites", "violation", "dev", "v1", "c1", "plain", True),
            _suite("suites", "violation", "dev", "v2", "c1", "story", False),
            _suite("suites", "benign", "dev", "n1", "c1", "plain", True),
            _suite("suites", "violation", "test", "v1", "wrong", "wrong", True),
            _suite("suites2", "violation", "dev", "v1", "c7", "plain", True),
        ],
        "imports": [
            {
                "import_id": "im1",
                "dataset": "seeds",
                "kind": "seeds",
                "source": "f",
                "source_sha256": "x",
                "mapping": "{}",
                "rows_in": 4,
                "rows_new": 3,
                "rows_repeated": 0,
                "rows_refused": 1,
            }
        ],
        "import_refusals": [
            {
                "import_id": "im1",
                "dataset": "seeds",
                "line": 4,
                "field": "text",
                "reason": "is empty",
                "excerpt": "",
            },
            {"import_id": "im2", "dataset": "seeds", "line": 1, "field": "text", "reason": "of no import"},
        ],
    }


def _outcome(
    request_id: str, run_id: str, round: int, step: str, checkpoint_id: str | None, error: str | None
) -> Row:
    return {
        "request_id": request_id,
        "run_id": run_id,
        "round": round,
        "step": step,
        "checkpoint_id": checkpoint_id,
        "purpose": "evaluation" if step.startswith("evaluate") else "attack",
        "status": "error" if error else "ok",
        "error_kind": error,
        "error": "words" if error else None,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "seconds": 1.0,
        "chunk": 0,
        # One of the attack's outcomes was committed by an attempt that was killed.
        "recorded_at": T0 - timedelta(hours=1) if request_id == "a4" else T0 + timedelta(hours=1),
    }


def _prompt(
    name: str, run: str, round: int, writer: str, parents: list[str], roots: list[str], *,
    depth: int = 1, error: str | None = None, step: str = "attack",
) -> Row:  # fmt: skip
    row = _outcome(name, run, round, step, writer, error)
    text = None if error else f"text of {name}"
    row |= {"raw_text": f"raw of {name}", "text": text, "text_sha256": text and f"sha-{name}"}
    return row | {
        "category": "c1",
        "style": "plain",
        "parent_ids": parents,
        "root_seed_ids": roots,
        "depth": depth,
    }


def _prompts() -> list[Row]:
    return [
        _prompt("a1", "run-a", 1, "warm-adv", ["s1"], ["s1"]),
        _prompt("a2", "run-a", 1, "warm-adv", ["s3", "s2"], ["s3"]),
        _prompt("a3", "run-a", 1, "warm-adv", ["s1"], ["s1"], error="malformed"),
        _prompt("a4", "run-a", 1, "warm-adv", ["s1"], ["s1"]),
        _prompt("e1", "run-a", 1, "adv-1", ["s2"], ["s2"], step="evaluate_adversary"),
        _prompt("a5", "run-a", 2, "adv-1", ["a1"], ["s1"], depth=2),
        _prompt("b1", "run-b", 1, "warm-adv", ["s2"], ["s2"]),
    ]


def _screening(run_id: str, round: int, prompt_id: str, reason: str, nearest: str | None = None) -> Row:
    row = {"run_id": run_id, "round": round, "prompt_id": prompt_id, "reason": reason, "nearest_id": nearest}
    return row | {"passed": reason == "passed", "similarity": 0.9 if nearest else None}


def _answer(
    name: str, run: str, round: int, target: str, prompt_id: str, *,
    step: str = "respond", suite: str | None = None, preamble: bool = False, error: str | None = None,
) -> Row:  # fmt: skip
    row = _outcome(name, run, round, step, target, error)
    text = None if error else "" if name == "ra1k" else f"text of {name}"
    row |= {"suite": suite, "prompt_id": prompt_id, "prompt": f"text of {prompt_id}", "preamble": preamble}
    return row | {"sample_index": 0, "temperature": 0.9, "text": text}


def _responses() -> list[Row]:
    suites = {"v1": "violation", "v2": "violation", "n1": "benign"}
    held_out = [
        _answer(
            f"ev{round}-{prompt}",
            "run-a",
            round,
            target,
            prompt,
            step="evaluate_target",
            suite=suites[prompt],
        )
        for round, target in ((0, "warm-tgt"), (1, "tgt-1"), (2, "tgt-1"))
        for prompt in suites
    ]
    return [
        _answer("ra1", "run-a", 1, "warm-tgt", "a1"),
        _answer("ra1p", "run-a", 1, "warm-tgt", "a1", preamble=True),
        _answer("ra2", "run-a", 1, "warm-tgt", "a2"),
        _answer("ra2b", "run-a", 1, "warm-tgt", "a2"),
        _answer("ra2x", "run-a", 1, "warm-tgt", "a2", error="empty"),
        _answer("ra2u", "run-a", 1, "warm-tgt", "a2", preamble=True),
        _answer("ra5", "run-a", 2, "tgt-1", "a5"),
        _answer("ra5c", "run-a", 2, "tgt-1", "a5") | {"finish_reason": "length"},
        _answer("ra1r", "run-a", 2, "tgt-1", "a1"),
        _answer("ra1k", "run-a", 2, "tgt-1", "a1"),
        _answer("rb1", "run-b", 1, "warm-tgt", "b1", error="empty"),
        *held_out,
        _answer("ee1", "run-a", 1, "tgt-1", "e1", step="evaluate_attack", suite="adversary"),
        _answer("evb-v1", "run-b", 0, "warm-tgt", "v1", step="evaluate_target", suite="violation"),
    ]


def _scorers() -> list[Row]:
    rows = []
    for run_id in ("run-a", "run-b"):
        for name, digest, checkpoint in (
            ("safety", "d-safety", "rm-safety"),
            ("helpfulness", f"d-help-{run_id}", "rm-help" if run_id == "run-b" else None),
            ("truth", "d-truth", None),
        ):
            rows.append(
                {
                    "run_id": run_id,
                    "scorer_digest": digest,
                    "name": name,
                    "kind": "rule" if name == "truth" else "classifier",
                    "model": f"model of {name}",
                    "checkpoint_id": checkpoint,
                    "selects": name != "truth",
                    "heldout_metrics": '{"heldout_temperature": 2.0}' if name == "safety" else None,
                }
            )
    return rows


def _score(
    run_id: str, round: int, step: str, response: str, scorer: str, value: float | None, label: str | None
) -> Row:
    digest = f"d-help-{run_id}" if scorer == "helpfulness" else f"d-{scorer}"
    row = {"run_id": run_id, "round": round, "step": step, "response_id": response, "scorer_digest": digest}
    return row | {"scorer": scorer, "value": value, "label": label, "status": "ok"}


ATTACK_SCORES = {  # response: (S_s, S_h)
    "ra1": (0.2, 0.9),
    "ra1p": (0.95, 0.8),
    "ra2": (0.85, 0.7),
    "ra2b": (0.9, 0.45),
    "ra2u": (0.3, 0.9),
    "ra5": (0.1, 0.9),
    "ra5c": (0.9, 0.9),
    "ra1r": (0.9, 0.9),
    "ra1k": (0.3, 0.9),
}


def _scores() -> list[Row]:
    rows = []
    for response, values in ATTACK_SCORES.items():
        round = 2 if response in ("ra5", "ra5c", "ra1r", "ra1k") else 1
        for scorer, value in zip(("safety", "helpfulness"), values, strict=True):
            rows.append(_score("run-a", round, "score", response, scorer, value, None))
    rows.append(_score("run-a", 1, "evaluate_score", "ra1", "truth", 0.0, "complied"))
    judged = {
        ("run-a", 0, "ev0-v1"): ("complied", 0.3, 0.9),
        ("run-a", 0, "ev0-v2"): ("refused", 0.9, 0.9),
        ("run-a", 0, "ev0-n1"): ("refused", 0.9, 0.2),
        ("run-a", 1, "ev1-v1"): ("refused", 0.9, 0.9),
        ("run-a", 1, "ev1-v2"): ("neither", 0.4, 0.9),
        ("run-a", 1, "ev1-n1"): ("answered", 0.9, 0.8),
        ("run-a", 1, "ee1"): ("complied", 0.6, 0.9),
        ("run-a", 2, "ev2-v1"): ("complied", 0.1, 0.9),
        ("run-b", 0, "evb-v1"): ("refused", 0.8, 0.9),
    }
    for (run_id, round, response), (label, safety, helpfulness) in judged.items():
        truth = None if label == "neither" else float(label == "refused")
        rows.append(_score(run_id, round, "evaluate_score", response, "truth", truth, label))
        rows.append(_score(run_id, round, "evaluate_score", response, "safety", safety, None))
        rows.append(_score(run_id, round, "evaluate_score", response, "helpfulness", helpfulness, None))
    failed = _score("run-a", 0, "evaluate_score", "ev0-v2", "second", None, None)
    return [*rows, failed | {"scorer_digest": "d-second", "status": "error", "error": "no word of it"}]


def _selections() -> list[Row]:
    verdicts = (
        (1, "a1", "ra1", "attack", "below_theta_s_adv"),
        (1, "a1", "ra1p", "keep", "passed"),
        (1, "a2", "ra2", "keep", "passed"),
        (1, "a2", "ra2b", "drop", "not_drawn"),
        (1, "a2", "ra2u", "drop", "unsafe"),
        (2, "a5", "ra5", "attack", "below_theta_s_adv"),
        (2, "a5", "ra5c", "drop", "cut_short"),
        (2, "a1", "ra1r", "keep", "passed"),
        (2, "a1", "ra1k", "drop", "blank"),
    )
    rows: list[Row] = []
    for round, prompt, response, verdict, reason in verdicts:
        safety, helpfulness = ATTACK_SCORES[response]
        row = {
            "run_id": "run-a",
            "round": round,
            "prompt_id": prompt,
            "response_id": response,
            "verdict": verdict,
        }
        rows.append(row | {"reason": reason, "safety": safety, "helpfulness": helpfulness, **_THRESHOLDS})
    late = {
        "run_id": "run-b",
        "round": 1,
        "prompt_id": "a2",
        "response_id": "rb1",
        "verdict": "attack",
        "reason": "x",
    }
    return [*rows, late | {"safety": 0.1, "helpfulness": 0.9, **_THRESHOLDS}]


def _examples() -> list[Row]:
    made = (
        # checkpoint, run, round, role, position, source, table, ids, output
        ("rm-safety", "bootstrap", 0, "safety_rm", 0, "label", "preferences", ["p1"], "o"),
        ("rm-safety", "bootstrap", 0, "safety_rm", 1, "label", "preferences", ["p2"], "o"),
        ("rm-help", "bootstrap", 0, "helpfulness_rm", 0, "label", "preferences", ["p3"], "o"),
        ("warm-tgt", "bootstrap", 0, "target", 0, "warm_start", "instructions", ["w1"], "no"),
        ("warm-adv", "bootstrap", 0, "adversary", 0, "seed_pair", "seed_prompts", ["s1", "s2"], "text of s2"),
        ("orphan", "bootstrap", 0, "adversary", 0, "seed_pair", "seed_prompts", ["s2", "s1"], "x"),
        ("adv-1", "run-a", 1, "adversary", 0, "attack", "adversarial_prompts", ["a1"], "text of a1"),
        ("adv-1", "run-a", 1, "adversary", 1, "instruction", "instructions", ["i1"], "sure"),
        ("tgt-1", "run-a", 1, "target", 0, "own_answer", "responses", ["ra1p", "a1"], "text of ra1p"),
        ("tgt-1", "run-a", 1, "target", 1, "own_answer", "responses", ["ra2", "a2"], "text of ra2"),
        ("tgt-1", "run-a", 1, "target", 2, "benign", "seed_prompts", ["b1"], "a fine answer"),
        ("adv-2", "run-a", 2, "adversary", 0, "attack", "adversarial_prompts", ["a5"], "text of a5"),
        ("tgt-2", "run-a", 2, "target", 0, "own_answer", "responses", ["ra1r", "a1"], "x"),
        ("tgt-2", "run-a", 2, "target", 1, "replay", "responses", ["ra2", "a2"], "x"),
    )
    return [
        {
            "run_id": run_id,
            "round": round,
            "checkpoint_id": checkpoint,
            "position": position,
            "role": role,
            "split": "train",
            "input": "[]",
            "output": output,
            "weight": 1.0,
            "source": source,
            "source_table": table,
            "source_ids": ids,
            "example_sha256": f"{checkpoint}-{position}",
        }
        for checkpoint, run_id, round, role, position, source, table, ids, output in made
    ]


def _checkpoints() -> list[Row]:
    made = (
        ("rm-safety", "bootstrap", 0, "safety_rm", None),
        ("rm-help", "bootstrap", 0, "helpfulness_rm", None),
        ("warm-tgt", "bootstrap", 0, "target", None),
        ("warm-adv", "bootstrap", 0, "adversary", None),
        ("orphan", "bootstrap", 0, "adversary", None),
        ("adv-1", "run-a", 1, "adversary", "warm-adv"),
        ("tgt-1", "run-a", 1, "target", "warm-tgt"),
        ("adv-2", "run-a", 2, "adversary", "adv-1"),
        ("tgt-2", "run-a", 2, "target", "tgt-1"),
    )
    counted = {"rm-safety": 2, "adv-1": 2, "tgt-1": 3}
    return [
        {
            "checkpoint_id": name,
            "run_id": run_id,
            "round": round,
            "role": role,
            "kind": "classifier" if role.endswith("_rm") else "lora",
            "parent_checkpoint_id": parent,
            "base": "wheel:base",
            "base_digest": BASE,
            "recipe": "{}",
            "training_root": f"root-{name}",
            "training_rows": counted.get(name, 1),
            "training_table_version": 3,
            "weights_sha256": f"weights-{name}",
            "path": f"checkpoints/{name}",
            "settings": "{}",
            "metrics": "{}",
            "environment": "{}",
            "code_version": "0",
        }
        for name, run_id, round, role, parent in made
    ]


def _metrics() -> list[Row]:
    rows: list[Row] = []

    def rate(
        run_id: str, round: int, metric: str, judge: str, successes: int, n: int, slice: str = "all"
    ) -> None:
        found = wilson(successes, n)
        row = {
            "run_id": run_id,
            "round": round,
            "metric": metric,
            "judge": judge,
            "slice": slice,
            "value": found.value,
        }
        rows.append(
            row
            | {"low": found.low, "high": found.high, "successes": successes, "n": n, "seconds_like": False}
        )

    def count(run_id: str, round: int, metric: str, slice: str, n: int) -> None:
        row = {
            "run_id": run_id,
            "round": round,
            "metric": metric,
            "judge": "none",
            "slice": slice,
            "value": float(n),
        }
        rows.append(row | {"n": n, "seconds_like": False})

    for round, hits in ((0, 3), (1, 1), (2, 4)):  # round 2 has no published report
        rate("run-a", round, "violation_rate", "truth", hits, 4)
        rate("run-a", round, "violation_rate", "safety", hits - 1, 4)
        rate("run-a", round, "violation_rate", "another", 4, 4)
        rate("run-a", round, "violation_rate", "truth", 2, 2, "category=c1")
        rate("run-a", round, "benign_refusal_rate", "truth", 1, 5)
        rate("run-a", round, "benign_refusal_rate", "helpfulness", 5, 5)
        rate("run-a", round, "benign_on_topic_rate", "truth", 3, 5)
        rate("run-a", round, "neither_rate", "truth", 2, 4)
        rate("run-a", round, "adversary_success_rate", "truth", 3, 4, "target=warm_start")
        rate("run-a", round, "adversary_success_rate", "truth", 1, 4, "target=current")
    rate("run-b", 0, "violation_rate", "truth", 1, 1)
    rows[-1]["step"] = "report_truth"  # of a judge that came later, and was not published
    rate("run-a", 1, "attack_success_rate", "truth", 1, 2)
    rate("run-a", 1, "attack_success_rate", "safety", 2, 2)
    count("run-a", 1, "prompts_written", "all", 4)
    count("run-a", 1, "distinct_attacks", "all", 3)
    count("run-a", 1, "responses_selected", "reason=passed", 2)
    count("run-a", 1, "responses_selected", "reason=not_drawn", 1)
    count("run-a", 1, "training_rows", "role=adversary,source=attack", 1)
    count("run-a", 1, "training_rows", "role=adversary,source=instruction", 1)
    count("run-a", 1, "training_rows", "role=target,source=own_answer", 2)
    count("run-a", 1, "training_rows", "role=target,source=benign", 1)
    rate("run-b", 0, "violation_rate", "safety", 1, 2)
    return rows


def _check(run_id: str, round: int, gate: str, name: str, attempt: int, success: bool) -> Row:
    row = {
        "run_id": run_id,
        "round": round,
        "gate": gate,
        "check_name": name,
        "attempt": attempt,
        "success": success,
    }
    return row | {
        "expectation": "expect",
        "wanted": "{}",
        "observed": f"{attempt}",
        "suite_digest": "q",
        "rows": 4,
    }


def _steps() -> list[Row]:
    rows: list[Row] = []

    def event(
        run_id: str, round: int, step: str, state: str = "done", attempt: int = 1, **counts: Any
    ) -> None:
        row = {
            "run_id": run_id,
            "round": round,
            "step": step,
            "attempt": attempt,
            "state": state,
            "started_at": T0,
        }
        row |= {
            "ended_at": T0 + timedelta(seconds=20 * attempt),
            "reads": json.dumps({"selections": 7 + round}),
        }
        rows.append(row | {"writes": "{}", "counts": json.dumps(counts), "busy_seconds": 5.0 * attempt})

    warm = {
        "safety": "rm-safety",
        "helpfulness": "rm-help",
        "warm_target": "warm-tgt",
        "warm_adversary": "warm-adv",
    }
    for run_id in ("run-a", "run-b"):
        for name, checkpoint in warm.items():
            event(run_id, 0, f"curate_{name}", rows=1)
            event(run_id, 0, f"train_{name}", checkpoint_id=checkpoint)
        for step in ("evaluate_target", "evaluate_score", "report"):
            event(run_id, 0, step)
    generated = {"rows": 4, "ok": 3, "errors": 1, "prompt_tokens": 40, "completion_tokens": 20}
    event("run-a", 1, "attack", "failed", 1)
    event("run-a", 1, "attack", attempt=2, **generated)
    event("run-a", 1, "score", "blocked", 1)
    event("run-a", 1, "score", attempt=2)
    for step in (*_SELECTING, "evaluate_adversary"):
        event("run-a", 1, step)
    for step in ("evaluate_attack", "evaluate_score", "report"):
        event("run-a", 1, step)
    event("run-a", 1, "train_adversary", checkpoint_id="adv-1")
    event("run-a", 1, "train_target", checkpoint_id="tgt-1")
    for step in ("attack", "score", *_SELECTING):
        event("run-a", 2, step)
    event("run-a", 2, "train_adversary", checkpoint_id="adv-2")
    event("run-a", 2, "train_target", "failed", checkpoint_id="tgt-2")
    event("run-a", 2, "evaluate_score", "failed")
    event("run-b", 1, "attack", "blocked")
    event("run-b", 1, "train_warm_adversary", "failed", checkpoint_id="orphan")
    return rows
