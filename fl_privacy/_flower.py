"""Every touch of Flower's private parts, in one place (flwr 1.41)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, Metadata, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import DecodeError

from fl_privacy._registry import find_object

SERVER_NODE_ID = 1
CLIENT_ERROR_CODE = 2
"""`ErrorCode.CLIENT_APP_RAISED_EXCEPTION`: what Flower answers for a ClientApp that raised."""

_Record = TypeVar("_Record", bound=ArrayRecord | MetricRecord | ConfigRecord | RecordDict)


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
    return make_metadata(metadata_fields(metadata))


def metadata_fields(metadata: Metadata) -> dict[str, Any]:
    """Return a message's metadata as plain values."""
    return dict(metadata.__dict__)


def make_metadata(fields: dict[str, Any]) -> Metadata:
    """Make metadata from what `metadata_fields` returned."""
    made = object.__new__(Metadata)
    made.__dict__.update(fields)
    return made


def make_array(dtype: str, shape: tuple[int, ...], stype: str, data: bytes) -> Array:
    """Make an array from the parts of another.

    Flower's constructors check every part again; with six arrays a message that is a tenth of a client's work.
    """
    made = object.__new__(Array)
    made.__dict__.update(dtype=dtype, shape=shape, stype=stype, data=data)
    return made


def make_record(kind: type[_Record], items: dict[str, Any]) -> _Record:
    """Make a record, or a RecordDict, that holds this dict, whose items came out of another."""
    made = kind()
    made.__dict__["_data"] = items
    return made


def copy_records(records: RecordDict) -> RecordDict:
    """Copy records; the bytes of arrays are immutable and shared."""
    copies: dict[str, Any] = {}
    for key, record in records.items():
        if isinstance(record, ArrayRecord):
            arrays = {n: make_array(a.dtype, tuple(a.shape), a.stype, a.data) for n, a in record.items()}
            copies[key] = make_record(ArrayRecord, arrays)
        else:
            kind: Any = MetricRecord if isinstance(record, MetricRecord) else ConfigRecord
            copies[key] = make_record(kind, copy_values(record))
    return make_record(RecordDict, copies)


def copy_values(record: MetricRecord | ConfigRecord) -> dict[str, Any]:
    """Return the items of a record, lists copied."""
    return {name: list(value) if isinstance(value, list) else value for name, value in record.items()}


def dump_records(records: RecordDict) -> bytes:
    """Write records as bytes, in Flower's own protobuf form: the same bytes for the same records.

    Raises
    ------
    ValueError
        For what that form cannot hold: integers of more than 64 bits.
    """
    dumped: bytes = recorddict_to_proto(records).SerializeToString(deterministic=True)
    return dumped


def load_records(dumped: bytes) -> RecordDict:
    """Read what `dump_records` wrote.

    Raises
    ------
    ValueError
        If it is something else.
    """
    try:
        return recorddict_from_proto(ProtoRecordDict.FromString(dumped))
    except DecodeError as error:
        raise ValueError(f"these bytes are no Flower RecordDict ({error})") from error


def make_message(metadata: Metadata, content: RecordDict | None, error: Error | None = None) -> Message:
    """Make a message from ready metadata, with either content or an error."""
    return Message(metadata=metadata, content=content, error=error)  # type: ignore[call-overload,no-any-return]


def simulated_partitions(grid: Any) -> dict[int, str]:
    """Return node id -> partition id as Flower's own simulation numbers its nodes; empty elsewhere.

    There, node i is the i-th that was registered (`flwr.server.superlink.fleet.vce.vce_api._register_nodes`), and the
    state keeps them in that order. It is what each client finds in its ``node_config``; asking them would need a query
    function in their app.
    """
    state = getattr(grid, "state", None)
    nodes = getattr(state, "nodes", None)
    if type(state).__name__ != "InMemoryLinkState" or not isinstance(nodes, dict):
        return {}
    return {int(node): str(number) for number, node in enumerate(nodes)}


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
        arrays = ArrayRecord({"a": Array(np.arange(3.0))})
        records = RecordDict({"arrays": arrays, "config": ConfigRecord({"n": [1, 2]}), "m": MetricRecord({"x": 1.5})})
        for how, again in (("copied", copy_records(records)), ("written", load_records(dump_records(records)))):
            if list(again) != list(records) or any(again[key] != records[key] for key in records):
                found.append(f"records cannot be {how}")
    except Exception as error:  # whatever a changed Flower raises
        found.append(f"{type(error).__name__}: {error}")
    return found


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
