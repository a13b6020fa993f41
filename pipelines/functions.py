"""Functions that a configuration names as `package.module:function`."""

import importlib
from collections.abc import Callable
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
