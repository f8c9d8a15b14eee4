"""The writing side of a store: rounds are copied where they arrive and written by a background thread."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.updates import _shard
from fl_privacy.updates._files import FORMAT, HEADER, INDEX, StoreError
from fl_privacy.updates.record import Kind, ThreatModel

_QUEUED_ROUNDS = 2
logger = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Reply:
    """One client's part of a round, on its way to the disk.

    Attributes
    ----------
    client : str
        Pseudonym.
    sent : int
        Which of the round's sent models the client got.
    returned : Mapping[str, ndarray]
        What came back; empty where nothing usable came.
    kind : {"gradient", "delta"}
        ``"delta"``: `returned` are weights, and the difference to the sent model is stored.
    num_examples : float or None
        Reported weight.
    failure : str
        Why nothing usable came; empty where it did.
    """

    client: str
    sent: int
    returned: Arrays
    kind: Kind
    num_examples: float | None = None
    failure: str = ""


class Writer:
    """Writes rounds, at most two behind; an error there is raised by the next call.

    A round is copied, in the caller's thread, into memory that is used again for later rounds. Holding on to the
    messages instead until they are written would cost no copy, but it keeps the process from using their memory again
    at once: a federation in the same process then spends more on fresh memory than the copy costs (measured by
    ``python -m benchmarks store``).

    Parameters
    ----------
    path : Path
        Folder of the store.
    threat_model : ThreatModel
        Goes into the header.
    keep : sequence of str or None
        Arrays, or stems of arrays, to keep; None for all.
    dtype : {"float32", "bfloat16"}
        How updates are stored.
    keep_sent : bool
        Whether sent models are stored.

    Raises
    ------
    StoreError
        If the folder holds anything, or cannot be written.
    """

    def __init__(
        self, path: Path, threat_model: ThreatModel, keep: Sequence[str] | None, dtype: str, keep_sent: bool
    ) -> None:
        if (path / HEADER).exists() or (path / INDEX).exists():
            raise StoreError(f"{path} already holds captured updates; name another folder, or delete it")
        if path.is_dir() and any(path.iterdir()):
            raise StoreError(f"{path} holds other files; name an empty or new folder for the captured updates")
        try:
            path.mkdir(parents=True, exist_ok=True)
            # Updates are personal data: only their owner may look.
            path.chmod(0o700)
            (path / INDEX).touch()
        except OSError as error:
            raise StoreError(f"cannot write to {path}: {error.strerror or error}") from error
        logger.warning("%s will hold clients' updates: personal data, readable by its owner alone", path)
        self._path, self._threat_model = path, threat_model
        self._keep, self._dtype, self._keep_sent = keep, dtype, keep_sent
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="update-store")
        self._pending: list[Future[None]] = []
        self._pages: _shard.Pages | None = _shard.Pages()
        self._memory: list[dict[str, NDArray[Any]]] = [{} for _ in range(_QUEUED_ROUNDS + 1)]

    def append(self, server_round: int, sent: Sequence[Arrays], replies: Sequence[Reply]) -> None:
        """Copy one round and queue it."""
        while len(self._pending) >= _QUEUED_ROUNDS:
            if not self._pending[0].done():
                self._pages = None  # the medium does not keep up: let the page cache take what it can
            self._pending.pop(0).result()
        memory = self._memory.pop(0)
        self._memory.append(memory)  # free again when the rounds queued behind it are

        kept = [name for name in (sent[0] if sent else {}) if self._is_kept(name)]
        tensors: dict[str, NDArray[Any]] = {}
        if self._keep_sent:
            for number, model in enumerate(sent):
                for name, array in model.items():
                    key = f"sent/{number}/{name}"
                    tensors[key] = _copy(array, np.asarray(array).dtype, memory, key)
        records = []
        for number, reply in enumerate(replies):
            examples = reply.num_examples if reply.num_examples is not None and isfinite(reply.num_examples) else None
            record: dict[str, Any] = {"client": reply.client, "kind": reply.kind, "num_examples": examples}
            record["sent"] = reply.sent if self._keep_sent else None
            failure = reply.failure
            if not failure:
                arrays, failure = _update(reply, sent[reply.sent], kept, memory, f"update/{number}/")
                tensors |= arrays
            if failure:
                record["failure"] = failure
                logger.warning("round %d, client %s: %s", server_round, reply.client, failure)
            records.append(record)
        header = self._header(sent[0], kept) if sent else None
        self._pending.append(self._pool.submit(self._write, server_round, header, tensors, records))

    def flush(self) -> None:
        """Wait until every queued round is on disk."""
        while self._pending:
            self._pending.pop(0).result()

    def close(self) -> None:
        """Flush, and end the thread."""
        try:
            self.flush()
        finally:
            self._pool.shutdown(wait=True)

    def _is_kept(self, name: str) -> bool:
        return self._keep is None or name in self._keep or name.rsplit(".", 1)[0] in self._keep

    def _header(self, model: Arrays, kept: Sequence[str]) -> dict[str, Any]:
        if not kept:
            raise StoreError(f"none of {self._keep} is an array of the model; it has: {', '.join(model)}")
        return {
            "format": FORMAT,
            "threat_model": self._threat_model.to_dict(),
            "dtype": self._dtype,
            "model": [{"name": n, "shape": list(np.shape(a)), "kept": n in kept} for n, a in model.items()],
            "keeps_sent": self._keep_sent,
        }

    def _write(
        self, server_round: int, header: dict[str, Any] | None, tensors: Arrays, records: list[dict[str, Any]]
    ) -> None:
        shard = f"round-{server_round:06d}.safetensors"
        try:
            if header is not None and not (self._path / HEADER).exists():
                _replace(self._path / HEADER, json.dumps(header, sort_keys=True, indent=1) + "\n")
            halved = "update/" if self._dtype == "bfloat16" else None
            _shard.write(self._path / shard, tensors, halved, self._pages)
            line = json.dumps({"round": server_round, "shard": shard, "records": records}, sort_keys=True)
            with (self._path / INDEX).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise StoreError(f"cannot write to {self._path}: {error.strerror or error}") from error


def _update(
    reply: Reply, model: Arrays, kept: Sequence[str], memory: dict[str, NDArray[Any]], prefix: str
) -> tuple[dict[str, NDArray[Any]], str]:
    """Return the arrays to store and, where they are of no use, the reason."""
    odd = [n for n in kept if n not in reply.returned or np.shape(reply.returned[n]) != np.shape(model[n])]
    if odd:
        return {}, f"the reply's arrays do not fit the model that was sent (first: {odd[0]})"
    arrays = {}
    failure = ""
    for name in kept:
        returned, key = np.asarray(reply.returned[name]), prefix + name
        if reply.kind == "delta":
            # In the model's own precision: the difference of two large numbers may be small.
            wide = np.result_type(returned.dtype, np.float32)
            buffer = _buffer(returned.shape, np.float32, memory, key)
            arrays[key] = np.subtract(returned, model[name], out=buffer, dtype=wide, casting="unsafe")
        else:
            arrays[key] = _copy(returned, np.float32, memory, key)
        # The product is quick and needs no temporary; where it overflows, look closer.
        flat = arrays[key].reshape(-1)
        if not np.isfinite(np.dot(flat, flat)) and not np.isfinite(flat).all():
            failure = f"{name} holds values that are not finite"
    return arrays, failure


def _copy(array: Any, dtype: Any, memory: dict[str, NDArray[Any]], key: str) -> NDArray[Any]:
    buffer = _buffer(np.shape(array), dtype, memory, key)
    np.copyto(buffer, array, casting="unsafe")
    return buffer


def _buffer(shape: tuple[int, ...], dtype: Any, memory: dict[str, NDArray[Any]], key: str) -> NDArray[Any]:
    if key not in memory or memory[key].shape != shape or memory[key].dtype != dtype:
        memory[key] = np.empty(shape, dtype)
    return memory[key]


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
