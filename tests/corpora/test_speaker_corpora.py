"""Corpora of many speakers, as generated trees and, for AN4, as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_privacy.corpora import Corpus, CorpusError

Tone = Callable[[Path], Path]


def reasons(corpus: Corpus) -> dict[str, str]:
    return {excluded.item: excluded.reason for excluded in corpus.excluded}


# AN4


@pytest.mark.parametrize("folder", ["wav", "an4/wav"])
def test_an4_names_become_labels(tmp_path: Path, tone: Tone, folder: str) -> None:
    tone(tmp_path / folder / "an4_clstk" / "fash" / "an251-fash-b.wav")
    tone(tmp_path / folder / "an4test_clstk" / "mdms2" / "cen7-mdms2-b.flac")
    etc = tmp_path / folder / ".." / "etc"
    etc.mkdir()
    (etc / "an4_train.transcription").write_text("<s> U M N Y </s> (an251-fash-b)\n\nnonsense\n")
    (etc / "an4_test.transcription").write_text("TWO SIX (cen7-mdms2-b)\n")
    first, second = Corpus.load("an4", tmp_path)
    assert (first.id, first.speaker) == ("an251-fash-b", "fash")
    assert first.labels == {"gender": "female", "subset": "train", "transcript": "U M N Y"}
    assert second.labels == {"gender": "male", "subset": "test", "transcript": "TWO SIX"}


def test_an4_leaves_out_with_reasons(tmp_path: Path, tone: Tone) -> None:
    wav = tmp_path / "wav" / "an4_clstk"
    tone(wav / "fash" / "an251-fash-b.wav")
    tone(wav / "fash" / "an251-fash-b.flac")
    tone(wav / "fash" / "an252-mblb-b.wav")
    tone(wav / "fash" / "song.wav")
    (wav / "fash" / "an253-fash-b.sph").write_bytes(b"NIST_1A")
    (wav / "fash" / "an254-fash-b.wav").write_bytes(b"")
    corpus = Corpus.load("an4", tmp_path)
    assert [utterance.id for utterance in corpus] == ["an251-fash-b"]
    assert {Path(item).name: reason for item, reason in reasons(corpus).items()} == {
        "an251-fash-b.wav": "second copy of the same utterance",
        "an252-mblb-b.wav": "lies in the folder of fash",
        "song.wav": "name is not of the form an251-fash-b",
        "an253-fash-b.sph": "not a wav or flac file",
        "an254-fash-b.wav": "empty file",
    }


def test_an4_elsewhere_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"Looked for wav/an4_clstk/fash"):
        Corpus.load("an4", tmp_path)


@pytest.mark.data
def test_an4_as_it_is(data: Path) -> None:
    corpus = Corpus.load("an4", data / "an4")
    assert (len(corpus), len(corpus.speakers), len(corpus.excluded)) == (1078, 84, 0)
    assert Counter(corpus.label("subset")) == {"train": 948, "test": 130}
    assert Counter(corpus.speaker_labels("gender").values()) == {"female": 24, "male": 60}
    assert all(corpus.label("transcript"))


# LibriSpeech


def libri(tone: Tone, root: Path, subset: str, speaker: str, chapter: str, suffix: str = ".flac") -> None:
    folder = root / subset / speaker / chapter
    tone(folder / f"{speaker}-{chapter}-0000{suffix}")
    (folder / f"{speaker}-{chapter}.trans.txt").write_text("SAID")


@pytest.mark.parametrize("below", [".", "LibriSpeech"])
def test_librispeech_chapters_are_sessions(tmp_path: Path, tone: Tone, below: str) -> None:
    root = tmp_path / below
    libri(tone, root, "dev-clean", "84", "121123")
    libri(tone, root, "train-clean-100", "19", "198")
    libri(tone, root, "train-clean-100", "19", "227", ".wav")
    (root / "SPEAKERS.TXT").write_text(
        ";ID  |SEX| SUBSET           |MINUTES| NAME\n"
        "19   | F | train-clean-100  | 25.19 | Kara Shallenberg\n84   | M | dev-clean        |  8.02 | Christie | Nowak\n"
    )
    corpus = Corpus.load("librispeech", tmp_path)
    assert [u.id for u in corpus] == ["19-198-0000", "19-227-0000", "84-121123-0000"]
    assert corpus.label("session") == ["198", "227", "121123"]
    assert corpus.speaker_labels("gender") == {"19": "female", "84": "male"}
    assert corpus.excluded == ()
    assert Corpus.load("librispeech", tmp_path, subsets=["dev-clean"]).speakers == ("84",)


def test_librispeech_subsets_and_strays(tmp_path: Path, tone: Tone) -> None:
    libri(tone, tmp_path, "dev-clean", "84", "121123")
    tone(tmp_path / "dev-clean" / "84" / "121123" / "85-121123-0001.flac")
    tone(tmp_path / "dev-clean" / "84" / "x.flac")
    assert sorted(reasons(Corpus.load("librispeech", tmp_path)).values()) == [
        "lies in 84/121123",
        "name is not of the form 19-198-0000",
    ]
    with pytest.raises(CorpusError, match="holds no test-clean; download"):
        Corpus.load("librispeech", tmp_path, subsets=["test-clean"])
    with pytest.raises(CorpusError, match="no subset 'clean'; there are train-clean-100"):
        Corpus.load("librispeech", tmp_path, subsets=["clean"])


def test_librispeech_takes_several_subsets(tmp_path: Path, tone: Tone) -> None:
    for subset, speaker in [("train-clean-100", "19"), ("dev-clean", "84"), ("test-other", "367")]:
        libri(tone, tmp_path, subset, speaker, "1")
    corpus = Corpus.load("librispeech", tmp_path, subsets=["train-clean-100", "test-other"])
    assert [(u.speaker, u.labels["subset"]) for u in corpus] == [("19", "train-clean-100"), ("367", "test-other")]
    assert corpus.excluded == ()


# VCTK


def vctk(tone: Tone, folder: Path, *names: str) -> None:
    for name in names:
        tone(folder / name.split("_")[0] / name, 48_000)


@pytest.mark.parametrize("below", [".", "VCTK-Corpus-0.92"])
@pytest.mark.parametrize("mic", ["mic1", "mic2"])
def test_vctk_0_92_has_two_microphones(tmp_path: Path, tone: Tone, below: str, mic: str) -> None:
    audio = tmp_path / below / "wav48_silence_trimmed"
    vctk(tone, audio, "p225_001_mic1.flac", "p225_001_mic2.flac", "s5_024_mic1.flac", "s5_024_mic2.flac")
    vctk(tone, audio, "p280_001_mic1.flac")
    (audio / "log.txt").write_text("removed silences")
    (tmp_path / below / "speaker-info.txt").write_text(
        "ID  AGE  GENDER  ACCENTS  REGION COMMENTS \n"
        "p225  23  F    English    Southern England\n"
        "p280  25  F    French    France (mic2 files unavailable)\n"
        "s5  30  F    British\n"
    )
    corpus = Corpus.load("vctk", tmp_path, mic=mic)
    people = {
        "p225_001": ("p225", {"sentence": "001", "gender": "female", "age": "23", "accent": "English"}),
        "p280_001": ("p280", {"sentence": "001", "gender": "female", "age": "25", "accent": "French"}),
        "s5_024": ("s5", {"sentence": "024", "gender": "female", "age": "30", "accent": "British"}),
    }
    if mic == "mic2":
        del people["p280_001"]
    assert {u.id: (u.speaker, u.labels) for u in corpus} == people
    assert all(mic in str(u.path) for u in corpus)
    assert list(reasons(corpus).values()) == (["not recorded by mic2"] if mic == "mic2" else [])
    assert abs(len(corpus.wave(corpus.utterances[0])) - 1600) <= 1  # a tenth of a second at 16 kHz


def test_vctk_0_80_is_wav_and_numbers_its_speakers(tmp_path: Path, tone: Tone) -> None:
    audio = tmp_path / "VCTK-Corpus" / "wav48"
    vctk(tone, audio, "p225_001.wav", "p376_295.wav", "p226_003.wav")
    (audio / "p376" / "p376_296.raw").write_bytes(b"0")
    (tmp_path / "VCTK-Corpus" / "speaker-info.txt").write_text(
        "ID  AGE  GENDER  ACCENTS  REGION\n225  23  F    English    Southern  England\n226  22  M    English    Surrey\n"
    )
    corpus = Corpus.load("vctk", tmp_path)
    assert [(u.id, u.labels) for u in corpus] == [
        ("p225_001", {"sentence": "001", "gender": "female", "age": "23", "accent": "English"}),
        ("p226_003", {"sentence": "003", "gender": "male", "age": "22", "accent": "English"}),
        ("p376_295", {"sentence": "295"}),
    ]
    assert reasons(corpus) == {"VCTK-Corpus/wav48/p376/p376_296.raw": "not a wav or flac file"}


def test_vctk_leaves_out_with_reasons(tmp_path: Path, tone: Tone) -> None:
    audio = tmp_path / "wav48"
    vctk(tone, audio, "p225_001.wav", "p225_001.flac", "p225_1.wav")
    tone(audio / "p226" / "p227_001.wav")
    corpus = Corpus.load("vctk", tmp_path)
    assert len(corpus) == 1
    assert {Path(item).name: reason for item, reason in reasons(corpus).items()} == {
        "p225_001.wav": "second copy of the same utterance",
        "p225_1.wav": "name is not of the form p225_001 or p225_001_mic1",
        "p227_001.wav": "lies in the folder of p226",
    }
    with pytest.raises(CorpusError, match="no microphone 'mic3'; there are mic1, mic2"):
        Corpus.load("vctk", tmp_path, mic="mic3")
    with pytest.raises(CorpusError, match=r"Looked for wav48_silence_trimmed/p225"):
        Corpus.load("vctk", tmp_path / "wav48" / "p226")


# VoxCeleb2


def test_voxceleb2_videos_are_sessions(tmp_path: Path, tone: Tone) -> None:
    tone(tmp_path / "dev" / "aac" / "id00012" / "21Uxsk56VDQ" / "00001.flac")
    (tmp_path / "dev" / "aac" / "id00012" / "21Uxsk56VDQ" / "00001.m4a").write_bytes(b"original")
    (tmp_path / "dev" / "aac" / "id00012" / "21Uxsk56VDQ" / "00002.m4a").write_bytes(b"original")
    tone(tmp_path / "test" / "id00017" / "5MkXgwdrmJw" / "00001.wav")
    tone(tmp_path / "notes" / "00001.wav")
    (tmp_path / "vox2_meta.csv").write_text(
        "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \nid00012 ,n000012 ,m ,dev \nid00017 ,n000017 ,f ,test \n"
    )
    corpus = Corpus.load("voxceleb2", tmp_path)
    assert [(u.id, u.labels) for u in corpus] == [
        ("id00012/21Uxsk56VDQ/00001", {"session": "21Uxsk56VDQ", "subset": "dev", "gender": "male"}),
        ("id00017/5MkXgwdrmJw/00001", {"session": "5MkXgwdrmJw", "subset": "test", "gender": "female"}),
    ]
    assert reasons(corpus) == {
        "dev/aac/id00012/21Uxsk56VDQ/00002.m4a": "m4a, not converted to wav or flac",
        "notes/00001.wav": "not of the form id00012/21Uxsk56VDQ/00001.flac",
    }


def test_voxceleb2_says_that_its_audio_must_be_converted(tmp_path: Path) -> None:
    folder = tmp_path / "dev" / "aac" / "id00012" / "21Uxsk56VDQ"
    folder.mkdir(parents=True)
    (folder / "00001.m4a").write_bytes(b"original")
    with pytest.raises(CorpusError, match="all 1 recordings in .* are m4a; convert them: ffmpeg -i"):
        Corpus.load("voxceleb2", tmp_path)
