"""Full-size copies of licensed corpora by name: their folders, label files and counts, with one small wav for all.

The counts are those of the study (Feng et al. 2021) and of the corpora's own papers; which turn has which label is made
up.
"""

from __future__ import annotations

import csv
import os
import random
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import soundfile

IEMOCAP_SPEAKERS = {
    "Ses01F": 271, "Ses01M": 250, "Ses02F": 273, "Ses02M": 257, "Ses03F": 305,
    "Ses03M": 322, "Ses04F": 268, "Ses04M": 266, "Ses05F": 366, "Ses05M": 365,
}  # fmt: skip
IEMOCAP_EMOTIONS = {
    "F": {"neu": 506, "hap": 160, "exc": 358, "sad": 328, "ang": 131},
    "M": {"neu": 593, "hap": 124, "exc": 305, "sad": 280, "ang": 158},
}
IEMOCAP_IMPROVISED, IEMOCAP_TURNS = 4784, 10_039

MSP_FOLDS = (835, 1181, 572, 922, 1070)
MSP_FOLD_SPEAKERS = (("M01", "F01", "M02"), ("F02", "M03", "F03"), ("M04", "F04"), ("M05", "F05"), ("M06", "F06"))
MSP_TURNS = {
    "T": {"A": 115, "S": 106, "H": 136, "N": 283, "O": 1, "X": 11},
    "R": {"A": 169, "S": 80, "H": 88, "N": 241, "O": 3, "X": 39},
    "S": {"A": 470, "S": 633, "H": 1048, "N": 1789, "O": 70, "X": 371},
    "P": {"A": 38, "S": 66, "H": 1372, "N": 1164, "O": 11, "X": 134},
}
"""Turns of each kind of recording by consensus (Busso et al. 2017, tables 3 and 4)."""


def write_iemocap(root: Path) -> None:
    """Make an IEMOCAP of 10,039 turns, with the raters' own files and what a macOS leaves behind."""
    rng, wav = random.Random(1), _wav(root)
    labels = {sex: _shuffled(counts, rng) for sex, counts in IEMOCAP_EMOTIONS.items()}
    turns = [
        (speaker, "impro", label)
        for speaker, count in IEMOCAP_SPEAKERS.items()
        for label in (labels[speaker[-1]].pop() for _ in range(count))
    ]
    people = list(IEMOCAP_SPEAKERS)
    while len(turns) < IEMOCAP_IMPROVISED:
        turns.append((rng.choice(people), "impro", rng.choice(["xxx", "fru", "sur", "fea", "dis", "oth"])))
    while len(turns) < IEMOCAP_TURNS:
        turns.append((rng.choice(people), "script", rng.choice(["neu", "hap", "exc", "sad", "ang", "xxx", "fru"])))
    numbers: dict[str, int] = {}
    files: dict[Path, list[str]] = {}
    for speaker, kind, label in turns:
        # Both actors speak in a dialogue, whichever of them wears the markers that it is named after.
        scene = f"{speaker[:-1]}{rng.choice('FM')}_" + rng.choice(
            ["impro01", "impro05b"] if kind == "impro" else ["script01_1", "script03_2b"]
        )
        numbers[scene + speaker] = number = numbers.get(scene + speaker, -1) + 1
        name = f"{scene}_{speaker[-1]}{number:03d}"
        session = root / f"Session{speaker[4]}"
        files.setdefault(session / "dialog" / "EmoEvaluation" / f"{scene}.txt", []).extend(_iemocap_rows(name, label))
        _link(wav, session / "sentences" / "wav" / scene / f"{name}.wav")
    for path, lines in files.items():
        _write(path, ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", "", *lines], "\n")
        _write(path.parent / "Categorical" / f"{path.stem}_e1_cat.txt", [f"{path.stem}_F000 :Anger; ()"], "\n")
        _write(path.parent / "Attribute" / f"{path.stem}_e1_atr.txt", [f"{path.stem}_F000 :act 3; :val 3;"], "\n")
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7[\xff")


def write_msp_improv(root: Path) -> None:
    """Make an MSP-IMPROV of 8,438 turns; held-out speakers have as many turns as the study's folds."""
    rng, wav = random.Random(2), _wav(root)
    speakers = [speaker for _, speaker in sorted(_msp_owners(), key=lambda _: rng.random())]
    everyone = [speaker for fold in MSP_FOLD_SPEAKERS for speaker in fold]
    numbers: dict[str, int] = {}
    lines: list[str] = []
    for recording, counts in MSP_TURNS.items():
        for letter in _shuffled(counts, rng):
            speaker = speakers.pop() if recording in "TS" and letter in "ASHN" else rng.choice(everyone)
            stem = (
                f"IMPROV-S{rng.randint(1, 20):02d}{rng.choice('AHNS')}-{speaker}-{recording}-{rng.choice(['FM', 'MF'])}"
            )
            numbers[stem] = numbers.get(stem, 0) + 1
            name = f"{stem}{numbers[stem]:02d}"
            lines += [
                f"UTD-{name}.avi; {letter}; A:2.400000 ; V:3.000000 ; D:2.600000 ; N:3.800000;",
                "worker-p1; Neutral; ; A:3.000000; V:3.000000; D:3.000000; N:4.000000;",
                "",
            ]
            session = root / "Audio" / f"session{speaker[-1]}"
            _link(wav, session / stem.split("-")[1] / recording / f"MSP-{name}.wav")
    assert not speakers
    _write(root / "Evalution.txt", lines, "\r\n")


def write_crema_d(root: Path, meta: Path) -> None:
    """Make a CREMA-D of the real tables, which are free, and the names of its recordings."""
    wav = _wav(root)
    with (meta / "audiowav_lfs_index.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            _link(wav, root / row["path"])
    shutil.copytree(meta / "processedResults", root / "processedResults")
    shutil.copy(meta / "VideoDemographics.csv", root)


def _wav(root: Path) -> Path:
    """Make one file of a hundredth of a second beside a tree, to be linked under many names."""
    path = root.with_name(f"{root.name}.wav")
    soundfile.write(str(path), np.full(160, 0.1), 16_000)
    return path


def _link(wav: Path, path: Path) -> None:
    """Put the one wav under another name; the folder is made."""
    try:
        os.link(wav, path)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(wav, path)


def _iemocap_rows(name: str, label: str) -> list[str]:
    return [
        f"[6.2901 - 8.2357]\t{name}\t{label}\t[2.5000, 2.5000, 2.5000]",
        "C-E2:\tNeutral;\t()",
        "A-E3:\tval 3; act 2; dom  2;\t()",
        "",
    ]


def _msp_owners() -> Iterator[tuple[int, str]]:
    for count, fold in zip(MSP_FOLDS, MSP_FOLD_SPEAKERS, strict=True):
        for number in range(count):
            yield number, fold[number % len(fold)]


def _shuffled(counts: Mapping[str, int], rng: random.Random) -> list[str]:
    items = [name for name, count in counts.items() for _ in range(count)]
    rng.shuffle(items)
    return items


def _write(path: Path, lines: Iterable[str], end: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(end.join([*lines, ""]).encode())
