"""The study's folds and clients (Feng et al. 2021), on copies of its corpora with the real names and counts."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fl_privacy.config import FederationSettings, Task
from fl_privacy.corpora import Corpus
from fl_privacy.features import FeatureTable
from fl_privacy.sims.partition import Partition, partition, task_corpus
from tests.corpora import trees


def folds(corpus: Corpus, shards: int) -> list[Partition]:
    kept = task_corpus(corpus, Task())
    assert len(kept) == len(corpus)
    table = FeatureTable(kept, np.arange(len(kept), dtype=np.float32)[:, None])
    return [
        partition(
            [table],
            FederationSettings(folds=5, fold=fold, shards_per_speaker=shards),
            Task(),
            names_of_corpora=[corpus.name],
            attribute="gender",
            how="none",
            seed=8,
            hold_out=True,
        )
        for fold in range(5)
    ]


def sizes(cuts: list[Partition]) -> list[int]:
    return [len(cut.test_labels) for cut in cuts]


def clients(cuts: list[Partition]) -> list[tuple[int, int]]:
    """Clients of each fold: (male, female)."""
    counts = [Counter(row["gender"] for row in cut.labels.rows.values()) for cut in cuts]
    assert [len(cut.clients) for cut in cuts] == [sum(count.values()) for count in counts]
    return [(count["male"], count["female"]) for count in counts]


def held_out(cuts: list[Partition]) -> list[tuple[str, ...]]:
    return [tuple(dict.fromkeys(name.partition("/")[2] for name in cut.test_speakers)) for cut in cuts]


def local_train_size(cuts: list[Partition]) -> float:
    return float(np.mean([len(client.train_labels) for cut in cuts for client in cut.clients]))


def test_iemocap(tmp_path: Path) -> None:
    trees.write_iemocap(tmp_path / "iemocap")
    cuts = folds(Corpus.load("iemocap", tmp_path / "iemocap"), shards=10)
    assert held_out(cuts) == [(f"Ses0{session}F", f"Ses0{session}M") for session in range(1, 6)]
    assert sizes(cuts) == [521, 530, 627, 534, 731]
    assert clients(cuts) == [(40, 40)] * 5
    assert local_train_size(cuts) == pytest.approx(23, abs=0.6)


def test_msp_improv(tmp_path: Path) -> None:
    trees.write_msp_improv(tmp_path / "msp_improv")
    cuts = folds(Corpus.load("msp_improv", tmp_path / "msp_improv"), shards=10)
    assert held_out(cuts) == [
        ("M01", "F01", "M02"), ("F02", "M03", "F03"), ("M04", "F04"), ("M05", "F05"), ("M06", "F06"),
    ]  # fmt: skip
    assert sizes(cuts) == [835, 1181, 572, 922, 1070]
    assert clients(cuts) == [(40, 50), (50, 40), (50, 50), (50, 50), (50, 50)]
    assert local_train_size(cuts) == pytest.approx(30, abs=0.6)


@pytest.mark.data
def test_crema_d(tmp_path: Path) -> None:
    data = os.environ.get("FL_PRIVACY_DATA")
    if not data:
        pytest.skip("FL_PRIVACY_DATA is not set")
    trees.write_crema_d(tmp_path / "crema_d", Path(data).resolve() / "crema_d_meta")
    cuts = folds(Corpus.load("crema_d", tmp_path / "crema_d"), shards=1)
    assert sizes(cuts) == [1025, 945, 930, 943, 955]
    assert clients(cuts) == [(40, 32), (38, 35), (38, 35), (37, 36), (39, 34)]
    assert local_train_size(cuts) == pytest.approx(42, abs=0.6)
