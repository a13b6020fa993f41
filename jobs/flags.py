"""What the values of flags stand for."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.bundled import bundled
from pipelines.errors import ConfigError


def config_path(name: str) -> Path:
    """The file of a configuration: a path, or the bare name of one that comes with the package."""
    path = Path(name)
    if path.is_file():
        return path
    packaged = bundled("conf") / f"{name}.yaml"
    return packaged if packaged.is_file() else path


def pairs(items: Sequence[str], flag: str) -> dict[str, str]:
    """`KEY=VALUE` flags as a mapping.

    Raises:
        ConfigError: one has no equals sign, or a name comes twice.
    """
    found: dict[str, str] = {}
    for key, value in _split(items, flag):
        if key in found:
            raise ConfigError(f"{flag} names {key} twice, as {found[key]!r} and as {value!r}; keep one")
        found[key] = value
    return found


def choices(items: Sequence[str], flag: str) -> dict[str, list[str]]:
    """`KEY=VALUE` flags as a mapping from a name to all values that it was given.

    Raises:
        ConfigError: one has no equals sign.
    """
    found: dict[str, list[str]] = {}
    for key, value in _split(items, flag):
        found.setdefault(key, []).append(value)
    return found


def _split(items: Sequence[str], flag: str) -> Iterator[tuple[str, str]]:
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise ConfigError(f"{flag} takes NAME=VALUE, got {item!r}")
        yield key, value


def fork_point(text: str | None) -> tuple[str, int] | None:
    """`RUN@ROUND` as the run and its last round to keep; None, or the empty text of a job's parameter, is None.

    Raises:
        ConfigError: it is not of that form.
    """
    if not text:
        return None
    run_id, at, round = text.rpartition("@")
    if not at or not run_id or not round.isdecimal():
        raise ConfigError(f"--fork takes RUN@ROUND, such as sandbox-0@2; got {text!r}")
    return run_id, int(round)
