"""Who says whether an inversion sounds like somebody: recognisers, each with a score of every identity.

The recogniser under attack is no judge of an inversion: whatever drives its output up counts as a success before it, an
adversarial example too. So every inversion is heard by others, which the attack never asked (Zhang et al. 2020, GMI,
CVPR): here a recogniser of another seed, one of another architecture, and a speaker encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_privacy.audit.metrics import Floats, eer, tpr_at_fpr
from fl_privacy.errors import UserError
from fl_privacy.models.encoder import SpeakerEncoder

Waves = Sequence[NDArray[np.float32]]
Ints = NDArray[np.int64]


class Judge(Protocol):
    """Somebody who hears waves and holds them against identities that they know."""

    name: str

    def scores(self, waves: Waves) -> Floats:
        """Return how much each wave sounds like each identity.

        Parameters
        ----------
        waves : sequence of ndarray, each (samples,)
            16 kHz, full scale 1.

        Returns
        -------
        ndarray, shape (waves, identities)
        """


class EncoderJudge:
    """A speaker encoder that has heard every identity: cosine similarity to the mean of their recordings.

    Parameters
    ----------
    encoder : SpeakerEncoder
    enrolment : sequence of sequence of ndarray
        Real recordings of each identity.
    name : str

    Attributes
    ----------
    enrolled : ndarray, shape (identities, d)
        Unit vectors.
    """

    def __init__(self, encoder: SpeakerEncoder, enrolment: Sequence[Waves], name: str) -> None:
        self.name = name
        self._encoder = encoder
        self.enrolled = unit(np.stack([unit(encoder.embed(waves)).mean(axis=0) for waves in enrolment]))

    def scores(self, waves: Waves) -> Floats:
        """Return cosine similarities (waves, identities)."""
        return unit(self._encoder.embed(waves)) @ self.enrolled.T


@dataclass(frozen=True)
class Thresholds:
    """At which scores of a judge a voice is accepted as somebody's, told on real voices.

    Attributes
    ----------
    eer : float
        Where as many genuine voices are refused as others' are accepted.
    far_1 : float or None
        Where at most 1 % of others' voices are accepted; None where they are fewer than 100.
    error : float
        The equal error rate.
    genuine_at_far_1 : float or None
        Share of the genuine voices that are accepted there.
    """

    eer: float
    far_1: float | None
    error: float
    genuine_at_far_1: float | None

    @classmethod
    def of(cls, scores: ArrayLike, identities: ArrayLike) -> Thresholds:
        """Set thresholds on real voices.

        Parameters
        ----------
        scores : array_like, shape (voices, identities)
        identities : array_like of int, shape (voices,)
            Whose voices they are.
        """
        table = Verdicts(scores, identities)
        genuine, others = table.own, table.others.ravel()
        found = tpr_at_fpr(genuine, others, 0.01)
        places = np.unique(np.concatenate([genuine, others]))
        refused = np.searchsorted(np.sort(genuine), places, side="left") / genuine.size
        accepted = 1 - np.searchsorted(np.sort(others), places, side="left") / others.size
        middle = float(places[np.argmin(np.abs(refused - accepted))])
        # Verdicts accept at a threshold, the rate is told above it.
        strict = None if found.threshold is None else float(np.nextafter(found.threshold, np.inf))
        return cls(middle, strict, eer(genuine, others), found.value)


class Verdicts:
    """What a judge says of one inversion for each of some identities.

    Parameters
    ----------
    scores : array_like, shape (n, identities)
    identities : array_like of int, shape (n,)
        The column of whom each was made for.

    Raises
    ------
    UserError
        For other shapes, or scores that are not finite.
    """

    def __init__(self, scores: ArrayLike, identities: ArrayLike) -> None:
        self.scores = np.asarray(scores, dtype=np.float64)
        self.identities: Ints = np.asarray(identities, dtype=np.int64)
        if self.scores.ndim != 2 or self.identities.shape != (len(self.scores),) or self.scores.shape[1] < 2:
            raise UserError(
                f"verdicts need scores (inversions, identities) and one identity each; got {self.scores.shape} and "
                f"{self.identities.shape}"
            )
        if not np.isfinite(self.scores).all():
            raise UserError("verdicts: a score is NaN or infinite")
        if self.identities.size and not 0 <= self.identities.min() <= self.identities.max() < self.scores.shape[1]:
            raise UserError("verdicts: an identity is none of the columns")

    @property
    def own(self) -> Floats:
        """The score of whom each was made for, shape (n,)."""
        found: Floats = self.scores[np.arange(len(self.scores)), self.identities]
        return found

    @property
    def others(self) -> Floats:
        """The scores of everybody else, shape (n, identities - 1)."""
        n, k = self.scores.shape
        found: Floats = self.scores[np.arange(k) != self.identities[:, None]].reshape(n, k - 1)
        return found

    def among(self, best: int = 1) -> Floats:
        """1 where the right identity is among the best so many, shape (n,); ties count against the inversion."""
        found: Floats = (self.ranks <= best).astype(np.float64)
        return found

    @property
    def ranks(self) -> Ints:
        """Place of the right identity, from 1; behind all that score as high."""
        found: Ints = 1 + (self.others >= self.own[:, None]).sum(axis=1)
        return found

    @property
    def above(self) -> Floats:
        """Share of the other identities that score lower, ties half, shape (n,): its mean is one half by guessing."""
        own = self.own[:, None]
        shares: Floats = ((self.others < own) + 0.5 * (self.others == own)).mean(axis=1)
        return shares

    def accepted(self, threshold: float) -> Floats:
        """1 where it is accepted as whom it was made for, shape (n,)."""
        found: Floats = (self.own >= threshold).astype(np.float64)
        return found

    def accepted_of_others(self, threshold: float) -> Floats:
        """For each identity, the share of inversions made for *others* that are accepted as theirs, shape (n,)."""
        found = []
        for identity in self.identities:
            made = self.identities != identity
            found.append(float(np.mean(self.scores[made, identity] >= threshold)) if made.any() else 0.0)
        return np.array(found)

    def permuted_hits(self, permutations: int, seed: int) -> Floats:
        """Shares of hits where it is permuted whom inversions were made for, shape (permutations,).

        All permutations but the identity are as likely.
        """
        rng = np.random.default_rng([seed, 7])
        best = np.where(self.among() > 0, self.identities, -1)
        wrong = self.among() == 0
        best[wrong] = np.argmax(self.scores[wrong], axis=1)
        found: list[float] = []
        while len(found) < permutations and len(best) > 1:
            order = rng.permutation(len(best))
            if np.any(order != np.arange(len(best))):
                found.append(float(np.mean(best == self.identities[order])))
        return np.array(found)


def unit(rows: ArrayLike) -> Floats:
    """Return rows of length 1 (n, d); rows of zeros stay."""
    values = np.asarray(rows, dtype=np.float64)
    found: Floats = values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)
    return found
