"""What sums give away to an attacker who knows who took part when."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_privacy.attacks.attribute import InputReconstruction, RawLinear
from fl_privacy.attacks.evaluate import evaluate
from fl_privacy.errors import UserError
from fl_privacy.updates import Labels, ThreatModel, Update, UpdateStore, disaggregate
from fl_privacy.updates.store import Reply

SHAPES = {"fc.weight": (6, 5), "fc.bias": (6,)}


def own(client: int, sex: int, seed: int = 0) -> dict[str, np.ndarray]:
    """What a client sends in every round: the gradient of a layer that has seen one input, which tells the sex."""
    rng = np.random.default_rng([seed, client])
    signal, x = rng.normal(size=6) + 2, rng.normal(size=5) + 4 * sex * np.array([1, -1, 0, 0, 0])
    return {"fc.weight": np.outer(signal, x).astype(np.float32), "fc.bias": signal.astype(np.float32)}


def sums(part: np.ndarray, updates: list[dict[str, np.ndarray]]) -> list[Update]:
    return [
        Update(
            t + 1,
            "sum",
            "gradient",
            None,
            {n: sum((updates[k][n] for k in np.flatnonzero(row)), np.zeros(s, np.float32)) for n, s in SHAPES.items()},
            SHAPES,
            tuple(str(k) for k in np.flatnonzero(row)),
        )
        for t, row in enumerate(part)
    ]


@settings(max_examples=40, deadline=None)
@given(clients=st.integers(1, 12), rounds=st.integers(1, 20), seed=st.integers(0, 10_000))
def test_is_the_least_squares_estimate_of_least_norm(clients, rounds, seed):
    rng = np.random.default_rng(seed)
    part = rng.random((rounds, clients)) < 0.5
    part[:, 0] |= ~part.any(axis=1)
    updates = [own(k, k % 2, seed) for k in range(clients)]
    found = disaggregate(sums(part, updates))
    there = np.flatnonzero(part.any(axis=0))
    assert [u.client for u in found] == [str(k) for k in there]
    for name in SHAPES:
        total = np.array(
            [sum(updates[k][name].ravel().astype(np.float64) for k in np.flatnonzero(row)) for row in part]
        )
        expected, _, rank, _ = np.linalg.lstsq(part[:, there].astype(float), total, rcond=None)
        estimates = np.array([u.arrays[name].ravel() for u in found])
        np.testing.assert_allclose(estimates, expected, atol=1e-3)
        if rank == len(there):  # who took part when tells everybody apart: exact
            np.testing.assert_allclose(estimates, [updates[k][name].ravel() for k in there], atol=1e-3)


def test_clients_who_always_take_part_together_are_not_told_apart():
    part = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 1]], bool)
    one, two, three = disaggregate(sums(part, [own(k, k % 2) for k in range(3)]))
    for name in SHAPES:
        np.testing.assert_allclose(one.arrays[name], two.arrays[name], atol=1e-4)
        np.testing.assert_allclose(one.arrays[name], (own(0, 0)[name] + own(1, 1)[name]) / 2, atol=1e-4)
        np.testing.assert_allclose(three.arrays[name], own(2, 0)[name], atol=1e-4)


def test_nothing_comes_of_nothing_and_of_arrays_that_some_sums_lack():
    assert disaggregate([]) == []
    made = sums(np.eye(2, dtype=bool), [own(0, 0), own(1, 1)])
    made[1] = Update(2, "sum", "gradient", None, {"fc.bias": made[1].arrays["fc.bias"]}, SHAPES, ("1",))
    first, _ = disaggregate(made)
    assert list(first.arrays) == ["fc.bias"]
    with pytest.raises(KeyError):
        first.arrays["fc.weight"]


@pytest.mark.parametrize("attack", [InputReconstruction, RawLinear])
def test_a_store_of_sums_is_attacked_by_its_estimates(tmp_path, attack):
    """Half the clients in each of many rounds: enough to tell them apart; all in every round: not."""
    rng = np.random.default_rng(0)
    clients, rounds = 20, 60
    sex = rng.permutation(clients) % 2

    def store(name, seed, observe, everybody=False):
        made = UpdateStore(tmp_path / name)
        made.begin(ThreatModel(), observe)
        model = {n: np.zeros(s, np.float32) for n, s in SHAPES.items()}
        for number in range(1, rounds + 1):
            chosen = range(clients) if everybody else sorted(rng.choice(clients, clients // 2, replace=False))
            replies = [Reply(str(k), 0, own(k, sex[k], seed), "gradient", 7.0) for k in chosen]
            made.append(number, [model], replies)
        made.close()
        return UpdateStore(tmp_path / name)

    def auc(private):
        rows = {str(k): {"speaker": f"p{k}", "sex": "fm"[sex[k]]} for k in range(clients)}
        others = {k: {**row, "speaker": f"o{k}"} for k, row in rows.items()}
        audit = evaluate(
            [attack()],
            private,
            shadow=shadow,
            labels=Labels(rows),
            shadow_labels=Labels(others),
            attribute="sex",
            permutations=2,
        )
        return audit.auc().value

    shadow = store("shadow", 1, "each")
    assert auc(store("each", 2, "each")) > 0.95
    assert auc(store("half", 2, "sum")) > 0.95
    everybody = store("all", 2, "sum", everybody=True)
    with pytest.raises(UserError, match="the same 20 clients took part in each of 60 rounds"):
        auc(everybody)
    blurred = disaggregate(everybody.updates())
    for update in blurred:
        np.testing.assert_allclose(update.arrays["fc.weight"], blurred[0].arrays["fc.weight"], atol=1e-3)
