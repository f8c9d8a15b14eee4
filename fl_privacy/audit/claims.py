"""The rows of result.json: claims, controls and privacy statements, and the estimate behind a claim."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from ..errors import UserError


@dataclass(frozen=True)
class Estimate:
    """A value with its interval and the counts it rests on.

    Attributes
    ----------
    value : float or None
        A fraction (a difference of fractions for a paired difference), but for a predicted number: a correlation, an
        error in the attribute's unit. None where it cannot be told.
    low, high : float or None
        Ends of the interval; None where there is none.
    confidence : float
        Of the interval.
    n_positive, n_negative : int or None
        Units (rows, clients or speakers) of each class; None where there are not two classes.
    n_speakers : int
        Independent units behind them.
    reason : str or None
        Why the value or the interval is missing.
    """

    value: float | None
    low: float | None
    high: float | None
    confidence: float
    n_positive: int | None
    n_negative: int | None
    n_speakers: int
    reason: str | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "unresolved"
        if self.low is None or self.high is None:
            return f"{self.value:.3f} (no interval)"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def jsonable(value: Any) -> Any:
    """A value as JSON can hold it: NaN as None, an infinity as "inf" or "-inf", tuples as lists, numpy's as Python's.

    Raises
    ------
    UserError
        For a value that JSON has no form for.
    """
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise UserError(f"A result can hold numbers, text, lists and mappings; got {type(value).__name__}.")


def _read(kind: type, row: Mapping[str, Any]) -> dict[str, Any]:
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(row) - known)
    missing = sorted(known - set(row))
    if unknown or missing:
        wrong = [f"unknown: {', '.join(unknown)}"] * bool(unknown) + [f"missing: {', '.join(missing)}"] * bool(missing)
        raise UserError(
            f"A {kind.__name__.lower()} has other fields ({'; '.join(wrong)}). Is the file of this version?"
        )
    return dict(row)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One number about one attack, with what is needed to read it.

    Attributes
    ----------
    attack, target, algorithm, attribute, defense, protocol : str or None
        Names of what was run; None where there is no such thing (no defense, no federation).
    primary : bool
        Whether this is the attack declared first, whose claim is the headline.
    unit : str
        "update", "client", "speaker" or "utterance".
    metric : str
        "auc", "uar", "accuracy", "tpr_at_fpr_0.01", "eer", ...; "top_5_accuracy", "mean_rank" among many classes;
        "correlation", "spearman", "mean_absolute_error", "r_squared" of a number.
    value, low, high : float or None
        Fractions; correlations, an error in the attribute's unit, a place in a list where the metric is one. NaN
        becomes None with a reason.
    confidence : float or None
        Of the interval.
    n_positive, n_negative, n_speakers : int or None
        Units of each class (None where there are not two) and independent speakers.
    attacker : str or None
        "static" or "adaptive".
    seeds : tuple of int
        The runs it merges.
    conditions : mapping
        Whatever else was varied.
    reason : str or None
        Why a value or interval is missing.
    """

    attack: str
    primary: bool = False
    target: str | None = None
    algorithm: str | None = None
    attribute: str | None = None
    unit: str
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    n_positive: int | None = None
    n_negative: int | None = None
    n_speakers: int | None = None
    attacker: str | None = None
    defense: str | None = None
    protocol: str | None = None
    seeds: tuple[int, ...] = ()
    conditions: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                object.__setattr__(self, name, None)
                if self.reason is None:
                    object.__setattr__(self, "reason", f"{name} is not a finite number")
        if self.value is None and self.reason is None:
            object.__setattr__(self, "reason", "no value")

    def to_dict(self) -> dict[str, Any]:
        """The claim as a JSON-ready mapping with every field; no NaN."""
        row: dict[str, Any] = jsonable(asdict(self))
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises
        ------
        UserError
            Naming fields that are unknown or missing.
        """
        values = _read(cls, row)
        return cls(**{**values, "seeds": tuple(values["seeds"]), "conditions": dict(values["conditions"])})


@dataclass(frozen=True, kw_only=True)
class Control(Claim):
    """A number that a claim has to be held against.

    Attributes
    ----------
    control : str
        "majority", "permuted-auxiliary-labels", "permuted-private-labels", or the name of a blind baseline.
    of : str
        The attack it is a control of.
    n_permutations : int or None
        Permuted runs behind the p-value.
    p_value : float or None
        (1 + permuted runs that do at least as well) / (1 + runs).
    observed : float or None
        What the true labels give of the statistic that was permuted. Attackers trained on permuted labels are not
        calibrated: there it is of the attack's scores before that, and may differ from its claim.
    """

    control: str
    of: str
    n_permutations: int | None = None
    p_value: float | None = None
    observed: float | None = None

    @property
    def smallest_p_value(self) -> float | None:
        """The smallest value that this many permutations could have given."""
        return None if self.n_permutations is None else 1.0 / (1.0 + self.n_permutations)


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """What a mechanism promises and what an attack shows, both for a named unit.

    Attributes
    ----------
    unit : str
        What is protected: "example", "client", "speaker", ...
    mechanism : str
        Name of the defense.
    protects_from : str
        Who is kept from learning: "server", "other clients", "users of the model", ...
    epsilon_accountant : float or None
        Upper bound, composed over all rounds; None without a guarantee (infinity included).
    epsilon_lower_bound : float or None
        Empirical lower bound from an attack.
    delta : float or None
        At which both hold.
    method : str or None
        How the lower bound was had: "clopper-pearson" or "one-run"; None without one.
    confidence : float or None
        With which the lower bound is not above the true epsilon.
    canaries : int or None
        That it rests on.
    conditions : mapping
        Under which both hold, such as who was counted.
    note : str or None
        What one has to know to read it.
    """

    unit: str
    mechanism: str
    protects_from: str
    epsilon_accountant: float | None = None
    epsilon_lower_bound: float | None = None
    delta: float | None = None
    method: str | None = None
    confidence: float | None = None
    canaries: int | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None

    def __post_init__(self) -> None:
        for name in ("epsilon_accountant", "epsilon_lower_bound", "delta"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                object.__setattr__(self, name, None)

    def to_dict(self) -> dict[str, Any]:
        """The statement as a JSON-ready mapping."""
        row: dict[str, Any] = jsonable(asdict(self))
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote; a `UserError` names fields that are unknown or missing."""
        values = _read(cls, row)
        return cls(**{**values, "conditions": dict(values["conditions"])})
