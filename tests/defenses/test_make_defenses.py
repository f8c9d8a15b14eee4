from __future__ import annotations

import numpy as np
import pytest

from fl_privacy.defenses import Defense, make_defenses
from fl_privacy.errors import UserError


def test_hooks_are_the_identity_unless_overridden():
    defense, rng = Defense(), np.random.default_rng(0)
    before = rng.bit_generator.state
    thing = {"w": np.ones(2)}
    assert defense.update(thing, None) is thing
    assert defense.gradient(thing, None) is thing
    assert defense.model(thing) is thing
    assert defense.strategy(thing) is thing
    assert rng.bit_generator.state == before


def test_ones_own_defense_is_made_by_reference():
    (made,) = make_defenses([{"name": "fl_privacy.defenses.base:Defense"}])
    assert isinstance(made, Defense)
    assert make_defenses([]) == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "nope"}, "defense 'nope'"),
        ({"name": "no_such_module:X"}, "no_such_module"),
        ({"name": "fl_privacy.defenses.base:Nope"}, "Nope"),
        ({"name": "fl_privacy.defenses.base:Defense", "sigma": 1}, "Defense.*takes no arguments"),
        ({"name": "fractions:Fraction"}, "is a Fraction, not a Defense"),
        ({"name": ":Defense"}, "':Defense'"),
    ],
)
def test_a_defense_that_cannot_be_made_is_a_users_error(entry, message):
    with pytest.raises(UserError, match=message):
        make_defenses([entry])
