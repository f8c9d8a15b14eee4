"""Several runs on one page, kind by kind: what each found, and in what those of a kind differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fl_privacy.audit import Claim
from fl_privacy.audit.files import read_result
from fl_privacy.audit.reading import TITLES, columns, span
from fl_privacy.config.differences import apart
from fl_privacy.errors import UserError
from fl_privacy.report import figures, inversion, inversion_lookups, sections, words
from fl_privacy.report.notes import Notes, plain_cell
from fl_privacy.report.page import Page, Section, page
from fl_privacy.report.run import PERMUTATIONS, Run, printable
from fl_privacy.report.svg import Figure
from fl_privacy.report.swept import Sweep, plain, short_names

KINDS = {
    "federated-ser": "Federations of speech emotion recognition",
    "speaker-membership": "Speaker membership",
    "ssl-membership": "Membership in self-supervised encoders",
    "speaker-inversion": "Model inversion",
}
"""What runs of each kind are called."""

_LINE = 40
"""Letters that a line of a figure, and a setting beside others, has room for."""

_SETTINGS = 4
"""Settings that stand beside one another; all of them have a table below."""


@dataclass(frozen=True)
class Compared:
    """A run among others.

    Attributes
    ----------
    path : str
        Of its folder, as it was named.
    kind : str
        Of simulation; empty where the result is not of a simulation file.
    settings : mapping of str to str
        What sets it apart from the other runs of its kind.
    run : Run
    """

    path: str
    kind: str
    settings: Mapping[str, str]
    run: Run

    @cached_property
    def inverted(self) -> bool:
        """Whether it is told as an inversion is: by who recognises it."""
        return inversion.is_inversion(self.run)

    @property
    def metric(self) -> str:
        """What is quoted."""
        return "accuracy" if self.inverted else self.run.metric

    @property
    def short_settings(self) -> list[str]:
        """The first few settings, long values cut."""
        names = short_names(list(self.settings))
        told = [
            f"{name}={figures.short(value, _LINE)}" for name, value in zip(names, self.settings.values(), strict=True)
        ]
        return told if len(told) <= _SETTINGS else [*told[:_SETTINGS], f"{len(told) - _SETTINGS} more below"]


def page_of_runs(folders: Sequence[Path]) -> Page:
    """Make a page that lays runs beside one another; the same folders give the same bytes.

    Parameters
    ----------
    folders : sequence of Path
        Run folders, and sweep folders, which stand for their cells.

    Raises
    ------
    UserError
        Where a folder holds neither, or cannot be read.
    """
    runs = read_runs(folders)
    return page(
        f"{words.count(len(runs), 'privacy audit')} compared",
        SECTIONS,
        runs,
        made_from="the runs' results",
        version=runs[0].run.part("versions").get("fl-privacy"),
    )


def read_runs(folders: Sequence[Path]) -> list[Compared]:
    """Read runs, kind by kind.

    Parameters
    ----------
    folders : sequence of Path
        See `page_of_runs`.

    Raises
    ------
    UserError
        With fewer than two, one given twice, or where a folder cannot be read.
    """
    by_kind: dict[str, dict[Path, Run]] = {}
    for path in _run_folders(folders):
        run = Run.of(read_result(path / "result.json"), ())
        kind = str((run.part("simulation").get("simulation") or {}).get("kind") or "")
        of_kind = by_kind.setdefault(kind, {})
        if path in of_kind:
            raise UserError(f"{path} is given twice")
        of_kind[path] = run
    found = []
    for kind, runs in by_kind.items():
        differing = [
            (key, values)
            for key, values in apart([run.part("simulation") for run in runs.values()])
            if key not in _UNTOLD
        ]
        for number, (path, run) in enumerate(runs.items()):
            simulation = run.part("simulation")
            settings = {key: _told(values[number], simulation.get(key)) for key, values in differing}
            found.append(Compared(printable(str(path)), kind, settings, run))
    if len(found) < 2:
        raise UserError("a comparison takes two runs at least")
    return found


_UNTOLD = ("attack", "beside", "capture.keep")
"""Which attacks there are the tables tell, what is beside a run its own report; what it keeps changes no number."""


def _run_folders(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        if (folder / "sweep.json").is_file():
            yield from (folder / cell.path for cell in Sweep.read(folder).distinct)
        else:
            yield folder


def _told(value: Any, whole: Any) -> str:
    """Say a setting's value; of a list of named tables (`whole`) that has others elsewhere, the settings, too."""
    if value is None:
        return "not set"
    if isinstance(whole, list) and all(isinstance(part, Mapping) and "name" in part for part in whole):
        return plain(whole)
    names = isinstance(value, list) and value and all(isinstance(part, str) for part in value)
    return " + ".join(value) if names else plain(value)


def _groups(runs: Sequence[Compared]) -> list[list[Compared]]:
    """Return the runs that a figure or a table can hold beside one another: of a kind, with one metric."""
    keys = dict.fromkeys((run.kind, run.metric) for run in runs)
    return [[run for run in runs if (run.kind, run.metric) == key] for key in keys]


def _title(group: Sequence[Compared], runs: Sequence[Compared]) -> str | None:
    """Return the heading of a group; None where all runs are of one kind."""
    alone = len({run.kind for run in runs}) == 1
    return None if alone else KINDS.get(group[0].kind, group[0].kind or "Other results")


def headline(runs: Sequence[Compared]) -> Mapping[str, Any]:
    """What each run found, in a sentence, with its verdict."""
    rows = []
    for one in runs:
        told = (inversion if one.inverted else sections).headline(one.run)
        rows.append(
            {
                "path": one.path,
                "task": told["task"] or "",
                "found": " ".join(told["measured"] if one.inverted else told["measured"][:1]),
                "utility": words.utility(one.run),
                "kind": told["verdict"].kind,
                "title": told["verdict"].title,
            }
        )
    return {"rows": rows}


def primary(runs: Sequence[Compared]) -> Mapping[str, Any] | None:
    """The primary attack of each run with its interval: a figure for each kind and metric."""
    drawn = []
    for group in _groups(runs):
        rows = [(name, _bars(one)) for name, one in zip(_names(group), group, strict=True)]
        if any(bars for _, bars in rows):
            drawn.append({"title": _title(group, runs), "figure": _intervals(rows, group)})
    return {"drawn": drawn} if drawn else None


def _bars(one: Compared) -> list[figures.Bar]:
    run = one.run
    claim: Claim | None
    blind: Claim | None
    if one.inverted:
        claim, over = (inversion_lookups.primary_claim(run, m) for m in ("accuracy", "accuracy_over_best_blind"))
        best = over.conditions.get("best_blind") if over else None
        blind = claim and inversion_lookups.find_control(
            run, str(best), claim.attack, "accuracy", judge=claim.conditions["judge"]
        )
    else:
        claim, blind = run.quoted(run.primary), run.baseline(run.best_blind, run.metric)
    return [
        figures.Bar(kind, told.value, told.low, told.high)
        for kind, told in (("primary attack", claim), ("best blind baseline", blind))
        if told is not None and told.value is not None
    ]


def _intervals(rows: Sequence[tuple[str, Sequence[figures.Bar]]], group: Sequence[Compared]) -> Figure:
    first = group[0]
    lead = inversion_lookups.primary_claim(first.run) if first.inverted else None
    what = "share recognised" if first.inverted else TITLES[first.metric]
    told = "; ".join(f"{name}: {', '.join(words.number(bar.value) for bar in bars)}" for name, bars in rows)
    return figures.intervals(
        rows,
        ("primary attack", "best blind baseline"),
        f"{what} per {first.run.unit}",
        span(first.metric),
        inversion_lookups.chance_of(lead) if lead else first.run.guessing,
        f"{what} of the primary attack of each run. {told}.",
        name=f"intervals-{first.kind or 'other'}-{first.metric}",
    )


def _names(group: Sequence[Compared]) -> list[str]:
    """Return what tells runs from one another in a line: their settings, or their folders where these are many."""
    told = [", ".join(one.short_settings) for one in group]
    if len(set(told)) == len(told) and all(0 < len(name) <= _LINE for name in told):
        return told
    paths = [one.path for one in group]
    return [path if len(path) <= _LINE else f"\N{HORIZONTAL ELLIPSIS}{path[-_LINE + 1 :]}" for path in paths]


def attacks(runs: Sequence[Compared]) -> Mapping[str, Any]:
    """Every attack of every run that has the numbers of its table: one for each kind and metric."""
    notes = Notes("attacks")
    tables = []
    for group in _groups(runs):
        inverted = group[0].inverted
        heads, rows = (_recognised if inverted else _measured)(group, notes)
        kept = [n for n in range(len(heads)) if any(row["cells"][n]["text"] for of_run in rows for row in of_run)]
        tables.append(
            {
                "title": _title(group, runs),
                "caption": "Share recognised, by judge." if inverted else f"Per {group[0].run.unit}.",
                "heads": [heads[n] for n in kept],
                "runs": [
                    {
                        "path": one.path,
                        "about": ", ".join(one.short_settings),
                        "found": _found(one),
                        "rows": [row | {"cells": [row["cells"][n] for n in kept]} for row in mine],
                    }
                    for one, of_run in zip(group, rows, strict=True)
                    if (mine := [row for row in of_run if any(cell["text"] for cell in row["cells"])])
                ],
            }
        )
    return {"tables": tables, "notes": notes}


def _measured(group: Sequence[Compared], notes: Notes) -> tuple[list[str], list[list[dict[str, Any]]]]:
    """Return the heads of a table, and for each run a row for each attack."""
    shown = list(dict.fromkeys(metric for one in group for metric in columns(one.run.main)))
    rows = []
    for one in group:
        run = one.run
        mine = []
        for name in run.attacks:
            cells = [notes.cell(run.claim(name, metric)) for metric in shown]
            permuted = [run.permuted(name, control) for control in PERMUTATIONS]
            if any(cell["text"] for cell in cells):
                cells += [plain_cell(words.p_value(c.p_value) if c else "") for c in permuted]
                mine.append({"name": name, "primary": name == run.primary, "cells": cells})
        rows.append(mine)
    return [*(TITLES[m] for m in shown), "p, attacker's labels permuted", "p, private labels permuted"], rows


def _recognised(group: Sequence[Compared], notes: Notes) -> tuple[list[str], list[list[dict[str, Any]]]]:
    """Return the heads of a table of inversions, the judges, and for each run a row for each attack."""
    told = {judge for one in group for judge in inversion_lookups.judges_of(one.run)}
    judges = [judge for judge in inversion_lookups.GIVEN if judge in told]
    rows = []
    for one in group:
        lead = inversion_lookups.primary_claim(one.run)
        rows.append(
            [
                {
                    "name": name,
                    "primary": lead is not None and name == lead.attack,
                    "cells": [
                        notes.cell(inversion_lookups.find_claim(one.run, name, "accuracy", judge=judge))
                        for judge in judges
                    ],
                }
                for name in inversion_lookups.attacks_of(one.run)
            ]
        )
    return judges, rows


def _found(one: Compared) -> str:
    """Say in a line what a run's primary attack shows, what it is held against, and what the model is good for."""
    run, found = one.run, inversion.verdict(one.run) if one.inverted else words.verdict(one.run)
    told = [f"leak {found.kind}"]
    if not one.inverted and run.best_blind is not None:
        control = run.baseline(run.best_blind, run.metric)
        told.append(f"best blind {run.best_blind} {words.number(control.value) if control else ''}".strip())
    useful = words.utility(run)
    return "; ".join([*told, *([useful] if useful else [])])


def differing(runs: Sequence[Compared]) -> Mapping[str, Any] | None:
    """In which settings the runs of a kind differ."""
    tables = []
    for kind in dict.fromkeys(run.kind for run in runs):
        group = [run for run in runs if run.kind == kind]
        if group[0].settings:
            tables.append(
                {
                    "title": _title(group, runs),
                    "heads": [one.path for one in group],
                    "rows": [(key, [one.settings[key] for one in group]) for key in group[0].settings],
                }
            )
    return {"tables": tables} if tables else None


def threat(runs: Sequence[Compared]) -> Mapping[str, Any] | None:
    """Who attacks, and what they see and own."""
    told = dict.fromkeys(str(one.run.part("threat_model").get("words") or "") for one in runs)
    found = [text for text in told if text]
    return {"words": found} if found else None


SECTIONS = (
    Section("result", "Result", "compare-headline.html.j2", headline),
    Section("primary", "Primary attacks", "compare-primary.html.j2", primary),
    Section("attacks", "All runs and attacks", "compare-attacks.html.j2", attacks),
    Section("settings", "Settings that differ", "compare-settings.html.j2", differing),
    Section("threat-model", "Threat models", "sweep-threat.html.j2", threat),
)
"""In the order of the page."""
