"""A queue of inversions that is kept as it goes: one that was cut off goes on, and ends in the same bits.

All of it is kept, not only the jobs that are done: sums over a batch are rounded by who else is in it, so that jobs
served in other company would differ in their last bits, and soon in more.
"""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fl_privacy.errors import UserError

SECONDS = 15.0
"""Between two writes of a checkpoint: what a kill may lose."""

Arrays = Mapping[str, NDArray[Any]]


class Counts(Protocol):
    """What counts the windows that were asked, such as a classifier."""

    queries: int


class Checkpoint:
    """The file of a queue.

    Parameters
    ----------
    path : Path
        Written as the queue goes on; read first, where it is there.
    counts : Counts, optional
        Brought back to what it had counted.
    """

    def __init__(self, path: Path, counts: Counts | None = None) -> None:
        self.path = path
        self._counts = counts
        self._began = self._written = time.perf_counter()
        self._before = 0.0

    @property
    def seconds(self) -> float:
        """Worked so far, earlier processes included, without what was lost with them."""
        return self._before + time.perf_counter() - self._began

    @property
    def due(self) -> bool:
        """Whether the last write lies long enough back."""
        return time.perf_counter() - self._written >= SECONDS

    def write(self, identity: str, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        """Write the state of a queue in place of the last one.

        Parameters
        ----------
        identity : str
            Of the jobs and how they are served: no other queue may go on from it.
        arrays : mapping of str to ndarray
        facts : mapping
            What JSON holds.
        """
        about = {"identity": identity, "seconds": self.seconds, "facts": facts}
        if self._counts is not None:
            about["queries"] = self._counts.queries
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".{self.path.name}.partial")
        with partial.open("wb") as out:
            np.savez(out, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)
        os.replace(partial, self.path)
        self._written = time.perf_counter()

    def read(self, identity: str) -> tuple[Arrays, dict[str, Any]] | None:
        """Return the arrays and facts that were written last; None where there is no file.

        Raises
        ------
        UserError
            For a file of other jobs, or one that cannot be read.
        """
        if not self.path.exists():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as held:
                arrays = {name: held[name] for name in held.files}
            about = json.loads(str(arrays.pop("about")))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"checkpoint {self.path} cannot be read ({error}); remove it to begin anew") from error
        if about["identity"] != identity:
            raise UserError(f"checkpoint {self.path} is of other inversions; remove it, or name another")
        self._before = about["seconds"]
        self._began = time.perf_counter()
        if self._counts is not None:
            self._counts.queries = about["queries"]
        return arrays, about["facts"]

    def remove(self) -> None:
        """Remove the file, once what came of the queue is kept elsewhere."""
        self.path.unlink(missing_ok=True)
