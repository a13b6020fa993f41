"""What a process of vLLM says with our plugins, for several values of a variable that they read."""

import subprocess
import sys
from collections.abc import Iterable

import pytest

# vLLM is imported once; each child is then what a server is that starts with the variable so.
_CODE = """
import os, sys
from vllm.plugins import load_general_plugins
{setup}
for asked in sys.argv[2:]:
    if not os.fork():
        os.environ[sys.argv[1]] = asked
        load_general_plugins()
        print(said(), flush=True)
        os._exit(0)
    os.wait()
"""


def said(setup: str, variable: str, values: Iterable[str]) -> list[str]:
    """A word for each value of a variable, once the plugins are loaded under it; `setup` defines `said()`, which gives it."""
    pytest.importorskip("vllm")
    asked = list(values)
    words = [sys.executable, "-c", _CODE.format(setup=setup), variable, *asked]
    ended = subprocess.run(words, env={"PATH": ""}, capture_output=True, text=True)
    found = ended.stdout.split()[-len(asked) :]
    assert len(found) == len(asked), ended.stderr
    return found
