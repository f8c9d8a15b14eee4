"""Captured updates on disk: one safetensors shard a round, and an index of one line a round.

Layout of a store::

    store.json            format, threat model, array names and shapes, dtype
    index.jsonl           one line a round: the shard's name, and what each client sent
    round-000001.safetensors
        update/<k>/<array>          what the k-th reply of the round brought
        sent/<n>/<array>            the n-th different model that was sent in this round

A shard is written under a temporary name and renamed, and its line follows: what the index names is whole. Nothing
is synced to the medium: a store survives a killed process, not a power cut. No time, path, node or message id is in
it, so that equal runs give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fl_privacy.updates._files import FORMAT, HEADER, INDEX, StoreError
from fl_privacy.updates._shard import Shard
from fl_privacy.updates._writer import Arrays, Reply, Writer
from fl_privacy.updates.record import ThreatModel, Update

__all__ = ["Reply", "StoreError", "UpdateStore"]


class UpdateStore:
    """Captured updates: written once, round by round, by a strategy; read any number of times by attacks.

    Parameters
    ----------
    path : str or Path
        Folder of the store; made when the first round is written.
    arrays : sequence of str, optional
        Arrays to keep (a name, or the stem of one: ``"fc1"`` keeps ``fc1.weight`` and ``fc1.bias``); all by default.
    dtype : {"float32", "bfloat16"}
        How updates are stored. ``bfloat16`` halves the size and keeps three digits.
    keep_sent : bool
        Whether the model that each client was sent is stored too. Attacks that need it refuse a store without.

    Notes
    -----
    Writing happens in one background thread, at most two rounds behind; an error there is raised by the next call.
    Reading maps the shards into memory: it costs page cache, not anonymous memory.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        arrays: Sequence[str] | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        keep_sent: bool = True,
    ) -> None:
        if dtype not in ("float32", "bfloat16"):
            raise StoreError(f"a store keeps float32 or bfloat16, not {dtype!r}")
        self.path = Path(path)
        self._keep = tuple(arrays) if arrays is not None else None
        self._dtype = dtype
        self._keep_sent = keep_sent
        self._writer: Writer | None = None

    def __repr__(self) -> str:
        return f"UpdateStore({str(self.path)!r})"

    # ------------------------------------------------------------------ writing

    def begin(self, threat_model: ThreatModel) -> None:
        """Make the folder and start the writer.

        Raises
        ------
        StoreError
            If the folder holds anything (captures are never mixed) or cannot be written.
        """
        self._writer = Writer(self.path, threat_model, self._keep, self._dtype, self._keep_sent)

    def append(self, server_round: int, sent: Sequence[Arrays], replies: Sequence[Reply]) -> None:
        """Queue one round.

        Parameters
        ----------
        server_round : int
            Round number.
        sent : sequence of Mapping[str, ndarray]
            The different models that were sent in this round.
        replies : sequence of Reply
            What came back. Everything is copied before this returns.
        """
        if self._writer is None:
            raise StoreError(f"{self.path}: begin() comes before append()")
        self._writer.append(server_round, sent, replies)

    def flush(self) -> None:
        """Wait until every queued round is on disk."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Flush and end the capture. Safe to call twice."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    # ------------------------------------------------------------------ reading

    @property
    def _header(self) -> dict[str, Any]:
        self.flush()
        if (self.path / INDEX).exists() and not (self.path / HEADER).exists():
            raise StoreError(f"{self.path} holds no captured round yet")
        try:
            header: dict[str, Any] = json.loads((self.path / HEADER).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StoreError(f"{self.path} is not a store of updates: it has no {HEADER}") from None
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path / HEADER} cannot be read: {error}") from error
        if header.get("format") != FORMAT:
            raise StoreError(
                f"{self.path} has format {header.get('format')}; this version reads format {FORMAT}: update fl-privacy"
            )
        return header

    @property
    def _rounds(self) -> list[dict[str, Any]]:
        _ = self._header
        # A line without its end is one that a killed process was writing.
        lines = (self.path / INDEX).read_text(encoding="utf-8").split("\n")[:-1]
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise StoreError(f"{self.path / INDEX} cannot be read: {error}") from error

    @property
    def threat_model(self) -> ThreatModel:
        """The threat model under which the updates were captured."""
        return ThreatModel(**self._header["threat_model"])

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each stored array, in the model's order."""
        return {array["name"]: tuple(array["shape"]) for array in self._header["model"] if array["kept"]}

    @property
    def model_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each array of the model, stored or not, in its order."""
        return {array["name"]: tuple(array["shape"]) for array in self._header["model"]}

    @property
    def rounds(self) -> tuple[int, ...]:
        """Rounds that the store holds."""
        return tuple(entry["round"] for entry in self._rounds)

    @property
    def failures(self) -> tuple[tuple[int, str, str], ...]:
        """Replies that are of no use to an attack: (round, client, reason)."""
        return tuple(
            (entry["round"], record["client"], record["failure"])
            for entry in self._rounds
            for record in entry["records"]
            if "failure" in record
        )

    def updates(self) -> list[Update]:
        """Return every usable update, by round and then in the order of arrival.

        The arrays are read from the mapped shards when they are looked at.
        """
        names, model = tuple(self.shapes), self.model_shapes
        found = []
        for entry in self._rounds:
            shard = Shard(self.path / entry["shard"])
            for number, record in enumerate(entry["records"]):
                if "failure" not in record:
                    arrays = _LazyArrays(shard, f"update/{number}/", names)
                    examples = record["num_examples"]
                    found.append(Update(entry["round"], record["client"], record["kind"], examples, arrays, model))
        return found

    def sent(self, server_round: int, client: str) -> dict[str, NDArray[np.float32]]:
        """Return the model that a client was sent.

        Raises
        ------
        StoreError
            If the store keeps no sent models, or the client took no part in the round.
        """
        for entry in self._rounds:
            for record in entry["records"]:
                if entry["round"] == server_round and record["client"] == client:
                    if record["sent"] is None:
                        raise StoreError(f"{self.path} was captured without the models that were sent")
                    shard, prefix = Shard(self.path / entry["shard"]), f"sent/{record['sent']}/"
                    return {name.removeprefix(prefix): shard[name] for name in shard.names if name.startswith(prefix)}
        raise StoreError(f"{self.path}: client {client!r} took no part in round {server_round}")


class _LazyArrays(Mapping[str, NDArray[np.float32]]):
    """The arrays of one update, read when asked for and not kept."""

    def __init__(self, shard: Shard, prefix: str, names: tuple[str, ...]) -> None:
        self._shard, self._prefix, self._names = shard, prefix, names

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        if name not in self._names:
            raise KeyError(name)
        return self._shard[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
