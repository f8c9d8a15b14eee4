"""Estimates of single clients' updates from sums over clients, for an attacker who knows who took part when."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fl_privacy.updates.record import Update

logger = logging.getLogger(__name__)
_BLOCK_BYTES = 64 * 2**20


def disaggregate(sums: Sequence[Update]) -> list[Update]:
    """Estimate each client's typical update from rounds of sums, by least squares.

    With ``P[t, k] = 1`` where client k took part in round t, the sums are ``S = P U + E``: U holds one weighted update
    a client, E what differs from round to round. The estimate of least norm is ``pinv(P) S``. It is exact where a
    client's update stays the same over the rounds and the columns of P are independent; it is blurred by training that
    moves on, and clients who always take part together are not told apart.

    Parameters
    ----------
    sums : sequence of Update
        What a store with ``observe="sum"`` holds: one a round, each with its `participants`.

    Returns
    -------
    list of Update
        One for each client that ever took part, in the order of names; its arrays are computed when looked at.

    Notes
    -----
    Source: the second step of gradient disaggregation (Lam et al., ICML 2021), whose first step, finding out who took
    part, is not needed here: under ideal secure aggregation the server knows.
    """
    if not sums:
        return []
    clients = sorted({c for total in sums for c in total.participants}, key=lambda c: (not c.isdecimal(), len(c), c))
    place = {client: column for column, client in enumerate(clients)}
    part = np.zeros((len(sums), len(clients)))
    for row, total in enumerate(sums):
        part[row, [place[client] for client in total.participants]] = 1.0
    rank = int(np.linalg.matrix_rank(part))
    if rank < len(clients):
        logger.warning(
            "sums of %d rounds tell %d of %d clients apart: their estimates are mixtures", len(sums), rank, len(clients)
        )
    solved = _Solved(sums, np.asarray(np.linalg.pinv(part), dtype=np.float64))
    return [
        Update(sums[-1].round, client, sums[0].kind, None, _Estimate(solved, row), sums[0].model)
        for row, client in enumerate(clients)
    ]


class _Solved:
    """All clients' estimates of an array, computed when one of them is asked for, and kept for the others."""

    def __init__(self, sums: Sequence[Update], inverse: NDArray[np.float64]) -> None:
        # Estimates exist of arrays that are in every sum.
        self.names = tuple(name for name in sums[0].arrays if all(name in total.arrays for total in sums))
        self._sums, self._inverse = sums, inverse
        self._held: dict[str, NDArray[np.float32]] = {}

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """Return the estimates of one array, shape (clients, *shape)."""
        if name not in self._held:
            shape = self._sums[0].arrays[name].shape
            size = int(np.prod(shape))
            found = np.empty((len(self._inverse), size), np.float32)
            width = max(1, _BLOCK_BYTES // (8 * len(self._sums)))
            for start in range(0, size, width):
                block = np.stack([total.arrays[name].reshape(-1)[start : start + width] for total in self._sums])
                found[:, start : start + width] = self._inverse @ block
            self._held[name] = found.reshape(len(found), *shape)
        return self._held[name]


class _Estimate(Mapping[str, NDArray[np.float32]]):
    """One client's row of the estimates."""

    def __init__(self, solved: _Solved, row: int) -> None:
        self._solved, self._row = solved, row

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        if name not in self._solved.names:
            raise KeyError(name)
        row: NDArray[np.float32] = self._solved[name][self._row]
        return row

    def __contains__(self, name: object) -> bool:
        return name in self._solved.names

    def __iter__(self) -> Iterator[str]:
        return iter(self._solved.names)

    def __len__(self) -> int:
        return len(self._solved.names)
