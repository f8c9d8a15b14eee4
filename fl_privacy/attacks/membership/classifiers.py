"""From a shadow recogniser's features to evidence of membership: the study's classifier, and plainer ones."""

from __future__ import annotations

import warnings
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_privacy.attacks.membership.features import FEATURES
from fl_privacy.audit.metrics import tpr_at_fpr
from fl_privacy.errors import UserError

Floats = NDArray[np.float64]


class MembershipClassifier(Protocol):
    """Learns on speakers of shadow recognisers, tells of the target's."""

    def fit(self, features: ArrayLike, members: ArrayLike, speakers: ArrayLike) -> Self:
        """Learn from features (n, f) of speakers (n,), of whom some were members (n,)."""

    def decision_function(self, features: ArrayLike) -> Floats:
        """Log-odds of membership (n,): positive is a decision for it."""


class OneFeature:
    """A single feature, moved and scaled to log-odds: what every classifier has to beat.

    Which way it points is part of the attack and not learned: of a few badly trained shadows, whose members lie no
    closer than others, a regression may as well learn that members lie farther apart. Where it does, the feature is
    standardised and stands for itself.

    Parameters
    ----------
    column : int
        Which; by default that of ``pair.mean``, the "basic" attack of Tseng, Kao and Lee (arXiv 2111.05113). Higher
        for members.

    Attributes
    ----------
    turned_ : bool
        Whether the shadows spoke against the direction.
    """

    def __init__(self, column: int = FEATURES.index("pair.mean")) -> None:
        self.column = column

    def fit(self, features: ArrayLike, members: ArrayLike, speakers: ArrayLike) -> Self:
        """Fit a logistic regression of the one feature; see `MembershipClassifier`."""
        table, truth = _checked(features, members)
        mine = table[:, [self.column]]
        inner = Logistic(C=1e6).fit(mine, truth, speakers)
        at = np.array([[0.0], [1.0]])
        low, high = inner.decision_function(at)
        self.turned_ = bool(high <= low)
        self.slope_, self.offset_ = float(high - low), float(low)
        if self.turned_:
            self.slope_ = 1.0 / (float(mine.std()) or 1.0)
            self.offset_ = -self.slope_ * float(mine.mean())
        return self

    def decision_function(self, features: ArrayLike) -> Floats:
        """Log-odds (n,)."""
        return np.asarray(self.offset_ + self.slope_ * np.asarray(features, dtype=np.float64)[:, self.column])


class Logistic:
    """Logistic regression of standardised features.

    Parameters
    ----------
    C : float
        Inverse strength of the L2 penalty.
    """

    def __init__(self, C: float = 0.01) -> None:
        self.C = C

    def fit(self, features: ArrayLike, members: ArrayLike, speakers: ArrayLike) -> Self:
        """Fit; see `MembershipClassifier`."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        table, truth = _checked(features, members)
        self.model_: Any = make_pipeline(StandardScaler(), LogisticRegression(C=self.C, max_iter=2000))
        self.model_.fit(table, truth)
        return self

    def decision_function(self, features: ArrayLike) -> Floats:
        """Log-odds (n,)."""
        return np.asarray(self.model_.decision_function(np.asarray(features)), dtype=np.float64)


class Boosting:
    """Gradient boosting of shallow trees.

    Parameters
    ----------
    trees, leaves : int
    learning_rate : float
    seed : int
    """

    def __init__(self, trees: int = 100, leaves: int = 6, learning_rate: float = 0.05, seed: int = 0) -> None:
        self.trees, self.leaves, self.learning_rate, self.seed = trees, leaves, learning_rate, seed

    def fit(self, features: ArrayLike, members: ArrayLike, speakers: ArrayLike) -> Self:
        """Fit; see `MembershipClassifier`."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        table, truth = _checked(features, members)
        self.model_: Any = HistGradientBoostingClassifier(
            max_iter=self.trees,
            max_leaf_nodes=self.leaves,
            learning_rate=self.learning_rate,
            early_stopping=False,
            random_state=self.seed,
        )
        self.model_.fit(table, truth)
        return self

    def decision_function(self, features: ArrayLike) -> Floats:
        """Log-odds (n,)."""
        return np.asarray(self.model_.decision_function(np.asarray(features)), dtype=np.float64)


class Perceptron:
    """A multi-layer perceptron of standardised features, scikit-learn's but for its layers and when it stops.

    Parameters
    ----------
    layers : tuple of int
    seed : int
    """

    def __init__(self, layers: tuple[int, ...] = (100,), seed: int = 0) -> None:
        self.layers, self.seed = layers, seed

    def fit(self, features: ArrayLike, members: ArrayLike, speakers: ArrayLike) -> Self:
        """Fit; see `MembershipClassifier`."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier
        from sklearn.preprocessing import StandardScaler

        table, truth = _checked(features, members)
        self.scale_: Any = StandardScaler().fit(table)
        self.model_: Any = MLPClassifier(self.layers, random_state=self.seed, max_iter=200, tol=1e-3)
        with warnings.catch_warnings():
            # It stops after so many rounds by intent.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model_.fit(self.scale_.transform(table), truth)
        return self

    def decision_function(self, features: ArrayLike) -> Floats:
        """Log-odds (n,)."""
        chances = self.model_.predict_proba(self.scale_.transform(np.asarray(features)))
        # A network that is certain gives the other class no chance at all.
        logs = np.log(np.maximum(chances, np.finfo(np.float64).tiny))
        return np.asarray(logs[:, 1] - logs[:, 0], dtype=np.float64)


class DeepSets:
    """A network on a set of numbers, in whatever order they come: EncoderMI-S (Liu et al. 2021, arXiv 2108.11023).

    Each number goes through the same small network, the results are averaged, and a second one tells of the average
    (Zaheer et al. 2017, arXiv 1703.06114).

    Parameters
    ----------
    hidden : int
    epochs : int
        Steps of Adam at 1e-2 on all rows.
    seed : int
    """

    def __init__(self, hidden: int = 32, epochs: int = 300, seed: int = 0) -> None:
        self.hidden, self.epochs, self.seed = hidden, epochs, seed

    def fit(self, features: ArrayLike, members: ArrayLike, speakers: ArrayLike) -> Self:
        """Fit; see `MembershipClassifier`."""
        import torch
        from torch import nn
        from torch.nn import functional

        from fl_privacy._processes import one_thread
        from fl_privacy._randomness import own_randomness

        table, truth = _checked(features, members)
        self.centre_, self.spread_ = float(table.mean()), float(table.std()) or 1.0
        x, y = self._sets(table), torch.from_numpy(truth.astype(np.float32))
        with one_thread(), own_randomness("membership classifier", self.seed):
            h = self.hidden
            self.each_ = nn.Sequential(nn.Linear(1, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU())
            self.all_ = nn.Sequential(nn.Linear(h, h), nn.ReLU(), nn.Linear(h, 1))
            parameters = [*self.each_.parameters(), *self.all_.parameters()]
            optimiser = torch.optim.Adam(parameters, lr=1e-2, weight_decay=1e-4)
            for _ in range(self.epochs):
                optimiser.zero_grad()
                loss = functional.binary_cross_entropy_with_logits(self._told(x), y)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        return self

    def decision_function(self, features: ArrayLike) -> Floats:
        """Log-odds (n,)."""
        import torch

        with torch.no_grad():
            return np.asarray(self._told(self._sets(np.asarray(features))).numpy(), dtype=np.float64)

    def _sets(self, table: Floats) -> Any:
        import torch

        return torch.from_numpy(((table - self.centre_) / self.spread_).astype(np.float32))[:, :, None]

    def _told(self, sets: Any) -> Any:
        return self.all_(self.each_(sets).mean(dim=1))[:, 0]


class PublishedMLP:
    """The classifier of SLMIA-SR: one hidden layer of 64, features as they are, full batches.

    Parameters
    ----------
    epochs : int
        Steps of Adam at 1e-3 on all rows.
    validation : float
        Share of the *speakers* held back; the network of the first epoch with the highest accuracy on them is kept.
        (The public code holds back rows, so that a speaker can be on both sides.)
    hidden : int
    seed : int
        Of the initial weights and the speakers held back.
    """

    def __init__(self, epochs: int = 10_000, validation: float = 0.1, hidden: int = 64, seed: int = 0) -> None:
        self.epochs, self.validation, self.hidden, self.seed = epochs, validation, hidden, seed

    def fit(self, features: ArrayLike, members: ArrayLike, speakers: ArrayLike) -> Self:
        """Fit; see `MembershipClassifier`."""
        import torch
        from torch import nn
        from torch.nn import functional

        from fl_privacy._processes import one_thread
        from fl_privacy._randomness import own_randomness

        table, truth = _checked(features, members)
        held = self._held_back(np.asarray(speakers))
        x, y = torch.from_numpy(table.astype(np.float32)), torch.from_numpy(truth.astype(np.int64))
        with one_thread(), own_randomness("membership classifier", self.seed):
            model = nn.Sequential(nn.Linear(table.shape[1], self.hidden), nn.ReLU(), nn.Linear(self.hidden, 2))
            optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
            best, kept = -1.0, {}
            for _ in range(self.epochs):
                optimiser.zero_grad()
                loss = functional.cross_entropy(model(x[~held]), y[~held])
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                with torch.no_grad():
                    accuracy = float((model(x[held]).argmax(dim=1) == y[held]).float().mean())
                if accuracy > best:
                    best, kept = accuracy, {name: value.clone() for name, value in model.state_dict().items()}
            model.load_state_dict(kept)
        self.model_ = model
        return self

    def decision_function(self, features: ArrayLike) -> Floats:
        """Log-odds (n,)."""
        import torch

        with torch.no_grad():
            logits = self.model_(torch.from_numpy(np.asarray(features, dtype=np.float32)))
        return np.asarray((logits[:, 1] - logits[:, 0]).numpy(), dtype=np.float64)

    def _held_back(self, speakers: NDArray[Any]) -> Any:
        import torch

        names = np.unique(speakers)
        count = max(1, round(self.validation * names.size))
        if count >= names.size:
            raise UserError(f"the published classifier holds speakers back; {names.size} of shadows are too few")
        chosen = np.random.default_rng(self.seed).permutation(names)[:count]
        return torch.from_numpy(np.isin(speakers, chosen))


def threshold_at(scores: ArrayLike, members: ArrayLike, fpr: float) -> float:
    """Return the score above which a share of at most `fpr` of a shadow's non-members lies.

    Parameters
    ----------
    scores, members : array_like, shape (n,)
        Of shadow recognisers' speakers.
    fpr : float
        The false positive rate that is wished for before the target.

    Raises
    ------
    UserError
        Where there are fewer than 1 / `fpr` non-members.
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(members, dtype=bool)
    found = tpr_at_fpr(values[truth], values[~truth], fpr)
    if found.threshold is None:
        raise UserError(f"no threshold at a false positive rate of {fpr}: {found.reason}")
    return found.threshold


def _checked(features: ArrayLike, members: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    table, truth = np.asarray(features, dtype=np.float64), np.asarray(members, dtype=bool)
    if table.ndim != 2 or len(table) != truth.size:
        raise UserError(f"features of shape {table.shape} for {truth.size} speakers; expected one row for each")
    if not np.isfinite(table).all():
        raise UserError("membership features hold NaN or infinity; were single voices left out?")
    if truth.all() or not truth.any():
        raise UserError("a membership classifier needs members and non-members of shadow recognisers")
    return table, truth
