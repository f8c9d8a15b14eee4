"""The grid of a run: each cell is one attack from one start on every class, done once and kept in a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.inversion import (
    PUBLISHED_STEP,
    STARTS,
    Checkpoint,
    Inversion,
    Job,
    Prior,
    Reconstruction,
    Window,
    invert,
    invert_dvector,
    make_jobs,
    map_dvector,
    read_outs,
    restarts,
    slide,
)
from fl_privacy.attacks.inversion.gradients import WhiteBox
from fl_privacy.attacks.inversion.robust import ShiftRobust
from fl_privacy.attacks.inversion.sliding import windows_of
from fl_privacy.attacks.inversion.source_filter import PARAMETERS, Synthesiser, invert_source_filter
from fl_privacy.audit.files import write_atomically
from fl_privacy.audit.metrics import Floats
from fl_privacy.config.speaker_inversion import DVECTORS, FROM_WAVES, InversionAttackChoice
from fl_privacy.errors import UserError
from fl_privacy.models.classifier import SpeakerClassifier, load_classifier
from fl_privacy.training._parallel import Told, run_jobs

Waves = Sequence[NDArray[np.float32]]

READOUTS = {
    "last_window": "the window that was optimised last",
    "grid_any": "any window on the grid of the optimisation (a best of several)",
    "grid_all": "every window on the grid",
    "grid_sum": "the sum of the log posteriors over the grid",
    "trim": "what is left without half a window at either end, as a sentence",
    "trim_on_grid": "the same, from the nearest place of the grid on",
    "sentence": "the whole vector as a sentence: log posteriors every 10 ms, summed",
}
"""Ways of reading a slid vector."""

QUEUE = "queue.npz"
"""File of a cell that is not done: what it has so far."""

_LOUDEST = 1e3
"""Times full scale: waves beyond it have run off, with steps that were too long."""

RESTARTS = {"grid_any": "any of the attempts", "last_window": "the attempt of the lowest cost"}
"""Ways of reading restarts."""


@dataclass(frozen=True)
class Cell:
    """One attack from one start.

    Attributes
    ----------
    attack : InversionAttackChoice
    start : str
        Of the waves; empty where the attack has one of its own.
    """

    attack: InversionAttackChoice
    start: str

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.attack.name} from {self.start}" if self.start else self.attack.name

    @property
    def folder(self) -> str:
        """For paths."""
        return self.name.replace(" ", "-")

    @property
    def of_waves(self) -> bool:
        """Whether waves come of it, rather than d-vectors."""
        return self.attack.name not in DVECTORS

    @property
    def from_waves(self) -> bool:
        """Whether it begins with waves."""
        return self.attack.name in FROM_WAVES

    @property
    def published_steps(self) -> bool:
        """Whether step sizes are those of the study."""
        return self.attack.scale == "published" or self.start in ("zeros", "ones", "minus-ones")

    @property
    def settings(self) -> Inversion:
        """What the attack is told."""
        told = self.attack
        return Inversion(
            told.objective,
            told.step,
            "absolute" if self.published_steps or not self.from_waves else "variance",
            told.iterations,
            told.patience,
            told.threshold,
        )

    @property
    def step_size(self) -> float:
        """Of the plain rule, or as published."""
        if not self.published_steps:
            return self.attack.step_size
        # Minus ones are in no table: they are taken as ones.
        name = "ones" if self.start == "minus-ones" else self.start
        if name not in PUBLISHED_STEP:
            raise UserError(f"attack {self.attack.name!r}: the study gives no step size for starts of {self.start!r}")
        # Restarts are the control of sliding: they differ from it in nothing else.
        return PUBLISHED_STEP[name][self.attack.name in ("sliding", "restarts")]


def cells_of(attacks: Sequence[InversionAttackChoice]) -> list[Cell]:
    """Return the cells of a run in order, the primary one first.

    Raises
    ------
    UserError
        For a start that there is not, or that has no step size.
    """
    found = [Cell(attack, start) for attack in attacks for start in (attack.starts or ("",))]
    for cell in found:
        if cell.start and cell.start not in STARTS:
            raise UserError(f"attack {cell.attack.name!r}: unknown start {cell.start!r}. Known: {', '.join(STARTS)}")
        if cell.from_waves:
            _ = cell.step_size
        _ = cell.settings
    return found


def check_lengths(cells: Sequence[Cell], window: int) -> None:
    """Refuse vectors that are shorter than a window of the target, and sliding without a second one.

    Raises
    ------
    UserError
    """
    for cell in cells:
        length = cell.attack.length
        if cell.of_waves and cell.attack.name != "standard" and length < window:
            raise UserError(f"attack {cell.attack.name!r}: length = {length} is shorter than a window ({window})")
        if cell.attack.name in ("sliding", "restarts") and windows_of(length, window, cell.attack.stride) < 2:
            raise UserError(
                f"attack {cell.attack.name!r}: stride = {cell.attack.stride} leaves length = {length} one window of "
                f"{window}; two take a stride of {length - window} at most"
                if length > window
                else f"attack {cell.attack.name!r}: length = {length} is one window ({window}); two take more"
            )


@dataclass(frozen=True)
class CellJob:
    """What a process needs to do a cell.

    Attributes
    ----------
    cell : Cell
    target : str
        Path of the classifier.
    jobs : tuple of Job
        Of the waves; for d-vectors none.
    prior : Prior or None
        Of d-vectors.
    seed : int
        Of attacks that have a start of their own.
    folder : str
        Gets ``found.npz``, ``cost.json`` and ``seconds.json``; a cell whose ``found.npz`` is there is done, and one
        with a ``queue.npz`` alone goes on from it.
    """

    cell: Cell
    target: str
    jobs: tuple[Job, ...]
    prior: Prior | None
    seed: int
    folder: str


@dataclass(frozen=True)
class Found:
    """What came of a cell.

    Attributes
    ----------
    waves : ndarray, shape (classes, samples) or (classes, d)
        One a class: of restarts, the one of the lowest cost.
    starts : ndarray of the same shape
        What each began with.
    readouts : mapping of str to ndarray, shape (classes,)
        1 where the attacked classifier recognises it.
    diverged : ndarray of bool, shape (classes,)
        Where what is kept of a class came to numbers that are not finite, and ended with the best point before.
    cost : mapping
        ``inversions`` (attempts of restarts and source-filter included), and over all of them ``gradient_steps``,
        ``queries`` (windows classified) and how windows ``ended``.
    seconds : float
        Worked; where it was cut off, without what was lost.
    """

    waves: NDArray[np.float32]
    starts: NDArray[np.float32]
    readouts: dict[str, Floats]
    diverged: NDArray[np.bool_]
    cost: dict[str, Any]
    seconds: float


def wave_jobs(cell: Cell, classes: int, window: int, speech: Waves, seed: int) -> tuple[Job, ...]:
    """Return the jobs of a cell of waves: starts follow from the seed, the start's name and the class.

    Sliding and its restarts have the same starts.
    """
    check_lengths([cell], window)
    least = window if cell.attack.name == "standard" else cell.attack.length
    number = list(STARTS).index(cell.start)
    made = make_jobs(
        range(classes), cell.start, least, step_size=cell.step_size, seed=1000 * seed + number, speech=speech
    )
    if cell.attack.name == "restarts":
        made = restarts(made, windows_of(least, window, cell.attack.stride), window, cell.attack.stride)
    return tuple(made)


def do_cells(jobs: Sequence[CellJob], processes: int, told: Callable[[int, int], None] | None = None) -> None:
    """Do the cells that are not done, over processes."""
    left = []
    for number, job in enumerate(jobs):
        if (Path(job.folder) / "found.npz").exists():
            (Path(job.folder) / QUEUE).unlink(missing_ok=True)
            if told is not None:
                told(number, max(1, len(job.jobs)))
        else:
            left.append(number)

    def tell(place: int, done: int) -> None:
        if told is not None:
            told(left[place], done)

    run_jobs(_do, [jobs[number] for number in left], processes, tell)


def read_cell(folder: Path) -> Found:
    """Read what came of a cell."""
    with np.load(folder / "found.npz", allow_pickle=False) as held:
        readouts = {key.removeprefix("read "): held[key] for key in held.files if key.startswith("read ")}
        waves, starts, diverged = held["waves"], held["starts"], held["diverged"]
    cost, took = (json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("cost", "seconds"))
    return Found(waves, starts, readouts, diverged, cost, took["seconds"])


def _do(job: CellJob, told: Told) -> None:
    classifier, folder, attack = load_classifier(job.target), Path(job.folder), job.cell.attack
    checkpoint = Checkpoint(folder / QUEUE, classifier)
    found, windows = _inverted(job, classifier, told, checkpoint)
    asked = classifier.queries
    waves = np.stack([_audible(one.wave) if job.cell.of_waves else one.wave for one in found])
    starts = np.stack([one.start for one in job.jobs]) if job.jobs else _own_starts(job, waves)
    diverged = np.array([one.reason == "diverged" for one in found])
    classes = len(classifier.classes)
    arrays: dict[str, NDArray[Any]] = {}
    if attack.name == "restarts":
        tries = len(found) // classes
        costs = np.array([one.cost for one in found]).reshape(classes, tries)
        right = np.array([read_outs(classifier, one).last_window for one in found]).reshape(classes, tries)
        best = np.argmin(costs, axis=1)
        arrays["read grid_any"] = np.asarray(right.any(axis=1), dtype=np.float64)
        arrays["read last_window"] = right[np.arange(classes), best].astype(np.float64)
        rows = np.arange(classes) * tries + best
        waves, starts, diverged = waves[rows], starts[rows], diverged[rows]
    elif attack.name in ("sliding", "shift-robust", "source-filter"):
        told_by = [read_outs(classifier, one).to_dict() for one in found]
        for name in READOUTS if attack.name == "sliding" else ("trim", "sentence"):
            values = [read[name] for read in told_by]
            if None not in values:
                arrays[f"read {name}"] = np.array(values, dtype=np.float64)
    folder.mkdir(parents=True, exist_ok=True)
    ended = Counter(window.reason for window in windows)
    cost = {
        "gradient_steps": sum(window.iterations for window in windows),
        "queries": asked,
        "inversions": sum(window.offset == 0 for window in windows),
        "ended": dict(sorted(ended.items())),
    }
    write_atomically(folder / "cost.json", json.dumps(cost, indent=1) + "\n")
    # Seconds differ from run to run: they stay out of the result.
    seconds = {"seconds": round(checkpoint.seconds, 3)}
    write_atomically(folder / "seconds.json", json.dumps(seconds) + "\n")
    partial = folder / ".found.npz.partial"
    with partial.open("wb") as out:
        np.savez(out, allow_pickle=False, waves=waves, starts=starts, diverged=diverged, **arrays)
    partial.replace(folder / "found.npz")
    checkpoint.remove()


def _audible(wave: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bring a wave that ran off to full scale: to a SincNet it is the same, other judges could not hear it."""
    peak = np.abs(wave).max()
    found: NDArray[np.float32] = wave if peak <= _LOUDEST else wave / peak
    return found


def _inverted(
    job: CellJob, classifier: SpeakerClassifier, told: Told, checkpoint: Checkpoint
) -> tuple[list[Reconstruction], list[Window]]:
    """Do the attack; return what it found, and every window that it inverted for that."""
    if job.cell.attack.name == "source-filter":
        voices = invert_source_filter(
            _robust(classifier, job.cell),
            range(len(classifier.classes)),
            replace(job.cell.settings, step="adam"),
            attempts=job.cell.attack.attempts,
            seed=job.seed,
            told=told,
            checkpoint=checkpoint,
        )
        return [one.found for one in voices], [window for one in voices for window in one.attempts]
    found = _reconstructed(job, classifier, told, checkpoint)
    return found, [window for one in found for window in one.windows]


def _reconstructed(
    job: CellJob, classifier: SpeakerClassifier, told: Told, checkpoint: Checkpoint
) -> list[Reconstruction]:
    cell = job.cell
    everybody = range(len(classifier.classes))
    if cell.attack.name == "dvector":
        return invert_dvector(classifier, everybody, cell.settings, told=told, checkpoint=checkpoint)
    if cell.attack.name == "map-dvector":
        assert job.prior is not None
        return map_dvector(classifier, everybody, job.prior, told=told, checkpoint=checkpoint)
    if cell.attack.name == "sliding":
        return slide(classifier, job.jobs, cell.settings, stride=cell.attack.stride, told=told, checkpoint=checkpoint)
    target = _robust(classifier, cell) if cell.attack.name == "shift-robust" else classifier
    return invert(target, job.jobs, cell.settings, told=told, checkpoint=checkpoint)


def _robust(classifier: SpeakerClassifier, cell: Cell) -> ShiftRobust:
    return ShiftRobust(WhiteBox(classifier, cell.attack.objective), cell.attack.length)


def _own_starts(job: CellJob, waves: NDArray[np.float32]) -> NDArray[np.float32]:
    """Zeros for d-vectors; for voices, one that is drawn as those are that the attack begins with."""
    if job.cell.attack.name != "source-filter":
        return np.zeros_like(waves)
    import torch

    synthesise = Synthesiser(waves.shape[1])
    rng = np.random.default_rng([job.seed, 1])
    points = rng.standard_normal((len(waves), PARAMETERS)).astype(np.float32)
    with torch.no_grad():
        return np.concatenate([synthesise(torch.from_numpy(point[None])).numpy() for point in points])
