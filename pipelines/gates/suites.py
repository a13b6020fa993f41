"""Suites: what each gate wants, as data. `conf/gates.yaml` holds the defaults and explains the format."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.config import read_yaml
from pipelines.errors import ConfigError
from pipelines.gates.expectations import expectation_class, expectation_names, snake_case
from pipelines.gates.frames import COLUMNS
from schemas.digests import digest

_KEYS = ("name", "expectation", "column", "kwargs", "if_present", "remedy")


@dataclass(frozen=True)
class Check:
    """One expectation of a gate.

    Attributes:
        name: what results and overrides call it.
        expectation: Great Expectations' class, in snake case.
        column: the frame's column that it looks at; None for the whole frame.
        kwargs: the expectation's other parameters, resolved.
        if_present: whether it applies only to batches in which the column has a value.
        remedy: one sentence: what to do when it fails.
    """

    name: str
    expectation: str
    column: str | None
    kwargs: Mapping[str, Any]
    if_present: bool
    remedy: str

    @property
    def wanted(self) -> dict[str, Any]:
        """Column and parameters, as results record them."""
        return {"column": self.column, **self.kwargs} if self.column else dict(self.kwargs)


@dataclass(frozen=True)
class Suite:
    """The checks of a gate, in the order in which they are told."""

    gate: str
    checks: tuple[Check, ...]

    @cached_property
    def digest(self) -> str:
        """Digest of what decides: names, expectations and resolved parameters; not the remedies' words."""
        content = [[item.name, item.expectation, item.wanted, item.if_present] for item in self.checks]
        return digest([self.gate, content])

    def check(self, name: str) -> Check:
        """The check of that name.

        Raises:
            ConfigError: the gate has none; names the nearest that it has.
        """
        for item in self.checks:
            if item.name == name:
                return item
        known = [item.name for item in self.checks]
        raise ConfigError(f"gate {self.gate} has no check {name!r}{_nearest(name, known)}")


def load_suites(
    path: Path, parameters: Mapping[str, float | int | str], *, asked: bool = True
) -> dict[str, Suite]:
    """Read and check all suites of a file; Great Expectations itself says whether a check can be asked.

    Args:
        path: YAML file.
        parameters: values that replace the file's own.
        asked: False leaves Great Expectations, which takes seconds to import, out of it: for who only compares suites.

    Raises:
        ConfigError: no such file, a gate, key, expectation, column or parameter that does not exist (with the
            nearest that does), a value of the wrong kind, a check without a remedy, or a gate without checks.
    """
    raw = _read(path)
    values = _values(str(path), raw.get("parameters") or {}, parameters)
    gates = raw.get("gates") or {}
    if not isinstance(gates, dict):
        raise ConfigError(f"{path}: gates holds {type(gates).__name__}, not gate names with lists of checks")
    _refuse_unknown(str(path), "gate", gates, COLUMNS)
    missing = [gate for gate in COLUMNS if not gates.get(gate)]
    if missing:
        raise ConfigError(
            f"{path} has no checks for gate {', '.join(missing)}: a gate without checks lets all pass"
        )
    return {
        gate: _suite(f"{path}: gate {gate}", gate, checks, values, asked) for gate, checks in gates.items()
    }


def _read(path: Path) -> dict[str, Any]:
    raw = read_yaml(path, "suites", "set gates.suites to a YAML file such as conf/gates.yaml")
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds {type(raw).__name__}, not the keys parameters and gates")
    _refuse_unknown(str(path), "key", raw, ("parameters", "gates"))
    return raw


def _values(source: str, defaults: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(defaults, dict):
        raise ConfigError(f"{source}: parameters holds {type(defaults).__name__}, not names with values")
    _refuse_unknown("gates.parameters", "parameter", given, defaults)
    for name, value in given.items():
        if isinstance(value, str) != isinstance(defaults[name], str) or isinstance(value, bool):
            kind = "text" if isinstance(defaults[name], str) else "a number"
            raise ConfigError(
                f"gates.parameters.{name} = {value!r}: it takes {kind}, such as {defaults[name]!r}"
            )
    return {**defaults, **given}


def _suite(where: str, gate: str, checks: Any, values: Mapping[str, Any], asked: bool) -> Suite:
    if not isinstance(checks, list) or not all(isinstance(item, dict) for item in checks):
        raise ConfigError(f"{where}: write a list of checks, each with {', '.join(_KEYS)}")
    made: list[Check] = []
    for item in checks:
        check = _check(where, gate, item, values, asked)
        if check.name in [other.name for other in made]:
            raise ConfigError(f"{where} has two checks {check.name!r}: give one another name")
        made.append(check)
    return Suite(gate, tuple(made))


def _check(where: str, gate: str, item: Mapping[str, Any], values: Mapping[str, Any], asked: bool) -> Check:
    where = f"{where}, check {item.get('name')!r}"
    _refuse_unknown(where, "key", item, _KEYS)
    lacking = [
        key
        for key in ("name", "expectation", "remedy")
        if not isinstance(item.get(key), str) or not item[key]
    ]
    if lacking:
        raise ConfigError(
            f"{where} lacks {', '.join(lacking)}: a check has a name, an expectation and a remedy"
        )
    column, kwargs, if_present = item.get("column"), item.get("kwargs") or {}, item.get("if_present", False)
    if not isinstance(kwargs, dict) or not isinstance(if_present, bool) or (if_present and column is None):
        raise ConfigError(
            f"{where}: kwargs holds parameters by name, if_present is true or false and needs a column"
        )
    if column is not None:
        _refuse_unknown(where, "column", [column], COLUMNS[gate])
    resolved = {name: _resolve(where, value, values) for name, value in kwargs.items()}
    name = str(item["expectation"])
    expectation = _expectation(where, name, column, resolved) if asked else snake_case(name)
    return Check(item["name"], expectation, column, resolved, if_present, item["remedy"])


def _resolve(where: str, value: Any, values: Mapping[str, Any]) -> Any:
    """The value with each `$name` in it replaced by that parameter."""
    if isinstance(value, dict):
        return {key: _resolve(where, inner, values) for key, inner in value.items()}
    if isinstance(value, list):
        return [_resolve(where, inner, values) for inner in value]
    if isinstance(value, str) and value.startswith("$"):
        _refuse_unknown(where, "parameter", [value[1:]], values)
        return values[value[1:]]
    return value


def _expectation(where: str, name: str, column: str | None, kwargs: Mapping[str, Any]) -> str:
    """The expectation's name in snake case, once Great Expectations has taken its parameters."""
    known = expectation_names()
    camel = {made: snake for snake, made in known.items()}
    if name not in known and name not in camel:
        raise ConfigError(
            f"{where}: no expectation {name!r}{_nearest(name, camel if name[0].isupper() else known)}"
        )
    snake = camel.get(name, name)
    made = expectation_class(snake)
    fields = [*made.__fields__]
    extra = set(kwargs) - set(fields)
    if (
        extra
        or ("column" in fields) != (column is not None)
        or {"column", "meta", "result_format"} & set(kwargs)
    ):
        if extra:
            _refuse_unknown(f"{where}: {snake}", "parameter", sorted(extra), fields)
        needs = "needs a column" if "column" in fields else "looks at the whole frame and takes no column"
        raise ConfigError(
            f"{where}: {snake} {needs}; column stands beside kwargs, and meta and result_format are ours"
        )
    try:
        made(**kwargs, **({"column": column} if column else {}))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{where}: {snake} refuses {dict(kwargs)!r}: {' '.join(str(error).split())}"
        ) from None
    return snake


def _refuse_unknown(where: str, what: str, given: Iterable[Any], known: Iterable[str]) -> None:
    names = list(known)
    for name in given:
        if name not in names:
            raise ConfigError(f"{where}: there is no {what} {name!r}{_nearest(str(name), names)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"; the nearest valid one is {near[0]!r}" if near else f"; valid are {', '.join(names)}"
