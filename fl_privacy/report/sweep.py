"""From a sweep's folder to a page: heat maps, every cell and attack, and the best of them told for what it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_privacy.audit import Claim, Estimate
from fl_privacy.audit.files import read_units
from fl_privacy.audit.reading import TITLES, columns
from fl_privacy.report import heat, tradeoff, words
from fl_privacy.report.notes import Notes
from fl_privacy.report.page import Page, Section, page, write_page
from fl_privacy.report.rows import swapped_audit
from fl_privacy.report.run import PERMUTATIONS, Run, printable
from fl_privacy.report.swept import Sweep, Swept, in_words, short_names


def write_sweep_report(root: Path) -> Path:
    """Write a sweep folder's report.html from its sweep.json and its cells' results, whole or not at all.

    Parameters
    ----------
    root : Path
        What `fl_privacy.sims.sweep.sweep` has written.

    Returns
    -------
    Path
        Of the report.

    Raises
    ------
    UserError
        Where the folder has no sweep, or a file of it cannot be read.
    """
    return write_page(Path(root) / "report.html", page_of_sweep(Path(root)).text)


def page_of_sweep(root: Path) -> Page:
    """Make the page of a sweep's folder; the same folder gives the same bytes."""
    sweep = Sweep.read(root)
    attributes = sorted({claim.attribute or "an attribute" for _, claim in sweep.quoted()})
    cells = words.count(len(sweep.distinct), "condition")
    versions = sweep.distinct[0].run.part("versions") if sweep.distinct else {}
    return page(
        f"Privacy sweep: {' and '.join(attributes) or 'nothing'} under {cells}",
        SECTIONS,
        sweep,
        made_from="sweep.json and the cells' results",
        version=versions.get("fl-privacy"),
    )


@dataclass(frozen=True)
class Best:
    """The highest of all quoted numbers of one metric, picked after the run.

    Attributes
    ----------
    cell : Swept
    claim : Claim
        With its own interval, which says nothing of a best.
    among : int
        Cells times attacks that it is the best of.
    equals : int
        Others with the same value.
    low, high : float or None
        Ends of the interval that allows for the choice: with Bonferroni's correction all `among` intervals hold at once
        with the claim's confidence, so the chosen one does.
    reason : str or None
        Why there is no such interval.
    """

    cell: Swept
    claim: Claim
    among: int
    equals: int
    low: float | None
    high: float | None
    reason: str | None


def best_of(sweep: Sweep, metric: str) -> Best | None:
    """Return the best of all cells and attacks, None where none has a value."""
    found = [(cell, claim) for cell, claim in sweep.quoted() if claim.metric == metric]
    valued = [(cell, claim) for cell, claim in found if claim.value is not None]
    if not valued:
        return None
    cell, claim = max(valued, key=lambda pair: pair[1].value or 0.0)
    equals = sum(other.value == claim.value for _, other in valued) - 1
    try:
        low, high = _corrected(sweep, cell, claim, len(found))
    except ValueError as error:
        return Best(cell, claim, len(found), equals, None, None, str(error))
    return Best(cell, claim, len(found), equals, low, high, None)


def _corrected(sweep: Sweep, cell: Swept, claim: Claim, among: int) -> tuple[float, float]:
    if claim.low is None or claim.confidence is None:
        raise ValueError(claim.reason or "the claim has no interval")
    rows = sweep.scores(cell)
    run, confidence = Run.of(cell.run.result, rows), 1 - (1 - claim.confidence) / among
    if run.targets and run.classes is not None:
        found: Estimate | None = swapped_audit(run.scores[claim.attack], run.classes[1], confidence).auc()
    else:
        mine = [row for row in rows if row["attack"] == claim.attack]
        audits = read_units(mine, positive=run.classes and run.classes[1], confidence=confidence)
        found = audits[claim.attack].headline_estimate() if audits else None
    if found is None or found.value is None or not math.isclose(found.value, claim.value or 0.0, abs_tol=1e-9):
        raise ValueError("scores.csv does not hold the scores behind the claim")
    if found.low is None or found.high is None:
        raise ValueError(found.reason or "there is none")
    return found.low, found.high


def _unit(cells: Iterable[Swept]) -> str:
    """What the quoted numbers of cells are of."""
    return " or ".join(dict.fromkeys(cell.run.unit for cell in cells)) or "speaker"


# ------------------------------------------------------------------ sections


def headline(sweep: Sweep) -> Mapping[str, Any]:
    """What was run, how the attack declared first did, and the best of all."""
    keys = list(dict.fromkeys(key for cell in sweep.cells for key in cell.settings))
    names = ", ".join(short_names(keys)) or "nothing"
    attacks = list(dict.fromkeys(attack for cell in sweep.distinct for attack in cell.run.attacks))
    seeds = {len(cell.seeds) for cell in sweep.distinct}
    merged = "one seed" if seeds == {1} else f"{' or '.join(map(str, sorted(seeds)))} seeds merged by speaker"
    conditions = words.count(len(sweep.distinct), "condition")
    what = f"{conditions} ({names}), {words.count(len(attacks), 'attack')} each, {merged}."
    found = []
    for metric in dict.fromkeys(cell.run.metric for cell in sweep.distinct):
        best = best_of(sweep, metric)
        if best is not None:
            found.append({"declared": _declared(sweep, metric), "best": _chosen(best), "metric": TITLES[metric]})
    return {"what": what, "found": found}


def _declared(sweep: Sweep, metric: str) -> str:
    """Say between which values the primary attack lies."""
    mine = [
        (claim.value, cell)
        for cell, claim in sweep.quoted()
        if claim.metric == metric and claim.attack == cell.run.primary and claim.value is not None
    ]
    names = " or ".join(dict.fromkeys(str(c.run.primary) for c in sweep.distinct if c.run.metric == metric))
    if not mine:
        return f"Declared before the run: {names}. Its {TITLES[metric]} is unresolved under every condition."
    (least, low), (most, high) = min(mine, key=lambda m: m[0]), max(mine, key=lambda m: m[0])
    kinds = [words.verdict(cell.run).kind for _, cell in mine]
    told = ", ".join(f"{kind} in {kinds.count(kind)}" for kind in dict.fromkeys(sorted(kinds)))
    at_least, at_most = f"{words.number(least)}{_where(low)}", f"{words.number(most)}{_where(high)}"
    lies = f"is {at_least}" if low is high else f"lies between {at_least} and {at_most}"
    whose = f"Declared before the run: {names}. Its {TITLES[metric]} per {_unit(cell for _, cell in mine)} {lies}."
    return f"{whose} A leak is {told} of {words.count(len(mine), 'condition')}."


def _chosen(best: Best) -> list[str]:
    claim, metric = best.claim, TITLES[best.claim.metric]
    others = f" ({best.equals} more have the same value)" if best.equals else ""
    who = f"{metric} {words.number(claim.value)} by {claim.attack}{_where(best.cell)}{others}"
    found = [f"Best of {best.among}: {who}. It was picked after the run, so its own interval is too narrow."]
    if best.low is None or best.high is None:
        return [*found, f"There is no interval that allows for the choice: {best.reason}."]
    guessing = best.cell.run.guessing
    above = guessing is not None and best.low > guessing
    shows = (
        "lies above guessing (what it adds to the best blind baseline stands in the table)"
        if above
        else "does not show that any of them does better than guessing"
    )
    span = f"the {words.percent(claim.confidence)} interval is {words.number(best.low)} to {words.number(best.high)}"
    return [*found, f"Corrected jointly over all {best.among} (Bonferroni), {span}, which {shows}."]


def _where(cell: Swept) -> str:
    told = ", ".join(in_words(cell.settings))
    return f" ({told})" if told else ""


def maps(sweep: Sweep) -> Mapping[str, Any] | None:
    """The heat maps of every grid."""
    if not sweep.cells:
        return None
    notes = Notes("maps")
    drawn = [{"map": one, "name": _caption(one)} for grid in sweep.grids for one in heat.maps(grid, notes)]
    chances = {cell.run.metric: cell.run.guessing for cell in reversed(sweep.distinct)}
    scales = [heat.scale(metric, guessing) for metric, guessing in reversed(chances.items())]
    confidence = next((claim.confidence for _, claim in sweep.quoted() if claim.confidence), None)
    return {"maps": drawn, "scales": scales, "notes": notes, "confidence": confidence, "unit": _unit(sweep.distinct)}


def _caption(one: heat.HeatMap) -> str:
    by = f"{one.rows.title} and {one.columns.title}" if one.columns else one.rows.title
    return f"{one.metric} by {by}" + (f"; {', '.join(one.at)}" if one.at else "")


def cells(sweep: Sweep) -> Mapping[str, Any] | None:
    """Every cell and attack, a table for each metric that is quoted."""
    notes, tables = Notes("cells"), []
    for metric in dict.fromkeys(cell.run.metric for cell in sweep.distinct):
        mine = [cell for cell in sweep.distinct if cell.run.metric == metric]
        shown = columns(mine[0].run.main)
        tables.append(
            {
                "unit": _unit(mine),
                "heads": [TITLES[m] for m in shown],
                "cells": [_cell(cell, shown, notes) for cell in mine],
            }
        )
    return {"tables": tables, "notes": notes} if tables else None


def _cell(cell: Swept, shown: tuple[str, ...], notes: Notes) -> Mapping[str, Any]:
    run = cell.run
    rows = []
    for name in run.attacks:
        permuted = [run.permuted(name, control) for control in PERMUTATIONS]
        rows.append(
            {
                "name": name,
                "verdict": words.verdict(run).kind if name == run.primary else "",
                "primary": name == run.primary,
                "cells": [notes.cell(run.claim(name, metric)) for metric in shown],
                "p_values": [words.p_value(control.p_value) if control else "" for control in permuted],
            }
        )
    best = run.best_blind
    control = run.baseline(best, run.metric)
    return {
        "settings": in_words(cell.settings) or ["as it stands"],
        "path": cell.path,
        "rows": rows,
        "blind": "" if best is None else f"{best} {words.number(control.value)}" if control else best,
        "utility": words.utility(run),
    }


def threat(sweep: Sweep) -> Mapping[str, Any] | None:
    """Who attacks, and what they see and own."""
    told = dict.fromkeys(str(cell.run.part("threat_model").get("words") or "") for cell in sweep.distinct)
    found = [text for text in told if text]
    return {"words": found} if found else None


def settings(sweep: Sweep) -> Mapping[str, Any]:
    """What was run, and how to run it again."""
    path = sweep.root / "simulation.toml"
    return {
        "toml": printable(path.read_text(encoding="utf-8")) if path.is_file() else None,
        "versions": sweep.distinct[0].run.part("versions") if sweep.distinct else {},
        "seeds": sorted({seed for cell in sweep.distinct for seed in cell.seeds}),
        "command": "sweep",
    }


SECTIONS = (
    Section("result", "Result", "sweep-headline.html.j2", headline),
    Section("tradeoff", "Utility against leakage", "sweep-tradeoff.html.j2", tradeoff.tradeoff),
    Section("maps", "Heat maps", "sweep-maps.html.j2", maps),
    Section("cells", "All cells and attacks", "sweep-cells.html.j2", cells),
    Section("threat-model", "Threat model", "sweep-threat.html.j2", threat),
    Section("settings", "Settings", "settings.html.j2", settings),
)
"""In the order of the page."""
