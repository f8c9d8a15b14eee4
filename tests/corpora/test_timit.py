"""TIMIT's layout, generated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from fl_privacy.corpora import Corpus, CorpusError

INFO = """;  ID  Sex DR Use  RecDate   BirthDate  Ht    Race Edu  Comments
;---------------------------------------------------------------
CJF0  F   1  TRN  03/12/86  03/13/60   5'5"  WHT  BS
ABC0  M   6  TRN  03/03/86  ??/??/??   5'11" WHT  BS
TLB0  M   2  TST  01/22/86  01/22/50   5'9"  BLK  MS   a comment
"""


def sentence(
    root: Path, *parts: str, words: str | None = "1600 2400 she\n2400 4800 had\n", seconds: float = 0.5
) -> Path:
    """A ramp as NIST SPHERE, and its words."""
    path = root.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.arange(int(16_000 * seconds)) / 32_768
    soundfile.write(str(path), ramp, 16_000, format="NIST", subtype="PCM_16")
    assert path.read_bytes().startswith(b"NIST_1A")
    if words is not None:
        capitals = path.suffix.isupper()
        path.with_suffix(".WRD" if capitals else ".wrd").write_text(words)
        path.with_suffix(".TXT" if capitals else ".txt").write_text("0 8000 She had.\n")
    return path


@pytest.mark.parametrize("top", ["", "timit"])
@pytest.mark.parametrize("small", [False, True])
def test_its_folders_become_labels(tmp_path: Path, top: str, small: bool) -> None:
    root = tmp_path / top
    case = str.lower if small else str
    sentence(root, *map(case, ("TRAIN", "DR1", "FCJF0", "SX37.WAV")))
    sentence(root, *map(case, ("TEST", "DR2", "MTLB0", "SI1134.WAV")))
    sentence(root, *map(case, ("TRAIN", "DR6", "MABC0", "SA1.WAV")))
    doc = root / case("DOC")
    doc.mkdir()
    (doc / case("SPKRINFO.TXT")).write_text(INFO)
    corpus = Corpus.load("timit", tmp_path)
    by_id = {utterance.id: utterance for utterance in corpus}
    assert sorted(by_id) == ["FCJF0_SX37", "MABC0_SA1", "MTLB0_SI1134"]
    her = by_id["FCJF0_SX37"]
    assert her.speaker == "FCJF0"
    assert her.labels == {
        "gender": "female", "subset": "train", "dialect": "1", "kind": "sx", "statement": "sx37", "age": "25",
    }  # fmt: skip  # a day before her birthday
    assert by_id["MTLB0_SI1134"].labels["age"] == "36" and by_id["MTLB0_SI1134"].labels["subset"] == "test"
    assert "age" not in by_id["MABC0_SA1"].labels and not corpus.excluded
    assert len(corpus.wave(her)) == 8000


def test_recordings_are_cut_to_their_words(tmp_path: Path) -> None:
    sentence(tmp_path, "TRAIN", "DR1", "FCJF0", "SX37.WAV")
    sentence(tmp_path, "TRAIN", "DR1", "FCJF0", "SX38.WAV", words=None)
    sentence(tmp_path, "TRAIN", "DR1", "FCJF0", "SX39.WAV", words="nonsense\n")
    whole, cut = Corpus.load("timit", tmp_path), Corpus.load("timit", tmp_path, cut=True)
    assert len(whole) == 3 and [utterance.id for utterance in cut] == ["FCJF0_SX37"]
    assert {e.reason for e in cut.excluded} == {"no .WRD beside it that says where its words are"}
    (utterance,) = cut
    np.testing.assert_allclose(cut.wave(utterance) * 32_768, np.arange(1600, 4800), atol=1)
    assert cut.hours * 3600 == pytest.approx(0.2)
    assert cut.fingerprint(utterance) != whole.fingerprint(utterance)


def test_what_is_left_out_has_a_reason(tmp_path: Path) -> None:
    path = sentence(tmp_path, "TRAIN", "DR1", "FCJF0", "SX37.WAV")
    (path.parent / "SX37.WAV.wav").write_bytes(path.read_bytes())  # as one popular copy has them
    (path.parent / "notes.doc").write_text("x")
    sentence(tmp_path, "TRAIN", "DR9", "FCJF0", "SX38.WAV")
    sentence(tmp_path, "TRAIN", "DR1", "XCJF0", "SX38.WAV")
    (tmp_path / "TRAIN" / "DR1" / "FCJF0" / "SX39.WAV").write_bytes(b"")
    corpus = Corpus.load("timit", tmp_path)
    assert [utterance.id for utterance in corpus] == ["FCJF0_SX37"]
    assert {excluded.item: excluded.reason for excluded in corpus.excluded} == {
        "TRAIN/DR1/FCJF0/SX37.WAV.wav": "second copy of the same utterance",
        "TRAIN/DR1/FCJF0/notes.doc": "not a wav or flac file",
        "TRAIN/DR9/FCJF0/SX38.WAV": "not of the form DR1/FCJF0/SX37.WAV",
        "TRAIN/DR1/XCJF0/SX38.WAV": "not of the form DR1/FCJF0/SX37.WAV",
        "TRAIN/DR1/FCJF0/SX39.WAV": "empty file",
    }


def test_another_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"Looked for TRAIN/DR1/FCJF0/SX37.WAV"):
        Corpus.load("timit", tmp_path)
