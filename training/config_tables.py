"""TOML tables as frozen dataclasses, strictly: unknown, missing and mistyped keys are refused by name."""

import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """The TOML file or a `--set` says something that we do not understand."""


def from_table(kind: type[T], table: dict[str, Any], where: str) -> T:
    """A dataclass from a TOML table. Raises ConfigError naming an unknown, missing or mistyped key."""
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    if unknown := sorted(set(table) - set(known)):
        raise ConfigError(f"unknown key {where}{unknown[0]}; known: {', '.join(known)}")
    values: dict[str, Any] = {}
    for name, spec in known.items():
        if name in table:
            values[name] = _converted(hints[name], table[name], f"{where}{name}")
        elif spec.default is MISSING and spec.default_factory is MISSING:
            raise ConfigError(f"missing key {where}{name}")
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"{where or 'config'}: {error}") from error


def _converted(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, types.UnionType) and all(is_dataclass(choice) for choice in typing.get_args(hint)):
        hint = _chosen(typing.get_args(hint), value, where)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} must be a list")
        item = typing.get_args(hint)[0]
        return tuple(_converted(item, one, f"{where}.{number}") for number, one in enumerate(value))
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} must be a table")
        return from_table(hint, value, f"{where}.")
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise ConfigError(
                f"{where} must be one of {', '.join(map(repr, typing.get_args(hint)))}, not {value!r}"
            )
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = typing.get_origin(hint) or hint
    if (
        isinstance(plain, types.UnionType)
        or not isinstance(value, plain)
        or (plain is int and isinstance(value, bool))
    ):
        raise ConfigError(f"{where} must be {getattr(plain, '__name__', plain)}, not {value!r}")
    return value


def _chosen(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    """The dataclass whose `kind` a table names; the first where it names none."""
    kinds = {choice().kind: choice for choice in choices}
    kind = value.get("kind", next(iter(kinds))) if isinstance(value, dict) else next(iter(kinds))
    if kind not in kinds:
        raise ConfigError(f"{where}.kind must be one of {', '.join(map(repr, kinds))}, not {kind!r}")
    return kinds[kind]
