"""Safetensors files, written without the library's copies and read by mapping.

The library's own writer first copies every array into a bytes object while it holds the interpreter's lock, which a
federation in the same process would feel. The format is a length, a JSON header and the arrays' bytes; what is written
here is read back by the library (here and in the tests).
"""

from __future__ import annotations

import errno
import json
import mmap
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.errors import UserError

_NAMES = {
    "f2": "F16",
    "f4": "F32",
    "f8": "F64",
    "i1": "I8",
    "i2": "I16",
    "i4": "I32",
    "i8": "I64",
    "u1": "U8",
    "b1": "BOOL",
}


def write(
    path: Path,
    tensors: Mapping[str, NDArray[Any]],
    halved: str | None = None,
    pages: Pages | None = None,
    server_round: int | None = None,
) -> None:
    """Write arrays to a safetensors file under a temporary name, then rename it.

    Parameters
    ----------
    path : Path
        The file.
    tensors : Mapping[str, ndarray]
        What to write; names are sorted, so that equal content gives equal bytes.
    halved : str, optional
        Arrays whose name starts so are written as bfloat16, rounded to nearest even.
    pages : Pages, optional
        Writes past the page cache, where that is possible.
    server_round : int, optional
        Written into the file, so that a shard cannot pass for that of another round. (One key: several would not have
        an order of their own.)
    """
    header: dict[str, Any] = {}
    if server_round is not None:
        header["__metadata__"] = {"round": str(server_round)}
    buffers = []
    offset = 0
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        if halved is not None and name.startswith(halved):
            dtype, array = "BF16", _bfloat16(array)
        else:
            array = array.astype(array.dtype.newbyteorder("="), copy=False)
            if array.dtype.kind == "u" and array.dtype.itemsize > 1:  # torch cannot read all of them back
                array = array.astype(np.int64)
            elif array.dtype.str[1:] not in _NAMES:
                array = array.astype(np.float64)
            dtype = _NAMES[array.dtype.str[1:]]
        header[name] = {
            "dtype": dtype,
            "shape": list(np.shape(tensors[name])),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
        buffers.append(array)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(f".{path.name}.part")
    parts: list[bytes | memoryview] = [len(text).to_bytes(8, "little") + text]
    parts += [array.reshape(-1).view(np.uint8).data for array in buffers]
    if pages is None or not pages.write(temporary, parts):
        with temporary.open("wb", buffering=0) as file:
            for part in parts:
                _write_all(file, part)
    os.replace(temporary, path)


class Pages:
    """Writes files past the page cache, from one aligned buffer that is used again.

    Filling fresh page cache takes many times the processor time of this copy and transfer (measured in the `store`
    benchmark's federation on a virtual machine: 30 ms against 2.5 ms for 12 MB), time that the federation would miss.
    Where the file system has no such writing, `write` does nothing and says so.
    """

    def __init__(self) -> None:
        self._buffer: mmap.mmap | None = None

    def write(self, path: Path, parts: Sequence[bytes | memoryview]) -> bool:
        """Write the parts, one behind the other; say whether that was possible."""
        size = sum(len(part) for part in parts)
        whole = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        if self._buffer is None or len(self._buffer) < whole:  # (a smaller one is left to its views, and then freed)
            self._buffer = mmap.mmap(-1, whole)
        # numpy copies without holding the interpreter's lock, which the federation needs.
        image = np.frombuffer(self._buffer, np.uint8)
        at = 0
        for part in parts:
            image[at : at + len(part)] = np.frombuffer(part, np.uint8)
            at += len(part)
        view = memoryview(self._buffer)
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT, 0o666)
        except (AttributeError, OSError):  # no such flag on this system, or not on this file system
            return False
        try:
            done = 0
            while done < whole:
                done += os.write(file, view[done:whole])
            os.ftruncate(file, size)
        except OSError as error:
            if error.errno == errno.EINVAL:  # larger blocks than a page
                return False
            raise
        finally:
            os.close(file)
        return True


def _write_all(file: Any, data: Any) -> None:
    view = memoryview(data)
    while len(view):
        view = view[file.write(view) :]


def _bfloat16(array: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = np.asarray(array, dtype=np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16).astype(np.uint16)
    # Rounding must not turn a NaN into an infinity.
    return np.where(np.isnan(array), np.uint16(0x7FC0), rounded)


class Shard:
    """A safetensors file, mapped when first read.

    Parameters
    ----------
    path : Path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of its arrays."""
        return frozenset(self._open().keys())

    @cached_property
    def server_round(self) -> int | None:
        """The round it was written for."""
        written = (self._open().metadata() or {}).get("round", "")
        return int(written) if written.isdecimal() else None

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """Return an array as float32: a view of the mapped file unless it is stored as something else."""
        array: NDArray[np.float32] = self._open().get_tensor(name).float().numpy()
        return array

    def raw(self, name: str) -> NDArray[Any]:
        """Return an array as it is stored."""
        array: NDArray[Any] = self._open().get_tensor(name).numpy()
        return array

    def _open(self) -> Any:
        if self._file is None:
            from safetensors import safe_open

            try:
                self._file = safe_open(self.path, framework="pt")
            except Exception as error:  # the library raises several kinds, all of which mean: not readable
                raise UserError(f"{self.path} cannot be read: {error}") from error
        return self._file
