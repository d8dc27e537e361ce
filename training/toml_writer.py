"""Dataclass tables back to TOML (the standard library only reads it)."""

import json
from typing import Any


def to_toml(table: dict[str, Any], prefix: str = "") -> str:
    """Nested tables of strings, numbers and booleans as TOML text that `tomllib` reads back equal."""
    plain = [f"{_key(k)} = {_value(v)}" for k, v in table.items() if not isinstance(v, dict)]
    text = "\n".join(plain) + ("\n" if plain else "")
    for key, value in table.items():
        if isinstance(value, dict):
            name = f"{prefix}{_key(key)}"
            text += f"\n[{name}]\n" + to_toml(value, f"{name}.")
    return text


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (int, float)):
        return repr(value)
    raise TypeError(f"no TOML for {value!r}")
