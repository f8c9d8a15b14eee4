"""The sections of a report: each takes what it needs from a run, or nothing where the run has no such thing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fl_privacy.audit import Claim
from fl_privacy.audit.reading import STATIC, TITLES, columns, confidence_of, span
from fl_privacy.report import cost, encoders, epsilon, figures, parts, toml, words
from fl_privacy.report.notes import Notes
from fl_privacy.report.page import Section
from fl_privacy.report.rows import SpeakerScore, by_speaker
from fl_privacy.report.run import PERMUTATIONS, Run

_TESTS = {
    "permuted-auxiliary-labels": "p, attacker's labels permuted",
    "permuted-private-labels": "p, private labels permuted",
}
"""Heads of the columns of p-values."""


def headline(run: Run) -> Mapping[str, Any]:
    """What was found, in plain words."""
    if run.primary is None:
        return {"task": None, "measured": [], "verdict": words.verdict(run), "beside": []}
    return {
        "task": words.task(run),
        "measured": words.measured(run),
        "verdict": words.verdict(run),
        "beside": cost.sentences(run),
    }


def threat(run: Run) -> Mapping[str, Any] | None:
    """Who attacks, what they see and own."""
    model = run.part("threat_model")
    if not model:
        return None
    claim = run.quoted(run.primary)
    corpora = run.part("corpora")
    return {
        "words": model.get("words") or "The result does not put it in words.",
        "diagram": "federation" if "update" in str(model.get("observes")) else "model",
        "private": figures.short(" + ".join(_names(corpora.get("private"))) or "private speakers", 22),
        "auxiliary": figures.short(" + ".join(_names(corpora.get("auxiliary"))) or "others' speech", 22),
        "target": figures.short(
            ((claim.target if claim else None) or "trained model").rstrip("/").rpartition("/")[2], 22
        ),
        "speakers": words.count(claim.n_speakers, "speaker") if claim and claim.n_speakers is not None else "",
        "attribute": figures.short((claim.attribute if claim else None) or "attribute", 18),
    }


def attacks(run: Run) -> Mapping[str, Any] | None:
    """The table of attacks and what they are held against."""
    if not run.main:
        return None
    notes = Notes("attacks")
    metrics = columns(run.main)
    tests = {
        control: whose for control, whose in _TESTS.items() if any(run.permuted(name, control) for name in run.attacks)
    }
    rows = []
    for name in run.attacks:
        permuted = [run.permuted(name, control) for control in tests]
        rows.append(
            {
                "name": name,
                "kind": "primary" if name == run.primary else "",
                "cells": [notes.cell(run.claim(name, m)) for m in metrics],
                "p_values": [words.p_value(c.p_value) if c else "" for c in permuted],
            }
        )
    for name in run.baselines:
        cells = [notes.cell(run.baseline(name, m)) for m in metrics]
        rows.append({"name": name, "kind": "control", "cells": cells, "p_values": [""] * len(tests)})
    explained = {name: what for name in run.attacks if (what := run.part("attacks").get(name))}
    if any(name.endswith(STATIC) for name in run.attacks):
        explained[f"...{STATIC}"] = "the same by an attacker who does not know the defense"
    explained |= {name: words.BLIND[name] + _networks(run, name) for name in run.baselines if name in words.BLIND}
    return {
        "unit": run.unit,
        "heads": [TITLES[metric] for metric in metrics],
        "tests": list(tests.values()),
        "rows": rows,
        "notes": notes,
        "confidence": confidence_of(run.main),
        "metrics": [words.METRICS[metric] for metric in metrics if metric in words.METRICS],
        "explained": explained,
    }


def roc(run: Run) -> Mapping[str, Any] | None:
    """The primary attack's ROC beside the best blind baseline's.

    With swapped roles over the rows of all targets, at one threshold for all. The AUC that is claimed is the mean over
    targets of the AUC within one, and not the area under that curve: it stands in the caption alone.
    """
    split = run.split(run.primary)
    if split is None:
        return None
    curves, areas = [], []
    for name in dict.fromkeys((run.primary, run.best_blind)):
        points = run.roc(name)
        if name is None or points is None:
            continue
        told = run.claim(name, "auc") or run.baseline(name, "auc")
        area = float(np.trapezoid(points[1], points[0]))
        curves.append(figures.Curve(name, *points, told.value if told and not run.targets else None))
        areas.append((name, told.value if told else None, area))
    negatives = len(split[0])
    kind = "area under it" if run.targets else "AUC"
    listed = "; ".join(f"{name}: {kind} {words.number(area if run.targets else auc)}" for name, auc, area in areas)
    over = f"{run.unit}s before {run.targets} targets" if run.targets else f"{run.unit}s"
    return {
        "linear": figures.roc(curves, negatives, f"ROC over {over}. {listed}.", log=False),
        "log": figures.roc(
            curves, negatives, f"The same ROC with a logarithmic axis of false positive rates. {listed}.", log=True
        ),
        "negatives": negatives,
        "positives": len(split[1]),
        "positive": run.classes[1] if run.classes else "",
        "unit": run.unit,
        "targets": run.targets,
        "ratio": run.ratio,
        "areas": areas,
    }


def scores(run: Run) -> Mapping[str, Any] | None:
    """The scores under the primary attack: a mark for each speaker, and how they are distributed.

    Where a speaker has several rows, before several targets or of several utterances, its mark of either kind is their
    mean; the distribution is of all rows.
    """
    if run.classes is None or run.primary is None:
        return None
    mine = run.scores[run.primary]
    several = bool(run.targets) or run.unit != "speaker"
    groups = [[s for s in mine if s.label == label] for label in run.classes]
    marks = [by_speaker(group) for group in groups] if several else groups
    right = sum((s.decision > 0) == (s.label == run.classes[1]) for s in mine)
    shifts = {round(s.score - s.decision, 9) for s in mine}
    threshold = shifts.pop() if len(shifts) == 1 else None
    counted = f"{run.unit}s{' before targets' if run.targets else ''}"
    label = (
        f"{'Mean scores' if several else 'Scores'} of {len(marks[0])} {run.classes[0]} and {len(marks[1])} "
        f"{run.classes[1]} speakers under {run.primary}; {right} of {len(mine)}{f' {counted}' if several else ''} are "
        "decided rightly."
    )
    return {
        "figure": figures.strip(marks, run.classes, threshold, label, mean=several),
        "distributions": figures.distributions(
            groups,
            run.classes,
            f"Histograms of the scores under {run.primary}: {run.classes[0]} from {_span(groups[0])}, "
            f"{run.classes[1]} from {_span(groups[1])}.",
            run.unit,
            counted,
        ),
        "right": right,
        "total": len(mine),
        "threshold": threshold,
        "classes": run.classes,
        "unit": run.unit,
        "targets": run.targets,
        "several": several,
        "ratio": run.ratio,
    }


def controls(run: Run) -> Mapping[str, Any] | None:
    """Attacks and blind baselines against what permuted labels give."""
    kinds = ("attack", "blind baseline", *(f"labels of {whose} permuted" for whose in PERMUTATIONS.values()))
    rows = []
    for name in run.attacks:
        found = [run.quoted(name), *(run.permuted(name, control) for control in PERMUTATIONS)]
        rows.append((name, [_bar(k, c) for k, c in zip((kinds[0], *kinds[2:]), found, strict=True)]))
    for name in run.baselines:
        if name != "majority":
            rows.append((name, [_bar(kinds[1], run.baseline(name, run.metric))]))
    drawn = [(name, [bar for bar in bars if bar is not None]) for name, bars in rows]
    drawn = [(name, bars) for name, bars in drawn if bars]
    if not drawn:
        return None
    told = "; ".join(
        f"{name}: " + ", ".join(f"{b.kind} {words.number(b.value)}{_ends(b)}" for b in bars) for name, bars in drawn
    )
    name = TITLES[run.metric]
    return {
        "figure": figures.intervals(
            drawn, kinds, f"{name} per {run.unit}", span(run.metric), run.guessing, f"{name} per {run.unit}. {told}."
        ),
        "metric": name,
        "permuted": any(b.kind in kinds[2:] for _, bars in drawn for b in bars),
    }


def utility(run: Run) -> Mapping[str, Any]:
    """How good the model is at its own task, under which defense."""
    claim = run.quoted(run.primary)
    alone = None if run.result.get("beside") else claim  # else a section of its own says what the defense costs
    return {"defense": alone.defense if alone else None, **_utility(run)}


def _utility(run: Run) -> Mapping[str, Any]:
    part = run.part("utility")
    if part.get("eer_members") is not None:
        errors = f"members' {words.number(part['eer_members'])}, others' {words.number(part['eer_nonmembers'])}"
        return {"figure": None, "last": f"{part.get('task') or 'Verification'}: equal error rate on {errors}."}
    if part.get("epochs") is not None:
        return {"figure": None, "last": encoders.pretraining(part)}
    if part.get("uar") is None and part.get("accuracy") is None:
        return {"figure": None, "last": None}
    by_round = part.get("by_round") or {}
    rounds = by_round.get("round") or []
    lines = [
        (title, by_round[key])
        for key, title in (("uar", "UAR"), ("accuracy", "accuracy"))
        if rounds and len(by_round.get(key) or []) == len(rounds)
    ]
    chance = part.get("chance_uar")
    told = [
        f"{title} {words.number(part[key])}"
        for key, title in (("uar", "UAR"), ("accuracy", "accuracy"))
        if part.get(key) is not None
    ]
    last = f"{part.get('task') or 'Its task'}: {', '.join(told)}"
    if chance is not None:
        last += f" (UAR by guessing: {words.number(chance)})"
    label = f"Utility over {len(rounds)} evaluations, rounds {rounds[0]} to {rounds[-1]}. {last}." if rounds else ""
    figure = figures.over_rounds(rounds, lines, chance, label) if lines else None
    return {"figure": figure, "last": last[0].upper() + last[1:] + "."}


def data(run: Run) -> Mapping[str, Any] | None:
    """Corpora, who was left out, and replies that failed."""
    corpora = run.part("corpora")
    rows = [
        {"role": role, "row": row, "left_out": row.get("left_out") or {}}
        for role in ("private", "auxiliary")
        for row in corpora.get(role) or ()
    ]
    failed = [tuple(reply) for reply in run.result.get("failed_replies") or ()]
    reasons = Counter(str(reply[-1]) for reply in failed if reply)
    if not rows and "failed_replies" not in run.result:
        return None
    return {
        "rows": rows,
        "test_speakers": run.result.get("test_speakers") or [],
        "failed": len(failed) if "failed_replies" in run.result else None,
        "reasons": sorted(reasons.items()),
    }


def settings(run: Run) -> Mapping[str, Any]:
    """What was run, with which versions, and how to run it again."""
    simulation = run.part("simulation")
    # What ran in a Flower app is run again without one: its engine is whatever that app was run on.
    if simulation.get("simulation", {}).get("engine") == "grid":
        simulation = {**simulation, "simulation": {**simulation["simulation"], "engine": "local"}}
    return {
        "toml": toml.dumps(simulation) if simulation else None,
        "versions": run.part("versions"),
        "seeds": sorted({seed for claim in run.claims for seed in claim.seeds}),
        "command": "run",
    }


SECTIONS = (
    Section("result", "Result", "headline.html.j2", headline),
    Section("threat-model", "Threat model", "threat.html.j2", threat),
    Section("attacks", "Attacks and controls", "attacks.html.j2", attacks),
    Section("utterances", "Single utterances", "utterances.html.j2", encoders.utterances),
    Section("layers", "By layer", "layers.html.j2", encoders.layers),
    Section("cost", "What a defense buys and costs", "cost.html.j2", cost.cost),
    Section("roc", "ROC", "roc.html.j2", roc),
    Section("scores", "Scores by speaker", "scores.html.j2", scores),
    Section("leaked", "By number of leaked updates", "leaked.html.j2", parts.leaked),
    Section("read-layers", "By layer of the update", "read-layers.html.j2", parts.layers),
    Section("rounds", "Early and late rounds", "rounds.html.j2", parts.rounds),
    Section("ratios", "By the share of voices that were trained on", "ratios.html.j2", parts.ratios),
    Section("queries", "With fewer queries", "queries.html.j2", parts.queries),
    Section("controls", "Against blind baselines and permuted labels", "controls.html.j2", controls),
    Section("targets", "If there were one target", "targets.html.j2", encoders.one_target),
    Section("epsilon", "Epsilon", "epsilon.html.j2", epsilon.epsilon),
    Section("published", "By the rules of the published study", "published.html.j2", parts.published),
    Section("confounds", "What never asks the encoder", "confounds.html.j2", encoders.confounds),
    Section("utility", "Utility", "utility.html.j2", utility),
    Section("data", "Data", "data.html.j2", data),
    Section("settings", "Settings", "settings.html.j2", settings),
)
"""In the order of the page. A new kind of result adds a section here, with its template."""


def _networks(run: Run, name: str) -> str:
    """Say of a control by several networks how far they lie apart."""
    control = run.baseline(name, run.metric)
    seen = control.conditions if control else {}
    if "networks" not in seen:
        return ""
    ends = f"{words.number(seen['lowest_network'])} to {words.number(seen['highest_network'])}"
    return f"; the mean of the standardised scores of {seen['networks']}, which give {ends} one by one"


def _names(corpora: Any) -> list[str]:
    return [str(corpus.get("name")) for corpus in corpora or ()]


def _bar(kind: str, claim: Claim | None) -> figures.Bar | None:
    return None if claim is None or claim.value is None else figures.Bar(kind, claim.value, claim.low, claim.high)


def _span(group: Sequence[SpeakerScore]) -> str:
    found = [s.score for s in group]
    return f"{min(found):.4g} to {max(found):.4g}"


def _ends(bar: figures.Bar) -> str:
    return "" if bar.low is None or bar.high is None else f" ({words.number(bar.low)} to {words.number(bar.high)})"
