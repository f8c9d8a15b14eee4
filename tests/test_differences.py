"""In what two simulations differ, as it is told to somebody who named a folder that holds another run."""

from __future__ import annotations

import copy

import pytest

from fl_privacy.config import load_any
from fl_privacy.config.differences import differences, in_lines


def told(there, here):
    return [str(found) for found in differences(there, here)]


def test_only_what_differs_is_named_by_the_key_that_sets_it():
    there = {"simulation": {"seed": 1, "kind": "x"}, "audit": {"confidence": 0.9}}
    here = {"simulation": {"seed": 2, "kind": "x"}, "capture": {"every": 3}}
    assert told(there, here) == [
        "simulation.seed: there 1, here 2",
        "capture.every: there nothing, here 3",
        "audit.confidence: there 0.9, here nothing",
    ]
    assert told(here, here) == []
    assert told({"a": 1}, {"a": 1.0}) == ["a: there 1, here 1.0"]  # as the file holds them


@pytest.mark.parametrize("preset", ["federated-ser", "speaker-membership", "speaker-inversion"])
def test_one_attack_more_is_one_difference(preset):
    there = load_any(preset).resolved()
    here = copy.deepcopy(there)
    first = here["attack"].pop(0)
    assert told(there, here) == [f'attack: there also "{first["name"]}", here no more']
    here["attack"][0]["clean"] = "other"
    assert [found.key for found in differences(there, here)] == ["attack", f"attack.{here['attack'][0]['name']}.clean"]


def test_lists_are_compared_by_element():
    starts = ["laplace", "gumbel", "white", "brown"]
    assert told({"a": starts}, {"a": [*starts[1:], "speech"]}) == ['a: there also "laplace", here also "speech"']
    assert told({"a": [1, 2]}, {"a": [3]}) == ["a: there [1, 2], here [3]"]
    assert told({"a": [1, 2]}, {"a": [2, 1]}) == ["a: there [1, 2], here [2, 1]"]


def test_the_key_is_one_that_set_takes():
    there, here = (
        load_any("federated-ser", [f"attack.raw-linear.shadows={kind}"]) for kind in ("federation", "matched")
    )
    (found,) = differences(there.resolved(), here.resolved())
    again = load_any("federated-ser", [f"{found.key}={found.here}"])
    assert again.resolved() == here.resolved()


def test_the_order_of_attacks_is_told_once():
    one, two = {"name": "one", "C": 1}, {"name": "two"}
    assert told({"attack": [one, two]}, {"attack": [two, one]}) == ['attack: there ["one", "two"], here ["two", "one"]']
    # Two of a name cannot be told apart by it.
    assert told({"attack": [one, one]}, {"attack": [two]}) == [
        'attack: there [{"C": 1, "name": "one"}, {"C": 1, "name": "one"}], here [{"name": "two"}]'
    ]


def test_long_values_are_cut_to_where_they_differ():
    words = " ".join(str(i) for i in range(100))
    (found,) = differences({"a": words}, {"a": words.replace(" 70 ", " other ")})
    assert len(found.there) <= 60 and len(found.here) <= 60
    assert " 70 " in found.there and " other " in found.here
    assert found.there.startswith("…") and found.there.endswith("…")
    (found,) = differences({"a": "/far/away" * 20 + "/one"}, {"a": "/far/away" * 20 + "/two"})
    assert (found.there[-5:], found.here[-5:]) == ('/one"', '/two"')
    (found,) = differences({"a": words}, {})
    assert (found.there[:6], found.here) == ('"0 1 2', "nothing")


def test_there_are_ten_lines_at_most():
    there, here = ({f"k{i}": value for i in range(14)} for value in (1, 2))
    lines = in_lines(differences(there, here)).splitlines()
    assert lines[9:] == ["  k9: there 1, here 2", "  and 4 more"]
    assert len(in_lines(differences(there, here)[:10]).splitlines()) == 10
