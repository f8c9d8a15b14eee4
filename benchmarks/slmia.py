"""Membership features of speakers: matrix products against the public code's manner, CPU time and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cosine_similarity

from benchmarks._processes import Peak
from benchmarks._result import Result, Row
from fl_privacy._processes import one_thread
from fl_privacy.attacks.membership import Imposters, membership_features

Voices = list[NDArray[np.float32]]

RIVAL = "in the public code's manner: cosines by broadcasting, imposters one after another"


def run(full: bool) -> Result:
    """200 speakers of 20 voices with 100 imposters of 20; then 92 voices with 200 imposters of 185."""
    rng = np.random.default_rng(0)
    speakers, imposters = _people(rng, 200, 20), _people(rng, 100, 20)
    judged = 200 if full else 20
    ours, rival = [], []
    with one_thread():
        for _ in range(5 if full else 3):
            ours.append(_cpu(lambda: _batched(speakers, imposters)) / len(speakers))
            rival.append(_cpu(lambda: [slow_features(v, imposters) for v in speakers[:judged]]) / judged)
        worst = max(
            float(np.abs(row - slow_features(voices, imposters)).max())
            for row, voices in zip(_batched(speakers[:5], imposters), speakers, strict=False)
        )
        mine, theirs = 1e3 * statistics.median(ours), 1e3 * statistics.median(rival)
        extra = {"largest_difference": worst, "speakers_of_the_rival": judged}
        case = "200 speakers x 20 voices x 256, 100 imposters x 20"
        rows = [
            Row(f"{case}: CPU-ms a speaker", mine, theirs, RIVAL, "ms", mine, 1.5, "at_most", extra),
            Row(f"{case}: times as fast", mine, theirs, RIVAL, "ms", theirs / mine, 100.0, "at_least"),
            _memory(rng),
        ]
    return Result("slmia", tuple(rows))


def _memory(rng: np.random.Generator) -> Row:
    """Peak of anonymous memory with many imposters, embeddings included."""
    with Peak() as peak:
        imposters = Imposters.of(_people(rng, 200, 185))
        membership_features(_people(rng, 8, 92), imposters, compat=True)
    case = "92 voices x 200 imposters x 185 voices: peak of this process"
    return Row(case, peak.bytes / 2**30, None, None, "GiB", peak.bytes / 2**30, 1.0, "at_most")


def _people(rng: np.random.Generator, count: int, voices: int) -> Voices:
    own = rng.standard_normal((count, 1, 256), dtype=np.float32)
    return list(own + rng.standard_normal((count, voices, 256), dtype=np.float32))


def _batched(speakers: Voices, imposters: Voices) -> NDArray[np.float64]:
    return membership_features(speakers, Imposters.of(imposters, compat=True), compat=True)


def _cpu(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def slow_features(voices: NDArray[np.float32], imposters: Voices) -> NDArray[np.float64]:
    """The 120 columns of the public code for one speaker, in its manner.

    Cosines by broadcasting (norms each time), imposters one after another, each number taken out of its tensor.
    """
    e = torch.from_numpy(voices)
    mu = e.mean(dim=0, keepdim=True)
    inner = [[float(cosine_similarity(e[i], e[j], dim=0).item()) for j in range(len(e))] for i in range(len(e))]
    n = range(len(e))
    others = [np.array([inner[i][j] for j in n if j != i]) for i in n]
    columns = _four(_table(e, mu).ravel(), 0) + _four(np.array([inner[i][j] for i in n for j in n if i < j]), 0)
    columns += _four_of_each(others, 0)
    people = [torch.from_numpy(q) for q in imposters]
    centroids = torch.stack([q.mean(dim=0) for q in people])
    columns += _four(1 - _table(centroids, mu), 1)
    by_imposter = [1 - _table(q, mu).ravel() for q in people]
    columns += _four(np.concatenate(by_imposter), 1) + _four_of_each(by_imposter, 1)
    for others_voices in (centroids, torch.cat(people)):
        table = 1 - _table(others_voices, e)
        columns += _four(table, 1) + _four_of_each(list(table.T), 1) + _four_of_each(list(table), 1)
    return np.array(columns)


def _table(many: torch.Tensor, few: torch.Tensor) -> NDArray[np.float64]:
    """Cosines (many, few), 5,000 rows at a time."""
    parts = [cosine_similarity(rows[:, :, None], few.T[None], dim=1) for rows in torch.split(many, 5000)]
    return torch.cat(parts).double().numpy()


def _four(values: NDArray[np.float64], ddof: int) -> list[float]:
    return [float(values.mean()), float(values.std(ddof=ddof)), float(values.max()), float(values.min())]


def _four_of_each(groups: list[NDArray[np.float64]], ddof: int) -> list[float]:
    over = np.array([_four(group, ddof) for group in groups])
    return [number for column in over.T for number in _four(column, ddof)]
