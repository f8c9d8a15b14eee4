"""CREMA-D: 91 actors, twelve sentences, emotion by audience vote (Cao et al. 2014, IEEE TAC 5(4):377-390)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from fl_privacy.corpora._errors import CorpusError
from fl_privacy.corpora._scan import checked, first_of_each, inside, matched, read_table, recordings, require_folder
from fl_privacy.corpora.base import Corpus, Utterance

_NAME = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_([A-Z]{1,2})")
_KEPT = {"N": "neutral", "H": "happy", "S": "sad", "A": "angry"}
_LEFT_OUT = {"D": "disgusted", "F": "fearful"}
_SEX = {"Female": "female", "Male": "male"}
_OLDEST = 60
_SILENT = "1076_MTI_SAD_XX"
_VOTES = ("FileName", "MultiModalVote")
_DEMOGRAPHICS = ("ActorID", "Age", "Sex", "Race", "Ethnicity")


def scan(root: str | Path) -> Corpus:
    """Scan CREMA-D's recordings that the audio-visual audience heard as one of four emotions.

    The emotion is ``MultiModalVote``, not the emotion that the actor intended (Feng et al. 2021, arXiv 2112.13416);
    ties and votes for disgust or fear are excluded, and so is ``1076_MTI_SAD_XX``, which holds no speech.
    Labels: ``gender``, ``emotion``, ``age`` in years, ``age_group`` (20-29, 30-39, 40-49, 50-59 or 60+: 34, 23, 16, 12
    and 6 actors), ``race``, ``ethnicity``, ``statement`` (the sentence's code), ``intended`` (the code of the acted
    emotion), ``intensity`` (the code of its level); what the table leaves empty is no label.

    Parameters
    ----------
    root : str or Path
        Holds ``AudioWAV/``, ``processedResults/summaryTable.csv`` and ``VideoDemographics.csv`` (here or in
        ``processedResults/``).

    Returns
    -------
    Corpus
        91 speakers, "1001" to "1091"; 4,798 utterances where the copy is complete.

    Raises
    ------
    CorpusError
        If the folder, its audio or one of the tables is missing.
    """
    root = require_folder(root, "crema_d")
    table = _table(root, ["processedResults/summaryTable.csv"], _VOTES)
    votes, unused = first_of_each(
        "crema_d",
        (
            (f"summaryTable.csv: row {n}", row["FileName"], row["MultiModalVote"])
            for n, row in enumerate(table, start=1)
        ),
    )
    places = ["VideoDemographics.csv", "processedResults/VideoDemographics.csv"]
    actors = {row["ActorID"]: row for row in _table(root, places, _DEMOGRAPHICS)}
    audio, no_audio = recordings([_audio_folder(root)], root)

    def make(name: str, vote: str, path: Path | None) -> Utterance | str:
        return _utterance(name, vote, path, actors)

    candidates, left = matched(votes, audio, make, root, "summaryTable.csv")
    looked_for = "AudioWAV/1001_IEO_NEU_XX.wav and the like"
    return checked("crema_d", root, candidates, [*unused, *no_audio, *left], looked_for)


def _table(root: Path, places: list[str], columns: tuple[str, ...]) -> list[dict[str, str]]:
    for place in places:
        path = inside(root, *place.split("/"))
        if path is not None:
            return read_table(path, columns)
    raise CorpusError(f"corpus 'crema_d': {root} holds no {' nor '.join(places)}")


def _audio_folder(root: Path) -> Path:
    folder = inside(root, "AudioWAV")
    if folder is None or not folder.is_dir():
        raise CorpusError(
            f"corpus 'crema_d': {root} holds no AudioWAV folder. The recordings come by git-lfs: "
            "run `git lfs pull` in the clone"
        )
    return folder


def _utterance(name: str, vote: str, path: Path | None, actors: Mapping[str, Mapping[str, str]]) -> Utterance | str:
    match = _NAME.fullmatch(name)
    if match is None:
        return "name is not of the form 1001_IEO_NEU_XX"
    if name == _SILENT:
        return "known to hold no speech"
    if path is None:
        return "no audio file in AudioWAV"
    if ":" in vote:
        return "the vote is a tie"
    if vote in _LEFT_OUT:
        return f"emotion {_LEFT_OUT[vote]}"
    if vote not in _KEPT:
        return f"unknown vote {vote!r}"
    actor, statement, intended, intensity = match.groups()
    person = actors.get(actor)
    if person is None:
        return "actor has no row in VideoDemographics.csv"
    if person["Sex"] not in _SEX:
        return f"unknown sex {person['Sex']!r} of the actor"
    labels = {
        "gender": _SEX[person["Sex"]],
        "emotion": _KEPT[vote],
        "age": person["Age"],
        "age_group": _age_group(person["Age"]),
        "race": person["Race"],
        "ethnicity": person["Ethnicity"],
        "statement": statement,
        "intended": intended,
        "intensity": intensity,
    }
    return Utterance(name, actor, path, {key: value for key, value in labels.items() if value})


def _age_group(age: str) -> str:
    """Return the decade of an age in years; the last is open, for only one actor is over 70."""
    if not age.isdecimal():
        return ""
    decade = int(age) // 10 * 10
    return f"{decade}-{decade + 9}" if decade < _OLDEST else f"{_OLDEST}+"
