"""Functions that a configuration names as `package.module:function`."""

import ast
import hashlib
import importlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, resolve_name
from typing import Any

from pipelines.errors import ConfigError


def import_function(path: str) -> Callable[..., Any]:
    """The function of that name.

    Raises:
        ConfigError: there is no such module or function.
    """
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path!r} names no function; write package.module:function ({error})") from error
    if not callable(found):
        raise ConfigError(f"{path!r} is not a function")
    return found


def source_digests(path: str) -> dict[str, str]:
    """Digests, SHA-256, of the files that a function's words are in: its module's, and those of its package that this imports.

    Args:
        path: of a function that `import_function` has found.

    Returns:
        Module to digest. What is imported within a function counts, and what is imported by a computed name does not.
    """
    left = [path.partition(":")[0]]
    package = left[0].partition(".")[0]
    found: dict[str, str] = {}
    while left:
        name = left.pop()
        spec = None
        if name not in found and name.partition(".")[0] == package:
            with suppress(ModuleNotFoundError):  # the name of something in a module
                spec = find_spec(name)
        loader: Any = spec and spec.loader
        if spec is None or spec.origin is None or not hasattr(loader, "get_data"):
            continue
        words = loader.get_data(spec.origin)
        found[name] = hashlib.sha256(words).hexdigest()
        with suppress(SyntaxError, ValueError):  # compiled
            left += _imported(ast.parse(words), spec)
    return dict(sorted(found.items()))


def _imported(tree: ast.Module, spec: ModuleSpec) -> Iterator[str]:
    """What a module imports, by names of which some may be of what is in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), spec.parent or "")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
