"""Parts of the evidence: the claims recomputed by hand from single updates."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fl_privacy.attacks.slices import slices_of
from fl_privacy.audit import Audit, MulticlassAudit, NumericAudit
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
