"""What every kind of simulation file is made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from fl_privacy.errors import UserError


class ConfigError(UserError):
    """A simulation file, or a ``--set``, that cannot be used as it is."""


class Section(BaseModel):
    """A table of the file: frozen, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python counts true as 1; a simulation file does not."""
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError(f"cannot be {str(value).lower()}")
        return value


class Named(BaseModel):
    """A built-in by name, or anyone's own by ``package.module:object``; the other keys go to its constructor."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field(min_length=1)


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    names = [getattr(value, "name", value) for value in values]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} stands there twice")
    return values


Once = AfterValidator(_once)
"""Marks a list in which no value, or no table's name, stands twice."""


class Simulation(Section):
    """What is run, and from which seed."""

    kind: str
    seed: int = Field(default=1, ge=0)


class CorpusChoice(Section):
    """A corpus of voices and where it lies."""

    corpus: str = Field(min_length=1)
    root: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the corpus's scan, such as ``speakers`` of the synthetic one."""


class AttackName(Section):
    """An attack without settings of its own."""

    name: str = Field(min_length=1)


AttackNames = Annotated[tuple[AttackName, ...], Field(min_length=1), Once]


class DPSettings(Section):
    """DP-SGD: how far gradients are cut, and how much noise goes onto their sum."""

    noise_multiplier: float | None = Field(default=None, ge=0)
    """Either this, in units of the clipping norm; 0 clips without noise,"""
    target_epsilon: float | None = Field(default=None, gt=0)
    """or what one of the protected may lose over the whole training; inf clips without noise."""
    clipping_norm: float = Field(default=1.0, gt=0)
    delta: float = Field(default=1e-5, gt=0, lt=1)

    @model_validator(mode="after")
    def _one_of_two(self) -> DPSettings:
        if (self.noise_multiplier is None) == (self.target_epsilon is None):
            raise ValueError("give either noise_multiplier or target_epsilon")
        return self


class AuditSettings(Section):
    """How claims are made."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    permutations: int = Field(default=200, ge=1, le=100_000)
