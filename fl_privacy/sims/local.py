"""The local engine: unmodified ServerApps and ClientApps on one machine, deterministic to the bit.

An implementation of Flower's public `Grid`. No Ray, no sockets, no polling: a message costs what the client's work
and its (de)serialisation cost. Clients run one after another in this process, or over worker processes with the same
results to the bit, each with its own `Context`, whose state stays over the rounds as in Flower's own simulation.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, cast

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl_privacy import _flower
from fl_privacy._processes import keep_freed_memory, one_thread
from fl_privacy._randomness import kept_streams, seed_streams
from fl_privacy.clients.mods import identity
from fl_privacy.errors import UserError
from fl_privacy.sims._serve import RUN_ID, Client, Engine, InProcess, Task, make_context
from fl_privacy.updates.protocol import IDENTITY_QUERY


def run_simulation(
    server_app: ServerApp | str,
    client_app: ClientApp | str,
    num_supernodes: int,
    run_config: UserConfig | None = None,
    *,
    seed: int = 0,
    workers: int = 1,
    on_message: Callable[[str], None] | None = None,
) -> Context:
    """Run a Flower simulation on this machine.

    Parameters
    ----------
    server_app, client_app : ServerApp and ClientApp, or "package.module:name"
        The apps, as they are.
    num_supernodes : int
        Number of clients; client i has ``node_config = {"partition-id": i, "num-partitions": num_supernodes}``.
    run_config : dict, optional
        What both apps find in ``context.run_config`` (flat, kebab-case keys, values bool, int, float or str).
    seed : int
        Seeds `random`, `numpy.random` and `torch` once for the server, and for each message at its client, so that
        results depend neither on the order of clients nor on what ran before in this process.
    workers : int
        Processes that run the clients. With 1, they run in this process.
    on_message : callable, optional
        Told the type of each message (``"train"``, ``"evaluate"``, ...) when it has been answered.

    Returns
    -------
    Context
        The ServerApp's context, with whatever it left in ``context.state``.

    Raises
    ------
    UserError
        If an app cannot be found, or the ClientApp cannot be sent to workers.

    Notes
    -----
    A ClientApp that raises becomes an error reply, as in Flower; so does one that kills its worker. torch and BLAS are
    held to one thread while the simulation runs: more threads are slower at these sizes and change the last bits of
    sums. Apps of Flower's legacy API run too, but that API sends one message at a time from several threads, so the
    order of replies, and with it the last bits of sums, may differ, and workers do not make it faster.

    Results are the same to the bit for any number of workers where a client's answer depends on its message, context
    and random streams alone. A worker is a fresh process: what the calling script set for its own (torch's default
    dtype, say) or what clients leave in module globals is not shared. Nothing is left running when this returns or
    raises.
    """
    if num_supernodes < 1:
        raise UserError(f"num_supernodes must be at least 1, not {num_supernodes}")
    with kept_streams():
        seed_streams(seed, "import")  # as in workers: what a module draws when imported is the same everywhere
        server: ServerApp = _flower.load_app(server_app)
        client: ClientApp = _flower.load_app(client_app)
    config = dict(run_config or {})
    keep_freed_memory()
    context = Context(RUN_ID, _flower.SERVER_NODE_ID, {}, RecordDict(), config)
    with (
        _flower.run_identity(RUN_ID),
        kept_streams(),
        one_thread(),
        LocalGrid(client_app if workers > 1 else client, num_supernodes, config, seed, on_message, workers) as grid,
    ):
        seed_streams(seed, "server")
        server(grid, context)
    return context


class LocalGrid(Grid):
    """Flower's `Grid` over clients that live in this process, or in workers of it.

    Parameters
    ----------
    client_app : ClientApp or "package.module:name"
        Runs every client.
    num_supernodes : int
        Number of clients.
    run_config : dict
        Each client's ``context.run_config``.
    seed, on_message, workers
        See `run_simulation`.

    Notes
    -----
    With workers it is a context manager: the processes start with the first messages and end with `close`.
    """

    def __init__(
        self,
        client_app: ClientApp | str,
        num_supernodes: int,
        run_config: UserConfig,
        seed: int = 0,
        on_message: Callable[[str], None] | None = None,
        workers: int = 1,
    ) -> None:
        if workers < 1:
            raise UserError(f"workers must be at least 1, not {workers}")
        self._on_message = on_message
        # Node ids are not partition ids in Flower: keep apps from taking one for the other.
        self._clients = {
            1000 + i: Client(1000 + i, {"partition-id": i, "num-partitions": num_supernodes}, dict(run_config))
            for i in range(num_supernodes)
        }
        self._sent = 0
        self._one_at_a_time = threading.Lock()  # Flower's legacy API sends from several threads
        self._replies: dict[str, Message] = {}
        self._engine: Engine
        if workers > 1:
            from fl_privacy.sims._pool import WorkerPool

            self._engine = WorkerPool(client_app, workers, seed)
        else:
            self._engine = InProcess(_flower.load_app(client_app), seed)

    def __enter__(self) -> LocalGrid:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers, if there are any."""
        self._engine.close()

    def set_run(self, run: Any) -> None:
        """Take no notice: there is one run."""

    @property
    def run(self) -> Any:
        """What the legacy API reads of a run: its id."""
        return _flower.run_record(RUN_ID)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return all nodes, in the order of their partitions."""
        return list(self._clients)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the clients that the messages go to, and keep their replies."""
        with self._one_at_a_time:
            ids, tasks = [], []
            for message in messages:
                self._sent += 1
                message_id = f"message-{self._sent}"
                _flower.set_message_id(message, message_id)
                ids.append(message_id)
                if (client := self._clients.get(message.metadata.dst_node_id)) is None:
                    self._answer(message, f"no node {message.metadata.dst_node_id}")
                elif message.metadata.message_type == IDENTITY_QUERY:
                    self._answer(message, _identity(message, client))
                else:
                    client.served += 1
                    tasks.append(Task(message, client, client.served))
            if tasks:
                with kept_streams():
                    self._engine.serve(tasks, self._answered)
            return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand out replies, each once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push the messages and return the replies, in the order of the messages."""
        return self.pull_messages(self.push_messages(messages))

    def snapshot(self) -> RecordDict:
        """Return what clients keep between messages, for `restore` in a grid of as many clients.

        Returns
        -------
        RecordDict
            ``"engine"``: a ConfigRecord with the counts of messages (``clients``, ``sent``, and by partition
            ``served``). ``"state/<partition>/<key>"``: each record of a client's state.
        """
        with self._one_at_a_time:
            counts = {
                "clients": len(self._clients),
                "sent": self._sent,
                "served": [client.served for client in self._clients.values()],
            }
            taken = RecordDict({"engine": ConfigRecord(counts)})  # type: ignore[arg-type]
            for partition, client in enumerate(self._clients.values()):
                for key, record in _flower.copy_records(client.state).items():
                    taken[f"state/{partition}/{key}"] = record
            return taken

    def restore(self, snapshot: RecordDict) -> None:
        """Go on from a snapshot: the clients' states and random streams are what they would have been.

        Raises
        ------
        UserError
            If it is no snapshot of a grid with as many clients.
        """
        engine = snapshot.get("engine")
        served = engine.get("served") if isinstance(engine, ConfigRecord) else None
        if not isinstance(engine, ConfigRecord) or not isinstance(served, list):
            raise UserError("these records are no snapshot of a local engine")
        if len(served) != len(self._clients):
            raise UserError(f"a snapshot of {len(served)} clients does not fit a federation of {len(self._clients)}")
        states = {str(partition): RecordDict() for partition in range(len(served))}
        for key, record in _flower.copy_records(snapshot).items():
            if key != "engine":
                _, partition, name = key.split("/", 2)
                states[partition][name] = record
        with self._one_at_a_time:
            self._sent = cast(int, engine["sent"])
            for client, count, state in zip(self._clients.values(), served, states.values(), strict=True):
                client.served, client.state = cast(int, count), state

    def _answered(self, task: Task, reply: Message | str, state: RecordDict) -> None:
        if isinstance(reply, Message):
            task.client.state = state  # as in Flower, what a failed client did to its state is lost
        self._answer(task.message, reply)

    def _answer(self, message: Message, reply: Message | str) -> None:
        if isinstance(reply, str):
            reply = Message(Error(_flower.CLIENT_ERROR_CODE, reply), reply_to=message)
        self._replies[message.metadata.message_id] = reply
        if self._on_message:
            self._on_message(message.metadata.message_type)


def _identity(message: Message, client: Client) -> Message:
    # The engine knows; so capture names clients by partition in apps that have never heard of us.
    return identity(message, make_context(client.node_id, client.node_config, client.run_config, client.state))
