from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from toy_federation import federation

from fl_privacy.attacks import Auxiliary
from fl_privacy.attacks.attribute import InputReconstruction, RawLinear, raw_linear
from fl_privacy.errors import UserError
from fl_privacy.updates import Update

SHAPES = {"fc1.weight": (6, 5), "fc1.bias": (6,), "fc2.weight": (3, 6), "fc2.bias": (3,)}


OWNERS = Auxiliary(tuple(map(str, range(24))), ("f", "m"))


def owners(speakers) -> Auxiliary:
    return Auxiliary(tuple(map(str, speakers)), ("f", "m"))


def draw(n: int, seed: int) -> list[Update]:
    rng = np.random.default_rng(seed)
    scales = {name: 10.0 ** rng.uniform(-2, 1, shape) for name, shape in SHAPES.items()}
    return [
        Update(
            1,
            str(i),
            "gradient",
            1.0,
            {n: (rng.normal(size=s) * scales[n]).astype(np.float32) for n, s in SHAPES.items()},
        )
        for i in range(n)
    ]


def flat(updates: list[Update], names: list[str]) -> np.ndarray:
    return np.array([np.concatenate([u.arrays[n].ravel() for n in names]) for u in updates], dtype=np.float64)


@pytest.mark.parametrize("block", [1, 400, 2**27])
@pytest.mark.parametrize(("layers", "names"), [(["first"], list(SHAPES)[:2]), (["all"], list(SHAPES))])
@pytest.mark.parametrize("C", [0.01, 1.0])
def test_equals_logistic_regression_on_standardised_coordinates(layers, names, C, block, monkeypatch):
    """The classifier written out in the coordinates themselves, with the scale to unit mean square norm."""
    monkeypatch.setattr(raw_linear, "_BLOCK_BYTES", block)
    own, private = draw(24, 0), draw(15, 1)
    labels = np.random.default_rng(2).permutation(24) % 3 // 2
    x, z = flat(own, names), flat(private, names)
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-5
    x, z = (x - mean) / spread, (z - mean) / spread
    scale = np.sqrt(np.square(x).sum(axis=1).mean())
    explicit = LogisticRegression(C=C, class_weight="balanced", max_iter=100_000, tol=1e-10).fit(x / scale, labels)
    expected = explicit.decision_function(z / scale)
    attack = RawLinear(layers, C=C, classifier="logistic").fit(own, labels, OWNERS)
    np.testing.assert_allclose(
        attack.decision_function(private), expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max()
    )
    # What the attack does to its own updates is what it does to the same updates as strangers.
    np.testing.assert_allclose(attack.transform(own), attack.fit_transform(own, OWNERS), atol=1e-5)


def test_inner_products_are_kept():
    own = draw(20, 3)
    attack = RawLinear(["all"])
    represented = attack.fit_transform(own, owners(range(20)))
    x = flat(own, list(SHAPES))
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-5)
    gram = x @ x.T / np.square(x).sum(axis=1).mean()
    np.testing.assert_allclose(represented @ represented.T, gram, atol=1e-4)


@pytest.mark.parametrize("make", [lambda: RawLinear(["all"]), InputReconstruction])
def test_fit_and_decision_function_equal_the_represented_path(make, tmp_path):
    (own, labels), (private, _) = federation(tmp_path / "a", 0, effect=1.0), federation(tmp_path / "b", 1, effect=1.0)
    mine, theirs = own.updates(), private.updates()
    y = np.array([value == "male" for value in labels.of([u.client for u in mine], "gender")], dtype=np.int64)
    auxiliary = Auxiliary(tuple(u.client for u in mine), ("female", "male"))
    one, two = make(), make()
    assert one.fit(mine, y, auxiliary) is one
    score = two.learn(two.fit_transform(mine, auxiliary), y[None], auxiliary)
    np.testing.assert_array_equal(one.decision_function(theirs), score(two.transform(theirs))[0])


def test_with_many_updates_means_over_a_speakers_stand_for_them():
    """Two federations of the attacker's: the client called 0 is a woman here and a man there."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], 60)
    people = np.arange(120) // 10
    tilt = rng.normal(size=SHAPES["fc1.weight"])

    def updates(seed):
        made = []
        for update, man in zip(draw(120, seed), truth, strict=True):
            arrays = {n: (a / np.abs(a).max()).astype(np.float32) for n, a in update.arrays.items()}
            arrays["fc1.weight"] = (arrays["fc1.weight"] + man * tilt).astype(np.float32)
            made.append(replace(update, client=str(len(made) // 10 % 6), arrays=arrays))
        return made

    own, private = updates(4), updates(5)
    attack = RawLinear(rows=12).fit(own, truth, owners(people))
    assert attack.fit_transform(own, owners(people)).shape == (120, 11)  # twelve means, centred
    scores = attack.decision_function(private)
    assert ((scores > 0) == truth).mean() > 0.9
    whole = RawLinear().fit(own, truth, owners(people)).decision_function(private)
    assert np.corrcoef(scores, whole)[0, 1] > 0.9


@pytest.mark.parametrize("bad", [1, 0, 2.5, True])
def test_rows_are_a_number_from_two(bad):
    with pytest.raises(UserError, match="RawLinear: rows must be a whole number from 2"):
        RawLinear(rows=bad)


def test_identical_updates_are_no_crash():
    own = draw(1, 0) * 6
    attack = RawLinear().fit(own, np.array([0, 1] * 3), Auxiliary(("a",) * 6, ("f", "m")))
    assert np.isfinite(attack.decision_function(draw(3, 1))).all()
