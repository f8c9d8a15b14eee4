"""What a client's defenses keep from round to round, in its Flower context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context

from fl_privacy.updates.protocol import RECORD

_LISTS, _ARRAYS = f"{RECORD}.memory", f"{RECORD}.memory-arrays"


def recall(context: Context) -> dict[str, Any]:
    """Return what was kept: lists of numbers, and arrays."""
    state = context.state
    kept: dict[str, Any] = dict(state.config_records[_LISTS]) if _LISTS in state else {}
    if _ARRAYS in state:
        kept |= {name: array.numpy() for name, array in state.array_records[_ARRAYS].items()}
    return kept


def keep(context: Context, memory: Mapping[str, Any]) -> None:
    """Keep it for the client's next message."""
    arrays = {name: value for name, value in memory.items() if isinstance(value, np.ndarray)}
    lists = {name: value for name, value in memory.items() if name not in arrays}
    if lists:
        context.state[_LISTS] = ConfigRecord(lists)
    if arrays:
        context.state[_ARRAYS] = ArrayRecord({name: Array(value) for name, value in arrays.items()})
