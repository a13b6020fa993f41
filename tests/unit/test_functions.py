"""Which files a function's words are in."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.functions import source_digests


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "town_rules"
    (folder / "words").mkdir(parents=True)
    for name, words in {
        "__init__.py": "",
        "judge.py": "import json\nfrom town_rules.words import BAD\nfrom . import cues\n\n\ndef truth(prompt, answer): ...\n",
        "words/__init__.py": "from .lists import BAD\n",
        "words/lists.py": "BAD = ['lantern']\n",
        "cues.py": "def later():\n    import town_rules.late\n",
        "late.py": "",
        "other.py": "",
    }.items():
        (folder / name).write_text(words)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == folder.name]:
        del sys.modules[name]


def test_a_functions_sources_are_its_module_and_what_it_imports_of_its_package(package: Path) -> None:
    assert list(source_digests("town_rules.judge:truth")) == [
        "town_rules", "town_rules.cues", "town_rules.judge", "town_rules.late", "town_rules.words", "town_rules.words.lists",
    ]  # fmt: skip


def test_a_changed_word_in_an_imported_module_changes_the_digests(package: Path) -> None:
    before = source_digests("town_rules.judge:truth")
    (package / "words" / "lists.py").write_text("BAD = ['lantern', 'clock']\n")
    after = source_digests("town_rules.judge:truth")
    assert [name for name in before if before[name] != after[name]] == ["town_rules.words.lists"]


def test_the_sandboxs_truth_names_its_vocabulary() -> None:
    assert {"sandbox.judge", "sandbox.cues", "sandbox.lexicon", "sandbox.policy"} <= source_digests(
        "sandbox.judge:truth"
    ).keys()
