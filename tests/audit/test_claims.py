from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_privacy.audit import Claim, Control, Estimate, Privacy
from fl_privacy.errors import UserError

FIELDS = [
    "attack",
    "primary",
    "target",
    "algorithm",
    "attribute",
    "unit",
    "metric",
    "value",
    "low",
    "high",
    "confidence",
    "n_positive",
    "n_negative",
    "n_speakers",
    "attacker",
    "defense",
    "protocol",
    "seeds",
    "conditions",
    "reason",
]


def claim(**changes):
    return Claim(**{"attack": "x-hat", "unit": "speaker", "metric": "auc", "value": 0.7, **changes})


def test_fields_are_those_of_the_result_file():
    assert list(claim().to_dict()) == FIELDS
    control = Control(attack="x-hat", unit="speaker", metric="auc", value=0.5, control="permutation", of="x-hat")
    assert set(control.to_dict()) == {*FIELDS, "control", "of", "n_permutations", "p_value", "observed"}
    privacy = Privacy(unit="client", mechanism="dp-sgd", protects_from="server")
    assert set(privacy.to_dict()) == {
        "unit",
        "mechanism",
        "protects_from",
        "epsilon_accountant",
        "epsilon_lower_bound",
        "delta",
        "method",
        "confidence",
        "canaries",
        "conditions",
        "note",
    }


@given(
    value=st.none() | st.floats(),
    low=st.none() | st.floats(),
    conditions=st.dictionaries(st.text(max_size=5), st.floats() | st.text(max_size=5) | st.lists(st.floats())),
)
def test_what_is_written_is_json_without_nan(value, low, conditions):
    row = claim(value=value, low=low, conditions=conditions).to_dict()
    text = json.dumps(row, allow_nan=False)
    assert (row["value"] is None) <= (row["reason"] is not None)
    assert Claim.from_dict(json.loads(text)).to_dict() == row


def test_nan_becomes_null_with_a_reason():
    row = claim(value=float("nan")).to_dict()
    assert row["value"] is None
    assert "value" in row["reason"]
    assert claim(value=float("nan"), reason="one class only").reason == "one class only"


def test_numpy_values_and_infinite_settings_can_be_written():
    row = claim(
        value=np.float64(0.5), n_positive=np.int64(3), conditions={"epsilon": float("inf"), "lr": np.float32(1)}
    )
    assert json.loads(json.dumps(row.to_dict(), allow_nan=False))["conditions"] == {"epsilon": "inf", "lr": 1.0}
    with pytest.raises(UserError, match="object"):
        claim(conditions={"x": object()}).to_dict()


def test_round_trip():
    control = Control(
        attack="x-hat",
        unit="speaker",
        metric="auc",
        value=0.5,
        control="permutation",
        of="x-hat",
        n_permutations=99,
        p_value=0.01,
        seeds=(1, 2),
    )
    assert Control.from_dict(json.loads(json.dumps(control.to_dict()))) == control
    assert control.smallest_p_value == 0.01
    privacy = Privacy(unit="client", mechanism="none", protects_from="server", epsilon_accountant=float("inf"))
    assert privacy.epsilon_accountant is None
    assert Privacy.from_dict(privacy.to_dict()) == privacy


def test_other_fields_are_named():
    row = claim().to_dict()
    with pytest.raises(UserError, match="unknown: colour"):
        Claim.from_dict({**row, "colour": "red"})
    del row["unit"]
    with pytest.raises(UserError, match="missing: unit"):
        Claim.from_dict(row)


def test_estimates_read_well():
    assert str(Estimate(0.5, 0.25, 0.75, 0.95, 3, 3, 6)) == "0.500 [0.250, 0.750]"
    assert str(Estimate(0.5, None, None, 0.95, 1, 3, 4, "too few")) == "0.500 (no interval)"
    assert str(Estimate(None, None, None, 0.95, 1, 3, 4, "too few")) == "unresolved"
