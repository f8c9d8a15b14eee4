"""Shift-robust gradients, and voices of a source and a filter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fl_privacy.attacks.inversion import Inversion, Slopes
from fl_privacy.attacks.inversion.robust import ShiftRobust
from fl_privacy.attacks.inversion.source_filter import (
    FORMANTS,
    PARAMETERS,
    PITCH,
    SourceFilter,
    Synthesiser,
    invert_source_filter,
    parameters_of,
)
from fl_privacy.errors import UserError


class Towards:
    """The squared distance of a window to a target window, per identity."""

    classes, device = 2, torch.device("cpu")

    def __init__(self, targets: torch.Tensor) -> None:
        self.targets, self.length = targets, targets.shape[1]
        self.seen: list[torch.Tensor] = []

    def __call__(self, points, identities, rngs):
        assert len(points) == len(identities) == len(rngs)
        self.seen.append(points.clone())
        lacking = points - self.targets[identities]
        cost = lacking.square().sum(1)
        return Slopes(cost, 2 * lacking, torch.full((len(points),), 0.5))


def test_windows_are_spread_over_the_wave_and_their_gradients_add_up():
    inner = Towards(torch.zeros(2, 50))
    robust = ShiftRobust(inner, 200, copies=3, gain=(1, 1), snr=(300, 300))
    ramp = torch.arange(200.0)[None] + 1
    places = []
    for seed in range(300):
        found = robust(ramp, torch.tensor([1]), [np.random.default_rng(seed)])
        windows = inner.seen[-1]
        starts = (windows[:, 0] - 1).round().long().tolist()
        places += starts
        expected, cost = torch.zeros(200), 0.0
        for start in starts:
            expected[start : start + 50] += 2 * ramp[0, start : start + 50] / 3
            cost += float(ramp[0, start : start + 50].square().sum()) / 3
        torch.testing.assert_close(found.gradient[0], expected, rtol=1e-4, atol=1e-3)
        assert float(found.cost) == pytest.approx(cost, rel=1e-4)
    assert min(places) == 0 and max(places) == 150, "the first and the last window are among them"


def test_noise_and_gain_are_as_asked_and_a_job_s_own():
    inner = Towards(torch.zeros(2, 4000))
    robust = ShiftRobust(inner, 4000, copies=2, gain=(0.5, 0.6), snr=(20, 20))
    wave = torch.randn(2, 4000) * 3
    robust(wave, torch.tensor([0, 1]), [np.random.default_rng(s) for s in (1, 2)])
    together = inner.seen[-1].view(2, 2, -1)
    for row in range(2):
        for copy in range(2):
            gain = float((together[row, copy] @ wave[row]) / (wave[row] @ wave[row]))
            assert 0.49 < gain < 0.61
            noise = together[row, copy] / gain - wave[row]
            assert float(noise.std() / wave[row].square().mean().sqrt()) == pytest.approx(0.1, rel=0.1)
    robust(wave[1:], torch.tensor([1]), [np.random.default_rng(2)])
    torch.testing.assert_close(inner.seen[-1], together[1])
    for wrong in ({"copies": 0}, {"gain": (2, 1)}, {"snr": (3, 2)}, {"length": 3999}):
        with pytest.raises(UserError, match="shift-robust"):
            ShiftRobust(inner, **{"length": 4000} | wrong)


def test_a_voice_sounds_as_it_is_read_off():
    """Its spectrum has lines at multiples of the pitch, and its envelope peaks at the formants."""
    point = np.zeros(PARAMETERS, dtype=np.float32)
    point[-1] = -9.0  # hardly any breath
    point[:3] = -0.8
    voice = parameters_of(point)
    assert voice.pitch[0] == pytest.approx(voice.pitch[2]) and PITCH[0] < voice.pitch[0] < PITCH[1]
    for track, (low, high) in zip(voice.formants, FORMANTS, strict=True):
        assert track[0] == pytest.approx((low * high) ** 0.5, rel=1e-4)
    wave = Synthesiser(16_000)(torch.from_numpy(point)[None])[0].double().numpy()
    assert np.mean(wave**2) == pytest.approx(1.0, rel=1e-3)
    power = np.abs(np.fft.rfft(wave * np.hanning(16_000))) ** 2  # one bin is one Hz
    lines = [power[round(k * voice.pitch[0]) - 3 : round(k * voice.pitch[0]) + 4].sum() for k in range(1, 25)]
    assert sum(lines) > 0.98 * power[: round(24.5 * voice.pitch[0])].sum()
    nearest = round(voice.formants[0][0] / voice.pitch[0])
    assert abs(int(np.argmax(lines[1 : 2 * nearest])) + 2 - nearest) <= 1, "behind the first, which the tilt lifts"


def test_gradients_of_voices_are_right_and_do_not_depend_on_company():
    torch.manual_seed(0)
    inner = Towards(torch.randn(2, 480))
    voices = SourceFilter(inner, prior=0.1)
    rngs = [np.random.default_rng(0)] * 2
    points, identities = torch.randn(2, PARAMETERS), torch.tensor([0, 1])
    found = voices(points, identities, rngs)
    for row in range(2):
        alone = voices(points[row : row + 1], identities[row : row + 1], rngs[:1])
        torch.testing.assert_close(found.gradient[row], alone.gradient[0])
        for number in (0, 4, 12, 17, 20, 23):
            step = torch.zeros(1, PARAMETERS)
            step[0, number] = 0.01
            up, down = (
                voices(points[row : row + 1] + s * step, identities[row : row + 1], rngs[:1]).cost for s in (1, -1)
            )
            assert float(found.gradient[row, number]) == pytest.approx(float((up - down) / 0.02), rel=0.05, abs=0.3)


def test_a_voice_is_found_again_by_its_wave():
    hidden = torch.zeros(2, PARAMETERS)
    hidden[1, :3] = 0.7
    inner = Towards(Synthesiser(480)(hidden))
    settings = Inversion(step="adam", scale="absolute", iterations=40, patience=40, threshold=0.0)
    found = invert_source_filter(inner, [0, 1], settings, attempts=2, prior=0.0)
    silence = 480.0
    for one in found:
        assert one.found.cost < 0.7 * silence and one.found.wave.shape == (480,)
        lacking = np.sum((one.found.wave - inner.targets[one.found.identity].numpy()) ** 2)
        assert lacking == pytest.approx(one.found.cost, rel=1e-2)
        assert len(one.attempts) == 2 and sum(window.iterations for window in one.attempts) == 2 * 40
        assert one.found.cost == min(window.cost for window in one.attempts)
    with pytest.raises(UserError, match="attempts"):
        invert_source_filter(inner, [0], attempts=0)
    with pytest.raises(UserError, match=f"{PARAMETERS} numbers"):
        parameters_of(np.zeros(3, np.float32))
    with pytest.raises(UserError, match="too short"):
        Synthesiser(100)
