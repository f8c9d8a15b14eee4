"""Sliding inversion: a longer wave is inverted window by window; and what its result may be read as.

Algorithm 2 of Pizzi et al. 2023 (arXiv 2301.03206, section 3): windows that overlap are inverted one after another,
each written back before the next begins, and half a window is trimmed off both ends.

Where the result is read matters more than how it was made: an inverted window read a few samples beside the place
where it was optimised may be nothing to the classifier. So all ways of reading are reported. Each window is also an
attempt of its own: the fair rival of K windows is the best of K standard inversions (`restarts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.inversion.checkpoint import Checkpoint
from fl_privacy.attacks.inversion.gradients import Gradients
from fl_privacy.attacks.inversion.jobs import Inversion, Job, Reconstruction
from fl_privacy.attacks.inversion.queue import Told, serve
from fl_privacy.errors import UserError
from fl_privacy.models.classifier import SpeakerClassifier

STRIDE = 500
"""Samples between windows, as published, at 16 kHz."""


def slide(
    target: SpeakerClassifier | Gradients,
    jobs: Sequence[Job],
    settings: Inversion,
    *,
    stride: int = STRIDE,
    micro_batch: int = 32,
    told: Told | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[Reconstruction]:
    """Invert starts longer than a window, window by window, for many jobs at once.

    Parameters
    ----------
    target, settings, micro_batch, told, checkpoint
        See `fl_privacy.attacks.inversion.standard.invert`.
    jobs : sequence of Job
        Starts of one window at least; twice as long by default in the study's stead, which does not say.
    stride : int
        Samples between windows; what a window overlaps of the ones before is already inverted.

    Returns
    -------
    list of Reconstruction
        Untrimmed; see `trimmed` and `read_outs`.

    Raises
    ------
    UserError
        As `invert` does.
    """
    return serve(target, jobs, settings, stride=stride, micro_batch=micro_batch, told=told, checkpoint=checkpoint)


def windows_of(length: int, window: int, stride: int) -> int:
    """Return how many windows a start of a length has."""
    return (length - window) // stride + 1


def restarts(jobs: Sequence[Job], count: int, window: int, stride: int = STRIDE) -> list[Job]:
    """Make the control of a sliding inversion: standard inversions of the same starts' windows, each by itself.

    Parameters
    ----------
    jobs : sequence of Job
        Of `slide`.
    count : int
        Attempts an identity, the number of windows for an equal budget.
    window, stride : int

    Returns
    -------
    list of Job
        `count` for each of the jobs, in order.
    """
    made = []
    for job in jobs:
        for attempt in range(count):
            first = attempt * stride
            if first + window > len(job.start):
                raise UserError(
                    f"a start of {len(job.start)} samples has no {count} windows of {window} every {stride}"
                )
            made.append(replace(job, start=job.start[first : first + window], seed=job.seed + attempt))
    return made


def trimmed(wave: NDArray[np.float32], window: int, trim: Literal["half", "none"] = "half") -> NDArray[np.float32]:
    """Return the wave without half a window at both ends, or as it is.

    Raises
    ------
    UserError
        If less than a window is left.
    """
    if trim not in ("half", "none"):
        raise UserError(f"trim is {trim!r}. Known: half, none")
    kept = wave[window // 2 : len(wave) - window // 2] if trim == "half" else wave
    if len(kept) < window:
        raise UserError(f"of {len(wave)} samples {len(kept)} are left, fewer than a window's {window}: start from more")
    return kept


@dataclass(frozen=True, slots=True)
class ReadOuts:
    """Whether the classifier gives a result to its identity, by where it listens.

    Attributes
    ----------
    last_window : bool
        To the window that was inverted last.
    grid_any, grid_all : bool
        To any, to all of the windows that were inverted.
    grid_sum : bool
        To the sum of the log posteriors over them.
    trim : bool or None
        To the wave less half a window at both ends, as the study has it; None where less than a window is left.
    trim_on_grid : bool or None
        To the same, but from the place nearest to half a window where a window was inverted.
    sentence : bool
        To the sum of the log posteriors over windows at the classifier's own shift, from the first sample on.
    """

    last_window: bool
    grid_any: bool
    grid_all: bool
    grid_sum: bool
    trim: bool | None
    trim_on_grid: bool | None
    sentence: bool

    def to_dict(self) -> dict[str, bool | None]:
        """By name."""
        return asdict(self)


def read_outs(classifier: SpeakerClassifier, found: Reconstruction) -> ReadOuts:
    """Read a result in every way.

    Parameters
    ----------
    classifier : SpeakerClassifier
        The attacked one, or an independent one.
    found : Reconstruction
        Of `slide` (or of `invert`: then there is one window).
    """
    wave, window, identity = found.wave, classifier.window, found.identity
    grid = np.stack([classifier.posteriors(wave[w.offset : w.offset + window])[0] for w in found.windows])
    right = grid.argmax(axis=1) == identity
    half = window // 2
    nearest = min((w.offset for w in found.windows), key=lambda offset: (abs(offset - half), offset))

    def from_place(first: int) -> bool | None:
        kept = wave[first : len(wave) - half]
        return classifier.decide(kept)[0] == identity if len(kept) >= window else None

    return ReadOuts(
        last_window=bool(right[-1]),
        grid_any=bool(right.any()),
        grid_all=bool(right.all()),
        grid_sum=int(grid.sum(axis=0).argmax()) == identity,
        trim=from_place(half),
        trim_on_grid=from_place(nearest),
        sentence=classifier.decide(wave)[0] == identity,
    )
