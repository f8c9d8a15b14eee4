from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_privacy.corpora import Corpus, CorpusError
from tests.corpora import trees

Tone = Callable[[Path], Path]
ROWS = {
    "IMPROV-S01A-F01-S-FM01": "N",
    "IMPROV-S20H-M01-T-MF02": "H",
    "IMPROV-S02S-M02-S-FM10": "S",
    "IMPROV-S02S-M02-P-FM01": "S",
    "IMPROV-S02S-M02-R-FF01": "S",
    "IMPROV-S03N-F06-S-FM01": "X",
    "IMPROV-S03N-F06-S-FM02": "O",
    "IMPROV-S03N-F06-S-FM03": "Q",
    "IMPROV-S03N-F06-S-FM04": "A",
    "IMPROV-S03N-F07-S-FM05": "A",
}
SILENT = {"IMPROV-S03N-F06-S-FM04"}


def make(root: Path, tone: Tone, table: str = "Evalution.txt", row: str = "UTD-{}.avi; {}; A:2.4 ; V:3.0;") -> Path:
    root.mkdir(exist_ok=True)
    lines = [line for item in ROWS.items() for line in (row.format(*item), "worker-p1; Neutral; ; A:3.000000;", "")]
    (root / table).write_text("\n".join(lines))
    for name in ROWS:
        if name not in SILENT:
            _, scenario, speaker, recording, _ = name.split("-")
            tone(root / "Audio" / f"session{speaker[-1]}" / scenario / recording / f"MSP-{name}.wav")
    return root / table


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("full") / "msp_improv"
    trees.write_msp_improv(root)
    return root


def test_a_full_copy_has_the_studys_counts(full: Path) -> None:
    corpus = Corpus.load("msp_improv", full)
    assert len(corpus) == 4580
    assert Counter(corpus.label("emotion")) == {"neutral": 2072, "happy": 1184, "sad": 739, "angry": 585}
    assert Counter(corpus.label("recording")) == {"other-improvised": 3940, "target-improvised": 640}
    assert Counter(corpus.speaker_labels("gender").values()) == {"female": 6, "male": 6}
    assert corpus.speakers == tuple(f"{sex}0{session}" for session in range(1, 7) for sex in "MF")
    left = Counter(excluded.reason for excluded in corpus.excluded)
    assert left == {
        "natural interaction": 2785, "read": 620, "emotion other": 71, "the raters did not agree": 382,
    }  # fmt: skip


def test_rows_become_labels(tmp_path: Path, tone: Tone) -> None:
    make(tmp_path, tone)
    corpus = Corpus.load("msp_improv", tmp_path)
    assert [(utterance.id, utterance.speaker) for utterance in corpus] == [
        ("MSP-IMPROV-S20H-M01-T-MF02", "M01"),
        ("MSP-IMPROV-S01A-F01-S-FM01", "F01"),
        ("MSP-IMPROV-S02S-M02-S-FM10", "M02"),
    ]
    assert corpus.utterances[0].labels == {
        "gender": "male", "emotion": "happy", "recording": "target-improvised", "session": "1", "statement": "20",
        "intended": "H",
    }  # fmt: skip
    # The consensus, not the emotion that the scenario was made for.
    assert (corpus.utterances[1].labels["emotion"], corpus.utterances[1].labels["intended"]) == ("neutral", "A")


def test_everything_else_is_left_out_with_its_reason(tmp_path: Path, tone: Tone) -> None:
    table = make(tmp_path, tone)
    with table.open("a") as file:
        file.write("\nUTD-IMPROV-S01A-F01-S-FM09\nUTD-IMPROV-S01A-F01-S-FM01.avi; N; A:2.4;")
    audio = tmp_path / "Audio" / "session1" / "S01A" / "S"
    tone(audio / "MSP-IMPROV-S01A-F01-S-FM99.wav")
    tone(audio / "UTD-IMPROV-S01A-F01-S-FM01.wav")
    (audio / "._MSP-IMPROV-S01A-F01-S-FM01.wav").write_bytes(b"\0\5\x16\7")
    corpus = Corpus.load("msp_improv", tmp_path)
    assert len(corpus) == 3
    assert {excluded.item: excluded.reason for excluded in corpus.excluded} == {
        "MSP-IMPROV-S02S-M02-P-FM01": "natural interaction",
        "MSP-IMPROV-S02S-M02-R-FF01": "read",
        "MSP-IMPROV-S03N-F06-S-FM01": "the raters did not agree",
        "MSP-IMPROV-S03N-F06-S-FM02": "emotion other",
        "MSP-IMPROV-S03N-F06-S-FM03": "unknown label 'Q'",
        "MSP-IMPROV-S03N-F06-S-FM04": "no audio file in Audio",
        "MSP-IMPROV-S03N-F07-S-FM05": "name is not of the form MSP-IMPROV-S01A-F01-S-FM01",
        "Evalution.txt: line 31": "not of the form UTD-IMPROV-S01A-F01-S-FM01.avi; label; ...",
        "Evalution.txt: line 32": "second row of MSP-IMPROV-S01A-F01-S-FM01",
        "Audio/session1/S01A/S/MSP-IMPROV-S01A-F01-S-FM99.wav": "no row in Evalution.txt",
        "Audio/session1/S01A/S/UTD-IMPROV-S01A-F01-S-FM01.wav": "second copy of the same utterance",
        "Audio/session1/S01A/S/._MSP-IMPROV-S01A-F01-S-FM01.wav": "not a wav or flac file",
    }


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("Evaluation.txt", "UTD-{}.avi; {}; A:2.4 ; V:3.0;"),
        ("evalution.TXT", "UTD-{}.avi;{};A:2.4;V:3.0;\r"),
        ("Evalution.txt", "MSP-{}.wav; {}; A:2.4;"),
        ("Evalution.txt", "  utd-{}.AVI ; {} ;"),
    ],
)
def test_other_copies_of_it_are_read_alike(tmp_path: Path, tone: Tone, table: str, row: str) -> None:
    make(tmp_path / "plain", tone)
    expected = [(u.id, u.speaker, u.labels) for u in Corpus.load("msp_improv", tmp_path / "plain")]
    (tmp_path / "deep").mkdir()
    make(tmp_path / "deep" / "MSP-IMPROV", tone, table, row)
    (tmp_path / "deep" / "MSP-IMPROV" / "Audio").rename(tmp_path / "deep" / "MSP-IMPROV" / "audio")
    assert [(u.id, u.speaker, u.labels) for u in Corpus.load("msp_improv", tmp_path / "deep")] == expected


def test_contradictory_labels_are_an_error(tmp_path: Path, tone: Tone) -> None:
    table = make(tmp_path, tone)
    with table.open("a") as file:
        file.write("\nUTD-IMPROV-S01A-F01-S-FM01.avi; S;")
    with pytest.raises(CorpusError, match=r"line 31 labels MSP-IMPROV-S01A-F01-S-FM01 'S', an earlier row 'N'"):
        Corpus.load("msp_improv", tmp_path)


def test_what_is_missing_is_named(tmp_path: Path, tone: Tone) -> None:
    with pytest.raises(CorpusError, match=r"holds no Evalution\.txt nor Evaluation\.txt"):
        Corpus.load("msp_improv", tmp_path)
    table = make(tmp_path, tone)
    (tmp_path / "Audio").rename(tmp_path / "sound")
    with pytest.raises(CorpusError, match="holds no Audio folder"):
        Corpus.load("msp_improv", tmp_path)
    (tmp_path / "Audio").mkdir()
    table.write_text("")
    with pytest.raises(CorpusError, match=r"no usable recordings .*MSP-IMPROV-S01A-F01-S-FM01\.wav"):
        Corpus.load("msp_improv", tmp_path)
