from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_privacy.corpora import CORPORA, Corpus, CorpusError, load


def test_an_unknown_name_lists_the_known_ones() -> None:
    known = "synthetic, ravdess, emodb, crema_d, iemocap, msp_improv, an4, librispeech, timit, vctk, voxceleb2, folder"
    with pytest.raises(CorpusError, match=rf"unknown corpus 'radvess'. Known: {known}"):
        load("radvess")


def test_an_unknown_option_lists_the_known_ones() -> None:
    with pytest.raises(
        CorpusError, match=r"no option 'speaker'. Its options: speakers, utterances, seed, gender_effect"
    ):
        load("synthetic", speaker=3)
    with pytest.raises(CorpusError, match=r"no option 'seed'. It takes no options"):
        load("emodb", "somewhere", seed=3)


@pytest.mark.parametrize(
    "name", ["ravdess", "emodb", "crema_d", "iemocap", "msp_improv", "an4", "librispeech", "vctk", "voxceleb2"]
)
def test_without_a_root_it_looks_under_the_data_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FL_PRIVACY_DATA", raising=False)
    with pytest.raises(CorpusError, match="FL_PRIVACY_DATA"):
        load(name)
    monkeypatch.setenv("FL_PRIVACY_DATA", str(tmp_path))
    with pytest.raises(CorpusError, match=f"{tmp_path / name} is not there"):
        load(name)


def test_a_folder_needs_a_root() -> None:
    with pytest.raises(CorpusError, match="needs a root"):
        load("folder")


def test_a_scan_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tone: Callable[[Path], Path]) -> None:
    (tmp_path / "my_scans.py").write_text(
        "from fl_privacy.corpora import Corpus, Utterance\n"
        "def scan(root, prefix='x'):\n"
        "    return Corpus('mine', root, tuple(Utterance(p.name, prefix + p.stem, p) for p in root.glob('*.wav')))\n"
        "def nothing(root):\n    return None\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    tone(tmp_path / "a.wav")
    assert Corpus.load("my_scans:scan", tmp_path, prefix="y").speakers == ("ya",)
    with pytest.raises(CorpusError, match="needs a root"):
        load("my_scans:scan")
    with pytest.raises(CorpusError, match="no option 'suffix'"):
        load("my_scans:scan", tmp_path, suffix="y")
    with pytest.raises(CorpusError, match="returned NoneType"):
        load("my_scans:nothing", tmp_path)
    with pytest.raises(CorpusError, match="no function"):
        load("my_scans:number", tmp_path)
    with pytest.raises(CorpusError, match="has no 'scam'"):
        load("my_scans:scam", tmp_path)
    with pytest.raises(CorpusError, match="no module 'my_scams'"):
        load("my_scams:scan", tmp_path)


def test_a_module_of_ones_own_that_lacks_a_package_says_so_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy_scans.py").write_text("import surely_not_installed\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        load("needy_scans:scan", tmp_path)


def test_every_name_is_there() -> None:
    for where in CORPORA.values():
        module, _, function = where.partition(":")
        assert callable(getattr(__import__(module, fromlist=[function]), function))


def test_importing_is_light() -> None:
    heavy = "{'torch', 'torchaudio', 'scipy', 'sklearn', 'matplotlib', 'soundfile', 'flwr'}"
    code = f"import sys, fl_privacy.corpora, fl_privacy.features; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
