from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_privacy.corpora import Corpus, CorpusError

Tone = Callable[[Path], Path]


@pytest.mark.parametrize("folder", ["wav", "."])
def test_names_become_labels(tmp_path: Path, tone: Tone, folder: str) -> None:
    tone(tmp_path / folder / "03a01Fa.wav")
    tone(tmp_path / folder / "16b10Wb.flac")
    first, second = Corpus.load("emodb", tmp_path)
    assert (first.id, first.speaker, first.labels) == (
        "03a01Fa", "03", {"gender": "male", "emotion": "happy", "age": "31", "statement": "a01"},
    )  # fmt: skip
    assert second.labels == {"gender": "female", "emotion": "angry", "age": "31", "statement": "b10"}


def test_everything_else_is_left_out_with_its_reason(tmp_path: Path, tone: Tone) -> None:
    for name in ("03a01Na", "03a01La", "03a01Ea", "03a01Aa", "03a01Xa", "17a01Fa", "song"):
        tone(tmp_path / "wav" / f"{name}.wav")
    tone(tmp_path / "wav" / "03a01Na.flac")
    corpus = Corpus.load("emodb", tmp_path)
    assert [utterance.id for utterance in corpus] == ["03a01Na"]
    assert {Path(excluded.item).stem: excluded.reason for excluded in corpus.excluded} == {
        "03a01La": "emotion bored",
        "03a01Ea": "emotion disgusted",
        "03a01Aa": "emotion fearful",
        "03a01Xa": "unknown emotion letter X",
        "17a01Fa": "unknown speaker 17",
        "song": "name is not of the form 03a01Fa",
        "03a01Na": "second copy of the same utterance",
    }


def test_another_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"Looked for wav/03a01Fa\.wav"):
        Corpus.load("emodb", tmp_path)


@pytest.mark.data
def test_the_real_corpus(data: Path) -> None:
    corpus = Corpus.load("emodb", data / "emodb")
    assert Counter(corpus.label("emotion")) == {"neutral": 79, "happy": 71, "sad": 62, "angry": 127}
    assert Counter(corpus.speaker_labels("gender").values()) == {"female": 5, "male": 5}
