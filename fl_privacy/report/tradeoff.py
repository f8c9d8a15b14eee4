"""Utility against leakage over the cells of a sweep, for attackers that do and do not know the defense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fl_privacy.audit import Claim
from fl_privacy.audit.reading import SIGNED, STATIC, TITLES
from fl_privacy.report import epsilon, figures, words
from fl_privacy.report.notes import Notes
from fl_privacy.report.run import Run
from fl_privacy.report.swept import Sweep, Swept, in_words


@dataclass(frozen=True)
class Point:
    """One cell.

    Attributes
    ----------
    cell : Swept
    utility : float or None
        UAR of the task, of held-out speakers; see `Run.useful`.
    adaptive, static : Claim or None
        The quoted claim of the primary attack, knowing the defense or not. Without a defense they are the same.
    best : bool
        Whether no other cell of its group is as good in both and better in one: in the Pareto set of utility and
        leakage.
    """

    cell: Swept
    utility: float | None
    adaptive: Claim | None
    static: Claim | None
    best: bool = False

    @property
    def leakage(self) -> float | None:
        """The larger of both numbers: who knows a defense may still act as if not, and at times had better."""
        found = [claim.value for claim in (self.adaptive, self.static) if claim is not None and claim.value is not None]
        return max(found, default=None)

    @property
    def defense(self) -> str | None:
        """The defense's name; None without one."""
        claim = self.adaptive or self.static
        return claim.defense if claim else None


@dataclass(frozen=True)
class Group:
    """Cells that differ in their defense alone: only these are held against one another.

    Attributes
    ----------
    metric : str
        That is quoted of them.
    guessing : float or None
        What guessing gets of it.
    settings : tuple of str
        What they have in common, of that which the sweep varies.
    points : tuple of Point
    utility : str
        What it is that the points have of utility.
    """

    metric: str
    guessing: float | None
    settings: tuple[str, ...]
    points: tuple[Point, ...]
    utility: str = "UAR"


def pareto(utility: Sequence[float], leakage: Sequence[float]) -> list[bool]:
    """Tell the Pareto set: of which no other has as much utility and as little leakage, and more of one or less.

    Parameters
    ----------
    utility, leakage : sequence of float, shape (n,)

    Returns
    -------
    list of bool, shape (n,)
        Equal pairs are in it together, or out of it.
    """
    found = [False] * len(utility)
    least, at = float("inf"), float("nan")
    for i in sorted(range(len(utility)), key=lambda i: (-utility[i], leakage[i])):
        if leakage[i] < least:
            least, at = leakage[i], utility[i]
            found[i] = True
        elif leakage[i] == least and utility[i] == at:
            found[i] = True
    return found


def pair(run: Run) -> tuple[Claim | None, Claim | None]:
    """Return the quoted claim of the primary attack that knows the defense, and of its variant that does not."""
    name = (run.primary or "").removesuffix(STATIC)
    knowing, plain = run.quoted(name), run.quoted(name + STATIC)
    if knowing is not None and plain is None and knowing.defense is None:
        return knowing, knowing
    return knowing, plain


def groups(sweep: Sweep) -> list[Group]:
    """Gather the cells that can be compared, and mark the Pareto sets; none where no cell has a defense."""
    points = [Point(cell, cell.run.useful[1], *pair(cell.run)) for cell in sweep.distinct]
    if not any(point.defense or (point.static and point.static is not point.adaptive) for point in points):
        return []
    gathered: dict[tuple[str, tuple[str, ...]], list[Point]] = {}
    for point in points:
        rest = {k: v for k, v in point.cell.settings.items() if not _of_defense(k)}
        gathered.setdefault((point.cell.run.metric, tuple(in_words(rest))), []).append(point)
    return [
        Group(
            metric,
            mine[0].cell.run.guessing,
            settings,
            tuple(_marked(mine, mine[0].cell.run.guessing)),
            mine[0].cell.run.useful[0],
        )
        for (metric, settings), mine in gathered.items()
    ]


def marks(sweep: Sweep) -> dict[str, bool]:
    """Return of each cell, by its path, whether it is in the Pareto set of its group."""
    return {point.cell.path: point.best for group in groups(sweep) for point in group.points}


def tradeoff(sweep: Sweep) -> Mapping[str, Any] | None:
    """The curves, and the table of all cells with the Pareto sets marked."""
    found, notes = groups(sweep), Notes("tradeoff")
    if not found:
        return None
    shown = []
    for number, group in enumerate(found):
        name, title = TITLES[group.metric], ", ".join(group.settings)
        unit = " or ".join(dict.fromkeys(point.cell.run.unit for point in group.points))
        drawable = [point for point in group.points if _drawable(point)]
        rows = [_row(point, notes) for point in sorted(group.points, key=lambda point: -(point.utility or 0.0))]
        figure = None
        if drawable:
            told = "; ".join(f"{_named(point)}: {words.number(point.utility)}, {_both(point)}" for point in drawable)
            who = "of an attacker that knows the defense and of one that "
            label = f"{name} per {unit} over the task's {group.utility}, {who}"
            figure = figures.tradeoff(
                f"tradeoff-{number}",
                [_series(drawable, "adaptive"), _series(drawable, "static")],
                sorted(_at(point) for point in drawable if point.best),
                name,
                group.guessing,
                f"{label}does not. {told}.",
                signed=group.metric in SIGNED,
                utility=group.utility,
                unit=unit,
            )
        shown.append(
            {"title": title, "metric": name, "unit": unit, "utility": group.utility, "figure": figure, "rows": rows}
        )
    confidence = next((p.adaptive.confidence for g in found for p in g.points if p.adaptive), None)
    return {"groups": shown, "notes": notes, "confidence": confidence}


# ------------------------------------------------------------------ parts


def _marked(points: Sequence[Point], guessing: float | None) -> list[Point]:
    """Mark the Pareto set among the points that have both numbers."""
    whole = [i for i, p in enumerate(points) if p.utility is not None and p.leakage is not None]
    utility = [points[i].utility or 0.0 for i in whole]
    # Below guessing is no better than guessing: such a value is chance, and tells of no protection.
    leaks = [max(points[i].leakage or 0.0, guessing if guessing is not None else -1.0) for i in whole]
    best = {i for i, inside in zip(whole, pareto(utility, leaks), strict=True) if inside}
    return [Point(p.cell, p.utility, p.adaptive, p.static, i in best) for i, p in enumerate(points)]


def _at(point: Point) -> tuple[float, float]:
    assert point.utility is not None
    assert point.leakage is not None
    return point.utility, point.leakage


def _drawable(point: Point) -> bool:
    return point.utility is not None and any(
        c is not None and c.value is not None for c in (point.adaptive, point.static)
    )


def _series(points: Sequence[Point], which: str) -> figures.Scatter:
    marks = []
    for point in points:
        claim: Claim | None = getattr(point, which)
        if claim is not None and claim.value is not None and point.utility is not None:
            marks.append((point.utility, claim.value, claim.low, claim.high, _named(point)))
    return figures.Scatter({"adaptive": "knows the defense", "static": "does not know it"}[which], tuple(marks))


def _row(point: Point, notes: Notes) -> Mapping[str, Any]:
    run = point.cell.run
    return {
        "name": _named(point),
        "path": point.cell.path,
        "utility": "" if point.utility is None else words.number(point.utility),
        "cells": [notes.cell(point.adaptive), notes.cell(point.static)],
        "epsilons": [f"{p.unit}: {epsilon.upper(p)}" for p in run.privacy],
        "lower": [f"{p.unit}: {epsilon.lower(p)}" for p in run.privacy],
        "best": point.best,
    }


def _named(point: Point) -> str:
    own = {k: v for k, v in point.cell.settings.items() if _of_defense(k)}
    return ", ".join(in_words(own)) or point.defense or "no defense"


def _of_defense(key: str) -> bool:
    """Whether a setting says how a target is defended: frame encoders have it beside their training."""
    return key.split(".")[0] == "defense" or key.startswith("target.dp")


def _both(point: Point) -> str:
    told = [("adaptive", point.adaptive), ("static", point.static)]
    return ", ".join(f"{name} {words.number(claim.value)}" for name, claim in told if claim is not None)
