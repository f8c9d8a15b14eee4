"""Captured updates on disk: one safetensors shard a round, and an index of one line a round.

Layout of a store::

    store.json            format, threat model, what is kept, array names, shapes and dtypes
    index.jsonl           one line a round: the shard's name and size, what each client was told and sent
    round-000001.safetensors
        update/<k>/<array>          what the k-th record of the round brought
        sent/<n>/<array>            the n-th different model that was sent in this round

A shard is written under a temporary name and renamed, and its line follows: what the index names is whole. Nothing
is synced to the medium: a store survives a killed process, not a power cut. No time, path, node or message id is in
it, and records stand in the order of the clients' names, so that equal runs give equal bytes on every engine. (Only
where clients have no partition id, their node ids are their names.)
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fl_privacy.updates._files import FORMAT, HEADER, INDEX, StoreError
from fl_privacy.updates._reading import LazyArrays, as_sent, damage, messages_of, read_index
from fl_privacy.updates._shard import Shard
from fl_privacy.updates._writer import Arrays, Reply, Settings, Writer
from fl_privacy.updates.record import NamedBy, Observe, ThreatModel, Update
from fl_privacy.updates.told import Told

__all__ = ["Reply", "SentMessage", "StoreError", "UpdateStore"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SentMessage:
    """What a client was sent: enough to send it again.

    Attributes
    ----------
    arrays : Mapping[str, ndarray]
        The model as it was sent, each array in its own dtype. Where the message had several array records, names begin
        with the record's key: ``key/name``.
    told : Told
        The rest of the message.
    """

    arrays: Mapping[str, NDArray[Any]]
    told: Told


class UpdateStore:
    """Captured updates: written once, round by round, by a strategy; read any number of times by attacks.

    Parameters
    ----------
    path : str or Path
        Folder of the store; made when the first round is written.
    arrays : sequence of str, optional
        Arrays to keep (a name, or the stem of one: ``"fc1"`` keeps ``fc1.weight`` and ``fc1.bias``); all by default.
    clients : sequence of str, optional
        Clients to keep, by partition id (or by the name that they have in a store); all by default.
    every : int
        Rounds 1, 1 + every, 1 + 2 every, ... are kept.
    dtype : {"float32", "bfloat16"}
        How updates are stored. ``bfloat16`` halves the size and keeps three digits.
    keep_sent : bool
        Whether the model that each client was sent is stored too. Attacks that need it refuse a store without.

    Notes
    -----
    Writing happens in one background thread, at most two rounds behind; an error there is raised by the next call.
    Reading maps the shards into memory: it costs page cache, not anonymous memory. These settings matter to writing
    alone; a store is read as it was written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        arrays: Sequence[str] | None = None,
        clients: Sequence[str | int] | None = None,
        every: int = 1,
        dtype: Literal["float32", "bfloat16"] = "float32",
        keep_sent: bool = True,
    ) -> None:
        if dtype not in ("float32", "bfloat16"):
            raise StoreError(f"a store keeps float32 or bfloat16, not {dtype!r}")
        if not isinstance(every, int) or every < 1:
            raise StoreError(f"every must be a whole number from 1, not {every!r}")
        for name, chosen in (("arrays", arrays), ("clients", clients)):
            if isinstance(chosen, str):
                raise StoreError(f"{name} must be a list of names, not {chosen!r}: [{chosen!r}]?")
        self.path = Path(path)
        self.settings = Settings(
            tuple(arrays) if arrays is not None else None,
            tuple(str(c) for c in clients) if clients is not None else None,
            every,
            dtype,
            keep_sent,
        )
        self._writer: Writer | None = None
        self._parsed: dict[str, tuple[tuple[int, ...], Any]] = {}

    def __repr__(self) -> str:
        return f"UpdateStore({str(self.path)!r})"

    # ------------------------------------------------------------------ writing

    def begin(self, threat_model: ThreatModel, observe: Observe = "each", resume_after: int | None = None) -> None:
        """Make the folder and start the writer.

        Parameters
        ----------
        threat_model : ThreatModel
            Who sees what; written into the store.
        observe : {"each", "sum"}
            ``"sum"`` writes the weighted sum of each round's updates and who took part, and nothing of one client.
            (The sum over a single participant is what that client sent.) Unweighted where a weight is lacking.
        resume_after : int, optional
            Go on behind this round of what a killed run left; whatever lies behind it is removed.

        Raises
        ------
        StoreError
            If the folder holds anything (captures are never mixed) or cannot be written; or what is to be gone on with
            is not there, or was captured with other settings.
        """
        if observe == "sum" and self.settings.clients is not None:
            raise StoreError("a sum is over all clients of a round: observe='sum' and clients=... exclude each other")
        self._writer = Writer(self.path, threat_model, self.settings, observe, resume_after)

    def wants(self, server_round: int) -> bool:
        """Whether a round is one of those to be kept."""
        return (server_round - 1) % self.settings.every == 0

    def append(
        self, server_round: int, sent: Sequence[Arrays], replies: Sequence[Reply], told: Sequence[Told] = ()
    ) -> None:
        """Queue one round.

        Parameters
        ----------
        server_round : int
            Round number.
        sent : sequence of Mapping[str, ndarray]
            The different models that were sent in this round.
        replies : sequence of Reply
            What came back. Everything is copied before this returns.
        told : sequence of Told
            What clients were told beside the model, each different one once.
        """
        if self._writer is None:
            raise StoreError(f"{self.path}: begin() comes before append()")
        self._writer.append(server_round, sent, replies, told)

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
            header = self._once(HEADER, lambda path: json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            there = f"it has no {HEADER}" if self.path.exists() else "there is no such folder"
            raise StoreError(f"{self.path} is not a store of updates: {there}") from None
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path / HEADER} cannot be read: {error}") from error
        written = header.get("format") if isinstance(header, dict) else None
        if written != FORMAT:
            newer = isinstance(written, int) and written > FORMAT
            advice = "update fl-privacy" if newer else "capture again, or read it with the version that wrote it"
            raise StoreError(f"{self.path} has format {written}; this version reads format {FORMAT}: {advice}")
        whole: dict[str, Any] = header
        return whole

    @property
    def _rounds(self) -> list[dict[str, Any]]:
        _ = self._header
        try:
            entries: list[dict[str, Any]] = self._once(INDEX, read_index)
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path / INDEX} cannot be read: {error}") from error
        return entries

    def _once(self, name: str, parse: Callable[[Path], Any]) -> Any:
        """Return what a file of the store holds, parsed again only when it has changed."""
        path = self.path / name
        state = path.stat()
        version = (state.st_ino, state.st_size, state.st_mtime_ns)
        held = self._parsed.get(name)
        if held is None or held[0] != version:
            held = self._parsed[name] = version, parse(path)
        return held[1]

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
    def dtype(self) -> Literal["float32", "bfloat16"]:
        """How updates are stored."""
        dtype: Literal["float32", "bfloat16"] = self._header["dtype"]
        return dtype

    @property
    def keeps_sent(self) -> bool:
        """Whether the models that clients were sent are stored too."""
        return bool(self._header["keeps_sent"])

    @property
    def observe(self) -> Observe:
        """Whether the store holds each client's update or weighted sums over clients."""
        observe: Observe = self._header["observe"]
        return observe

    @property
    def rounds(self) -> tuple[int, ...]:
        """Rounds that the store holds."""
        return tuple(entry["round"] for entry in self._rounds)

    @property
    def named_by(self) -> dict[str, NamedBy]:
        """Where each client's name comes from: its partition id by query or by mod, or its node id."""
        named: dict[str, NamedBy] = {}
        for record in (record for entry in self._rounds for record in entry["records"]):
            if "participants" in record:
                named |= dict(zip(record["participants"], record["named_by"], strict=True))
            else:
                named[record["client"]] = record["named_by"]
        return named

    @property
    def failures(self) -> tuple[tuple[int, str, str], ...]:
        """Replies that are of no use to an attack: (round, client, reason)."""
        return tuple(
            (entry["round"], record["client"], record["failure"])
            for entry in self._rounds
            for record in entry["records"]
            if "failure" in record
        )

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(file.stat().st_size for file in self.path.iterdir())

    def check(self) -> list[str]:
        """Look at every shard's size and structure and return what is wrong, one sentence each (values are not read).

        Shards that no index line names are left of a killed process, and harmless; they are not mentioned.
        """
        shards = ((entry, Shard(self.path / entry["shard"])) for entry in self._rounds)
        return [
            f"round {entry['round']}: {wrong}"
            for entry, shard in shards
            if (wrong := damage(entry, shard, self.keeps_sent))
        ]

    def digest(self) -> str:
        """Return the SHA-256 of all that the store holds: equal for equal captures.

        Raises
        ------
        StoreError
            If a shard cannot be read.
        """
        whole = hashlib.sha256()
        try:
            for name in [HEADER, *(entry["shard"] for entry in self._rounds)]:
                with (self.path / name).open("rb") as file:
                    whole.update(hashlib.file_digest(file, "sha256").digest())
            lines = (self.path / INDEX).read_bytes()
        except OSError as error:
            raise StoreError(f"{self.path} cannot be read: {error}") from error
        whole.update(hashlib.sha256(lines[: lines.rfind(b"\n") + 1]).digest())  # without a line that was cut off
        return whole.hexdigest()

    def updates(self) -> list[Update]:
        """Return every usable update, by round and then in the order of the clients' names.

        The arrays are read from the mapped shards when they are looked at. A round whose shard is damaged is left out,
        with a warning that names it.
        """
        names, model, keeps_sent = tuple(self.shapes), self.model_shapes, self.keeps_sent
        found = []
        for entry in self._rounds:
            shard = Shard(self.path / entry["shard"])
            if wrong := damage(entry, shard, self.keeps_sent):
                logger.warning("round %d is left out: %s", entry["round"], wrong)
                continue
            for number, record in enumerate(entry["records"]):
                if "failure" not in record:
                    sent = {model for model, _ in messages_of(record)} if keeps_sent else set()
                    found.append(
                        Update(
                            entry["round"],
                            record["client"],
                            record["kind"],
                            record["num_examples"],
                            LazyArrays(shard, f"update/{number}/", names),
                            model,
                            tuple(record.get("participants", ())),
                            # (A sum over clients who were sent different models does not say who was sent which.)
                            LazyArrays(shard, f"sent/{sent.pop()}/", tuple(model)) if len(sent) == 1 else {},
                        )
                    )
        return found

    def sent(self, server_round: int, client: str) -> dict[str, NDArray[np.float32]]:
        """Return the model that a client was sent.

        Raises
        ------
        StoreError
            If the store keeps no sent models, the client took no part in the round, or the store holds sums over
            clients that were sent different models: nothing says who was sent which.
        """
        if not self._header["keeps_sent"]:
            raise StoreError(f"{self.path} was captured without the models that were sent")
        for entry in self._rounds:
            for record in entry["records"]:
                if entry["round"] == server_round and client in (record["client"], *record.get("participants", ())):
                    sent = {number for number, _ in messages_of(record)}
                    if len(sent) > 1:
                        raise StoreError(
                            f"{self.path}: in round {server_round} clients were sent {len(sent)} different models, and "
                            "a store of sums does not say who was sent which"
                        )
                    arrays = self._model(entry, sent.pop())
                    return {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}
        raise StoreError(f"{self.path}: client {client!r} took no part in round {server_round}")

    def messages(self, server_round: int) -> list[SentMessage]:
        """Return the different messages that the clients who replied were sent in a round, as they were.

        Empty where nobody (of those kept) replied.

        Raises
        ------
        StoreError
            If the store keeps no sent models, does not hold the round, or was not told what was sent beside them.
        """
        if not self._header["keeps_sent"]:
            raise StoreError(f"{self.path} was captured without the models that were sent")
        entry = next((entry for entry in self._rounds if entry["round"] == server_round), None)
        if entry is None:
            raise StoreError(f"{self.path} does not hold round {server_round}")
        pairs = sorted({pair for record in entry["records"] for pair in messages_of(record)})
        if any(told >= len(entry["told"]) for _, told in pairs):
            raise StoreError(f"{self.path} was captured without what clients were told beside the model")
        return [SentMessage(self._model(entry, sent), Told.from_json(entry["told"][told])) for sent, told in pairs]

    def _model(self, entry: Mapping[str, Any], number: int) -> dict[str, NDArray[Any]]:
        shard, prefix = Shard(self.path / entry["shard"]), f"sent/{number}/"
        if wrong := damage(entry, shard, self.keeps_sent):
            raise StoreError(f"{self.path}, round {entry['round']}: {wrong}")
        held = shard.names
        # In the model's order, which a shard does not keep.
        return {
            array["name"]: as_sent(shard.raw(prefix + array["name"]), np.dtype(array["dtype"]))
            for array in self._header["model"]
            if prefix + array["name"] in held
        }
