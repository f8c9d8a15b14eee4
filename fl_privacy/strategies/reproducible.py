"""A strategy wrapper under which the same seed gives the same run, on any engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from logging import INFO, WARNING
from time import sleep
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fl_privacy._randomness import own_randomness
from fl_privacy.errors import UserError
from fl_privacy.strategies._identity import Identities
from fl_privacy.strategies._wrapper import StrategyWrapper, chain
from fl_privacy.updates.protocol import RANDOMNESS, RECORD

_POLL_SECONDS = 1.0


class Reproducible(StrategyWrapper):
    """Make a federation depend on its seed alone.

    Flower numbers nodes at random and hands replies on as they arrive, so seeding alone does not repeat a run. Here the
    wrapped strategy finds the nodes in the order of their partitions, gets replies in that order, and draws its
    randomness (`random`, `numpy.random`, torch: sampling of clients, noise of DP wrappers) from (seed, round). Each
    message carries the seed and the round in its configuration, from which `fl_privacy.clients.mods.reproducible_mod`
    seeds the client.

    Parameters
    ----------
    strategy : Strategy
        Any Flower strategy (Message API). Put this wrapper outermost.
    seed : int
        Of the whole federation but the initial model, which is the ServerApp's own.

    Notes
    -----
    In a simulation (local engine, Ray) the clients' numbers are known. Deployed clients are asked once by a query,
    which their app answers by ``app.query(IDENTITY)(identity)`` (both from `fl_privacy.clients.mods`): Flower calls no
    mod for a query without a function. Same seed, same machine, CPU, one torch thread a client: same bytes on the
    local engine and under Ray.

    For experiments: a server that knows the seed could draw the noise that clients add, and take it off again.

    Nodes may connect one after another, and FedAvg samples a fraction of those that are there: a round begins when the
    strategy's ``min_available_nodes`` are. Set it to the number of all clients where a run has to be repeated.
    """

    def __init__(self, strategy: Strategy, seed: int = 0) -> None:
        super().__init__(strategy)
        if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
            raise UserError(f"Reproducible: seed must be a whole number of 64 bits, not {seed!r}")
        self.seed = seed
        self._identities: Identities | None = None
        self._warned = False

    def __repr__(self) -> str:
        return f"Reproducible({self.strategy!r}, seed={self.seed})"

    def summary(self) -> None:
        """Log summary configuration of the strategy."""
        log(INFO, "\t├──> Reproducible: seed %d (known to the server: clients' own noise hides nothing)", self.seed)
        self.strategy.summary()

    @contextmanager
    def running(self, outside: tuple[Any, ...]) -> Iterator[None]:
        """Forget who is who when the run is over: the next one numbers its nodes anew."""
        try:
            yield
        finally:
            self._identities, self._warned = None, False

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Delegate with ordered nodes and seeded randomness."""
        known = self._ordered(grid)
        with own_randomness("server", self.seed, server_round, "configure_train"):
            messages = list(self.strategy.configure_train(server_round, arrays, config, known))
        return self._seeded(messages, server_round, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Delegate with ordered replies and seeded randomness."""
        with own_randomness("server", self.seed, server_round, "aggregate_train"):
            return self.strategy.aggregate_train(server_round, self._in_order(replies))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Delegate with ordered nodes and seeded randomness."""
        known = self._ordered(grid)
        with own_randomness("server", self.seed, server_round, "configure_evaluate"):
            messages = list(self.strategy.configure_evaluate(server_round, arrays, config, known))
        return self._seeded(messages, server_round, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Delegate with ordered replies and seeded randomness."""
        with own_randomness("server", self.seed, server_round, "aggregate_evaluate"):
            return self.strategy.aggregate_evaluate(server_round, self._in_order(replies))

    def _ordered(self, grid: Grid) -> Grid:
        if self._identities is None:
            self._identities = Identities.of(grid)
        # FedAvg waits for as many itself, but only after it has counted those of whom it takes a fraction.
        needed = max((getattr(strategy, "min_available_nodes", 0) for strategy in chain(self.strategy)), default=0)
        while (connected := len(list(grid.get_node_ids()))) < needed:
            log(INFO, "Reproducible: waiting for nodes, %d of %d are connected", connected, needed)
            sleep(_POLL_SECONDS)
        return _OrderedGrid(grid, self._identities)

    def _in_order(self, replies: Iterable[Message]) -> list[Message]:
        return self._identities.in_order(replies) if self._identities is not None else list(replies)

    def _seeded(self, messages: list[Message], server_round: int, grid: Grid) -> list[Message]:
        """Write seed and round into each message's configuration: the record that is there, so that mods find one."""
        if self._identities is not None:
            nodes = [message.metadata.dst_node_id for message in messages]
            self._identities.ask(grid, nodes)
            unknown = self._identities.lacking(nodes)
            if unknown and not self._warned:
                self._warned = True
                log(
                    WARNING,
                    "Reproducible: %d node(s) told no partition id: this run cannot be repeated. A deployed ClientApp "
                    "needs app.query(IDENTITY)(identity), both from fl_privacy.clients.mods, and its SuperNode "
                    "--node-config 'partition-id=...'.",
                    len(unknown),
                )
        for content in {id(message.content): message.content for message in messages}.values():
            configs = content.config_records
            if not configs:
                content[RECORD] = ConfigRecord()
            record = next(iter(content.config_records.values()))
            record[RANDOMNESS] = [self.seed, server_round]
        return messages


class _OrderedGrid(Grid):
    """A grid whose nodes stand in the order of their partitions."""

    def __init__(self, grid: Grid, identities: Identities) -> None:
        self._grid = grid
        self.identities = identities

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_grid":
            raise AttributeError(name)
        return getattr(self._grid, name)

    def set_run(self, run: Any) -> None:
        """Delegate."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """Delegate."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Delegate."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes in the order of their partitions; those without one come last."""
        nodes = list(self._grid.get_node_ids())
        self.identities.ask(self._grid, nodes)
        return self.identities.sort_nodes(nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Delegate."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Delegate."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Delegate."""
        return self._grid.send_and_receive(messages, timeout=timeout)
