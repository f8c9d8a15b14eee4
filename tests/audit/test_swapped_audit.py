"""The audit of swapped roles."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from fl_privacy.audit import Audit, SwappedAudit
from fl_privacy.errors import UserError


def swapped(rng, speakers=24, targets=6, shift=1.0, steady=1.0):
    """Scores of a steady part of the speaker, noise, and a shift for members; halves swap in turn."""
    own = steady * rng.standard_normal(speakers)
    rows = []
    for target in range(targets):
        if target % 2 == 0:
            half = rng.permutation(speakers)[: speakers // 2]
        member = np.isin(np.arange(speakers), half) ^ (target % 2 == 1)
        scores = own + rng.standard_normal(speakers) + shift * member
        rows += [(scores[s], bool(member[s]), f"s{s}", f"t{target}") for s in range(speakers)]
    return [np.array(column) for column in zip(*rows, strict=True)]


def test_the_auc_is_the_mean_over_targets():
    scores, members, speakers, targets = swapped(np.random.default_rng(0))
    audit = SwappedAudit(scores, members, speakers, targets)
    expected = []
    for target in np.unique(targets):
        yes, no = (scores[(targets == target) & (members == kind)] for kind in (True, False))
        expected.append(mannwhitneyu(yes, no).statistic / (yes.size * no.size))
    assert audit.auc().value == pytest.approx(np.mean(expected))
    assert list(audit.by_target().values()) == pytest.approx(expected)
    assert (audit.n_speakers, audit.auc().n_positive, audit.auc().n_negative) == (24, 24, 24)


def test_one_target_is_an_ordinary_audit():
    scores, members, speakers, targets = (column[:24] for column in swapped(np.random.default_rng(1)))
    mine, ordinary = SwappedAudit(scores, members, speakers, targets), Audit(scores, members)
    for name in ("auc", "accuracy"):
        found, expected = getattr(mine, name)(), getattr(ordinary, name)()
        assert found.value == pytest.approx(expected.value)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)


@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_intervals_cover(shift):
    """The truth is the mean of many draws of speakers; a steady part of a speaker makes rows dependent."""
    truth = np.mean(
        [SwappedAudit(*swapped(np.random.default_rng([9, i]), shift=shift)).auc().value for i in range(150)]
    )
    covered = []
    for seed in range(100):
        found = SwappedAudit(*swapped(np.random.default_rng([8, seed]), shift=shift)).auc()
        assert found.high > found.low
        covered.append(found.low <= truth <= found.high)
    assert np.mean(covered) >= 0.92


def test_no_interval_has_zero_width_where_all_is_told():
    scores, members, speakers, targets = swapped(np.random.default_rng(2), shift=100.0)
    audit = SwappedAudit(scores, members, speakers, targets, decisions=scores - 50)
    for estimate in (audit.auc(), audit.accuracy(), audit.tpr_at_fpr(0.05), *audit.rates()):
        assert estimate.high > estimate.low
    assert audit.auc().value == 1.0 and audit.accuracy().value == 1.0
    assert [rate.value for rate in audit.rates()] == [1.0, 0.0]


def test_what_belongs_to_the_speaker_alone_says_nothing():
    rng = np.random.default_rng(3)
    _, members, speakers, targets = swapped(rng)
    own = {f"s{s}": rng.standard_normal() for s in range(24)}
    audit = SwappedAudit([own[s] for s in speakers], members, speakers, targets)
    assert audit.auc().value == pytest.approx(0.5)


def test_differences_are_paired():
    scores, members, speakers, targets = swapped(np.random.default_rng(4), shift=1.0)
    better = scores + 0.3 * members
    a, b = (SwappedAudit(s, members, speakers, targets) for s in (better, scores))
    found = a.difference(b)
    assert found.value == pytest.approx(a.auc().value - b.auc().value)
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.7 * (a.auc().high - a.auc().low)
    with pytest.raises(UserError, match="not scored on the same rows"):
        a.difference(SwappedAudit(scores, ~members, speakers, targets))


def test_low_false_positive_rates_need_rows():
    scores, members, speakers, targets = swapped(np.random.default_rng(5))
    unresolved = SwappedAudit(scores, members, speakers, targets).tpr_at_fpr(0.001)
    assert unresolved.value is None and "at least 1000 are needed" in unresolved.reason


def test_claims_name_the_unit_and_what_is_told():
    audit = SwappedAudit(*swapped(np.random.default_rng(6)), name="pair.mean")
    rows = {claim.metric: claim for claim in audit.claims(target="x-vector", conditions={"r": 1.0})}
    assert set(rows) == {"auc", "accuracy", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001"}
    assert (rows["auc"].unit, rows["auc"].attribute, rows["auc"].attack) == ("speaker", "membership", "pair.mean")


def test_mistakes_are_named():
    scores, members, speakers, targets = swapped(np.random.default_rng(7))
    with pytest.raises(UserError, match="target t0 has no non-members"):
        SwappedAudit(scores, members | (targets == "t0"), speakers, targets)
    with pytest.raises(UserError, match="shape"):
        SwappedAudit(scores, members[:-1], speakers, targets)
    with pytest.raises(UserError, match="NaN|finite"):
        SwappedAudit(np.where(np.arange(scores.size) == 3, np.nan, scores), members, speakers, targets)


def test_permuted_roles_are_as_good_where_there_is_nothing():
    found = [
        SwappedAudit(*swapped(np.random.default_rng([10, i]), shift=0.0)).permutation(19, i).value for i in range(60)
    ]
    assert np.mean(np.array(found) <= 0.1) <= 0.2 and np.mean(np.array(found) <= 0.5) == pytest.approx(0.5, abs=0.2)
    told = SwappedAudit(*swapped(np.random.default_rng(11), shift=3.0)).permutation(19, 0)
    assert told.value == told.smallest == 0.05 and told.n == 19


def test_averaging_over_targets_narrows_the_interval():
    columns = swapped(np.random.default_rng(12), speakers=72, targets=8, steady=0.0)
    whole = SwappedAudit(*columns).auc()
    one = SwappedAudit(*(column[:72] for column in columns)).auc()
    assert whole.high - whole.low < 0.6 * (one.high - one.low)


def of_utterances(rng, split, speakers=16, each=6, pairs=2, shift=0.0, steady=1.0):
    """Rows of utterances: steady parts of speaker and utterance, the speaker's part before a target, noise."""
    sizes = rng.integers(each // 2, 2 * each, speakers)
    own = steady * rng.standard_normal(speakers)
    kept = [0.5 * rng.standard_normal(n) for n in sizes]
    rows = []
    for pair in range(pairs):
        half = rng.permutation(speakers) < speakers // 2
        sides = [
            np.full(n, half[s]) if split == "speaker" else rng.permutation(n) < n // 2 for s, n in enumerate(sizes)
        ]
        for side in (0, 1):
            local = 0.5 * steady * rng.standard_normal(speakers)
            for s, n in enumerate(sizes):
                roles = sides[s] ^ bool(side)
                scores = own[s] + local[s] + kept[s] + rng.standard_normal(n) + shift * roles
                rows += [(scores[k], bool(roles[k]), f"s{s}", f"t{pair}{side}", f"s{s}-{k}") for k in range(n)]
    return [np.array(column) for column in zip(*rows, strict=True)]


def audited(columns):
    *four, utterances = columns
    return SwappedAudit(*four, utterances=utterances)


@pytest.mark.parametrize("split", ["speaker", "utterance"])
@pytest.mark.parametrize(("shift", "steady"), [(0.0, 1.0), (1.35, 0.3)])  # AUC .5 and about .8
def test_intervals_over_speakers_cover_where_rows_are_utterances(split, shift, steady):
    found = [
        audited(of_utterances(np.random.default_rng([20, i]), split, shift=shift, steady=steady)).auc()
        for i in range(250)
    ]
    truth = np.mean([estimate.value for estimate in found])
    assert truth == pytest.approx(0.5 if shift == 0 else 0.8, abs=0.04)
    # 250 draws: a standard error of .015.
    assert np.mean([estimate.low <= truth <= estimate.high for estimate in found]) >= 0.91
    spread = 2 * 1.96 * np.std([estimate.value for estimate in found])
    assert np.mean([estimate.high - estimate.low for estimate in found]) < 2.2 * spread, "wide intervals say nothing"


def test_utterances_are_counted_and_speakers_are_the_independent_unit():
    columns = of_utterances(np.random.default_rng(21), "utterance", shift=0.5)
    audit = audited(columns)
    found = audit.auc()
    expected = []
    for target in np.unique(columns[3]):
        yes, no = (columns[0][(columns[3] == target) & (columns[1] == kind)] for kind in (True, False))
        expected.append(mannwhitneyu(yes, no).statistic / (yes.size * no.size))
    assert found.value == pytest.approx(np.mean(expected))
    assert found.n_speakers == 16 and found.n_positive == np.unique(columns[4][columns[1]]).size > 40
    assert {claim.unit for claim in audit.claims()} == {"utterance"}


def test_the_jackknife_is_leaving_speakers_out():
    columns = of_utterances(np.random.default_rng(22), "utterance", speakers=7, shift=0.8)
    whole = audited(columns)
    pulls = whole._placed().pulls[0]
    for number, name in enumerate(np.unique(columns[2])):
        without = audited([column[columns[2] != name] for column in columns])
        assert pulls[number] == pytest.approx((whole.auc().value - without.auc().value) * 6 / 7)


@pytest.mark.parametrize("split", ["speaker", "utterance"])
def test_permuted_roles_of_utterances(split):
    rng = np.random.default_rng(23)
    nothing = [
        audited(of_utterances(np.random.default_rng([24, i]), split)).permutation(19, i).value for i in range(50)
    ]
    assert np.mean(np.array(nothing) <= 0.1) <= 0.22 and np.mean(np.array(nothing) <= 0.5) == pytest.approx(
        0.5, abs=0.22
    )
    columns = of_utterances(rng, split, shift=3.0)
    null = audited(columns).permuted(19, 0)
    assert np.abs(null - 0.5).max() < 0.35
    assert audited(columns).permutation(19, 0).value == 0.05


def test_one_target_is_no_less_wide_than_as_many_independent_utterances():
    columns = of_utterances(np.random.default_rng(25), "speaker", speakers=20, pairs=1, steady=0.0)
    first = columns[3] == "t00"
    found = audited([column[first] for column in columns]).auc()
    members = columns[1][first].sum()
    assert found.high - found.low > 2 * 1.9 * np.sqrt(1 / 12 * (1 / members + 1 / (first.sum() - members)))
