"""A corpus as a table of features."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy._processes import cores, one_thread
from fl_privacy.corpora.base import AudioError, AudioSource, Corpus, Excluded, Utterance
from fl_privacy.features import _workers
from fl_privacy.features._errors import FeatureError
from fl_privacy.features.cache import FeatureCache
from fl_privacy.features.registry import Extractor, load_extractor

__all__ = ["FeatureError", "FeatureTable", "extract"]

_log = logging.getLogger(__name__)

_START_UP = 6.0  # seconds that a pool of spawned processes costs: each imports torch
_TRIAL = 8  # utterances timed before a pool is thought of
_BATCH = 16  # utterances a task

Progress = Callable[[int, int], None]
_Outcome = NDArray[np.float32] | str
_Task = tuple[str, Mapping[str, Any], AudioSource]  # what a worker needs: the extractor's name and options, the audio


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of the utterances of a corpus.

    Attributes
    ----------
    corpus : Corpus
        The utterances that have features; those that could not be read are among its `excluded`.
    values : ndarray of float32, shape (n, d)
        One row an utterance, in the corpus's order.
    """

    corpus: Corpus
    values: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or len(self.values) != len(self.corpus):
            raise ValueError(f"values of shape {self.values.shape} for {len(self.corpus)} utterances")

    @property
    def speakers(self) -> list[str]:
        """The speaker of each row."""
        return [utterance.speaker for utterance in self.corpus]

    def where(self, rows: NDArray[np.bool_], reason: str) -> FeatureTable:
        """Return some of the utterances; the others are excluded from its corpus for this reason."""
        kept = {utterance.id for utterance, row in zip(self.corpus, rows, strict=True) if row}
        return FeatureTable(self.corpus.select(lambda u: u.id in kept, reason), self.values[rows])


def extract(
    corpus: Corpus,
    name: str = "functionals",
    options: Mapping[str, Any] | None = None,
    *,
    processes: int | None = None,
    progress: Progress | None = None,
) -> FeatureTable:
    """Compute the features of every utterance, or take them from the cache.

    Parameters
    ----------
    corpus : Corpus
        The utterances.
    name : str
        An extractor, see `fl_privacy.features.load_extractor`.
    options : mapping, optional
        Its options, such as the checkpoint of "ssl"; they are part of the cache's key.
    processes : int, optional
        Number of processes; 1 is this one. By default as many as there are cores where the work is worth the seconds
        that starting them takes, else 1. The result is the same for any number.
    progress : callable, optional
        Called with the number of utterances done and their total.

    Returns
    -------
    FeatureTable
        Utterances that cannot be decoded, or whose features are not finite, have moved to ``corpus.excluded``.

    Raises
    ------
    FeatureError
        If the corpus is empty or no utterance has features, or for an unknown extractor, option or number of
        processes.
    """
    if not len(corpus):
        raise FeatureError(f"corpus {corpus.name!r} has no utterances to extract features from")
    if processes is not None and processes < 1:
        raise FeatureError(f"processes must be at least 1, not {processes}")
    options = dict(options or {})
    extractor = load_extractor(name, **options)
    cache = FeatureCache(name, extractor, options)
    outcomes: dict[str, _Outcome] = {}
    fingerprints: dict[str, str] = {}

    def finish(utterance: Utterance, outcome: _Outcome, *, store: bool = True) -> None:
        outcomes[utterance.id] = outcome
        if store and not isinstance(outcome, str):
            cache.put(fingerprints[utterance.id], outcome)
        if progress is not None:
            progress(len(outcomes), len(corpus))

    missing = []
    for utterance in corpus:
        try:
            fingerprints[utterance.id] = corpus.fingerprint(utterance)
        except AudioError as error:
            finish(utterance, str(error))
            continue
        cached = cache.get(fingerprints[utterance.id])
        if cached is None:
            missing.append(utterance)
        else:
            finish(utterance, cached, store=False)
    for utterance, outcome in _compute(missing, extractor, (name, options, corpus.source), processes):
        finish(utterance, outcome)
    return _table(corpus, outcomes)


def _table(corpus: Corpus, outcomes: dict[str, _Outcome]) -> FeatureTable:
    kept, rows, left = [], [], []
    for utterance in corpus:
        outcome = outcomes[utterance.id]
        if isinstance(outcome, str):
            left.append(Excluded(utterance.id, outcome))
        else:
            kept.append(utterance)
            rows.append(outcome)
    if not rows:
        raise FeatureError(
            f"corpus {corpus.name!r}: none of {len(corpus)} utterances has features "
            f"(first: {left[0].item}: {left[0].reason})"
        )
    return FeatureTable(replace(corpus, utterances=tuple(kept), excluded=(*corpus.excluded, *left)), np.stack(rows))


def _compute(
    utterances: Sequence[Utterance], extractor: Extractor, task: _Task, processes: int | None
) -> Iterator[tuple[Utterance, _Outcome]]:
    """Yield features, in any order, from as many processes as asked for or as pay for themselves."""
    source = task[2]
    with one_thread():
        if processes is None:
            trial, rest = utterances[:_TRIAL], utterances[_TRIAL:]
            began = time.perf_counter()
            for utterance in trial:
                yield utterance, _workers.features_of(utterance, extractor, source)
            expected = (time.perf_counter() - began) / max(len(trial), 1) * len(rest)
            available = cores()
            worth = expected * (1 - 1 / available) > _START_UP and not multiprocessing.current_process().daemon
            processes, utterances = (available if worth else 1), rest
        if processes > 1 and utterances:
            done: set[str] = set()
            try:
                for utterance, outcome in _in_pool(utterances, task, processes):
                    done.add(utterance.id)
                    yield utterance, outcome
            except BrokenProcessPool:
                _log.warning(
                    "worker processes died; going on in this one (a script needs `if __name__ == '__main__':`)"
                )
            utterances = [utterance for utterance in utterances if utterance.id not in done]
        for utterance in utterances:
            yield utterance, _workers.features_of(utterance, extractor, source)


def _in_pool(utterances: Sequence[Utterance], task: _Task, processes: int) -> Iterator[tuple[Utterance, _Outcome]]:
    batches = [list(utterances[start : start + _BATCH]) for start in range(0, len(utterances), _BATCH)]
    pool = ProcessPoolExecutor(
        min(processes, len(batches)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_workers.start,
        initargs=task,
    )
    try:
        batch_of = {pool.submit(_workers.work, batch): batch for batch in batches}
        for future in as_completed(batch_of):
            yield from zip(batch_of[future], future.result(), strict=True)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
