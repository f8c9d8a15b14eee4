"""Safetensors files, written without the library's copies.

The library's own writer first copies every array into a bytes object while it holds the interpreter's lock, which a
federation in the same process would feel. The format is a length, a JSON header and the arrays' bytes; what is written
here is read back by the library (in `_shard` and in the tests).
"""

from __future__ import annotations

import errno
import functools
import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


_TRY_AGAIN = 64
_ALIGNMENT = 64
"""Of the first array in a file, in bytes."""


@dataclass(frozen=True)
class Plan:
    """What a file will hold.

    Attributes
    ----------
    start : bytes
        All before the arrays.
    arrays : dict of str to ndarray
        As they are stored, in the order of the file.
    shapes : dict of str to tuple of int
        Theirs; an array without dimensions is held as one of length 1.
    """

    start: bytes
    arrays: dict[str, NDArray[Any]]
    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def of(
        cls,
        tensors: Mapping[str, NDArray[Any]],
        halved: str | None = None,
        server_round: int | None = None,
        image: Image | None = None,
    ) -> Plan:
        """Plan a safetensors file.

        Parameters
        ----------
        tensors : Mapping[str, ndarray]
            What to write; names are sorted, so that equal content gives equal bytes.
        halved : str, optional
            Arrays whose name starts so are written as bfloat16, rounded to nearest even.
        server_round : int, optional
            Written into the file, so that a shard cannot pass for that of another round. (One key: several would not
            have an order of their own.)
        image : Image, optional
            Gives the memory for what is converted.
        """
        arrays, dtypes = {}, []
        for name in sorted(tensors):
            array = np.ascontiguousarray(tensors[name])
            if halved is not None and name.startswith(halved):
                dtype = "BF16"
                wide, array = (
                    array,
                    image.place(name, array.shape, np.uint16) if image else np.empty(array.shape, np.uint16),
                )
                _halve(wide, array)
            else:
                array = array.astype(array.dtype.newbyteorder("="), copy=False)
                if array.dtype.kind == "u" and array.dtype.itemsize > 1:  # torch cannot read all of them back
                    array = array.astype(np.int64)
                elif array.dtype.str[1:] not in _NAMES:
                    array = array.astype(np.float64)
                dtype = _NAMES[array.dtype.str[1:]]
            arrays[name] = array
            dtypes.append(dtype)
        shapes = {name: np.shape(tensors[name]) for name in arrays}
        sizes = tuple(array.nbytes for array in arrays.values())
        about = {} if server_round is None else {"__metadata__": {"round": str(server_round)}}
        text = json.dumps(about, separators=(",", ":"))[:-1]
        text += "," * bool(about and arrays) + _directory(tuple(shapes.items()), tuple(dtypes), sizes) + "}"
        text += " " * (-(8 + len(text)) % _ALIGNMENT)
        return cls(len(text).to_bytes(8, "little") + text.encode(), arrays, shapes)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.start) + sum(array.nbytes for array in self.arrays.values())


@functools.lru_cache(maxsize=64)
def _directory(shapes: tuple[tuple[str, tuple[int, ...]], ...], dtypes: tuple[str, ...], sizes: tuple[int, ...]) -> str:
    """Say where a file's arrays are; most files of a store are of one form."""
    header = {}
    offset = 0
    for (name, shape), dtype, size in zip(shapes, dtypes, sizes, strict=True):
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    return json.dumps(header, separators=(",", ":"))[1:-1]


class Image:
    """A file as it will lie on the disk, in memory that is used again for later files.

    An array that is made where the last file had it needs no further copy on its way to the disk.
    """

    def __init__(self) -> None:
        self._bytes = mmap.mmap(-1, mmap.PAGESIZE)
        self._places: dict[str, NDArray[Any]] = {}
        self._elsewhere: dict[tuple[str, str], NDArray[Any]] = {}

    def place(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return memory for an array of the next file: where the last one had it, if it had one of this form."""
        key = name, np.dtype(dtype).str
        for held in (self._places.get(name), self._elsewhere.get(key)):
            if held is not None and held.shape == shape and held.dtype == dtype:
                return held
        self._elsewhere[key] = np.empty(shape, dtype)
        return self._elsewhere[key]

    def write(self, path: Path, plan: Plan, *, past_cache: bool) -> bool:
        """Write a file under a temporary name, then rename it.

        Parameters
        ----------
        path : Path
            The file.
        plan : Plan
            What it holds.
        past_cache : bool
            Whether to write past the page cache where that is possible.

        Returns
        -------
        bool
            Whether it went past the page cache.
        """
        self._fill(plan)
        temporary = path.with_name(f".{path.name}.part")
        with memoryview(self._bytes) as view:
            if not (past_cache := past_cache and _write_directly(temporary, view, plan.size)):
                with temporary.open("wb", buffering=0) as file:
                    _write_all(file, view[: plan.size])
        os.replace(temporary, path)
        return past_cache

    def _fill(self, plan: Plan) -> None:
        """Bring everything to its place."""
        whole = -(-plan.size // mmap.PAGESIZE) * mmap.PAGESIZE
        image = np.frombuffer(self._bytes, np.uint8)
        first, at = _address(image), len(plan.start)
        misplaced, astray = [], len(image) < whole
        for name, array in plan.arrays.items():
            place = _address(array) - first
            if place != at:
                misplaced.append(name)
                astray |= -array.nbytes < place < len(image) and array.nbytes > 0
            at += array.nbytes
        if astray:  # what lies in the wrong place would be written over
            self._bytes, misplaced = mmap.mmap(-1, whole), list(plan.arrays)
            image = np.frombuffer(self._bytes, np.uint8)
        image[: len(plan.start)] = np.frombuffer(plan.start, np.uint8)
        if not misplaced and self._places.keys() == plan.arrays.keys():
            return
        at, moved = len(plan.start), set(misplaced)
        self._places = {}
        for name, array in plan.arrays.items():
            part = image[at : at + array.nbytes]
            if name in moved:
                # numpy copies without holding the interpreter's lock, which the federation needs.
                part[:] = array.reshape(-1).view(np.uint8)
            self._places[name] = part.view(array.dtype).reshape(plan.shapes[name])
            at += array.nbytes
        forms = {(name, place.dtype.str): place.shape for name, place in self._places.items()}
        self._elsewhere = {key: a for key, a in self._elsewhere.items() if forms.get(key) != a.shape}


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _write_directly(path: Path, image: memoryview, size: int) -> bool:
    """Write the whole pages of an image past the page cache, and cut the file; say whether that was possible."""
    whole = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT, 0o666)
    except (AttributeError, OSError):  # no such flag on this system, or not on this file system
        return False
    try:
        done = 0
        while done < whole:
            done += os.write(file, image[done:whole])
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


def _halve(array: NDArray[np.float32], out: NDArray[np.uint16]) -> None:
    """Write the bits of bfloat16 numbers: rounded to nearest even, a NaN stays one."""
    import torch

    wide = torch.from_numpy(np.asarray(array, dtype=np.float32))
    torch.from_numpy(out.view(np.int16)).view(torch.bfloat16).copy_(wide)


class Way:
    """Whether to write past the page cache.

    Filling fresh page cache takes many times the processor time of a direct transfer (measured on a virtual machine:
    30 ms against 2.5 ms for 12 MB), time that the federation would miss. But where the medium does not keep up, the
    cache may: then the way that was quicker last time is taken, and the other one tried now and then.
    """

    def __init__(self) -> None:
        self._seconds: dict[bool, float] = {}
        self._late = 0

    def choose(self, late: bool) -> bool:
        """Decide for a round; `late` if the caller had to wait for an earlier one."""
        if not late:
            return True
        self._late += 1
        quicker = self._seconds.get(True, 0.0) <= self._seconds.get(False, 0.0)
        return not quicker if self._late % _TRY_AGAIN == 0 else quicker

    def note(self, past_cache: bool, seconds_a_byte: float) -> None:
        """Be told how long a round took."""
        self._seconds[past_cache] = seconds_a_byte
