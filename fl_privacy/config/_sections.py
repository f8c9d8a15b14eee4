"""What every kind of simulation file is made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

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


class Speech(Section):
    """A corpus of voices and where it lies."""

    corpus: str = Field(min_length=1)
    root: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the corpus's scan, such as ``speakers`` of the synthetic one."""
