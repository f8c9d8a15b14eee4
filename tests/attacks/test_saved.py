"""Evidence on disk is the evidence, and seeds merged from it are what the rules say."""

from __future__ import annotations

import numpy as np
import pytest

from fl_privacy.attacks.attribute import InputReconstruction, RawLinear
from fl_privacy.attacks.evaluate import evaluate
from fl_privacy.attacks.saved import load_evidence, merge, save_evidence
from fl_privacy.updates import Labels, UpdateStore
from tests.attacks.toy_federation import federation

PARTS = ("audits", "blind", "plain")


def with_column(labels: Labels, column: str, rng: np.random.Generator) -> Labels:
    """Add three accents or an age to the sexes of a toy federation."""
    rows = {}
    for number, (client, row) in enumerate(labels.rows.items()):
        extra = {"accent": "abc"[number % 3], "age": str(30 + 20 * (row["gender"] == "male") + rng.integers(9))}
        rows[client] = {**row, column: extra.get(column, row["gender"])}
    return Labels(rows)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[UpdateStore, Labels, UpdateStore, Labels]]:
    folder = tmp_path_factory.mktemp("stores")
    return [
        (
            *federation(folder / f"v{seed}", 1 + seed, effect=1.0, name="v", rounds=5),
            *federation(folder / f"o{seed}", 11 + seed, effect=1.0, name="o", rounds=5),
        )
        for seed in range(2)
    ]


def evaluation(stores, seed: int, attribute: str, **changes):
    victim, labels, shadow, own = stores[seed]
    rng = np.random.default_rng(5)
    return evaluate(
        [InputReconstruction(), RawLinear()],
        victim,
        shadow=shadow,
        labels=with_column(stores[0][1], attribute, rng),
        shadow_labels=with_column(own, attribute, rng),
        attribute=attribute,
        numeric=attribute == "age",
        permutations=4,
        **changes,
    )


@pytest.mark.parametrize("attribute", ["gender", "accent", "age"])
def test_what_is_saved_is_read_back(stores, attribute, tmp_path):
    before = evaluation(stores, 0, attribute)
    save_evidence(before, tmp_path / "e.npz")
    after = load_evidence(tmp_path / "e.npz")
    for part in PARTS:
        mine, theirs = getattr(before, part), getattr(after, part)
        assert list(mine) == list(theirs)
        for name, audit in mine.items():
            units, read = audit.combined("speaker"), theirs[name].combined("speaker")
            np.testing.assert_array_equal(units.evidence, read.evidence)
            np.testing.assert_array_equal(units.truth, read.truth)
            np.testing.assert_array_equal(units.groups, read.groups)
            assert vars(theirs[name].headline_estimate()) == vars(audit.headline_estimate())
    for name, rows in before.permuted.items():
        np.testing.assert_array_equal(after.permuted[name], rows)
    assert len(before.slices) == len(after.slices) == 2 * (4 + 1 + 2)
    for one, other in zip(before.slices, after.slices, strict=True):
        assert [c.to_dict() for c in one.claims()] == [c.to_dict() for c in other.claims()]
    assert [p.name for p in tmp_path.iterdir()] == ["e.npz"]


def z(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


def test_merged_evidence_and_permutations_are_means_of_the_standardised_runs(stores):
    runs = [evaluation(stores, seed, "gender") for seed in (0, 1)]
    whole = merge(runs, seed=3, seeds=(0, 1), attribute="gender")
    for name in runs[0].audits:
        speakers, scores, truth = whole.audits[name].speaker_scores()
        parts = [run.audits[name].speaker_scores() for run in runs]
        np.testing.assert_array_equal(speakers, parts[0][0])
        np.testing.assert_array_equal(truth, parts[0][2])
        np.testing.assert_allclose(scores, (z(parts[0][1]) + z(parts[1][1])) / 2)
        for number in range(4):
            rows = [run.permuted[name][number] for run in runs]
            np.testing.assert_allclose(whole.permuted[name][number], (z(rows[0]) + z(rows[1])) / 2)
    pieces = {(s.attack, str(s.conditions)): s for s in whole.slices}
    assert len(pieces) == len(runs[0].slices)
    first = runs[0].slices[0]
    mine = pieces[first.attack, str(first.conditions)].draws[4].speaker_scores()[1]
    theirs = [next(s for s in run.slices if s.conditions == first.conditions).draws[4] for run in runs]
    np.testing.assert_allclose(mine, np.mean([z(t.speaker_scores()[1]) for t in theirs], axis=0))
    assert {c.seeds for c in whole.claims} == {(0, 1)}


def test_slices_that_one_run_lacks_are_left_out(stores):
    runs = [evaluation(stores, 0, "gender", windows=[(1, 2)]), evaluation(stores, 1, "gender", windows=[(1, 3)])]
    assert not [s for s in merge(runs, seed=0).slices if "rounds" in s.conditions]
    assert [s for s in merge([runs[0]] * 2, seed=0).slices if "rounds" in s.conditions]


@pytest.mark.parametrize("attribute", ["accent", "age"])
def test_a_run_merged_with_itself_ranks_as_it_does(stores, attribute):
    run = evaluation(stores, 0, attribute)
    whole = merge([run, run], seed=0)
    for name, audit in run.audits.items():
        if attribute == "age":
            assert whole.audits[name].headline_value() == pytest.approx(audit.headline_value())
        else:
            assert whole.audits[name].accuracy().value == pytest.approx(audit.accuracy().value)
    p = [{(c.attack, c.control): c.p_value for c in e.controls if c.p_value is not None} for e in (run, whole)]
    if attribute == "age":
        assert p[0] == pytest.approx(p[1], abs=0.02)
