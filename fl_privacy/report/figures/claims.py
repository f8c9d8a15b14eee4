"""Figures of claims: values with their intervals, beside one another, over steps and over rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fl_privacy.report.figures._looks import MARKS, WIDTH, short
from fl_privacy.report.svg import FIRST, INK, SECOND, THIRD, Figure, drawing, inline

_LOOKS = ((FIRST, "o", "-"), (THIRD, "D", "-"), (SECOND, "s", "--"), (INK, "x", ":"))
KINDS = len(_LOOKS)
"""Kinds of bar that `intervals` can tell apart."""


@dataclass(frozen=True)
class Bar:
    """A value with a range in the interval plot: of an attack, a blind baseline, or permuted labels."""

    kind: str
    value: float
    low: float | None
    high: float | None


def intervals(
    rows: Sequence[tuple[str, Sequence[Bar]]],
    kinds: Sequence[str],
    axis: str,
    span: tuple[float, float],
    chance: float | None,
    label: str,
    name: str = "intervals",
) -> Figure:
    """Draw values with their ranges, one block of lines for each attack or baseline.

    Parameters
    ----------
    rows : sequence of (name, bars)
        From top to bottom.
    kinds : sequence of str
        At most `KINDS` kinds of bar, in the order of the legend; each has its own colour, marker and line.
    axis : str
        What the values are.
    span : (float, float)
        The least and the greatest value that can be.
    chance : float or None
        What guessing gets.
    label : str
        For those who do not see it.
    name : str
        Prefix of the figure's ids.
    """
    lines = sum(1 + len(bars) for _, bars in rows)
    present = [kind for kind in kinds if any(bar.kind == kind for _, bars in rows for bar in bars)]
    legend = 0.2 * len(present) + 0.1
    height = 0.2 * lines + legend + 0.55
    with drawing(WIDTH, height, name) as (figure, drawn):
        axes = figure.add_axes((0.04, 0.45 / height, 0.92, (0.2 * lines + 0.1) / height))
        if chance is not None:
            axes.axvline(chance, color=INK, linewidth=0.8, linestyle=":")
        handles: dict[str, Any] = {}
        y = 0.0
        for title, bars in rows:
            axes.text(span[0], y, short(title, 40), va="center", weight="bold")
            for bar in bars:
                y -= 1
                colour, marker, line = _LOOKS[kinds.index(bar.kind)]
                if bar.low is not None and bar.high is not None:
                    axes.plot([bar.low, bar.high], [y, y], color=colour, linestyle=line, linewidth=1.8)
                handles[bar.kind] = axes.plot(
                    [bar.value], [y], color=colour, marker=marker, linestyle=line, markersize=6, clip_on=False
                )[0]
            y -= 1
        axes.set_ylim(y + 0.4, 0.6)
        axes.set_xlim(*span)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(axis if chance is None else f"{axis} ({chance:.3g}: guessing)")
        figure.legend([handles[k] for k in present], present, loc="upper left", bbox_to_anchor=(0.0, 1.0))
    told = tuple((title, bar.kind, bar.value, bar.low, bar.high) for title, bars in rows for bar in bars)
    return Figure(name, inline(drawn[0], name, label), ("name", "kind", "value", "low", "high"), told)


@dataclass(frozen=True)
class Line:
    """Values over steps: each a value with its interval's ends (None for no interval), or None for no value."""

    name: str
    points: tuple[tuple[float, float | None, float | None] | None, ...]


def steps(
    name: str,
    ticks: Sequence[str],
    lines: Sequence[Line],
    axis: str,
    span: tuple[float, float],
    chance: float | None,
    label: str,
    steps: str = "leaked updates of each",
) -> Figure:
    """Draw values over steps, each line with the band of its intervals.

    Parameters
    ----------
    name : str
        Prefix of the figure's ids.
    ticks : sequence of str
        Names of the steps.
    lines : sequence of Line
        At most three.
    axis : str
        What the values are.
    span : (float, float)
        The least and the greatest value that can be.
    chance : float or None
        What guessing gets.
    label : str
        For those who do not see it.
    steps : str
        What the steps are.
    """
    looks = ((FIRST, "o", "-"), (SECOND, "^", "--"), (THIRD, "s", "-."))
    legend = 0.2 * (len(lines) + 1) + 0.1
    height = 2.6 + legend
    with drawing(WIDTH, height, name) as (figure, drawn):
        axes = figure.add_axes((0.13, 0.45 / height, 0.84, 2.1 / height))
        where = np.arange(len(ticks))
        for number, (line, (colour, marker, style)) in enumerate(zip(lines, looks, strict=False)):
            values, low, high = (
                np.array([np.nan if p is None or p[i] is None else p[i] for p in line.points], dtype=np.float64)
                for i in range(3)
            )
            axes.fill_between(where, low, high, color=colour, alpha=0.15, linewidth=0, gid=f"data-band-{number}")
            axes.plot(
                where,
                values,
                color=colour,
                linestyle=style,
                marker=marker,
                linewidth=1.6,
                markersize=5,
                clip_on=False,
                label=short(line.name, 40),
                gid=f"data-{number}",
            )
        if chance is not None:
            axes.axhline(chance, color=INK, linestyle=":", linewidth=1, label=f"guessing ({chance:.3g})")
        axes.set_ylim(*span)
        axes.set_xlim(-0.2, len(ticks) - 0.8)
        axes.set_xticks(where, ticks)
        axes.set_xlabel(steps)
        axes.set_ylabel(axis)
        figure.legend(loc="upper left", bbox_to_anchor=(0.08, 1.0))
    rows = [
        (line.name, tick, *(point or (None, None, None)))
        for line in lines
        for tick, point in zip(ticks, line.points, strict=True)
    ]
    return Figure(name, inline(drawn[0], name, label), ("name", "step", "value", "low", "high"), tuple(rows))


def over_rounds(
    rounds: Sequence[int], lines: Sequence[tuple[str, Sequence[float | None]]], chance: float | None, label: str
) -> Figure:
    """Draw fractions over rounds.

    Parameters
    ----------
    rounds : sequence of int
    lines : sequence of (name, values)
        At most two; a value may be None.
    chance : float or None
        A level to draw as a line.
    label : str
        For those who do not see it.
    """
    with drawing(WIDTH, 2.9, "rounds") as (figure, drawn):
        axes = figure.add_axes((0.13, 0.17, 0.84, 0.66))
        for (name, values), (colour, marker), style in zip(lines, MARKS, ("-", "--"), strict=False):
            numbers = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
            every = max(1, len(numbers) // 8)
            axes.plot(
                rounds,
                numbers,
                color=colour,
                linestyle=style,
                linewidth=1.4,
                marker=marker,
                markevery=every,
                label=name,
            )
        if chance is not None:
            axes.axhline(chance, color=INK, linestyle=":", linewidth=1, label=f"UAR by guessing ({chance:.3g})")
        axes.set_ylim(0.0, 1.0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("round")
        axes.set_ylabel("fraction")
        figure.legend(loc="upper left", ncols=2, bbox_to_anchor=(0.08, 1.0), columnspacing=1.2)
    told = tuple(zip(rounds, *(values for _, values in lines), strict=True))
    return Figure("rounds", inline(drawn[0], "rounds", label), ("round", *(name for name, _ in lines)), told)
