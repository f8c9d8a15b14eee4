"""The page of a model inversion: who recognises it, where it is read, what it gives away, and what helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fl_privacy.report import epsilon, inversion_sections, sections, words
from fl_privacy.report.inversion_lookups import (
    GIVEN,
    PART,
    at_its_work,
    chance_of,
    find_claim,
    find_control,
    is_about,
    is_guessing,
    primary_claim,
)
from fl_privacy.report.page import Section
from fl_privacy.report.run import Run
from fl_privacy.report.words import Verdict, interval, number, percent


def is_inversion(run: Run) -> bool:
    """Whether a result is of this kind."""
    return bool(run.part(PART))


def title(run: Run) -> str:
    """Return the page's title."""
    lead = primary_claim(run)
    return f"Model inversion: {words.count(lead.n_speakers if lead else None, 'speaker')}"


def verdict(run: Run) -> Verdict:
    """Hold the primary attack before the independent recogniser against its best blind control and permutations.

    Nothing is concluded from an attack that found nothing in a classifier that knows nothing.
    """
    lead, over = primary_claim(run), primary_claim(run, "accuracy_over_best_blind")
    if lead is None or lead.value is None or over is None or over.value is None:
        return Verdict(words.UNRESOLVED, "Nothing is claimed", ("The result holds no primary claim.",))
    judge = lead.conditions["judge"]
    null = next(
        (
            c
            for c in run.controls
            if c.control == "permuted-identities" and is_about(c, lead.attack, "accuracy", {"judge": judge})
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
            f"({percent(over.confidence)} interval {interval(over, signed=True)})."
        )
    ]
    if null is not None and p is not None:
        sentences.append(
            f"With the identities permuted, as many were recognised with p = {words.p_value(p)} "
            f"(smallest possible {words.p_value(null.smallest_p_value)})."
        )
    if beats and rare:
        return Verdict(words.SHOWN, "Voices are reconstructed that somebody else recognises", tuple(sentences))
    if is_guessing(at_its_work(run)):
        sentences.append(
            "Nothing found in a classifier that may have learned nothing says nothing of one that has: train it for "
            "longer, attack another, or let it know more speakers, so that its work can be told from guessing."
        )
        return Verdict(
            words.UNRESOLVED,
            "The classifier under attack cannot be told from one that guesses: nothing follows",
            tuple(sentences),
        )
    if not beats and not rare:
        sentences.append(
            "An independent recogniser does not show more than chance here; that is no proof that no attack could."
        )
        return Verdict(words.NOT_SHOWN, "No reconstruction of a voice is shown", tuple(sentences))
    sentences.append("A reconstruction is claimed only where both tests speak for it.")
    return Verdict(words.UNRESOLVED, "Unresolved", tuple(sentences))


def headline(run: Run) -> Mapping[str, Any]:
    """What was found, in plain words."""
    lead, found = primary_claim(run), verdict(run)
    if lead is None:
        return {"task": None, "measured": [], "verdict": found}
    attacked = find_claim(run, lead.attack, "accuracy", judge="attacked")
    natural = find_control(
        run, "own recordings", "", "accuracy", judge=lead.conditions["judge"], length=lead.conditions["length"]
    )
    task = (
        f"The attacker reconstructs the voices of {words.count(lead.n_speakers, 'speaker')} from a classifier that "
        f"was trained on them, with the attack {lead.attack}. It counts only where an independent recogniser agrees."
    )
    measured = [
        *_work(run),
        (
            f"Recognised by {GIVEN[lead.conditions['judge']]}: {number(lead.value)} "
            f"({percent(lead.confidence)} interval {interval(lead)}); chance is {number(chance_of(lead))}."
        ),
    ]
    if attacked is not None:
        measured.append(
            f"Recognised by the classifier under attack: {number(attacked.value)} ({interval(attacked)}), where "
            "adversarial examples count, too."
        )
    if natural is not None:
        measured.append(
            f"Of real recordings of the same length, the independent recogniser gets {number(natural.value)} right: "
            "the mark to hold an inversion against."
            + (" That cannot be told from guessing: at this length it is no judge." if is_guessing(natural) else "")
        )
    return {"task": task, "measured": measured, "verdict": found}


def _work(run: Run) -> list[str]:
    """Say how good the classifier under attack is, first of all where it is not."""
    own = at_its_work(run)
    if own is None:
        return []
    share = f"{number(own.value)} ({percent(own.confidence)} interval {interval(own)})"
    if is_guessing(own):
        return [
            (
                "The classifier under attack cannot be told from one that guesses: of unused recordings of its own "
                f"speakers it recognises {share}; chance is {number(chance_of(own))}. Its inversions say nothing of "
                "anybody's voice."
            )
        ]
    return [f"The classifier under attack recognises unused recordings of its own speakers: {share}."]


def threat(run: Run) -> Mapping[str, Any] | None:
    """Who attacks: for the voices themselves, whatever label is read from them besides."""
    told = sections.threat(run)
    return None if told is None else {**told, "attribute": "their voices", "trains": "train", "sees": "weights"}


def promised(run: Run) -> Mapping[str, Any] | None:
    """What a private training promises to a recording and to a speaker."""
    told = epsilon.epsilon(run)
    if told is None:
        return None
    sentence = (
        "What is attacked is a speaker's voice, of which the classifier learned from all of the speaker's recordings: "
        "of that the row of the unit speaker tells."
    )
    return {
        **told,
        "rows": [{**row, "attacked": "speaker: identity"} for row in told["rows"]],
        "sentences": [sentence],
    }


def utility(run: Run) -> Mapping[str, Any]:
    """How good the target and its judges are at their own task."""
    part = run.part("utility")
    error = part.get("sentence_error")
    told = "" if error is None else f"Speaker recognition of unused sentences: error {number(error)} (target)."
    return {"defense": None, "figure": None, "last": told or None}


SECTIONS = (
    Section("result", "Result", "headline.html.j2", headline),
    Section("threat-model", "Threat model", "threat.html.j2", threat),
    Section("recognised", "By whom inversions are recognised", "inversion.html.j2", inversion_sections.recognised),
    Section("readouts", "Where a slid inversion is read", "inversion.html.j2", inversion_sections.readouts),
    Section("published", "Beside the published table", "inversion.html.j2", inversion_sections.published),
    Section("distances", "Distances of d-vectors", "inversion.html.j2", inversion_sections.distances),
    Section("dvectors", "The last layer alone", "inversion.html.j2", inversion_sections.dvectors),
    Section("label", "What inverted d-vectors give away", "inversion.html.j2", inversion_sections.gender),
    Section("spoof", "From inversions to speech", "inversion.html.j2", inversion_sections.spoofing),
    Section("countermeasures", "Countermeasures", "inversion.html.j2", inversion_sections.countermeasures),
    Section("epsilon", "Epsilon", "epsilon.html.j2", promised),
    Section("waves", "Waves", "inversion.html.j2", inversion_sections.waves),
    Section("costs", "Cost", "inversion.html.j2", inversion_sections.costs),
    Section("utility", "Utility", "utility.html.j2", utility),
    Section("data", "Data", "data.html.j2", sections.data),
    Section("settings", "Settings", "settings.html.j2", sections.settings),
)
"""In the order of the page."""
