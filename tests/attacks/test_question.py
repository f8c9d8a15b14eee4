"""What is asked, and what is refused because nothing could be told."""

from __future__ import annotations

import numpy as np
import pytest

from fl_privacy.attacks import Auxiliary
from fl_privacy.attacks.attribute import InputReconstruction, RawLinear
from fl_privacy.attacks.base import Examples, LinearAttack
from fl_privacy.attacks.observed import Observed
from fl_privacy.attacks.question import Question, check_values
from fl_privacy.attacks.score import check_needs, run_attack
from fl_privacy.audit import Audit, MulticlassAudit, NumericAudit
from fl_privacy.errors import UserError
from fl_privacy.updates import Update


def side(name: str, values: list[str], column: str = "a", shape: tuple[int, int] = (3, 2), seed: int = 0) -> Observed:
    """Two updates of each speaker, of one dense layer."""
    rng = np.random.default_rng([seed, len(name)])
    updates, rows = [], []
    for number in (1, 2):
        for client, value in enumerate(values):
            arrays = {"fc.weight": rng.normal(size=shape), "fc.bias": rng.normal(size=shape[0])}
            sent = {n: array.astype(np.float32) for n, array in arrays.items()}
            updates.append(Update(number, str(client), "gradient", 5.0, sent, sent=sent))
            rows.append({"speaker": f"{name}{client}", column: value})
    return Observed(tuple(updates), tuple(rows))


def test_of_two_values_the_positive_one_is_class_one():
    own, private = side("o", ["x", "y", "x"]), side("p", ["y", "x"])
    assert Question.ask(own, private, "a").classes == ("x", "y")
    asked = Question.ask(own, private, "a", "x")
    assert asked.classes == ("y", "x")
    np.testing.assert_array_equal(asked.labels(own), [1, 0, 1] * 2)
    assert asked.auxiliary.speakers == ("o0", "o1", "o2") * 2
    assert isinstance(asked.audit(np.arange(4.0), "s", 0.95), Audit)
    assert asked.audit(np.arange(4.0), "s", 0.95).positive == "x"  # type: ignore[attr-defined]


def test_the_audit_is_of_the_kind_that_is_asked():
    three = ["x", "y", "z"]
    asked = Question.ask(side("o", three), side("p", three), "a")
    audit = asked.audit(np.eye(3)[[0, 1, 2] * 2], "s", 0.95)
    assert isinstance(audit, MulticlassAudit)
    assert audit.accuracy().value == 1
    ages = ["31", "44.5", "60"]
    asked = Question.ask(side("o", ages), side("p", ages), "a", numeric=True)
    assert asked.classes == ()
    np.testing.assert_array_equal(asked.labels(asked.private), [31, 44.5, 60] * 2)
    found = asked.audit(np.array([31, 44.5, 60] * 2), "s", 0.95)
    assert isinstance(found, NumericAudit)
    assert found.mean_absolute_error().value == 0


@pytest.mark.parametrize(
    ("own", "private", "how", "message"),
    [
        (["x", "y"], ["x", "x"], {}, r"'a' of the private clients has 1 value\(s\) \(x\)"),
        (["x", "y"], ["x", "z"], {}, "x / z for the private clients but x / y for the attacker's own"),
        (["x", "y"], ["x", "y"], {"positive": "Y"}, "no value 'Y'; it has: x, y"),
        (["x", "y", "z"], ["x", "y", "z"], {"positive": "y"}, "3 values: none of them is the positive one"),
        (["30", "y"], ["30", "40"], {"numeric": True}, "'a' must hold numbers, not 'y'"),
        (["30", "40"], ["30", "nan"], {"numeric": True}, "'a' must hold numbers, not 'nan'"),
        (["30", "40"], ["inf", "30"], {"numeric": True}, "'a' must hold numbers, not 'inf'"),
        (["30", "40"], ["30", "40"], {"numeric": True, "positive": "30"}, "a number: it has no positive value"),
        (["30", "30.0"], ["30", "40"], {"numeric": True}, r"the same for all of the attacker's own \(30\)"),
    ],
)
def test_values_that_nothing_can_be_told_of(own, private, how, message):
    with pytest.raises(UserError, match=message):
        check_values(own, private, "a", **how)
    with pytest.raises(UserError, match=message):
        Question.ask(side("o", own), side("p", private), "a", **how)


@pytest.mark.parametrize("numeric", [False, True])
def test_a_column_that_is_not_there_is_named(numeric):
    own, private = side("o", ["1", "2"]), side("p", ["1", "2"])
    with pytest.raises(UserError, match=r"no 'age' in the label file for client\(s\) 0, 1"):
        Question.ask(own, private, "age", numeric=numeric)


def test_the_same_people_and_other_networks_are_refused():
    own, private = side("o", ["x", "y"]), side("p", ["x", "y"])
    with pytest.raises(UserError, match="stand on both sides, such as 'o0'"):
        Question.ask(own, own, "a")
    with pytest.raises(UserError, match=r"the shape of 'fc\.weight' is \(3, 4\) there, \(3, 2\) here"):
        Question.ask(side("o", ["x", "y"], shape=(3, 4)), private, "a")
    speakers = [{**row, "speaker": row["speaker"]} for row in own.rows]
    again = Observed(own.updates, tuple(speakers))
    assert Question.ask(again, own, "speaker").classes == ("o0", "o1")


def examples(values: list[str]) -> Examples:
    n = len(values)
    return Examples(
        np.zeros((n, 2), np.float32), np.zeros(n, np.int64), tuple(f"o{i}" for i in range(n)), np.array(values)
    )


def test_examples_get_the_classes_of_the_question_and_others_are_left_out():
    own, private = side("o", ["x", "y"]), side("p", ["x", "y"])
    asked = Question.ask(own, private, "a", "x", examples=examples(["x", "w", "y"]))
    given = asked.auxiliary.examples
    assert given is not None
    np.testing.assert_array_equal(given.attribute, [1, 0])
    assert given.speakers == ("o0", "o2")
    own, private = side("o", ["1", "2"]), side("p", ["1", "2"])
    with pytest.raises(UserError, match="must hold numbers, not 'w'"):
        Question.ask(own, private, "a", numeric=True, examples=examples(["1", "w"]))
    number = Question.ask(own, private, "a", numeric=True, examples=examples(["1", "2.5"])).auxiliary.examples
    assert number is not None
    np.testing.assert_array_equal(number.attribute, [1, 2.5])


def test_what_is_supplied():
    own, private = side("o", ["x", "y"]), side("p", ["x", "y"])
    assert Question.ask(own, private, "a").supplies == {"updates", "sent"}
    from dataclasses import replace

    blind = Observed(tuple(replace(u, sent={}) for u in private.updates), private.rows)
    asked = Question.ask(own, blind, "a", examples=examples(["x"]), gradient=lambda *_: {})
    assert asked.supplies == {"updates", "examples", "gradient"}


def test_an_attack_that_cannot_tell_a_number_is_refused_and_one_of_ones_own_needs_predict():
    class Own:
        needs = frozenset({"updates"})

        def fit(self, updates, labels, auxiliary):
            self.mean_ = labels.mean()
            return self

        def decision_function(self, updates):
            raise AssertionError("not for a number")

    class Predicting(Own):
        def predict(self, updates):
            return self.mean_ + np.arange(len(updates))

    with pytest.raises(UserError, match=r"'mine' cannot tell a number \(age\): it needs predict"):
        check_needs("mine", Own(), numeric=True, attribute="age")
    with pytest.raises(UserError, match="cannot tell a number"):
        check_needs("mine", RawLinear(classifier="logistic"), numeric=True)
    check_needs("mine", Predicting(), numeric=True)
    check_needs("mine", RawLinear(), numeric=True)
    ages = ["30", "40", "56"]
    asked = Question.ask(side("o", ages), side("p", ages), "a", numeric=True)
    found = run_attack(
        Predicting(), asked.own, asked.private, asked.labels(asked.own), asked.auxiliary, permutations=3, seed=0
    )
    np.testing.assert_array_equal(found.scores, 42 + np.arange(6))
    np.testing.assert_array_equal(found.evidence, found.scores)
    assert found.permuted.shape == (3, 6)


def test_an_update_that_says_nothing_of_a_number_says_the_mean_and_not_zero():
    rng = np.random.default_rng(0)
    x, ages = rng.normal(size=(20, 3)), rng.uniform(20, 70, 20)
    x[:2] = np.nan
    score = LinearAttack(C=1.0).learn(x, np.stack([ages, ages + 1]), Auxiliary(tuple(map(str, range(20))), ()))
    said = score(x)
    np.testing.assert_allclose(said[:, :2], [[ages.mean()] * 2, [ages.mean() + 1] * 2])
    assert np.ptp(said[0, 2:]) > 1


def test_predictions_of_a_derived_attack_are_as_it_decides():
    class Doubled(InputReconstruction):
        def decision_function(self, updates):
            return 2 * super().decision_function(updates)

    ages = ["30", "40", "56", "61"]
    asked = Question.ask(side("o", ages), side("p", ages), "a", numeric=True)
    labels = asked.labels(asked.own)
    once, twice = (
        kind(C=10.0).fit(asked.own.updates, labels, asked.auxiliary).predict(asked.private.updates)
        for kind in (InputReconstruction, Doubled)
    )
    np.testing.assert_allclose(twice, 2 * once)
