"""The world's lists: sizes, balance, disjoint splits, and the same content in every process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sandbox.export import content_digest, export
from sandbox.lexicon import FORBIDDEN
from sandbox.templates import SEEN_STYLES, TEMPLATES, UNSEEN_STYLES
from sandbox.world import World, build_world
from sandbox.writer import look_alikes

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def world() -> World:
    return build_world()


def _key(text: object) -> str:
    return " ".join(str(text).casefold().split())


def _train_texts(world: World) -> set[str]:
    texts = [r["text"] for r in world.seeds + world.benign] + [r["instruction"] for r in world.instructions]
    return {_key(t) for t in texts + [r["prompt"] for r in world.warm_start + world.labels]}


def test_no_text_is_in_two_lists(world: World) -> None:
    lists = [
        [r["text"] for r in world.seeds],
        [r["text"] for r in world.benign],
        [r["text"] for r in world.evaluation_prompts],
        [r["instruction"] for r in world.instructions],
        [r["prompt"] for r in world.warm_start],
        list({r["prompt"] for r in world.labels if r["split"] == "train"}),
        list({r["prompt"] for r in world.labels if r["split"] == "heldout"}),
    ]
    counts = Counter(_key(text) for texts in lists for text in texts)
    assert [text for text, n in counts.items() if n > 1] == []


def _one_word_shorter(words: tuple[str, ...]) -> set[tuple[str, ...]]:
    return {words[:i] + words[i + 1 :] for i in range(len(words))}


def _one_word_masked(words: tuple[str, ...]) -> set[tuple[str, ...]]:
    return {(*words[:i], "*", *words[i + 1 :]) for i in range(len(words))}


def test_no_evaluation_prompt_is_a_train_prompt_with_one_word_changed(world: World) -> None:
    exact: set[tuple[str, ...]] = set()
    shorter: set[tuple[str, ...]] = set()
    masked: set[tuple[str, ...]] = set()
    for text in _train_texts(world):
        words = tuple(text.split())
        exact.add(words)
        shorter |= _one_word_shorter(words)
        masked |= _one_word_masked(words)
    for row in world.evaluation_prompts:
        words = tuple(_key(row["text"]).split())
        assert words not in exact | shorter, words
        assert not _one_word_shorter(words) & exact, words
        assert not _one_word_masked(words) & masked, words


def test_sizes(world: World) -> None:
    assert len(world.seeds) == 240
    assert len(world.benign) == 480
    assert len(world.instructions) == 240
    assert 390 <= len(world.warm_start) <= 410
    splits = Counter(r["split"] for r in world.labels)
    assert splits["train"] >= 1500
    assert splits["heldout"] >= 300
    suites = Counter((r["suite"], r["split"], r["seen_style"]) for r in world.evaluation_prompts)
    for split in ("dev", "test"):
        assert suites["violation", split, True] >= 216
        assert suites["violation", split, False] >= 216
        assert suites["benign", split, True] + suites["benign", split, False] >= 216
        assert suites["instructions", split, True] == 100


def test_seeds_are_balanced_and_only_of_seen_styles(world: World) -> None:
    for rows, each in ((world.seeds, 10), (world.benign, 20)):
        cells = Counter((r["category"], r["style"]) for r in rows)
        assert set(cells) == {(c, s) for c in FORBIDDEN for s in SEEN_STYLES}
        assert set(cells.values()) == {each}


def test_benign_prompts_come_in_every_style(world: World) -> None:
    for split in ("dev", "test"):
        rows = [r for r in world.evaluation_prompts if r["suite"] == "benign" and r["split"] == split]
        assert {r["style"] for r in rows} == set(SEEN_STYLES + UNSEEN_STYLES)


def test_every_category_has_look_alikes_on_both_sides() -> None:
    for category, pair in FORBIDDEN.items():
        for side in ("action", "object"):
            pairs = look_alikes(category, side)
            assert len(set(pairs)) >= 4
            assert not set(pairs) & set(FORBIDDEN.values()), pair


def test_styles_have_many_templates_and_splits_share_none() -> None:
    for style in SEEN_STYLES + UNSEEN_STYLES:
        sets = [TEMPLATES[style, split] for split in ("train", "dev", "test") if (style, split) in TEMPLATES]
        frames = [frame for frames in sets for frame in frames]
        assert len(frames) == len(set(frames)) >= 8
    assert not any((style, "train") in TEMPLATES for style in UNSEEN_STYLES)


def test_texts_are_short(world: World) -> None:
    prompts = [r["text"] for r in world.seeds + world.benign + world.evaluation_prompts]
    assert max(len(str(p).split()) for p in prompts) <= 45
    answers = [r["answer"] for r in world.benign + world.instructions + world.warm_start]
    answers += [r["reference"] for r in world.evaluation_prompts if r["reference"] is not None]
    assert max(len(str(a).split()) for a in answers) <= 35


def test_warm_start_complies_as_deployed(world: World) -> None:
    kinds = {str(r["kind"]) for r in world.warm_start}
    assert {kind for kind in kinds if not kind.startswith("preamble_")} == {
        "forbidden_complied",
        "benign_answered",
        "instruction",
    }


def test_warm_start_keeps_the_rules_under_the_preamble_in_equal_numbers(world: World) -> None:
    kinds = Counter(str(r["kind"]) for r in world.warm_start if str(r["kind"]).startswith("preamble_"))
    assert set(kinds) == {"preamble_forbidden_refused", "preamble_benign_answered"}
    assert len(set(kinds.values())) == 1


def test_labels_are_flipped_only_in_train_and_at_the_stated_rate(world: World) -> None:
    for label in ("safe", "helpful"):
        train = [r for r in world.labels if r["split"] == "train"]
        flipped = sum(r[label] != r[f"true_{label}"] for r in train)
        assert flipped == round(0.04 * len(train))
        assert all(r[label] == r[f"true_{label}"] for r in world.labels if r["split"] == "heldout")


def test_the_same_kinds_of_answer_stand_on_both_sides_of_a_label(world: World) -> None:
    """Complied answers are safe half the time, refusals helpful half the time."""
    complied = [r for r in world.labels if r["kind"] in ("complied", "truncated", "turned")]
    refused = [r for r in world.labels if r["kind"] == "refused"]
    assert 0.45 <= sum(int(r["true_safe"] or 0) for r in complied) / len(complied) <= 0.55
    assert 0.45 <= sum(int(r["true_helpful"] or 0) for r in refused) / len(refused) <= 0.55


def test_export_writes_each_list_as_jsonl(world: World, tmp_path: Path) -> None:
    paths = export(tmp_path / "world")
    assert set(paths) == {
        "seeds",
        "benign",
        "evaluation_prompts",
        "instructions",
        "warm_start",
        "labels",
    }
    for name, path in paths.items():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
        assert rows == list(getattr(world, name))


def test_content_is_the_same_under_any_hash_seed() -> None:
    code = "from sandbox.export import content_digest; print(content_digest())"
    digests = {content_digest()}
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        ran = subprocess.run(
            [sys.executable, "-c", code],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(ran.stdout.strip())
    assert len(digests) == 1
