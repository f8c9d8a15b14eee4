"""Every touch of Flower's private parts, in one place (flwr 1.41)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from flwr.app import Message, Metadata, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fl_privacy._registry import find_object

SERVER_NODE_ID = 1
CLIENT_ERROR_CODE = 2
"""`ErrorCode.CLIENT_APP_RAISED_EXCEPTION`: what Flower answers for a ClientApp that raised."""


@contextmanager
def run_identity(run_id: int, task_id: int = 1) -> Iterator[None]:
    """Let `Message(...)` be called outside a Flower process, as the ServerApp of a run."""
    saved = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = task_id, run_id, SERVER_NODE_ID
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = saved


def set_message_id(message: Message, message_id: str) -> None:
    """Give a message its id, as the SuperLink does."""
    message.metadata.__dict__["_message_id"] = message_id


def copy_metadata(metadata: Metadata) -> Metadata:
    """Return a copy of a message's metadata."""
    copy = object.__new__(type(metadata))
    copy.__dict__.update(metadata.__dict__)
    return copy


def make_message(metadata: Metadata, content: Any) -> Message:
    """Make a message from ready metadata."""
    return Message(metadata=metadata, content=content)  # type: ignore[call-overload,no-any-return]


def load_app(reference: Any) -> Any:
    """Return an app given as an object or as ``"package.module:name"``, as Flower's own components are written."""
    return find_object(reference, {}, "app") if isinstance(reference, str) else reference


def run_record(run_id: int) -> Any:
    """Return what the legacy API reads of a run: its id."""
    return SimpleNamespace(run_id=run_id)


def faults() -> list[str]:
    """Return which of the touches in this module do not do in this Flower what they did in 1.41."""
    found = []
    try:
        with run_identity(run_id=7):
            message = Message(RecordDict(), 3, "train")
            if message.metadata.run_id != 7:
                found.append("TaskIdentity does not name the run")
        set_message_id(message, "message-1")
        if message.metadata.message_id != "message-1":
            found.append("a message's id cannot be set")
        copy = make_message(copy_metadata(message.metadata), RecordDict())
        if (copy.metadata.message_id, copy.metadata.dst_node_id) != ("message-1", 3):
            found.append("a message's metadata cannot be copied")
    except Exception as error:  # whatever a changed Flower raises
        found.append(f"{type(error).__name__}: {error}")
    return found
