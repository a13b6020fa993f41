"""The wheel: what is in it, that it runs where there is no checkout, and the pins it is installed beside."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from pipelines.plan import ALL
from tests import built
from tests.built import CODE, DATA, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    return built.wheel(tmp_path_factory.mktemp("source"))


def test_wheel_holds_all_code_and_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for folder in (*CODE, *DATA)
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == wanted
    for folder, ending in DATA.items():
        assert any(name.startswith(f"{folder}/") and name.endswith(ending) for name in names)


def test_wheel_declares_its_command_and_python(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = {
            name.rpartition("/")[2]: archive.read(name).decode()
            for name in archive.namelist()
            if ".dist-info/" in name
        }
    assert "mart = jobs.cli:main" in info["entry_points.txt"]
    assert re.search(r"^Name: mart-redteam$", info["METADATA"], re.MULTILINE)
    assert re.search(r"^Requires-Python: <3\.13,>=3\.11$", info["METADATA"], re.MULTILINE)


def test_the_wheel_runs_as_the_zip_file_that_spark_ships(wheel: Path, tmp_path: Path) -> None:
    shipped = shutil.copy(wheel, tmp_path / "mart.zip")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import pipelines, jobs.cli; print(pipelines.__file__); jobs.cli.main(['describe'])",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(shipped)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{shipped}/pipelines") and "train_target" in done.stdout


@pytest.mark.slow
def test_installed_wheel_describes_the_plan_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if uv is None:
        pytest.skip("uv comes with requirements/; `make install` brings it")
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    python = str(home / "bin" / "python")
    subprocess.run(
        [uv, "pip", "install", "-q", "--no-deps", "--offline", "--python", python, str(wheel)], check=True
    )
    # The dependencies are those of this environment; the checkout, if it is installed there, is not among them.
    site = next(home.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    done = subprocess.run(
        [str(home / "bin" / "mart"), "describe", "--config", "sandbox"],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    where = "import jobs, pipelines; print(jobs.__file__, pipelines.__file__)"
    files = subprocess.run(
        [python, "-c", where], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    assert files.count(str(site)) == 2, "the command ran from the checkout"
    assert not [name for name in ALL if not re.search(rf"\b{name}\b", done.stdout)]


@pytest.mark.parametrize("name", ["cpu.txt", "cuda.txt", "databricks.txt", "databricks-gpu.txt"])
def test_pins_are_exact_and_name_no_host_and_no_path(name: str) -> None:
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    assert lines
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z0-9,_-]+\])?==[^\s/@]+( ; [^/@]+)?", line), line


def test_pins_hold_what_builds_the_wheel() -> None:
    pins = (ROOT / "requirements" / "cpu.txt").read_text(encoding="utf-8").splitlines()
    assert set(PROJECT["build-system"]["requires"]) <= set(pins)
    assert any(line.startswith("uv==") for line in pins), "the Makefile takes uv's version from here"


def test_sandbox_imports_only_the_standard_library_and_itself() -> None:
    for path in sorted((ROOT / "sandbox").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""] if node.level == 0 else []
            else:
                continue
            for name in names:
                top = name.partition(".")[0]
                assert top == "sandbox" or top in sys.stdlib_module_names, f"{path.name} imports {name}"
