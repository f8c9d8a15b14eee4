"""The judges of a run: trained on recordings that the target never heard, with thresholds set on real voices."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.inversion.judges import EncoderJudge, Judge, Thresholds, Verdicts
from fl_privacy.audit.files import write_atomically
from fl_privacy.audit.metrics import Floats
from fl_privacy.config.speaker_inversion import InversionJudges
from fl_privacy.errors import UserError
from fl_privacy.models.classifier import SpeakerClassifier
from fl_privacy.models.encoder import SpeakerEncoder
from fl_privacy.models.speaker import ENCODERS
from fl_privacy.sims.inversion_people import People, Wave, cuts
from fl_privacy.training.speaker import SpeakerTraining, train_speaker_encoder

ATTACKED, OTHER_SEED, INDEPENDENT, ENCODER = "attacked", "other seed", "other architecture", "speaker encoder"
"""Names of the judges: the target itself, which is none; a second one of another seed; a recogniser of another
architecture; and an encoder that was trained on other people and has heard every class once."""

_WINDOWS = 60
"""Of a long wave that a classifier hears as a judge; 10 ms apart, neighbours say much the same."""

_CUTS = 8
"""Real pieces a speaker that thresholds and ceilings are told by."""


class ClassifierJudge:
    """A speaker classifier as a judge: mean log-posteriors over the windows of a wave, of a long one over some of them.

    Parameters
    ----------
    classifier : SpeakerClassifier
    name : str
    """

    def __init__(self, classifier: SpeakerClassifier, name: str) -> None:
        self.classifier, self.name = classifier, name

    def scores(self, waves: Sequence[Wave]) -> Floats:
        """Return mean log-posteriors (waves, classes)."""
        least = self.classifier.window
        heard = [wave if wave.size >= least else np.resize(wave, least) for wave in waves]
        hops = [max(self.classifier.shift, (wave.size - least) // _WINDOWS) for wave in heard]
        return np.stack([self.classifier.posteriors(w, hop).mean(axis=0) for w, hop in zip(heard, hops, strict=True)])


@dataclass(frozen=True)
class Natural:
    """What a judge makes of real pieces of one length.

    Attributes
    ----------
    thresholds : Thresholds
    recognised, among_five : ndarray, shape (classes,)
        Share of each speaker's pieces that are recognised, or whose speaker is among the best five.
    accepted_at_eer, accepted_at_far_1 : ndarray or None, shape (classes,)
        Share that is accepted as the speaker's; None where the thresholds are not resolved.
    """

    thresholds: Thresholds
    recognised: Floats
    among_five: Floats
    accepted_at_eer: Floats
    accepted_at_far_1: Floats | None


class Bench:
    """Judges, and what they make of real voices.

    Parameters
    ----------
    judges : sequence of Judge
        The target first.
    people : People
    seed : int
        Of the pieces that are cut.
    """

    def __init__(self, judges: Sequence[Judge], people: People, seed: int) -> None:
        self.judges = {judge.name: judge for judge in judges}
        self._people, self._seed = people, seed
        self._natural: dict[tuple[str, int], Natural] = {}

    def natural(self, judge: str, length: int) -> Natural:
        """Return what a judge makes of unused real pieces of so many samples; 0: of whole recordings."""
        key = (judge, length)
        if key not in self._natural:
            waves, owners = self.pieces(length)
            scores = self.judges[judge].scores(waves)
            table, thresholds = Verdicts(scores, owners), Thresholds.of(scores, owners)

            def rates(hits: Floats) -> Floats:
                return _by_class(hits, owners)

            self._natural[key] = Natural(
                thresholds,
                rates(table.among()),
                rates(table.among(5)),
                rates(table.accepted(thresholds.eer)),
                None if thresholds.far_1 is None else rates(table.accepted(thresholds.far_1)),
            )
        return self._natural[key]

    def recognised(self, judge: Judge) -> Floats:
        """Return the share (classes,) of each speaker's whole, unused recordings that any judge recognises."""
        waves, owners = self.pieces(0)
        return _by_class(Verdicts(judge.scores(waves), owners).among(), owners)

    def pieces(self, length: int) -> tuple[list[Wave], NDArray[np.int64]]:
        """Return unused real pieces of all classes, and the number of the class of each."""
        found: list[Wave] = []
        owners: list[int] = []
        for number, name in enumerate(self._people.classes):
            rng = np.random.default_rng([self._seed, 22, number, length])
            mine = (
                list(self._people.tested[name]) if not length else cuts(self._people.tested[name], length, _CUTS, rng)
            )
            found += mine
            owners += [number] * len(mine)
        return found, np.array(owners, dtype=np.int64)


def _by_class(hits: Floats, owners: NDArray[np.int64]) -> Floats:
    return np.array([hits[owners == k].mean() for k in range(int(owners.max()) + 1)])


def check_judges(settings: InversionJudges) -> None:
    """Refuse an encoder that is not known.

    Raises
    ------
    UserError
    """
    if settings.encoder not in ENCODERS:
        raise UserError(f"judges: unknown speaker encoder {settings.encoder!r}. Known: {', '.join(ENCODERS)}")


def train_judges(
    folder: Path, people: People, settings: InversionJudges, seed: int, told: Callable[[int], None] | None = None
) -> None:
    """Train the recogniser of another architecture and the speaker encoder; what is there stays.

    Parameters
    ----------
    folder : Path
        Gets ``independent.safetensors``, ``encoder.safetensors`` and ``facts.json``.
    people : People
    settings : InversionJudges
    seed : int
    told : callable, optional
        Told of every step.
    """
    from safetensors.torch import save_file

    training = SpeakerTraining(encoder=settings.encoder, steps=settings.steps, crop_frames=settings.crop_frames)
    sides = {"independent": people.judged, "encoder": people.auxiliary}
    for number, (name, voices) in enumerate(sides.items()):
        path = folder / f"{name}.safetensors"
        if path.exists():
            continue
        model = train_speaker_encoder(*people.of(voices), training, 1000 * seed + 500 + number, told)
        partial = path.with_name(f".{path.name}.partial")
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, str(partial))
        partial.replace(path)
    write_atomically(folder / "facts.json", json.dumps(asdict(training), indent=1) + "\n")


def read_judge(folder: Path, which: str) -> SpeakerEncoder:
    """Read one of them: "independent" or "encoder"."""
    from safetensors.torch import load_file

    from fl_privacy.models.speaker import make_encoder

    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    model = make_encoder(facts["encoder"])
    model.load_state_dict(load_file(str(folder / f"{which}.safetensors")))
    return SpeakerEncoder.of_module(model.eval(), name=which)


def bench_of(
    folder: Path, people: People, target: SpeakerClassifier, other: SpeakerClassifier | None, seed: int
) -> Bench:
    """Return all judges of a run."""
    enrolment = [people.judged[name] for name in people.classes]
    judges: list[Judge] = [ClassifierJudge(target, ATTACKED)]
    if other is not None:
        judges.append(ClassifierJudge(other, OTHER_SEED))
    judges.append(EncoderJudge(read_judge(folder, "independent"), enrolment, INDEPENDENT))
    judges.append(EncoderJudge(read_judge(folder, "encoder"), enrolment, ENCODER))
    return Bench(judges, people, seed)
