from __future__ import annotations

import csv
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_privacy.corpora import Corpus, CorpusError

Tone = Callable[[Path], Path]
VOTES = {
    "1001_IEO_NEU_XX": "N",
    "1001_IEO_HAP_LO": "N",
    "1002_DFA_ANG_XX": "A",
    "1002_DFA_SAD_XX": "N:S",
    "1002_DFA_DIS_XX": "D",
    "1002_DFA_FEA_XX": "F",
    "1002_TIE_HAP_XX": "H",
    "1002_TIE_SAD_XX": "Q",
    "1099_TIE_SAD_XX": "S",
    "1076_MTI_SAD_XX": "S",
}


@pytest.fixture
def small(tmp_path: Path, tone: Tone) -> Path:
    tables = tmp_path / "processedResults"
    tables.mkdir()
    rows = [f'"{number}","{name}","N","69","{vote}"' for number, (name, vote) in enumerate(VOTES.items())]
    (tables / "summaryTable.csv").write_text(
        "\n".join(['"","FileName","VoiceVote","VoiceLevel","MultiModalVote"', *rows])
    )
    (tmp_path / "VideoDemographics.csv").write_text(
        '"ActorID","Age","Sex","Race","Ethnicity"\n1001,51,"Male","Caucasian","Not Hispanic"\n'
        '1002,21,"Female","Asian","Hispanic"\n1076,25,"Female","Asian","Hispanic"\n'
    )
    for name in VOTES:
        if name != "1002_TIE_HAP_XX":
            tone(tmp_path / "AudioWAV" / f"{name}.wav")
    return tmp_path


def test_the_vote_is_the_emotion(small: Path) -> None:
    corpus = Corpus.load("crema_d", small)
    assert {utterance.id: utterance.labels["emotion"] for utterance in corpus} == {
        "1001_IEO_HAP_LO": "neutral",
        "1001_IEO_NEU_XX": "neutral",
        "1002_DFA_ANG_XX": "angry",
    }
    assert corpus.utterances[0].labels == {
        "gender": "male", "emotion": "neutral", "age": "51", "race": "Caucasian", "ethnicity": "Not Hispanic",
        "statement": "IEO", "intended": "HAP", "intensity": "LO",
    }  # fmt: skip


def test_everything_else_is_left_out_with_its_reason(small: Path, tone: Tone) -> None:
    tone(small / "AudioWAV" / "1003_IEO_NEU_XX.wav")
    corpus = Corpus.load("crema_d", small)
    assert {excluded.item: excluded.reason for excluded in corpus.excluded} == {
        "1002_DFA_SAD_XX": "the vote is a tie",
        "1002_DFA_DIS_XX": "emotion disgusted",
        "1002_DFA_FEA_XX": "emotion fearful",
        "1002_TIE_HAP_XX": "no audio file in AudioWAV",
        "1002_TIE_SAD_XX": "unknown vote 'Q'",
        "1099_TIE_SAD_XX": "actor has no row in VideoDemographics.csv",
        "1076_MTI_SAD_XX": "known to hold no speech",
        "AudioWAV/1003_IEO_NEU_XX.wav": "no row in summaryTable.csv",
    }


def test_the_demographics_may_lie_beside_the_votes(small: Path) -> None:
    before = Corpus.load("crema_d", small)
    (small / "VideoDemographics.csv").rename(small / "processedResults" / "VideoDemographics.csv")
    assert Corpus.load("crema_d", small) == before


@pytest.mark.parametrize("gone", ["processedResults/summaryTable.csv", "VideoDemographics.csv", "AudioWAV"])
def test_what_is_missing_is_named(small: Path, gone: str) -> None:
    path = small / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(CorpusError, match=gone):
        Corpus.load("crema_d", small)


def test_a_missing_column_is_named(small: Path) -> None:
    (small / "processedResults" / "summaryTable.csv").write_text("FileName,Vote\na,N\n")
    with pytest.raises(CorpusError, match="no column 'MultiModalVote'; it has FileName, Vote"):
        Corpus.load("crema_d", small)


@pytest.mark.data
def test_the_real_tables(data: Path, tmp_path: Path, tone: Tone) -> None:
    meta = data / "crema_d_meta"
    with pytest.raises(CorpusError, match=r"no AudioWAV folder.*git lfs pull"):
        Corpus.load("crema_d", meta)
    one = tone(tmp_path / "one.wav")
    root = tmp_path / "crema"
    (root / "AudioWAV").mkdir(parents=True)
    with (meta / "audiowav_lfs_index.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            os.link(one, root / row["path"])
    shutil.copytree(meta / "processedResults", root / "processedResults")
    shutil.copy(meta / "VideoDemographics.csv", root)

    corpus = Corpus.load("crema_d", root)
    assert len(corpus) == 4798
    assert Counter(corpus.speaker_labels("gender").values()) == {"female": 43, "male": 48}
    assert Counter(zip(corpus.label("gender"), corpus.label("emotion"), strict=True)) == {
        ("female", "neutral"): 798, ("female", "happy"): 588, ("female", "sad"): 351, ("female", "angry"): 484,
        ("male", "neutral"): 1174, ("male", "happy"): 631, ("male", "sad"): 237, ("male", "angry"): 535,
    }  # fmt: skip
    counts = Counter(utterance.speaker for utterance in corpus).values()
    assert (len(counts), min(counts), max(counts)) == (91, 38, 65)
    left = Counter(excluded.reason for excluded in corpus.excluded)
    assert left["the vote is a tie"] == 420
    assert left["known to hold no speech"] == 1
    assert sum(left.values()) == 7442 - 4798
