"""Every touch of Flower's private parts, in one place (flwr 1.41)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from flwr.app import Message, Metadata
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


RUN_COMPLETED = "finished:completed"
"""The status in ``flwr ls`` of a run that went well."""

_NOTHING_SAID = ("An error was encountered", "Simulation Runtime crashed", "unknown error")


def failure(details: str) -> str:
    """Return what an app said when it failed, out of a run's status details; empty where they only say that it did."""
    said = " ".join(details.partition("failed with exception: ")[2].split())
    return said if says_something(said) else ""


def says_something(error: str) -> bool:
    """Whether an error's text is more than Flower's own that there was one."""
    return not any(words in error for words in _NOTHING_SAID)
