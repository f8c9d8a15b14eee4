from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_privacy.corpora import Corpus, CorpusError
from tests.corpora import trees

Tone = Callable[[Path], Path]
ROW = "[6.2901 - 8.2357]\t{}\t{}\t[2.5000, 2.5000, 2.5000]"
ROWS = {
    "Ses01F_impro01_F000": "neu",
    "Ses01F_impro01_M000": "exc",
    "Ses01M_impro02b_F012": "hap",
    "Ses01M_impro02b_FXX0": "ang",
    "Ses01F_impro01_M001": "xxx",
    "Ses01F_impro01_M002": "fru",
    "Ses01F_impro01_M003": "qqq",
    "Ses01F_impro01_M004": "sad",
    "Ses01F_script01_1_M000": "sad",
    "Ses09F_impro01_M000": "sad",
}
SILENT = {"Ses01F_impro01_M004"}


def make(root: Path, tone: Tone, rows: dict[str, str] = ROWS, session: str = "Session1", end: str = "\n") -> Path:
    text = end.join(
        ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", "", *(ROW.format(*r) for r in rows.items())]
    )
    table = root / session / "dialog" / "EmoEvaluation" / "Ses01F_impro01.txt"
    table.parent.mkdir(parents=True)
    table.write_bytes(text.encode())
    for name in rows:
        if name not in SILENT:
            tone(root / session / "sentences" / "wav" / name.rsplit("_", 1)[0] / f"{name}.wav")
    return table


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("full") / "iemocap"
    trees.write_iemocap(root)
    return root


def test_a_full_copy_has_the_studys_counts(full: Path) -> None:
    corpus = Corpus.load("iemocap", full)
    assert len(corpus) == 2943
    assert Counter(corpus.label("consensus")) == {"neu": 1099, "hap": 284, "exc": 663, "sad": 608, "ang": 289}
    assert Counter(zip(corpus.label("gender"), corpus.label("emotion"), strict=True)) == {
        ("female", "neutral"): 506, ("female", "happy"): 518, ("female", "sad"): 328, ("female", "angry"): 131,
        ("male", "neutral"): 593, ("male", "happy"): 429, ("male", "sad"): 280, ("male", "angry"): 158,
    }  # fmt: skip
    assert Counter(corpus.label("gender")) == {"female": 1483, "male": 1460}
    assert Counter(utterance.speaker for utterance in corpus) == {
        "Ses01F": 271, "Ses01M": 250, "Ses02F": 273, "Ses02M": 257, "Ses03F": 305,
        "Ses03M": 322, "Ses04F": 268, "Ses04M": 266, "Ses05F": 366, "Ses05M": 365,
    }  # fmt: skip
    assert corpus.speakers == tuple(f"Ses0{session}{sex}" for session in range(1, 6) for sex in "FM")
    assert corpus.speaker_labels("session")["Ses04M"] == "4"
    left = Counter(excluded.reason for excluded in corpus.excluded)
    assert sum(left.values()) == 10_039 - 2943
    assert left["scripted"] == 10_039 - 4784


def test_rows_become_labels_of_the_speaker_who_speaks(tmp_path: Path, tone: Tone) -> None:
    make(tmp_path, tone)
    corpus = Corpus.load("iemocap", tmp_path)
    assert [(utterance.id, utterance.speaker) for utterance in corpus] == [
        ("Ses01F_impro01_F000", "Ses01F"),
        ("Ses01M_impro02b_F012", "Ses01F"),
        ("Ses01M_impro02b_FXX0", "Ses01F"),
        ("Ses01F_impro01_M000", "Ses01M"),
    ]
    assert corpus.utterances[1].labels == {
        "gender": "female", "emotion": "happy", "consensus": "hap", "session": "1", "scenario": "impro02b",
        "recording": "improvised",
    }  # fmt: skip
    assert corpus.utterances[3].labels["emotion"] == "happy"
    assert corpus.utterances[3].labels["gender"] == "male"


def test_everything_else_is_left_out_with_its_reason(tmp_path: Path, tone: Tone) -> None:
    table = make(tmp_path, tone)
    with table.open("a") as file:
        file.write("\n[6.29 - 8.23] Ses01F_impro01_F001\n" + ROW.format("Ses01F_impro01_F000", "neu"))
    wavs = tmp_path / "Session1" / "sentences" / "wav"
    tone(wavs / "Ses01F_impro01" / "Ses01F_impro01_F099.wav")
    tone(wavs / "copy" / "Ses01F_impro01_F000.wav")
    (wavs / "Ses01F_impro01" / "._Ses01F_impro01_F000.wav").write_bytes(b"\0\5\x16\7")
    (wavs / "Ses01M_impro02b" / "Ses01M_impro02b_F012.wav").write_bytes(b"")
    corpus = Corpus.load("iemocap", tmp_path)
    assert len(corpus) == 3
    labels, audio = "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", "Session1/sentences/wav"
    assert {excluded.item: excluded.reason for excluded in corpus.excluded} == {
        "Ses01F_impro01_M001": "the raters did not agree",
        "Ses01F_impro01_M002": "emotion frustrated",
        "Ses01F_impro01_M003": "unknown label 'qqq'",
        "Ses01F_impro01_M004": "no audio file in sentences/wav",
        "Ses01F_script01_1_M000": "scripted",
        "Ses09F_impro01_M000": "name is not of the form Ses01F_impro01_F000",
        f"{labels}: line 13": "not of the form [start - end] utterance label [v, a, d]",
        f"{labels}: line 14": "second row of Ses01F_impro01_F000",
        f"{audio}/Ses01F_impro01/Ses01F_impro01_F099.wav": "no row in EmoEvaluation",
        f"{audio}/copy/Ses01F_impro01_F000.wav": "second copy of the same utterance",
        f"{audio}/Ses01F_impro01/._Ses01F_impro01_F000.wav": "not a wav or flac file",
        f"{audio}/Ses01M_impro02b/Ses01M_impro02b_F012.wav": "empty file",
    }


def test_other_copies_of_it_are_read_alike(tmp_path: Path, tone: Tone) -> None:
    make(tmp_path / "plain", tone)
    expected = [(u.id, u.speaker, u.labels) for u in Corpus.load("iemocap", tmp_path / "plain")]
    table = make(tmp_path / "deep" / "IEMOCAP_full_release", tone, session="session1", end="\r\n")
    table.with_name("._Ses01F_impro01.txt").write_bytes(b"[\xff\xfe")
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes() + b"\r\nC-E1:\tNeutral;\t(na\xefve)\r\n")
    for path in (tmp_path / "deep").rglob("*.wav"):
        path.rename(path.with_suffix(".WAV"))
    assert [(u.id, u.speaker, u.labels) for u in Corpus.load("iemocap", tmp_path / "deep")] == expected


def test_contradictory_labels_are_an_error(tmp_path: Path, tone: Tone) -> None:
    table = make(tmp_path, tone)
    table.with_name("Ses01F_impro01 copy.txt").write_text(ROW.format("Ses01F_impro01_F000", "sad"))
    with pytest.raises(CorpusError, match=r"line 3 labels Ses01F_impro01_F000 'neu', an earlier row 'sad'"):
        Corpus.load("iemocap", tmp_path)


@pytest.mark.parametrize("gone", ["dialog/EmoEvaluation", "sentences/wav"])
def test_what_is_missing_is_named(tmp_path: Path, tone: Tone, gone: str) -> None:
    make(tmp_path, tone)
    (tmp_path / "Session1" / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(CorpusError, match=f"Session1 holds no folder {gone}"):
        Corpus.load("iemocap", tmp_path)


def test_another_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="none of the folders Session1 to Session5"):
        Corpus.load("iemocap", tmp_path)
    for folder in ("dialog/EmoEvaluation", "sentences/wav"):
        (tmp_path / "Session3" / folder).mkdir(parents=True)
    with pytest.raises(CorpusError, match=r"no usable recordings .*Ses01F_impro01_F000\.wav"):
        Corpus.load("iemocap", tmp_path)
