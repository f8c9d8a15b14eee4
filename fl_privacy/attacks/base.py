"""What an attack on updates is, what it may own, and the shape that linear ones share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fl_privacy._registry import find_object, make
from fl_privacy.errors import UserError
from fl_privacy.updates import Layer, Update, describe_layers, resolve_layers

BUILT_IN: dict[str, str] = {
    "input-reconstruction": "fl_privacy.attacks.attribute.input_reconstruction:InputReconstruction",
    "raw-linear": "fl_privacy.attacks.attribute.raw_linear:RawLinear",
    "cnn": "fl_privacy.attacks.attribute.cnn:PublishedCNN",
}


_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]*")


@dataclass(frozen=True)
class Auxiliary:
    """What the attacker owns, beside the observations it learns from.

    Attributes
    ----------
    speakers : tuple of str
        The (known) speaker of each row that `fit` is given: rows of one speaker are not independent.
    classes : tuple
        The two values of the attribute; the second is the one that high scores mean.
    extras : Mapping
        Anything further that an attack may need and a user supplies.
    """

    speakers: tuple[str, ...]
    classes: tuple[Any, Any]
    extras: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Attack(Protocol):
    """An attack in the manner of scikit-learn.

    The constructor holds settings only; fitted state ends in ``_``. `needs` names what the harness must supply
    (``"updates"``); what it cannot supply, it refuses before anything runs. A slow attack may have an attribute
    `permutations`: on how many permuted labels, at most, it can be trained again for the control.
    """

    needs: frozenset[str]

    def fit(self, updates: Sequence[Update], labels: NDArray[np.int64], auxiliary: Auxiliary) -> Self:
        """Learn from updates whose owners are known; `labels` are 0 or 1, one a row."""
        ...

    def decision_function(self, updates: Sequence[Update]) -> NDArray[np.float64]:
        """Score updates, one number a row: above 0 means class 1."""
        ...


class OneClassError(UserError):
    """Labels of one class only for all that an attack can learn from."""


class LinearAttack:
    """An attack that is a representation of updates and a linear classifier on it.

    The representation does not look at labels. So it is computed once, and a permutation control repeats the classifier
    alone. A row that is not a number says that the update holds nothing for this attack: nothing is learnt from it, and
    its score is 0, no evidence for either class.

    Parameters
    ----------
    C : float
        Inverse strength of the classifier's L2 penalty (logistic regression, classes weighted equally, standardised
        representation).
    """

    needs = frozenset({"updates"})

    def __init__(self, C: float = 1e-2) -> None:
        if not C > 0:
            raise UserError(f"{type(self).__name__}: C must be positive, not {C}")
        self.C = C

    def fit_transform(self, updates: Sequence[Update]) -> NDArray[np.float64]:
        """Learn the representation's constants from the attacker's own updates, and represent them."""
        raise NotImplementedError

    def transform(self, updates: Sequence[Update]) -> NDArray[np.float64]:
        """Represent updates, shape (n, d)."""
        raise NotImplementedError

    def fit(self, updates: Sequence[Update], labels: NDArray[np.int64], auxiliary: Auxiliary) -> Self:
        """Learn from updates whose owners are known."""
        return self.fit_represented(self.fit_transform(updates), labels, auxiliary)

    def fit_represented(
        self, represented: NDArray[np.float64], labels: NDArray[np.int64], auxiliary: Auxiliary
    ) -> Self:
        """Learn the classifier on what `fit_transform` gave."""
        from sklearn.linear_model import LogisticRegression

        held = ~np.isnan(represented).any(axis=1)
        if len(set(labels[held])) < 2:
            raise OneClassError(
                f"{type(self).__name__}: the attacker's own updates that it can read are of one class only"
            )
        classifier = LogisticRegression(C=self.C, class_weight="balanced", max_iter=2000)
        self.classifier_ = classifier.fit(represented[held], labels[held])
        return self

    def decision_function(self, updates: Sequence[Update]) -> NDArray[np.float64]:
        """Score updates: log-odds of class 1."""
        return self.score_represented(self.transform(updates))

    def score_represented(self, represented: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score what `transform` gave."""
        held = ~np.isnan(represented).any(axis=1)
        scores = np.zeros(len(represented))
        if held.any():
            scores[held] = self.classifier_.decision_function(represented[held])
        return scores


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
    C : float
        See `LinearAttack`.
    """

    def __init__(self, layers: str | Sequence[str], C: float) -> None:
        ReadsLayers.__init__(self, layers)
        LinearAttack.__init__(self, C)


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
        another name), and the keyword arguments of its class.
    """
    made = []
    for entry in settings:
        entry = dict(entry)
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
