"""Arrays in the form of `numpy.save`, read in place."""

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


@functools.lru_cache(maxsize=1024)
def _header(start: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    file = io.BytesIO(start)
    np.lib.format.read_magic(file)
    return np.lib.format.read_array_header_1_0(file)
