"""The page on speaker membership tells how to bring a corpus that has no scan of its own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import soundfile

from fl_privacy.corpora import Corpus

PAGE = Path(__file__).parents[2] / "docs" / "speaker-membership.md"


def test_the_recipe_makes_a_manifest_that_a_folder_is_read_by(tmp_path, monkeypatch):
    root = tmp_path / "kespeech"
    paths = {"u1": "Audio/1/a.wav", "u2": "Audio/1/b.wav", "u3": "Audio/2/a b.wav"}
    for path in paths.values():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(str(root / path), 0.1 * np.ones(1600), 16_000)
    (root / "wav.scp").write_text("".join(f"{name} {path}\n" for name, path in paths.items()))
    (root / "utt2spk").write_text("u1 s1\nu2 s1\nu3 s2\n")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(block, str(PAGE), "exec"), {})
    corpus = Corpus.from_folder(root)
    assert [(u.id, u.speaker) for u in corpus] == [
        ("Audio/1/a.wav", "s1"),
        ("Audio/1/b.wav", "s1"),
        ("Audio/2/a b.wav", "s2"),
    ]
