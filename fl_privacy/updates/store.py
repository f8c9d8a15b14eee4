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
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fl_privacy.errors import UserError
from fl_privacy.updates import _shard
from fl_privacy.updates._shard import Shard
from fl_privacy.updates.record import Kind, ThreatModel, Update

FORMAT = 1
_HEADER = "store.json"
_INDEX = "index.jsonl"
_QUEUED_ROUNDS = 2
logger = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[Any]]


class StoreError(UserError):
    """A store that cannot be written, read, or does not hold what was asked for."""


@dataclass(frozen=True)
class Reply:
    """One client's part of a round, on its way to the disk.

    Attributes
    ----------
    client : str
        Pseudonym.
    sent : int
        Which of the round's sent models the client got.
    returned : Mapping[str, ndarray] or callable
        What came back; a callable is called by the writer thread. Empty where nothing usable came.
    kind : {"gradient", "delta"}
        ``"delta"``: `returned` are weights, and the difference to the sent model is stored.
    num_examples : float or None
        Reported weight.
    failure : str
        Why nothing usable came; empty where it did.
    """

    client: str
    sent: int
    returned: Any
    kind: Kind
    num_examples: float | None = None
    failure: str = ""


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
        self._writer: ThreadPoolExecutor | None = None
        self._pending: list[Future[None]] = []
        self._threat_model = ThreatModel()

    def __repr__(self) -> str:
        return f"UpdateStore({str(self.path)!r})"

    # ------------------------------------------------------------------ writing

    def begin(self, threat_model: ThreatModel) -> None:
        """Make the folder and start the writer.

        Raises
        ------
        StoreError
            If the folder already holds a store (captures are never mixed) or cannot be written.
        """
        if (self.path / _HEADER).exists() or (self.path / _INDEX).exists():
            raise StoreError(f"{self.path} already holds captured updates; name another folder, or delete it")
        if self.path.is_dir() and any(self.path.iterdir()):
            raise StoreError(f"{self.path} holds other files; name an empty or new folder for the captured updates")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Updates are personal data: only their owner may look.
            self.path.chmod(0o700)
            (self.path / _INDEX).touch()
        except OSError as error:
            raise StoreError(f"cannot write to {self.path}: {error.strerror or error}") from error
        logger.warning("%s will hold clients' updates: personal data, readable by its owner alone", self.path)
        self._threat_model = threat_model
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="update-store")

    def append(self, server_round: int, sent: Sequence[Any], replies: Sequence[Reply]) -> None:
        """Queue one round.

        Parameters
        ----------
        server_round : int
            Round number.
        sent : sequence of (Mapping[str, ndarray] or callable)
            The different models that were sent in this round.
        replies : sequence of Reply
            What came back.
        """
        if self._writer is None:
            raise StoreError(f"{self.path}: begin() comes before append()")
        while len(self._pending) >= _QUEUED_ROUNDS:
            self._pending.pop(0).result()
        self._pending.append(self._writer.submit(self._write_round, server_round, list(sent), list(replies)))

    def flush(self) -> None:
        """Wait until every queued round is on disk."""
        while self._pending:
            self._pending.pop(0).result()

    def close(self) -> None:
        """Flush and end the capture. Safe to call twice."""
        if self._writer is not None:
            try:
                self.flush()
            finally:
                self._writer.shutdown(wait=True)
                self._writer = None

    def _write_round(self, server_round: int, sent: list[Any], replies: list[Reply]) -> None:
        models = [{name: np.asarray(a) for name, a in _materialise(model).items()} for model in sent]
        kept = [name for name in (models[0] if models else {}) if self._is_kept(name)]
        tensors: dict[str, NDArray[Any]] = {}
        if self._keep_sent:
            for number, model in enumerate(models):
                tensors |= {f"sent/{number}/{name}": array for name, array in model.items()}
        records = []
        for number, reply in enumerate(replies):
            examples = reply.num_examples if reply.num_examples is not None and isfinite(reply.num_examples) else None
            record: dict[str, Any] = {"client": reply.client, "kind": reply.kind, "num_examples": examples}
            record["sent"] = reply.sent if self._keep_sent else None
            failure = reply.failure
            if not failure:
                arrays, failure = _update_arrays(reply, models[reply.sent], kept)
                tensors |= {f"update/{number}/{name}": array for name, array in arrays.items()}
            if failure:
                record["failure"] = failure
                logger.warning("round %d, client %s: %s", server_round, reply.client, failure)
            records.append(record)
        shard = f"round-{server_round:06d}.safetensors"
        try:
            self._write_header(models[0] if models else {}, kept)
            _shard.write(self.path / shard, tensors, halved="update/" if self._dtype == "bfloat16" else None)
            line = json.dumps({"round": server_round, "shard": shard, "records": records}, sort_keys=True)
            with (self.path / _INDEX).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise StoreError(f"cannot write to {self.path}: {error.strerror or error}") from error

    def _is_kept(self, name: str) -> bool:
        return self._keep is None or name in self._keep or name.rsplit(".", 1)[0] in self._keep

    def _write_header(self, model: Arrays, kept: Sequence[str]) -> None:
        if (self.path / _HEADER).exists() or not model:
            return
        if not kept:
            raise StoreError(f"none of {self._keep} is an array of the model; it has: {', '.join(model)}")
        header = {
            "format": FORMAT,
            "threat_model": self._threat_model.to_dict(),
            "dtype": self._dtype,
            "model": [{"name": n, "shape": list(a.shape), "kept": n in kept} for n, a in model.items()],
            "keeps_sent": self._keep_sent,
        }
        _replace(self.path / _HEADER, json.dumps(header, sort_keys=True, indent=1).encode() + b"\n")

    # ------------------------------------------------------------------ reading

    @property
    def _header(self) -> dict[str, Any]:
        self.flush()
        if (self.path / _INDEX).exists() and not (self.path / _HEADER).exists():
            raise StoreError(f"{self.path} holds no captured round yet")
        try:
            header: dict[str, Any] = json.loads((self.path / _HEADER).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StoreError(f"{self.path} is not a store of updates: it has no {_HEADER}") from None
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path / _HEADER} cannot be read: {error}") from error
        if header.get("format") != FORMAT:
            raise StoreError(
                f"{self.path} has format {header.get('format')}; this version reads format {FORMAT}: update fl-privacy"
            )
        return header

    @property
    def _rounds(self) -> list[dict[str, Any]]:
        _ = self._header
        # A line without its end is one that a killed process was writing.
        lines = (self.path / _INDEX).read_text(encoding="utf-8").split("\n")[:-1]
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise StoreError(f"{self.path / _INDEX} cannot be read: {error}") from error

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


def _materialise(arrays: Any) -> Arrays:
    result: Arrays = arrays() if callable(arrays) else arrays
    return result


def _update_arrays(reply: Reply, model: Arrays, kept: Sequence[str]) -> tuple[dict[str, NDArray[np.float32]], str]:
    """Return the arrays to store and, where they are of no use, the reason."""
    returned = _materialise(reply.returned)
    odd = [name for name in kept if name not in returned or np.shape(returned[name]) != model[name].shape]
    if odd:
        return {}, f"the reply's arrays do not fit the model that was sent (first: {odd[0]})"
    arrays = {}
    failure = ""
    for name in kept:
        array = np.asarray(returned[name])
        if reply.kind == "delta":
            # In the model's own precision: the difference of two large numbers may be small.
            wide = np.result_type(array.dtype, np.float32)
            array = array.astype(wide, copy=False) - np.asarray(model[name], dtype=wide)
        array = array.astype(np.float32, copy=False)
        # The product is quick and needs no temporary; where it overflows, look closer.
        flat = array.reshape(-1)
        if not np.isfinite(np.dot(flat, flat)) and not np.isfinite(flat).all():
            failure = f"{name} holds values that are not finite"
        arrays[name] = array
    return arrays, failure


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(content)
    os.replace(temporary, path)


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
