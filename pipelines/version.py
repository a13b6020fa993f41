"""Which code this is."""

import importlib.metadata
import subprocess
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def code_version() -> str:
    """The package's version, with the commit where the code runs from a checkout."""
    try:
        version = importlib.metadata.version("mart-redteam")
    except importlib.metadata.PackageNotFoundError:
        version = "0"
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return version
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude", "*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return f"{version}+{commit}" if commit else version
