"""Attacks of others, carried over to speaker recognisers: what they look at, as numbers that a classifier learns on.

- TLK (Tseng, Kao and Lee 2021, arXiv 2111.05113): basic is the feature ``pair.mean``; improved is `learned_similarity`.
- EncoderMI (Liu et al. 2021, arXiv 2108.11023): the similarities of all pairs of views of an input, here a speaker's
  voices; -V sorts them (`pair_quantiles`), -T averages them, which is TLK basic again.
- FaceAuditor (Chen et al. 2023, arXiv 2304.02782): the model's similarities of the pairs that look least alike at the
  input, beside the input's (`hardest_pairs`).
- The lengths of embeddings (`norms`), which cosines do not know.
- After LRL (Li, Rezaei and Liu 2022, arXiv 2203.02077), unverified: statistics of the distances between a user's
  embeddings, `WITHIN` of the features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_privacy.attacks.membership.features import FEATURES
from fl_privacy.errors import UserError

Floats = NDArray[np.float64]

WITHIN: tuple[int, ...] = tuple(i for i, name in enumerate(FEATURES) if name.startswith(("c_sim", "pair")))
"""Columns of the features that look at no imposter."""


def pair_quantiles(voices: ArrayLike, count: int) -> Floats:
    """Return the cosines of all pairs of a speaker's voices, sorted, as many as asked for.

    Parameters
    ----------
    voices : array_like, shape (n, d)
    count : int
        Where there are more or fewer pairs, the sorted cosines are read off at equal distances.

    Returns
    -------
    ndarray, shape (count,)
    """
    cosines = np.sort(_pairs(voices))
    return np.interp(np.linspace(0, 1, count), np.linspace(0, 1, len(cosines)), cosines)


def hardest_pairs(voices: ArrayLike, inputs: ArrayLike, pairs: int = 5) -> Floats:
    """Return the cosines of the pairs that look least alike at the input, and how alike these look.

    Parameters
    ----------
    voices : array_like, shape (n, d)
        Embeddings.
    inputs : array_like, shape (n, q)
        The same voices without a recogniser, such as their mean log-mel energies.
    pairs : int
        With fewer pairs of voices the last is repeated.

    Returns
    -------
    ndarray, shape (2 * pairs,)
    """
    similar, alike = _pairs(voices), _pairs(inputs)
    order = np.resize(np.argsort(alike, kind="stable")[:pairs], pairs)
    if len(alike) < pairs:
        order[len(alike) :] = np.argmax(alike)
    return np.concatenate([similar[order], alike[order]])


def norms(voices: ArrayLike) -> Floats:
    """Return the mean, standard deviation, maximum and minimum (4,) of the lengths of a speaker's embeddings (n, d)."""
    lengths = np.linalg.norm(np.asarray(voices, dtype=np.float64), axis=1)
    return np.array([lengths.mean(), lengths.std(), lengths.max(), lengths.min()])


def learned_similarity(
    imposters: Sequence[ArrayLike], speakers: Sequence[ArrayLike], *, epochs: int = 30, seed: int = 0
) -> Floats:
    """Score speakers by a similarity that was learned on the auxiliary speakers who look most and least like members.

    The auxiliary speaker with the highest mean similarity of pairs stands in for a member, the one with the lowest for
    a non-member; a linear map g is trained so that <g(x), g(y)> tells the pairs of one from the pairs of the other
    (binary cross-entropy, Adam at 1e-5, batches of 32, dropout .2), and a speaker's score is its mean over pairs.

    Parameters
    ----------
    imposters : sequence of array_like, each (voices, d)
        The auxiliary speakers before the target, two at least.
    speakers : sequence of array_like, each (voices, d)
    epochs : int
        As in the authors' code; 20 in the paper.
    seed : int

    Returns
    -------
    ndarray, shape (speakers,)
    """
    import torch
    from torch import nn
    from torch.nn import functional

    from fl_privacy._processes import one_thread
    from fl_privacy._randomness import own_randomness

    if len(imposters) < 2:
        raise UserError("the improved attack of Tseng et al. needs two auxiliary speakers at least")
    order = np.argsort([_pairs(voices).mean() for voices in imposters])
    firsts, seconds, truth = [], [], []
    for label, number in ((1.0, order[-1]), (0.0, order[0])):
        unit = _unit(imposters[number]).astype(np.float32)
        i, j = np.triu_indices(len(unit), k=1)
        firsts.append(unit[i])
        seconds.append(unit[j])
        truth.append(np.full(len(i), label, dtype=np.float32))
    x, y, z = (torch.from_numpy(np.concatenate(part)) for part in (firsts, seconds, truth))
    with one_thread(), own_randomness("learned similarity", seed):
        model = nn.Sequential(nn.Linear(x.shape[1], x.shape[1]), nn.Dropout(0.2))
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-5)
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(z)), 32):
                optimiser.zero_grad()
                products = (model(x[rows]) * model(y[rows])).sum(dim=1)
                loss = functional.binary_cross_entropy_with_logits(products, z[rows])
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        model.eval()
        scores = []
        with torch.no_grad():
            for voices in speakers:
                mapped = model(torch.from_numpy(_unit(voices).astype(np.float32))).numpy()
                scores.append((mapped @ mapped.T)[np.triu_indices(len(mapped), k=1)].mean())
    return np.asarray(scores, dtype=np.float64)


def _unit(voices: ArrayLike) -> Floats:
    table = np.asarray(voices, dtype=np.float64)
    return np.asarray(table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-8))


def _pairs(voices: ArrayLike) -> Floats:
    unit = _unit(voices)
    if len(unit) < 2:
        raise UserError("similarities of pairs need two voices at least")
    return np.asarray((unit @ unit.T)[np.triu_indices(len(unit), k=1)])
