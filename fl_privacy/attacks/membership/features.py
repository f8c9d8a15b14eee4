"""The features of SLMIA-SR: how close a speaker's voices lie to each other, and how far from imposters' voices.

Chen, Zhang and Song, "SLMIA-SR: Speaker-Level Membership Inference Attacks against Speaker Recognition Systems" (NDSS
2024, arXiv 2309.07983). The study counts 103 features; its public code writes 120 columns, of which 17 repeat others.

A group is a multiset of similarities (within the speaker) or dissimilarities (to imposters), reduced to its mean,
standard deviation, maximum and minimum; a feature is named ``group.statistic``. With e_i the speaker's voices, mu their
centroid, q_kj voice j of imposter k and c_k its centroid:

- ``c_sim``: e_i with mu. ``pair``: e_i with e_j, i < j. ``pair_avg``, ``pair_std``, ``pair_max``, ``pair_min``: for
  each i, the statistic over all j other than i.
- ``m_m``: mu with c_k. ``m_i``: mu with q_kj; ``m_i_avg``, ...: for each imposter, over its voices.
- ``i_m``: e_i with c_k; ``i_m_1_avg``, ...: for each e_i, over the imposters; ``i_m_2_avg``, ...: for each imposter,
  over the e_i.
- ``i_i``: e_i with q_kj; ``i_i_1_avg``, ...: for each e_i, over all imposters' voices; ``i_i_2_avg``, ...: for each
  imposter's voice, over the e_i.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_privacy.errors import UserError

Floats = NDArray[np.float64]

STATISTICS = ("mean", "std", "max", "min")
"""How a group is reduced, in the order of the columns."""

_PARTS = ("avg", "std", "max", "min")
_WITHIN = ("c_sim", "pair", *(f"pair_{part}" for part in _PARTS))
_BETWEEN = (
    "m_m",
    *(name for base in ("m_i",) for name in (base, *(f"{base}_{part}" for part in _PARTS))),
    *(
        name
        for base in ("i_m", "i_i")
        for name in (base, *(f"{base}_{side}_{part}" for side in (1, 2) for part in _PARTS))
    ),
)
_REPEATED = frozenset(
    {"pair_avg.mean", "pair_max.max", "pair_min.min", "m_i_max.max", "m_i_min.min"}
    | {
        f"{base}_{side}_{pair}"
        for base in ("i_m", "i_i")
        for side in (1, 2)
        for pair in ("avg.mean", "max.max", "min.min")
    }
)

ALL_FEATURES: tuple[str, ...] = tuple(f"{group}.{s}" for group in (*_WITHIN, *_BETWEEN) for s in STATISTICS)
"""Names of the 120 columns of the public code, in its order: 24 within the speaker, 96 to imposters."""

DISTINCT: NDArray[np.bool_] = np.array([name not in _REPEATED for name in ALL_FEATURES])
"""Which of the 120 columns repeat no other, shape (120,): 21 + 82."""

FEATURES: tuple[str, ...] = tuple(name for name in ALL_FEATURES if name not in _REPEATED)
"""Names of the 103 features, in the order of the columns."""

_SMALLEST_NORM = 1e-8
_BLOCK = 2**18  # similarities at a time: 1 MiB, which a core's cache holds
_ROWS = 128  # voices at a time: fewer make slow products
_NUMBERS = 2**21  # statistics of imposters' voices that are held for the speakers of these voices, times 4


def feature_names(*, compat: bool = False) -> tuple[str, ...]:
    """Return the names of the columns that `membership_features` gives."""
    return ALL_FEATURES if compat else FEATURES


@dataclass(frozen=True, eq=False)
class Imposters:
    """People whose voices were not used to train any recogniser here, prepared once for many speakers.

    Made by `Imposters.of`.

    Attributes
    ----------
    voices : ndarray of float32, shape (m, d)
        All voices, of length 1, those of an imposter in a row.
    centroids : ndarray of float, shape (k, d)
        Of length 1.
    starts : ndarray of int, shape (k,)
        Row of each imposter's first voice.
    total : ndarray of float, shape (d,)
        Mean of the voices.
    scatter : ndarray of float, shape (d, d)
        Covariance of the voices (over m).
    """

    voices: NDArray[np.float32]
    centroids: Floats
    starts: NDArray[np.int64]
    total: Floats
    scatter: Floats

    @classmethod
    def of(cls, embeddings: Sequence[ArrayLike], *, compat: bool = False, aliased: bool = False) -> Imposters:
        """Prepare imposters.

        Parameters
        ----------
        embeddings : sequence of array_like, each of shape (voices, d)
            The embeddings of each imposter's voices; their numbers may differ.
        compat : bool
            Let longer embeddings weigh more in a centroid, as in the public code.
        aliased : bool
            Let each imposter's first voice *be* its centroid, as the public code does where it draws a number of
            voices (it sums them up in place). For comparisons with it alone.

        Raises
        ------
        UserError
            If there are none, or embeddings are not finite numbers of one dimension.
        """
        checked = _checked(embeddings, "imposter", least=1)
        if not checked:
            raise UserError("No imposters: features of distance need at least one person known not to be a member.")
        dimension = checked[0].shape[1]
        sizes = np.array([len(voices) for voices in checked])
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        centroids = np.empty((len(checked), dimension))
        everything = np.empty((int(sizes.sum()), dimension), dtype=np.float32)
        for k, voices in enumerate(checked):
            unit = _unit(voices)
            centroids[k] = _unit((voices if compat else unit).mean(axis=0, dtype=np.float64))
            everything[starts[k] : starts[k] + len(voices)] = unit
            if aliased:
                everything[starts[k]] = centroids[k]
        total = everything.mean(axis=0, dtype=np.float64)
        scatter = np.zeros((dimension, dimension))
        for start in range(0, len(everything), _BLOCK // 64):
            centred = everything[start : start + _BLOCK // 64] - total
            scatter += centred.T @ centred
        return cls(everything, centroids, starts, total, scatter / len(everything))

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return int(self.voices.shape[1])

    def __len__(self) -> int:
        return len(self.starts)


def membership_features(
    speakers: Sequence[ArrayLike], imposters: Imposters, *, compat: bool = False, block: int = _BLOCK
) -> Floats:
    """Compute the features of speakers.

    The default form compares each voice with the centroid of the speaker's *other* voices, takes every standard
    deviation over n, leaves out columns that repeat others, and knows cosines alone: a centroid is the mean of voices
    of length 1, so that similarities of pairs are all it takes. In the public code a voice is part of the centroid it
    is compared with, standard deviations are over n within the speaker and over n - 1 to imposters (over n where there
    is one value; one voice of an imposter makes `m_i_std` NaN), and longer embeddings weigh more in a centroid.

    Parameters
    ----------
    speakers : sequence of array_like, each of shape (voices, d)
        The embeddings of each speaker's voices, two voices at least.
    imposters : Imposters
    compat : bool
        Give the 120 columns of the public code; the imposters must have been prepared in the same form.
    block : int
        How many similarities are held at a time; whatever the number of voices, memory beyond that is a
        few numbers for each imposter's voice.

    Returns
    -------
    ndarray of float, shape (speakers, 103) or (speakers, 120)
        Columns as in `feature_names`.

    Raises
    ------
    UserError
        If a speaker has fewer than two voices, or embeddings are not finite numbers of the imposters' dimension.
    """
    checked = _checked(speakers, "speaker", least=2, dimension=imposters.dimension)
    rows = np.empty((len(checked), len(ALL_FEATURES)))
    done = 0
    while done < len(checked):
        together = _together(checked[done:], len(imposters.voices))
        units = [_unit(voices.astype(np.float64)) for voices in together]
        extremes = _extremes(units, imposters, block)
        for voices, unit, found in zip(together, units, extremes, strict=True):
            rows[done] = _features(voices, unit, found, imposters, compat)
            done += 1
    return rows if compat else rows[:, DISTINCT]


def _together(speakers: list[NDArray[np.floating]], m: int) -> list[NDArray[np.floating]]:
    """The first few speakers: enough voices for an efficient product, few enough for memory."""
    voices = np.cumsum([len(s) for s in speakers[:_ROWS]])
    count = int(np.searchsorted(voices, _ROWS)) + 1
    return speakers[: max(1, min(count, _NUMBERS // m))]


def _features(
    voices: NDArray[np.floating], unit: Floats, extremes: _Extremes, imposters: Imposters, compat: bool
) -> Floats:
    ddof = 1 if compat else 0
    exact: Floats = voices.astype(np.float64)
    if not compat:
        exact = unit
    mu = _unit(exact.mean(axis=0))
    to_centroids = 1.0 - imposters.centroids @ mu
    to_voices = 1.0 - (imposters.voices @ mu.astype(np.float32)).astype(np.float64)
    between = 1.0 - imposters.centroids @ unit.T
    parts = [
        _reduced(_own_centroid(exact, unit, mu, compat), 0),
        *_pairs(unit @ unit.T),
        _reduced(to_centroids, ddof),
        _reduced(to_voices, ddof),
        _reduced(_by_imposter(to_voices, imposters, ddof), ddof),
        _reduced(between.ravel(), ddof, leading=len(between)),
        *(_reduced(_over(between, axis, ddof), ddof) for axis in (0, 1)),
        *_voice_to_voice(unit, extremes, imposters, ddof),
    ]
    return np.concatenate([part.ravel() for part in parts])


def _own_centroid(voices: Floats, unit: Floats, mu: Floats, compat: bool) -> Floats:
    if compat:
        return unit @ mu
    others = _unit(voices.sum(axis=0) - voices)
    return np.asarray(np.einsum("nd,nd->n", unit, others))


def _pairs(gram: Floats) -> tuple[Floats, Floats]:
    """The groups of pairs of a speaker's voices, reduced, from their cosines (n, n)."""
    n = len(gram)
    others = gram[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    return _reduced(gram[np.triu_indices(n, k=1)], 0), _reduced(_over(others, 1, 0), 0)


def _by_imposter(dis: Floats, imposters: Imposters, ddof: int) -> Floats:
    """The four statistics over each imposter's voices: shape (4, k)."""
    starts = imposters.starts
    sizes = np.diff(starts, append=len(dis))
    mean = np.add.reduceat(dis, starts) / sizes
    squares = np.add.reduceat(np.square(dis - np.repeat(mean, sizes)), starts)
    # Over n - 1 = 0 there is no standard deviation; the public code then gives NaN.
    std = np.sqrt(squares / np.where(sizes > ddof, sizes - ddof, np.nan))
    return np.stack([mean, std, np.maximum.reduceat(dis, starts), np.minimum.reduceat(dis, starts)])


def _over(matrix: Floats, axis: int, ddof: int) -> Floats:
    """The four statistics along an axis of a matrix: shape (4, length of the other)."""
    return _reduced(matrix if axis == 1 else matrix.T, ddof).T


@dataclass(frozen=True, slots=True, eq=False)
class _Extremes:
    """What of a speaker's similarities to imposters' voices (n, m) takes the whole table.

    Attributes
    ----------
    highest, lowest : ndarray, shape (n,)
        Of each of the speaker's voices.
    by_imposter : ndarray, shape (4, m)
        Mean, sum of squares about it, highest and lowest of each imposter's voice.
    """

    highest: Floats
    lowest: Floats
    by_imposter: Floats


def _extremes(units: Sequence[Floats], imposters: Imposters, block: int) -> list[_Extremes]:
    """Go through the similarities of several speakers in blocks."""
    m = len(imposters.voices)
    found = [_Extremes(np.full(len(u), -np.inf), np.full(len(u), np.inf), np.empty((4, m))) for u in units]
    narrow = np.concatenate(units).astype(np.float32)
    ends = np.cumsum([len(unit) for unit in units])
    step = max(1, block // len(narrow))
    for start in range(0, m, step):
        chosen = slice(start, start + step)
        product = narrow @ imposters.voices[chosen].T
        for speaker, similar in zip(found, np.split(product, ends[:-1]), strict=True):
            np.maximum(speaker.highest, similar.max(axis=1), out=speaker.highest)
            np.minimum(speaker.lowest, similar.min(axis=1), out=speaker.lowest)
            mean = similar.mean(axis=0)
            speaker.by_imposter[0, chosen] = mean
            speaker.by_imposter[2, chosen] = similar.max(axis=0)
            speaker.by_imposter[3, chosen] = similar.min(axis=0)
            similar -= mean
            speaker.by_imposter[1, chosen] = np.einsum("nm,nm->m", similar, similar)
    return found


def _voice_to_voice(
    unit: Floats, extremes: _Extremes, imposters: Imposters, ddof: int
) -> tuple[Floats, Floats, Floats]:
    """The nine groups of i_i, reduced: shapes (4,), (4, 4), (4, 4)."""
    n, m = len(unit), len(imposters.voices)
    similar, squares, highest, lowest = extremes.by_imposter
    by_imposter = np.stack([1.0 - similar, np.sqrt(squares / (n - _freedom(n, ddof))), 1.0 - lowest, 1.0 - highest])
    # Mean and variance over all imposters' voices need their mean and covariance alone.
    mean = 1.0 - unit @ imposters.total
    variance = np.maximum(np.einsum("nd,nd->n", unit @ imposters.scatter, unit), 0.0)
    spread = np.sqrt(variance * m / (m - _freedom(m, ddof)))
    by_voice = np.stack([mean, spread, 1.0 - extremes.lowest, 1.0 - extremes.highest])
    values = n * m
    flat = (variance.mean() + mean.var()) * values / (values - _freedom(m, ddof))
    overall = np.array([mean.mean(), np.sqrt(flat), by_voice[2].max(), by_voice[3].min()])
    return overall, _reduced(by_voice, ddof), _reduced(by_imposter, ddof)


def _reduced(values: Floats, ddof: int, leading: int | None = None) -> Floats:
    """Mean, standard deviation, maximum and minimum over the last axis, which becomes these four."""
    n = values.shape[-1]
    mean = np.add.reduce(values, axis=-1, keepdims=True) / n
    centred = values - mean
    squares = np.einsum("...n,...n->...", centred, centred)[..., None]
    spread = np.sqrt(squares / (n - _freedom(n if leading is None else leading, ddof)))
    ends = (np.maximum.reduce(values, axis=-1, keepdims=True), np.minimum.reduce(values, axis=-1, keepdims=True))
    return np.concatenate([mean, spread, *ends], axis=-1)


def _freedom(n: int, ddof: int) -> int:
    return 0 if n == 1 else ddof


def _unit(vectors: NDArray[np.floating]) -> Floats:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, _SMALLEST_NORM))


def _checked(
    embeddings: Sequence[ArrayLike], who: str, least: int, dimension: int | None = None
) -> list[NDArray[np.floating]]:
    found: list[NDArray[np.floating]] = []
    for number, given in enumerate(embeddings):
        voices = np.asarray(given)
        if voices.dtype not in (np.float32, np.float64):
            voices = voices.astype(np.float64)
        if voices.ndim != 2 or 0 in voices.shape:
            raise UserError(f"{who} {number}: embeddings of shape {voices.shape}; expected (voices, dimension).")
        if len(voices) < least:
            raise UserError(f"{who} {number} has {len(voices)} voice(s); {least} at least. Leave the {who} out.")
        dimension = voices.shape[1] if dimension is None else dimension
        if voices.shape[1] != dimension:
            raise UserError(f"{who} {number}: embeddings of {voices.shape[1]} numbers, others of {dimension}.")
        bad = ~np.isfinite(voices).all(axis=1)
        if bad.any():
            raise UserError(
                f"{who} {number}: the embeddings of {bad.sum()} of {len(voices)} voices hold NaN or infinity, "
                f"the first is voice {int(np.argmax(bad))}."
            )
        found.append(voices)
    return found
