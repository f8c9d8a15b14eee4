"""Many inversions at once: slots of a micro-batch that finished jobs leave and waiting ones take.

An inversion is a sequence of small steps, which one by one wait for the memory that the network's weights come from.
Jobs are independent of each other: a network in evaluation mode treats each row by itself. So the rows of a batch are
taken from different jobs, each at its own step, in its own window, with its own step size; a row that is through makes
place at once, where a fixed batch would go on until its slowest was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple
from typing import Any

import numpy as np
import torch

from fl_privacy._processes import keep_freed_memory, one_thread
from fl_privacy.attacks.inversion.checkpoint import Arrays, Checkpoint
from fl_privacy.attacks.inversion.gradients import Gradients, WhiteBox
from fl_privacy.attacks.inversion.jobs import Inversion, Job, Reason, Reconstruction, Window, check_job, unit_of
from fl_privacy.attacks.inversion.steps import STEPS
from fl_privacy.errors import UserError
from fl_privacy.models.classifier import SpeakerClassifier

Told = Callable[[int], None]
"""Told how many jobs are done."""

_TENSORS = ("points", "best", "identities", "unit", "size")
_ARRAYS = ("job", "offset", "steps", "best_cost", "best_miss", "history")
"""What is known of each slot."""


def serve(
    target: SpeakerClassifier | Gradients,
    jobs: Sequence[Job],
    settings: Inversion,
    *,
    stride: int | None = None,
    micro_batch: int = 32,
    told: Told | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[Reconstruction]:
    """Do jobs; see `fl_privacy.attacks.inversion.standard.invert` and `...sliding.slide`.

    Parameters
    ----------
    target : SpeakerClassifier or Gradients
    jobs : sequence of Job
    settings : Inversion
    stride : int, optional
        Between the windows of a job; by default starts are as long as one.
    micro_batch : int
        Slots.
    told : callable, optional
    checkpoint : Checkpoint, optional
        Where a queue of the same jobs that was cut off goes on from, and what it writes as it goes; the end is the same
        to the bit, where gradients are.

    Returns
    -------
    list of Reconstruction
        In the order of the jobs. Each is what it would be alone, up to the order in which sums are rounded: to 1e-5
        with a network of double precision; in single precision what is rounded grows from step to step (1e-4 after
        some tens), most of all where a gradient is small.

    Raises
    ------
    UserError
        For jobs that cannot be done, and a checkpoint of others: before any is.
    """
    gradients = WhiteBox(target, settings.objective) if isinstance(target, SpeakerClassifier) else target
    if micro_batch < 1 or (stride is not None and stride < 1):
        raise UserError(f"micro_batch and stride must be positive; got {micro_batch} and {stride}")
    for number, job in enumerate(jobs):
        check_job(job, number, settings, gradients.classes, gradients.length, longer=stride is not None)
    if not jobs:
        return []
    # Every step makes and frees the same activations.
    keep_freed_memory()
    with one_thread():
        queue = _Queue(gradients, jobs, settings, stride, min(micro_batch, len(jobs)), told)
        return queue.run() if checkpoint is None else queue.run_kept(checkpoint)


class _Queue:
    """The slots, and what is in them."""

    def __init__(
        self,
        gradients: Gradients,
        jobs: Sequence[Job],
        settings: Inversion,
        stride: int | None,
        slots: int,
        told: Told | None,
    ) -> None:
        self._gradients, self._jobs, self._settings, self._stride, self._told = gradients, jobs, settings, stride, told
        length, device = gradients.length, gradients.device
        self._points = torch.zeros(slots, length, device=device)
        self._best = torch.zeros(slots, length, device=device)
        self._identities = torch.zeros(slots, dtype=torch.long, device=device)
        self._unit = torch.ones(slots, 1, device=device)
        self._size = torch.ones(slots, 1, device=device)
        self._rule = STEPS[settings.step](slots, length, device)
        self._job = np.full(slots, -1)
        self._offset = np.zeros(slots, dtype=int)
        self._steps = np.zeros(slots, dtype=int)
        self._best_cost = np.full(slots, np.inf)
        self._best_miss = np.ones(slots)
        self._history = np.full((slots, settings.patience), np.inf)
        self._rngs = [np.random.default_rng(0)] * slots
        self._waves: list[torch.Tensor] = [self._points[0]] * slots
        self._windows: list[list[Window]] = [[] for _ in range(slots)]
        self._waiting = list(range(len(jobs)))[::-1]
        self._done: dict[int, Reconstruction] = {}

    def run(self) -> list[Reconstruction]:
        """Step all slots until no job is left."""
        self._fill()
        while self._left:
            self._advance()
        return self._results()

    def run_kept(self, checkpoint: Checkpoint) -> list[Reconstruction]:
        """Do the same from where a checkpoint left off, and write it on the way and at the end."""
        identity = self._identity()
        if (kept := checkpoint.read(identity)) is None:
            self._fill()
        else:
            self._restore(*kept)
        while self._left:
            self._advance()
            if checkpoint.due and self._left:
                checkpoint.write(identity, *self._state())
        checkpoint.write(identity, *self._state())
        return self._results()

    @property
    def _left(self) -> int:
        return len(self._jobs) - len(self._done)

    def _results(self) -> list[Reconstruction]:
        return [self._done[number] for number in range(len(self._jobs))]

    def _fill(self) -> None:
        for slot in range(len(self._job)):
            self._take(slot)

    def _advance(self) -> None:
        slots = np.flatnonzero(self._job >= 0)
        rows = torch.from_numpy(slots).to(self._points.device)
        points = self._points[rows]
        found = self._gradients(points, self._identities[rows], [self._rngs[slot] for slot in slots])
        cost, miss = (value.detach().double().cpu().numpy() for value in (found.cost, found.miss))
        sound = np.isfinite(cost) & torch.isfinite(found.gradient).all(dim=1).cpu().numpy()

        better = np.isfinite(cost) & (cost < self._best_cost[slots])
        self._best[rows[better]] = points[better]
        self._best_cost[slots[better]], self._best_miss[slots[better]] = cost[better], miss[better]

        steps, settings = self._steps[slots], self._settings
        # Patience looks at costs before this one, as many as it counts: the start's is the first of them.
        stalled = (steps >= settings.patience) & (cost >= self._history[slots].max(axis=1))
        self._history[slots, steps % settings.patience] = cost
        ends = [~sound, miss <= settings.threshold, stalled, steps >= settings.iterations]
        through = np.logical_or.reduce(ends)
        on = np.flatnonzero(~through)
        if len(on):
            going = rows[on]
            self._points[going] -= self._rule(going, found.gradient[on], self._unit[going], self._size[going])
            self._steps[slots[on]] += 1
        reasons: tuple[Reason, ...] = ("diverged", "threshold", "patience", "iterations")
        for row in np.flatnonzero(through):
            self._finish(int(slots[row]), next(why for why, end in zip(reasons, ends, strict=True) if end[row]))

    def _take(self, slot: int) -> None:
        """Put the next job into a slot."""
        self._job[slot] = number = self._waiting.pop() if self._waiting else -1
        if number < 0:
            return
        job = self._jobs[number]
        start = np.array(job.start, dtype=np.float32)
        self._waves[slot] = torch.from_numpy(start).to(self._points.device)
        self._windows[slot] = []
        self._identities[slot] = job.identity
        self._unit[slot], self._size[slot] = unit_of(job, self._settings), job.step_size
        self._rngs[slot] = np.random.default_rng(job.seed)
        self._begin(slot, 0)

    def _begin(self, slot: int, offset: int) -> None:
        """Begin a window of the slot's job."""
        self._offset[slot] = offset
        self._points[slot] = self._best[slot] = self._waves[slot][offset : offset + self._gradients.length]
        self._steps[slot], self._best_cost[slot], self._best_miss[slot] = 0, np.inf, 1.0
        self._history[slot] = np.inf
        self._rule.clear(slot)

    def _finish(self, slot: int, reason: Reason) -> None:
        """Write a window back; go to the next, or to the next job."""
        offset, length = int(self._offset[slot]), self._gradients.length
        wave = self._waves[slot]
        wave[offset : offset + length] = self._best[slot]
        cost, probability = float(self._best_cost[slot]), 1.0 - float(self._best_miss[slot])
        self._windows[slot].append(Window(offset, cost, probability, int(self._steps[slot]), reason))
        following = offset + (self._stride or 0)
        if self._stride is not None and reason != "diverged" and following + length <= len(wave):
            self._begin(slot, following)
            return
        number = int(self._job[slot])
        self._done[number] = Reconstruction(
            self._jobs[number].identity, wave.cpu().numpy().copy(), tuple(self._windows[slot])
        )
        if self._told is not None:
            self._told(len(self._done))
        self._take(slot)

    # ------------------------------------------------------------------ what is kept

    def _identity(self) -> str:
        """Return a digest of all that the end follows from, but for the gradients."""
        how = [asdict(self._settings), self._stride, len(self._job), self._gradients.length, self._gradients.classes]
        digest = hashlib.sha256(json.dumps(how).encode())
        for job in self._jobs:
            digest.update(json.dumps([job.identity, job.step_size, job.seed, len(job.start)]).encode())
            digest.update(np.asarray(job.start, dtype=np.float32).tobytes())
        return digest.hexdigest()

    def _state(self) -> tuple[Arrays, dict[str, Any]]:
        busy = np.flatnonzero(self._job >= 0).tolist()
        arrays: dict[str, np.ndarray] = {name: getattr(self, f"_{name}") for name in _ARRAYS}
        arrays |= {name: getattr(self, f"_{name}").cpu().numpy() for name in _TENSORS}
        arrays |= {f"memory {number}": held.cpu().numpy() for number, held in enumerate(self._rule.memory)}
        arrays |= {f"wave {slot}": self._waves[slot].cpu().numpy() for slot in busy}
        arrays |= {f"done {number}": one.wave for number, one in self._done.items()}
        facts = {
            "waiting": self._waiting,
            "rngs": [self._rngs[slot].bit_generator.state for slot in busy],
            "windows": [[astuple(window) for window in self._windows[slot]] for slot in busy],
            "done": {number: [astuple(window) for window in one.windows] for number, one in self._done.items()},
        }
        return arrays, facts

    def _restore(self, arrays: Arrays, facts: dict[str, Any]) -> None:
        for name in _ARRAYS:
            getattr(self, f"_{name}")[:] = arrays[name]
        for name in _TENSORS:
            getattr(self, f"_{name}").copy_(torch.from_numpy(arrays[name]))
        for number, held in enumerate(self._rule.memory):
            held.copy_(torch.from_numpy(arrays[f"memory {number}"]))
        self._waiting = list(facts["waiting"])
        busy = np.flatnonzero(self._job >= 0).tolist()
        for slot, chance, windows in zip(busy, facts["rngs"], facts["windows"], strict=True):
            self._waves[slot] = torch.from_numpy(arrays[f"wave {slot}"]).to(self._points.device)
            self._windows[slot] = [Window(*told) for told in windows]
            self._rngs[slot] = np.random.default_rng(0)
            self._rngs[slot].bit_generator.state = chance
        for key, windows in facts["done"].items():
            number, ended = int(key), tuple(Window(*told) for told in windows)
            self._done[number] = Reconstruction(self._jobs[number].identity, arrays[f"done {number}"], ended)
        if self._told is not None and self._done:
            self._told(len(self._done))
