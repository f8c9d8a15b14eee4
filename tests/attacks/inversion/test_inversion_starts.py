"""What inversions start from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_privacy.attacks.inversion.initialisations import PUBLISHED_STEP, STARTS, start_of
from fl_privacy.errors import UserError

SPEECH = [np.random.default_rng(1).standard_normal(n).astype(np.float32) for n in (700, 50, 9000)]


@given(st.sampled_from(sorted(STARTS)), st.integers(1, 4001), st.integers(0, 2**32))
def test_every_start_has_the_length_is_finite_and_follows_its_seed(name, length, seed):
    seeds = (seed, *range(seed, seed + 20))
    one, again, *others = (start_of(name, length, np.random.default_rng(s), SPEECH) for s in seeds)
    assert one.shape == (length,) and one.dtype == np.float32 and np.isfinite(one).all()
    assert np.array_equal(one, again)
    if name not in ("zeros", "ones", "minus-ones") and length > 50:
        # Two seeds may well cut the same piece out of a short recording, twenty do not.
        assert not all(np.array_equal(one, other) for other in others)


@pytest.mark.parametrize(
    ("name", "mean", "deviation"),
    [
        ("uniform", 0.5, 12**-0.5), ("uniform-signed", 0.0, 3**-0.5), ("gaussian", 0.0, 0.2),
        ("laplace", 0.0, 0.07 * 2**0.5), ("gumbel", 0.1 * 0.5772, 0.1 * np.pi / 6**0.5), ("zeros", 0, 0),
        ("ones", 1, 0), ("minus-ones", -1, 0), ("white", 0.0, 0.628),
    ],
)  # fmt: skip
def test_distributions_have_the_study_s_moments(name, mean, deviation):
    wave = start_of(name, 200_000, np.random.default_rng(0))
    assert wave.mean() == pytest.approx(mean, abs=0.006) and wave.std() == pytest.approx(deviation, abs=0.006)


def test_von_mises_is_nearly_uniform_on_the_circle():
    wave = start_of("von-mises", 100_000, np.random.default_rng(0))
    assert np.abs(wave).max() <= np.pi + 1e-6 and np.cos(wave).mean() == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(("colour", "slope"), [("white", 0), ("pink", -1), ("brown", -2), ("blue", 1), ("violet", 2)])
@pytest.mark.parametrize("length", [8192, 8191])
def test_colours_have_their_slope_and_unit_power(colour, slope, length):
    power = 0.0
    for seed in range(20):
        wave = np.arctanh(
            start_of(colour, length, np.random.default_rng(seed)).astype(np.float64).clip(-1 + 1e-7, 1 - 1e-7)
        )
        power = power + np.abs(np.fft.rfft(wave)) ** 2 / 20
        if colour != "white":
            assert np.mean(wave**2) == pytest.approx(1.0, rel=0.02)
    low, high = 100, 3000
    octaves = np.polyfit(np.log(np.arange(low, high)), np.log(power[low:high]), 1)[0]
    assert octaves == pytest.approx(slope, abs=0.15)


def test_speech_is_cut_from_recordings_and_mixed_with_noise():
    rng = np.random.default_rng(3)
    excerpt = start_of("speech", 600, rng, [SPEECH[2]])
    places = np.flatnonzero(SPEECH[2][: len(SPEECH[2]) - 600] == excerpt[0])
    assert any(np.array_equal(SPEECH[2][p : p + 600], excerpt) for p in places)
    mean = start_of("speech-mean-50", 600, np.random.default_rng(1), [SPEECH[2]])
    assert mean.std() == pytest.approx(50**-0.5, rel=0.3)
    speech = [np.full(900, 2.0, dtype=np.float32)]
    mixture = start_of("speech-mixed", 800, np.random.default_rng(1), speech)
    assert (mixture - 1.7).std() == pytest.approx(0.15 * 0.628, rel=0.1) and np.abs(mixture - 1.7).max() <= 0.15


def test_bad_starts_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="unknown start 'grey'. Known: zeros"):
        start_of("grey", 10, rng)
    with pytest.raises(UserError, match="made of speech"):
        start_of("speech-mean-50", 10, rng)
    with pytest.raises(UserError, match="empty"):
        start_of("speech", 10, rng, [np.empty(0, dtype=np.float32)])
    with pytest.raises(UserError, match="at least one"):
        start_of("white", 0, rng)


def test_the_study_s_step_sizes_are_of_starts_that_there_are():
    assert set(PUBLISHED_STEP) <= set(STARTS)
    # One rule reproduces what it found best: half the start's variance.
    for name in ("laplace", "gumbel", "white"):
        variance = start_of(name, 100_000, np.random.default_rng(0)).var()
        assert PUBLISHED_STEP[name][0] / variance == pytest.approx(0.55, abs=0.08)
