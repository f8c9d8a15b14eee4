"""From the d-vectors of the attacked recogniser to another encoder's embeddings, learned on other people's recordings.

Pizzi et al. (2023, experiment 3) map 2,048 numbers through layers of 1,024 and 512 (tanh) to 256. Beside it stands a
ridge regression, which is hard to beat on few speakers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fl_privacy._processes import one_thread
from fl_privacy._randomness import own_randomness
from fl_privacy.attacks.inversion.judges import unit
from fl_privacy.audit.metrics import Floats
from fl_privacy.errors import UserError

KINDS = ("mlp", "ridge")


@dataclass(frozen=True)
class MapperTraining:
    """How a mapper is trained.

    Attributes
    ----------
    hidden : tuple of int
        Of the MLP: 1,024 and 512 as published.
    epochs, batch_size : int
    learning_rate : float
        Of Adam, cosine-annealed to zero.
    penalty : float
        Of the ridge, times the mean variance of a source coordinate.
    """

    hidden: tuple[int, ...] = (1024, 512)
    epochs: int = 30
    batch_size: int = 32
    learning_rate: float = 5e-4
    penalty: float = 10.0

    def __post_init__(self) -> None:
        if not self.hidden or min(*self.hidden, self.epochs, self.batch_size) < 1:
            raise UserError("mapper: hidden sizes, epochs and batch_size must be positive")
        if self.learning_rate <= 0 or self.penalty <= 0:
            raise UserError("mapper: learning_rate and penalty must be positive")


class EmbeddingMapper:
    """Maps vectors of one space to unit vectors of another.

    Parameters
    ----------
    kind : str
        "mlp" or "ridge".
    training : MapperTraining
    """

    def __init__(self, kind: str = "mlp", training: MapperTraining | None = None) -> None:
        if kind not in KINDS:
            raise UserError(f"unknown mapper {kind!r}. Known: {', '.join(KINDS)}")
        self.kind, self.training = kind, training or MapperTraining()
        self._centre: tuple[Floats, float, Floats] | None = None
        self._weights: Floats | None = None
        self._network: Any = None

    def fit(self, source: ArrayLike, target: ArrayLike, seed: int = 0) -> EmbeddingMapper:
        """Learn from pairs of vectors of the same recordings.

        Parameters
        ----------
        source : array_like, shape (n, d)
        target : array_like, shape (n, q)
        seed : int
            Of the MLP's weights and batches.

        Raises
        ------
        UserError
            With fewer than two pairs, or numbers that do not match.
        """
        x, y = unit(source), unit(target)
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2:
            raise UserError(f"a mapper learns from two pairs at least; got {np.shape(source)} and {np.shape(target)}")
        spread = float(np.sqrt(x.var(axis=0).mean())) or 1.0
        self._centre = x.mean(axis=0), spread, y.mean(axis=0)
        x, y = (x - self._centre[0]) / spread, y - self._centre[2]
        if self.kind == "ridge":
            # In the space of the pairs: there are fewer of them than coordinates.
            gram = x @ x.T
            self._weights = x.T @ np.linalg.solve(gram + self.training.penalty * np.eye(len(x)), y)
        else:
            self._fit_network(x, y, seed)
        return self

    def __call__(self, source: ArrayLike) -> Floats:
        """Return unit vectors (n, q) for vectors (n, d).

        Raises
        ------
        UserError
            Before `fit`.
        """
        if self._centre is None:
            raise UserError("the mapper is not fitted")
        x = (unit(source) - self._centre[0]) / self._centre[1]
        if self._weights is not None:
            return unit(x @ self._weights + self._centre[2])
        import torch

        with torch.no_grad():
            mapped = self._network(torch.from_numpy(x).float()).double().numpy()
        return unit(mapped + self._centre[2])

    def _fit_network(self, x: Floats, y: Floats, seed: int) -> None:
        import torch
        from torch import nn

        how = self.training
        with one_thread(), own_randomness("embedding mapper", seed):
            sizes = (x.shape[1], *how.hidden)
            layers: list[nn.Module] = []
            for inputs, outputs in pairwise(sizes):
                layers += [nn.Linear(inputs, outputs), nn.Tanh()]
            network = nn.Sequential(*layers, nn.Linear(sizes[-1], y.shape[1]))
            optimiser = torch.optim.Adam(network.parameters(), lr=how.learning_rate)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, how.epochs)
            inputs, targets = torch.from_numpy(x).float(), torch.from_numpy(y).float()
            # The loss is in units of the targets' variance, so that the rate means the same in any space.
            scale = targets.square().mean().clamp_min(1e-12)
            for _ in range(how.epochs):
                for rows in torch.split(torch.randperm(len(inputs)), how.batch_size):
                    optimiser.zero_grad()
                    loss = (network(inputs[rows]) - targets[rows]).square().mean() / scale
                    loss.backward()
                    optimiser.step()
                schedule.step()
            self._network = network.eval()


@dataclass(frozen=True)
class MappingQuality:
    """How well vectors were mapped, on speakers who took no part in learning.

    Attributes
    ----------
    cosine : float
        Mean cosine similarity of mapped and true vectors.
    r_squared : float
        Share of the true vectors' variance that is explained; below 0: worse than their mean.
    retrieval : float
        Share of mapped vectors whose nearest speaker mean is their speaker's.
    """

    cosine: float
    r_squared: float
    retrieval: float


def mapping_quality(mapped: ArrayLike, true: ArrayLike, speakers: Sequence[str]) -> MappingQuality:
    """Measure a mapping on pairs.

    Parameters
    ----------
    mapped, true : array_like, shape (n, q)
    speakers : sequence of str
        Of each pair.
    """
    found, wanted = unit(mapped), unit(true)
    names, codes = np.unique(np.asarray(speakers), return_inverse=True)
    means = unit(np.stack([wanted[codes == code].mean(axis=0) for code in range(len(names))]))
    variance = float(np.square(wanted - wanted.mean(axis=0)).sum())
    explained = 1 - float(np.square(found - wanted).sum()) / max(variance, 1e-12)
    hits = np.argmax(found @ means.T, axis=1) == codes
    return MappingQuality(float((found * wanted).sum(axis=1).mean()), explained, float(hits.mean()))
