"""Standard inversion: one window of noise becomes what the classifier takes for a speaker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fl_privacy.attacks.inversion.checkpoint import Checkpoint
from fl_privacy.attacks.inversion.gradients import Gradients
from fl_privacy.attacks.inversion.initialisations import start_of
from fl_privacy.attacks.inversion.jobs import Inversion, Job, Reconstruction
from fl_privacy.attacks.inversion.queue import Told, serve
from fl_privacy.models.classifier import SpeakerClassifier, Wave


def invert(
    target: SpeakerClassifier | Gradients,
    jobs: Sequence[Job],
    settings: Inversion,
    micro_batch: int = 32,
    told: Told | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[Reconstruction]:
    """Invert starts of one window: Algorithm 1 of Pizzi et al. 2023 (arXiv 2301.03206), for many jobs at once.

    From the start, steps against the gradient of the cost; it ends by `Inversion`'s rules, and the point of lowest cost
    is kept. A start that the classifier already accepts is left as it is.

    Parameters
    ----------
    target : SpeakerClassifier or Gradients
        Attacked with its gradients, or with whatever stands for them.
    jobs : sequence of Job
        Starts as long as a window. A part of the jobs gives that part of the results, up to rounding.
    settings : Inversion
        Its objective is used with a classifier; `Gradients` have their own.
    micro_batch : int
        Jobs that are worked on at a time; 16 to 64 on one core.
    told : callable, optional
        Told how many jobs are done.
    checkpoint : Checkpoint, optional
        Where inversions that were cut off go on from, and what they write as they go; the end is the same to the bit.

    Returns
    -------
    list of Reconstruction
        In the order of the jobs. One that came to numbers that are not finite ended there ("diverged"); the others go
        on.

    Raises
    ------
    UserError
        For a class that does not exist, a start of a wrong length or that is not finite, and the like: before any work.
    """
    return serve(target, jobs, settings, micro_batch=micro_batch, told=told, checkpoint=checkpoint)


def make_jobs(
    identities: Sequence[int],
    start: str,
    length: int,
    *,
    step_size: float = 0.5,
    seed: int = 0,
    speech: Sequence[Wave] | None = None,
) -> list[Job]:
    """Make a job for each identity, each from its own draw of a start.

    Parameters
    ----------
    identities : sequence of int
    start : str
        One of `fl_privacy.attacks.inversion.initialisations.STARTS`.
    length : int
        Of the starts, in samples.
    step_size : float
    seed : int
        A start follows from it and from the identity, whoever else is inverted.
    speech : sequence of ndarray, optional
        The attacker's own recordings, for starts that are made of speech.

    Raises
    ------
    UserError
        For a start that there is not, or that needs speech.
    """
    return [
        Job(
            identity,
            start_of(start, length, np.random.default_rng([seed, identity]), speech),
            step_size,
            int(np.random.default_rng([seed, identity, 1]).integers(2**31)),
        )
        for identity in identities
    ]
