"""The sparsest vectors of a small subspace: hyperplanes that hold many of the rows of its basis.

A column space of dimension r is given by m rows in r dimensions; a vector of it with zeros in some rows is a hyperplane
through the origin that holds those rows. The vectors wanted are found by descent on a measure of sparsity. Its other
minima are sums of few of them; such a sum is recognised, and taken apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.reconstruction.span import Span

Floats = NDArray[np.float64]

SURE = 3.0  # a row within so many times its rounding counts as held
_SETTLED = 1e-5  # how near its rows a hyperplane lies before it is fitted to them
_SAME = 1 - 1e-5  # cosine of two that are one
_NEW = 0.05  # part of a vector that those before do not explain, where it is another
_CARRIED = 0.7  # leverage that no row has which a hyperplane could do without
_CLEAN = 2e-3  # rounding, against rows of length 1, up to which a hyperplane is believed at first
_CONTRAST = 0.05  # rounding, against the rows that are not held, up to which one is believed at all
_FEWEST = 0.1  # share of the rows that one holds, beyond those that any can
_FEWEST_BLURRED = 0.25  # the same where rounding makes some look held
_FRUITLESS = 4  # rounds without a find after which the less clean ones are taken
_HOPELESS = 15  # rounds without a find after which the search ends
_STARTS = 48
_STEPS = 40
_SLOWNESS = 0.8  # how the width of the measure shrinks from step to step
_SUMS = 8  # taken apart in a round
_SUMMANDS = 9


@dataclass(frozen=True)
class Rows:
    """The rows of a column space's basis, each of length 1, in isotropic position.

    Attributes
    ----------
    points : ndarray, (m, r)
        ``shrink[:, None] * (left @ turn)``, with `left` the column space's orthonormal basis.
    shrink : ndarray, (m,)
    turn : ndarray, (r, r)
    products : ndarray, (m, r * r)
        Each row times itself.
    gain : ndarray, (r, r)
        A row's distance to hyperplane q has a rounding of ``noise * shrink * |gain @ q|``.
    noise : float
    """

    points: Floats
    shrink: Floats
    turn: Floats
    products: Floats
    gain: Floats
    noise: float

    @classmethod
    def of(cls, span: Span, iterations: int = 20) -> Rows:
        """Bring rows into isotropic position, by Tyler's M-estimator of their scatter.

        Zeros stay where they are, and no direction is special any more, however much the examples' signals differ.
        """
        left, (m, r) = span.left, span.left.shape
        turn = np.eye(r)
        for _ in range(iterations):
            spread = np.sum((left @ turn) ** 2, axis=1)
            values, vectors = np.linalg.eigh((left / spread[:, None]).T @ left)
            # Where too many rows lie in one subspace there is no such position, and the scatter would lose the others.
            turn = vectors / np.sqrt(np.maximum(values, 1e-12 * values[-1]))
        points = left @ turn
        shrink = 1 / np.linalg.norm(points, axis=1)
        points *= shrink[:, None]
        products = (points[:, :, None] * points[:, None, :]).reshape(m, r * r)
        return cls(points, shrink, turn, products, turn / span.values[:, None], span.noise)

    @property
    def dimension(self) -> int:
        """Dimension of the column space."""
        return int(self.points.shape[1])

    def distance(self, planes: Floats) -> Floats:
        """Return the distance of each row to each hyperplane: shape (n, m)."""
        distance: Floats = np.abs(planes @ self.points.T)
        return distance

    def reach(self, planes: Floats) -> Floats:
        """Return the distance up to which each row counts as held by each hyperplane: shape (n, m)."""
        reach: Floats = SURE * self.noise * np.linalg.norm(planes @ self.gain.T, axis=1)[:, None] * self.shrink
        return reach

    def scatter(self, weights: Floats) -> Floats:
        """Return ``sum_j w_j p_j p_j^T`` of the rows p_j for each set of weights: shape (n, r, r)."""
        scatter: Floats = (weights @ self.products).reshape(-1, self.dimension, self.dimension)
        return scatter


def sparse_directions(span: Span, effort: int, seed: int = 0) -> Floats:
    """Find vectors of the column space of ``[G b]`` that are zero in many rows and are no sums of sparser ones.

    Parameters
    ----------
    span : Span
    effort : int
        Rounds of starts at most.
    seed : int
        Of the starts.

    Returns
    -------
    ndarray, (k, rank)
        For each row a, ``(left * values) @ a`` is sparse. Independent; k is the rank where all were found.
    """
    if span.rank < 2:
        return np.eye(span.rank)
    rows, rng = Rows.of(span), np.random.default_rng(seed)
    found, unclean = np.zeros((0, span.rank)), np.zeros((0, span.rank))
    fruitless = 0
    for _ in range(effort):
        before = len(found)
        verdict = _judge(rows, _descend(rows.points, rows.products, _starts(found, rng), rows), found)
        found, unclean = join(found, verdict.genuine), np.concatenate([unclean, verdict.unclean])
        for parts in _parts(rows, verdict, found, rng):
            found = join(found, _judge(rows, parts, found).genuine)
        fruitless = 0 if len(found) > before else fruitless + 1
        whole = len(join(found, unclean)) == span.rank and fruitless >= _FRUITLESS
        if len(found) == span.rank or whole or fruitless == _HOPELESS:
            break
    directions: Floats = join(found, unclean) @ rows.gain.T
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions


def _starts(found: Floats, rng: np.random.Generator) -> Floats:
    """Draw hyperplanes, more or less away from those found."""
    dimension = found.shape[1]
    free = rng.standard_normal((_STARTS, dimension))
    if len(found):
        basis = np.linalg.qr(found.T)[0]
        away = free - (free @ basis) @ basis.T
        stray = 5 * rng.random((_STARTS, 1)) / np.sqrt(dimension)
        free = away / np.linalg.norm(away, axis=1, keepdims=True) + stray * free
    free /= np.linalg.norm(free, axis=1, keepdims=True)
    return free


def _descend(points: Floats, products: Floats, planes: Floats, rows: Rows | None = None, steps: int = _STEPS) -> Floats:
    """Descend on ``sum_j log(distance_j^2 + width^2)`` by reweighted least squares, all starts at once.

    The width shrinks to the rounding; each step is one of inverse iteration.
    """
    dimension = points.shape[1]
    width = 1 / np.sqrt(dimension)
    tiny = 1e-14 * np.eye(dimension)
    for _ in range(steps):
        least = np.full((len(planes), 1), 1e-7)
        if rows is not None:
            least = np.maximum(least, np.median(rows.reach(planes), axis=1, keepdims=True) / SURE)
        weights = 1 / ((planes @ points.T) ** 2 + np.maximum(width, least) ** 2)
        weights /= weights.sum(axis=1, keepdims=True)
        scatter = (weights @ products).reshape(-1, dimension, dimension)
        planes = np.linalg.solve(scatter + tiny, planes[:, :, None])[:, :, 0]
        planes /= np.linalg.norm(planes, axis=1, keepdims=True)
        width *= _SLOWNESS
    return planes


@dataclass(frozen=True)
class _Verdict:
    """Hyperplanes by what they are; `held` says which rows each of `sums` holds."""

    genuine: Floats
    unclean: Floats
    sums: Floats
    held: NDArray[np.bool_]


def _judge(rows: Rows, planes: Floats, found: Floats) -> _Verdict:
    """Fit hyperplanes to the rows they hold, and tell those of single examples from sums.

    A sum of p single ones holds the rows that all of them hold, and p - 1 more that it was bent to. The former leave p
    directions free. So a row is carried by nothing else (leverage 1), or a second direction is as free as the first.
    """
    m, dimension = rows.points.shape
    planes = _distinct(rows, planes, found)
    if not len(planes):
        return _Verdict(planes, planes, planes, np.zeros((0, m), np.bool_))
    for nearest in (_SETTLED, 0.0):
        held = rows.distance(planes) < np.maximum(rows.reach(planes), nearest)
        planes = np.linalg.eigh(rows.scatter(held / rows.shrink**2) / m)[1][:, :, 0]
    distance, reach = rows.distance(planes), rows.reach(planes)
    held, count = distance < reach, (distance < reach).sum(axis=1)
    values, vectors = np.linalg.eigh(rows.scatter(held.astype(np.float64)))
    carried = ((rows.points @ vectors[:, :, 1:]) ** 2 / np.maximum(values[:, None, 1:], 1e-300)).sum(axis=2)
    usual = dimension / np.maximum(count, dimension)
    single = (count >= dimension + max(4, _FEWEST * m)) & (
        np.where(held, carried, 0.0).max(axis=1) < usual + _CARRIED * (1 - usual)
    )
    free = np.linalg.norm(np.where(held, rows.reach(vectors[:, :, 1]), 0.0), axis=1)
    single &= np.sqrt(np.maximum(values[:, 1], 0.0)) > 2 / SURE * free
    blur = np.median(reach, axis=1)
    clean = blur < _CLEAN
    apart = np.where(held, 0.0, distance).sum(axis=1) / np.maximum(m - count, 1)
    readable = (blur < _CONTRAST * apart) & (count >= dimension + _FEWEST_BLURRED * m)
    sums = ~single & clean
    return _Verdict(planes[single & clean], planes[single & ~clean & readable], planes[sums], held[sums])


def _distinct(rows: Rows, planes: Floats, found: Floats) -> Floats:
    """Leave out what holds hardly more rows than any hyperplane can, and what was found before; most rows first."""
    count = (rows.distance(planes) < np.maximum(rows.reach(planes), _SETTLED)).sum(axis=1)
    order = np.argsort(-count, kind="stable")
    planes = planes[order[count[order] >= rows.dimension + 4]]
    alike = np.abs(planes @ np.concatenate([found, planes]).T) > _SAME
    earlier = np.tri(len(planes), len(found) + len(planes), len(found) - 1, dtype=np.bool_)
    distinct: Floats = planes[~(alike & earlier).any(axis=1)]
    return distinct


def join(found: Floats, more: Floats) -> Floats:
    """Add rows of length 1 that are independent of those that are there, as long as there can be more."""
    for plane in more:
        if len(found) == found.shape[1]:
            break
        basis = np.linalg.qr(found.T)[0]
        if np.linalg.norm(plane - basis @ (basis.T @ plane)) > _NEW:
            found = np.concatenate([found, plane[None]])
    return found


def _parts(rows: Rows, verdict: _Verdict, found: Floats, rng: np.random.Generator) -> list[Floats]:
    """Take sums apart: hyperplanes near their summands."""
    parts: list[Floats] = []
    basis = np.linalg.qr(found.T)[0]
    for held in verdict.held:
        if len(parts) == _SUMS or len(found) == rows.dimension:
            break
        free = _free(rows.points[held])
        if not 2 <= len(free) <= _SUMMANDS:
            continue
        if len(found) and np.linalg.norm(free - (free @ basis) @ basis.T, 2) < 1e-2:
            continue  # all its summands are known
        within = rows.points @ free.T
        size = np.linalg.norm(within, axis=1)
        within = within[size > 1e-4] / size[size > 1e-4, None]
        products = (within[:, :, None] * within[:, None, :]).reshape(len(within), -1)
        starts = rng.standard_normal((6 * len(free), len(free)))
        starts /= np.linalg.norm(starts, axis=1, keepdims=True)
        parts.append(_descend(within, products, starts, steps=30) @ free)
    return parts


def _free(held: Floats) -> Floats:
    """Return the directions that the rows held leave free, without those rows that nothing else carries."""
    for _ in range(4):
        if len(held) < held.shape[1] - _SUMMANDS:
            return np.zeros((0, held.shape[1]))
        values, vectors = np.linalg.svd(held, full_matrices=True)[1:]
        rank = int((values > 1e-4).sum())
        carried = ((held @ vectors[:rank].T / values[:rank]) ** 2).sum(axis=1)
        free: Floats = vectors[rank:]
        if (carried < 0.9).all():
            break
        held = held[carried < 0.9]
    return free
