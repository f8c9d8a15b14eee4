from __future__ import annotations

import itertools
import pickle
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_privacy.corpora import Corpus, CorpusError, Excluded, Utterance


def corpus(*rows: tuple[str, str, dict[str, str]]) -> Corpus:
    return Corpus("test", None, tuple(Utterance(name, speaker, None, labels) for name, speaker, labels in rows))


def test_numbers_are_sorted_by_value() -> None:
    found = corpus(*[(f"u{number}", f"s{number}", {}) for number in (10, 2, 1, 100, 9)])
    assert found.speakers == ("s1", "s2", "s9", "s10", "s100")
    assert [utterance.id for utterance in found] == ["u1", "u2", "u9", "u10", "u100"]


@given(
    names=st.lists(st.text(max_size=6), unique=True, max_size=12),
    order=st.integers(0, 2**32),
)
def test_the_order_does_not_depend_on_the_order_of_finding(names: list[str], order: int) -> None:
    rows: list[tuple[str, str, dict[str, Any]]] = [(name, name[:1], {}) for name in names]
    shuffled = rows.copy()
    random.Random(order).shuffle(shuffled)
    assert corpus(*rows) == corpus(*shuffled)
    speakers = [utterance.speaker for utterance in corpus(*rows)]
    assert list(dict.fromkeys(speakers)) == [key for key, _ in itertools.groupby(speakers)]


def test_an_id_twice_is_an_error() -> None:
    with pytest.raises(CorpusError, match="two utterances have the id 'a'"):
        corpus(("a", "s1", {}), ("a", "s2", {}))


def test_labels_come_in_the_order_of_the_utterances() -> None:
    found = corpus(("b", "s", {"emotion": "sad"}), ("a", "s", {"emotion": "happy", "age": "3"}))
    assert found.label("emotion") == ["happy", "sad"]
    assert found.attributes == ("age", "emotion")
    with pytest.raises(CorpusError, match=r"1 of 2 utterances have no label 'age' \(first: b\).*age, emotion"):
        found.label("age")


def test_speaker_labels_name_the_speaker_and_both_values() -> None:
    found = corpus(("a", "s1", {"gender": "female"}), ("b", "s1", {"gender": "male"}), ("c", "s2", {"gender": "male"}))
    with pytest.raises(CorpusError, match="'s1' has two values of 'gender', 'female' and 'male'"):
        found.speaker_labels("gender")


def test_speaker_labels_need_one_for_every_speaker() -> None:
    found = corpus(("a", "s1", {"gender": "female"}), ("b", "s1", {}), ("c", "s2", {}))
    with pytest.raises(CorpusError, match="'s2' has no label 'gender'"):
        found.speaker_labels("gender")
    assert found.select(lambda u: u.speaker == "s1", "test").speaker_labels("gender") == {"s1": "female"}


def test_what_is_not_selected_is_listed() -> None:
    found = corpus(("a", "s1", {}), ("b", "s1", {}), ("c", "s2", {}))
    some = found.select(lambda u: u.id != "b", "too long").select(lambda u: u.id == "a", lambda u: f"not {u.speaker}")
    assert [utterance.id for utterance in some] == ["a"]
    assert some.excluded == (Excluded("b", "too long"), Excluded("c", "not s2"))
    assert len(found) == 3


def test_a_corpus_travels_to_other_processes() -> None:
    found = corpus(("a", "s1", {"gender": "female"}))
    assert pickle.loads(pickle.dumps(found)) == found
    made = Corpus.load("synthetic", speakers=2, utterances=1)
    again = pickle.loads(pickle.dumps(made))
    assert (again.wave(again.utterances[0]) == made.wave(made.utterances[0])).all()


def test_a_corpus_may_order_its_speakers_itself() -> None:
    rows = tuple(Utterance(f"{speaker}-{n}", speaker) for speaker in ("F10", "F2", "M2", "M1", "F1") for n in (10, 2))
    found = Corpus("test", None, rows, speaker_order=("M1", "F1", "M2", "F2"))
    assert found.speakers == ("M1", "F1", "M2", "F2", "F10")
    assert [utterance.id for utterance in found][:2] == ["M1-2", "M1-10"]
    assert found.select(lambda u: u.speaker != "F1", "test").speakers == ("M1", "M2", "F2", "F10")
    assert pickle.loads(pickle.dumps(found)).speakers == found.speakers
