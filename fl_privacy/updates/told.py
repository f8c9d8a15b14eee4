"""What a message told a client beside the model: its other records, as plain values that an index line can hold."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Told:
    """A message without its arrays.

    Attributes
    ----------
    message_type : str
        As Flower has it: ``"train"``, ``"train.my_function"``.
    records : tuple of (key, kind, values)
        The message's records in order. The values of an ``"arrays"`` record are left empty: arrays are kept beside.
    """

    message_type: str
    records: tuple[tuple[str, Literal["arrays", "config", "metrics"], dict[str, Any]], ...]

    def to_json(self) -> dict[str, Any]:
        """Return values that strict JSON can hold, in their order."""
        records = [
            [key, kind, [[name, _plain(value)] for name, value in values.items()]] for key, kind, values in self.records
        ]
        return {"type": self.message_type, "records": records}

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Told:
        """Return what `to_json` was made of."""
        records = ((key, kind, {name: _value(v) for name, v in values}) for key, kind, values in entry["records"])
        return cls(entry["type"], tuple(records))


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(float(value))}
    return value


def _value(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_value(v) for v in plain]
    if isinstance(plain, dict):
        return base64.b64decode(plain["base64"]) if "base64" in plain else float(plain["float"])
    return plain
