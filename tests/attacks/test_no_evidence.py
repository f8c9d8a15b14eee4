"""An update that lacks the layer which an attack reads says nothing: nothing is learnt from it, and it scores 0."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from toy_federation import federation

from fl_privacy.attacks import Auxiliary
from fl_privacy.attacks.attribute import InputReconstruction, RawLinear
from fl_privacy.attacks.base import LinearAttack, holding
from fl_privacy.attacks.evaluate import evaluate
from fl_privacy.attacks.observed import Observed
from fl_privacy.attacks.score import run_attack
from fl_privacy.errors import UserError
from fl_privacy.updates import ThreatModel, Update, UpdateStore, find_layers
from fl_privacy.updates.store import Reply

FIRST, SECOND = ("0.weight", "0.bias"), ("3.weight", "3.bias")
ATTACKS = [InputReconstruction, RawLinear, lambda: RawLinear(["all"])]


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return federation(folder / "own", 0, effect=2.0, name="o"), federation(folder / "private", 1, effect=2.0, name="p")


def without(update, arrays):
    return replace(update, arrays={n: a for n, a in update.arrays.items() if n not in arrays})


def fitted(make, own, labels):
    y = np.array([labels.rows[u.client]["gender"] == "male" for u in own], dtype=np.int64)
    speakers = tuple(labels.rows[u.client]["speaker"] for u in own)
    return make().fit(own, y, Auxiliary(speakers, ("female", "male")))


@pytest.mark.parametrize("make", ATTACKS)
def test_partial_updates_neither_teach_nor_score(sides, make):
    (own_store, own_labels), (private_store, _) = sides
    own, private = own_store.updates(), private_store.updates()
    kept = [u for i, u in enumerate(own) if i % 3]
    partial = [u if i % 3 else without(u, FIRST) for i, u in enumerate(own)]
    attacked = [u if i % 2 else without(u, FIRST if i % 4 else FIRST[1:]) for i, u in enumerate(private)]
    scores = fitted(make, partial, own_labels).decision_function(attacked)
    alone = fitted(make, kept, own_labels).decision_function([u for i, u in enumerate(private) if i % 2])
    assert (scores[::2] == 0).all()
    np.testing.assert_allclose(scores[1::2], alone, rtol=1e-6)
    assert np.abs(alone).min() > 0


def test_layers_that_an_attack_does_not_read_may_lack(sides):
    (own_store, own_labels), (private_store, _) = sides
    own, private = own_store.updates(), private_store.updates()
    for make in (InputReconstruction, RawLinear):
        whole = fitted(make, own, own_labels).decision_function(private)
        part = fitted(make, [without(u, SECOND) for u in own], own_labels).decision_function(
            [without(u, SECOND) for u in private]
        )
        np.testing.assert_array_equal(whole, part)


@pytest.mark.parametrize("make", ATTACKS)
def test_where_nobody_holds_the_layer_it_is_said(sides, make):
    (own_store, own_labels), (private_store, _) = sides
    own, private = own_store.updates(), private_store.updates()
    with pytest.raises(UserError, match=r"no update holds all of layer 0.*3\.weight"):
        fitted(make, [without(u, FIRST) for u in own], own_labels)
    attack = fitted(make, own, own_labels)
    with pytest.raises(UserError, match="no update holds all of layer 0"):
        attack.decision_function([without(u, FIRST) for u in private])


def test_layers_are_looked_for_where_they_were_learnt():
    """Stores of partial models may come to know the arrays in another order."""
    rng = np.random.default_rng(0)

    def updates(order):
        made = []
        for i in range(12):
            arrays = {
                "a.weight": rng.normal(size=(4, 3)) + i % 2,
                "a.bias": np.ones(4),
                "b.weight": rng.normal(size=(5, 4)),
                "b.bias": np.ones(5),
            }
            made.append({n: arrays[n].astype(np.float32) for n in order})
        return made

    names = ["a.weight", "a.bias", "b.weight", "b.bias"]
    own = [Update(1, str(i), "gradient", 1.0, a) for i, a in enumerate(updates(names))]
    other = [Update(1, str(i), "gradient", 1.0, a) for i, a in enumerate(updates(names[2:] + names[:2]))]
    same = [replace(u, arrays={n: u.arrays[n] for n in names}) for u in other]
    y = np.arange(12) % 2
    for make in (InputReconstruction, RawLinear):
        attack = make().fit(own, y, Auxiliary(tuple("abcdefghijkl"), ("f", "m")))
        np.testing.assert_array_equal(attack.decision_function(other), attack.decision_function(same))


def test_one_class_among_what_can_be_read_is_refused(sides):
    (own_store, own_labels), _ = sides
    own = [u if own_labels.rows[u.client]["gender"] == "male" else without(u, FIRST) for u in own_store.updates()]
    with pytest.raises(UserError, match="of one class only"):
        fitted(InputReconstruction, own, own_labels)


def test_the_linear_classifier_is_that_of_the_rows_that_say_something():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)), np.arange(30) % 2
    x[::5, 2] = np.nan
    held = ~np.isnan(x).any(axis=1)
    auxiliary = Auxiliary(tuple(map(str, range(30))), (0, 1))
    score = LinearAttack(C=0.5, classifier="logistic").learn(x, y[None], auxiliary)
    by_hand = LogisticRegression(C=0.5, class_weight="balanced", max_iter=2000).fit(x[held], y[held])
    np.testing.assert_allclose(score(x)[0, held], by_hand.decision_function(x[held]))
    assert (score(x)[0, ~held] == 0).all()
    assert (score(np.full((3, 4), np.nan)) == 0).all()


def partial_store(path, source: UpdateStore, lacking) -> UpdateStore:
    """Write a store again, in which some clients lack the first layer in all rounds, or in every second."""
    store = UpdateStore(path)
    store.begin(ThreatModel())
    updates = source.updates()
    for number in source.rounds:
        replies = [
            Reply(u.client, 0, (without(u, FIRST) if lacking(u) else u).arrays, u.kind, u.num_examples)
            for u in updates
            if u.round == number
        ]
        store.append(number, [source.sent(number, updates[0].client)], replies)
    store.close()
    return UpdateStore(path)


@pytest.mark.parametrize("make", [InputReconstruction, RawLinear])
def test_evidence_of_speakers_with_some_and_with_none(sides, tmp_path, make):
    (own, own_labels), (private, labels) = sides
    none, some = {"0", "1"}, {"2", "3"}
    cut = partial_store(tmp_path / "p", private, lambda u: u.client in none or (u.client in some and u.round != 2))

    def assess(store):
        given = {"shadow": own, "labels": labels, "shadow_labels": own_labels, "attribute": "gender"}
        return evaluate([make()], store, permutations=5, **given)

    whole, part = assess(private), assess(cut)
    (plain,), (of_all,) = part.plain.values(), whole.plain.values()
    speakers, scores, _ = plain.speaker_scores()
    evidence = dict(zip(speakers, scores, strict=True))
    full = dict(zip(*of_all.speaker_scores()[:2], strict=True))
    for speaker, score in evidence.items():
        client = speaker.removeprefix("p")
        if client in none:
            assert score == 0
        elif client in some:  # one round of three
            assert 0 < abs(score) != abs(full[speaker])
        else:
            assert score == pytest.approx(full[speaker], rel=1e-6)
    assert len(evidence) == 12


def test_permutations_that_leave_one_class_to_be_read_count_as_nothing_learnt(sides, tmp_path):
    """Only four of the attacker's own people send the layer: some permutations give all four one value."""
    (own, own_labels), (private, labels) = sides
    by_class = {g: [c for c, row in own_labels.rows.items() if row["gender"] == g] for g in ("male", "female")}
    reading = {*by_class["male"][:2], *by_class["female"][:2]}
    few = partial_store(tmp_path / "few", own, lambda u: u.client not in reading)
    for make in (InputReconstruction, RawLinear):
        mine, theirs = Observed.of([(few, own_labels)]), Observed.of([(private, labels)])
        y = np.array([row["gender"] == "male" for row in mine.rows], dtype=np.int64)
        auxiliary = Auxiliary(tuple(mine.speakers), ("female", "male"))
        scores = run_attack(make(), mine, theirs, y, auxiliary, permutations=100, seed=0)
        nothing = (scores.permuted == 0).all(axis=1)
        assert 0 < nothing.sum() < 40  # expected: 2 x C(8, 2) / C(12, 6) of them, 6 %
        assert (np.abs(scores.scores) > 0).all()
    audit = evaluate(
        [InputReconstruction()],
        private,
        shadow=few,
        labels=labels,
        shadow_labels=own_labels,
        attribute="gender",
        permutations=100,
    )
    assert audit.auc().value is not None


def test_holding_looks_at_every_array_of_the_layers(sides):
    update = sides[0][0].updates()[0]
    layers = find_layers(update.shapes)
    cases = [update, without(update, FIRST[:1]), without(update, SECOND), without(update, FIRST[1:])]
    assert holding(cases, layers[:1]).tolist() == [True, False, True, False]
    assert holding(cases, layers).tolist() == [True, False, False, False]
