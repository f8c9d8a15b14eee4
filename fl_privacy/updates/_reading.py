"""What a store's lines and shards say, one at a time: pieces of its reading side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.errors import UserError
from fl_privacy.updates._files import StoreError
from fl_privacy.updates._shard import Shard


def read_index(path: Path) -> list[dict[str, Any]]:
    """Read an index, one entry a round."""
    # A line without its end is one that a killed process was writing.
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [_entry(path, number, line) for number, line in enumerate(lines, 1)]


def _entry(path: Path, number: int, line: str) -> dict[str, Any]:
    """Read a line of the index."""
    try:
        entry: Any = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or not {"round", "shard", "bytes", "told", "records"} <= set(entry):
        raise StoreError(f"{path} cannot be read: line {number} is not a round of a store")
    return entry


def messages_of(record: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Return which messages a record is about: (number of the model, number of what was told), several for a sum."""
    pairs = record.get("messages") or [(record["sent"], record["told"])]
    return [(int(sent), int(told)) for sent, told in pairs]


def as_sent(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Put an array back into the type that it was sent in, where a shard holds another in its place."""
    # A strategy may send an array in another type than it did at first: then what the shard holds is right.
    widened = dtype.kind == "u" and array.dtype == np.int64
    return array.astype(dtype, copy=False) if widened or array.dtype == dtype.newbyteorder("=") else array


def damage(entry: Mapping[str, Any], shard: Shard, keeps_sent: bool) -> str:
    """Say what of a shard's size and structure shows that it is not what was written; empty where nothing does."""
    name = shard.path.name
    try:
        size = shard.path.stat().st_size
    except OSError as error:
        return f"{name} cannot be read: {error.strerror or error}"
    if size != entry["bytes"]:
        return f"{name} has {size:,} bytes of {entry['bytes']:,}: it is damaged"
    try:
        names, written_for = shard.names, shard.server_round
    except UserError as error:
        return f"{name} cannot be read: {error.__cause__}"
    if written_for != entry["round"]:
        return f"{name} was written for round {written_for}: it is not the shard that was written here"
    prefixes = [f"update/{n}/" for n, record in enumerate(entry["records"]) if "failure" not in record]
    if keeps_sent:
        usable = [record for record in entry["records"] if "failure" not in record]
        prefixes += [f"sent/{sent}/" for record in usable for sent, _ in messages_of(record)]
    held = {"/".join(name.split("/", 2)[:2]) + "/" for name in names}
    lacking = [prefix for prefix in prefixes if prefix not in held]
    return f"{name} lacks {lacking[0]}: it is not the shard that was written" if lacking else ""


class LazyArrays(Mapping[str, NDArray[np.float32]]):
    """The arrays of one update, read when asked for and not kept."""

    def __init__(self, shard: Shard, prefix: str, names: tuple[str, ...]) -> None:
        self._shard, self._prefix, self._model = shard, prefix, names

    @cached_property
    def _names(self) -> tuple[str, ...]:
        # A client may have sent a part of the model only.
        held = self._shard.names
        return tuple(name for name in self._model if self._prefix + name in held)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        if name not in self._names:
            raise KeyError(name)
        return self._shard[self._prefix + name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
