"""The figures: each takes numbers and draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fl_privacy.report.rows import Floats, SpeakerScore
from fl_privacy.report.svg import FAINT, FIRST, INK, SECOND, THIRD, Figure, drawing, inline

_WIDTH = 4.0
_BETWEEN = 10
_LOOKS = ((FIRST, "o", "-"), (THIRD, "D", "-"), (SECOND, "s", "--"), (INK, "x", ":"))
KINDS = len(_LOOKS)
"""Kinds of bar that `intervals` can tell apart."""
_MARKS = ((FIRST, "o"), (SECOND, "^"))


@dataclass(frozen=True)
class Curve:
    """A ROC: its name, its rates, and the AUC that goes with it in the legend."""

    name: str
    fpr: Floats
    tpr: Floats
    auc: float | None


@dataclass(frozen=True)
class Bar:
    """A value with a range in the interval plot: of an attack, a blind baseline, or permuted labels."""

    kind: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Line:
    """Values over steps: each a value with its interval's ends (None for no interval), or None for no value."""

    name: str
    points: tuple[tuple[float, float | None, float | None] | None, ...]


@dataclass(frozen=True)
class Scatter:
    """Points (x, y, low, high, name), the ends None for no interval."""

    name: str
    points: tuple[tuple[float, float, float | None, float | None, str], ...]


def short(text: str, length: int = 30) -> str:
    """Cut a name that would run out of the figure."""
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def roc(curves: Sequence[Curve], n_negative: int, label: str, log: bool) -> Figure:
    """Draw ROCs on linear axes, or with a logarithmic axis of false positive rates.

    Parameters
    ----------
    curves : sequence of Curve
        The attack, then what it is held against.
    n_negative : int
        Negative speakers: a rate below one of them cannot be told from zero.
    label : str
        For those who do not see it.
    log : bool
    """
    name = "roc-log" if log else "roc"
    floor = 0.5 / n_negative
    with drawing(_WIDTH, 4.5, name) as (figure, drawn):
        axes = figure.add_axes((0.15, 0.11, 0.82, 0.73))
        if log:
            axes.set_xscale("log")
            axes.axvspan(floor, 1 / n_negative, color=FAINT, alpha=0.35, linewidth=0)
        guess = np.geomspace(floor, 1, 100) if log else np.array([0.0, 1.0])
        axes.plot(guess, guess, color=INK, linestyle=":", linewidth=1, label="guessing")
        for number, curve in enumerate(curves):
            fpr, tpr = _dense(curve.fpr, curve.tpr) if log else (curve.fpr, curve.tpr)
            told = "" if curve.auc is None else f" (AUC {curve.auc:.3f})"
            axes.plot(
                np.maximum(fpr, floor) if log else fpr,
                tpr,
                color=(FIRST, THIRD)[number],
                linestyle=("-", "--")[number],
                marker=("o", "D")[number],
                markersize=4,
                markevery=max(1, len(curve.fpr) // 15) * (_BETWEEN if log else 1),
                linewidth=1.8,
                clip_on=False,
                label=short(curve.name, 26) + told,
                gid=f"data-{number}",
            )
        axes.set_xlim((floor, 1.0) if log else (0.0, 1.0))
        axes.set_ylim(0.0, 1.0)
        if log:
            ticks = [10.0**e for e in range(int(np.ceil(np.log10(floor))), 1)]
            axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
            axes.set_xticks([], minor=True)
        axes.set_xlabel("false positive rate" + (" (logarithmic)" if log else ""))
        axes.set_ylabel("true positive rate")
        figure.legend(loc="upper left", bbox_to_anchor=(0.08, 1.0))
    svg = inline(drawn[0], name, label)
    if log:  # the same numbers
        return Figure(name, svg)
    rows = [(c.name, float(x), float(y)) for c in curves for x, y in zip(c.fpr, c.tpr, strict=True)]
    return Figure(name, svg, ("name", "fpr", "tpr"), tuple(rows))


def strip(
    groups: Sequence[Sequence[SpeakerScore]],
    names: Sequence[str],
    threshold: float | None,
    label: str,
    mean: bool = False,
) -> Figure:
    """Draw each speaker's score as a mark in the row of its class; hovering names the speaker.

    Parameters
    ----------
    groups : sequence of sequence of SpeakerScore
        One for each class, the negative one first.
    names : sequence of str
        Of the classes; high scores mean the last.
    threshold : float or None
        Scores above it are decisions for the last class.
    label : str
        For those who do not see it.
    mean : bool
        Whether a score is a mean over a speaker's rows.
    """
    titles = {}
    with drawing(_WIDTH, 2.5, "strip") as (figure, drawn):
        axes = figure.add_axes((0.05, 0.2, 0.92, 0.74))
        for row, (group, (colour, marker)) in enumerate(zip(groups, _MARKS, strict=True)):
            # The golden ratio spreads neighbours apart without chance.
            spread = (np.arange(len(group)) * 0.618034 % 1 - 0.5) * 0.45
            axes.plot(
                [s.score for s in group],
                row + spread,
                linestyle="none",
                marker=marker,
                markersize=6,
                color=colour,
                alpha=0.8,
                markeredgewidth=0,
                clip_on=False,
                gid=f"data-{row}",
            )
            titles[f"data-{row}"] = [f"{s.speaker} ({s.label}): {s.score:.4g}" for s in group]
            axes.text(0.0, row + 0.34, short(names[row]), transform=axes.get_yaxis_transform(), weight="bold")
        if threshold is not None:
            axes.axvline(threshold, color=INK, linestyle="--", linewidth=1)
        axes.set_ylim(-0.4, 1.6)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        what = "mean of a speaker's scores" if mean else "attack's score of a speaker"
        axes.set_xlabel(f"{what} (high: {short(names[-1])})")
    rows = tuple((s.speaker, s.label, s.score, s.decision) for group in groups for s in group)
    return Figure("strip", inline(drawn[0], "strip", label, titles), ("speaker", "label", "score", "decision"), rows)


def distributions(
    groups: Sequence[Sequence[SpeakerScore]],
    names: Sequence[str],
    label: str,
    unit: str = "speaker",
    counted: str = "speakers",
) -> Figure:
    """Draw histograms of the scores of each class, over the same bins.

    Parameters
    ----------
    groups : sequence of sequence of SpeakerScore
        One for each class, the negative one first.
    names : sequence of str
        Of the classes.
    label : str
        For those who do not see it.
    unit : str
        What has a score.
    counted : str
        What is counted.
    """
    values = [np.array([s.score for s in group]) for group in groups]
    edges = np.histogram_bin_edges(np.concatenate(values), bins=min(24, max(8, len(groups[0]) // 3)))
    counts = [np.histogram(mine, edges)[0] for mine in values]
    with drawing(_WIDTH, 2.4, "distributions") as (figure, drawn):
        axes = figure.add_axes((0.13, 0.2, 0.84, 0.6))
        for mine, name, (colour, _), style in zip(counts, names, _MARKS, ("-", "--"), strict=True):
            axes.stairs(mine, edges, color=colour, linestyle=style, linewidth=1.8, label=short(name))
            axes.stairs(mine, edges, color=colour, alpha=0.15, fill=True)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel(f"attack's score of {'an' if unit == 'utterance' else 'a'} {unit}")
        axes.set_ylabel(counted)
        figure.legend(loc="upper left", ncols=2, bbox_to_anchor=(0.08, 1.0))
    rows = zip(edges[:-1].tolist(), edges[1:].tolist(), *(mine.tolist() for mine in counts), strict=True)
    return Figure(
        "distributions", inline(drawn[0], "distributions", label), ("from", "to", *map(str, names)), tuple(rows)
    )


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
    with drawing(_WIDTH, height, name) as (figure, drawn):
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
    with drawing(_WIDTH, 2.9, "rounds") as (figure, drawn):
        axes = figure.add_axes((0.13, 0.17, 0.84, 0.66))
        for (name, values), (colour, marker), style in zip(lines, _MARKS, ("-", "--"), strict=False):
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
    with drawing(_WIDTH, height, name) as (figure, drawn):
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


_NARROW = 0.02
"""Least width of the axis of utility."""


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
    with drawing(_WIDTH, 3.5, name) as (figure, drawn):
        axes = figure.add_axes((0.13, 0.13, 0.84, 0.62))
        for number, (one, (colour, marker)) in enumerate(zip(series, _MARKS, strict=False)):
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


def _dense(fpr: Floats, tpr: Floats) -> tuple[Floats, Floats]:
    """The same curve with points between: what is straight on linear axes bends on a logarithmic one."""
    old = np.arange(len(fpr))
    new = np.linspace(0, len(fpr) - 1, (len(fpr) - 1) * _BETWEEN + 1)
    return np.interp(new, old, fpr), np.interp(new, old, tpr)
