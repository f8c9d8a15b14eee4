"""The result in plain words, chosen by its numbers and claiming no more than they show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fl_privacy.audit import Claim, Control
from fl_privacy.audit.reading import STATIC, SWAPPED, TITLES, main_claims, of_two
from fl_privacy.report.run import PERMUTATIONS, RATIO, Run

BLIND = {
    "blind-examples": "the number of examples that a client trained on",
    "blind-shares": "the shares of the task's classes among a client's examples",
    "blind-norm": "the norm of a client's update",
    "wrong-target": "another recogniser, which none of these speakers trained",
    "random-initialisation": "how close voices lie before a network that was never trained",
    "mean-log-mel": "how close voices lie by their mean log-mel energies",
    "log-mel-classifier": "mean log-mel energies, with a classifier that was told who the other members are",
    "duration": "how long the utterances are",
    "log-mel-frames": "the same statistic of log-mel frames, which no training touched",
    "random-encoder": "the same statistic of encoders of the same architecture that were never trained",
    "wrong-encoder": "the same statistic of an encoder that other people's speech trained",
    "chance": "guessing",
    "majority": "always naming the larger class",
}
"""What a baseline looks at."""

METRICS = {
    "auc": "AUC: the share of pairs of speakers of two kinds that the scores put in the right order (0.5: guessing).",
    "uar": "UAR: the mean over the attribute's values of the share decided rightly.",
    "accuracy": "Accuracy: the share of all speakers decided rightly.",
    "tpr_at_fpr_0.01": "TPR at 1 % FPR: the share of positive speakers found when at most 1 % of the negative ones are "
    "taken for positive.",
    "top_5_accuracy": "Accuracy of five guesses: the share of speakers whose value is among the five likeliest.",
    "mean_rank": "Mean rank: the place of the true value in the order of what the attack holds likely (1: first).",
    "correlation": "Correlation: of what the attack guesses with the truth (0: guessing, 1: in proportion).",
    "spearman": "Rank correlation: the same of ranks.",
    "r_squared": "R squared: the share of the variance that the guesses explain (below 0: worse than the mean).",
    "mean_absolute_error": "Mean absolute error: how far a guess is off on average, in the attribute's own unit.",
}
"""What a column of the table says."""

DECIDING = "permuted-private-labels"
"""The permutation that tests the claim: whether the scores have to do with the private speakers' attribute."""

_HEARD = {1.0: "voices on which the model was trained", 0.0: "other voices of the same people"}
"""What the attacker has of a speaker who is a member, by the share of it that was trained on."""

SHOWN, NOT_SHOWN, UNRESOLVED = "shown", "not shown", "unresolved"


@dataclass(frozen=True)
class Verdict:
    """What may be said of the primary attack.

    Attributes
    ----------
    kind : str
        `SHOWN`, `NOT_SHOWN` or `UNRESOLVED`.
    title : str
        In a few words.
    sentences : tuple of str
        Why, and with which limits.
    """

    kind: str
    title: str
    sentences: tuple[str, ...]


def number(value: float | None, signed: bool = False) -> str:
    """Three decimals with a true minus sign, or "unresolved"."""
    if value is None:
        return "unresolved"
    return f"{value:{'+' if signed else ''}.3f}".replace("-", "\N{MINUS SIGN}")


def interval(claim: Claim, signed: bool = False) -> str:
    """Return the two ends, or nothing where there are none."""
    if claim.low is None or claim.high is None:
        return ""
    return f"{number(claim.low, signed)} to {number(claim.high, signed)}"


def percent(fraction: float | None) -> str:
    """A confidence or a rate, as in "95 %"."""
    return "" if fraction is None else f"{100 * fraction:.4g} %"


def p_value(value: float | None) -> str:
    """Two significant digits."""
    return "" if value is None else f"{value:.2g}"


def count(n: int | None, noun: str, plural: str = "") -> str:
    """As in "1 speaker", "19 speakers"; a plural is given where it takes more than an s."""
    many = plural or f"{noun}s"
    return f"an unknown number of {many}" if n is None else f"{n:,} {noun if n == 1 else many}"


def of_hundred(fraction: float) -> str:
    """A share as so many of 100, never rounded to all or none."""
    rounded = round(100 * fraction)
    if rounded == 100 and fraction < 1:
        return "more than 99"
    if rounded == 0 and fraction > 0:
        return "fewer than 1"
    return str(rounded)


def task(run: Run) -> str:
    """Who wants to learn what of whom, as a sentence."""
    claim = run.quoted(run.primary)
    attacker = run.part("threat_model").get("attacker") or "the attacker"
    attribute = (claim.attribute if claim else None) or "the attribute"
    corpus = (claim.conditions.get("private") if claim else None) or ""
    where = "" if corpus in ("", "folder") else f" of the corpus {corpus}"
    people = count(claim.n_speakers if claim else None, "speaker") + where
    values = f" ({run.classes[0]} or {run.classes[1]})" if run.classes else ""
    defense = " No defense is on." if run.part("simulation").get("defense") == [] else ""
    if claim and claim.defense:
        defense = f" The defense is {claim.defense}, which the attacker knows.{_unaware(run)}"
    what = f"the {attribute}{values} of {people}"
    if attribute == "membership":
        what = f"which of {people} trained the model" + (", utterance by utterance" if run.unit == "utterance" else "")
    text = f"{attacker} tries to tell {what}, with the attack {run.primary}.{defense}"
    return _capital(text)


def _unaware(run: Run) -> str:
    """Say how somebody does who does not know the defense: at times better, where shadows are full of noise."""
    claim = run.quoted(f"{run.primary}{STATIC}")
    if claim is None or claim.value is None:
        return ""
    span = interval(claim) or "no interval"
    return f" An attacker who does not know it has {TITLES[run.metric]} {number(claim.value)} ({span})."


def utility(run: Run) -> str:
    """Say in a few words how good the model is at its own task; nothing where the result does not."""
    part = run.part("utility")
    if part.get("eer_members") is not None:
        return f"EER {number(part['eer_members'])} (members), {number(part['eer_nonmembers'])} (others)"
    if part.get("loss_members") is not None:
        return f"loss {number(part['loss_members'])} (members), {number(part['loss_nonmembers'])} (others)"
    named = (("uar", "UAR"), ("accuracy", "accuracy"), ("sentence_error", "error on unused sentences"))
    told = [(name, part.get(key)) for key, name in named]
    return next((f"{name} {number(value)}" for name, value in told if value is not None), "")


def title(run: Run) -> str:
    """Return the page's title."""
    claim = run.quoted(run.primary)
    if claim is None:
        return "Privacy audit"
    return f"Privacy audit: {claim.attribute or 'an attribute'} of {count(claim.n_speakers, 'speaker')}"


def measured(run: Run) -> list[str]:
    """The primary attack's quoted number and what it means for a reader."""
    claim, name = run.quoted(run.primary), TITLES[run.metric]
    if claim is None or claim.value is None:
        return [f"Its {name} per {run.unit} has no value: {claim.reason if claim else 'the result does not hold it'}."]
    span = interval(claim)
    ends = (
        f" ({percent(claim.confidence)} interval {span})" if span else f" (no interval: {claim.reason or 'not given'})"
    )
    swapped = claim.protocol == SWAPPED
    both = None not in (claim.n_positive, claim.n_negative) and not swapped
    of = "" if run.unit == "speaker" else f" {run.unit}s"
    sizes = f", {claim.n_positive} against {claim.n_negative}{of}" if both else ""
    people = count(claim.n_speakers, "speaker")
    found = f"{_capital(name)} per {run.unit}: {number(claim.value)}{ends}, over {people}{sizes}."
    meaning = {"auc": _pairs, "uar": _named, "correlation": _guessed}[run.metric]
    return [found, *meaning(run, claim), *_voices(run), *([_swapped(run)] if swapped else [])]


def _voices(run: Run) -> list[str]:
    """Say which voices of a speaker the attacker has, and how it does with the others, where a run has both."""
    if run.ratio not in _HEARD:
        return []
    quoted = (run.primary, run.unit, run.metric)
    told = {c.conditions.get(RATIO): c for c in main_claims(run.claims) if (c.attack, c.unit, c.metric) == quoted}
    heard, (unheard,) = _HEARD[run.ratio], _HEARD.keys() - {run.ratio}
    other = told.get(unheard)
    if other is None or other.value is None:
        return []
    return [f"The attacker has {heard}. With {_HEARD[unheard]} its AUC is {number(other.value)} ({interval(other)})."]


def _swapped(run: Run) -> str:
    """Say what swapped roles are, and that a number is a mean."""
    many = count(run.targets, "model") if run.targets else "several models"
    return (
        f"Roles are swapped: {many} were attacked, each trained on some of these {run.unit}s and not on others, so "
        "that each is a member for some models and none for others. The AUC is the mean over the models."
    )


def _pairs(run: Run, auc: Claim) -> list[str]:
    attribute = auc.attribute or "attribute"
    if attribute == "membership":
        who = "who" if run.unit == "speaker" else "that"
        pair = f"one {run.unit} {who} trained the model and one {who} did not"
    elif not of_two(run.main):
        pair = f"two speakers who differ in {attribute}"
    else:
        pair = (
            f"one {run.classes[0]} and one {run.classes[1]} speaker" if run.classes else f"one {run.unit} of each kind"
        )
    right = f"the attack tells which is which in {of_hundred(auc.value or 0.0)} of 100 such pairs{_between(auc)}"
    found = [f"That is to say: shown {pair}, {right}. Guessing gets 50."]
    uar = run.claim(run.primary, "uar")
    if uar is not None and uar.value is not None:
        kinds = "the two kinds" if of_two(run.main) else f"the values of {attribute}"
        found.append(f"Made to decide, it is right for {of_hundred(uar.value)} of 100 speakers (mean over {kinds}).")
    return found


def _named(run: Run, uar: Claim) -> list[str]:
    chance = "" if run.guessing is None else f" Guessing gets {of_hundred(run.guessing)}."
    right = f"the attack is right for {of_hundred(uar.value or 0.0)} of 100 (mean over its values){_between(uar)}"
    return [f"That is to say: made to name each speaker's {uar.attribute or 'attribute'}, {right}.{chance}"]


def _guessed(run: Run, correlation: Claim) -> list[str]:
    attribute = correlation.attribute or "attribute"
    found = [f"It is the correlation of what the attack guesses with the true {attribute}; guessing blindly gets 0."]
    error = run.claim(run.primary, "mean_absolute_error")
    if error is not None and error.value is not None:
        span = interval(error)
        ends = f" ({percent(error.confidence)} interval {span})" if span else ""
        found.append(f"Its guesses are off by {number(error.value)} on average{ends}, in the unit of {attribute}.")
    return found


def _between(claim: Claim) -> str:
    if claim.low is None or claim.high is None:
        return ""
    return f"; the interval allows {of_hundred(claim.low)} to {of_hundred(claim.high)}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def verdict(run: Run) -> Verdict:
    """Hold the primary attack against its best blind baseline and its permutations.

    A leak counts as shown when both hold: the interval of the difference to the best blind baseline lies above zero,
    and the p-value of permuting the private speakers' labels is at most one minus the confidence. Neither: not shown.
    Where they disagree, or one cannot be told: unresolved.

    Permuting the attacker's own labels is told beside it and decides nothing: an attacker trained on permuted labels
    sorts by some voice all the same, and may sort the private speakers well (or all wrong), so its null is wide.
    """
    if run.primary is None:
        return Verdict(UNRESOLVED, "Nothing is claimed", ("The result holds no claim.",))
    over = run.claim(run.primary, run.over_blind)
    permuted = {name: run.permuted(run.primary, name) for name in PERMUTATIONS}
    confidence = next((c.confidence for c in (over, run.quoted(run.primary)) if c and c.confidence), 0.95)
    beats, why_blind = _against_blind(run, over)
    name = TITLES[run.metric]
    claim = run.quoted(run.primary)
    rare, why_permuted = _against_permutations(permuted, 1 - confidence, name, claim.value if claim else None)
    sentences = (*why_blind, *why_permuted)
    speakers = count(claim.n_speakers if claim else None, "speaker")
    if beats and rare:
        limit = f"This is shown for {speakers} under the settings below; other people and other settings may differ."
        return Verdict(SHOWN, "A leak is shown", (*sentences, limit))
    if beats is False and rare is False:
        reach = f": the interval of the {name} reaches {number(claim.high)}" if claim and claim.high is not None else ""
        limit = f"That is no proof that nothing leaks{reach}, and another attack may do better."
        return Verdict(NOT_SHOWN, "No leak is shown", (*sentences, limit))
    limit = "A leak is claimed only where both tests speak for it, so this run settles it neither way."
    return Verdict(UNRESOLVED, "Unresolved", (*sentences, limit))


def _against_blind(run: Run, over: Claim | None) -> tuple[bool | None, list[str]]:
    if over is None or over.value is None:
        return None, [f"It is not held against a blind baseline: {over.reason if over else 'the result has none'}."]
    best = run.best_blind
    control, name = run.baseline(best, run.metric), TITLES[run.metric]
    known = f" ({name} {number(control.value)})" if control and control.value is not None else ""
    blind = [name for name in run.baselines if name != "majority"]
    if best in (None, "chance") and over.protocol == SWAPPED and not blind:
        rival = "With roles swapped, an attacker who never asks the model gets one half by construction"
    elif best in (None, "chance"):
        rival = "No attacker that is blind to what the model computed does better than guessing"
    else:
        looks = BLIND.get(str(best), best)
        rival = f"The best attacker that is blind to what the model computed looks only at {looks}{known}"
    gap = f"the attack's {name} differs from that by {number(over.value, signed=True)}"
    if over.low is None or over.high is None:
        return None, [f"{rival}; {gap}, with no interval: {over.reason or 'not given'}."]
    ends = f"{percent(over.confidence)} interval {interval(over, signed=True)}"
    if over.low > 0:
        return True, [f"{rival}; {gap} ({ends}), and zero lies outside that interval."]
    return False, [f"{rival}; {gap} ({ends}), which does not show that the attack does better."]


def _against_permutations(
    permuted: Mapping[str, Control | None], alpha: float, metric: str, value: float | None
) -> tuple[bool | None, list[str]]:
    sentences = []
    for name, whose in PERMUTATIONS.items():
        control = permuted.get(name)
        if control is not None and control.p_value is not None and control.n_permutations:
            as_good = round(control.p_value * (1 + control.n_permutations)) - 1
            apart = control.observed is not None and number(control.observed) != number(value)
            before = f" before calibration ({number(control.observed)})" if apart else ""
            sentences.append(
                f"With the labels of the {whose} permuted, the {metric}{before} was at least as high in {as_good:,} of "
                f"{control.n_permutations:,} permutations: p = {p_value(control.p_value)} "
                f"(the smallest possible is {p_value(control.smallest_p_value)})."
            )
    test = permuted.get(DECIDING)
    if test is None or test.p_value is None or not test.n_permutations:
        return None, [*sentences, "There is no permutation test of the private speakers' labels."]
    # The tolerance is for a p of exactly alpha, such as 0.1 against 1 - 0.9.
    limit = alpha + 1e-9
    if (test.smallest_p_value or 1.0) > limit:
        sentences.append(f"{test.n_permutations} permutations cannot give a p-value as small as {p_value(alpha)}.")
        return None, sentences
    return test.p_value <= limit, sentences
