"""What is asked of captured updates: which attribute, with which values, of whom, and what the asker owns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.base import SUPPLIES, Auxiliary, Examples, Gradient, NoiseScale
from fl_privacy.attacks.observed import Observed
from fl_privacy.audit import AnyAudit, Audit, MulticlassAudit, NumericAudit
from fl_privacy.errors import UserError

SPEAKER = "speaker"
"""The attribute that asks which of the candidates, whose voices the attacker has, a client is."""


@dataclass(frozen=True)
class Question:
    """One attribute of the private clients, and the side that the attacker learns it from.

    Attributes
    ----------
    own, private : Observed
        The attacker's updates and the private ones.
    attribute : str
        Column of the label files.
    classes : tuple of str
        Its values; of two, the second is the one that high scores mean. Empty where it is a number.
    examples : Examples, optional
        The attacker's own utterances; their `attribute` is replaced by what `classes` make of it.
    gradient : callable, optional
        The architecture, see `Auxiliary`.
    noise, own_noise : callable, optional
        How large a defense's noise is, see `Auxiliary`.
    """

    own: Observed
    private: Observed
    attribute: str
    classes: tuple[str, ...]
    examples: Examples | None = field(default=None, repr=False)
    gradient: Gradient | None = field(default=None, repr=False)
    noise: NoiseScale | None = field(default=None, repr=False)
    own_noise: NoiseScale | None = field(default=None, repr=False)

    @classmethod
    def ask(
        cls,
        own: Observed,
        private: Observed,
        attribute: str,
        positive: str | None = None,
        *,
        numeric: bool = False,
        examples: Examples | None = None,
        gradient: Gradient | None = None,
        noise: NoiseScale | None = None,
        own_noise: NoiseScale | None = None,
    ) -> Question:
        """Check that both sides are of one network, of different people, and have the attribute with the same values.

        Parameters
        ----------
        own, private, attribute, gradient, noise, own_noise
            See the class.
        positive : str, optional
            Of two values, the one that high scores mean; by default the last in alphabetical order.
        numeric : bool
            Whether the attribute is a number.
        examples : Examples, optional
            With the attribute's values as text.

        Raises
        ------
        UserError
            Where they do not.
        """
        _check_network(own, private)
        both = sorted(own.named_speakers & private.named_speakers)
        if both and attribute != SPEAKER:
            raise UserError(
                f"{len(both)} speaker(s) stand on both sides, such as {both[0]!r}: the attacker owns other people "
                "(give different people different names)"
            )
        if examples is not None and attribute != SPEAKER:
            known = sorted(private.named_speakers & set(examples.speakers))
            if known:
                raise UserError(
                    f"{len(known)} private speaker(s), such as {known[0]!r}, are among the attacker's own examples: "
                    "it owns other people"
                )
        classes = check_values(
            own.values(attribute), private.values(attribute), attribute, positive=positive, numeric=numeric
        )
        if examples is not None:
            examples = _coded(examples, attribute, classes)
        return cls(own, private, attribute, classes, examples, gradient, noise, own_noise)

    @property
    def supplies(self) -> frozenset[str]:
        """What attacks may need here."""
        sent = all(update.sent for side in (self.own, self.private) for update in side.updates)
        lacking = {
            "sent": not sent,
            "examples": self.examples is None,
            "gradient": self.gradient is None,
        }
        return frozenset(need for need in SUPPLIES if not lacking.get(need, False))

    def labels(self, side: Observed) -> NDArray[Any]:
        """Return the class number (or the number) of each of a side's updates."""
        if not self.classes:
            return np.array(numbers_of(side.values(self.attribute), self.attribute))
        number = {value: n for n, value in enumerate(self.classes)}
        return np.array([number[value] for value in side.values(self.attribute)], dtype=np.int64)

    @property
    def auxiliary(self) -> Auxiliary:
        """What the attacker owns."""
        return Auxiliary(
            tuple(self.own.speakers), self.classes, self.examples, self.gradient, self.noise, self.own_noise
        )

    def audit(
        self, scores: NDArray[np.float64], name: str, confidence: float, *, correlation: float | None = None
    ) -> AnyAudit:
        """Put scores of the private updates beside the truth.

        Parameters
        ----------
        scores : ndarray, (n,) or (n, k)
        name : str
            Of the attack.
        confidence : float
            Of intervals.
        correlation : float, optional
            How far a speaker's updates are the same evidence, see `fl_privacy.audit.Audit`; default: they are added up
            as if they were independent, and predicted numbers averaged.
        """
        shared: dict[str, Any] = {
            "groups": self.private.speakers,
            "clients": self.private.clients,
            "confidence": confidence,
            "name": name,
        }
        if not self.classes:
            return NumericAudit(scores, self.labels(self.private), **shared)
        shared["aggregate"] = "sum" if correlation is None else correlation
        values = self.private.values(self.attribute)
        if len(self.classes) == 2:
            return Audit(scores, values, positive=self.classes[1], **shared)
        return MulticlassAudit(scores, values, classes=self.classes, **shared)


def _check_network(own: Observed, private: Observed) -> None:
    shapes = [dict(side.updates[0].shapes) for side in (private, own)]
    if shapes[0] != shapes[1]:
        odd = next((n for n in shapes[0] if shapes[0].get(n) != shapes[1].get(n)), next(iter(shapes[1])))
        raise UserError(
            f"the attacker's own updates are of another network than the private ones: the shape of {odd!r} is "
            f"{shapes[1].get(odd, 'not known')} there, {shapes[0].get(odd, 'not known')} here"
        )


def check_values(
    own: Sequence[str], private: Sequence[str], attribute: str, *, positive: str | None = None, numeric: bool = False
) -> tuple[str, ...]:
    """Return the classes that are told apart, none for a number; both sides' values must allow the question.

    Parameters
    ----------
    own, private : sequence of str
        The attribute of each update, or client, of both sides.
    attribute, positive, numeric
        See `Question.ask`.

    Raises
    ------
    UserError
        Where they do not.
    """
    values, other = sorted(set(private)), sorted(set(own))
    if numeric:
        if positive is not None:
            raise UserError(f"{attribute!r} is a number: it has no positive value ({positive!r})")
        for whose, there in (("the private clients", values), ("the attacker's own", other)):
            if len(set(numbers_of(there, attribute))) < 2:
                raise UserError(f"{attribute!r} is the same for all of {whose} ({there[0]}); there is nothing to tell")
        return ()
    if len(values) < 2:
        raise UserError(
            f"{attribute!r} of the private clients has {len(values)} value(s) ({', '.join(values)}); "
            "there is nothing to tell apart"
        )
    if other != values:
        raise UserError(
            f"{attribute!r} is {_some(values)} for the private clients but {_some(other)} for the attacker's own: both "
            "need the same values (a number is asked for as such: numeric)"
        )
    if positive is None:
        return tuple(values)
    if positive not in values:
        raise UserError(f"{attribute!r} has no value {positive!r}; it has: {', '.join(values)}")
    if len(values) > 2:
        raise UserError(f"{attribute!r} has {len(values)} values: none of them is the positive one ({positive!r})")
    return (*(value for value in values if value != positive), positive)


def numbers_of(values: Sequence[str], column: str) -> list[float]:
    """Read numbers.

    Raises
    ------
    UserError
        Where one is none, or not finite.
    """
    found = []
    for value in values:
        try:
            found.append(float(value))
        except ValueError:
            found.append(math.nan)
        if not math.isfinite(found[-1]):
            raise UserError(f"{column!r} must hold numbers, not {value!r}")
    return found


def _some(values: Sequence[str]) -> str:
    return " / ".join([*values[:6], *(["..."] if len(values) > 6 else [])])


def _coded(examples: Examples, attribute: str, classes: tuple[str, ...]) -> Examples:
    """Return the examples with class numbers, or numbers, of the attribute; those of other values are left out."""
    values = [str(value) for value in examples.attribute.tolist()]
    if not classes:
        numbers = np.array(numbers_of(values, attribute))
        return Examples(examples.features, examples.labels, examples.speakers, numbers)
    number = {value: n for n, value in enumerate(classes)}
    known = np.array([value in number for value in values], dtype=np.bool_)
    kept = examples.where(known)
    codes = np.array([number[value] for value in values if value in number], dtype=np.int64)
    return Examples(kept.features, kept.labels, kept.speakers, codes)
