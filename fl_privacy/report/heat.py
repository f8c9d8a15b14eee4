"""Heat maps of a sweep: the quoted number of every attack under every condition, two axes a map."""

from __future__ import annotations

import itertools
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fl_privacy.audit.reading import TITLES, span
from fl_privacy.report.notes import Notes
from fl_privacy.report.swept import Swept, in_words, plain, short_names

LOW, MIDDLE, HIGH = "#0072b2", "#f5f5f5", "#c75200"
"""Below guessing, at it, above it: blue and orange differ for every kind of colour vision."""


@dataclass(frozen=True)
class Axis:
    """What varies along one side of a map.

    Attributes
    ----------
    title : str
    keys : tuple of str
        Settings that change together; none for the axis of attacks.
    values : tuple
        In the order of the sweep.
    labels : tuple of str
        Of the values.
    """

    title: str
    keys: tuple[str, ...]
    values: tuple[Hashable, ...]
    labels: tuple[str, ...]

    def place(self, cell: Swept, attack: str) -> Hashable:
        """Return the value that an attack in a cell has on this axis."""
        return _value(cell, self.keys) if self.keys else attack


@dataclass(frozen=True)
class HeatMap:
    """One map.

    Attributes
    ----------
    metric : str
        What its numbers are.
    at : tuple of str
        What holds in all of it.
    rows : Axis
    columns : Axis or None
        None where nothing else varies.
    cells : list of list of dict
        For each row: text, span, note and colours.
    """

    metric: str
    at: tuple[str, ...]
    rows: Axis
    columns: Axis | None
    cells: list[list[dict[str, Any]]]


def maps(cells: Sequence[Swept], notes: Notes) -> list[HeatMap]:
    """Lay out a grid as maps.

    Rows are the attacks where there are several, columns the axis with the most values; other axes give several maps.
    Cells that quote different metrics (an attribute of two classes, a numeric one) never share a map.

    Parameters
    ----------
    cells : sequence of Swept
        Of one grid.
    notes : Notes
        Takes the reasons of what is unresolved.
    """
    found = []
    for metric in dict.fromkeys(cell.run.metric for cell in cells):
        found += _of_metric([cell for cell in cells if cell.run.metric == metric], metric, notes)
    return found


def _of_metric(cells: Sequence[Swept], metric: str, notes: Notes) -> list[HeatMap]:
    attacks = tuple(dict.fromkeys(attack for cell in cells for attack in cell.run.attacks))
    by_attack = Axis("attack", (), attacks, attacks)
    varied = axes(cells)
    # Of equally long axes the one that is named last goes along the columns.
    longest = sorted(varied, key=lambda axis: (-len(axis.values), -varied.index(axis)))
    columns = longest[0] if longest else None
    if len(attacks) > 1 or len(varied) < 2:
        rows, others = by_attack, [axis for axis in varied if axis is not columns]
    else:
        rows = next(axis for axis in longest if axis is not columns)
        others = [axis for axis in varied if axis is not columns and axis is not rows]
    same = {key: value for key, value in cells[0].settings.items() if len({_value(c, (key,)) for c in cells}) == 1}
    found = []
    for point in itertools.product(*(range(len(axis.values)) for axis in others)):
        at = [f"{axis.title}={axis.labels[n]}" for axis, n in zip(others, point, strict=True)]
        inside = [c for c in cells if all(a.place(c, "") == a.values[n] for a, n in zip(others, point, strict=True))]
        placed = {
            (rows.place(cell, attack), columns.place(cell, attack) if columns else None): (cell, attack)
            for cell in inside
            for attack in cell.run.attacks
        }
        across = columns.values if columns else (None,)
        grid = [[_shown(placed.get((row, column)), metric, notes) for column in across] for row in rows.values]
        alone = [f"attack={attacks[0]}"] if rows is not by_attack else []
        found.append(HeatMap(TITLES[metric], (*at, *in_words(same), *alone), rows, columns, grid))
    return found


def axes(cells: Sequence[Swept]) -> list[Axis]:
    """Return what varies among cells; settings that change together, one value with one, are one axis."""
    keys = [key for key in cells[0].settings if len({_value(cell, (key,)) for cell in cells}) > 1]
    joined: list[list[str]] = []
    for key in keys:
        partner = next((held for held in joined if _together(cells, held[0], key)), None)
        if partner is None:
            joined.append([key])
        else:
            partner.append(key)
    found = []
    for group in joined:
        told = {_value(c, tuple(group)): " + ".join(plain(c.settings[key]) for key in group) for c in cells}
        title = " + ".join(short_names(group))
        found.append(Axis(title, tuple(group), tuple(told), tuple(told.values())))
    return found


def _together(cells: Sequence[Swept], one: str, other: str) -> bool:
    pairs = {_value(cell, (one, other)) for cell in cells}
    return len(pairs) == len({first for first, _ in pairs}) == len({second for _, second in pairs})


def _value(cell: Swept, keys: Sequence[str]) -> tuple[str, ...]:
    # As text: a value may be a list or a table.
    return tuple(json.dumps(cell.settings.get(key), sort_keys=True) for key in keys)


def _shown(placed: tuple[Swept, str] | None, metric: str, notes: Notes) -> dict[str, Any]:
    if placed is None:
        return {"text": "not run", "span": "", "note": None, "style": None}
    cell, attack = placed
    claim = cell.run.quoted(attack)
    if claim is None or claim.value is None:
        reason = claim.reason if claim else f"the result holds no {TITLES[metric]} of this attack"
        return {"text": "unresolved", "span": "", "note": notes.of(reason), "style": None}
    ground = colour(claim.value, cell.run.guessing or 0.0, span(metric)[0])
    return {**notes.cell(claim), "style": f"background:{ground};color:{ink_on(ground)}"}


def scale(metric: str, guessing: float | None) -> Mapping[str, Any]:
    """Return what a legend shows of a metric: its ends, what guessing gets, and the colours between."""
    least, middle = span(metric)[0], guessing or 0.0
    where = (middle - least) / (1.0 - least)
    return {
        "metric": TITLES[metric],
        "least": f"{least:g}".replace("-", "\N{MINUS SIGN}"),
        "guessing": None if guessing is None else f"{guessing:.3g}",
        "style": f"background:linear-gradient(to right,{LOW},{MIDDLE} {100 * where:.4g}%,{HIGH})",
    }


def colour(value: float, middle: float, least: float) -> str:
    """Return the ground of a value between `least` and 1: the further from `middle`, the stronger."""
    side = (value - middle) / ((1.0 - middle) if value >= middle else (middle - least))
    end = _parts(HIGH if side >= 0 else LOW)
    share = min(abs(side), 1.0)
    mixed = (round(a + share * (b - a)) for a, b in zip(_parts(MIDDLE), end, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def ink_on(ground: str) -> str:
    """Return black or white, whichever has the higher contrast on a ground: by WCAG's formula, at least 4.58."""
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in (n / 255 for n in _parts(ground))]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (luminance + 0.05) ** 2 >= 0.05 * 1.05 else "#ffffff"


def _parts(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue
