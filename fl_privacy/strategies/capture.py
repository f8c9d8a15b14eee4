"""A strategy wrapper that records what each client was sent and what it sent back, and changes nothing."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable, Mapping
from logging import INFO, WARNING
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from numpy.typing import NDArray

from fl_privacy.updates.protocol import IDENTITY_QUERY, KIND, PARTITION, RECORD
from fl_privacy.updates.record import Kind, ThreatModel
from fl_privacy.updates.store import Reply, UpdateStore

_QUERY_TIMEOUT_SECONDS = 600.0


class CaptureUpdates(Strategy):
    """Record every client's update while another strategy does its work.

    The place in the nesting is the attacker's place: outside a server-side DP wrapper it sees what clients send;
    inside, what the wrapper lets through.

    Parameters
    ----------
    strategy : Strategy
        Any Flower strategy (Message API).
    store : UpdateStore
        Where updates go.
    threat_model : ThreatModel, optional
        Written into the store and logged before the run.

    Notes
    -----
    Clients are named by their partition id, asked for once by a query (answered by the local engine and by
    `fl_privacy.clients.mods.identity_mod`), else as told in their replies by that mod, else by node id
    (``node-<id>``).
    A reply that failed, is not finite or does not fit the model is recorded as such, with a warning, and passed on
    as it came. A reply is a gradient where the client says so (as `FedSGD`'s do), else weights, stored as
    ``returned - sent``.
    """

    def __init__(self, strategy: Strategy, store: UpdateStore, *, threat_model: ThreatModel | None = None) -> None:
        super().__init__()
        self.strategy = strategy
        self.store = store
        self.threat_model = threat_model or ThreatModel()
        self._begun = False
        self._own_start = False
        self._weight_key = _weight_key(strategy)
        self._partitions: dict[int, str] = {}
        self._stamps_tell = True
        self._models: list[_Model] = []
        self._sent: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"CaptureUpdates({self.strategy!r}, {self.store!r})"

    def summary(self) -> None:
        """Log summary configuration of the strategy."""
        log(INFO, "\t├──> Captured to: %s", self.store.path)
        log(INFO, "\t├──> Threat model: %s", self.threat_model.describe())
        self.strategy.summary()

    def start(self, *args: Any, **kwargs: Any) -> Result:
        """Run the federation; when it returns, every update is on disk."""
        if type(self.strategy).start is not Strategy.start:
            log(
                WARNING,
                "CaptureUpdates: %s has a start() of its own, which is not called; CaptureUpdates runs the rounds",
                type(self.strategy).__name__,
            )
        self._own_start = True
        try:
            return super().start(*args, **kwargs)
        finally:
            self._own_start = False
            self.store.close()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Delegate, and note what each client is sent."""
        if not self._begun:
            self.store.begin(self.threat_model)
            self._partitions = _ask_partitions(grid)
            self._stamps_tell = len(set(self._partitions.values())) == len(self._partitions)
            if not self._stamps_tell:
                log(WARNING, "CaptureUpdates: several nodes claim one partition id; naming them by node id instead")
                self._partitions = {}
            self._begun = True
        messages = list(self.strategy.configure_train(server_round, arrays, config, grid))
        self._models, self._sent = [], {}
        for message in messages:
            model = _Model.of(message.content)
            if model not in self._models:
                self._models.append(model)
            self._sent[message.metadata.dst_node_id] = self._models.index(model)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Record the replies as they came, then delegate."""
        replies = list(replies)
        if self._models:
            self.store.append(server_round, [model.arrays for model in self._models], self._records(replies))
            if not self._own_start:
                # Under another wrapper nobody says when the run is over: have each round on disk at once.
                self.store.flush()
        return self.strategy.aggregate_train(server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Delegate."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Delegate."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def _records(self, replies: list[Message]) -> list[Reply]:
        records = [self._record(reply) for reply in replies]
        if self._stamps_tell and len({record.client for record in records}) < len(records):
            # Only stamps can collide: the partitions told by query are known to differ.
            log(WARNING, "CaptureUpdates: several nodes claim one partition id; naming them by node id instead")
            self._stamps_tell = False
            records = [self._record(reply) for reply in replies]
        return records

    def _record(self, reply: Message) -> Reply:
        node = reply.metadata.src_node_id
        client = self._partitions.get(node, f"node-{node}")
        sent = self._sent.get(node, 0)
        if reply.has_error():
            return Reply(client, sent, {}, "delta", failure=f"error reply: {_one_line(reply.error.reason)}")
        content = reply.content
        stamp: Mapping[str, Any] = content.config_records.get(RECORD, {})
        if self._stamps_tell and node not in self._partitions and PARTITION in stamp:
            client = str(stamp[PARTITION])
        kind: Kind = "gradient" if stamp.get(KIND) == "gradient" else "delta"
        metrics = content.metric_records.values()
        weight = next((record[self._weight_key] for record in metrics if self._weight_key in record), None)
        examples = float(weight) if isinstance(weight, int | float) else None
        return Reply(client, sent, _Model.of(content).arrays, kind, num_examples=examples)


class _Model:
    """The arrays of a message."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._arrays = arrays

    @classmethod
    def of(cls, content: RecordDict) -> _Model:
        records = content.array_records
        if len(records) == 1:
            return cls(dict(next(iter(records.values())).items()))
        return cls({f"{key}/{name}": array for key, record in records.items() for name, array in record.items()})

    def __eq__(self, other: object) -> bool:
        # The usual case is one record shared by all messages: identity of the bytes settles it without reading them.
        return isinstance(other, _Model) and (
            self._arrays.keys() == other._arrays.keys()
            and all(a.data is other._arrays[n].data or a.data == other._arrays[n].data for n, a in self._arrays.items())
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays, as views of the message's bytes."""
        return {name: _view(array) for name, array in self._arrays.items()}


def _view(array: Array) -> NDArray[Any]:
    """Return what `Array.numpy` returns, without copying its bytes."""
    if array.stype != "numpy.ndarray" or array.data[:6] != b"\x93NUMPY" or array.data[6] != 1:
        return array.numpy()
    offset = 10 + int.from_bytes(array.data[8:10], "little")
    shape, fortran, dtype = _npy_header(array.data[:offset])
    return np.frombuffer(array.data, dtype, offset=offset).reshape(shape, order="F" if fortran else "C")


@functools.lru_cache(maxsize=1024)
def _npy_header(start: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    file = io.BytesIO(start)
    np.lib.format.read_magic(file)
    return np.lib.format.read_array_header_1_0(file)


def _ask_partitions(grid: Grid) -> dict[int, str]:
    """Ask every node for its partition id; nodes whose app has no answer are left out."""
    nodes = list(grid.get_node_ids())
    questions = [Message(RecordDict(), dst_node_id=node, message_type=IDENTITY_QUERY) for node in nodes]
    partitions = {}
    for answer in grid.send_and_receive(questions, timeout=_QUERY_TIMEOUT_SECONDS):
        stamp: Mapping[str, Any] = answer.content.config_records.get(RECORD, {}) if answer.has_content() else {}
        if PARTITION in stamp:
            partitions[answer.metadata.src_node_id] = str(stamp[PARTITION])
    if len(partitions) < len(nodes):
        log(
            WARNING,
            "CaptureUpdates: %d of %d nodes did not tell their partition id; they are named by what their replies say, "
            "else by node id. Add fl_privacy.clients.mods.identity_mod to the ClientApp to name them.",
            len(nodes) - len(partitions),
            len(nodes),
        )
    return partitions


def _weight_key(strategy: Any) -> str:
    """Return the key under which the innermost strategy finds a client's weight."""
    while strategy is not None:
        if isinstance(key := getattr(strategy, "weighted_by_key", None), str):
            return key
        strategy = getattr(strategy, "strategy", None)
    return "num-examples"


def _one_line(reason: str | None) -> str:
    # The end of a traceback is what it says.
    return " ".join((reason or "").split())[-200:] or "no reason given"
