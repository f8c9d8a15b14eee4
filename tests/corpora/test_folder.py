from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_privacy.corpora import Corpus, CorpusError, Excluded

Tone = Callable[[Path], Path]


@pytest.fixture
def root(tmp_path: Path, tone: Tone) -> Path:
    for name in ("a1.wav", "a2.flac", "b1.wav"):
        tone(tmp_path / "voices" / name)
    return tmp_path / "voices"


def manifest(root: Path, text: str, encoding: str = "utf-8") -> Path:
    (root / "manifest.csv").write_text(text, encoding=encoding)
    return root


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_columns_become_labels_and_empty_cells_none(root: Path, encoding: str) -> None:
    manifest(root, "path,speaker,gender,town\na1.wav,Zoë,F,Köln\nb1.wav,Bo,,\n", encoding)
    bo, zoe = Corpus.from_folder(root)
    assert (bo.speaker, bo.labels) == ("Bo", {})
    assert (zoe.speaker, zoe.labels, zoe.path) == ("Zoë", {"gender": "female", "town": "Köln"}, root / "a1.wav")


@pytest.mark.parametrize(
    ("written", "read"),
    [(value, "female") for value in ("F", "f", "female", "Female", "w", "woman")]
    + [(value, "male") for value in ("M", "m", "male", "MALE", "man")],
)
def test_ways_to_write_a_gender(root: Path, written: str, read: str) -> None:
    manifest(root, f"path,speaker,gender\na1.wav,a,{written}\n")
    assert Corpus.from_folder(root).label("gender") == [read]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,speaker,gender\na1.wav,a,F\nb1.wav,b,x\n", "row 2 has the gender 'x'"),
        ("path,who\na1.wav,a\n", "no column 'speaker'; it has path, who"),
        ("", "no column 'path', 'speaker'"),
        ("path,speaker\na1.wav,a\na2.flac,a\n./a1.wav,a\n", r"row 3 lists \./a1\.wav again, after row 1"),
        ("path,speaker\na1.wav,\n", "row 1 has no speaker"),
        ("path,speaker\n,a\n", "row 1 has no path"),
        ("path,speaker\na1.wav,a,surplus\n", "row 1 has more cells than the header"),
        ("path,speaker\ngone.wav,a\n", r"no usable recordings.*gone\.wav \(file missing"),
        ("path,speaker,gender\na1.wav,a,F\na2.flac,a,M\n", "'a' has two values of 'gender', 'female' and 'male'"),
    ],
)
def test_mistakes_in_a_manifest_name_the_place(root: Path, text: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        Corpus.from_folder(manifest(root, text))


def test_a_manifest_in_another_encoding_is_refused(root: Path) -> None:
    with pytest.raises(CorpusError, match="not a CSV file in UTF-8"):
        Corpus.from_folder(manifest(root, "path,speaker\na1.wav,Zoë\n", "utf-16"))


def test_a_missing_or_broken_file_is_left_out(root: Path) -> None:
    (root / "b1.wav").write_bytes(b"")
    corpus = Corpus.from_folder(manifest(root, "path,speaker\na1.wav,a\ngone.wav,a\nb1.wav,b\n"))
    assert [utterance.id for utterance in corpus] == ["a1.wav"]
    assert set(corpus.excluded) == {
        Excluded("gone.wav", "file missing (row 2 of manifest.csv)"),
        Excluded("b1.wav", "empty file"),
    }


def test_paths_may_lead_elsewhere_where_there_is_a_file(root: Path, tone: Tone) -> None:
    elsewhere = tone(root.parent / "elsewhere" / "c.wav")
    corpus = Corpus.from_folder(
        manifest(root, f"path,speaker\n../elsewhere/c.wav,c\n{root / 'a1.wav'},a\n../no.wav,a\n")
    )
    assert {utterance.path for utterance in corpus} == {elsewhere, root / "a1.wav"}
    assert [excluded.item for excluded in corpus.excluded] == ["../no.wav"]


def test_without_a_manifest_each_folder_is_a_speaker(tmp_path: Path, tone: Tone) -> None:
    for name in ("s2/x.wav", "s10/deep/er/y.FLAC", "s10/deep/x.wav", "stray.wav"):
        tone(tmp_path / name)
    (tmp_path / "s2" / "notes.txt").write_text("")
    corpus = Corpus.from_folder(str(tmp_path))
    assert [(utterance.speaker, utterance.id) for utterance in corpus] == [
        ("s2", "s2/x.wav"),
        ("s10", "s10/deep/er/y.FLAC"),
        ("s10", "s10/deep/x.wav"),
    ]
    assert {excluded.item: excluded.reason for excluded in corpus.excluded} == {
        "stray.wav": "lies in no speaker's folder",
        "s2/notes.txt": "not a wav or flac file",
    }


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"Looked for manifest\.csv, or <speaker>/<file>\.wav"):
        Corpus.from_folder(tmp_path)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "utterances", "speakers"), [("ravdess", 1439, 24), ("emodb", 339, 10), ("an4", 1078, 84)]
)
def test_the_real_manifests(data: Path, name: str, utterances: int, speakers: int) -> None:
    corpus = Corpus.from_folder(data / name)
    assert (corpus.name, len(corpus), len(corpus.speakers)) == (name, utterances, speakers)
    assert set(Counter(corpus.speaker_labels("gender").values())) == {"female", "male"}


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("path,speaker,gender,gender\na.wav,s,M,F\n")
    with pytest.raises(CorpusError, match="the column gender twice"):
        Corpus.from_folder(tmp_path)
