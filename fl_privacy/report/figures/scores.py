"""Figures of speakers' scores: how far two kinds lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fl_privacy.report.figures._looks import MARKS, WIDTH, short
from fl_privacy.report.rows import Floats, SpeakerScore
from fl_privacy.report.svg import FAINT, FIRST, INK, THIRD, Figure, drawing, inline

_BETWEEN = 10
"""Points between two of a curve on a logarithmic axis."""


@dataclass(frozen=True)
class Curve:
    """A ROC: its name, its rates, and the AUC that goes with it in the legend."""

    name: str
    fpr: Floats
    tpr: Floats
    auc: float | None


def roc(curves: Sequence[Curve], n_negative: int, label: str, log: bool) -> Figure:
    """Draw ROCs on linear axes, or with a logarithmic axis of false positive rates.

    Parameters
    ----------
    curves : sequence of Curve
        The attack, then what it is held against; of very many points, some are drawn.
    n_negative : int
        Negative speakers: a rate below one of them cannot be told from zero.
    label : str
        For those who do not see it.
    log : bool
    """
    curves = [Curve(curve.name, *thinned(curve.fpr, curve.tpr), curve.auc) for curve in curves]
    name = "roc-log" if log else "roc"
    floor = 0.5 / n_negative
    with drawing(WIDTH, 4.5, name) as (figure, drawn):
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


def thinned(fpr: Floats, tpr: Floats, most: int = 2000) -> tuple[Floats, Floats]:
    """Return a ROC with fewer points where there are more than `most`: the corners, and of too many some.

    Low false positive rates, where a logarithmic axis looks, keep more of theirs.

    Parameters
    ----------
    fpr, tpr : ndarray, shape (n,)
    most : int
    """
    if fpr.size <= most:
        return fpr, tpr
    across, up = np.diff(fpr), np.diff(tpr)
    corner = np.flatnonzero(across[:-1] * up[1:] != across[1:] * up[:-1]) + 1
    kept = np.concatenate([[0], corner, [fpr.size - 1]])
    if kept.size > most:
        last = kept.size - 1
        even, low = np.linspace(0, last, most // 2), np.geomspace(1, last, most // 2)
        kept = kept[np.unique(np.concatenate([even, low]).round().astype(np.int64))]
    return fpr[kept], tpr[kept]


def _dense(fpr: Floats, tpr: Floats) -> tuple[Floats, Floats]:
    """The same curve with points between: what is straight on linear axes bends on a logarithmic one."""
    old = np.arange(len(fpr))
    new = np.linspace(0, len(fpr) - 1, (len(fpr) - 1) * _BETWEEN + 1)
    return np.interp(new, old, fpr), np.interp(new, old, tpr)


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
    with drawing(WIDTH, 2.5, "strip") as (figure, drawn):
        axes = figure.add_axes((0.05, 0.2, 0.92, 0.74))
        for row, (group, (colour, marker)) in enumerate(zip(groups, MARKS, strict=True)):
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
    with drawing(WIDTH, 2.4, "distributions") as (figure, drawn):
        axes = figure.add_axes((0.13, 0.2, 0.84, 0.6))
        for mine, name, (colour, _), style in zip(counts, names, MARKS, ("-", "--"), strict=True):
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
