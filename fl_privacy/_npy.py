"""Arrays in the form of `numpy.save`: read in place, written with one copy."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray


def view(data: bytes) -> NDArray[Any]:
    """Return the array that these bytes of `numpy.save` hold: a read-only view of them.

    `numpy.load` copies and parses the header as Python source, which for small arrays is all of the time.
    """
    if data[:6] != b"\x93NUMPY" or data[6] != 1:  # a later version of the format is rare
        return np.load(io.BytesIO(data), allow_pickle=False)  # type: ignore[no-any-return]
    offset = 10 + int.from_bytes(data[8:10], "little")
    shape, fortran, dtype = _header(data[:offset])
    return np.frombuffer(data, dtype, offset=offset).reshape(shape, order="F" if fortran else "C")


def dump(array: NDArray[Any]) -> bytes:
    """Return the bytes that `numpy.save` would write, copying the array once."""
    if not array.flags.c_contiguous or array.dtype.hasobject or array.dtype.names:
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
        return file.getvalue()
    return b"".join((_start(array.dtype, array.shape), array.reshape(-1).view(np.uint8).data))


@functools.lru_cache(maxsize=1024)
def _start(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


@functools.lru_cache(maxsize=1024)
def _header(start: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    file = io.BytesIO(start)
    np.lib.format.read_magic(file)
    return np.lib.format.read_array_header_1_0(file)
