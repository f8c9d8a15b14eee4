"""The likelihood ratio of updates to which noise of a known size was added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.attribute.raw_linear import InnerProducts
from fl_privacy.attacks.base import Auxiliary, NoiseScale, OneClassError, Scorer
from fl_privacy.errors import UserError
from fl_privacy.updates import Update


class GaussianLikelihoodRatio(InnerProducts):
    """Hold an update for Gaussian about its class's mean, with the noise of its defense on every coordinate.

    A defense says how large its noise is; the attacker, who knows it, trusts each direction by how far the noise lets
    it. Class means and covariance come from the attacker's own updates, which may bear less noise (clean shadows), the
    same, or other. White noise stays white in the space that these span, in which everything is computed; what lies
    across it is noise alone.

    Parameters
    ----------
    layers : sequence of str
        ``"first"``, ``"second"``, ``"last"``, ``"all"`` or names.
    noise : float, optional
        Standard deviation of the noise on each coordinate of a private update, in the update's own unit. Default: what
        the defenses of the simulation add, where the attacker knows them; else none.
    noise_examples : float
        A further part of it, divided by the number of examples that the client reports: the noise of `noise_examples /
        n_k` that user-level DP after Wei et al. (arXiv 2003.00229) adds to the weights.
    shadow_noise : float, optional
        The same of the attacker's own updates.
    C : float
        Inverse of what is added to each variance, in units of the mean variance: keeps directions that the attacker's
        few speakers hardly show from counting for certain.
    rows : int
        See `InnerProducts`.
    """

    _standardised = False
    tells_numbers = False

    def __init__(
        self,
        layers: str | Sequence[str] = ("first",),
        noise: float | None = None,
        noise_examples: float = 0.0,
        shadow_noise: float | None = None,
        C: float = 1.0,
        rows: int = 2048,
    ) -> None:
        super().__init__(layers, C, "ridge", rows)
        settings = {"noise": noise, "noise_examples": noise_examples, "shadow_noise": shadow_noise}
        for name, value in settings.items():
            if value is not None and not 0 <= value < float("inf"):
                raise UserError(f"GaussianLikelihoodRatio: {name} must be 0 or more, not {value}")
        self.noise, self.noise_examples, self.shadow_noise = noise, noise_examples, shadow_noise

    def fit_transform(self, updates: Sequence[Update], auxiliary: Auxiliary) -> NDArray[np.float64]:
        """Represent the attacker's own updates, with the variance of their noise in the last column."""
        found = super().fit_transform(updates, auxiliary)
        self.told_ = auxiliary.noise
        own = [_scale(self.shadow_noise, auxiliary.own_noise, update) ** 2 for update in updates]
        return np.column_stack([found, own])

    def transform(self, updates: Sequence[Update]) -> NDArray[np.float64]:
        """Represent updates, with the variance of their noise in the last column."""
        return np.column_stack([super().transform(updates), [self._variance(update) for update in updates]])

    def learn(
        self, represented: NDArray[np.float64], labels: NDArray[Any], auxiliary: Auxiliary, *, strict: bool = True
    ) -> Scorer:
        """Learn class means for each column of labels, and one covariance; see `LinearAttack.learn`."""
        classes = len(auxiliary.classes)
        if not classes:
            raise UserError("GaussianLikelihoodRatio tells classes, not a number")
        held = ~np.isnan(represented).any(axis=1)
        rows, known = represented[held, :-1], labels[:, held]
        usable = (known != known[:, :1]).any(axis=1)
        if strict and not usable.all():
            raise OneClassError(
                f"{type(self).__name__}: the attacker's own updates that it can read are of one class only"
            )
        if not rows.shape[1]:  # updates that are all alike, such as those of a frozen layer, span nothing
            return lambda those: np.zeros((len(labels), len(those), *((classes,) if classes > 2 else ())))
        mean = rows.mean(axis=0)
        centred = rows - mean
        # About the common mean: for two classes the direction is the same as with the covariance within classes.
        variances, axes = np.linalg.eigh(centred.T @ centred / max(len(rows) - 1, 1))
        own_noise = float(np.median(represented[held, -1]))
        # Never to nothing, also where more noise was told than there is spread.
        variances = np.maximum(variances - own_noise, 1e-9 * float(variances.mean()))
        variances += float(variances.mean()) / self.C + np.finfo(np.float64).tiny
        along = centred @ axes
        means = np.stack(
            [[_mean(along, column == c) for c in range(classes)] for column in known]
        )  # (p, classes, d), in the axes of the covariance

        def score(those: NDArray[np.float64]) -> NDArray[np.float64]:
            said = ~np.isnan(those).any(axis=1)
            weight = 1 / (variances + those[said, -1:])  # (m, d)
            near = np.einsum("md,pcd->pmc", ((those[said, :-1] - mean) @ axes) * weight, means, optimize=True)
            away = np.einsum("md,pcd->pmc", weight, np.square(means) / 2, optimize=True)
            likelihood = near - away
            found = likelihood[:, :, 1] - likelihood[:, :, 0] if classes == 2 else likelihood
            scores = np.zeros((len(labels), len(those), *found.shape[2:]))
            scores[np.ix_(usable, said)] = found[usable]
            return scores

        return score

    def _variance(self, update: Update) -> float:
        noise = _scale(self.noise, self.told_, update)
        if self.noise_examples:
            if not update.num_examples:
                raise UserError(
                    f"round {update.round}: client {update.client} reported no number of examples, by which "
                    "noise_examples is divided"
                )
            noise += self.noise_examples / update.num_examples
        return noise**2


def _scale(said: float | None, told: NoiseScale | None, update: Update) -> float:
    if said is not None:
        return said
    return 0.0 if told is None else told(update)


def _mean(rows: NDArray[np.float64], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    if not chosen.any():
        return np.zeros(rows.shape[1])
    mean: NDArray[np.float64] = rows[chosen].mean(axis=0)
    return mean
