from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_privacy.corpora import Corpus, CorpusError
from tests.corpora import trees

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
        "gender": "male", "emotion": "neutral", "age": "51", "age_group": "50-59", "race": "Caucasian",
        "ethnicity": "Not Hispanic", "statement": "IEO", "intended": "HAP", "intensity": "LO",
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


@pytest.mark.parametrize(
    ("age", "group"), [("20", "20-29"), ("39", "30-39"), ("59", "50-59"), ("60", "60+"), ("74", "60+")]
)
def test_ages_are_grouped_by_decade(small: Path, age: str, group: str) -> None:
    table = small / "VideoDemographics.csv"
    table.write_text(table.read_text().replace("1001,51", f"1001,{age}"))
    labels = Corpus.load("crema_d", small).utterances[0].labels
    assert (labels["age"], labels["age_group"]) == (age, group)


@pytest.mark.parametrize("age", ["", "unknown"])
def test_an_age_that_is_no_number_has_no_group(small: Path, age: str) -> None:
    table = small / "VideoDemographics.csv"
    table.write_text(table.read_text().replace("1001,51", f"1001,{age}"))
    labels = Corpus.load("crema_d", small).utterances[0].labels
    assert "age_group" not in labels
    assert labels.get("age", "") == age


def test_contradictory_votes_are_an_error(small: Path) -> None:
    with (small / "processedResults" / "summaryTable.csv").open("a") as file:
        file.write('\n"99","1001_IEO_NEU_XX","N","69","A"')
    with pytest.raises(CorpusError, match=r"row 11 labels 1001_IEO_NEU_XX 'A', an earlier row 'N'"):
        Corpus.load("crema_d", small)


def test_what_macos_leaves_behind_is_left_out(small: Path) -> None:
    before = Corpus.load("crema_d", small)
    (small / "AudioWAV" / "._1001_IEO_NEU_XX.wav").write_bytes(b"\0\5\x16\7")
    (small / "AudioWAV").rename(small / "audiowav")
    after = Corpus.load("crema_d", small)
    assert [(u.id, u.labels) for u in after] == [(u.id, u.labels) for u in before]
    assert {(e.item, e.reason) for e in after.excluded} - {(e.item, e.reason) for e in before.excluded} == {
        ("audiowav/._1001_IEO_NEU_XX.wav", "not a wav or flac file")
    }


@pytest.mark.data
def test_the_real_tables(data: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no AudioWAV folder.*git lfs pull"):
        Corpus.load("crema_d", data / "crema_d_meta")
    trees.write_crema_d(tmp_path / "crema", data / "crema_d_meta")
    corpus = Corpus.load("crema_d", tmp_path / "crema")
    assert len(corpus) == 4798
    assert Counter(corpus.speaker_labels("gender").values()) == {"female": 43, "male": 48}
    assert Counter(zip(corpus.label("gender"), corpus.label("emotion"), strict=True)) == {
        ("female", "neutral"): 798, ("female", "happy"): 588, ("female", "sad"): 351, ("female", "angry"): 484,
        ("male", "neutral"): 1174, ("male", "happy"): 631, ("male", "sad"): 237, ("male", "angry"): 535,
    }  # fmt: skip
    counts = Counter(utterance.speaker for utterance in corpus).values()
    assert (len(counts), min(counts), max(counts)) == (91, 38, 65)
    assert corpus.speakers == tuple(str(actor) for actor in range(1001, 1092))
    assert Counter(corpus.speaker_labels("age_group").values()) == {
        "20-29": 34, "30-39": 23, "40-49": 16, "50-59": 12, "60+": 6,
    }  # fmt: skip
    assert Counter(corpus.speaker_labels("race").values()) == {
        "Caucasian": 61, "African American": 22, "Asian": 7, "Unknown": 1,
    }  # fmt: skip
    assert sum(float(age) for age in corpus.speaker_labels("age").values()) / 91 == pytest.approx(36.43, abs=0.01)
    left = Counter(excluded.reason for excluded in corpus.excluded)
    assert left["the vote is a tie"] == 420
    assert left["known to hold no speech"] == 1
    assert sum(left.values()) == 7442 - 4798
