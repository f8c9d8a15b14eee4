"""What an attack on updates is, what it may own, and the shape that linear ones share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fl_privacy._registry import find_object, make
from fl_privacy.attacks.heads import make_head
from fl_privacy.errors import UserError
from fl_privacy.updates import Layer, Update, describe_layers, resolve_layers

BUILT_IN: dict[str, str] = {
    "affine-hull": "fl_privacy.attacks.attribute.affine_hull:AffineHull",
    "batch-inputs": "fl_privacy.attacks.attribute.batch_inputs:BatchInputs",
    "class-weighted": "fl_privacy.attacks.attribute.class_weighted:ClassWeighted",
    "gaussian-lr": "fl_privacy.attacks.attribute.gaussian:GaussianLikelihoodRatio",
    "layer-statistics": "fl_privacy.attacks.attribute.layer_statistics:LayerStatistics",
    "input-reconstruction": "fl_privacy.attacks.attribute.input_reconstruction:InputReconstruction",
    "input-covariance": "fl_privacy.attacks.attribute.input_covariance:InputCovariance",
    "batch-covariance": "fl_privacy.attacks.attribute.batch_covariance:BatchCovariance",
    "principal-inputs": "fl_privacy.attacks.attribute.principal_inputs:PrincipalInputs",
    "raw-linear": "fl_privacy.attacks.attribute.raw_linear:RawLinear",
    "cnn": "fl_privacy.attacks.attribute.cnn:PublishedCNN",
}


_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]*")

Scorer = Callable[[NDArray[np.float64]], NDArray[np.float64]]

Gradient = Callable[
    [Mapping[str, NDArray[Any]], NDArray[np.float32], NDArray[np.int64]], dict[str, NDArray[np.float32]]
]
"""Gradient of the mean loss of examples (features, the task's labels) at a model, by array name; dropout off."""

NoiseScale = Callable[[Update], float]
"""Standard deviation of a defense's noise on each coordinate of an update."""


@dataclass(frozen=True)
class Examples:
    """Labelled utterances that the attacker owns, in the space that the victims' clients train in.

    Attributes
    ----------
    features : ndarray, (n, d), float32
        Normalised as the clients' are.
    labels : ndarray, (n,), int64
        The task's class of each.
    speakers : tuple of str
        Whose each is.
    attribute : ndarray, (n,)
        Class number of the attribute (int64), or its value (float64) where it is a number.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    speakers: tuple[str, ...]
    attribute: NDArray[Any]

    def __post_init__(self) -> None:
        counts = {len(self.features), len(self.labels), len(self.speakers), len(self.attribute)}
        if np.ndim(self.features) != 2 or len(counts) > 1:
            raise UserError(
                f"examples need features of shape (n, d), and n labels, speakers and values of the attribute: got "
                f"{np.shape(self.features)}, {len(self.labels)}, {len(self.speakers)} and {len(self.attribute)}"
            )

    def where(self, rows: NDArray[np.bool_]) -> Examples:
        """Return some of the examples."""
        speakers = tuple(s for s, kept in zip(self.speakers, rows, strict=True) if kept)
        return Examples(self.features[rows], self.labels[rows], speakers, self.attribute[rows])


@dataclass(frozen=True)
class Auxiliary:
    """What the attacker owns, beside the observations it learns from.

    Attributes
    ----------
    speakers : tuple of str
        The (known) speaker of each row that `fit` is given: rows of one speaker are not independent.
    classes : tuple
        The values of the attribute; labels count into them. Of two, the second is the one that high scores mean. Empty
        where the attribute is a number.
    examples : Examples, optional
        The attacker's own utterances, for attacks that need ``"examples"``.
    gradient : callable, optional
        The architecture, as its gradient: for attacks that need ``"gradient"``.
    noise, own_noise : callable, optional
        How large the defenses' noise is on a private update and on the attacker's own, where the attacker knows.
    extras : Mapping
        Anything further that an attack may need and a user supplies.
    """

    speakers: tuple[str, ...]
    classes: tuple[Any, ...]
    examples: Examples | None = None
    gradient: Gradient | None = None
    noise: NoiseScale | None = None
    own_noise: NoiseScale | None = None
    extras: Mapping[str, Any] = field(default_factory=dict)

    def where(self, rows: NDArray[np.bool_]) -> Auxiliary:
        """Return what is left without the speakers of the other rows, who are then strangers."""
        speakers = tuple(s for s, kept in zip(self.speakers, rows, strict=True) if kept)
        left = set(self.speakers) - set(speakers)
        examples = self.examples
        if examples is not None:
            examples = examples.where(np.array([s not in left for s in examples.speakers], dtype=np.bool_))
        return replace(self, speakers=speakers, examples=examples)


@runtime_checkable
class Attack(Protocol):
    """An attack in the manner of scikit-learn.

    The constructor holds settings only; fitted state ends in ``_``. `needs` names what the harness must supply, of
    `SUPPLIES`; what it cannot supply, it refuses before anything runs. For an attribute that is a number, an attack
    also has ``predict(updates) -> (n,)`` (and, where only some of its settings can, ``tells_numbers``). Where an attack
    has ``costly = True``, its evidence is not calibrated, and labels are permuted only where that is asked for.
    """

    needs: frozenset[str]

    def fit(self, updates: Sequence[Update], labels: NDArray[Any], auxiliary: Auxiliary) -> Self:
        """Learn from updates whose owners are known; `labels` are class numbers from 0 (or numbers), one a row."""
        ...

    def decision_function(self, updates: Sequence[Update]) -> NDArray[np.float64]:
        """Score updates: (n,) for two classes, above 0 means class 1; (n, k) for more, higher is likelier."""
        ...


SUPPLIES = frozenset({"updates", "sent", "examples", "gradient"})
"""What an attack may need: updates, the models that were sent, the attacker's own examples, the architecture."""


class OneClassError(UserError):
    """Labels of one class only for all that an attack can learn from."""


class LinearAttack:
    """An attack that is a representation of updates and a linear classifier on it.

    The representation does not look at labels, nor at the attribute of the attacker's examples. So it is computed once,
    and a permutation control repeats the classifier alone. A row that is not a number says that the update holds
    nothing for this attack: nothing is learnt from it, and its score is 0, no evidence for any class; of a number, the
    mean of those that the attacker knows.

    Parameters
    ----------
    C : float
        Inverse strength of the classifier's L2 penalty, on a standardised representation.
    classifier : {"ridge", "lda", "logistic", "nearest-centroid"}
        Ridge regression of class indicators, linear discriminant analysis with Ledoit and Wolf's shrinkage, logistic
        regression with classes weighted equally, or the nearest class mean. For two classes the first two differ in
        their penalty alone.
    """

    needs = frozenset({"updates"})

    def __init__(self, C: float = 1e-2, classifier: str = "ridge") -> None:
        try:
            make_head(classifier, C)
        except UserError as error:
            raise UserError(f"{type(self).__name__}: {error}") from None
        self.C = C
        self.classifier = classifier

    @property
    def tells_numbers(self) -> bool:
        """Whether it can tell a number: by regression alone."""
        return self.classifier == "ridge"

    def fit_transform(self, updates: Sequence[Update], auxiliary: Auxiliary) -> NDArray[np.float64]:
        """Learn the representation's constants from what the attacker owns, and represent its own updates."""
        raise NotImplementedError

    def transform(self, updates: Sequence[Update]) -> NDArray[np.float64]:
        """Represent updates, shape (n, d)."""
        raise NotImplementedError

    def fit(self, updates: Sequence[Update], labels: NDArray[Any], auxiliary: Auxiliary) -> Self:
        """Learn from updates whose owners are known."""
        self.model_ = self.learn(self.fit_transform(updates, auxiliary), labels[None], auxiliary)
        return self

    def decision_function(self, updates: Sequence[Update]) -> NDArray[np.float64]:
        """Score updates: (n,) for two classes, above 0 means class 1; (n, k) for more."""
        found: NDArray[np.float64] = self.model_(self.transform(updates))[0]
        return found

    def predict(self, updates: Sequence[Update]) -> NDArray[np.float64]:
        """Say the number of each, (n,), where the attribute is one."""
        return self.decision_function(updates)

    def learn(
        self, represented: NDArray[np.float64], labels: NDArray[Any], auxiliary: Auxiliary, *, strict: bool = True
    ) -> Scorer:
        """Learn the classifier on what `fit_transform` gave, for each of several columns of labels.

        Parameters
        ----------
        represented : ndarray, (n, d)
        labels : ndarray, (p, n)
        auxiliary : Auxiliary
            For its classes.
        strict : bool
            Whether to refuse a column in which the rows that say something are of one class; else its scores are those
            of an update that says nothing.

        Returns
        -------
        callable
            Takes what `transform` gave, (m, d), and returns scores, (p, m) or (p, m, k).

        Raises
        ------
        OneClassError
            See `strict`.
        """
        held = ~np.isnan(represented).any(axis=1)
        classes = len(auxiliary.classes)
        usable = (labels[:, held] != labels[:, held][:, :1]).any(axis=1) if held.any() else np.zeros(len(labels), bool)
        if strict and not usable.all():
            raise OneClassError(
                f"{type(self).__name__}: the attacker's own updates that it can read are of one class only"
            )
        head = make_head(self.classifier, self.C)
        fitted = head.fit(represented[held], labels[usable][:, held], classes) if usable.any() else None

        def score(rows: NDArray[np.float64]) -> NDArray[np.float64]:
            said = ~np.isnan(rows).any(axis=1)
            shape = (len(labels), len(rows)) if classes <= 2 else (len(labels), len(rows), classes)
            scores = np.zeros(shape)
            if not classes:
                scores += labels.mean(axis=1, dtype=np.float64)[:, None]
            if fitted is not None and said.any():
                scores[np.ix_(usable, said)] = fitted.scores(rows[said])
            return scores

        return score


class ReadsLayers:
    """An attack that reads some dense layers.

    Parameters
    ----------
    layers : sequence of str
        ``"first"``, ``"second"``, ``"last"``, ``"all"`` or names.
    """

    def __init__(self, layers: str | Sequence[str]) -> None:
        if not layers:
            raise UserError(f"{type(self).__name__}: name at least one layer (first, second, last, all, or a name)")
        self.layers = layers

    def reads(self, shapes: Mapping[str, Sequence[int]]) -> str:
        """Say which layers of a model it reads, given the shapes of the model's arrays in their order.

        Raises
        ------
        UserError
            Where the model has no such layer.
        """
        return describe_layers(shapes, self.layers)


class LayerAttack(ReadsLayers, LinearAttack):
    """A linear attack that reads some dense layers.

    Parameters
    ----------
    layers : sequence of str
        See `ReadsLayers`.
    C, classifier
        See `LinearAttack`.
    """

    def __init__(self, layers: str | Sequence[str], C: float, classifier: str = "ridge") -> None:
        ReadsLayers.__init__(self, layers)
        LinearAttack.__init__(self, C, classifier)


def layers_of(updates: Sequence[Update], wanted: str | Sequence[str]) -> tuple[Layer, ...]:
    """Find the wanted layers, by the shapes of the whole model, and see that some update has them.

    Raises
    ------
    UserError
        Where there is no update, no such layer, or the layer is in no update.
    """
    if not updates:
        raise UserError("there is no update to attack")
    layers = resolve_layers(updates[0].shapes, wanted)
    holding(updates, layers)
    return layers


def holding(updates: Sequence[Update], layers: Sequence[Layer]) -> NDArray[np.bool_]:
    """Return, for each update, whether it holds these layers: a client may have sent a part of the model.

    Raises
    ------
    UserError
        Where no update does.
    """
    arrays = [name for layer in layers for name in layer.arrays]
    held = np.array([all(name in update.arrays for name in arrays) for update in updates], dtype=np.bool_)
    if not held.any():
        known = ", ".join(dict.fromkeys(name for update in updates for name in update.arrays))
        names = ", ".join(layer.name for layer in layers)
        raise UserError(f"no update holds all of layer {names}; they hold: {known or 'nothing'}")
    return held


def on_layers(settings: Sequence[Mapping[str, Any]], layers: Sequence[str]) -> list[dict[str, Any]]:
    """Have the attacks that read dense layers read these; the others stay as they are.

    Parameters
    ----------
    settings : sequence of mappings
        As for `make_attacks`.
    layers : sequence of str
        ``"first"``, ``"second"``, ``"last"``, ``"all"`` or names.

    Raises
    ------
    UserError
        Where no attack reads layers.
    """
    kinds = [find_object(entry["name"], BUILT_IN, "attack") for entry in settings]
    reading = [isinstance(kind, type) and issubclass(kind, ReadsLayers) for kind in kinds]
    if not any(reading):
        names = ", ".join(str(entry["name"]) for entry in settings)
        raise UserError(f"layer {', '.join(layers)} was asked for, but no attack here reads layers: {names}")
    return [
        {**entry, "layers": list(layers)} if reads else dict(entry)
        for entry, reads in zip(settings, reading, strict=True)
    ]


def make_attacks(settings: Sequence[Mapping[str, Any]]) -> list[tuple[str, Attack]]:
    """Make a run's attacks, each with the name it is reported under.

    Parameters
    ----------
    settings : sequence of mappings
        Each with ``name`` (a built-in's, or ``package.module:Class``), optionally ``label`` (to report it under
        another name), and the keyword arguments of its class. ``shadows``, ``clean`` and
        ``permutations`` are the harness's.
    """
    made = []
    for entry in settings:
        entry = {key: value for key, value in entry.items() if key not in ("shadows", "clean", "permutations")}
        label = str(entry.pop("label", entry["name"]))
        if not _LABEL.fullmatch(label):
            raise UserError(f"attack label {label!r}: letters, digits and . _ : + - only, a letter or digit first")
        attack = make("attack", BUILT_IN, entry)
        if not isinstance(attack, Attack):
            raise UserError(f"attack {entry['name']!r} needs fit, decision_function and needs: see Attack in the docs")
        made.append((label, attack))
    names = [name for name, _ in made]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f'two attacks are called {", ".join(twice)}: give each its own label = "..."')
    return made
