"""Settings as the text of a simulation file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def dumps(settings: Mapping[str, Any]) -> str:
    """Write settings as TOML, which has no null: what is None is left out.

    Parameters
    ----------
    settings : mapping
        Plain JSON values.

    Returns
    -------
    str
        Reads back (``tomllib``) as the same values.
    """
    return "\n\n".join(_table(settings, (), "")).strip() + "\n"


def _table(settings: Mapping[str, Any], path: tuple[str, ...], header: str) -> list[str]:
    plain, blocks = [], []
    for key, value in settings.items():
        inner = (*path, _key(key))
        if value is None:
            continue
        if isinstance(value, Mapping) and value:
            blocks += _table(value, inner, f"[{'.'.join(inner)}]")
        elif isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
            for item in value:
                blocks += _table(item, inner, f"[[{'.'.join(inner)}]]")
        else:
            plain.append(f"{_key(key)} = {_value(value)}")
    own = "\n".join([header] * bool(header) + plain)
    return [own] * bool(own) + blocks


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_value(v) for v in value if v is not None) + "]"
    # JSON's strings (with DEL escaped), numbers and booleans are TOML's too.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
