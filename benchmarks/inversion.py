"""Model inversion: a queue of jobs against one by one on the published SincNet, and steps to success by objective."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks._result import Result, Row
from fl_privacy._processes import one_thread
from fl_privacy._randomness import own_randomness
from fl_privacy.attacks.inversion import Inversion, Job, invert, make_jobs
from fl_privacy.corpora import Corpus
from fl_privacy.models.classifier import SpeakerClassifier
from fl_privacy.models.sincnet import PUBLISHED, SMALL, SincNet
from fl_privacy.training.sincnet import SincNetTraining, train_classifier

ONE_BY_ONE = "one inversion after another, in a plain loop"
AS_PUBLISHED = "1 - p and plain gradient descent with lambda = Var(start) / 2, the published optimum"


def run(full: bool) -> Result:
    """The published size with 462 classes, 32 slots; then a small trained network, 8 speakers."""
    with one_thread(), own_randomness("inversion benchmark"):
        rows = [*_throughput(full), *_steps_to_success(full)]
    return Result("inversion", tuple(rows))


def _throughput(full: bool) -> list[Row]:
    """Gradient steps a second and core: a queue whose jobs end at different times, against a plain loop."""
    network = SincNet(PUBLISHED, 462)
    classifier = SpeakerClassifier(network, [str(n) for n in range(462)])
    jobs = make_jobs(range(64), "laplace", PUBLISHED.window)
    settings = Inversion(iterations=8 if full else 2, patience=8, threshold=0.0)
    one_after_another = jobs[: 6 if full else 3]
    ours, rival = [], []
    for _ in range(5 if full else 3):
        start = time.process_time()
        found = invert(classifier, jobs, settings)
        ours.append(sum(one.iterations + 1 for one in found) / (time.process_time() - start))
        start = time.process_time()
        steps = sum(_plain(classifier, job, settings.iterations) for job in one_after_another)
        rival.append(steps / (time.process_time() - start))
    mine, theirs = statistics.median(ours), statistics.median(rival)
    case = "SincNet as published, 462 classes: gradients a second of one core"
    extra = {"jobs": len(jobs), "slots": 32, "milliseconds_each": 1e3 / mine}
    return [Row(case, mine, theirs, ONE_BY_ONE, "1/s", mine / theirs, 2.5, "at_least", extra)]


def _plain(classifier: SpeakerClassifier, job: Job, steps: int) -> int:
    """Algorithm 1 without anything around it; return how many gradients it took."""
    x = torch.from_numpy(np.array(job.start))[None]
    size = job.step_size * float(np.var(job.start))
    for _ in range(steps + 1):
        x = x.detach().requires_grad_()
        cost = -torch.log_softmax(classifier.logits(x), dim=1)[0, job.identity]
        (gradient,) = torch.autograd.grad(cost, x)
        x = x - size * gradient
    return steps + 1


def _steps_to_success(full: bool) -> list[Row]:
    """Steps until the attacked network gives the identity more than half of its belief, for a share of jobs."""
    speakers_there = 8
    speech = Corpus.load("synthetic", speakers=speakers_there, utterances=12)
    waves, speakers = [speech.wave(u) for u in speech], [u.speaker for u in speech]
    classifier = train_classifier(
        waves, speakers, SincNetTraining(SMALL, steps=1500 if full else 900, batch_size=32, shift=800), 1
    )
    jobs = [job for seed in range(3) for job in make_jobs(range(speakers_there), "laplace", SMALL.window, seed=seed)]
    most = 1000 if full else 300
    published = _half_belief(classifier, jobs, "one-minus-p", most)
    ours = _half_belief(classifier, jobs, "cross-entropy", most)
    extra: dict[str, Any] = {
        "jobs": len(jobs),
        "most_steps": most,
        "share_that_succeeded": {"ours": _share(ours, most), "published": _share(published, most)},
    }
    if min(extra["share_that_succeeded"].values()) < 0.5:
        raise RuntimeError(f"most inversions failed, so that the median says nothing: {extra}")
    rows = []
    # Half of the jobs are easy for either; the mean is what all of them cost.
    for name, of in (("median", np.median), ("mean", np.mean)):
        mine, theirs = float(of(ours)), float(of(published))
        case = f"{name} steps to p > 1/2, small network of {speakers_there} speakers (failures count as {most})"
        rows.append(Row(case, mine, theirs, AS_PUBLISHED, "steps", theirs / mine, 5.0, "at_least", extra))
    return rows


def _half_belief(classifier: SpeakerClassifier, jobs: Sequence[Job], objective: str, most: int) -> NDArray[np.int64]:
    settings = Inversion(objective, iterations=most, patience=most, threshold=0.5)
    return np.array([max(1, one.iterations) for one in invert(classifier, jobs, settings)])


def _share(steps: NDArray[np.int64], most: int) -> float:
    return float(np.mean(steps < most))
