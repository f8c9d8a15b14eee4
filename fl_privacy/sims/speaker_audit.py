"""One person's question: was my voice used to train this speaker recogniser?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.membership.conformal import beyond_the_input, closeness, conformal_p_values
from fl_privacy.corpora import AudioError, Corpus, Utterance
from fl_privacy.errors import UserError
from fl_privacy.models.encoder import SpeakerEncoder
from fl_privacy.models.speaker import LogMel

_WAVES = (".wav", ".flac")
_WANTED = 19
"""Reference people with whom a p-value can be as small as .05."""


@dataclass(frozen=True)
class SpeakerAnswer:
    """What can be said of one person.

    Attributes
    ----------
    p_value : float
        How often somebody who did not train the recogniser would look at least as much like a member.
    smallest : float
        The smallest that so many reference people can give.
    closeness : float
        Mean similarity of two of the person's voices, before the recogniser.
    as_close : int
        How many reference people's voices are at least as close.
    references, voices : int
        People that the person was held against, and voices heard of each.
    queries : int
        Voices sent to the recogniser.
    alpha : float
        A p-value of at most this counts as evidence.
    left_out : mapping of str to str
        Voices and people that could not be used, and why.
    """

    p_value: float
    smallest: float
    closeness: float
    as_close: int
    references: int
    voices: int
    queries: int
    alpha: float
    left_out: Mapping[str, str]

    @property
    def sentence(self) -> str:
        """The answer in plain words."""
        chance = f"p = {self.p_value:.2g}"
        held = (
            f"the recogniser holds {self.voices} of this person's voices together more closely than those of "
            f"{self.references - self.as_close} of {self.references} people who did not train it ({chance})"
        )
        if self.p_value <= self.alpha:
            return f"There is evidence that this voice was used in training: {held}."
        if self.smallest > self.alpha:
            return (
                f"This cannot be told with {self.references} reference people, of whom it takes {self.wanted} "
                f"at least: {held}."
            )
        return f"There is no evidence that this voice was used in training, and no proof that it was not: {held}."

    @property
    def wanted(self) -> int:
        """How many reference people it takes for a p-value as small as `alpha`."""
        return int(np.ceil(1 / self.alpha - 1e-9)) - 1

    def to_json(self) -> str:
        """Return all of it as JSON text."""
        return json.dumps({**asdict(self), "answer": self.sentence}, indent=1)


def audit_speaker(
    encoder: SpeakerEncoder,
    voices: Sequence[NDArray[np.float32]] | Mapping[str, NDArray[np.float32]],
    references: Mapping[str, Sequence[NDArray[np.float32]]],
    *,
    most: int = 10,
    alpha: float = 0.05,
    seed: int = 0,
) -> SpeakerAnswer:
    """Hold one person's voices against those of people whose voices a recogniser was not trained on.

    Voices on which a recogniser was trained lie closer together before it. How much closer than those of the reference
    people is a conformal p-value: no shadow is trained, and the false positive rate holds with few people too, as long
    as they were recorded as the person was and none of them trained the recogniser. How alike the voices are without
    the recogniser, by their mean log-mel energies, is taken off before.

    Parameters
    ----------
    encoder : SpeakerEncoder
    voices : sequence or mapping of ndarray, each (samples,)
        The person's, at 16 kHz; two at least.
    references : mapping of str to sequence of ndarray
        Other people's.
    most : int
        How many voices are heard of each person, as many of everybody.
    alpha : float
        Wished false positive rate.
    seed : int
        Of the voices that are drawn.

    Raises
    ------
    UserError
        Where fewer than two voices of the person, or of any two others, have an embedding, or `alpha` or `most` make
        no sense.
    """
    if most < 2 or not 0 < alpha < 1:
        raise UserError(f"most = {most} must be two at least, and alpha = {alpha} lie strictly between 0 and 1")
    left_out: dict[str, str] = {}
    named = dict(voices) if isinstance(voices, Mapping) else {f"voice {n}": wave for n, wave in enumerate(voices)}
    asked = encoder.queries
    rng = np.random.default_rng([seed, 0])
    mine = _drawn(encoder, _without_copies(named, left_out), most, rng, left_out)
    if len(mine) < 2:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items()) or "there are no more"
        raise UserError(f"voices: {len(mine)} can be used, and it takes two at least ({why[:200]})")
    heard = {}
    for number, (person, waves) in enumerate(sorted(references.items())):
        own = _without_copies({f"{person}/{n}": wave for n, wave in enumerate(waves)}, left_out)
        if len(waves) < 2:
            left_out[person] = "one voice; how close voices lie takes two"
            continue
        found = _drawn(encoder, own, len(mine), np.random.default_rng([seed, 1, number]), left_out)
        if len(found) < 2:
            left_out[person] = "fewer than two voices that can be used"
        else:
            heard[person] = found
    if len(heard) < 2:
        raise UserError(f"reference: {len(heard)} people with two usable voices; it takes {_WANTED} to answer at 5 %")
    count = _voices_of_each(len(mine), [len(found) for found in heard.values()])
    kept = {person: found[:count] for person, found in heard.items() if len(found) >= count}
    left_out |= {person: f"fewer than {count} voices" for person in heard if person not in kept}
    everybody = [mine[:count], *kept.values()]
    scores = np.array([closeness(np.stack([row for row, _ in found])) for found in everybody])
    near = float(scores[0])
    if len(scores) >= 3:
        alike = [closeness(np.stack([_mean_log_mel(wave) for _, wave in found])) for found in everybody]
        scores = beyond_the_input(scores, alike)
    as_close = int(np.sum(scores[1:] >= scores[0]))
    p = float(conformal_p_values(scores[:1], scores[1:])[0])
    queries = encoder.queries - asked
    return SpeakerAnswer(p, 1 / len(scores), near, as_close, len(kept), count, queries, alpha, left_out)


def read_voices(folder: Path, left_out: dict[str, str]) -> dict[str, NDArray[np.float32]]:
    """Read every wav and flac file in a folder, and below it, as the voices of one person.

    Parameters
    ----------
    folder : Path
    left_out : dict of str to str
        Files that cannot be decoded are added, and why.

    Raises
    ------
    UserError
        If there is no such file.
    """
    if not folder.is_dir():
        raise UserError(f"voices: {folder} is no folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _WAVES)
    if not files:
        raise UserError(f"voices: {folder} holds no wav or flac file")
    names = [path.relative_to(folder).as_posix() for path in files]
    speech = Corpus("voices", folder, tuple(Utterance(n, "you", p, {}) for n, p in zip(names, files, strict=True)))
    return _decoded(speech, list(speech), left_out)


def read_references(
    folder: Path, most: int, seed: int = 0, left_out: dict[str, str] | None = None
) -> dict[str, list[NDArray[np.float32]]]:
    """Read up to so many voices of each person of a folder that `Corpus.from_folder` scans.

    Those that cannot be decoded are one fewer of that person, and added to `left_out` with the reason.
    """
    lost = {} if left_out is None else left_out
    speech = Corpus.from_folder(folder)
    lost |= {excluded.item: excluded.reason for excluded in speech.excluded}
    found: dict[str, list[Utterance]] = {}
    for utterance in speech:
        found.setdefault(utterance.speaker, []).append(utterance)
    waves = {}
    for number, (person, mine) in enumerate(sorted(found.items())):
        order = np.random.default_rng([seed, 2, number]).permutation(len(mine))[:most]
        waves[person] = list(_decoded(speech, [mine[place] for place in order], lost).values())
    return waves


def _decoded(
    speech: Corpus, utterances: Sequence[Utterance], left_out: dict[str, str]
) -> dict[str, NDArray[np.float32]]:
    found = {}
    for utterance in utterances:
        try:
            found[utterance.id] = speech.wave(utterance)
        except AudioError as error:
            left_out[utterance.id] = str(error)
    return found


def _without_copies(
    voices: Mapping[str, NDArray[np.float32]], left_out: dict[str, str]
) -> dict[str, NDArray[np.float32]]:
    """Drop recordings that are there already, such as a wav beside its flac.

    Two copies lie as close as can be before any recogniser: they would be evidence of nothing.
    """
    first: dict[bytes, str] = {}
    for name, wave in sorted(voices.items()):
        same = first.setdefault(np.ascontiguousarray(wave).tobytes(), name)
        if same != name:
            left_out[name] = f"the same recording as {same}"
    kept = set(first.values())
    return {name: wave for name, wave in voices.items() if name in kept}


def _drawn(
    encoder: SpeakerEncoder,
    voices: Mapping[str, NDArray[np.float32]],
    most: int,
    rng: np.random.Generator,
    left_out: dict[str, str],
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Embeddings and waves of some voices, in random order; those without are noted."""
    names = [name for name, _ in zip(rng.permutation(sorted(voices)).tolist(), range(most), strict=False)]
    try:
        embeddings, failed = encoder.embed_usable([voices[name] for name in names])
    except UserError as error:
        left_out |= dict.fromkeys(names, str(error))
        return []
    left_out |= {names[number]: reason for number, reason in failed.items()}
    kept = [name for number, name in enumerate(names) if number not in failed]
    return [(row, voices[name]) for row, name in zip(embeddings, kept, strict=True)]


def _voices_of_each(mine: int, theirs: Sequence[int]) -> int:
    """As many as leave enough people for a p-value of .05, or else as many people as there are."""
    sizes = np.sort(np.minimum(theirs, mine))[::-1]
    return max(2, int(sizes[min(_WANTED, len(sizes)) - 1]))


def _mean_log_mel(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch

    found = LogMel().logarithms(torch.from_numpy(np.ascontiguousarray(wave))[None]).mean(dim=1)[0]
    return np.asarray(found.numpy(), dtype=np.float32)
