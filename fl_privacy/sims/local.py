"""The local engine: unmodified ServerApps and ClientApps in one process, deterministic to the bit.

An implementation of Flower's public `Grid`. No Ray, no sockets, no polling: a message costs what the client's work
and its (de)serialisation cost. Clients run one after another, each with its own `Context`, whose state stays over
the rounds as in Flower's own simulation.
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl_privacy._processes import keep_freed_memory, one_thread
from fl_privacy.clients.mods import identity_mod
from fl_privacy.errors import UserError
from fl_privacy.sims import _flower
from fl_privacy.updates.protocol import IDENTITY_QUERY

logger = logging.getLogger(__name__)
_RUN_ID = 1


def run_simulation(
    server_app: ServerApp | str,
    client_app: ClientApp | str,
    num_supernodes: int,
    run_config: UserConfig | None = None,
    *,
    seed: int = 0,
    on_message: Callable[[str], None] | None = None,
) -> Context:
    """Run a Flower simulation in this process.

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
    on_message : callable, optional
        Told the type of each message (``"train"``, ``"evaluate"``, ...) when it has been answered.

    Returns
    -------
    Context
        The ServerApp's context, with whatever it left in ``context.state``.

    Notes
    -----
    A ClientApp that raises becomes an error reply, as in Flower. torch is held to one thread while the simulation
    runs: more threads are slower at these sizes and change the last bits of sums. Apps of Flower's legacy API run too,
    but that API sends from several threads, so the order of replies, and with it the last bits of sums, may differ.
    """
    if num_supernodes < 1:
        raise UserError(f"num_supernodes must be at least 1, not {num_supernodes}")
    server: ServerApp = _flower.load_app(server_app)
    client: ClientApp = _flower.load_app(client_app)
    config = dict(run_config or {})
    keep_freed_memory()
    context = Context(_RUN_ID, _flower.SERVER_NODE_ID, {}, RecordDict(), config)
    with _flower.run_identity(_RUN_ID), _own_randomness(seed, "server"), one_thread():
        server(LocalGrid(client, num_supernodes, config, seed, on_message), context)
    return context


class LocalGrid(Grid):
    """Flower's `Grid` over clients that live in this process.

    Parameters
    ----------
    client_app : ClientApp
        Runs every client.
    num_supernodes : int
        Number of clients.
    run_config : dict
        Each client's ``context.run_config``.
    seed, on_message
        See `run_simulation`.
    """

    def __init__(
        self,
        client_app: ClientApp,
        num_supernodes: int,
        run_config: UserConfig,
        seed: int = 0,
        on_message: Callable[[str], None] | None = None,
    ) -> None:
        self._client_app = client_app
        self._seed = seed
        self._on_message = on_message
        # Node ids are not partition ids in Flower: keep apps from taking one for the other.
        self._contexts = {
            1000 + i: Context(
                _RUN_ID,
                1000 + i,
                {"partition-id": i, "num-partitions": num_supernodes},
                RecordDict(),
                dict(run_config),
            )
            for i in range(num_supernodes)
        }
        self._served = dict.fromkeys(self._contexts, 0)
        self._sent = 0
        self._one_at_a_time = threading.Lock()  # Flower's legacy API sends from several threads
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Any) -> None:
        """Take no notice: there is one run."""

    @property
    def run(self) -> Any:
        """What the legacy API reads of a run: its id."""
        return _flower.run_record(_RUN_ID)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return all nodes, in the order of their partitions."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the clients that the messages go to, and keep their replies."""
        ids = []
        for message in messages:
            with self._one_at_a_time:
                self._sent += 1
                message_id = f"message-{self._sent}"
                _flower.set_message_id(message, message_id)
                self._replies[message_id] = self._serve(message)
                ids.append(message_id)
                if self._on_message:
                    self._on_message(message.metadata.message_type)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Hand out replies, each once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push the messages and return the replies, in the order of the messages."""
        return self.pull_messages(self.push_messages(messages))

    def _serve(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        if node not in self._contexts:
            return Message(Error(_flower.CLIENT_ERROR_CODE, f"no node {node}"), reply_to=message)
        context = self._contexts[node]
        request = _flower.make_message(_flower.copy_metadata(message.metadata), _copy(message.content))
        if message.metadata.message_type == IDENTITY_QUERY:
            # The engine knows; so capture names clients by partition in apps that have never heard of us.
            reply = identity_mod(request, context, self._client_app)
        else:
            self._served[node] += 1
            state = context.state
            context.state = _copy(state)
            with _own_randomness(self._seed, "client", context.node_config["partition-id"], self._served[node]):
                try:
                    reply = self._client_app(request, context)
                    if not isinstance(reply, Message):
                        raise TypeError(f"the ClientApp returned {type(reply).__name__}, not a Message")
                except Exception as error:
                    context.state = state  # as in Flower, what a failed client did to its state is lost
                    logger.warning("client %s raised:\n%s", context.node_config["partition-id"], traceback.format_exc())
                    reason = f"{type(error).__name__}: {error}"
                    return Message(Error(_flower.CLIENT_ERROR_CODE, reason), reply_to=message)
        if reply.has_content():
            # What a client keeps of its own reply must not reach the server later.
            reply.content = _copy(reply.content)
        return reply


def _copy(content: RecordDict) -> RecordDict:
    """Copy the records; the bytes of arrays are immutable and shared."""
    copy = RecordDict()
    for key, record in content.items():
        if isinstance(record, ArrayRecord):
            copy[key] = ArrayRecord({n: Array(a.dtype, a.shape, a.stype, a.data) for n, a in record.items()})
        else:
            kind = MetricRecord if isinstance(record, MetricRecord) else ConfigRecord
            copy[key] = kind({n: list(v) if isinstance(v, list) else v for n, v in record.items()})  # type: ignore[misc]
    return copy


@contextmanager
def _own_randomness(*key: Any) -> Iterator[None]:
    """Give the block global random streams of its own, derived from the key, and put back the caller's."""
    import torch

    saved = random.getstate(), np.random.get_state(), torch.random.get_rng_state()  # noqa: NPY002
    digest = hashlib.sha256(repr(key).encode()).digest()
    random.seed(digest)
    np.random.seed(np.frombuffer(digest[:16], dtype=np.uint32))  # noqa: NPY002
    torch.default_generator.manual_seed(int.from_bytes(digest[16:23], "little"))
    try:
        yield
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])  # noqa: NPY002
        torch.random.set_rng_state(saved[2])
