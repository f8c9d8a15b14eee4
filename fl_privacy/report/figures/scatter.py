"""The figure of leakage over utility."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fl_privacy.report.figures._looks import MARKS, WIDTH
from fl_privacy.report.svg import FIRST, INK, Figure, drawing, inline

_NARROW = 0.02
"""Least width of the axis of utility."""


@dataclass(frozen=True)
class Scatter:
    """Points (x, y, low, high, name), the ends None for no interval."""

    name: str
    points: tuple[tuple[float, float, float | None, float | None, str], ...]


def tradeoff(
    name: str,
    series: Sequence[Scatter],
    best: Sequence[tuple[float, float]],
    axis: str,
    chance: float | None,
    label: str,
    signed: bool = False,
    utility: str = "UAR",
    unit: str = "speaker",
) -> Figure:
    """Draw leakage over utility, each point with its interval; hovering names the condition.

    Parameters
    ----------
    name : str
        Prefix of the figure's ids.
    series : sequence of Scatter
        At most two.
    best : sequence of (float, float)
        Points of the Pareto set, by rising utility: joined by steps.
    axis : str
        What leakage is measured by.
    chance : float or None
        What guessing gets of it.
    label : str
        For those who do not see it.
    signed : bool
        Whether it may lie below zero.
    utility : str
        What utility is measured by.
    unit : str
        What leakage is of.
    """
    titles = {}
    with drawing(WIDTH, 3.5, name) as (figure, drawn):
        axes = figure.add_axes((0.13, 0.13, 0.84, 0.62))
        for number, (one, (colour, marker)) in enumerate(zip(series, MARKS, strict=False)):
            for x, _, low, high, _ in one.points:
                if low is not None and high is not None:
                    axes.plot([x, x], [low, high], color=colour, linewidth=1.0, alpha=0.5)
            axes.plot(
                [p[0] for p in one.points],
                [p[1] for p in one.points],
                linestyle="none",
                marker=marker,
                markersize=6,
                color=colour,
                markeredgewidth=0,
                label=one.name,
                gid=f"data-{number}",
            )
            titles[f"data-{number}"] = [f"{p[4]}: {utility} {p[0]:.3f}, {axis} {p[1]:.3f}" for p in one.points]
        if best:
            axes.step(
                [x for x, _ in best],
                [y for _, y in best],
                where="pre",
                color=FIRST,
                linewidth=1.2,
                linestyle="--",
                marker="o",
                markersize=10,
                markerfacecolor="none",
                label="Pareto set",
                gid="data-best",
            )
        if chance is not None:
            axes.axhline(chance, color=INK, linestyle=":", linewidth=1, label=f"guessing ({chance:.3g})")
        axes.set_ylim(-1.0 if signed else 0.0, 1.0)
        left, right = axes.get_xlim()
        if right - left < _NARROW:  # such differences say nothing, and their figures would not fit below the axis
            axes.set_xlim((left + right - _NARROW) / 2, (left + right + _NARROW) / 2)
        axes.set_xlabel(f"{utility} of the task (more is more useful)")
        axes.set_ylabel(f"{axis} per {unit} (less is safer)")
        figure.legend(loc="upper left", ncols=2, bbox_to_anchor=(0.08, 1.0), columnspacing=1.2)
    svg = inline(drawn[0], name, label, {key: marks for key, marks in titles.items() if marks})
    rows = tuple((one.name, at, x, y, low, high) for one in series for x, y, low, high, at in one.points)
    return Figure(name, svg, ("name", "condition", "utility", "leakage", "low", "high"), rows)
