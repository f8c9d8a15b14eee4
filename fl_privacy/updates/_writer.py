"""The writing side of a store: rounds are copied where they arrive and written by a background thread."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.updates._files import FORMAT, HEADER, INDEX, StoreError
from fl_privacy.updates._folder import claim, cut, replace
from fl_privacy.updates._image import Image, Plan, Way
from fl_privacy.updates.record import SUM, Kind, NamedBy, Observe, ThreatModel
from fl_privacy.updates.told import Told

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
    named_by : {"query", "mod", "node"}
        Where the pseudonym comes from.
    told : int
        Which of the round's `told` the client got.
    finite : bool
        Of a gradient: whether it is known that all values are finite; else it is looked for.
    """

    client: str
    sent: int
    returned: Arrays
    kind: Kind
    num_examples: float | None = None
    failure: str = ""
    named_by: NamedBy = "query"
    told: int = 0
    finite: bool = False

    @classmethod
    def error(cls, client: str, reason: str | None, sent: int = 0, named_by: NamedBy = "query", told: int = 0) -> Reply:
        """Return what is recorded of a client that answered with an error."""
        # The end of a traceback is what it says.
        said = " ".join((reason or "").split())[-200:] or "no reason given"
        return cls(client, sent, {}, "delta", failure=f"error reply: {said}", named_by=named_by, told=told)


@dataclass(frozen=True)
class Settings:
    """What of a federation a store keeps, and how.

    Attributes
    ----------
    arrays : tuple of str or None
        Arrays, or stems of arrays, to keep; None for all.
    clients : tuple of str or None
        Clients to keep; None for all.
    every : int
        Rounds 1, 1 + every, 1 + 2 every, ... are kept.
    dtype : {"float32", "bfloat16"}
        How updates are stored.
    keep_sent : bool
        Whether sent models are stored.
    """

    arrays: tuple[str, ...] | None
    clients: tuple[str, ...] | None
    every: int
    dtype: str
    keep_sent: bool

    def keeps(self, name: str) -> bool:
        """Whether an array is kept."""
        stems = (name.rsplit(separator, 1)[0] for separator in "./")
        return self.arrays is None or name in self.arrays or any(stem in self.arrays for stem in stems)


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
    settings : Settings
        What is kept.
    observe : {"each", "sum"}
        Whether each client's update is written, or their weighted sum alone.
    resume_after : int or None
        Go on behind this round of a store that is there; later rounds are removed.

    Raises
    ------
    StoreError
        If the folder holds anything, or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        threat_model: ThreatModel,
        settings: Settings,
        observe: Observe = "each",
        resume_after: int | None = None,
    ) -> None:
        self._path, self._settings = path, settings
        self._fixed = {
            "format": FORMAT,
            "threat_model": threat_model.to_dict(),
            "observe": observe,
            "dtype": settings.dtype,
            "keeps_sent": settings.keep_sent,
            "every": settings.every,
            "clients": list(settings.clients) if settings.clients is not None else None,
        }
        self._sum = observe == "sum"
        self._model: dict[str, dict[str, Any]] = {}
        self._reshaped: set[str] = set()
        if resume_after:
            self._model = self._held(resume_after)
        if resume_after is not None and (path / INDEX).exists():
            cut(path, resume_after)
        else:
            claim(path)
        logger.warning("%s will hold clients' updates: personal data, readable by its owner alone", path)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="update-store")
        self._pending: list[Future[None]] = []
        self._way = Way()
        self._memory = [Image() for _ in range(_QUEUED_ROUNDS + 1)]

    def append(
        self, server_round: int, sent: Sequence[Arrays], replies: Sequence[Reply], told: Sequence[Told] = ()
    ) -> None:
        """Copy one round and queue it."""
        late = False
        while len(self._pending) >= _QUEUED_ROUNDS:
            late |= not self._pending[0].done()
            self._pending.pop(0).result()
        memory = self._memory.pop(0)
        self._memory.append(memory)  # free again when the rounds queued behind it are

        header = self._learn(sent)
        clients = self._settings.clients
        replies = [reply for reply in replies if clients is None or reply.client in clients]
        # Of clients who are not watched, neither what they sent nor what they were sent.
        shown = range(len(sent)) if clients is None else sorted({reply.sent for reply in replies})
        tensors: dict[str, NDArray[Any]] = {}
        if self._settings.keep_sent:
            for number in shown:
                for name, array in sent[number].items():
                    key = f"sent/{number}/{name}"
                    tensors[key] = _copy(array, np.asarray(array).dtype, memory, key)
        work = self._summed if self._sum else self._each
        arrays, records = work(sent, replies, memory)
        for record in records:
            if "failure" in record:
                logger.warning("round %d, client %s: %s", server_round, record["client"], record["failure"])
        line = {"round": server_round, "told": [entry.to_json() for entry in told], "records": records}
        way = self._way.choose(late)
        self._pending.append(self._pool.submit(self._write, server_round, header, tensors | arrays, line, memory, way))

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

    def _each(
        self, sent: Sequence[Arrays], replies: Sequence[Reply], memory: Image
    ) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]]]:
        """Return each reply's arrays and record."""
        tensors: dict[str, NDArray[Any]] = {}
        records = []
        for number, reply in enumerate(replies):
            record = self._record(reply)
            if "failure" not in record:
                arrays, failure = self._update(reply, sent[reply.sent], memory, f"update/{number}/")
                tensors |= arrays
                if failure:
                    record["failure"] = failure
            records.append(record)
        return tensors, records

    def _summed(
        self, sent: Sequence[Arrays], replies: Sequence[Reply], memory: Image
    ) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]]]:
        """Return the weighted sum of the replies and its record; nothing of a single client goes further."""
        usable = [reply for reply in replies if not reply.failure]
        weighted = all(reply.num_examples is not None and isfinite(reply.num_examples) for reply in usable)
        total: dict[str, NDArray[np.float64]] = {}
        kinds: Counter[Kind] = Counter(reply.kind for reply in usable)
        kind: Kind = kinds.most_common(1)[0][0] if kinds else "delta"  # of equally many, that of the first client
        weight = 0.0
        participants: list[Reply] = []
        failures = []
        for reply in replies:
            record = self._record(reply)
            if "failure" not in record:
                # One reply after another passes through the same memory.
                arrays, failure = self._update(reply, sent[reply.sent], memory, "reply/")
                if reply.kind != kind:
                    failure = f"it is a {reply.kind}, most are {kind}s: they have no common sum"
                if failure:
                    record["failure"] = failure
                else:
                    share = float(reply.num_examples or 0.0) if weighted else 1.0
                    for name, array in arrays.items():
                        name = name.removeprefix("reply/")
                        total[name] = total.get(name, 0.0) + share * array.astype(np.float64)
                    weight += share
                    participants.append(reply)
            if "failure" in record:
                failures.append(record)
        if not participants:
            return {}, failures
        record = {"client": SUM, "kind": kind, "num_examples": weight if weighted else None}
        record["participants"] = [reply.client for reply in participants]
        record["named_by"] = [reply.named_by for reply in participants]
        # Which messages went out, but not to whom.
        record["messages"] = [list(pair) for pair in sorted({(reply.sent, reply.told) for reply in participants})]
        return {f"update/0/{n}": a.astype(np.float32) for n, a in total.items()}, [record, *failures]

    def _record(self, reply: Reply) -> dict[str, Any]:
        examples = reply.num_examples if reply.num_examples is not None and isfinite(reply.num_examples) else None
        record: dict[str, Any] = {"client": reply.client, "kind": reply.kind, "num_examples": examples}
        record |= {"sent": reply.sent, "told": reply.told, "named_by": reply.named_by}
        if reply.failure:
            record["failure"] = reply.failure
        return record

    def _held(self, last: int) -> dict[str, dict[str, Any]]:
        """Return what a store that is gone on with knows of the model; see that it is one with these settings."""
        path = self._path / HEADER
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            model = {array["name"]: array for array in held.pop("model")}
        except FileNotFoundError:
            raise StoreError(
                f"{self._path} lacks the {last} rounds behind which the run would go on: start it again from round 1"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} cannot be read: {error}") from error
        if held != self._fixed or any(array["kept"] != self._settings.keeps(name) for name, array in model.items()):
            raise StoreError(f"{self._path} was captured with other settings: start the run again from round 1")
        return model

    def _learn(self, sent: Sequence[Arrays]) -> str | None:
        """Add arrays not seen before to what is known of the model; return the new header if there are any."""
        order, before = list(self._model), len(self._model)
        for model in sent:
            behind = None
            for name in reversed(list(model)):
                form = {"shape": list(np.shape(model[name])), "dtype": np.asarray(model[name]).dtype.str}
                if name not in self._model:
                    # Clients may be sent parts of the model: a part's new array stands before the part's next one.
                    order.insert(order.index(behind) if behind is not None else len(order), name)
                    self._model[name] = {"name": name, **form, "kept": self._settings.keeps(name)}
                elif form["shape"] != self._model[name]["shape"] and name not in self._reshaped:
                    self._reshaped.add(name)
                    first = tuple(self._model[name]["shape"])
                    logger.warning(
                        "%s is sent in several shapes: updates of it are kept in shape %s alone", name, first
                    )
                behind = name
        if self._model and not any(array["kept"] for array in self._model.values()):
            names = ", ".join(order)
            raise StoreError(f"none of {self._settings.arrays} is an array of the model; it has: {names}")
        if len(order) == before:
            return None
        self._model = {name: self._model[name] for name in order}
        header = {**self._fixed, "model": list(self._model.values())}
        return json.dumps(header, sort_keys=True, indent=1) + "\n"

    def _update(self, reply: Reply, model: Arrays, memory: Image, prefix: str) -> tuple[dict[str, NDArray[Any]], str]:
        """Return the arrays to store and, where they are of no use, the reason.

        A client may answer with a part of the arrays that it was sent; that part is kept.
        """
        shared = [n for n in model if n in reply.returned]
        odd = [n for n in shared if np.shape(reply.returned[n]) != np.shape(model[n])]
        if odd or not shared:
            first = f" (first: {odd[0]})" if odd else " (it has none of them)"
            return {}, f"the reply's arrays do not fit the model that was sent{first}"
        kept = [n for n in shared if self._settings.keeps(n) and list(np.shape(model[n])) == self._model[n]["shape"]]
        if not kept:
            return {}, f"the reply has none of the arrays that are kept; it has: {', '.join(shared)}"
        arrays = {}
        failure = ""
        # What overflows is looked for and recorded; numpy need not warn of it as well.
        with np.errstate(over="ignore", invalid="ignore"):
            for name in kept:
                returned, key = np.asarray(reply.returned[name]), prefix + name
                if reply.kind == "delta":
                    # In the model's own precision: the difference of two large numbers may be small.
                    wide = np.result_type(returned.dtype, np.float32)
                    buffer = memory.place(key, returned.shape, np.float32)
                    arrays[key] = np.subtract(returned, model[name], out=buffer, dtype=wide, casting="unsafe")
                else:
                    arrays[key] = _copy(returned, np.float32, memory, key)
                    if reply.finite:
                        continue
                # The product is quick and needs no temporary; where it overflows, look closer.
                flat = arrays[key].reshape(-1)
                if not np.isfinite(np.dot(flat, flat)) and not np.isfinite(flat).all():
                    failure = f"{name} holds values that are not finite"
        return arrays, failure

    def _write(
        self,
        server_round: int,
        header: str | None,
        tensors: Arrays,
        line: dict[str, Any],
        memory: Image,
        past_cache: bool,
    ) -> None:
        shard = self._path / f"round-{server_round:06d}.safetensors"
        try:
            if header is not None:
                replace(self._path / HEADER, header)
            halved = "update/" if self._settings.dtype == "bfloat16" else None
            plan, began = Plan.of(tensors, halved, server_round, memory), time.perf_counter()
            past_cache = memory.write(shard, plan, past_cache=past_cache)
            self._way.note(past_cache, (time.perf_counter() - began) / plan.size)
            line |= {"shard": shard.name, "bytes": shard.stat().st_size}
            with (self._path / INDEX).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, sort_keys=True, allow_nan=False) + "\n")
        except OSError as error:
            raise StoreError(f"cannot write to {self._path}: {error.strerror or error}") from error


def _copy(array: Any, dtype: Any, memory: Image, key: str) -> NDArray[Any]:
    buffer = memory.place(key, np.shape(array), dtype)
    np.copyto(buffer, array, casting="unsafe")
    return buffer
