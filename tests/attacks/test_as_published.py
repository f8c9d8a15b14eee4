from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fl_privacy.attacks.as_published import LeakedMeans, layer_name, merged_claims, update_claims
from fl_privacy.attacks.observed import Observed
from fl_privacy.attacks.score import Scores
from fl_privacy.audit import Claim
from fl_privacy.updates import Update


def observed(per_client: dict[str, int]) -> Observed:
    """Clients with so many updates each; the arrays of an update say its row."""
    clients = [c for c, n in per_client.items() for _ in range(n)]
    updates = [
        Update(n, c, "delta", 1.0, {"w": np.full((2, 3), 2.0**n, np.float32), "b": np.full(2, float(n), np.float32)})
        for n, c in enumerate(clients)
    ]
    return Observed(tuple(updates), tuple({"speaker": c, "gender": "m" if c > "c" else "f"} for c in clients))


def test_each_draw_is_the_mean_of_that_many_updates_of_the_client_without_replacement():
    private = observed({"a": 7, "b": 3, "d": 1})
    leaked = LeakedMeans.of(private, [1, 2, 3, 100])
    assert leaked.private == 11
    assert leaked.observed.updates[:11] == private.updates
    assert leaked.clients == ("a", "b", "d")
    sizes = {"a": 7, "b": 3, "d": 1}
    for count, rows in leaked.rows.items():
        assert rows.shape == (3, 10)
        for client, mine in zip(leaked.clients, rows, strict=True):
            for row in mine:
                update = leaked.observed.updates[row]
                assert update.client == client
                assert leaked.observed.rows[row]["speaker"] == client
                # The weights are powers of two: their sum tells which rows are in it, and that none is twice.
                chosen = min(count, sizes[client])
                held = [n for n in range(11) if round(float(update.arrays["w"][0, 0]) * chosen) >> n & 1]
                assert len(held) == chosen
                assert {private.updates[n].client for n in held} == {client}
                assert update.arrays["b"][0] == pytest.approx(np.mean(held))
    assert len(set(leaked.rows[2][0].tolist())) > 3  # draws differ
    assert len(set(leaked.rows[100][0].tolist())) == 1  # all there are
    assert leaked.rows[1].max() < 11  # one update is its own mean
    again = LeakedMeans.of(private, [1, 2, 3, 100])
    assert all((again.rows[n] == rows).all() for n, rows in leaked.rows.items())


def test_a_mean_holds_the_arrays_that_all_its_updates_hold():
    private = observed({"a": 2})
    partial = replace(private.updates[1], arrays={"w": private.updates[1].arrays["w"]})
    leaked = LeakedMeans.of(replace(private, updates=(private.updates[0], partial)), [2])
    mean = leaked.observed.updates[2].arrays
    assert list(mean) == ["w"]
    assert "b" not in mean
    assert mean["w"].dtype == np.float32


def test_without_numbers_nothing_is_added():
    private = observed({"a": 2, "d": 2})
    leaked = LeakedMeans.of(private, [])
    assert leaked.observed == private
    assert leaked.claims(np.zeros(4), np.array([0, 0, 1, 1])) == []


def test_scores_of_the_private_updates_come_first():
    leaked = LeakedMeans.of(observed({"a": 3, "d": 3}), [2])
    n = len(leaked.observed.updates)
    only, of_all = leaked.split(
        Scores(np.arange(n, dtype=float), np.arange(n) / 7, 0.5, "", np.arange(2.0 * n).reshape(2, n))
    )
    np.testing.assert_array_equal(only.scores, np.arange(6))
    np.testing.assert_array_equal(only.permuted, [np.arange(6), n + np.arange(6)])
    np.testing.assert_array_equal(of_all, np.arange(n))


def test_uar_counts_clients_and_draws_and_asr_averages_over_clients():
    leaked = LeakedMeans.of(observed({"a": 4, "b": 4, "d": 4}), [2])
    truth = np.array([row["gender"] == "m" for row in leaked.observed.rows], dtype=np.int64)
    rng = np.random.default_rng(0)
    scores = rng.normal(size=len(truth))
    uar, asr = leaked.claims(scores, truth, attack="x", conditions={"layer": "first"})
    right = {c: [(scores[r] > 0) == (c == "d") for r in leaked.rows[2][i]] for i, c in enumerate("abd")}
    assert asr.value == pytest.approx(np.mean([np.mean(right[c]) for c in "abd"]))
    assert uar.value == pytest.approx((np.mean(right["a"] + right["b"]) + np.mean(right["d"])) / 2)
    assert (uar.unit, uar.metric, asr.metric, uar.protocol) == ("client", "uar", "asr", "as-published")
    assert uar.conditions == {"layer": "first", "leaked_updates": 2}
    assert (uar.n_positive, uar.n_negative, uar.n_speakers) == (1, 2, 3)


def test_each_update_counts_once():
    truth = np.array([0] * 6 + [1] * 2)
    scores = np.array([-1, -1, -1, 1, 1, 0, 2, -2.0])  # a score of 0 is no class 1
    uar, accuracy = update_claims(scores, truth, list("aabbccdd"), attack="x", primary=True)
    assert uar.value == pytest.approx((4 / 6 + 1 / 2) / 2)
    assert accuracy.value == pytest.approx(5 / 8)
    assert {c.unit for c in (uar, accuracy)} == {"update"}
    assert not uar.primary  # never the headline
    assert uar.low is None
    assert "not independent" in uar.reason
    assert (uar.n_positive, uar.n_negative, uar.n_speakers) == (2, 6, 4)


def test_of_several_classes_the_most_likely_is_taken():
    truth = np.array([0, 1, 2, 2])
    scores = np.array([[3, 1, 0], [0, 1, 2], [0, 1, 2], [0, 0, 9.0]])
    uar, accuracy = update_claims(scores, truth, list("abcd"), attack="x")
    assert uar.value == pytest.approx((1 + 0 + 1) / 3)
    assert accuracy.value == pytest.approx(3 / 4)
    assert uar.n_positive is None


def test_folds_are_averaged_case_by_case():
    def result(seed, *values):
        shared = {"attack": "cnn", "metric": "uar", "seeds": (seed,), "n_positive": 10, "n_negative": seed}
        claims = [Claim(unit="speaker", protocol="controlled", value=0.1, **shared)]
        for value, leaked in zip(values, (None, 1, 5), strict=True):
            conditions = {"private": "p", "folds": 1} | ({"leaked_updates": leaked} if leaked else {})
            claims.append(Claim(unit="client", protocol="as-published", value=value, conditions=conditions, **shared))
        return {"claims": [claim.to_dict() for claim in claims]}

    merged = merged_claims([result(1, 0.5, 0.6, 0.7), result(2, 0.7, 0.6, 0.9)])
    assert [m.value for m in merged] == pytest.approx([0.6, 0.6, 0.8])
    assert [m.conditions.get("leaked_updates") for m in merged] == [None, 1, 5]
    assert merged[0].conditions["folds"] == 2
    assert merged[0].conditions["sd_over_folds"] == pytest.approx(np.std([0.5, 0.7], ddof=1))
    assert merged[0].seeds == (1, 2)
    assert (merged[0].n_positive, merged[0].n_negative) == (20, 3)


@pytest.mark.parametrize(
    ("layers", "name"),
    [
        (["first"], "first"),
        ("second", "second"),
        (["first", "second", "last"], "fusion"),
        (["all"], "fusion"),
        (["first", "last"], "first+last"),
        ((), ""),
    ],
)
def test_layers_are_called_as_in_the_study(layers, name):
    assert layer_name(layers) == name
