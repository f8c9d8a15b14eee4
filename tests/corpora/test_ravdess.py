from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_privacy.corpora import Corpus, CorpusError

Tone = Callable[[Path], Path]


def reasons(corpus: Corpus) -> dict[str, str]:
    return {excluded.item: excluded.reason for excluded in corpus.excluded}


def test_names_become_labels(tmp_path: Path, tone: Tone) -> None:
    tone(tmp_path / "Actor_16" / "03-01-05-02-02-01-16.wav")
    tone(tmp_path / "Actor_03" / "03-01-01-01-01-02-03.FLAC")
    first, second = Corpus.load("ravdess", tmp_path)
    assert (first.id, first.speaker) == ("03-01-01-01-01-02-03", "03")
    assert first.labels == {
        "gender": "male",
        "emotion": "neutral",
        "statement": "kids are talking by the door",
        "intensity": "normal",
        "repetition": "2",
    }
    assert second.labels == {
        "gender": "female",
        "emotion": "angry",
        "statement": "dogs are sitting by the door",
        "intensity": "strong",
        "repetition": "1",
    }


def test_a_second_copy_is_left_out(tmp_path: Path, tone: Tone) -> None:
    name = "Actor_01/03-01-03-01-01-01-01.wav"
    tone(tmp_path / name)
    tone(tmp_path / "audio_speech_actors_01-24" / name)
    corpus = Corpus.load("ravdess", tmp_path)
    assert [utterance.path for utterance in corpus] == [tmp_path / name]
    assert reasons(corpus) == {f"audio_speech_actors_01-24/{name}": "second copy of the same utterance"}


def test_the_published_archive_has_one_folder_more(tmp_path: Path, tone: Tone) -> None:
    tone(tmp_path / "Audio_Speech_Actors_01-24" / "Actor_02" / "03-01-04-01-01-01-02.wav")
    assert Corpus.load("ravdess", tmp_path).label("emotion") == ["sad"]


def test_everything_else_is_left_out_with_its_reason(tmp_path: Path, tone: Tone) -> None:
    actor = tmp_path / "Actor_01"
    tone(actor / "03-01-01-01-01-01-01.wav")
    for name in (
        "03-02-01-01-01-01-01", "01-01-01-01-01-01-01", "03-01-02-01-01-01-01", "03-01-08-01-01-01-01",
        "03-01-09-01-01-01-01", "03-01-01-01-01-01-25", "03-01-01-01-01-01-02", "notes",
    ):  # fmt: skip
        tone(actor / f"{name}.wav")
    (actor / "03-01-03-01-01-01-01.wav").write_bytes(b"")
    (actor / "03-01-04-01-01-01-01.wav").write_text("version https://git-lfs.github.com/spec/v1\n")
    (actor / "03-01-05-01-01-01-01.wav").write_text("garbage")
    (actor / "readme.txt").write_text("hello")
    corpus = Corpus.load("ravdess", tmp_path)
    assert len(corpus) == 1
    assert {Path(item).stem: reason for item, reason in reasons(corpus).items()} == {
        "03-02-01-01-01-01-01": "song",
        "01-01-01-01-01-01-01": "not audio-only",
        "03-01-02-01-01-01-01": "emotion calm",
        "03-01-08-01-01-01-01": "emotion surprised",
        "03-01-09-01-01-01-01": "name holds the unknown code 09",
        "03-01-01-01-01-01-25": "name holds the unknown code 25",
        "03-01-01-01-01-01-02": "named for actor 02 but lies in Actor_01",
        "notes": "name is not of the form 03-01-05-01-02-01-16",
        "03-01-03-01-01-01-01": "empty file",
        "03-01-04-01-01-01-01": "git-lfs pointer, not audio",
        "03-01-05-01-01-01-01": "not readable as audio",
        "readme": "not a wav or flac file",
    }


def test_another_folder_is_an_error_that_says_what_was_looked_for(tmp_path: Path, tone: Tone) -> None:
    tone(tmp_path / "somebody" / "a.wav")
    with pytest.raises(CorpusError, match=r"no usable recordings.*Looked for Actor_NN/03-01-"):
        Corpus.load("ravdess", tmp_path)
    with pytest.raises(CorpusError, match="is not there"):
        Corpus.load("ravdess", tmp_path / "nowhere")
    with pytest.raises(CorpusError, match="is not a folder"):
        Corpus.load("ravdess", tmp_path / "somebody" / "a.wav")


@pytest.mark.data
def test_the_real_corpus(data: Path) -> None:
    corpus = Corpus.load("ravdess", data / "ravdess")
    assert len(corpus) == 671
    assert Counter(corpus.speaker_labels("gender").values()) == {"female": 12, "male": 12}
    assert sorted(Counter(utterance.speaker for utterance in corpus).values()) == [27] + 23 * [28]
    assert Counter(corpus.label("emotion")) == {"neutral": 96, "happy": 191, "sad": 192, "angry": 192}
