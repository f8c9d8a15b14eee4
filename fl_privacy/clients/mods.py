"""Flower client mods that any ClientApp can take."""

from __future__ import annotations

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from fl_privacy.updates.protocol import IDENTITY_QUERY, PARTITION, RECORD


def identity_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Tell the server which partition this client is.

    Answers the identity query itself (Flower's DP mods answer queries with an error, so this mod goes first in
    ``ClientApp(mods=[identity_mod, ...])``) and adds the partition id to every train reply, for servers whose query
    got no answer.

    Notes
    -----
    In a simulation the partition id names a client over all rounds. On a deployed federation it comes from the
    SuperNode's ``--node-config``; without one this mod adds nothing.
    """
    partition = context.node_config.get(PARTITION)
    if message.metadata.message_type == IDENTITY_QUERY:
        told = ConfigRecord()
        if partition is not None:
            told[PARTITION] = partition
        return Message(RecordDict({RECORD: told}), reply_to=message)
    reply = call_next(message, context)
    if partition is not None and reply.has_content() and message.metadata.message_type.startswith("train"):
        # The record may hold more (what kind of reply it is): add to it.
        record = reply.content.config_records.get(RECORD) or ConfigRecord()
        record[PARTITION] = partition
        reply.content[RECORD] = record
    return reply
