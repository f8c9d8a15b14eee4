"""What a run of inversion prints: the tables of its report in short."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fl_privacy.attacks.files import aligned, cell
from fl_privacy.audit import Claim, Control
from fl_privacy.sims.inversion_findings import ACCURACY, AT_EER, AT_FAR, IDENTITY, NATURAL
from fl_privacy.sims.inversion_judges import ATTACKED, INDEPENDENT

Rows = list[Sequence[str]]


def tables_of(
    claims: Sequence[Claim], controls: Sequence[Control], judges: Sequence[str], part: Mapping[str, Any]
) -> str:
    """Return as text who recognises what, where it is read, what it gives away, and what helps.

    Parameters
    ----------
    claims : sequence of Claim
    controls : sequence of Control
    judges : sequence of str
    part : mapping
        What the result says of inversion.
    """
    told = _Told(claims, controls, judges, part)
    tables = (told.recognised(), told.read(), told.layer(), told.label(), told.speech(), told.countermeasures())
    texts = [aligned(rows) for rows in tables if len(rows) > 1]
    return "\n\n".join([*texts[:1], *filter(None, ["\n".join(told.diverged())]), *texts[1:]])


class _Told:
    def __init__(
        self, claims: Sequence[Claim], controls: Sequence[Control], judges: Sequence[str], part: Mapping[str, Any]
    ) -> None:
        self._claims, self._controls, self._judges, self._part = claims, controls, judges, part

    def recognised(self) -> Rows:
        """Attacks by judges, and what they took; the speakers' own recordings last."""
        rows: Rows = [("recognised", *self._judges, "gradient steps")]
        for name in dict.fromkeys(c.attack for c in self._of(ACCURACY) if "method" in c.conditions):
            steps = f"{self._part['costs'][name]['gradient_steps']:,}"
            rows.append((name, *(self._by(name, ACCURACY, judge) for judge in self._judges), steps))
        own = [c for c in self._controls if (c.control, c.attack, c.metric) == (NATURAL, "", ACCURACY)]
        for length in sorted({int(c.conditions["length"]) for c in own}):
            found = {c.conditions["judge"]: c for c in own if c.conditions["length"] == length}
            told = f"{length / 16:.0f} ms" if length else "whole"
            rows.append((f"own recordings, {told}", *(cell(found.get(judge)) for judge in self._judges), ""))
        return rows

    def diverged(self) -> list[str]:
        """Attacks that ran off: their numbers are no measure of inversion."""
        lines = []
        for name, cost in self._part["costs"].items():
            if count := cost["ended"].get("diverged", 0):
                lines.append(
                    f"{name}: {count} of {cost['inversions']} jobs diverged; what is judged of them is the best point "
                    "before, which may be the start"
                )
        return lines

    def read(self) -> Rows:
        """Vectors by read-out."""
        rows: Rows = [("recognised, read at", *(name.replace("_", " ") for name in self._part["readouts"]))]
        claims = [c for c in self._claims if c.metric == ACCURACY and "readout" in c.conditions]
        for name in dict.fromkeys(c.attack for c in claims):
            at = {c.conditions["readout"]: c.value for c in claims if c.attack == name}
            values = (at.get(readout) for readout in self._part["readouts"])
            rows.append((name, *("" if value is None else f"{value:.3f}" for value in values)))
        return rows

    def layer(self) -> Rows:
        """D-vectors before the last layer."""
        rows: Rows = [("the last layer alone", "taken for the speaker")]
        return rows + [(c.attack, cell(c)) for c in self._of(ACCURACY) if "layer" in c.conditions]

    def label(self) -> Rows:
        """What is read of a label."""
        claims = [c for c in self._claims if c.attribute not in (None, IDENTITY)]
        rows: Rows = [(f"{claims[0].attribute} read from" if claims else "", "AUC", "accuracy", "larger class")]
        for name in dict.fromkeys(c.attack for c in claims):
            mine = {c.metric: c for c in claims if c.attack == name}
            larger = next((c for c in self._controls if (c.control, c.of) == ("majority", name)), None)
            rows.append((name, cell(mine.get("auc")), cell(mine.get("accuracy")), cell(larger)))
        return rows

    def speech(self) -> Rows:
        """Speech before the independent recogniser, each beside what was made for others."""
        rows: Rows = [(f"speech, accepted by {INDEPENDENT}", "at the EER", "for others", "at 1 % FAR", "for others")]
        for voice in self._part.get("spoof", {}).get("voices", ()):
            name = f"speech: {voice}"
            rows.append((voice, *(text for metric in (AT_EER, AT_FAR) for text in self._beside_others(name, metric))))
        return rows

    def countermeasures(self) -> Rows:
        """What is recognised still, and what users have left."""
        rows: Rows = [("countermeasure", ATTACKED, INDEPENDENT, "sentence error")]
        for row in self._part.get("countermeasures", ()):
            error = row.get("sentence_error")
            both = (self._by(row["name"], ACCURACY, judge) for judge in (ATTACKED, INDEPENDENT))
            rows.append((row["name"], *both, "" if error is None else f"{error:.3f}"))
        return rows

    def _of(self, metric: str) -> Iterator[Claim]:
        return (
            c for c in self._claims if (c.metric, c.attribute) == (metric, IDENTITY) and "readout" not in c.conditions
        )

    def _by(self, attack: str, metric: str, judge: str) -> str:
        mine = (c for c in self._of(metric) if c.attack == attack and c.conditions.get("judge") == judge)
        return cell(next(mine, None))

    def _beside_others(self, attack: str, metric: str) -> tuple[str, str]:
        wrong = (
            c
            for c in self._controls
            if (c.control, c.of, c.metric, c.conditions.get("judge")) == ("wrong-speaker", attack, metric, INDEPENDENT)
        )
        return self._by(attack, metric, INDEPENDENT), cell(next(wrong, None))
