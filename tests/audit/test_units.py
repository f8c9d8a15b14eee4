"""Rows, clients and speakers: whose evidence it is, and that no interval takes rows for speakers."""

from __future__ import annotations

import numpy as np
import pytest
from small_audits import KINDS, example

from fl_privacy.audit import Audit, intervals, slices_of
from fl_privacy.audit._placement import Placed, placed_interval
from fl_privacy.errors import UserError


def test_speakers_without_rows_drop_out_and_the_counts_say_so():
    audit = example("two", n=10, rows=4)
    late = audit.select(audit.groups > 2)
    assert (late.auc().n_positive, late.auc().n_negative, late.auc().n_speakers) == (4, 3, 7)
    assert {c.n_speakers for c in late.claims()} == {7}
    with pytest.raises(UserError, match="no rows are left"):
        audit.select(audit.groups > 10)
    with pytest.raises(UserError, match="two distinct labels; got 1"):
        audit.select(audit.groups == 1)
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
    for piece in slices_of(many, np.zeros(len(many.groups)), [1, 100], [], draws=3):
        (claim,) = piece.claims()
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
