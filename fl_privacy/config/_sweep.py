"""What of a simulation file varies, where it stands for many simulations."""

from __future__ import annotations

from pydantic import Field, model_validator

from fl_privacy.config.sections import ConfigError, Section


class SweepGrid(Section):
    """One grid: a simulation for every combination of its axes' values."""

    vary: tuple[str, ...] = Field(min_length=1)
    """Axes, each ``"section.key=v1,v2"``; keys that change together are joined: ``"a.b+c.d=v1+w1,v2+w2"``."""
    seeds: int | None = Field(default=None, ge=1)
    """How many seeds this grid has; default: the sweep's."""


class SweepSettings(Section):
    """Which simulations a file stands for, where it is not one alone."""

    vary: tuple[str, ...] = ()
    """The axes of the one grid; see `SweepGrid`."""
    grid: tuple[SweepGrid, ...] = ()
    """Several grids; a simulation that stands in two of them is run once."""
    seeds: int = Field(default=1, ge=1)
    """How many, counted up from the file's own; merged by speaker."""

    @model_validator(mode="after")
    def _one_way(self) -> SweepSettings:
        if self.vary and self.grid:
            raise ValueError("vary is for one grid, [[sweep.grid]] for several: leave one out")
        return self

    @property
    def grids(self) -> tuple[tuple[tuple[str, ...], int], ...]:
        """The axes of every grid, and its number of seeds."""
        return tuple((grid.vary, grid.seeds or self.seeds) for grid in self.grid) or ((self.vary, self.seeds),)

    def reseeded(self, seeds: int) -> SweepSettings:
        """Return the same with so many seeds for every grid."""
        grids = tuple(grid.model_copy(update={"seeds": None}) for grid in self.grid)
        return self.model_copy(update={"seeds": seeds, "grid": grids})


def refuse_sweep(sweep: SweepSettings | None) -> None:
    """Refuse a file that stands for many runs where one is wanted.

    Raises
    ------
    ConfigError
        If there is a ``[sweep]``.
    """
    if sweep is not None:
        raise ConfigError("this file has a [sweep]: it stands for many runs, which `fl-privacy sweep` does")
