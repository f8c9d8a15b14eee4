"""The figures of an inversion: waves and spectrograms beside a real recording, and the picture of d-vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fl_privacy.report.svg import FAINT, FIRST, INK, SECOND, Figure, drawing, inline

_WIDTH = 4.0


@dataclass(frozen=True)
class Shown:
    """One wave of a figure.

    Attributes
    ----------
    name : str
    low, high : sequence of float
        Least and greatest sample of each stretch.
    spectrum : sequence of sequence of float
        Log-mel energies (bands, frames).
    seconds : float
    """

    name: str
    low: Sequence[float]
    high: Sequence[float]
    spectrum: Sequence[Sequence[float]]
    seconds: float


def waves(name: str, shown: Sequence[Shown], label: str) -> Figure:
    """Draw each wave above its spectrogram; its table is of the waves, which spectrograms are made of.

    Parameters
    ----------
    name : str
        Prefix of the figure's ids.
    shown : sequence of Shown
    label : str
        For those who do not see it.
    """
    height = 1.55 * len(shown) + 0.35
    with drawing(_WIDTH, height, name) as (figure, drawn):
        for row, one in enumerate(shown):
            top = 1 - (1.55 * row + 0.2) / height
            wave = figure.add_axes((0.12, top - 0.42 / height, 0.81, 0.42 / height))
            across = np.linspace(0, one.seconds, len(one.low))
            peak = max(float(np.abs([*one.low, *one.high]).max()), 1e-9)
            wave.fill_between(across, np.divide(one.low, peak), np.divide(one.high, peak), color=FIRST, linewidth=0)
            wave.set_xlim(0, one.seconds)
            wave.set_ylim(-1.05, 1.05)
            wave.set_xticks([])
            wave.set_yticks([])
            wave.set_title(one.name, loc="left", fontsize=9, pad=2)
            below = figure.add_axes((0.12, top - 1.2 / height, 0.81, 0.72 / height))
            values = np.asarray(one.spectrum, dtype=np.float64)
            ends = np.quantile(values, [0.02, 0.99])
            levels = np.linspace(ends[0], max(ends[1], ends[0] + 1e-6), 8)
            frames = np.linspace(0, one.seconds, values.shape[1])
            below.contourf(frames, np.arange(values.shape[0]), values, levels=levels, cmap="Greys", extend="both")
            below.set_yticks([0, values.shape[0] - 1], ["0", "8 kHz"])
            if row < len(shown) - 1:
                below.set_xticks([])
            else:
                below.set_xlabel("seconds")
    rows = [
        (one.name, float(at), low, high)
        for one in shown
        for at, low, high in zip(np.linspace(0, one.seconds, len(one.low)), one.low, one.high, strict=True)
    ]
    return Figure(name, inline(drawn[0], name, label), ("name", "seconds", "low", "high"), tuple(rows))


def picture(groups: Sequence[tuple[str, ArrayLike]], inverted: Sequence[tuple[str, ArrayLike]], label: str) -> Figure:
    """Draw d-vectors on two principal axes: real ones small, inverted ones large.

    Parameters
    ----------
    groups, inverted : sequence of (name, points)
        Two each at most, of one label each; points of shape (n, 2).
    label : str
        For those who do not see it.
    """
    looks = ((FIRST, "o"), (SECOND, "^"))
    with drawing(_WIDTH, 3.7, "pca") as (figure, drawn):
        axes = figure.add_axes((0.06, 0.1, 0.9, 0.7))
        axes.axhline(0, color=FAINT, linewidth=0.8)
        axes.axvline(0, color=FAINT, linewidth=0.8)
        for (name, points), (colour, marker) in zip(groups, looks, strict=False):
            held = np.asarray(points, dtype=np.float64).reshape(-1, 2)
            axes.plot(
                held[:, 0],
                held[:, 1],
                linestyle="none",
                marker=marker,
                markersize=3,
                color=colour,
                alpha=0.35,
                markeredgewidth=0,
                label=f"{name}, real voices of other people",
            )
        for number, ((name, points), (colour, marker)) in enumerate(zip(inverted, looks, strict=False)):
            held = np.asarray(points, dtype=np.float64).reshape(-1, 2)
            axes.plot(
                held[:, 0],
                held[:, 1],
                linestyle="none",
                marker=marker,
                markersize=7,
                color=colour,
                markeredgecolor=INK,
                markeredgewidth=0.6,
                label=f"{name}, inverted",
                gid=f"data-{number}",
            )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel("first principal axis")
        axes.set_ylabel("second")
        figure.legend(loc="upper left", ncols=2, bbox_to_anchor=(0.02, 1.0), columnspacing=0.8, fontsize=7)
    rows = [
        (name, kind, *map(float, point))
        for kind, held in (("real", groups), ("inverted", inverted))
        for name, points in held
        for point in np.asarray(points, dtype=np.float64).reshape(-1, 2)
    ]
    return Figure("pca", inline(drawn[0], "pca", label), ("label", "kind", "first", "second"), tuple(rows))
