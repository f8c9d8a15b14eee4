"""The sections of an inversion's page: judges, read-outs, distances, labels, speech, countermeasures, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fl_privacy.report import inversion_figures, words
from fl_privacy.report.inversion_lookups import (
    GIVEN,
    METRICS,
    PART,
    at_its_work,
    attacks_of,
    chance_of,
    difference_cell,
    find_claim,
    find_control,
    is_guessing,
    judges_of,
    make_table,
    primary_claim,
    section_content,
)
from fl_privacy.report.notes import Notes, plain_cell
from fl_privacy.report.run import Run
from fl_privacy.report.words import number

_READ = (
    "A slid vector may be recognised where it was optimised and not beside it, so it is read in every way; restarts "
    "show what as many independent attempts give."
)


def recognised(run: Run) -> Mapping[str, Any]:
    """By whom inversions are recognised: attacks by judges."""
    cells, judges = attacks_of(run), judges_of(run)
    tables = []
    for metric, what in METRICS.items():
        notes, rows = Notes(metric), []
        for name in cells:
            found = [find_claim(run, name, metric, judge=judge) for judge in judges]
            rows.append({"name": name, "unit": "speaker", "cells": [notes.cell(claim) for claim in found]})
        for control, title in (
            ("start", f"the start of {cells[0]}, not attacked" if cells else ""),
            ("another's voice", "another person's real voice"),
            ("wrong-speaker", "inversions for others"),
        ):
            first = [find_control(run, control, cells[0], metric, judge=judge) for judge in judges] if cells else []
            if any(first):
                rows.append({"name": title, "unit": "speaker", "cells": [notes.cell(claim) for claim in first]})
        lengths = sorted({c.conditions["length"] for c in run.controls if c.control == "own recordings"})
        for length in lengths:
            found = [find_control(run, "own recordings", "", metric, judge=judge, length=length) for judge in judges]
            told = "whole" if not length else f"{length / 16:.0f} ms"
            rows.append(
                {"name": f"own, unused recordings ({told})", "unit": "speaker", "cells": [notes.cell(c) for c in found]}
            )
        tables.append(make_table(f"Share of the speakers {what}, by judge", "Attack", judges, rows, notes))
    lead = primary_claim(run)
    if lead is not None:
        tables.append(_over_blind(run, cells, lead.conditions["judge"]))
    chance = None if lead is None else chance_of(lead)
    after = [f"{judge.capitalize()}: {what}." for judge, what in GIVEN.items() if judge in judges]
    after.append("FAR: the share of other people who are accepted. EER: where as many own voices are refused.")
    if lead is not None:
        after.append(
            f"Named in advance: {lead.attack}, before {GIVEN[lead.conditions['judge']]}. Of so many other numbers some "
            "are high by chance."
        )
    after.append(f"Chance: {number(chance)}. Thresholds were set on real, unused recordings of the same length.")
    return section_content(tables=tables, after=after)


def _over_blind(run: Run, cells: Sequence[str], judge: str) -> dict[str, Any]:
    """Every attack before the judge of the claim, beside its own blind controls."""
    notes, rows = Notes("over"), []
    for name in cells:
        over = find_claim(run, name, "accuracy_over_best_blind", judge=judge)
        null = find_control(run, "permuted-identities", name, "accuracy", judge=judge)
        cells_of = [
            notes.cell(find_claim(run, name, "accuracy", judge=judge)),
            notes.cell(find_control(run, "start", name, "accuracy", judge=judge)),
            plain_cell("" if over is None else str(over.conditions.get("best_blind", ""))),
            difference_cell(over),
            plain_cell("" if null is None else words.p_value(null.p_value)),
        ]
        rows.append({"name": name, "unit": "speaker", "cells": cells_of})
    heads = ["recognised", "its start", "best blind control", "over that", "p, identities permuted"]
    return make_table(f"Recognised by {GIVEN[judge]}, beside blind controls", "Attack", heads, rows, notes)


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
    costs = run.part(PART).get("costs") or {}
    for claim in over:
        rival = f"restarts from {claim.conditions['start']}"
        steps = [costs[name]["gradient_steps"] for name in (claim.attack, rival) if name in costs]
        took = f" They took {steps[0]:,} and {steps[1]:,} gradient steps." if len(steps) == 2 else ""
        after.append(
            f"{claim.attack} lies {number(claim.value, signed=True)} ({words.interval(claim, signed=True)}) above as "
            f"many independent attempts that may take as many steps, each read at its best.{took}"
        )
    heads = [key.replace("_", " ") for key in told]
    return section_content(
        before=[_READ],
        tables=[make_table("Recognised by the attacked classifier, by read-out", "Attack", heads, rows, notes)],
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
            plain_cell(number(found[key]["mean"]), f"SD {number(found[key]['sd'])}" if key != "nearest" else "")
            if key in found
            else plain_cell("")
            for key in heads
        ]
        rows.append({"name": name, "unit": "speaker", "cells": cells})
    return section_content(
        tables=[
            make_table(
                "Euclidean distance of d-vectors of length 1, mean over speakers",
                "Attack",
                list(heads.values()),
                rows,
                notes,
            )
        ],
        after=[
            "To other speakers, and of inversions for others: the same distances by row and by column, of equal means."
        ],
    )


def dvectors(run: Run) -> Mapping[str, Any] | None:
    """The last layer alone: what is accepted by construction, and how far it lies from the speaker."""
    claims = [c for c in run.claims if c.metric == "accuracy" and "layer" in c.conditions]
    if not claims:
        return None
    notes, rows, told = Notes("layer"), [], run.part(PART).get("distances") or {}
    for claim in claims:
        found = told.get(claim.attack, {})
        far = [
            plain_cell(number(found[key]["mean"]), f"SD {number(found[key]['sd'])}") if key in found else plain_cell("")
            for key in ("own", "others", "within", "between")
        ]
        rows.append({"name": claim.attack, "unit": "speaker", "cells": [notes.cell(claim), *far]})
    heads = ["taken for the speaker", "to the own speaker", "to others", "of own recordings", "between speakers"]
    construction = (
        "Where the layer takes them for the speaker, it does so by construction: dvector reads a row of it. What they "
        "give away is told by the two sections that follow."
    )
    return section_content(
        before=["No wave is made: d-vectors that the classifier's last layer gives to a speaker."],
        tables=[make_table("By the last layer alone, and distances of d-vectors", "Attack", heads, rows, notes)],
        after=[construction],
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
        cells = [*(notes.cell(mine.get(metric)) for metric in metrics), plain_cell(words.p_value(p))]
        rows.append({"name": name, "unit": "speaker", "cells": cells})
    larger = next((c for c in run.controls if c.control == "majority"), None)
    if larger is not None:
        cells = [plain_cell("0.500"), plain_cell("0.500"), plain_cell(number(larger.value)), plain_cell("")]
        rows.append({"name": "always the larger class", "unit": "speaker", "cells": cells})
    attribute = claims[0].attribute
    drawn = run.part(PART).get("picture")
    figures = []
    if drawn:
        figure = inversion_figures.picture(
            [(name, drawn["real"][name]) for name in drawn["classes"]],
            [(name, drawn["inverted"][name]) for name in drawn["classes"]],
            f"D-vectors on two principal axes by {attribute}, real ones of other people and those inverted by "
            f"{drawn['attack']}.",
        )
        figures.append(
            {"figure": figure, "caption": f"Inverted d-vectors ({drawn['attack']}) among real ones, by {attribute}."}
        )
    return section_content(
        figures=figures,
        tables=[
            make_table(
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
    judges = judges_of(run)
    metrics = ("accepted_at_eer", "accepted_at_far_0.01")
    heads = [f"{judge}, {METRICS[metric].removeprefix('accepted ')}" for judge in judges for metric in metrics]
    for voice in part["voices"]:
        name = f"speech: {voice}"
        found = [find_claim(run, name, metric, judge=judge) for judge in judges for metric in metrics]
        rows.append({"name": voice, "unit": "speaker", "cells": [notes.cell(claim) for claim in found]})
        wrong = [
            find_control(run, "wrong-speaker", name, metric, judge=judge) for judge in judges for metric in metrics
        ]
        if any(wrong):
            rows.append(
                {"name": f"{voice}: made for others", "unit": "speaker", "cells": [notes.cell(c) for c in wrong]}
            )
        over = [find_claim(run, name, f"{metric}_over_best_blind", judge=j) for j in judges for metric in metrics]
        if any(over):
            rows.append(
                {
                    "name": f"{voice}: over the better control",
                    "unit": "speaker",
                    "cells": [difference_cell(c) for c in over],
                }
            )
    quality, mapping = Notes("mapping"), []
    for kind, found in part["mapping"].items():
        cells = [plain_cell(number(found[key])) for key in ("cosine", "r_squared", "retrieval")]
        mapping.append({"name": kind, "unit": "speaker", "cells": cells})
    return section_content(
        before=[f"Speech by the {part['synthesiser']}, of sentences of other people. {part['note']}".strip()],
        tables=[
            make_table("Share of the utterances that are accepted as the speaker's", "Voice", heads, rows, notes),
            make_table("Mapping d-vectors to the encoder's, on held-out auxiliary speakers", "Mapper",
                   ["cosine", "R squared", "speaker retrieved"], mapping, quality),
        ],
        after=[
            "Thresholds were set on real, whole recordings. Controls: speech made for others, and the mean voice.",
            "Own recordings: from the speaker's real vector, the most that the synthesiser could give.",
        ],
    )  # fmt: skip


def countermeasures(run: Run) -> Mapping[str, Any] | None:
    """What helps, and what it costs."""
    told = run.part(PART).get("countermeasures") or ()
    if not told:
        return None
    notes, rows = Notes("counter"), []
    for entry in told:
        name, note = entry["name"], entry.get("note", "")
        if is_guessing(at_its_work(run, name)):
            note += "; this target cannot be told from one that guesses, so that nothing follows from what it withholds"
        found = [find_claim(run, name, "accuracy", judge=judge) for judge in ("attacked", "other architecture")]
        rows.append(
            {
                "name": name,
                "unit": "speaker",
                "cells": [
                    plain_cell(entry["access"]),
                    *(notes.cell(claim) for claim in found),
                    plain_cell(number(entry.get("sentence_error")) if entry.get("sentence_error") is not None else ""),
                    plain_cell("" if entry.get("queries") is None else f"{entry['queries']:,}"),
                    plain_cell(note),
                ],
            }
        )
    heads = ["access", "attacked", "other architecture", "sentence error", "queries", "note"]
    return section_content(
        tables=[make_table("Recognised, with a countermeasure, by judge", "Countermeasure", heads, rows, notes)],
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
    figure = inversion_figures.waves("waves", shown, f"Waves and spectrograms: {names}.")
    return section_content(
        figures=[{"figure": figure, "caption": "Waves of one speaker, each above its log-mel spectrogram."}]
    )


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
                plain_cell(f"{found['inversions']:,}"),
                plain_cell(f"{found['gradient_steps']:,}"),
                plain_cell(f"{found['queries']:,}"),
                plain_cell(", ".join(f"{n} {reason}" for reason, n in found["ended"].items())),
            ],
        }
        for name, found in told.items()
    ]
    heads = ["inversions", "gradient steps", "windows classified", "ended by"]
    return section_content(
        tables=[make_table("What each attack took, over all speakers", "Attack", heads, rows, Notes("costs"))],
        after=[
            "Inversions: attempts that were not kept count, those of restarts and of source-filter, in all columns.",
            "Countermeasures in training: the primary attack again, on a target of their own.",
            "Seconds differ from run to run: they stand beside these numbers in costs.csv of the run's folder.",
        ],
    )


def published(run: Run) -> Mapping[str, Any] | None:
    """Table 1 of the study beside ours."""
    told = run.part(PART).get("published") or ()
    if not told:
        return None
    notes, rows = Notes("published"), []
    for entry in told:
        mine = find_claim(run, entry["attack"], "accuracy", judge="attacked") if entry.get("attack") else None
        distance = entry.get("our_distance")
        cells = [
            plain_cell(number(entry["accuracy"])),
            notes.cell(mine),
            plain_cell(number(entry["distance"]), f"SD {number(entry['distance_sd'])}"),
            plain_cell("" if distance is None else number(distance)),
        ]
        rows.append({"name": f"{entry['method']} from {entry['start']}", "unit": "speaker", "cells": cells})
    heads = ["accuracy, published", "accuracy, ours", "distance, published", "distance, ours"]
    return section_content(
        tables=[make_table("Table 1 of Pizzi et al. (2023) beside this run", "Attack", heads, rows, notes)],
        after=list(run.part(PART).get("published_notes") or ()),
    )
