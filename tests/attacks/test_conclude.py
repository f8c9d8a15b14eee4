"""What stands beside a claim is of the claim."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score

from fl_privacy.attacks.conclude import conclude
from fl_privacy.audit import Audit


def test_private_labels_are_permuted_under_the_claims_own_scores_and_the_attackers_before_calibration():
    rng = np.random.default_rng(1)
    male = np.arange(20) % 2 == 1
    names, labels = [f"s{i:02}" for i in range(20)], np.where(male, "male", "female")
    claimed, before = (shift * male + rng.normal(size=20) for shift in (0.4, 3.0))
    audit, plain = (Audit(scores, labels, names, positive="male", name="a") for scores in (claimed, before))
    # Of 40 attackers on permuted labels ten do as well as the attack itself before calibration.
    permuted = rng.normal(size=(40, 20))
    permuted[:10] = before
    found = conclude({"a": audit}, {}, {"a": permuted}, plain={"a": plain}, seed=0)
    (claim,) = [c for c in found.claims if (c.unit, c.metric) == ("speaker", "auc")]
    private, own = (
        next(c for c in found.controls if c.control == f"permuted-{whose}-labels") for whose in ("private", "auxiliary")
    )
    assert private.observed == claim.value == pytest.approx(roc_auc_score(male, claimed))
    exact = mannwhitneyu(claimed[male], claimed[~male], alternative="greater", method="exact").pvalue
    assert abs(private.p_value - exact) < 4 * (exact * (1 - exact) / private.n_permutations) ** 0.5
    assert own.observed == pytest.approx(roc_auc_score(male, before))
    assert own.observed > 0.9 > claim.value
    assert own.p_value == pytest.approx((1 + 10) / (1 + 40))
