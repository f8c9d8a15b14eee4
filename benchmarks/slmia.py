"""Membership features of speakers: matrix products against one voice at a time, CPU time and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks._processes import Peak
from benchmarks._result import Result, Row
from fl_privacy._processes import one_thread
from fl_privacy.attacks.membership import Imposters, membership_features

Voices = list[NDArray[np.float32]]

RIVAL = "one voice at a time: each similarity vector by itself, statistics as they come"


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
    """The 120 columns of the public code for one speaker, in its manner: a voice against a batch, norms each time."""
    columns: list[float] = []
    mu = voices.mean(axis=0)
    inner = np.concatenate([_cosine(voices[i], voices[i + 1 :]) for i in range(len(voices))])
    others = [_cosine(voices[i], np.delete(voices, i, axis=0)) for i in range(len(voices))]
    columns += _four(_cosine(mu, voices), 0) + _four(inner, 0)
    columns += _four_of_each(others, 0)
    centroids = np.stack([q.mean(axis=0) for q in imposters])
    columns += _four(1 - _cosine(mu, centroids), 1)
    by_imposter = [1 - _cosine(mu, q) for q in imposters]
    columns += _four(np.concatenate(by_imposter), 1) + _four_of_each(by_imposter, 1)
    for rows in ([centroids], imposters):
        # For each imposter, then for each of its voices, the distances of all the speaker's voices.
        table = np.stack([1 - _cosine(q, voices) for block in rows for q in block])
        columns += _four(table, 1) + _four_of_each(list(table.T), 1) + _four_of_each(list(table), 1)
    return np.array(columns)


def _cosine(one: NDArray[np.float32], many: NDArray[np.float32]) -> NDArray[np.float64]:
    norms = np.linalg.norm(one) * np.linalg.norm(many, axis=1)
    return np.asarray((one[None] * many).sum(axis=1) / np.maximum(norms, 1e-8), dtype=np.float64)


def _four(values: NDArray[np.float64], ddof: int) -> list[float]:
    return [float(values.mean()), float(values.std(ddof=ddof)), float(values.max()), float(values.min())]


def _four_of_each(groups: list[NDArray[np.float64]], ddof: int) -> list[float]:
    over = np.array([_four(group, ddof) for group in groups])
    return [number for column in over.T for number in _four(column, ddof)]
