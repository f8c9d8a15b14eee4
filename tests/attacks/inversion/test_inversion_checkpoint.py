"""A queue that was cut off goes on: nothing is done twice, and the end is the same to the bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fl_privacy.attacks.inversion import Checkpoint, Inversion, Job, Slopes, checkpoint, invert, slide
from fl_privacy.errors import UserError


class CutOff(Exception):
    """Stands for a kill."""


class Company:
    """Noisy gradients that, in the last bits, depend on how many points are asked together, as a network's do."""

    length, classes, device = 4, 3, torch.device("cpu")

    def __init__(self, least: int | None = None) -> None:
        self.least, self.queries, self.calls = least, 0, 0

    def __call__(self, points, identities, rngs):
        if self.calls == self.least:
            raise CutOff
        self.calls += 1
        self.queries += len(points)
        noise = torch.from_numpy(np.stack([rng.standard_normal(4) for rng in rngs])).float()
        gradient = (2 * points + noise) * (1 + 1e-6 * len(points))
        return Slopes(points.square().sum(1), gradient, torch.full((len(points),), 0.5))


def jobs(length: int) -> list[Job]:
    rng = np.random.default_rng(0)
    return [Job(k % 3, rng.standard_normal(length).astype(np.float32), 0.05 + 0.01 * k, k) for k in range(7)]


def bits(found) -> list:
    return [(one.identity, one.wave.tobytes(), one.windows) for one in found]


@pytest.fixture
def always(monkeypatch):
    """Checkpoints after every step."""
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)


@pytest.mark.parametrize("step", ["plain", "adam"])
@pytest.mark.parametrize("stride", [None, 2])
@pytest.mark.parametrize("least", [1, 11, 23])
def test_it_goes_on_to_the_same_bits_and_does_nothing_twice(tmp_path, always, step, stride, least):
    settings = Inversion(step=step, scale="absolute", iterations=9, patience=4, threshold=0.0)

    def work(gradients, kept=None, told=None):
        made = jobs(4 if stride is None else 8)
        if stride is None:
            return invert(gradients, made, settings, 3, told, kept)
        return slide(gradients, made, settings, stride=stride, micro_batch=3, told=told, checkpoint=kept)

    whole = Company()
    expected = work(whole)
    assert whole.calls > 23
    path, dies, told = tmp_path / "queue.npz", Company(least), []
    with pytest.raises(CutOff):
        work(dies, Checkpoint(path, dies), told.append)
    again, later = Company(), []
    found = work(again, Checkpoint(path, again), later.append)
    assert bits(found) == bits(expected)
    assert dies.calls + again.calls == whole.calls, "no step is taken twice"
    assert again.queries == whole.queries, "what was asked before the end counts"
    assert later == list(range(max(1, len(told)), 8)), "jobs that were done are told at once"
    # All is done: what is asked for again is read.
    third = Company(0)
    assert bits(work(third, Checkpoint(path, third))) == bits(expected) and third.queries == whole.queries


def test_these_jobs_in_other_company_differ_in_their_last_bits():
    """Without which the test above would pass for a queue that keeps only what is done."""
    settings = Inversion(scale="absolute", iterations=9, patience=4, threshold=0.0)
    assert bits(invert(Company(), jobs(4)[:1], settings, 3)) != bits(invert(Company(), jobs(4), settings, 3)[:1])


def test_seconds_add_up_and_are_told_without_what_was_lost(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(checkpoint.time, "perf_counter", lambda: clock[0])
    first = Checkpoint(tmp_path / "queue.npz")
    clock[0] += 20
    assert first.due and first.seconds == 20
    first.write("a", {"x": np.ones(2)}, {"n": 1})
    clock[0] += 7
    assert not first.due and first.seconds == 27
    second = Checkpoint(tmp_path / "queue.npz")
    arrays, facts = second.read("a")
    clock[0] += 5
    assert second.seconds == 25 and facts == {"n": 1} and arrays["x"].tolist() == [1, 1]
    second.remove()
    assert second.read("a") is None


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    settings, path = Inversion(scale="absolute", iterations=3), tmp_path / "queue.npz"
    invert(Company(), jobs(4), settings, 3, checkpoint=Checkpoint(path))
    for other, how in ((jobs(4)[1:], settings), (jobs(4), replace(settings, iterations=4))):
        with pytest.raises(UserError, match="is of other inversions; remove it"):
            invert(Company(), other, how, 3, checkpoint=Checkpoint(path))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read"):
        invert(Company(), jobs(4), settings, 3, checkpoint=Checkpoint(path))
