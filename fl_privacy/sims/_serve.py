"""One message at one client: what the local engine does in its own process and in its workers alike."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp

from fl_privacy import _flower
from fl_privacy._randomness import seed_streams

RUN_ID = 1
logger = logging.getLogger("fl_privacy.sims.local")


@dataclass(eq=False)
class Client:
    """What the engine keeps of a client.

    Attributes
    ----------
    node_id : int
    node_config, run_config : dict
        What the client finds in its context with each message, whatever it did to them before.
    state : RecordDict
        What it left in its context.
    served : int
        Messages it has been sent.
    """

    node_id: int
    node_config: UserConfig
    run_config: UserConfig
    state: RecordDict = field(default_factory=RecordDict)
    served: int = 0


@dataclass(frozen=True, eq=False)
class Task:
    """A message to a client: its `turn`-th."""

    message: Message
    client: Client
    turn: int


Answered = Callable[[Task, Message | str, RecordDict], None]
"""Told of a task, the reply or the reason why there is none, and the client's state after it."""


class Engine(Protocol):
    """Runs clients."""

    def serve(self, tasks: list[Task], answered: Answered) -> None:
        """Run a client for each task; a client's tasks in their order, each from the state before it."""

    def close(self) -> None:
        """Free what the engine holds."""


class InProcess:
    """Runs clients in this process, one after another.

    Parameters
    ----------
    app : ClientApp
    seed : int
    """

    def __init__(self, app: ClientApp, seed: int) -> None:
        self._app = app
        self._seed = seed

    def serve(self, tasks: list[Task], answered: Answered) -> None:
        """Run the clients in the order of the tasks."""
        for task in tasks:
            message, client = task.message, task.client
            request = _flower.make_message(
                _flower.copy_metadata(message.metadata), _flower.copy_records(message.content)
            )
            context = make_context(
                client.node_id, dict(client.node_config), dict(client.run_config), _flower.copy_records(client.state)
            )
            reply = run_client(self._app, request, context, self._seed, task.turn)
            if isinstance(reply, Message) and reply.has_content():
                # What a client keeps of its own reply must not reach the server later.
                reply.content = _flower.copy_records(reply.content)
            answered(task, reply, context.state)

    def close(self) -> None:
        """Nothing is held."""


def make_context(node_id: int, node_config: UserConfig, run_config: UserConfig, state: RecordDict) -> Context:
    """Make the context that a client finds."""
    return Context(RUN_ID, node_id, node_config, state, run_config)


def run_client(app: ClientApp, request: Message, context: Context, seed: int, turn: int) -> Message | str:
    """Return a client's reply to a message, or why there is none.

    The streams of `random`, `numpy.random` and `torch` are the message's own, and are left where the client left them.
    """
    partition = context.node_config["partition-id"]
    seed_streams(seed, "client", partition, turn)
    try:
        reply = app(request, context)
        if not isinstance(reply, Message):
            raise TypeError(f"the ClientApp returned {type(reply).__name__}, not a Message")
    except (Exception, SystemExit) as error:  # a client cannot end the server's run
        logger.warning("client %s raised:\n%s", partition, traceback.format_exc())
        return f"{type(error).__name__}: {error}"
    return reply
