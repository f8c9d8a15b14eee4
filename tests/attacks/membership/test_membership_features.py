"""The features of SLMIA-SR against a slow implementation of their definition, and what must not change them."""

from __future__ import annotations

import itertools
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_privacy.attacks.membership import (
    ALL_FEATURES,
    DISTINCT,
    FEATURES,
    Imposters,
    feature_names,
    membership_features,
)
from fl_privacy.errors import UserError
from fl_privacy.models.encoder import vectors_of


def people(rng, sizes, dimension=16, spread=0.7):
    return [rng.standard_normal(dimension) + spread * rng.standard_normal((n, dimension)) for n in sizes]


# A slow implementation, one pair at a time, of the published definitions.


def cosine(a, b):
    return float(a @ b) / (max(float(np.linalg.norm(a)), 1e-8) * max(float(np.linalg.norm(b)), 1e-8))


def away(a, b):
    return 1 - cosine(a, b)


def spread(values, sample, leading=None):
    if not sample or (len(values) if leading is None else leading) == 1:
        return statistics.pstdev(values)
    return statistics.stdev(values) if len(values) > 1 else float("nan")


def four(values, sample, leading=None):
    if any(value != value for value in values):
        return [float("nan")] * 4
    return [statistics.fmean(values), spread(values, sample, leading), max(values), min(values)]


def guardless(values):
    """torch.std of one value is NaN; the public code guards it nowhere over an imposter's voices."""
    return statistics.stdev(values) if len(values) > 1 else float("nan")


def transposed(rows):
    return [list(column) for column in zip(*rows, strict=True)]


def slow(voices, imposters, *, compat):
    if not compat:  # which knows directions alone
        voices, *imposters = [q / np.linalg.norm(q, axis=1, keepdims=True) for q in (voices, *imposters)]
    centres = [np.mean(q, axis=0) for q in imposters]
    n = len(voices)
    mu = np.mean(voices, axis=0)
    sample = compat

    def own(i):
        return mu if compat else np.mean([voices[j] for j in range(n) if j != i], axis=0)

    columns = four([cosine(voices[i], own(i)) for i in range(n)], False)
    columns += four([cosine(a, b) for a, b in itertools.combinations(voices, 2)], False)
    rest = [[cosine(voices[i], voices[j]) for j in range(n) if j != i] for i in range(n)]
    for statistic in (statistics.fmean, statistics.pstdev, max, min):
        columns += four([statistic(row) for row in rest], False)

    columns += four([away(mu, c) for c in centres], sample)
    by_imposter = [[away(mu, q) for q in voices_k] for voices_k in imposters]
    columns += four(list(itertools.chain(*by_imposter)), sample)
    for statistic in (statistics.fmean, guardless if compat else statistics.pstdev, max, min):
        columns += four([statistic(row) for row in by_imposter], sample)

    for others in (centres, list(itertools.chain(*imposters))):
        table = [[away(e, c) for e in voices] for c in others]  # leading dimension: imposters
        columns += four(list(itertools.chain(*table)), sample, leading=len(table))
        for rows in (transposed(table), table):  # for each voice over imposters, then for each imposter
            for statistic in (statistics.fmean, lambda row: spread(row, sample), max, min):
                columns += four([statistic(row) for row in rows], sample)
    return np.array(columns)


@pytest.mark.parametrize("compat", [True, False])
@pytest.mark.parametrize("sizes", [(5, 3, 7, 2), (4, 4, 4), (1, 1, 6), (9,), (1,)])
def test_equal_to_the_definition(compat, sizes):
    rng = np.random.default_rng(3)
    speakers, imposters = people(rng, (2, 5, 11)), people(rng, sizes)
    found = membership_features(speakers, Imposters.of(imposters, compat=compat), compat=compat)
    expected = np.stack([slow(voices, imposters, compat=compat) for voices in speakers])
    np.testing.assert_allclose(found, expected if compat else expected[:, DISTINCT], atol=1e-6, equal_nan=True)


def test_equal_to_the_definition_where_voices_are_alike():
    """Sums of squares that are not centred would lose the small standard deviations."""
    rng = np.random.default_rng(4)
    speakers, imposters = people(rng, (6,), 64, spread=0.02), people(rng, (5, 4), 64, spread=0.02)
    found = membership_features(speakers, Imposters.of(imposters, compat=True), compat=True)[0]
    np.testing.assert_allclose(found, slow(speakers[0], imposters, compat=True), atol=1e-6)


def test_what_the_columns_are():
    assert len(ALL_FEATURES) == len(set(ALL_FEATURES)) == 120
    assert len(FEATURES) == 103 == int(DISTINCT.sum())
    assert sum(name.startswith(("c_sim", "pair")) for name in FEATURES) == 21
    assert ALL_FEATURES[4] == "pair.mean" and ALL_FEATURES[24] == "m_m.mean" and ALL_FEATURES[-1] == "i_i_2_min.min"
    assert feature_names(compat=True) == ALL_FEATURES and feature_names() == FEATURES


def test_columns_left_out_repeat_others_and_no_other_column_does():
    rng = np.random.default_rng(5)
    rows = membership_features(
        people(rng, (5, 4, 6, 3)), Imposters.of(people(rng, (5, 3, 4)), compat=True), compat=True
    )
    same = [{b for b in range(120) if np.allclose(rows[:, a], rows[:, b], rtol=0, atol=1e-6)} for a in range(120)]
    for column in np.flatnonzero(~DISTINCT):
        assert same[column] & set(np.flatnonzero(DISTINCT).tolist()), ALL_FEATURES[column]
    for column in np.flatnonzero(DISTINCT):
        assert not same[column] & (set(np.flatnonzero(DISTINCT).tolist()) - {column}), ALL_FEATURES[column]


def test_a_voice_is_not_compared_with_itself():
    """Orthogonal voices have nothing in common; the published centroid says otherwise."""
    speaker, imposters = np.eye(8)[:4], Imposters.of([np.eye(8)[4:]])
    column = FEATURES.index("c_sim.mean")
    assert membership_features([speaker], imposters)[0, column] == pytest.approx(0.0, abs=1e-12)
    assert membership_features([speaker], imposters, compat=True)[0, 0] == pytest.approx(0.5)


def test_an_aliased_imposters_first_voice_is_its_centroid():
    rng = np.random.default_rng(6)
    given = people(rng, (4, 3))
    aliased = Imposters.of(given, compat=True, aliased=True)
    for start, voices in zip(aliased.starts, given, strict=True):
        centre = voices.mean(axis=0)
        np.testing.assert_allclose(aliased.voices[start], centre / np.linalg.norm(centre), atol=1e-6)
    plain = Imposters.of(given)
    np.testing.assert_allclose(plain.voices[0], given[0][0] / np.linalg.norm(given[0][0]), atol=1e-6)


sizes = st.lists(st.integers(2, 90), min_size=1, max_size=5)
imposter_sizes = st.lists(st.integers(1, 6), min_size=1, max_size=4)
seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=40)
@given(sizes, imposter_sizes, seeds)
def test_the_order_of_voices_and_imposters_says_nothing(mine, theirs, seed):
    rng = np.random.default_rng(seed)
    speakers, imposters = people(rng, mine), people(rng, theirs)
    first = membership_features(speakers, Imposters.of(imposters))
    shuffled = [rng.permutation(voices) for voices in imposters]
    again = membership_features([rng.permutation(voices) for voices in speakers], Imposters.of(shuffled[::-1]))
    assert np.isfinite(first).all()
    np.testing.assert_allclose(first, again, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 6), imposter_sizes, seeds, st.booleans(), st.floats(0.01, 100.0))
def test_neither_block_nor_length_nor_company_matters(n, theirs, seed, compat, length):
    rng = np.random.default_rng(seed)
    speakers, imposters = people(rng, (n, 3)), Imposters.of(people(rng, theirs), compat=compat)
    alone = membership_features(speakers[:1], imposters, compat=compat)
    for other in (
        membership_features(speakers, imposters, compat=compat)[:1],
        membership_features(speakers[:1], imposters, compat=compat, block=1),
        membership_features([speakers[0] * length], imposters, compat=compat),
        membership_features([speakers[0].astype(np.float32)], imposters, compat=compat),
    ):
        np.testing.assert_allclose(alone, other, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 5), imposter_sizes, seeds)
def test_a_voice_twice_raises_what_says_how_close_voices_lie(n, theirs, seed):
    rng = np.random.default_rng(seed)
    (speaker,), imposters = people(rng, (n,)), Imposters.of(people(rng, theirs))
    once = dict(zip(FEATURES, membership_features([speaker], imposters)[0], strict=True))
    twice = dict(zip(FEATURES, membership_features([np.repeat(speaker, 2, axis=0)], imposters)[0], strict=True))
    assert twice["pair.max"] == pytest.approx(1.0)
    assert twice["pair.mean"] >= once["pair.mean"] - 1e-9
    # Of distances to imposters each occurs twice, which changes no mean, no maximum, and no std over n.
    for name in FEATURES[21:]:
        assert twice[name] == pytest.approx(once[name], abs=2e-6), name


@pytest.mark.parametrize(
    ("speakers", "message"),
    [
        ([np.ones((1, 4))], r"speaker 0 has 1 voice\(s\); 2 at least"),
        ([np.ones((3, 4)), np.ones((3, 5))], "speaker 1: embeddings of 5 numbers, others of 4"),
        ([np.ones(4)], r"speaker 0: embeddings of shape \(4,\)"),
        ([np.ones((0, 4))], r"speaker 0: embeddings of shape \(0, 4\)"),
        ([np.array([[1.0, 2, 3, 4], [1, np.nan, 3, 4]])], "1 of 2 voices hold NaN or infinity, the first is voice 1"),
    ],
)
def test_bad_embeddings_are_named(speakers, message):
    with pytest.raises(UserError, match=message):
        membership_features(speakers, Imposters.of([np.eye(4)]))


def test_imposters_are_needed_and_checked():
    with pytest.raises(UserError, match="No imposters"):
        Imposters.of([])
    with pytest.raises(UserError, match="imposter 1: .* NaN"):
        Imposters.of([np.eye(3), np.full((2, 3), np.inf)])
    assert membership_features([], Imposters.of([np.eye(3)])).shape == (0, 103)


def test_many_imposters_need_little_memory():
    import tracemalloc

    rng = np.random.default_rng(7)
    imposters = Imposters.of([rng.standard_normal((400, 8), dtype=np.float32) for _ in range(50)])
    speaker = rng.standard_normal((200, 8))
    tracemalloc.start()
    membership_features([speaker], imposters, block=2**14)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 20_000 * 4 / 4  # the whole table of similarities would be 16 MB


def test_similarities_of_pairs_are_enough():
    """Who sees similarities alone has all 103 features."""
    rng = np.random.default_rng(8)
    speakers, imposters = people(rng, (4, 3)), people(rng, (3, 5))
    everybody = [*speakers, *imposters]
    gram = np.concatenate(everybody)
    gram /= np.linalg.norm(gram, axis=1, keepdims=True)
    ends = np.cumsum([len(voices) for voices in everybody])[:-1]
    seen = np.split(vectors_of(gram @ gram.T), ends)
    np.testing.assert_allclose(
        membership_features(seen[:2], Imposters.of(seen[2:])),
        membership_features(speakers, Imposters.of(imposters)),
        atol=1e-5,
    )
