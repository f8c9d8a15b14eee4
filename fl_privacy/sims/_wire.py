"""What passes between the local engine and its workers: array bytes in shared memory, the rest pickled beside them.

A region holds one message at a time: the pickle first, then the array bytes, end to end. Only its length goes through
a pipe, so neither side ever waits for the other to read.
"""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
from collections.abc import Sequence
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fl_privacy import _flower

_STEP = 2**20
_HEAD = 8


class Region:
    """Memory that two processes share: one writes it from the start, then the other reads.

    Parameters
    ----------
    descriptor : int, optional
        File descriptor of a region made by another process; without it, a new region.

    Notes
    -----
    An anonymous file: it has no name to clean up, is not bound by the size of ``/dev/shm``, grows when it must, and is
    gone with the last process that holds it. Its first bytes say whether the reader has begun to read what was written.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = _anonymous_file() if descriptor is None else descriptor
        self._map: mmap.mmap | None = None

    @property
    def size(self) -> int:
        """Bytes it holds at most without growing."""
        return os.fstat(self.descriptor).st_size

    def write(self, pieces: Sequence[bytes]) -> None:
        """Write the pieces end to end."""
        whole = self._mapped(_HEAD + sum(map(len, pieces)))
        whole[0] = 0
        start = _HEAD
        for piece in pieces:
            end = start + len(piece)
            whole[start:end] = piece
            start = end

    def read(self, start: int, length: int) -> bytes:
        """Return a copy of a part."""
        return self._mapped(_HEAD + start + length)[_HEAD + start : _HEAD + start + length]

    def begin(self) -> None:
        """Say that reading has begun."""
        self._mapped(_HEAD)[0] = 1

    @property
    def begun(self) -> bool:
        """Whether reading of what was written last has begun."""
        return bool(self._mapped(_HEAD)[0])

    def close(self) -> None:
        """Let go of it."""
        if self._map is not None:
            self._map.close()
        os.close(self.descriptor)

    def _mapped(self, size: int) -> mmap.mmap:
        if self._map is None or len(self._map) < size:
            if self.size < size:
                os.ftruncate(self.descriptor, -(-size // _STEP) * _STEP)
            if self._map is not None:
                self._map.close()
            self._map = mmap.mmap(self.descriptor, self.size)
        return self._map


class Blobs:
    """The distinct array bytes of one message, each with its number."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self._numbers: dict[int, int] = {}

    def number(self, data: bytes) -> int:
        """Return the number of these bytes; the same object has one number."""
        number = self._numbers.get(id(data))
        if number is None:
            number = self._numbers[id(data)] = len(self.pieces)
            self.pieces.append(data if isinstance(data, bytes) else bytes(data))
        return number


def pack_records(records: RecordDict, blobs: Blobs) -> list[Any]:
    """Return records as plain values, with the numbers of array bytes in `blobs`."""
    packed: list[Any] = []
    for key, record in records.items():
        if isinstance(record, ArrayRecord):
            arrays = [(n, a.dtype, tuple(a.shape), a.stype, blobs.number(a.data)) for n, a in record.items()]
            packed.append((key, 0, arrays))
        else:
            packed.append((key, 1 if isinstance(record, MetricRecord) else 2, _flower.copy_values(record)))
    return packed


def unpack_records(packed: list[Any], blobs: Sequence[bytes]) -> RecordDict:
    """Return the records that `pack_records` packed, given the array bytes by number."""
    records: dict[str, Any] = {}
    for key, kind, items in packed:
        if kind == 0:
            arrays: dict[str, Array] = {
                name: _flower.make_array(dtype, shape, stype, blobs[number])
                for name, dtype, shape, stype, number in items
            }
            records[key] = _flower.make_record(ArrayRecord, arrays)
        else:
            record: Any = MetricRecord if kind == 1 else ConfigRecord
            records[key] = _flower.make_record(record, items)
    return _flower.make_record(RecordDict, records)


def send(region: Region, pickled: bytes, pieces: Sequence[bytes]) -> bytes:
    """Write a pickle and array bytes into a region; return what to send through the pipe."""
    region.write([pickled, *pieces])
    return len(pickled).to_bytes(8, "little")


def receive(region: Region, told: bytes) -> tuple[Any, int]:
    """Read the pickle that `send` wrote; return also where the array bytes begin."""
    length = int.from_bytes(told, "little")
    return pickle.loads(region.read(0, length)), length


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("fl-privacy", os.MFD_CLOEXEC)
    descriptor, path = tempfile.mkstemp(prefix="fl-privacy-")
    os.unlink(path)
    return descriptor
