"""Pruned, signed and quantised updates, against slow obvious versions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from by_hand import AVG, SGD, Work, features_of, flat, participation
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fl_privacy.defenses import make_defenses
from fl_privacy.defenses.quantise import Quantise
from fl_privacy.defenses.sign import Sign
from fl_privacy.defenses.top_k import TopK
from fl_privacy.errors import UserError
from fl_privacy.training.client import BrokenUpdate

# Few values, so that there are ties.
UPDATES = st.lists(
    arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.sampled_from([-2, -1, 0, 0.5, 1])),
    min_size=1,
    max_size=4,
).map(lambda parts: {f"a{i}": part for i, part in enumerate(parts)})
EXACT = settings(deadline=None, max_examples=60)


@EXACT
@given(update=UPDATES, percent=st.integers(1, 100))
def test_exactly_the_largest_coordinates_are_sent(update, percent):
    before = {name: array.copy() for name, array in update.items()}
    sent = TopK(percent / 100).update(update, participation())
    all_, found = flat(before), flat(sent)
    wanted = math.ceil(Fraction(percent, 100) * len(all_))
    slow = sorted(range(len(all_)), key=lambda i: (-abs(all_[i]), i))[:wanted]
    expected = np.zeros_like(all_)
    expected[slow] = all_[slow]
    np.testing.assert_array_equal(found, expected)
    assert [a.dtype for a in sent.values()] == [a.dtype for a in update.values()]
    assert all((update[n] == before[n]).all() for n in update)


def test_the_share_is_meant_as_it_is_written():
    assert TopK(0.07).kept(100) == 7  # 0.07 * 100 is 7.000000000000001
    assert TopK(0.29).kept(100) == 29
    assert TopK(1e-9).kept(100) == 1
    assert TopK(1).kept(3) == 3


def test_top_k_among_distinct_values_counts_exactly():
    rng = np.random.default_rng(0)
    update = {"w": rng.normal(size=(40, 25)), "b": 5 + rng.normal(size=40)}
    sent = TopK(0.05).update(update, participation())
    assert sum(np.count_nonzero(a) for a in sent.values()) == 52
    assert np.count_nonzero(sent["b"]) == 40  # over the whole update, not an array each


@EXACT
@given(update=UPDATES)
def test_signs_carry_the_mean_magnitude_of_their_array(update):
    sent = Sign().update(update, participation())
    for name, array in update.items():
        mean = sum(abs(float(x)) for x in array.ravel()) / array.size
        slow = [[mean * ((x > 0) - (x < 0)) for x in row] for row in array.tolist()]
        np.testing.assert_allclose(sent[name], slow, rtol=1e-6)
        assert sent[name].dtype == array.dtype


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_rounding_has_no_bias_and_few_levels(bits):
    rng = np.random.default_rng(1)
    update = {"w": rng.normal(size=(3, 7)).astype(np.float32), "b": 9 * rng.normal(size=4).astype(np.float32)}
    defense, many = Quantise(bits), 4000
    client = participation(seed=3)
    drawn = [defense.update(update, client) for _ in range(many)]
    for name, array in update.items():
        largest = np.abs(array).max()
        step = largest / (2 ** (bits - 1) - 1)
        values = np.stack([d[name] for d in drawn]).astype(float)
        np.testing.assert_allclose(values / step, np.round(values / step), atol=1e-4)
        assert np.abs(values).max() <= largest * (1 + 1e-6)
        assert np.abs(values - array).max() <= step * (1 + 1e-5)
        # Deviation of one rounding is at most step / 2.
        assert np.abs(values.mean(0) - array).max() < 5 * step / 2 / math.sqrt(many)
        if bits < 8:
            variance = (np.abs(array) % step) * (step - np.abs(array) % step)
            np.testing.assert_allclose(values.var(0), variance, atol=0.1 * step**2)


def test_an_array_of_zeros_stays():
    zeros = {"w": np.zeros((2, 2), np.float32), "none": np.zeros((0, 3), np.float32)}
    for defense in (TopK(0.5), Sign(), Quantise(4)):
        for name, array in defense.update(zeros, participation()).items():
            np.testing.assert_array_equal(array, zeros[name])


@pytest.mark.parametrize("settings", [SGD, AVG])
@pytest.mark.parametrize(
    "entry", [{"name": "top-k", "fraction": 0.1}, {"name": "sign"}, {"name": "quantise", "bits": 3}]
)
def test_what_leaves_a_client_is_changed_once(entry, settings):
    plain, sent = Work(settings=settings).update(), Work(entry, settings=settings).update()
    (defense,) = make_defenses([entry])
    if entry["name"] != "quantise":
        expected = defense.update(plain, participation())
        np.testing.assert_allclose(flat(sent), flat(expected), rtol=1e-3, atol=2e-7)
    assert defense.noise(settings, 8.0) == 0.0
    assert (flat(sent) != flat(plain)).mean() > 0.3


@pytest.mark.parametrize(
    "entry", [{"name": "top-k", "fraction": 0.01}, {"name": "sign"}, {"name": "quantise", "bits": 3}]
)
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_broken_update_is_not_made_whole(entry, wrong):
    (defense,) = make_defenses([entry])
    array = np.ones((4, 5), np.float32)
    array[2, 3] = wrong
    assert not np.isfinite(defense.update({"w": array}, participation())["w"]).all()
    features, labels = features_of(0)
    with pytest.raises(BrokenUpdate):
        Work(entry).answer(data=(features * wrong, labels))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "top-k", "fraction": 0.0}, "fraction must be above 0"),
        ({"name": "top-k", "fraction": 1.5}, "fraction must be above 0"),
        ({"name": "top-k", "fraction": True}, "fraction must be above 0"),
        ({"name": "top-k"}, "fraction"),
        ({"name": "sign", "scale": 2}, "sign.*takes no arguments"),
        ({"name": "quantise", "bits": 1}, "bits must be a whole number from 2 to 16"),
        ({"name": "quantise", "bits": 2.5}, "bits must be a whole number"),
    ],
)
def test_settings_that_make_no_sense_are_refused(entry, message):
    with pytest.raises(UserError, match=message):
        make_defenses([entry])
