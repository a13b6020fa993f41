"""The wheel as `make wheel` builds it, for tests that install or ship it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = ("jobs", "pipelines", "training", "schemas", "sandbox")
DATA = {"conf": ".yaml", "sql": ".sql"}


def wheel(source: Path) -> Path:
    """The wheel, built offline from a copy of the tree in `source` by the pinned hatchling of this environment."""
    pytest.importorskip("hatchling", reason="hatchling comes with requirements/; `make install` brings it")
    for name in (*CODE, *DATA):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", ".gitignore"):
        shutil.copy(ROOT / name, source / name)
    build = "import hatchling.build, sys; print(hatchling.build.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(source)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return source / done.stdout.split()[-1]
