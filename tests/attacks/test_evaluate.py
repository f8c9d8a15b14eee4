from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from toy_federation import federation

import fl_privacy
from fl_privacy.attacks import Attack, Auxiliary, make_attacks
from fl_privacy.attacks.attribute import InputReconstruction, RawLinear
from fl_privacy.attacks.base import Examples
from fl_privacy.attacks.blind import baselines
from fl_privacy.attacks.evaluate import evaluate
from fl_privacy.attacks.observed import Observed
from fl_privacy.attacks.score import Scores, run_attack
from fl_privacy.errors import UserError
from fl_privacy.updates import Labels, UpdateStore


class LayerNorms:
    """An attack of one's own, as docs/how-to/attack.md has it."""

    needs = frozenset({"updates"})

    def __init__(self, C: float = 1.0) -> None:
        self.C = C

    def _features(self, updates):
        return np.array([[np.linalg.norm(a) for a in u.arrays.values()] for u in updates])

    def fit(self, updates, labels, auxiliary):
        self.model_ = LogisticRegression(C=self.C).fit(self._features(updates), labels)
        return self

    def decision_function(self, updates):
        return self.model_.decision_function(self._features(updates))


class Fixed(LayerNorms):
    """Answers what it is told to."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def fit(self, updates, labels, auxiliary):
        return self

    def decision_function(self, updates):
        return self.answer(len(updates))


class Watching(Fixed):
    """Notes what it is given, in a list that copies of it share."""

    def __init__(self) -> None:
        super().__init__(lambda n: np.arange(n, dtype=float))
        self.notes = Notes()

    def fit(self, updates, labels, auxiliary):
        self.notes.append((labels.copy(), auxiliary))
        return self


class Notes(list):
    def __deepcopy__(self, memo):
        return self


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    victim, labels = federation(folder / "victim", 1, effect=2.0, name="v")
    shadow, own = federation(folder / "shadow", 2, effect=2.0, name="a")
    return victim, labels, shadow, own


def run(pair, attacks=None, **changes):
    victim, labels, shadow, own = pair
    settings = {"shadow": shadow, "labels": labels, "shadow_labels": own, "attribute": "gender", "permutations": 20}
    return evaluate(attacks or [InputReconstruction()], victim, **{**settings, **changes})


def observed(pair) -> tuple[Observed, Observed, np.ndarray]:
    victim, labels, shadow, own = pair
    mine, theirs = Observed.of([(shadow, own)]), Observed.of([(victim, labels)])
    return mine, theirs, np.array([v == "male" for v in mine.values("gender")], dtype=np.int64)


def test_end_to_end_with_an_attack_of_ones_own(pair, tmp_path):
    result = run(pair, [InputReconstruction(), RawLinear(["all"]), LayerNorms()])
    assert list(result.audits) == ["InputReconstruction", "RawLinear", "LayerNorms"]
    assert result.auc().value > 0.9
    assert result.auc().low <= result.auc().value <= result.auc().high
    assert result.uar("speaker").value > 0.75
    assert result.tpr_at_fpr(0.01).value is None  # six women resolve no rate of one per cent
    primary = [c for c in result.claims if c.primary]
    assert {c.attack for c in primary} == {"InputReconstruction"}
    assert {c.unit for c in primary} == {"update", "client", "speaker"}
    assert {c.control for c in result.controls} >= {
        "permuted-auxiliary-labels",
        "permuted-private-labels",
        "majority",
        "blind-norm",
        "blind-examples",
    }
    mine = {c.control: c for c in result.controls if c.of == "InputReconstruction" and c.metric == "auc"}
    assert mine["permuted-private-labels"].p_value < 0.01
    assert mine["permuted-auxiliary-labels"].n_permutations == 20
    assert mine["permuted-auxiliary-labels"].p_value >= 1 / 21
    assert "InputReconstruction" in result.table()
    result.save(tmp_path / "audit")
    saved = json.loads((tmp_path / "audit" / "result.json").read_text())
    assert saved["schema"] == 1
    assert len(saved["claims"]) == len(result.claims)
    rows = (tmp_path / "audit" / "scores.csv").read_text().splitlines()
    assert len(rows) == 1 + (3 + 2) * (12 + 12)


def test_plain_scores_of_a_speaker_are_averaged_over_rounds(pair):
    victim, labels, *_ = pair
    result = run(pair, [Fixed(lambda n: np.linspace(-1, 1, n))])
    updates = victim.updates()
    speakers, scores, truth = result.plain["Fixed"].speaker_scores()
    for speaker, score, male in zip(speakers, scores, truth, strict=True):
        mine = [i for i, u in enumerate(updates) if labels.rows[u.client]["speaker"] == speaker]
        assert len(mine) == 3
        assert score == pytest.approx(np.linspace(-1, 1, len(updates))[mine].mean())
        assert male == (labels.rows[updates[mine[0]].client]["gender"] == "male")


def test_equal_calls_give_equal_results_and_leave_the_attack_unfitted(pair):
    attack = InputReconstruction()
    one, two = run(pair, [attack]), run(pair, [attack])
    assert [c.to_dict() for c in one.claims] == [c.to_dict() for c in two.claims]
    assert [c.to_dict() for c in one.controls] == [c.to_dict() for c in two.controls]
    assert not hasattr(attack, "classifier_")


def test_positive_names_the_side_of_high_scores(pair):
    male, female = run(pair), run(pair, positive="female")
    assert male.primary.positive == "male"
    assert female.primary.positive == "female"
    assert female.auc().value == pytest.approx(male.auc().value)
    np.testing.assert_allclose(female.primary.scores, -male.primary.scores, atol=1e-3)


def test_label_files_and_several_shadows(pair, tmp_path):
    _, labels, shadow, own = pair
    labels.write(tmp_path / "victim.csv")
    own.write(tmp_path / "shadow.csv")
    from_files = run(pair, labels=tmp_path / "victim.csv", shadow_labels=str(tmp_path / "shadow.csv"))
    assert from_files.auc().value == run(pair).auc().value
    other, theirs = federation(tmp_path / "other", 3, effect=2.0, name="b")
    both = run(pair, shadow=[shadow, other], shadow_labels=[own, theirs])
    assert both.auc().value > 0.9


def test_permutations_move_whole_speakers_and_never_the_observed_fit(pair):
    own, private, labels = observed(pair)
    watching = Watching()
    auxiliary = Auxiliary(tuple(own.speakers), ("female", "male"))
    result = run_attack(watching, own, private, labels, auxiliary, permutations=25, seed=1)
    assert result.scores.shape == (36,)
    assert result.permuted.shape == (25, 36)
    first, *others = [given for given, _ in watching.notes]
    np.testing.assert_array_equal(first, labels)
    rest = [given for given in others if len(given) == len(labels)]  # not those that calibrate
    assert len(rest) == 25
    speakers = np.array(own.speakers)
    for given in rest:
        assert all(len(set(given[speakers == s])) == 1 for s in set(own.speakers))
        assert given.sum() == labels.sum()
        assert (given != labels).any()
    assert len({given.tobytes() for given in rest}) > 20
    assert all(len(aux.speakers) == len(given) for given, aux in watching.notes)


@pytest.mark.parametrize("within", [False, True])
def test_permutations_take_the_examples_along(pair, within):
    """An attack that learns from the attacker's examples, too, must not see their true attribute under the control."""
    own, private, labels = observed(pair)
    of = dict(zip(own.speakers, labels.tolist(), strict=True)) | {"unseen-0": 0, "unseen-1": 1}
    speakers = tuple(np.repeat(list(of), 4))
    truth = np.array([i % 2 if within else of[s] for i, s in enumerate(speakers)])
    examples = Examples(np.zeros((len(truth), 2), np.float32), np.zeros(len(truth), np.int64), speakers, truth)
    watching = Watching()
    auxiliary = Auxiliary(tuple(own.speakers), ("female", "male"), examples)
    run_attack(watching, own, private, labels, auxiliary, permutations=25, seed=1)
    first, *others = [(y, given.examples) for y, given in watching.notes]
    np.testing.assert_array_equal(first[1].attribute, truth)
    permuted = [(y, given) for y, given in others if len(y) == len(labels)]
    assert len(permuted) == 25
    for y, given in permuted:
        assert given.attribute.sum() == truth.sum()
        assert (given.attribute != truth).any()
        new = dict(zip(own.speakers, y.tolist(), strict=True))
        for speaker in of:
            mine = given.attribute[np.array(speakers) == speaker]
            assert sorted(mine) == [0, 0, 1, 1] if within else set(mine) <= {new.get(speaker, mine[0])}
    assert within or any(
        given.attribute[np.array(speakers) == "unseen-0"][0] == 1 for _, given in permuted
    )  # people whose updates were never seen are people too
    # While calibrating, the examples of those who are held out are held out, too.
    for y, given in others:
        if len(y) < len(labels):
            assert len(set(given.speakers)) < len(of)
            assert {"unseen-0", "unseen-1"} <= set(given.speakers)


@pytest.mark.parametrize("attack", [InputReconstruction(), RawLinear(["all"]), LayerNorms()])
def test_the_number_of_permutations_does_not_touch_the_scores(pair, attack):
    own, private, labels = observed(pair)
    auxiliary = Auxiliary(tuple(own.speakers), ("female", "male"))
    few, many = (run_attack(attack, own, private, labels, auxiliary, permutations=k, seed=1) for k in (1, 9))
    np.testing.assert_array_equal(few.scores, many.scores)
    np.testing.assert_array_equal(few.evidence, many.evidence)
    np.testing.assert_allclose(few.permuted[0], many.permuted[0], rtol=1e-9)
    fresh = type(attack)(attack.layers) if hasattr(attack, "layers") else type(attack)()
    fitted = fresh.fit(own.updates, labels, auxiliary)
    np.testing.assert_allclose(few.scores, fitted.decision_function(private.updates), atol=1e-10)


def test_an_attack_derived_from_ours_is_used_as_it_is_written(pair):
    class Reversed(InputReconstruction):
        def decision_function(self, updates):
            return -super().decision_function(updates)

    plain, turned = run(pair), run(pair, [Reversed()])
    names = turned.plain["Reversed"].speaker_scores(), plain.plain["InputReconstruction"].speaker_scores()
    np.testing.assert_allclose(names[0][1], -names[1][1])


def speaker_auc(pair, attack) -> tuple[float, list[float]]:
    """AUC over speakers of the attack and of its permuted versions, by scikit-learn."""
    own, private, labels = observed(pair)
    auxiliary = Auxiliary(tuple(own.speakers), ("female", "male"))
    scores = run_attack(attack, own, private, labels, auxiliary, permutations=9, seed=0)
    names = sorted(set(private.speakers))
    codes = np.array([names.index(s) for s in private.speakers])
    truth = np.zeros(len(names), dtype=bool)
    truth[codes] = np.array(private.values("gender")) == "male"
    observed_auc, *null = (roc_auc_score(truth, np.bincount(codes, row)) for row in [scores.scores, *scores.permuted])
    return observed_auc, null


@pytest.mark.parametrize("make", [InputReconstruction, lambda: RawLinear(["all"])])
def test_where_the_voice_tells_nothing_the_attack_is_at_chance(tmp_path, make):
    values, ranks = [], []
    for seed in range(30):
        victim, labels = federation(tmp_path / f"v{seed}", 100 + seed, effect=0.0, speakers=16, rounds=2, name="v")
        shadow, own = federation(tmp_path / f"s{seed}", 200 + seed, effect=0.0, speakers=16, rounds=2, name="a")
        value, null = speaker_auc((victim, labels, shadow, own), make())
        values.append(value)
        ranks.append(np.mean([n >= value for n in null]))
    # Sixteen speakers give one AUC a spread of .15, so the mean of thirty has one of .03.
    assert abs(np.mean(values) - 0.5) < 0.1
    assert 0.3 < np.mean(ranks) < 0.7


class TestErrors:
    def refused(self, pair, message, attacks=None, **changes):
        with pytest.raises(UserError, match=message):
            run(pair, attacks, **changes)

    def changed(self, labels: Labels, **columns) -> Labels:
        return Labels({c: {**row, **{k: f(c, row) for k, f in columns.items()}} for c, row in labels.rows.items()})

    def test_missing_attribute(self, pair):
        self.refused(pair, "no 'age' in the label file", attribute="age")

    def test_three_values_of_one_side_and_two_of_the_other(self, pair):
        three = self.changed(pair[1], gender=lambda c, row: "other" if c == "0" else row["gender"])
        self.refused(pair, "is female / male / other for the private clients but female / male", labels=three)

    def test_one_value(self, pair):
        self.refused(pair, "has 1 value", labels=self.changed(pair[1], gender=lambda c, row: "male"))

    def test_other_values_on_the_other_side(self, pair):
        other = self.changed(pair[3], gender=lambda c, row: row["gender"][0])
        self.refused(pair, "female / male for the private clients but f / m", shadow_labels=other)

    def test_unknown_positive(self, pair):
        self.refused(pair, "no value 'woman'; it has: female, male", positive="woman")

    def test_unknown_client(self, pair):
        some = Labels({c: row for c, row in pair[1].rows.items() if c != "3"})
        self.refused(pair, r"victim: the label file does not name 1 .*'3'", labels=some)

    def test_a_speaker_of_two_sexes(self, pair):
        one = self.changed(pair[1], speaker=lambda c, row: "same")
        self.refused(pair, "same", labels=one)

    def test_numbers_that_are_none(self, pair):
        odd = self.changed(pair[1], examples=lambda c, row: "many")
        self.refused(pair, "examples", labels=odd)

    def test_a_speaker_on_both_sides(self, pair):
        same = self.changed(pair[3], speaker=lambda c, row: "v" + c)
        self.refused(pair, "stand on both sides, such as 'v0'", shadow_labels=same)

    @pytest.mark.parametrize("attack", [InputReconstruction(), RawLinear()])
    def test_a_shadow_of_another_network(self, pair, tmp_path, attack):
        other, theirs = federation(tmp_path / "other", 5, effect=1.0, name="b", inputs=12)
        self.refused(pair, "0.weight|shape|network", [attack], shadow=other, shadow_labels=theirs)

    def test_no_attack_and_wrong_counts(self, pair):
        victim, labels, shadow, own = pair
        with pytest.raises(UserError, match="at least one"):
            evaluate([], victim, shadow=shadow, labels=labels, shadow_labels=own, attribute="gender")
        self.refused(pair, "2 shadow store", shadow=[shadow, shadow], shadow_labels=own)
        self.refused(pair, "a name for each", names=["a", "b"])

    def test_one_name_for_two_attacks(self, pair):
        self.refused(pair, "name|called", [InputReconstruction(), RawLinear()], names=["a", "a"])

    def test_not_a_store(self, pair, tmp_path):
        self.refused(pair, "not a store", shadow=UpdateStore(tmp_path))

    @pytest.mark.parametrize(
        "answer",
        [
            lambda n: np.full(n, np.nan),
            lambda n: np.append(np.zeros(n - 1), np.inf),
            lambda n: np.zeros(n - 1),
            lambda n: np.zeros((n, 1)),
            lambda n: 0.0,
        ],
    )
    def test_scores_that_are_none(self, pair, answer):
        self.refused(pair, "Fixed.decision_function gave shape .* one finite number a row", [Fixed(answer)])

    def test_scores_that_break_only_under_permuted_labels(self, pair):
        class Late(Watching):
            def decision_function(self, updates):
                return np.full(len(updates), 0.0 if len(self.notes) == 1 else np.nan)

        self.refused(pair, "Late|finite", [Late()])

    def test_what_an_attack_needs_and_cannot_have(self, pair):
        greedy = LayerNorms()
        greedy.needs = frozenset({"updates", "microphones"})
        self.refused(pair, "'LayerNorms' needs microphones", [greedy])

    def test_what_is_no_attack(self, pair):
        self.refused(pair, "needs|attack", [object()])


def test_blind_baselines_compare_like_with_like(pair):
    """One side's file tells recordings, the other's does not: then both sides count as reported, or neither does."""
    victim, labels, shadow, own = pair
    counted = Labels({c: {**row, "examples": "500"} for c, row in labels.rows.items()})
    silent = Labels({c: {k: v for k, v in row.items() if k != "examples"} for c, row in own.rows.items()})
    found = baselines(Observed.of([(shadow, silent)]), Observed.of([(victim, counted)]))
    if "blind-examples" in found:
        mine, theirs = found["blind-examples"]
        np.testing.assert_allclose(theirs, mine[: len(theirs)])


def test_blind_baselines_find_what_is_in_plain_sight(pair):
    _, labels, _, own = pair

    def loud(given: Labels) -> Labels:
        return Labels({c: {**r, "examples": "90" if r["gender"] == "male" else "10"} for c, r in given.rows.items()})

    result = run(pair, labels=loud(labels), shadow_labels=loud(own))
    assert result.blind["blind-examples"].auc().value == 1.0
    (beyond,) = [c for c in result.claims if c.metric == "auc_over_best_blind"]
    assert beyond.conditions["best_blind"] == "blind-examples"
    assert beyond.value <= 0


def test_scores_survive_a_file(tmp_path):
    made = Scores(np.arange(3.0), np.arange(3.0) / 7, 0.25, "on 12 held-out speakers", np.ones((2, 3)))
    made.save(tmp_path / "scores.npz")
    read = Scores.load(tmp_path / "scores.npz")
    for name, value in vars(made).items():
        np.testing.assert_array_equal(getattr(read, name), value)
    assert [p.name for p in tmp_path.iterdir()] == ["scores.npz"]


def test_attacks_by_name_label_and_reference():
    made = make_attacks(
        [
            {"name": "input-reconstruction"},
            {"name": "raw-linear", "layers": ["all"], "label": "deep"},
            {"name": "fl_privacy.attacks.attribute:RawLinear", "C": 2.0},
        ]
    )
    assert [name for name, _ in made] == ["input-reconstruction", "deep", "fl_privacy.attacks.attribute:RawLinear"]
    assert all(isinstance(attack, Attack) for _, attack in made)
    assert made[2][1].C == 2.0


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"name": "nope"}], "nope.*input-reconstruction"),
        ([{"name": "raw-linear", "depth": 3}], "depth"),
        ([{"name": "raw-linear"}, {"name": "raw-linear"}], "two attacks are called raw-linear.*label"),
        ([{"name": "fractions:Fraction"}], "needs fit, decision_function"),
        ([{"name": "raw-linear", "C": "strong"}], "raw-linear"),
        ([{"name": "raw-linear", "label": "../victim"}], "victim"),
        ([{"name": "raw-linear", "label": ".."}], "label"),
    ],
)
def test_attacks_that_cannot_be_made_are_refused(entries, message):
    with pytest.raises(UserError, match=message):
        make_attacks(entries)


def test_evaluate_is_a_public_name():
    assert fl_privacy.evaluate is evaluate


def test_few_speakers_give_few_permutations_and_an_honest_smallest_p(tmp_path):
    """Four shadow speakers, two of each sex: five maps beside the true one, so p cannot be below 1/6."""
    own, theirs = federation(tmp_path / "own", 11, effect=4.0, name="o", speakers=4)
    victim, labels = federation(tmp_path / "victim", 12, effect=4.0, name="v")
    result = evaluate(
        [InputReconstruction()], victim, shadow=own, labels=labels, shadow_labels=theirs, attribute="gender"
    )
    (control,) = [c for c in result.controls if c.control == "permuted-auxiliary-labels"]
    assert control.n_permutations == 5
    assert control.p_value >= 1 / 6


def test_the_private_store_is_no_shadow(pair):
    victim, labels, *_ = pair
    anonymous = Labels({c: {"speaker": c, "gender": row["gender"]} for c, row in labels.rows.items()})
    with pytest.raises(UserError, match="as the private store and as a shadow"):
        run(pair, shadow=victim, labels=anonymous, shadow_labels=anonymous)
