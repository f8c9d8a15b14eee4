"""Parts of the evidence: the claims recomputed by hand from single updates."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from small_audits import KINDS, example

from fl_privacy.audit import Audit, Claim, MulticlassAudit, NumericAudit, metrics, slices_of
from fl_privacy.errors import UserError

ROUNDS = 10


def made(correlation: float = 0.3, seed: int = 0):
    """Twelve speakers of two clients each; a client has one update a round, but for one who has two in all."""
    rng = np.random.default_rng(seed)
    speaker = np.repeat(np.arange(12), 2 * ROUNDS)
    client = np.repeat(np.arange(24), ROUNDS)
    rounds = np.tile(np.arange(1, ROUNDS + 1), 24)
    keep = (client > 0) | (rounds <= 2)
    speaker, client, rounds = speaker[keep], client[keep], rounds[keep]
    truth = speaker % 2
    # Late rounds tell nothing.
    scores = truth * (rounds <= 5) * 1.5 + rng.normal(size=12)[speaker] * 0.5 + rng.normal(size=len(truth))
    names = [f"s{i:02d}" for i in speaker]
    audit = Audit(
        scores,
        np.where(truth, "m", "f"),
        names,
        clients=[f"{i:02d}" for i in client],
        aggregate=correlation,
        name="attack",
    )
    return audit, scores, truth, speaker, client, rounds


def by_condition(slices):
    return {next(iter(s.conditions.items())): s for s in slices}


def curve(audit, leaked, **settings):
    """The claims on so many leaked updates, and on all."""
    pieces = list(slices_of(audit, np.zeros(len(audit.groups)), leaked, [], **settings))
    assert [piece.conditions["leaked_updates"] for piece in pieces] == [*leaked, "all"]
    return [claim for piece in pieces for claim in piece.claims()]


@pytest.mark.parametrize("linked", [True, False])
def test_windows_and_all_updates_are_the_audits_own_evidence(linked):
    audit, scores, truth, speaker, client, rounds = made()
    found = by_condition(slices_of(audit, rounds, (), [(1, 5), (6, 10)], linked=linked))
    unit = speaker if linked else client
    values = {}
    for condition, inside in {
        ("leaked_updates", "all"): rounds > 0,
        ("rounds", "1-5"): rounds <= 5,
        ("rounds", "6-10"): rounds > 5,
    }.items():
        units = np.unique(unit[inside])
        evidence = []
        for u in units:
            mine = scores[inside & (unit == u)]
            evidence.append(mine.sum() / (1 + (len(mine) - 1) * 0.3))
        (claim,) = found[condition].claims(primary=True)
        kind = [truth[unit == u][0] for u in units]
        assert claim.value == pytest.approx(roc_auc_score(kind, evidence))
        assert claim.unit == ("speaker" if linked else "client")
        assert claim.n_positive + claim.n_negative == len(units)
        assert claim.n_speakers == 12
        assert dict(claim.conditions) == dict([condition])
        values[condition] = claim.value
    assert values["rounds", "1-5"] > values["rounds", "6-10"] + 0.2
    if linked:
        assert found["leaked_updates", "all"].claims()[0].low == pytest.approx(audit.auc().low)


def test_few_leaked_updates_are_draws_of_that_many_of_each():
    audit, scores, truth, speaker, *_ = made()
    slices = list(slices_of(audit, np.arange(len(scores)) % 9, (3, 1, 3, 500), []))
    assert [s.conditions["leaked_updates"] for s in slices] == [1, 3, 500, "all"]
    one, _three, more, every = slices
    assert len(one.draws) == 10
    for draw in one.draws:
        units = draw.combined("update")
        assert len(units.groups) == 12
        for name, evidence in zip(units.groups, units.evidence[:, 0], strict=True):
            assert np.isclose(scores[speaker == int(name[1:])], evidence).any()
    assert len({draw.evidence.tobytes() for draw in one.draws}) > 5
    for draw in more.draws:  # more than there are: all of them
        np.testing.assert_allclose(draw.evidence, every.draws[0].evidence)
    (claim,) = one.claims()
    assert (claim.n_positive, claim.n_negative, claim.n_speakers) == (6, 6, 12)
    pooled = np.concatenate([draw.evidence[:, 0] for draw in one.draws])
    assert claim.value == pytest.approx(roc_auc_score(np.tile(np.arange(12) % 2, 10), pooled))
    # Ten draws of a speaker are one speaker: no narrower than a single draw's interval allows.
    single = one.draws[0].auc()
    assert claim.high - claim.low > 0.5 * (single.high - single.low)


def test_the_same_seed_draws_the_same_and_clients_that_are_not_linked_leak_apart():
    audit, *_, rounds = made()
    one, again, other = (next(iter(slices_of(audit, rounds, (2,), [], linked=False, seed=seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.draws[0].evidence, again.draws[0].evidence)
    assert (one.draws[0].evidence != other.draws[0].evidence).any()
    assert len(one.draws[0].evidence) == 24
    assert one.claims()[0].unit == "client"


def test_the_first_and_the_last_fifth_by_default():
    audit, *_, rounds = made()
    found = [s.conditions["rounds"] for s in slices_of(audit, rounds, ()) if "rounds" in s.conditions]
    assert found == ["1-2", "9-10"]
    assert [s for s in slices_of(audit, rounds % 4, ()) if "rounds" in s.conditions] == []  # four rounds: no fifths


def test_numbers_are_averaged_and_classes_told():
    *_, speaker, client, rounds = made()
    names = [f"s{i:02d}" for i in speaker]
    ages = 20.0 + 3 * speaker
    rng = np.random.default_rng(1)
    told = ages + rng.normal(size=len(ages))
    number = NumericAudit(told, ages, names, clients=client, name="a")
    (claim,) = by_condition(slices_of(number, rounds, (1,), [(1, 5)]))["rounds", "1-5"].claims()
    means = [told[(speaker == s) & (rounds <= 5)].mean() for s in range(12)]
    assert claim.metric == "correlation"
    assert claim.value == pytest.approx(np.corrcoef(means, 20 + 3 * np.arange(12))[0, 1])
    classes = MulticlassAudit(np.eye(3)[speaker % 3], np.array(list("abc"))[speaker % 3], names, classes="abc")
    for piece in slices_of(classes, rounds, (1,)):
        assert piece.claims()[0].value == 1


def test_a_window_in_which_all_are_of_one_kind_is_left_out_and_one_without_a_round_refused():
    audit, _, truth, _, _, rounds = made()
    times = np.where(truth == 1, rounds, rounds + 100)
    assert [s for s in slices_of(audit, times, (), [(1, 5)]) if "rounds" in s.conditions] == []
    with pytest.raises(UserError, match="no captured round from 11 to 12: rounds are 1 to 10"):
        list(slices_of(audit, rounds, (), [(11, 12)]))
    with pytest.raises(UserError, match="at least one update leaks, not 0"):
        list(slices_of(audit, rounds, (3, 0), []))
    with pytest.raises(UserError, match="draws: at least one, not 0"):
        list(slices_of(audit, rounds, draws=0))
    with pytest.raises(UserError, match="rounds of shape"):
        list(slices_of(audit, rounds[1:]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("linked", [True, False])
def test_a_curve_rises_to_the_audits_own_claim(kind, linked):
    audit = example(kind, each=3.0)
    whole = audit.headline_estimate("speaker" if linked else "client")
    *_, before, last = found = curve(audit, [1, 3, 5, 10], linked=linked)
    assert (last.value, last.low, last.high) == (whole.value, whole.low, whole.high)
    assert all((c.n_positive, c.n_negative, c.n_speakers) == (whole.n_positive, whole.n_negative, 20) for c in found)
    assert found[0].value < before.value <= last.value
    assert all(c.low < c.value < c.high for c in found)
    assert [Claim.from_dict(json.loads(json.dumps(c.to_dict()))) for c in found] == found


def test_claims_take_further_fields_and_keep_what_the_slice_is():
    piece = next(iter(slices_of(example("two"), np.zeros(240), [3])))
    (claim,) = piece.claims(attribute="gender", conditions={"private": "ravdess"})
    assert (claim.attack, claim.attribute) == ("two", "gender")
    assert claim.conditions == {"private": "ravdess", "leaked_updates": 3}


@pytest.mark.parametrize("kind", KINDS)
def test_one_leaked_update_is_what_single_updates_tell(kind):
    # Drawn often enough, each update comes up as often as any other.
    audit = example(kind)
    single = curve(audit, [1], draws=400)[0]
    assert single.value == pytest.approx(audit.headline_estimate("update").value, abs=0.02)


def test_draws_are_nested():
    # Powers of two show in a sum which updates are in it.
    powers = 2.0 ** np.arange(6)
    audit = Audit(np.concatenate([powers, -powers]), np.repeat([1, 0], 6), np.repeat(["a", "b"], 6))
    pieces = slices_of(audit, np.zeros(12), [1, 2, 4, 100], [], draws=50, seed=3)
    one, two, four, more, _ = (np.array([int(draw.evidence[0, 0]) for draw in piece.draws]) for piece in pieces)
    for found, number in ((one, 1), (two, 2), (four, 4)):
        assert {int(x).bit_count() for x in found} == {number}
    assert set(more.tolist()) == {63}
    assert np.all(one & two == one) and np.all(two & four == two)
    assert len(set(four.tolist())) > 10


def test_linked_shards_tell_more_than_unlinked_ones():
    audit = example("two", n=40, rows=30, each=4.0)
    linked, unlinked = (curve(audit, [10], linked=linked) for linked in (True, False))
    assert unlinked[1].value < linked[1].value
    # A client has 10 updates here: with 10 drawn from it nothing is left to chance.
    assert unlinked[0].value == pytest.approx(unlinked[1].value)


@pytest.mark.parametrize("kind", KINDS)
def test_more_draws_buy_no_narrower_interval(kind):
    audit = example(kind, n=12)
    few, many = (curve(audit, [3], draws=draws)[0] for draws in (10, 500))
    assert many.high - many.low == pytest.approx(few.high - few.low, rel=0.1)


def test_a_curve_covers():
    """Intervals of 3 leaked updates contain what 3 updates of endless speakers give."""
    own, each, n = 1.0, 2.0, 3
    wide = np.random.default_rng(1)
    spread = np.sqrt(n**2 * own**2 + n * each**2)
    positive, negative = (n * shift + spread * wide.normal(size=200_000) for shift in (0.5, -0.5))
    truth = metrics.auc(positive, negative)
    found = [curve(example("two", 24, 10, own, each, seed), [n], seed=seed)[0] for seed in range(200)]
    assert np.mean([c.low <= truth <= c.high for c in found]) >= 0.93
    assert np.mean([c.value for c in found]) == pytest.approx(truth, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_is_the_audit_of_its_rows(kind):
    audit = example(kind)
    rounds = np.tile(np.arange(12), 20)
    for linked, unit in ((True, "speaker"), (False, "client")):
        (claim,) = by_condition(slices_of(audit, rounds, (), [(0, 3)], linked=linked))["rounds", "0-3"].claims()
        expected = audit.select(rounds <= 3).headline_estimate(unit)
        assert (claim.value, claim.low, claim.high) == (expected.value, expected.low, expected.high)


def test_speakers_without_an_update_in_a_window_drop_out_of_its_counts():
    audit = example("two", n=10, rows=4)
    piece = by_condition(slices_of(audit, np.where(audit.groups < 4, 1, 2), (), [(1, 1)]))["rounds", "1-1"]
    assert piece.claims()[0].n_speakers == 4
