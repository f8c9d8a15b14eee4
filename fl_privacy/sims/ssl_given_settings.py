"""The settings of a run on an encoder that is there already, and what an attack on it takes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from fl_privacy.attacks.membership.ssl.attacks import frame_attacks
from fl_privacy.attacks.membership.ssl.pseudo_labels import Learning
from fl_privacy.errors import UserError
from fl_privacy.sims.speaker_recognisers import Source
from fl_privacy.sims.ssl_encoders import GivenEncoder
from fl_privacy.sims.ssl_membership import check_attacks
from fl_privacy.sims.ssl_recordings import Inputs

MEMBERS, NONMEMBERS, AUXILIARY = "members/", "nonmembers/", "auxiliary/"


@dataclass(frozen=True)
class GivenMembership:
    """The settings of a run on an encoder that is there already.

    Attributes
    ----------
    encoder : GivenEncoder
    members, nonmembers : Source
        What trained it, and what did not; their sides are `MEMBERS` and `NONMEMBERS`.
    auxiliary : Source or None
        The attacker's own speech (side `AUXILIARY`). None: all non-members, in the published reading, and half of the
        non-members' speakers, who are then not judged, in the controlled one.
    others : tuple of GivenEncoder
        Of the same architecture, pre-trained on neither side's speech: references of calibrated attacks, and the first
        one a control.
    inputs : Inputs
        Of the controlled reading.
    backwards : bool
        Turn every input around in time, in both readings.
    match : float
        Where the controlled reading sends whole utterances, pair members and non-members that differ by so many seconds
        at most; 0: do not.
    per_speaker : int
        Utterances of each speaker, drawn; 0: all.
    published : bool
        Whether the published reading is made beside the controlled one.
    layer : int
    attacks : tuple of str
        Names out of `fl_privacy.attacks.membership.ssl.attacks.frame_attacks`, the primary one first. The published
        reading makes those of them that the study has.
    learning : Learning
        Of the controlled reading; the published one has the study's rate.
    random_seeds : int
    permutations, confidence, seed, processes
        As in `fl_privacy.sims.ssl_membership.SslMembership`.
    loss_crops : int
        Of what is sent of an utterance, on which the pre-training loss is taken.

    Raises
    ------
    UserError
        For an attack that the encoder has not got what it takes for.
    """

    encoder: GivenEncoder
    members: Source
    nonmembers: Source
    auxiliary: Source | None = None
    others: tuple[GivenEncoder, ...] = ()
    inputs: Inputs = field(default_factory=lambda: Inputs(peak=True))
    backwards: bool = False
    match: float = 0.0
    per_speaker: int = 0
    published: bool = True
    layer: int = -1
    attacks: tuple[str, ...] = ("improved", "basic")
    learning: Learning = field(default_factory=Learning)
    random_seeds: int = 5
    permutations: int = 200
    confidence: float = 0.95
    seed: int = 1
    processes: int = 1
    loss_crops: int = 4

    def __post_init__(self) -> None:
        check_attacks(self.attacks)
        if self.encoder.encoder is None and not self.encoder.architecture:
            raise UserError("target.architecture: missing; which network is the checkpoint of?")
        self._check_files()
        for name in self.attacks:
            self._check_attack(name)

    def _check_files(self) -> None:
        """Refuse a reference that is the target, or another reference, under whatever name."""
        seen: dict[str, str] = {}
        for one in (self.encoder, *self.others):
            path = Path(one.checkpoint or "")
            if one.checkpoint is None or not (self.others and path.is_file()):
                continue
            with path.open("rb") as file:
                held = hashlib.file_digest(file, "sha256").hexdigest()
            if held in seen:
                raise UserError(
                    f"controls.checkpoint: a reference stands there twice, or is the target's own: {path} holds what "
                    f"{seen[held]} does"
                )
            seen[held] = str(path)

    def _check_attack(self, name: str) -> None:
        from fl_privacy.models.pretrained import IN_REPO

        attack, there = frame_attacks()[name], len(self.others)
        if attack.grey_box and self.encoder.architecture not in IN_REPO:
            raise UserError(
                f"attack {name!r} takes the model itself with the head of its pre-training, which is there in files of "
                f"ours alone (target.architecture = {' or '.join(IN_REPO)}); of {self.name}: basic, improved"
            )
        if attack.calibration and there < 2:
            raise UserError(
                f"attack {name!r} takes two reference encoders at least, of the target's architecture and pre-trained "
                f'on neither side\'s speech: controls.checkpoint = ["one.pt", "another.pt"]; there {_count(there)}'
            )

    @property
    def grey_box(self) -> bool:
        """Whether an attack takes the pre-training loss."""
        return any(frame_attacks()[name].grey_box for name in self.attacks)

    @property
    def study(self) -> tuple[str, ...]:
        """Those of the attacks that the published study has."""
        return tuple(name for name in self.attacks if name in ("basic", "improved"))

    @property
    def name(self) -> str:
        """Of the target, in claims."""
        return self.encoder.encoder or self.encoder.architecture


def _count(there: int) -> str:
    return "is one" if there == 1 else "is none"
