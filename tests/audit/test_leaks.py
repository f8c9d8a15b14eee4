from __future__ import annotations

import json

import numpy as np
import pytest

from fl_privacy.audit import Audit, Claim, MulticlassAudit, NumericAudit, in_rounds, intervals, leaked_curve, metrics
from fl_privacy.audit._placement import Placed, placed_interval
from fl_privacy.errors import UserError

KINDS = ("two", "many", "number")


def example(kind, n=20, rows=12, own=0.4, each=1.0, seed=0, **settings):
    """Updates whose scores vary between speakers (`own`) and within (`each`)."""
    rng = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(n), rows)
    settings = {"clients": speakers * 3 + np.arange(speakers.size) % 3, "name": kind} | settings
    if kind == "two":
        scores = 0.5 * (2 * (speakers % 2) - 1) + own * rng.normal(size=n)[speakers]
        return Audit(scores + each * rng.normal(size=speakers.size), speakers % 2, speakers, **settings)
    if kind == "many":
        scores = (speakers % 4 == np.arange(4)[:, None]).T + own * rng.normal(size=(n, 4))[speakers]
        return MulticlassAudit(scores + each * rng.normal(size=(speakers.size, 4)), speakers % 4, speakers, **settings)
    ages = rng.integers(20, 75, n)[speakers]
    predictions = ages + 15 * own * rng.normal(size=n)[speakers] + 15 * each * rng.normal(size=speakers.size)
    return NumericAudit(predictions, ages, speakers, **settings)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", ["speaker", "client"])
def test_curve_rises_to_the_audits_own_claim(kind, unit):
    audit = example(kind, each=3.0)
    curve = leaked_curve(audit, unit=unit, attribute="gender", conditions={"private": "ravdess"})
    assert [c.conditions["leaked_updates"] for c in curve] == [1, 3, 5, 10, "all"]
    whole = audit.headline_estimate(unit)
    assert {(c.unit, c.metric, c.attack, c.attribute) for c in curve} == {(unit, audit.headline, kind, "gender")}
    assert {c.conditions["private"] for c in curve} == {"ravdess"}
    assert (curve[-1].value, curve[-1].low, curve[-1].high) == (whole.value, whole.low, whole.high)
    assert all((c.n_positive, c.n_negative, c.n_speakers) == (whole.n_positive, whole.n_negative, 20) for c in curve)
    assert curve[0].value < curve[-1].value
    assert all(c.low < c.value < c.high for c in curve)
    assert [Claim.from_dict(json.loads(json.dumps(c.to_dict()))) for c in curve] == curve


@pytest.mark.parametrize("kind", KINDS)
def test_one_leaked_update_is_what_single_updates_tell(kind):
    # Drawn often enough, each update comes up as often as any other.
    audit = example(kind)
    single = leaked_curve(audit, [1], draws=400)[0]
    assert single.value == pytest.approx(audit.headline_estimate("update").value, abs=0.02)


def test_draws_are_sums_over_the_first_of_one_order():
    # Powers of two show in a sum which updates are in it.
    powers = 2.0 ** np.arange(6)
    audit = Audit(np.concatenate([powers, -powers]), np.repeat([1, 0], 6), np.repeat(["a", "b"], 6))
    seen = {}

    class Spy(Audit):
        def headline_estimate(self, unit="speaker"):
            if unit == "update":
                seen[len(seen)] = self.scores[:50].astype(int)
            return super().headline_estimate(unit)

    leaked_curve(Spy(audit.scores, audit.labels, audit.groups), [1, 2, 4, 100], draws=50, seed=3)
    one, two, four, all_of_them = (seen[i] for i in range(4))
    assert {int(x).bit_count() for x in one} == {1}
    assert {int(x).bit_count() for x in two} == {2}
    assert {int(x).bit_count() for x in four} == {4}
    assert set(all_of_them.tolist()) == {63}
    assert np.all(one & two == one) and np.all(two & four == two)
    assert len(set(four.tolist())) > 10


def test_curve_repeats_with_its_seed():
    audit = example("two", each=3.0)
    assert leaked_curve(audit, seed=1) == leaked_curve(audit, seed=1)
    assert leaked_curve(audit, seed=1)[1] != leaked_curve(audit, seed=2)[1]


def test_linked_shards_tell_more_than_unlinked_ones():
    audit = example("two", n=40, rows=30, each=4.0)
    linked, unlinked = (leaked_curve(audit, [10, None], unit=unit) for unit in ("speaker", "client"))
    assert unlinked[1].value < linked[1].value
    # A client has 10 updates here: with 10 drawn from it nothing is left to chance.
    assert unlinked[0].value == pytest.approx(unlinked[1].value)


@pytest.mark.parametrize("kind", KINDS)
def test_more_draws_buy_no_narrower_interval(kind):
    audit = example(kind, n=12)
    few, many = (leaked_curve(audit, [3], draws=draws)[0] for draws in (10, 500))
    assert many.high - many.low == pytest.approx(few.high - few.low, rel=0.1)


def test_curve_covers():
    """Intervals of 3 leaked updates contain what 3 updates of endless speakers give."""
    own, each, n = 1.0, 2.0, 3
    wide = np.random.default_rng(1)
    spread = np.sqrt(n**2 * own**2 + n * each**2)
    positive, negative = (n * shift + spread * wide.normal(size=200_000) for shift in (0.5, -0.5))
    truth = metrics.auc(positive, negative)
    found = [leaked_curve(example("two", 24, 10, own, each, seed), [n], seed=seed)[0] for seed in range(200)]
    assert np.mean([c.low <= truth <= c.high for c in found]) >= 0.93
    assert np.mean([c.value for c in found]) == pytest.approx(truth, abs=0.02)


def test_what_cannot_leak_is_refused():
    audit = example("two")
    with pytest.raises(UserError, match="'update' is one update"):
        leaked_curve(audit, unit="update")
    with pytest.raises(UserError, match="at least one update"):
        leaked_curve(audit, [0])
    with pytest.raises(UserError, match="At least one draw"):
        leaked_curve(audit, draws=0)
    with pytest.raises(UserError, match="knows no clients"):
        leaked_curve(Audit([0.0, 1.0], [0, 1]), unit="client")


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_of_rounds_is_the_audit_of_its_rows(kind):
    audit = example(kind)
    rounds = np.tile(np.arange(12), 20)
    early = in_rounds(audit, rounds, last=3)
    kept = np.flatnonzero(rounds <= 3)
    assert len(early.evidence) == 80
    assert early.n_speakers == 20
    np.testing.assert_array_equal(early.evidence, audit.evidence[kept])
    np.testing.assert_array_equal(early.clients, audit.clients[kept])
    assert early.estimates("client") == audit.select(kept).estimates("client")
    assert in_rounds(audit, rounds).estimates() == audit.estimates()


def test_speakers_without_rows_drop_out_and_the_counts_say_so():
    audit = example("two", n=10, rows=4)
    late = audit.select(audit.groups > 2)
    assert (late.auc().n_positive, late.auc().n_negative, late.auc().n_speakers) == (4, 3, 7)
    assert {c.n_speakers for c in late.claims()} == {7}
    rounds = np.where(audit.groups < 4, 1, 2)
    assert in_rounds(audit, rounds, 1, 1).n_speakers == 4
    with pytest.raises(UserError, match="no rows are left"):
        in_rounds(audit, rounds, 3)
    with pytest.raises(UserError, match="two distinct labels; got 1"):
        audit.select(audit.groups == 1)
    with pytest.raises(UserError, match="rounds of shape"):
        in_rounds(audit, [1, 2])
    with pytest.raises(UserError, match="mask of shape"):
        audit.select([True, False])


@pytest.mark.parametrize("kind", KINDS)
def test_scores_over_speakers_are_those_of_their_audit(kind):
    audit, other = example(kind), example(kind, seed=1)
    scores = other.predictions if kind == "number" else other.scores
    found = audit.over_speakers(scores)
    np.testing.assert_allclose(found, audit.with_scores(scores).speaker_scores()[1], rtol=1e-12)
    assert audit.headline_value(scores=found) == pytest.approx(audit.with_scores(scores).headline_value())


@pytest.mark.parametrize("kind", KINDS)
def test_audits_per_unit_are_the_same_audits(kind):
    audit = example(kind)
    for unit in ("client", "speaker"):
        assert audit.per(unit).estimates("update") == audit.estimates(unit)
    assert audit.per("client").estimates("client") == audit.estimates("client")
    assert audit.per("speaker").clients is None


# An interval never takes updates, draws or shards of one speaker for independent: the cases below know of few speakers
# and of thousands of updates.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("speakers", [10, 20])
def test_thousands_of_updates_give_the_interval_of_their_speakers(kind, speakers):
    """Each speaker's updates all say the same: they are one observation, however many there are."""
    one = example(kind, n=speakers, rows=1, own=1.0)
    many = one.select(np.repeat(np.arange(speakers), 1000))
    # Each update in a client of its own, too.
    many = many.rebuilt(many.combined("update"), np.arange(1000 * speakers))
    for unit in ("update", "client"):
        for metric, found in many.estimates(unit).items():
            expected = one.estimates("speaker")[metric]
            if not metric.startswith("tpr"):
                assert (found.value, found.low, found.high) == pytest.approx(
                    (expected.value, expected.low, expected.high), abs=1e-6
                )
            assert found.n_speakers == speakers
    expected = one.headline_estimate()
    for claim in leaked_curve(many, [1, 100, None], draws=3):
        assert (claim.low, claim.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


@pytest.mark.parametrize("kind", ["two", "many"])
def test_updates_that_disagree_are_still_five_speakers(kind):
    """1,000 updates each, all different: not narrower than five speakers with the same success would have it."""
    audit = example(kind, n=10 if kind == "two" else 20, rows=1000, own=0.2, each=1.0)
    found, classes = audit.auc("update"), 2 if kind == "two" else 4
    # The same AUC with one score a speaker: the interval of the model, which no spread of updates may undercut.
    model = placed_interval(Placed(found.value, tuple([np.zeros(5)] * classes), (5.0,) * classes), 0.95)
    assert found.low <= model[0] + 1e-9
    assert found.high >= model[1] - 1e-9
    assert found.high - found.low > 0.2
    uar = audit.uar("update")
    exact = intervals.mean_recall_interval([np.full(5, uar.value)] * classes)
    assert uar.high - uar.low > 0.8 * (exact[1] - exact[0])


def test_a_naive_interval_would_miss_the_truth():
    """Scores that differ by speaker and not by sex: taken for independent, 24,000 updates would prove a leak."""
    missed = {"updates": 0, "speakers": 0}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        speakers = np.repeat(np.arange(24), 200)
        scores = rng.normal(size=24)[speakers] + 0.5 * rng.normal(size=speakers.size)
        for name, groups in (("updates", None), ("speakers", speakers)):
            found = Audit(scores, speakers % 2, groups).auc("update")
            missed[name] += not found.low <= 0.5 <= found.high
    assert missed["updates"] > 40
    assert missed["speakers"] <= 5


@pytest.mark.parametrize("kind", KINDS)
def test_shards_of_a_speaker_are_not_more_speakers(kind):
    audit = example(kind, n=12, own=1.0, each=0.01)
    speaker, client = audit.headline_estimate("speaker"), audit.headline_estimate("client")
    assert client.n_speakers == 12
    assert client.high - client.low == pytest.approx(speaker.high - speaker.low, rel=0.1)
