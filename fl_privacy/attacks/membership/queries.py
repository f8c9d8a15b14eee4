"""What an attack asks of its target, and how to ask for less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_privacy.errors import UserError


@dataclass(frozen=True, slots=True)
class Budget:
    """How many voices an attack sends to a target.

    Attributes
    ----------
    voices : int
        Of each candidate.
    imposters : int
        People.
    imposter_voices : int
        Of each imposter, at most.
    grouped : bool
        Group enrolment: each imposter is enrolled once, from all of these voices, and a candidate's voice is compared
        with all who are enrolled in one question. What the attack sees of an imposter is one centroid.
    """

    voices: int
    imposters: int
    imposter_voices: int
    grouped: bool = False

    def __post_init__(self) -> None:
        if self.voices < 2 or self.imposters < 1 or self.imposter_voices < 1:
            raise UserError(f"{self}: two voices, an imposter and a voice of each imposter at least")

    def __str__(self) -> str:
        how = ", enrolled as a group" if self.grouped else ""
        return f"{self.voices} voices, {self.imposters} imposters of {self.imposter_voices}{how}"

    def of(self, imposters: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        """Return the first so many imposters with their first so many voices."""
        if self.imposters > len(imposters):
            raise UserError(f"a budget of {self.imposters} imposters, and there are {len(imposters)}")
        chosen = list(imposters)[: self.imposters]
        return {name: tuple(imposters[name][: self.imposter_voices]) for name in chosen}

    def sent(self, candidates: int, imposters: Mapping[str, Sequence[str]]) -> int:
        """Voices sent to a target to judge so many candidates, those of the imposters once."""
        return candidates * self.voices + sum(len(ids) for ids in self.of(imposters).values())

    def scores(self, imposters: Mapping[str, Sequence[str]]) -> int:
        """Scores asked for to judge one candidate, where the target gives similarities alone.

        One for each two of the candidate's voices, and one for each of these with each imposter's voice; with group
        enrolment one question for each of the candidate's voices brings its scores with everybody.
        """
        own = self.voices * (self.voices - 1) // 2
        enrolled = 1 if self.grouped else sum(len(ids) for ids in self.of(imposters).values())
        return own + self.voices * enrolled


def centroid(voices: ArrayLike) -> NDArray[np.float64]:
    """Return what is enrolled of an imposter's voices (n, d): the mean of their directions, shape (1, d)."""
    table = np.asarray(voices, dtype=np.float64)
    unit = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-8)
    return np.asarray(unit.mean(axis=0, keepdims=True))
