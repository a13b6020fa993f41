"""Great Expectations itself, imported when first needed: it costs seconds."""

import logging
import os
import re
import threading
from collections.abc import Mapping
from functools import cache
from typing import Any


def _quiet() -> None:
    # Read when the package is imported: a red-teaming pipeline calls nobody.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"


def import_ahead() -> None:
    """Import it in the background, while Spark starts for instance."""
    # No daemon: an interpreter that ends in the middle of an import of compiled modules may crash.
    threading.Thread(target=expectation_names, name="import-gates").start()


@cache
def context() -> Any:
    """The one context of this process: in memory, without progress bars."""
    _quiet()
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    # It sets its own logger to INFO when it is imported, and names a temporary folder that it has already removed.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    made = gx.get_context(mode="ephemeral")
    made.variables.progress_bars = ProgressBarsConfig(globally=False)
    return made


@cache
def expectation_names() -> Mapping[str, str]:
    """The expectations there are: name in snake case to class name."""
    _quiet()
    from great_expectations import expectations

    classes = {name: getattr(expectations, name) for name in dir(expectations) if name.startswith("Expect")}
    return {
        made.expectation_type: name for name, made in classes.items() if hasattr(made, "expectation_type")
    }


def snake_case(name: str) -> str:
    """What `expectation_names` calls a class, also one in snake case; without an import, and whether or not there is one."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])", "_", name).lower()


def expectation_class(snake: str) -> Any:
    """The class of an expectation named in snake case."""
    from great_expectations import expectations

    return getattr(expectations, expectation_names()[snake])
