"""The attacks of a report: which statistic of which unit, and whether references calibrate it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.membership.references import calibrate
from fl_privacy.attacks.membership.ssl.look import Look
from fl_privacy.attacks.membership.ssl.scores import pair_mean, speaker_score
from fl_privacy.errors import UserError

Floats = NDArray[np.float64]

UNITS = ("speaker", "utterance")
STATISTICS = ("basic", "improved", "loss", "loss whole")
"""What an attack looks at: `loss` is the pre-training loss on crops of the training length, `loss whole` that of whole
utterances; both take the model itself (grey box)."""

_CALIBRATED, _RATIO = " calibrated", " likelihood ratio"


@dataclass(frozen=True, slots=True)
class FrameAttack:
    """An attack on an encoder's frames.

    Attributes
    ----------
    statistic : str
        One of `STATISTICS`.
    calibration : str
        "": none. "residual": less what references explain, with a slope that is learned on the references alone.
        "score": the same over its spread, which ranks by a likelihood ratio.
    """

    statistic: str
    calibration: str = ""

    @property
    def grey_box(self) -> bool:
        """Whether the attacker needs the model itself."""
        return self.statistic.startswith("loss")

    def scores(
        self,
        target: Look,
        references: Sequence[Look],
        units: Mapping[str, Sequence[str]],
        unit: str,
        layer: int = -1,
    ) -> Floats:
        """Return the score (n,) of each unit before a target; higher means a member.

        Parameters
        ----------
        target : Look
        references : sequence of Look
            Of encoders that none of the units trained; unused without calibration.
        units : mapping of str to sequence of str
            The ids of the utterances of each: one, or all of a speaker.
        unit : str
            One of `UNITS`.
        layer : int
        """
        seen = statistic(self.statistic, target, units, unit, layer)
        if not self.calibration:
            return seen
        if len(references) < 2:
            raise UserError(
                f"{self.statistic} calibrated: two reference encoders at least; there are {len(references)}"
            )
        known = np.stack([statistic(self.statistic, other, units, unit, layer) for other in references], axis=1)
        found = calibrate(seen, known)
        return found.residual if self.calibration == "residual" else found.score


def frame_attacks() -> dict[str, FrameAttack]:
    """Every attack by name."""
    found = {name: FrameAttack(name) for name in STATISTICS}
    found |= {name + _CALIBRATED: FrameAttack(name, "residual") for name in STATISTICS}
    return found | {name + _RATIO: FrameAttack(name, "score") for name in STATISTICS}


def loss_of(look: Look, name: str) -> Floats:
    """Return the loss (n,) that `loss` or `loss whole` is about; NaN of what was not asked."""
    return look.loss if name == "loss" else look.loss_whole


def statistic(name: str, look: Look, units: Mapping[str, Sequence[str]], unit: str, layer: int = -1) -> Floats:
    """Return a statistic (n,) of each unit under one encoder; see `FrameAttack.scores`.

    Of a speaker, `basic` is the mean cosine similarity of the utterances' mean frames, `improved` the mean inner
    product of the network's vectors, a loss the mean over utterances. A loss has its sign turned: members' is low.

    Raises
    ------
    UserError
        For a speaker with one utterance, or a statistic that the encoder does not have.
    """
    if name not in STATISTICS or unit not in UNITS:
        raise UserError(f"unknown statistic {name!r} of a {unit}. Known: {', '.join(STATISTICS)}")
    groups = [look.rows(ids) for ids in units.values()]
    if unit == "utterance" or name.startswith("loss"):
        column = {"basic": look.basic[:, layer], "improved": look.improved}
        values = column[name] if name in column else -loss_of(look, name)
        found = np.array([values[rows].mean() for rows in groups])
    elif name == "basic":
        found = np.array([speaker_score(look.means[rows, layer]) for rows in groups])
    else:
        found = np.array([pair_mean(look.projected[rows]) if look.projected.size else np.nan for rows in groups])
    if not np.isfinite(found).all():
        raise UserError(
            f"attack {name!r}: the encoder has no such score for {int((~np.isfinite(found)).sum())} {unit}s"
        )
    return found
