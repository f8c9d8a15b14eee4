from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fl_privacy.corpora import Corpus, CorpusError, Excluded, Utterance, describe, write


@pytest.fixture
def made() -> Corpus:
    return Corpus.load("synthetic", speakers=4, utterances=5, seed=3)


def test_the_description_counts(made: Corpus) -> None:
    some = made.select(lambda u: not (u.speaker == "s000" and u.labels["emotion"] == "sad"), "too sad")
    text = describe(some)
    lost = len(made) - len(some)
    assert "speakers                4 (2 female, 2 male)" in text
    assert f"utterances              {len(some)}, {some.hours:.2f} hours" in text
    assert f"utterances per speaker  {5 - lost} to 5, median 5" in text
    for emotion in ("neutral", "happy", "sad", "angry"):
        female = sum(u.labels["emotion"] == emotion and u.labels["gender"] == "female" for u in some)
        male = sum(u.labels["emotion"] == emotion and u.labels["gender"] == "male" for u in some)
        assert [emotion, str(female + male), str(female), str(male)] in [line.split() for line in text.splitlines()]
    assert f"left out: {lost}" in text
    assert "too sad: s000_" in text


def test_reasons_are_grouped_with_three_examples() -> None:
    left = (*(Excluded(f"file{number}", "broken") for number in range(5)), Excluded("other", "song"))
    text = describe(Corpus("test", None, (), left))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "5 broken: file0, file1, file2, ..." in lines
    assert lines.index("5 broken: file0, file1, file2, ...") < lines.index("1 song: other")


def test_a_corpus_without_labels_can_be_described(made: Corpus) -> None:
    bare = Corpus("bare", None, (Utterance("s000_000", "s0"),), source=made.source)
    assert "speakers                1\n" in describe(bare)
    assert "labels                  none" in describe(bare)
    assert "nothing left out" in describe(bare)


def test_a_written_corpus_is_read_back(made: Corpus, tmp_path: Path) -> None:
    manifest = write(made, tmp_path / "out")
    again = Corpus.from_folder(manifest.parent)
    assert again.speakers == made.speakers
    for mine, theirs in zip(made, again, strict=True):
        assert theirs.labels == mine.labels
        np.testing.assert_allclose(again.wave(theirs), made.wave(mine), atol=1 / 32768)


def test_nothing_is_overwritten_or_merged(made: Corpus, tmp_path: Path) -> None:
    write(made, tmp_path)
    with pytest.raises(CorpusError, match="exists already"):
        write(made, tmp_path)
    two = Corpus("two", None, (Utterance("a/b", "s"), Utterance("a_b", "s")))
    with pytest.raises(CorpusError, match="would both be written"):
        write(Corpus("two", None, two.utterances, source=_Silence()), tmp_path / "two")


class _Silence:
    def wave(self, utterance: Utterance) -> np.ndarray:
        return np.zeros(10, np.float32)

    def fingerprint(self, utterance: Utterance) -> str:
        return "0"

    def seconds(self, utterance: Utterance) -> float:
        return 10 / 16_000
