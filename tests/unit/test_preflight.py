"""The preflight: one sentence with a remedy for each thing that a machine lacks, under any Python."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import preflight

SCRIPT = Path(preflight.__file__)
MODULES = "java.base@17.0.15\njdk.incubator.vector@17.0.15"


def java(folder: Path, version: str, modules: str = MODULES) -> Path:
    """A stand-in for a Java home; returns it."""
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(
        f"#!/bin/sh\ncase \"$1\" in\n-version) echo '{version}' >&2 ;;\n--list-modules) echo '{modules}' ;;\nesac\n"
    )
    program.chmod(0o755)
    return folder


def test_script_is_readable_by_an_old_python_and_needs_nothing_installed() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 6))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports
    for node in imports:
        names = (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        )
        assert all(name.partition(".")[0] in sys.stdlib_module_names for name in names)


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 9)])
def test_python_3_11_and_3_12_will_do(version: tuple[int, ...]) -> None:
    assert preflight.python_problem(version) == ""


@pytest.mark.parametrize("version", [(3, 6, 15), (3, 10, 1), (3, 13, 0), (2, 7, 18)])
def test_other_pythons_are_named_with_the_remedy(version: tuple[int, ...]) -> None:
    problem = preflight.python_problem(version)
    assert f"Python {version[0]}.{version[1]} " in problem and "install" in problem


@pytest.mark.parametrize(
    "line", ['openjdk version "17.0.15" 2025-04-15', 'openjdk version "21-ea" 2023-09-19']
)
def test_java_17_and_newer_with_the_module_will_do(tmp_path: Path, line: str) -> None:
    assert preflight.java_problem({"JAVA_HOME": str(java(tmp_path, line))}) == ""


@pytest.mark.parametrize(
    ("line", "found"), [('java version "1.8.0_392"', "Java 8"), ('openjdk version "11.0.2"', "Java 11")]
)
def test_old_java_is_named_with_its_version(tmp_path: Path, line: str, found: str) -> None:
    problem = preflight.java_problem({"JAVA_HOME": str(java(tmp_path, line))})
    assert found in problem and "17 or newer" in problem and "install" in problem


def test_java_without_the_vector_module_is_refused(tmp_path: Path) -> None:
    home = java(tmp_path, 'openjdk version "17.0.1"', modules="java.base@17.0.1")
    problem = preflight.java_problem({"JAVA_HOME": str(home)})
    assert "jdk.incubator.vector" in problem and "install" in problem


def test_missing_java_is_told(tmp_path: Path) -> None:
    problem = preflight.java_problem({"PATH": str(tmp_path)})
    assert problem.startswith("There is no Java") and "install" in problem


def test_java_home_counts_before_the_path(tmp_path: Path) -> None:
    good = java(tmp_path / "good", 'openjdk version "17.0.15"')
    old = java(tmp_path / "old", 'openjdk version "11.0.2"')
    assert "Java 11" in preflight.java_problem({"JAVA_HOME": str(old), "PATH": str(good / "bin")})
    assert preflight.java_problem({"PATH": str(good / "bin")}) == ""


def test_java_home_without_a_java_is_told(tmp_path: Path) -> None:
    problem = preflight.java_problem({"JAVA_HOME": str(tmp_path), "PATH": ""})
    assert str(tmp_path) in problem and "unset it" in problem


def test_something_that_is_no_java_is_told(tmp_path: Path) -> None:
    assert "no working Java" in preflight.java_problem({"JAVA_HOME": str(java(tmp_path, "hello"))})


def test_little_disk_and_memory_are_told_with_what_is_needed() -> None:
    assert preflight.disk_problem(15 * 10**9, "/x", 15, "models") == ""
    assert "14.9 GB free, and models need 15" in preflight.disk_problem(14_900_000_000, "/x", 15, "models")
    assert preflight.memory_problem(8 * 10**9) == "" == preflight.memory_problem(0)
    assert "4.0 GB" in preflight.memory_problem(4 * 10**9)


@pytest.mark.parametrize("installed", [False, True])
def test_a_run_needs_disk_also_where_the_environment_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    monkeypatch.setattr(preflight, "RUN_DISK_GB" if installed else "DISK_GB", 10**9)
    found = preflight.disk_problems({}, str(tmp_path), installed)
    assert f"need {10**9}" in found[0] and ("environment" in found[0]) is not installed


def test_the_disk_of_the_models_cache_is_looked_at_where_it_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one disk")
    monkeypatch.setattr(preflight, "CACHE_DISK_GB", 10**9)
    found = preflight.disk_problems({"MART_CACHE": str(other / "none" / "yet")}, str(tmp_path), True)
    assert any(problem.startswith("/dev/shm/none/yet has ") for problem in found)


def test_the_script_prints_one_line_a_problem_and_fails(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        cwd=tmp_path,
        env={"JAVA_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert all(line.startswith("mart: ") and line.endswith(".") for line in lines)
    assert sum("JAVA_HOME" in line for line in lines) == 1
