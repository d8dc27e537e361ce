"""Dataclass tables back to TOML (the standard library only reads it)."""

import json
from typing import Any


def to_toml(table: dict[str, Any], prefix: str = "") -> str:
    """Nested tables, lists, strings, numbers and booleans as TOML that `tomllib` reads back equal, tuples as

    lists.
    """
    plain = [f"{_key(k)} = {_value(v)}" for k, v in table.items() if not _is_table(v)]
    text = "\n".join(plain) + ("\n" if plain else "")
    for key, value in table.items():
        if isinstance(value, dict):
            name = f"{prefix}{_key(key)}"
            text += f"\n[{name}]\n" + to_toml(value, f"{name}.")
        elif _is_table(value):
            name = f"{prefix}{_key(key)}"
            text += "".join(f"\n[[{name}]]\n" + to_toml(item, f"{name}.") for item in value)
    return text


def _is_table(value: object) -> bool:
    """Written under a [heading]: a dictionary, or a list of them."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(item, dict) for item in value)
    return isinstance(value, dict)


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    raise TypeError(f"no TOML for {value!r}")
