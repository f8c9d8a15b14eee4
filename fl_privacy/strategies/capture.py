"""A strategy wrapper that records what each client was sent and what it sent back, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from logging import INFO, WARNING
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from numpy.typing import NDArray

from fl_privacy._npy import view
from fl_privacy.errors import UserError
from fl_privacy.strategies._identity import Identities, order, stamp_of
from fl_privacy.strategies._wrapper import StrategyWrapper, chain
from fl_privacy.updates.protocol import KIND, RANDOMNESS, RECORD
from fl_privacy.updates.record import Kind, NamedBy, Observe, ThreatModel, observation
from fl_privacy.updates.store import Reply, UpdateStore
from fl_privacy.updates.told import Told


class CaptureUpdates(StrategyWrapper):
    """Record every client's update while another strategy does its work.

    The place in the nesting is the attacker's place: outside a server-side DP wrapper it sees what clients send;
    inside, what the wrapper lets through.

    Parameters
    ----------
    strategy : Strategy
        Any Flower strategy (Message API).
    store : UpdateStore
        Where updates go. Its settings choose layers, clients and rounds.
    observe : {"each", "sum"}
        ``"sum"``: only the weighted sum of a round's updates and who took part, as under ideal secure aggregation.
    owns : str, optional
        What the attacker has beside what it sees, for the threat model that is written into the store and logged
        before the run; the rest follows from the other settings and from the place in the nesting.
    threat_model : ThreatModel, optional
        In place of all that.

    Notes
    -----
    Clients are named by their partition id: known in a simulation (local engine, Ray), asked for once by a query where
    deployed (`fl_privacy.clients.mods.identity`), else as told in their replies by
    `fl_privacy.clients.mods.identity_mod`, else they are named by node id (``node-<id>``); the store records which.
    A reply that failed, is not finite or does not fit the model is recorded as such, with a warning, and passed on
    as it came. A reply is a gradient where the client says so (as `FedSGD`'s do), else weights, stored as
    ``returned - sent``. A client may be sent, and may send, a part of the model; arrays that it was not sent are not
    recorded, and neither are rounds in which no arrays are sent. Where clients have an array in different shapes, the
    shape that was sent first is recorded.
    """

    def __init__(
        self,
        strategy: Strategy,
        store: UpdateStore,
        *,
        observe: Observe = "each",
        owns: str | None = None,
        threat_model: ThreatModel | None = None,
    ) -> None:
        super().__init__(strategy)
        if observe not in ("each", "sum"):
            raise UserError(f"CaptureUpdates: observe must be 'each' or 'sum', not {observe!r}")
        self.store = store
        self.observe = observe
        self._owns = owns
        self._given = threat_model
        self._outside: tuple[Any, ...] | None = None  # while nobody of ours runs it: not known
        self._resume_after: int | None = None
        self._weight_key = next(
            (key for s in chain(strategy) if isinstance(key := getattr(s, "weighted_by_key", None), str)),
            "num-examples",
        )
        self._identities: Identities | None = None
        self._round = _Round([])

    def __repr__(self) -> str:
        return f"CaptureUpdates({self.strategy!r}, {self.store!r})"

    @property
    def threat_model(self) -> ThreatModel:
        """Who attacks, what they see and own; as given, else as it follows from the settings."""
        if self._given is not None:
            return self._given
        settings = self.store.settings
        seen = observation(
            self.observe,
            every=settings.every,
            clients=settings.clients,
            arrays=settings.arrays,
            position=self._position,
        )
        return ThreatModel(observes=seen) if self._owns is None else ThreatModel(observes=seen, owns=self._owns)

    @property
    def _position(self) -> str:
        if self._outside is None:
            return "as the strategy wrapper around the recorder lets it through"
        around = [type(s).__name__ for s in self._outside if not isinstance(s, StrategyWrapper)]
        inside = [type(s).__name__ for s in chain(self.strategy) if hasattr(s, "strategy")]
        rewriting = [name for name in inside if "ServerSide" in name]
        position = [f"as {' and '.join(around)} around the recorder lets it through"] if around else []
        position += [f"before {rewriting[0]} clips or adds noise"] if rewriting else []
        position += [f"clipped by clients who follow {name}" for name in inside if "ClientSide" in name]
        return ", ".join(position)

    def summary(self) -> None:
        """Log summary configuration of the strategy."""
        log(INFO, "\t├──> Captured to: %s", self.store.path)
        log(INFO, "\t├──> Threat model: %s", self.threat_model.describe())
        self.strategy.summary()

    def start(self, *args: Any, **kwargs: Any) -> Result:
        """Run the federation; when it returns, every update is on disk."""
        if type(self.strategy).start not in (Strategy.start, StrategyWrapper.start):
            log(
                WARNING,
                "CaptureUpdates: %s has a start() of its own, which is not called; CaptureUpdates runs the rounds",
                type(self.strategy).__name__,
            )
        return super().start(*args, **kwargs)

    @contextmanager
    def running(self, outside: tuple[Any, ...]) -> Iterator[None]:
        """Close the store when the run is over."""
        self._outside = outside
        try:
            yield
        finally:
            self._outside, self._identities = None, None
            self.store.close()

    def flush(self) -> None:
        """Bring all captured rounds to disk."""
        self.store.flush()

    def resume_after(self, server_round: int) -> None:
        """Go on in the store of a killed run, behind a round."""
        self._resume_after = server_round

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Delegate, and note what each client is sent."""
        if self._identities is None:
            self.store.begin(self.threat_model, self.observe, self._resume_after)
        messages = list(self.strategy.configure_train(server_round, arrays, config, grid))
        if self._identities is None:
            # Not earlier: a strategy waits for nodes to connect.
            self._identities = Identities.of(grid)
            self._identities.ask(grid, grid.get_node_ids())
        self._identities.ask(grid, (message.metadata.dst_node_id for message in messages))
        self._round = _Round(messages if self.store.wants(server_round) else [])
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Record the replies as they came, then delegate."""
        replies = list(replies)
        if self._round.brings_arrays and self._identities is not None:
            names = self._identities.name(replies)
            records = [self._record(reply, *name) for reply, name in zip(replies, names, strict=True)]
            # In the order of names: that of arrival differs from run to run.
            records.sort(key=lambda record: order(record.client))
            self.store.append(server_round, [m.arrays for m in self._round.models], records, self._round.told)
            if self._outside is None:
                # Under another wrapper nobody says when the run is over: have each round on disk at once.
                self.store.flush()
        return self.strategy.aggregate_train(server_round, replies)

    def _record(self, reply: Message, client: str, named_by: NamedBy) -> Reply:
        sent, told = self._round.sent_to(reply)
        if reply.has_error():
            return Reply.error(client, reply.error.reason, sent, named_by, told)
        content = reply.content
        kind: Kind = "gradient" if stamp_of(reply).get(KIND) == "gradient" else "delta"
        metrics = content.metric_records.values()
        weight = next((record[self._weight_key] for record in metrics if self._weight_key in record), None)
        examples = float(weight) if isinstance(weight, int | float) else None
        returned = _Model.of(content, like=self._round.models[sent]).arrays
        return Reply(client, sent, returned, kind, num_examples=examples, named_by=named_by, told=told)


class _Round:
    """What a round's messages brought to the clients, each different thing once."""

    def __init__(self, messages: list[Message]) -> None:
        self.models: list[_Model] = []
        self.told: list[Told] = []
        self._sent: list[tuple[Message, tuple[int, int]]] = []
        seen: dict[tuple[int, str], tuple[int, int]] = {}
        for message in messages:
            key = id(message.content), message.metadata.message_type
            if key not in seen:  # the usual case: one content for all messages
                seen[key] = _place(self.models, _Model.of(message.content)), _place(self.told, _told(message))
            self._sent.append((message, seen[key]))
        self._by_node = {message.metadata.dst_node_id: sent for message, sent in self._sent}
        self._by_message: dict[str, tuple[int, int]] | None = None

    @property
    def brings_arrays(self) -> bool:
        """Whether some client was sent arrays that a store can hold."""
        return any(model.arrays for model in self.models)

    def sent_to(self, reply: Message) -> tuple[int, int]:
        """Return which model, and what else, the sender of a reply was sent."""
        if self._by_message is None:  # message ids are given when messages are sent
            self._by_message = {message.metadata.message_id: sent for message, sent in self._sent}
        by_node = self._by_node.get(reply.metadata.src_node_id, (0, 0))
        return self._by_message.get(reply.metadata.reply_to_message_id, by_node)


class _Model:
    """The arrays of a message, under one name each.

    With one array record, the arrays' own names; with several, ``key/name``.
    """

    def __init__(self, arrays: dict[str, Array], keys: tuple[str, ...]) -> None:
        self._arrays = arrays
        self._keys = keys

    @classmethod
    def of(cls, content: RecordDict, like: _Model | None = None) -> _Model:
        """Take the arrays of a message, and name them as those of another are."""
        records = content.array_records
        keys = tuple(records) if like is None else like._keys
        plain = keys[0] if len(keys) == 1 else None
        if plain is not None and plain not in records and len(records) == 1:
            plain = next(iter(records))  # a client may answer under a key of its own
        return cls(
            {
                name if key == plain else f"{key}/{name}": array
                for key, record in records.items()
                for name, array in record.items()
            },
            keys,
        )

    def __eq__(self, other: object) -> bool:
        # The usual case is one record shared by all messages: identity of the bytes settles it without reading them.
        return isinstance(other, _Model) and (
            self._keys == other._keys
            and self._arrays.keys() == other._arrays.keys()
            and all(a.data is other._arrays[n].data or a.data == other._arrays[n].data for n, a in self._arrays.items())
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of numbers, as views of the message's bytes."""
        views = {name: _view(array) for name, array in self._arrays.items()}
        return {name: numbers for name, numbers in views.items() if numbers is not None}


def _told(message: Message) -> Told:
    """Return a message without its arrays, and without what `Reproducible` adds."""
    records: list[tuple[str, Any, dict[str, Any]]] = []
    for key, record in message.content.items():
        if isinstance(record, ArrayRecord):
            records.append((key, "arrays", {}))
        else:
            kind = "config" if isinstance(record, ConfigRecord) else "metrics"
            values = {name: value for name, value in record.items() if name != RANDOMNESS}
            if values or not record or key != RECORD:
                records.append((key, kind, values))
    return Told(message.metadata.message_type, tuple(records))


def _place(found: list[Any], new: Any) -> int:
    if new not in found:
        found.append(new)
    return found.index(new)


def _view(array: Array) -> NDArray[Any] | None:
    """Return an array as a view of the message's bytes; None where it holds no numbers."""
    try:
        numbers = view(array.data) if array.stype == "numpy.ndarray" else array.numpy()
    except (TypeError, ValueError, EOFError):  # an app's own format, or damaged
        return None
    return numbers if numbers.dtype.kind in "biuf" else None
