"""A published study's numbers side by side, and ours of the same protocol beside them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_privacy.attacks.as_published import LEAKED, PROTOCOL
from fl_privacy.attacks.files import aligned
from fl_privacy.audit.files import read_result
from fl_privacy.errors import UserError
from fl_privacy.published import GENERATIONS, STUDIES, Published, membership, pizzi2023, values
from fl_privacy.published.departures import departures

_QUANTITIES = {"attack_uar": "UAR", "attack_asr": "ASR", "ser_uar": "UAR", "ser_acc": "accuracy"}
_ATTACK = (
    "The attack: UAR of single updates, or of the mean of N updates of a client; mean over the folds. ASR: share of "
    "right guesses, averaged over clients."
)
_SER = (
    "Emotion recognition of held-out speakers. The study takes the round with the best validation UAR, of those after "
    "the 150th (A, B) or the 100th (C, HEAD)"
)

_FOLDS = re.compile(r"^\*(\d+)")
_FEWER = r"*\1: the mean of that many folds' files instead of 5"

Case = tuple[str | float | int | None, ...]
"""Private corpus, features, algorithm, layer, dropout, local epochs, epsilon, N."""

_CASE = ("private", "features", "algorithm", "layer", "dropout", "local epochs", "epsilon", "N")
_ORDER: tuple[tuple[str, ...], ...] = (
    ("iemocap", "crema_d", "msp_improv", "all"),
    ("emobase", "apc", "vq_apc", "npc", "decoar2", "tera", "mean"),
    ("fedsgd", "fedavg"),
    ("first", "second", "last", "fusion", "full"),
)


@dataclass(frozen=True)
class Entry:
    """A number in a table of the comparison.

    Attributes
    ----------
    case : Case
        Its row.
    column : str
        Its column.
    value : float
    note : str
        What to know of it.
    ours : bool
        Whether it is a result of ours.
    """

    case: Case
    column: str
    value: float
    note: str = ""
    ours: bool = False


def comparison(
    study: str,
    results: Sequence[str | Path] = (),
    tables: Sequence[str] | None = None,
    *,
    whole: bool = False,
) -> str:
    """Return a study's numbers as plain text, generations in columns of their own, with ours beside them.

    Parameters
    ----------
    study : str
        See ``STUDIES`` of `fl_privacy.published`, `...membership` and `...pizzi2023`.
    results : sequence of path
        Run folders, or sweep folders: of these, the merged results. Their claims with the protocol "as-published"
        are set beside published numbers of the same private corpus, features, algorithm, layer and dropout; where
        other settings are not the study's, a note says which. Of inversions: run folders of any protocol.
    tables : sequence of str, optional
        Only numbers of these published tables.
    whole : bool
        Print all published numbers, not only those that results of ours stand beside.

    Raises
    ------
    UserError
        For an unknown study or table, or results without such claims.
    """
    if study in pizzi2023.STUDIES:
        if tables:
            raise UserError(f"{study}: there is one table; leave out --table")
        runs = [read_result(file) for path in results for file in _files_of(Path(path))]
        return pizzi2023.inversion_comparison(study, runs)
    if study in membership.STUDIES:
        of_ours = [result for path in results for result in read_results(Path(path))]
        return membership.membership_comparison(study, of_ours, tables)
    published = values(study, tables)
    loaded = [result for path in results for result in read_results(Path(path))]
    parts = [f"{study}: {STUDIES[study]}."]
    parts.append("\n".join(f"{name:<5} {what}" for name, what in GENERATIONS.items()))
    kinds: tuple[tuple[str, str, Callable[[str, Mapping[str, Any]], list[Entry]]], ...] = (
        ("attack_", _ATTACK, _our_attacks),
        ("ser_", _SER + ("." if not loaded else "; ours is the model of the last round."), _our_utility),
    )
    for kind, title, ours in kinds:
        entries = [_published(row) for row in published if row.quantity.startswith(kind)]
        mine = [entry for result in loaded for entry in ours(study, result)]
        if loaded and not whole:
            cases = {entry.case for entry in mine}
            entries = [entry for entry in entries if entry.case in cases]
        if entries or mine:
            parts.append(_table(title, [*entries, *mine]))
    return "\n\n".join(parts)


def read_results(path: Path) -> list[Mapping[str, Any]]:
    """Read the result of a run folder, or the merged results of a sweep folder, that have as-published claims.

    Raises
    ------
    UserError
        Where there are none.
    """
    results = [read_result(file) for file in _files_of(path)]
    if not any(_claims(result) for result in results):
        raise UserError(
            f"{path} has no claims of the protocol {PROTOCOL!r}: run it with --set protocol.name={PROTOCOL} "
            "(of encoders, with protocol.name=tseng2022)"
        )
    return [result for result in results if _claims(result)]


def _files_of(path: Path) -> list[Path]:
    """Return where the results of a run folder, or the merged ones of a sweep folder, stand."""
    if (path / "sweep.json").is_file():
        entries = json.loads((path / "sweep.json").read_text(encoding="utf-8"))
        return [path / entry["path"] for entry in entries if "seeds" in entry]
    if (path / "result.json").is_file():
        return [path / "result.json"]
    raise UserError(f"{path} is no run folder and no sweep folder: it has no result.json and no sweep.json")


def _claims(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [claim for claim in result["claims"] if claim["protocol"] == PROTOCOL]


def _published(row: Published) -> Entry:
    case = (row.private, row.feature, row.algorithm, row.layer, row.dropout, row.local_epochs, row.epsilon)
    column = f"{row.generation} {_QUANTITIES[row.quantity]}"
    if row.generation == "HEAD" and row.attack_dropout is not None:
        column += f", attack dropout {row.attack_dropout:g}"
    return Entry((*case, row.n_updates), column, row.value, row.note)


def _our_attacks(study: str, result: Mapping[str, Any]) -> list[Entry]:
    entries = []
    for claim in _claims(result):
        metric, conditions = {"uar": "UAR", "asr": "ASR"}.get(claim["metric"]), claim["conditions"]
        if metric is None or claim["value"] is None:
            continue
        case = _our_case(claim, str(conditions.get("layer", "")), conditions.get(LEAKED))
        column = f"ours: {conditions.get('attack', claim['attack'])} {metric}"
        entries.append(Entry(case, column, claim["value"], _note(study, result, claim), ours=True))
    return entries


def _our_utility(study: str, result: Mapping[str, Any]) -> list[Entry]:
    claim = _claims(result)[0]
    scores = {"UAR": result["utility"].get("uar"), "accuracy": result["utility"].get("accuracy")}
    note = _note(study, result, claim)
    return [
        Entry(_our_case(claim, "", None), f"ours {metric}", value, note, ours=True)
        for metric, value in scores.items()
        if value is not None
    ]


def _our_case(claim: Mapping[str, Any], layer: str, leaked: int | None) -> Case:
    conditions = claim["conditions"]
    noise = claim["defense"] or math.inf  # (a defense of ours is none of the study's)
    return (
        conditions["private"],
        conditions["features"],
        claim["algorithm"],
        layer,
        conditions.get("dropout"),
        conditions.get("local_epochs", 1),
        noise,
        leaked,
    )


def _note(study: str, result: Mapping[str, Any], claim: Mapping[str, Any]) -> str:
    folds = claim["conditions"].get("folds", 1)
    parts = [] if folds == 5 else [f"{folds} fold{'s' if folds != 1 else ''} (study: 5)"]
    return "; ".join([*parts, *departures(study, result["simulation"], claim["attack"])])


# ------------------------------------------------------------------ text


def _table(title: str, entries: Sequence[Entry]) -> str:
    cells: dict[tuple[Case, str], list[Entry]] = {}
    for entry in entries:
        mine = cells.setdefault((entry.case, entry.column), [])
        if not any((e.value, e.note) == (entry.value, entry.note) for e in mine):
            mine.append(entry)
    columns = sorted({entry.column for entry in entries}, key=lambda c: (c.startswith("ours"), c))
    cases = sorted({entry.case for entry in entries}, key=_place)
    shown = [n for n in range(len(_CASE)) if len({case[n] for case in cases}) > 1 or n < 2]
    same = [
        f"{_CASE[n]} {_text(cases[0][n])}"
        for n in range(len(_CASE))
        if n not in shown and cases[0][n] not in (None, "", math.inf)
    ]
    notes: list[str] = []
    rows = [[*(_CASE[n] for n in shown), *columns]]
    for case in cases:
        found = [_cell(cells.get((case, column), ()), notes) for column in columns]
        rows.append([*(_text(case[n]) for n in shown), *found])
    lines = [title + (f" ({', '.join(same)})" if same else ""), aligned(rows)]
    lines += [f"[{number}] {_FOLDS.sub(_FEWER, note)}" for number, note in enumerate(notes, start=1)]
    return "\n".join(lines)


def _cell(entries: Iterable[Entry], notes: list[str]) -> str:
    texts = []
    for entry in entries:
        mark = ""
        if entry.note:
            if entry.note not in notes:
                notes.append(entry.note)
            mark = f" [{notes.index(entry.note) + 1}]"
        texts.append(f"{entry.value:.4f}{mark}")
    return ", ".join(texts)


def _text(value: str | float | int | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:g}"


def _place(case: Case) -> tuple[tuple[int, str], ...]:
    """Sort names as the study lists them, others behind; then numbers."""
    found = []
    for number, value in enumerate(case):
        order = _ORDER[number] if number < len(_ORDER) else ()
        if isinstance(value, str):
            found.append((order.index(value) if value in order else len(order) + 1, value))
        else:
            found.append((0, f"{-1.0 if value is None else min(value, 1e9):020.6f}"))
    return tuple(found)
