"""The page of a model inversion: who recognises it, where it is read, what it gives away, and what helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fl_privacy.audit import Claim
from fl_privacy.report import epsilon, inversion_figures, sections, words
from fl_privacy.report.notes import Notes
from fl_privacy.report.page import Section
from fl_privacy.report.run import Run
from fl_privacy.report.words import Verdict, number

PART = "inversion"
"""Of result.json, and how a result of this kind is told."""

_READ = (
    "A slid vector may be recognised where it was optimised and not beside it, so it is read in every way; restarts "
    "show what as many independent attempts give."
)
_METRICS = {
    "accuracy": "recognised",
    "top_5_accuracy": "among the best five",
    "accepted_at_eer": "accepted at the EER",
    "accepted_at_far_0.01": "accepted at 1 % FAR",
}
_GIVEN = {
    "attacked": "the recogniser under attack",
    "other seed": "one of the same architecture and another seed",
    "other architecture": "an independent recogniser of another architecture",
    "speaker encoder": "a speaker encoder trained on other people",
}


def is_inversion(run: Run) -> bool:
    """Whether a result is of this kind."""
    return bool(run.part(PART))


def title(run: Run) -> str:
    """Return the page's title."""
    lead = _lead(run)
    return f"Model inversion: {words.count(lead.n_speakers if lead else None, 'speaker')}"


def _lead(run: Run, metric: str = "accuracy") -> Claim | None:
    return next((c for c in run.claims if c.primary and c.metric == metric), None)


def _find(run: Run, attack: str, metric: str, **conditions: Any) -> Claim | None:
    return next((c for c in run.claims if _is(c, attack, metric, conditions)), None)


def _held(run: Run, control: str, of: str, metric: str, **conditions: Any) -> Claim | None:
    return next((c for c in run.controls if c.control == control and _is(c, of, metric, conditions)), None)


def _is(claim: Claim, attack: str, metric: str, conditions: Mapping[str, Any]) -> bool:
    if (claim.attack, claim.metric) != (attack, metric) or claim.attribute != "identity":
        return False
    told = claim.conditions
    if "readout" in told and "readout" not in conditions:
        return False
    return all(told.get(key) == value for key, value in conditions.items())


def verdict(run: Run) -> Verdict:
    """Hold the primary attack before the independent recogniser against its best blind control and permutations."""
    lead, over = _lead(run), _lead(run, "accuracy_over_best_blind")
    if lead is None or lead.value is None or over is None or over.value is None:
        return Verdict(words.UNRESOLVED, "Nothing is claimed", ("The result holds no primary claim.",))
    judge = lead.conditions["judge"]
    null = next(
        (
            c
            for c in run.controls
            if c.control == "permuted-identities" and _is(c, lead.attack, "accuracy", {"judge": judge})
        ),
        None,
    )
    p = None if null is None else null.p_value
    beats = over.low is not None and over.low > 0
    alpha = 1 - (lead.confidence or 0.95)
    rare = p is not None and p <= alpha + 1e-9
    best = over.conditions.get("best_blind")
    sentences = [
        (
            f"Its best blind control is {best}; the difference is {number(over.value, signed=True)} "
            f"({words.percent(over.confidence)} interval {words.interval(over, signed=True)})."
        )
    ]
    if null is not None and p is not None:
        sentences.append(
            f"With the identities permuted, as many were recognised with p = {words.p_value(p)} "
            f"(smallest possible {words.p_value(null.smallest_p_value)})."
        )
    if beats and rare:
        return Verdict(words.SHOWN, "Voices are reconstructed that somebody else recognises", tuple(sentences))
    if not beats and not rare:
        sentences.append(
            "An independent recogniser does not show more than chance here; that is no proof that no attack could."
        )
        return Verdict(words.NOT_SHOWN, "No reconstruction of a voice is shown", tuple(sentences))
    sentences.append("A reconstruction is claimed only where both tests speak for it.")
    return Verdict(words.UNRESOLVED, "Unresolved", tuple(sentences))


def headline(run: Run) -> Mapping[str, Any]:
    """What was found, in plain words."""
    lead, found = _lead(run), verdict(run)
    if lead is None:
        return {"task": None, "measured": [], "verdict": found}
    attacked = _find(run, lead.attack, "accuracy", judge="attacked")
    natural = _held(
        run, "own recordings", "", "accuracy", judge=lead.conditions["judge"], length=lead.conditions["length"]
    )
    task = (
        f"The attacker reconstructs the voices of {words.count(lead.n_speakers, 'speaker')} from a classifier that "
        f"knows them, with the attack {lead.attack}. It counts where a recogniser agrees that the attack never met."
    )
    measured = [
        (
            f"Recognised by {_GIVEN[lead.conditions['judge']]}: {number(lead.value)} "
            f"({words.percent(lead.confidence)} interval {words.interval(lead)}); chance is {number(_chance(lead))}."
        )
    ]
    if attacked is not None:
        measured.append(
            f"Recognised by the classifier under attack: {number(attacked.value)} ({words.interval(attacked)}), where "
            "adversarial examples count, too."
        )
    if natural is not None:
        measured.append(
            f"Of real recordings of the same length, the independent recogniser gets {number(natural.value)} right: "
            "the mark to hold an inversion against."
        )
    return {"task": task, "measured": measured, "verdict": found}


def _chance(lead: Claim) -> float | None:
    return None if not lead.conditions.get("classes") else 1 / float(lead.conditions["classes"])


def recognised(run: Run) -> Mapping[str, Any]:
    """By whom inversions are recognised: attacks by judges."""
    cells, judges = _cells(run), _judges(run)
    tables = []
    for metric, what in _METRICS.items():
        notes, rows = Notes(metric), []
        for name in cells:
            found = [_find(run, name, metric, judge=judge) for judge in judges]
            rows.append({"name": name, "unit": "speaker", "cells": [notes.cell(claim) for claim in found]})
        for control, title in (
            ("another's voice", "another person's real voice"),
            ("wrong-speaker", "inversions for others"),
        ):
            first = [_held(run, control, cells[0], metric, judge=judge) for judge in judges] if cells else []
            if any(first):
                rows.append({"name": title, "unit": "speaker", "cells": [notes.cell(claim) for claim in first]})
        lengths = sorted({c.conditions["length"] for c in run.controls if c.control == "own recordings"})
        for length in lengths:
            found = [_held(run, "own recordings", "", metric, judge=judge, length=length) for judge in judges]
            told = "whole" if not length else f"{length / 16:.0f} ms"
            rows.append(
                {"name": f"own, unused recordings ({told})", "unit": "speaker", "cells": [notes.cell(c) for c in found]}
            )
        tables.append(_table(f"Share of the speakers {what}, by judge", "Attack", judges, rows, notes))
    chance = _chance(lead) if (lead := _lead(run)) else None
    after = [f"{judge.capitalize()}: {what}." for judge, what in _GIVEN.items() if judge in judges]
    after.append(f"Chance: {number(chance)}. Thresholds were set on real, unused recordings of the same length.")
    return _content(tables=tables, after=after)


def readouts(run: Run) -> Mapping[str, Any] | None:
    """Where slid inversions are read."""
    told = run.part(PART).get("readouts") or {}
    claims = [c for c in run.claims if "readout" in c.conditions and c.metric == "accuracy"]
    if not claims:
        return None
    notes, rows = Notes("readouts"), []
    for name in dict.fromkeys(c.attack for c in claims):
        at = {c.conditions["readout"]: c for c in claims if c.attack == name}
        rows.append({"name": name, "unit": "speaker", "cells": [notes.cell(at.get(key)) for key in told]})
    over = [c for c in run.claims if c.metric == "accuracy_over_restarts"]
    after = [f"{key.replace('_', ' ')}: {what}." for key, what in told.items()]
    restarts = run.part(PART).get("restarts") or {}
    if any(c.attack.startswith("restarts") for c in claims):
        after += [f"Of restarts, {key.replace('_', ' ')}: {what}." for key, what in restarts.items()]
    for claim in over:
        after.append(
            f"{claim.attack} lies {number(claim.value, signed=True)} ({words.interval(claim, signed=True)}) above as "
            "many independent attempts with as many steps, each read at its best."
        )
    heads = [key.replace("_", " ") for key in told]
    return _content(
        before=[_READ],
        tables=[_table("Recognised by the attacked classifier, by read-out", "Attack", heads, rows, notes)],
        after=after,
    )  # fmt: skip


def distances(run: Run) -> Mapping[str, Any] | None:
    """How far inverted d-vectors lie."""
    told = run.part(PART).get("distances") or {}
    if not told:
        return None
    heads = {
        "own": "to the own speaker",
        "others": "to other speakers",
        "wrong": "of inversions for others to this one",
        "within": "of own recordings",
        "within_short": "of own pieces as short",
        "between": "between speakers",
        "nearest": "own speaker nearest",
    }
    notes, rows = Notes("distances"), []
    for name, found in told.items():
        cells = [
            _plain(number(found[key]["mean"]), f"SD {number(found[key]['sd'])}" if key != "nearest" else "")
            if key in found
            else _plain("")
            for key in heads
        ]
        rows.append({"name": name, "unit": "speaker", "cells": cells})
    return _content(
        tables=[
            _table(
                "Euclidean distance of d-vectors of length 1, mean over speakers",
                "Attack",
                list(heads.values()),
                rows,
                notes,
            )
        ]
    )


def gender(run: Run) -> Mapping[str, Any] | None:
    """What inverted d-vectors say of a label."""
    claims = [c for c in run.claims if c.attribute not in (None, "identity")]
    if not claims:
        return None
    notes, rows = Notes("label"), []
    metrics = ("auc", "uar", "accuracy")
    for name in dict.fromkeys(c.attack for c in claims):
        mine = {c.metric: c for c in claims if c.attack == name}
        p = next((c.p_value for c in run.controls if c.of == name and c.control == "permuted-private-labels"), None)
        cells = [*(notes.cell(mine.get(metric)) for metric in metrics), _plain(words.p_value(p))]
        rows.append({"name": name, "unit": "speaker", "cells": cells})
    larger = next((c for c in run.controls if c.control == "majority"), None)
    if larger is not None:
        cells = [_plain("0.500"), _plain("0.500"), _plain(number(larger.value)), _plain("")]
        rows.append({"name": "always the larger class", "unit": "speaker", "cells": cells})
    attribute = claims[0].attribute
    drawn = run.part(PART).get("picture")
    figures = []
    if drawn:
        svg = inversion_figures.picture(
            [(name, drawn["real"][name]) for name in drawn["classes"]],
            [(name, drawn["inverted"][name]) for name in drawn["classes"]],
            f"D-vectors on two principal axes by {attribute}, real ones of other people and those inverted by "
            f"{drawn['attack']}.",
        )
        figures.append(
            {"svg": svg, "caption": f"Inverted d-vectors ({drawn['attack']}) among real ones, by {attribute}."}
        )
    return _content(
        figures=figures,
        tables=[
            _table(
                f"{str(attribute).capitalize()} read from d-vectors", "Of", ["AUC", "UAR", "accuracy", "p"], rows, notes
            )
        ],
        after=["The classifier and the axes were learned on real d-vectors of people who are not attacked."],
    )


def spoofing(run: Run) -> Mapping[str, Any] | None:
    """Experiment 3."""
    part = run.part(PART).get("spoof") or {}
    if not part:
        return None
    notes, rows = Notes("spoof"), []
    judges = _judges(run)
    metrics = ("accepted_at_eer", "accepted_at_far_0.01")
    heads = [f"{judge}, {_METRICS[metric].removeprefix('accepted ')}" for judge in judges for metric in metrics]
    for voice in part["voices"]:
        name = f"speech: {voice}"
        found = [_find(run, name, metric, judge=judge) for judge in judges for metric in metrics]
        rows.append({"name": voice, "unit": "speaker", "cells": [notes.cell(claim) for claim in found]})
        wrong = [_held(run, "wrong-speaker", name, metric, judge=judge) for judge in judges for metric in metrics]
        if any(wrong):
            rows.append(
                {"name": f"{voice}: made for others", "unit": "speaker", "cells": [notes.cell(c) for c in wrong]}
            )
    quality, mapping = Notes("mapping"), []
    for kind, found in part["mapping"].items():
        cells = [_plain(number(found[key])) for key in ("cosine", "r_squared", "retrieval")]
        mapping.append({"name": kind, "unit": "speaker", "cells": cells})
    return _content(
        before=[f"Speech by the {part['synthesiser']}, of sentences of other people. {part['note']}".strip()],
        tables=[
            _table("Share of the utterances that are accepted as the speaker's", "Voice", heads, rows, notes),
            _table("Mapping d-vectors to the encoder's, on held-out auxiliary speakers", "Mapper",
                   ["cosine", "R squared", "speaker retrieved"], mapping, quality),
        ],
    )  # fmt: skip


def countermeasures(run: Run) -> Mapping[str, Any] | None:
    """What helps, and what it costs."""
    told = run.part(PART).get("countermeasures") or ()
    if not told:
        return None
    notes, rows = Notes("counter"), []
    for entry in told:
        name = entry["name"]
        found = [_find(run, name, "accuracy", judge=judge) for judge in ("attacked", "other architecture")]
        rows.append(
            {
                "name": name,
                "unit": "speaker",
                "cells": [
                    _plain(entry["access"]),
                    *(notes.cell(claim) for claim in found),
                    _plain(number(entry.get("sentence_error")) if entry.get("sentence_error") is not None else ""),
                    _plain("" if entry.get("queries") is None else f"{entry['queries']:,}"),
                    _plain(entry.get("note", "")),
                ],
            }
        )
    heads = ["access", "attacked", "other architecture", "sentence error", "queries", "note"]
    return _content(
        tables=[_table("Recognised, with a countermeasure, by judge", "Countermeasure", heads, rows, notes)],
        after=[
            (
                "Countermeasures on answers are nothing to an attacker who holds the model; they are tried against "
                "one who has answers alone and estimates gradients by queries."
            )
        ],
    )


def waves(run: Run) -> Mapping[str, Any] | None:
    """Waveforms and spectrograms of one speaker."""
    examples = run.part(PART).get("examples") or ()
    if not examples:
        return None
    shown = [inversion_figures.Shown(**one) for one in examples]
    names = ", ".join(one.name for one in shown)
    svg = inversion_figures.waves("waves", shown, f"Waves and spectrograms: {names}.")
    return _content(figures=[{"svg": svg, "caption": "Waves of one speaker, each above its log-mel spectrogram."}])


def costs(run: Run) -> Mapping[str, Any] | None:
    """What each cell took."""
    told = run.part(PART).get("costs") or {}
    if not told:
        return None
    rows = [
        {
            "name": name,
            "unit": "speaker",
            "cells": [
                _plain(f"{found['gradient_steps']:,}"),
                _plain(f"{found['queries']:,}"),
                _plain(", ".join(f"{n} {reason}" for reason, n in found["ended"].items())),
            ],
        }
        for name, found in told.items()
    ]
    heads = ["gradient steps", "windows classified", "ended by"]
    return _content(
        tables=[_table("What each attack took, over all speakers", "Attack", heads, rows, Notes("costs"))],
        after=["Seconds differ from run to run: they are in timings.json of each cell's folder."],
    )


def published(run: Run) -> Mapping[str, Any] | None:
    """Table 1 of the study beside ours."""
    told = run.part(PART).get("published") or ()
    if not told:
        return None
    notes, rows = Notes("published"), []
    for entry in told:
        mine = _find(run, entry["attack"], "accuracy", judge="attacked") if entry.get("attack") else None
        distance = entry.get("our_distance")
        cells = [
            _plain(number(entry["accuracy"])),
            notes.cell(mine),
            _plain(number(entry["distance"]), f"SD {number(entry['distance_sd'])}"),
            _plain("" if distance is None else number(distance)),
        ]
        rows.append({"name": f"{entry['method']} from {entry['start']}", "unit": "speaker", "cells": cells})
    heads = ["accuracy, published", "accuracy, ours", "distance, published", "distance, ours"]
    return _content(
        tables=[_table("Table 1 of Pizzi et al. (2023) beside this run", "Attack", heads, rows, notes)],
        after=list(run.part(PART).get("published_notes") or ()),
    )


def utility(run: Run) -> Mapping[str, Any]:
    """How good the target and its judges are at their own task."""
    part = run.part("utility")
    error = part.get("sentence_error")
    told = "" if error is None else f"Speaker recognition of unused sentences: error {number(error)} (target)."
    return {"figure": None, "last": told or None}


SECTIONS = (
    Section("result", "Result", "headline.html.j2", headline),
    Section("threat-model", "Threat model", "threat.html.j2", sections.threat),
    Section("recognised", "By whom inversions are recognised", "inversion.html.j2", recognised),
    Section("readouts", "Where a slid inversion is read", "inversion.html.j2", readouts),
    Section("published", "Beside the published table", "inversion.html.j2", published),
    Section("distances", "Distances of d-vectors", "inversion.html.j2", distances),
    Section("label", "What inverted d-vectors give away", "inversion.html.j2", gender),
    Section("spoof", "From inversions to speech", "inversion.html.j2", spoofing),
    Section("countermeasures", "Countermeasures", "inversion.html.j2", countermeasures),
    Section("epsilon", "Epsilon", "epsilon.html.j2", epsilon.epsilon),
    Section("waves", "Waves", "inversion.html.j2", waves),
    Section("costs", "Cost", "inversion.html.j2", costs),
    Section("utility", "Utility", "utility.html.j2", utility),
    Section("data", "Data", "data.html.j2", sections.data),
    Section("settings", "Settings", "settings.html.j2", sections.settings),
)
"""In the order of the page."""


def _cells(run: Run) -> list[str]:
    """Names of the wave attacks, the primary one first."""
    found = [c for c in run.claims if c.metric == "accuracy" and "method" in c.conditions and "judge" in c.conditions]
    names = dict.fromkeys(c.attack for c in sorted(found, key=lambda c: not c.primary))
    return list(names)


def _judges(run: Run) -> list[str]:
    told = {c.conditions.get("judge") for c in run.claims}
    return [judge for judge in _GIVEN if judge in told]


def _plain(text: str, span: str = "") -> dict[str, Any]:
    return {"text": text, "span": span, "note": None}


def _table(
    caption: str, corner: str, heads: Sequence[str], rows: Sequence[Mapping[str, Any]], notes: Notes
) -> dict[str, Any]:
    return {"caption": caption, "corner": corner, "heads": list(heads), "rows": list(rows), "notes": notes}


def _content(
    *,
    before: Sequence[str] = (),
    figures: Sequence[Mapping[str, str]] = (),
    tables: Sequence[Mapping[str, Any]] = (),
    after: Sequence[str] = (),
) -> dict[str, Any]:
    return {"before": before, "figures": figures, "tables": tables, "after": after}
