"""Several runs on one page: what each found, and in what they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fl_privacy.audit.reading import SIGNED, TITLES
from fl_privacy.errors import UserError
from fl_privacy.report import figures, sweep, words
from fl_privacy.report.files import read_result
from fl_privacy.report.page import Page, Section, page
from fl_privacy.report.run import Run, printable
from fl_privacy.report.svg import Figure
from fl_privacy.report.swept import Sweep, Swept, in_words


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
        f"{words.count(len(runs.distinct), 'privacy audit')} compared",
        SECTIONS,
        runs,
        made_from="the runs' results",
        version=runs.distinct[0].run.part("versions").get("fl-privacy"),
    )


def read_runs(folders: Sequence[Path]) -> Sweep:
    """Read runs as the cells of one sweep, whose settings are those in which they differ.

    Raises
    ------
    UserError
        With fewer than two, one given twice, or where a folder cannot be read.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        is_sweep = (folder / "sweep.json").is_file()
        mine = [folder / cell.path for cell in Sweep.read(folder).distinct] if is_sweep else [folder]
        for path in mine:
            if path in found:
                raise UserError(f"{path} is given twice")
            found[path] = Run.of(read_result(path / "result.json"), ())
    if len(found) < 2:
        raise UserError("a comparison takes two runs at least")
    told = {path: dict(_flat(run.part("simulation"))) for path, run in found.items()}
    keys = list(dict.fromkeys(key for settings in told.values() for key in settings))
    if len({settings.get("simulation.kind") for settings in told.values()}) > 1:  # which have other settings altogether
        keys = [key for key in keys if all(key in settings for settings in told.values())]
    differing = [key for key in keys if len({repr(settings.get(key)) for settings in told.values()}) > 1]
    cells = [
        Swept(
            0,
            printable({key: told[path][key] for key in differing if key in told[path]}),
            tuple(sorted({seed for claim in run.claims for seed in claim.seeds})),
            printable(str(path)),
            run,
        )
        for path, run in found.items()
    ]
    return Sweep(Path(), tuple(cells))


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


_LINE = 40
"""Letters that a line of the figure has room for."""


def headline(runs: Sweep) -> Mapping[str, Any]:
    """What each run found, in a sentence, with its verdict."""
    rows = []
    for cell in runs.distinct:
        run, verdict = cell.run, words.verdict(cell.run)
        measured = words.measured(run)[:1] if run.primary else []
        rows.append(
            {
                "path": cell.path,
                "task": words.task(run) if run.primary else "",
                "found": " ".join(measured),
                "utility": words.utility(run),
                "kind": verdict.kind,
                "title": verdict.title,
            }
        )
    return {"rows": rows}


def primary(runs: Sweep) -> Mapping[str, Any] | None:
    """The primary attack of each run with its interval: a figure for each metric."""
    drawn: list[Figure] = []
    for metric in dict.fromkeys(cell.run.metric for cell in runs.distinct):
        mine = [cell for cell in runs.distinct if cell.run.metric == metric]
        rows = []
        for name, cell in zip(_names(mine), mine, strict=True):
            claim = cell.run.quoted(cell.run.primary)
            blind = cell.run.baseline(cell.run.best_blind, metric)
            bars = [
                figures.Bar(kind, told.value, told.low, told.high)
                for kind, told in (("primary attack", claim), ("best blind baseline", blind))
                if told is not None and told.value is not None
            ]
            rows.append((name, bars))
        if any(bars for _, bars in rows):
            span = (-1.0, 1.0) if metric in SIGNED else (0.0, 1.0)
            told = "; ".join(f"{name}: {', '.join(words.number(bar.value) for bar in bars)}" for name, bars in rows)
            drawn.append(
                figures.intervals(
                    rows,
                    ("primary attack", "best blind baseline"),
                    f"{TITLES[metric]} per speaker",
                    span,
                    mine[0].run.guessing,
                    f"{TITLES[metric]} of the primary attack of each run. {told}.",
                    name=f"intervals-{metric}",
                )
            )
    return {"figures": drawn} if drawn else None


def _names(cells: Sequence[Swept]) -> list[str]:
    """Return what tells runs from one another in a line: their settings, or their folders where these are many."""
    told = [", ".join(in_words(cell.settings)) for cell in cells]
    if all(0 < len(name) <= _LINE for name in told):
        return told
    paths = [cell.path for cell in cells]
    return [path if len(path) <= _LINE else f"\N{HORIZONTAL ELLIPSIS}{path[-_LINE + 1 :]}" for path in paths]


SECTIONS = (
    Section("result", "Result", "compare-headline.html.j2", headline),
    Section("primary", "Primary attacks", "compare-primary.html.j2", primary),
    Section("cells", "All runs and attacks", "sweep-cells.html.j2", sweep.cells),
    Section("threat-model", "Threat models", "sweep-threat.html.j2", sweep.threat),
)
"""In the order of the page."""
