"""Who is who: names of clients that stay the same over rounds, engines and runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from logging import WARNING
from typing import Any

from flwr.app import Message, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from fl_privacy import _flower
from fl_privacy.updates.protocol import IDENTITY_QUERY, PARTITION, RECORD
from fl_privacy.updates.record import NamedBy

_QUERY_TIMEOUT_SECONDS = 600.0

HOW_TO_NAME = (
    "Give the ClientApp fl_privacy.clients.mods.identity_mod, "
    "and each deployed SuperNode --node-config 'partition-id=...'."
)


class Identities:
    """Names clients by their partition id, as told by query, else by what a mod adds to replies, else by node id.

    Nodes may connect when the ServerApp runs already: each is asked once, when it is first met. In a simulation nobody
    needs to be asked: it numbered the clients itself.
    """

    def __init__(self) -> None:
        self._partitions: dict[int, str] = {}
        self._asked: set[int] = set()
        self._trusted, self._warned = True, False

    @classmethod
    def of(cls, grid: Grid) -> Identities:
        """Return what the grid knows already, else nothing yet."""
        known = getattr(grid, "identities", None)
        return known if isinstance(known, cls) else cls()

    def ask(self, grid: Grid, nodes: Iterable[int]) -> None:
        """Ask those of the nodes that were not asked before for their partition ids."""
        new = [node for node in dict.fromkeys(nodes) if node not in self._asked]
        if not new:
            return
        self._asked.update(new)
        simulated = _flower.simulated_partitions(grid)
        known = {node: simulated[node] for node in new if node in simulated}
        answers = known | _ask(grid, [node for node in new if node not in known])
        if not self._trusted:
            return
        self._partitions |= answers
        if len(set(self._partitions.values())) < len(self._partitions):
            self._distrust()

    def name(self, replies: Sequence[Message]) -> list[tuple[str, NamedBy]]:
        """Name the senders of a round's replies, and say where each name comes from.

        Where two nodes claim one partition, all are named by node id from then on.
        """
        names = [self._name(reply) for reply in replies]
        nodes = {(reply.metadata.src_node_id, name) for reply, (name, _) in zip(replies, names, strict=True)}
        if len({name for _, name in nodes}) < len(nodes):
            self._distrust()
            names = [self._name(reply) for reply in replies]
        if self._trusted and not self._warned and any(by == "node" for _, by in names):
            self._warned = True
            log(WARNING, f"fl-privacy: some clients tell no partition id and are named by node id. {HOW_TO_NAME}")
        return names

    def in_order(self, replies: Iterable[Message]) -> list[Message]:
        """Sort replies by the names of their senders."""
        replies = list(replies)
        names = [name for name, _ in self.name(replies)]
        return [replies[i] for i in sorted(range(len(replies)), key=lambda i: order(names[i]))]

    def sort_nodes(self, nodes: Iterable[int]) -> list[int]:
        """Sort node ids by partition; nodes without one come last."""
        last = len(self._partitions)
        return sorted(nodes, key=lambda n: (n not in self._partitions, order(self._partitions.get(n, str(last))), n))

    def lacking(self, nodes: Iterable[int]) -> list[int]:
        """Return the nodes whose partition is not known."""
        return [node for node in nodes if node not in self._partitions]

    def _name(self, reply: Message) -> tuple[str, NamedBy]:
        node = reply.metadata.src_node_id
        if self._trusted and node in self._partitions:
            return self._partitions[node], "query"
        stamp = stamp_of(reply)
        if self._trusted and PARTITION in stamp:
            return str(stamp[PARTITION]), "mod"
        return f"node-{node}", "node"

    def _distrust(self) -> None:
        log(WARNING, "fl-privacy: several nodes claim one partition id; clients are named by node id instead")
        self._trusted, self._partitions = False, {}


def stamp_of(message: Message) -> Mapping[str, Any]:
    """Return what our client mods or clients said of a reply."""
    return message.content.config_records.get(RECORD, {}) if message.has_content() else {}


def order(name: str) -> tuple[bool, int, str]:
    """Return a key that sorts clients' names: partitions by number, then the others."""
    return (False, int(name), "") if name.isdecimal() else (True, 0, name)


def _ask(grid: Grid, nodes: Sequence[int]) -> dict[int, str]:
    """Ask nodes for their partition ids; those whose app has no answer are left out."""
    if not nodes:
        return {}
    questions = [Message(RecordDict(), dst_node_id=node, message_type=IDENTITY_QUERY) for node in nodes]
    partitions = {}
    for answer in grid.send_and_receive(questions, timeout=_QUERY_TIMEOUT_SECONDS):
        stamp = stamp_of(answer)
        if PARTITION in stamp:
            partitions[answer.metadata.src_node_id] = str(stamp[PARTITION])
    return partitions
