from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fl_privacy.corpora import Corpus, Excluded, Utterance
from fl_privacy.features import FeatureError, FeatureTable, extract, load_extractor

# The package exports a function of the same name, so that an attribute path would find that.
MODULE = importlib.import_module("fl_privacy.features.extract")
MINE = f"{__package__}._extractors" if __package__ else "_extractors"


def on_disk(folder: Path) -> Corpus:
    rng = np.random.default_rng(0)
    for name, seconds in [("a/1", 1.5), ("a/2", 0.5), ("b/1", 1.2)]:
        path = folder / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(str(path), rng.uniform(-0.1, 0.1, int(seconds * 16_000)), 16_000)
    return Corpus.from_folder(folder)


def test_rows_are_the_utterances_in_order(corpus: Corpus) -> None:
    table = extract(corpus)
    extractor = load_extractor("functionals")
    assert table.corpus == corpus
    assert table.values.dtype == np.float32
    assert table.speakers == [utterance.speaker for utterance in corpus]
    for utterance, row in zip(corpus, table.values, strict=True):
        np.testing.assert_array_equal(row, extractor(corpus.wave(utterance)))


def test_any_number_of_processes_gives_the_same_bytes(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = extract(corpus, processes=1).values
    monkeypatch.setenv("FL_PRIVACY_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(MODULE, "_BATCH", 5)
    seen: list[tuple[int, int]] = []
    found = extract(corpus, processes=2, progress=lambda done, total: seen.append((done, total)))
    assert found.values.tobytes() == expected.tobytes()
    assert seen == [(done, 12) for done in range(1, 13)]


def test_by_default_a_pool_starts_only_where_it_pays(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_pool(*_: object) -> None:
        raise AssertionError("a pool for a tenth of a second of work")

    monkeypatch.setattr(MODULE, "_in_pool", no_pool)
    assert len(extract(corpus).values) == 12
    monkeypatch.setenv("FL_PRIVACY_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(MODULE, "_START_UP", -1.0)
    with pytest.raises(AssertionError, match="a pool"):
        extract(corpus)


def test_what_cannot_be_used_moves_to_excluded(tmp_path: Path) -> None:
    corpus = on_disk(tmp_path / "voices")
    (tmp_path / "voices" / "b" / "1.wav").write_bytes(b"garbage")
    table = extract(corpus, f"{MINE}:Level")
    assert [utterance.id for utterance in table.corpus] == ["a/1.wav"]
    assert table.values.shape == (1, 2)
    assert table.corpus.excluded == (
        Excluded("a/2.wav", "level gave values that are not finite"),
        Excluded("b/1.wav", f"{tmp_path}/voices/b/1.wav: not readable as audio"),
    )


def test_a_file_that_has_gone_moves_to_excluded(tmp_path: Path) -> None:
    corpus = on_disk(tmp_path / "voices")
    (tmp_path / "voices" / "b" / "1.wav").unlink()
    table = extract(corpus, f"{MINE}:Gentle")
    assert [utterance.id for utterance in table.corpus] == ["a/1.wav", "a/2.wav"]
    assert [excluded.item for excluded in table.corpus.excluded] == ["b/1.wav"]


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    corpus = on_disk(tmp_path / "voices")
    for utterance in corpus:
        assert utterance.path is not None
        utterance.path.write_bytes(b"")
    with pytest.raises(FeatureError, match=r"none of 3 utterances has features \(first: a/1\.wav: .*empty file\)"):
        extract(corpus)
    with pytest.raises(FeatureError, match="has no utterances"):
        extract(corpus.select(lambda _: False, "test"))


def test_mistakes_are_named(corpus: Corpus) -> None:
    with pytest.raises(FeatureError, match="processes must be at least 1"):
        extract(corpus, processes=0)
    with pytest.raises(FeatureError, match="promised"):
        extract(corpus, f"{MINE}:Wrong")
    with pytest.raises(ValueError, match="12 utterances"):
        FeatureTable(corpus, np.zeros((3, 2), np.float32))


def test_what_is_cached_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("LEVEL_LOG", str(log))
    corpus = on_disk(tmp_path / "voices")
    first = extract(corpus, f"{MINE}:Gentle")
    assert len(log.read_text()) == 3
    seen: list[int] = []
    second = extract(corpus, f"{MINE}:Gentle", progress=lambda done, _: seen.append(done))
    assert len(log.read_text()) == 3
    assert seen == [1, 2, 3]
    assert second.values.tobytes() == first.values.tobytes()
    soundfile.write(str(tmp_path / "voices" / "a" / "2.wav"), np.ones(20_000) * 0.5, 16_000)
    third = extract(corpus, f"{MINE}:Gentle")
    assert len(log.read_text()) == 4
    assert third.values[1, 1] == 20_000
    assert third.values[[0, 2]].tobytes() == first.values[[0, 2]].tobytes()


def test_dead_workers_cost_a_warning(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEST_PROCESS", str(os.getpid()))
    assert len(extract(corpus, f"{MINE}:Dying", processes=2).values) == 12
    assert "worker processes died" in caplog.text


def test_the_threads_of_the_caller_come_back(corpus: Corpus) -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        extract(corpus)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import os, time, pathlib\nimport numpy as np\n"
        "class Slow:\n"
        "    name, version, dimension = 'slow', '1', 1\n"
        "    def __call__(self, wave, /):\n"
        f"        pathlib.Path({str(tmp_path)!r}, f'pid{{os.getpid()}}').touch()\n"
        "        time.sleep(60)\n"
        "        return np.zeros(1, np.float32)\n"
    )
    (tmp_path / "main.py").write_text(
        "from fl_privacy.corpora import Corpus\nfrom fl_privacy.features import extract\n"
        "if __name__ == '__main__':\n"
        "    extract(Corpus.load('synthetic', speakers=4, utterances=16), 'slow:Slow', processes=2)\n"
    )
    parent = subprocess.Popen([sys.executable, str(tmp_path / "main.py")], cwd=tmp_path)
    try:
        workers: list[int] = []
        deadline = time.monotonic() + 40
        while not workers and time.monotonic() < deadline:
            time.sleep(0.1)
            workers = [int(path.name[3:]) for path in tmp_path.glob("pid*")]
        assert workers
        assert parent.pid not in workers
        assert all(alive(worker) for worker in workers)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 10
    while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(worker) for worker in workers)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.data
def test_sex_is_learnt_across_real_corpora() -> None:
    data = os.environ.get("FL_PRIVACY_DATA")
    if not data:
        pytest.skip("FL_PRIVACY_DATA is not set")
    from sklearn.linear_model import LogisticRegression

    from fl_privacy.features import normalise

    scaled, labels = [], []
    for name in ("emodb", "ravdess"):
        whole = Corpus.load(name, Path(data) / name)
        table = extract(whole.select(lambda u: u.labels["emotion"] in ("neutral", "angry"), "test"))
        scaled.append(normalise(table.values, table.speakers, "global"))
        labels.append(table.corpus.label("gender"))
    model = LogisticRegression(C=0.01, max_iter=500).fit(scaled[0], labels[0])
    assert model.score(scaled[1], labels[1]) > 0.78


def test_an_utterance_without_audio_is_excluded(corpus: Corpus) -> None:
    silent = Corpus("none", None, (Utterance("x", "s"),))
    with pytest.raises(FeatureError, match="no audio file"):
        extract(silent)
