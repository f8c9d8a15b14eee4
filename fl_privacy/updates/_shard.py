"""Safetensors files, read by mapping."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.errors import UserError


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
