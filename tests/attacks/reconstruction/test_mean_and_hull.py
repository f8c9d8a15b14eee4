from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from fl_privacy.attacks.reconstruction import affine_hull, find_span, weighted_mean
from fl_privacy.errors import UserError


def batch(seed: int, examples: int, units: int = 60, inputs: int = 40, *, dropout: float = 0.2, spread: float = 0.0):
    """Gradient of a batch through ReLU and dropout; `spread`: by how many powers of ten the examples' signals differ."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(examples, inputs))
    signals = rng.normal(size=(units, examples)) * (rng.random((units, examples)) < 0.5 * (1 - dropout))
    signals *= 10 ** -np.linspace(0, spread, examples)
    weight, bias = signals.astype(np.float32) @ x.astype(np.float32), signals.astype(np.float32).sum(axis=1)
    return weight, bias, x.astype(np.float32).astype(np.float64)


def nearest_in_hull(x: np.ndarray, point: np.ndarray) -> np.ndarray:
    """The slow, obvious projection: least squares over the differences to the first input."""
    differences = (x[1:] - x[0]).T
    return x[0] + differences @ np.linalg.lstsq(differences, point - x[0], rcond=None)[0]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), examples=st.integers(1, 20), spread=st.floats(0, 3))
def test_the_projection_is_the_nearest_affine_combination_of_the_inputs(seed, examples, spread):
    weight, bias, x = batch(seed, examples, spread=spread)
    hull = affine_hull(weight, bias)
    assert hull.rank == examples
    points = np.random.default_rng(seed).normal(size=(3, 40))
    expected = np.array([nearest_in_hull(x, p) for p in points])
    np.testing.assert_allclose(hull.project(points), expected, atol=2e-2)
    np.testing.assert_allclose(hull.project(x), x, atol=2e-2)  # the inputs themselves are in it
    np.testing.assert_allclose(hull.origin, nearest_in_hull(x, np.zeros(40)), atol=2e-2)


def test_the_gradient_of_a_real_network_with_dropout_gives_the_hull():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 4))
    x = torch.randn(10, 30)
    functional.cross_entropy(model(x), torch.arange(10) % 4).backward()
    hull = affine_hull(model[0].weight.grad.numpy(), model[0].bias.grad.numpy())
    assert hull.rank == 10
    point = np.linspace(-1, 1, 30)
    np.testing.assert_allclose(hull.project(point[None])[0], nearest_in_hull(x.double().numpy(), point), atol=1e-4)


def test_one_example_is_its_own_hull():
    weight, bias, x = batch(1, 1)
    hull = affine_hull(weight, bias)
    np.testing.assert_allclose(hull.project(np.zeros((2, 40))), [x[0], x[0]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1.0, -0.1, 1e12])
def test_scale_and_sign_do_not_matter(scale):
    weight, bias, _ = batch(2, 8)
    points = np.random.default_rng(0).normal(size=(4, 40))
    scaled = affine_hull((weight * scale).astype(np.float32), (bias * scale).astype(np.float32))
    np.testing.assert_allclose(scaled.project(points), affine_hull(weight, bias).project(points), atol=1e-4)


@pytest.mark.parametrize("examples", [1, 7, 20, 40, 70])
@pytest.mark.parametrize("told", [False, True])
def test_the_rank_is_the_number_of_examples(examples, told):
    """Beyond the width of the first sketch, too; told the number or not."""
    weight, bias, _ = batch(3, examples, units=256, inputs=300, spread=4.0)
    span = find_span(weight, bias, examples=examples if told else None)
    assert span.rank == examples
    both = np.column_stack([weight, bias])[span.scale > 0]
    again = span.scale[span.scale > 0, None] * (span.left * span.values @ span.right)
    np.testing.assert_allclose(again, both, atol=1e-6 * float(np.abs(both).max()))


def test_the_spectrum_is_that_of_the_plain_decomposition():
    weight, bias, _ = batch(4, 12, units=256, inputs=300, spread=3.0)
    span = find_span(weight, bias)
    rows = np.column_stack([weight, bias]).astype(np.float64) / span.scale[:, None]
    np.testing.assert_allclose(span.values, np.linalg.svd(rows, compute_uv=False)[:12], rtol=1e-6)
    assert np.sqrt(np.mean(rows**2, axis=1)) == pytest.approx(np.ones(256))


def test_what_was_stored_in_fewer_bits_is_read_when_its_number_of_examples_is_known():
    """bfloat16 rounds to 8 bits: without the number of examples, rounding looks like more of them."""
    weight, bias, x = batch(5, 8, units=256, inputs=300)
    coarse = [torch.from_numpy(a).bfloat16().float().numpy() for a in (weight, bias)]
    assert find_span(*coarse).rank > 8
    assert find_span(*coarse, precision=2.0**-8).rank == 8
    hull = affine_hull(*coarse, examples=8)
    assert hull.rank == 8
    point = np.random.default_rng(0).normal(size=300)
    error = hull.project(point[None])[0] - nearest_in_hull(x, point)
    assert np.linalg.norm(error) < 0.1 * np.linalg.norm(point)


def test_no_signal_is_no_evidence_not_a_guess():
    hull = affine_hull(np.zeros((5, 3), np.float32), np.zeros(5, np.float32))
    assert hull.rank == 0
    assert np.isnan(hull.project(np.ones((2, 3)))).all()


def test_a_bias_of_rounding_alone_is_no_evidence():
    """Where the signals of the batch cancel, no combination is known to sum to one."""
    weight, _, _ = batch(6, 5)
    assert affine_hull(weight, np.zeros(60, np.float32)).rank == 0
    dust = np.random.default_rng(0).normal(size=60) * np.abs(weight).max(axis=1) * 1e-8
    assert affine_hull(weight, dust.astype(np.float32)).rank == 0


def test_units_that_no_example_reaches_are_left_out():
    weight, bias, x = batch(7, 4)
    weight[::2], bias[::2] = 0, 0
    hull = affine_hull(weight, bias)
    np.testing.assert_allclose(hull.project(x), x, atol=1e-3)


def test_what_is_no_layer_or_not_finite_is_refused():
    with pytest.raises(UserError, match="not of one dense layer"):
        affine_hull(np.zeros((5, 3)), np.zeros(4))
    with pytest.raises(UserError, match="not finite"):
        affine_hull(np.full((5, 3), np.nan), np.zeros(5))


@given(seed=st.integers(0, 1000), examples=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_the_weighted_mean_is_one_point_of_the_hull(seed, examples):
    weight, bias, x = batch(seed, examples)
    mean = weighted_mean(weight, bias)
    np.testing.assert_allclose(affine_hull(weight, bias).project(mean[None])[0], mean, rtol=1e-3, atol=1e-2)
    if examples == 1:
        np.testing.assert_allclose(mean, x[0], rtol=1e-4, atol=1e-5)


def test_the_weighted_mean_of_nothing_is_zero():
    assert not weighted_mean(np.ones((4, 3), np.float32), np.zeros(4, np.float32)).any()
