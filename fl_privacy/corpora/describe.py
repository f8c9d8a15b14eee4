"""A corpus in a screenful of text."""

from __future__ import annotations

import statistics
from collections import Counter

from fl_privacy.corpora.base import Corpus

_EXAMPLES = 3
_UNLABELLED = "(none)"


def describe(corpus: Corpus) -> str:
    """Describe a corpus in plain text.

    Parameters
    ----------
    corpus : Corpus
        What to describe.

    Returns
    -------
    str
        Speakers by gender, utterances by emotion and by gender x emotion, hours, utterances per speaker, and what was
        left out: each reason with its count and up to three examples.
    """
    counts = Counter(utterance.speaker for utterance in corpus)
    lines = [
        f"{corpus.name}{f' in {corpus.root}' if corpus.root else ''}",
        f"  speakers                {len(counts)}{_by_gender(corpus)}",
        f"  utterances              {len(corpus)}, {corpus.hours:.2f} hours",
    ]
    if counts:
        low, middle, high = min(counts.values()), statistics.median(counts.values()), max(counts.values())
        lines.append(f"  utterances per speaker  {low} to {high}, median {middle:g}")
    lines += [
        f"  labels                  {', '.join(corpus.attributes) or 'none'}",
        *_emotions(corpus),
        *_excluded(corpus),
    ]
    return "\n".join(lines)


def _by_gender(corpus: Corpus) -> str:
    if "gender" not in corpus.attributes:
        return ""
    gender_of = {utterance.speaker: utterance.labels.get("gender", _UNLABELLED) for utterance in corpus}
    parts = [f"{count} {gender}" for gender, count in sorted(Counter(gender_of.values()).items())]
    return f" ({', '.join(parts)})"


def _emotions(corpus: Corpus) -> list[str]:
    if "emotion" not in corpus.attributes:
        return []
    pairs = Counter((u.labels.get("emotion", _UNLABELLED), u.labels.get("gender", _UNLABELLED)) for u in corpus)
    genders = sorted({gender for _, gender in pairs}) if "gender" in corpus.attributes else []
    lines = ["", "  emotion       " + "".join(f"{head:>10}" for head in ["all", *genders])]
    for emotion in sorted({emotion for emotion, _ in pairs}):
        by_gender = [pairs[emotion, gender] for gender in genders]
        total = sum(count for (name, _), count in pairs.items() if name == emotion)
        lines.append(f"  {emotion:<14}" + "".join(f"{count:>10}" for count in [total, *by_gender]))
    return lines


def _excluded(corpus: Corpus) -> list[str]:
    if not corpus.excluded:
        return ["", "  nothing left out"]
    groups: dict[str, list[str]] = {}
    for excluded in corpus.excluded:
        groups.setdefault(excluded.reason, []).append(excluded.item)
    lines = ["", f"  left out: {len(corpus.excluded)}"]
    for reason, items in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])):
        more = ", ..." if len(items) > _EXAMPLES else ""
        lines.append(f"  {len(items):>6}  {reason}: {', '.join(items[:_EXAMPLES])}{more}")
    return lines
