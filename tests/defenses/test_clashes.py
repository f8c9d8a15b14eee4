"""Which combinations are refused, with which reason; and that the others are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fl_privacy.defenses import Defense, check_defenses, make_defenses
from fl_privacy.errors import UserError
from fl_privacy.training.private import DPSGD

LOCAL = {"name": "client-dp", "placement": "client", "clipping_norm": 1.0, "noise_multiplier": 1.0}
CENTRAL = {**LOCAL, "placement": "server"}
UDP = {"name": "udp-published", "epsilon": 5}
TOP, SIGN, QUANTISE = {"name": "top-k", "fraction": 0.1}, {"name": "sign"}, {"name": "quantise", "bits": 4}
FREEZE, UPPER = {"name": "freeze"}, {"name": "share-upper"}
SHARED, OWN = {"name": "adversarial"}, {"name": "adversarial", "head": "local"}


class ByExample(Defense):
    """What dp-sgd is to the others."""

    def private_steps(self, client: Any) -> DPSGD:
        return DPSGD(1.0, 1.0)

    def noise(self, settings: Any, examples: float | None) -> float:
        return 1.0


class Louder(Defense):
    """Somebody's own noise."""

    def update(self, update: dict[str, Any], client: Any) -> dict[str, Any]:
        return {name: u + client.rng.normal(size=u.shape) for name, u in update.items()}

    def noise(self, settings: Any, examples: float | None) -> float:
        return 1.0


DPSGD_LIKE = ByExample()


def made(*entries: dict[str, Any] | Defense) -> list[Defense]:
    return [e if isinstance(e, Defense) else make_defenses([e])[0] for e in entries]


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([DPSGD_LIKE, ByExample()], "both make gradients private example by example"),
        ([DPSGD_LIKE, UDP], "udp-published and dp-sgd both clip and add noise"),
        ([UDP, DPSGD_LIKE], "udp-published and dp-sgd both clip and add noise"),
        ([DPSGD_LIKE, SHARED], "adversarial adds to the loss of a batch, which DP-SGD cannot take apart"),
        ([OWN, DPSGD_LIKE], "adversarial adds to the loss of a batch"),
        ([UDP, LOCAL], "client-dp and udp-published both add noise"),
        ([CENTRAL, UDP], "client-dp and udp-published both add noise"),
        ([LOCAL, CENTRAL], "client-dp is named twice"),
        ([SIGN, QUANTISE], "sign and quantise both replace"),
        ([QUANTISE, SIGN], "sign and quantise both replace"),
        ([TOP, TOP], "top-k is named twice"),
        ([SHARED, OWN], "adversarial is named twice"),
        ([FREEZE, UPPER], "name the same layer (fc1.bias, fc1.weight)"),
        ([{**UPPER, "layers": ["fc2"]}, {**FREEZE, "layers": ["second", "fc3"]}], "name the same layer"),
        ([FREEZE, LOCAL], "freeze goes behind client-dp, which adds noise"),
        ([FREEZE, UDP], "freeze goes behind udp-published, which adds noise"),
        ([FREEZE, Louder()], "freeze goes behind Louder, which adds noise"),
        ([CENTRAL, FREEZE], "Flower's wrapper adds noise to every array"),
        ([TOP, UPPER], "share-upper goes before top-k"),
        ([LOCAL, UPPER], "share-upper goes before client-dp"),
        ([SIGN, UDP], "udp-published goes before sign"),
        ([SHARED, {**FREEZE, "layers": ["last"]}], "freeze: with a shared adversary's head"),
        ([{**UPPER, "layers": ["last"]}, SHARED], "share-upper: with a shared adversary's head"),
    ],
)
@pytest.mark.parametrize("algorithm", ["fedsgd", "fedavg"])
def test_what_makes_no_sense_is_refused_with_the_reason(entries, reason, algorithm):
    with pytest.raises(UserError) as refused:
        check_defenses(made(*entries), algorithm, "step")
    assert str(refused.value).startswith("defenses: ")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [LOCAL],
        [DPSGD_LIKE, LOCAL],
        [TOP, LOCAL],
        [LOCAL, TOP, SIGN],
        [LOCAL, QUANTISE],
        [LOCAL, FREEZE],
        [UDP, FREEZE, TOP],
        [UPPER, UDP],
        [UPPER, LOCAL],
        [UPPER, {**FREEZE, "layers": ["fc2"]}],
        [SHARED, LOCAL],
        [OWN, FREEZE, SIGN],
        [OWN, {**FREEZE, "layers": ["last"]}],
        [FREEZE, TOP, DPSGD_LIKE],
        [CENTRAL, UPPER],
        [CENTRAL, TOP],
        [Defense(), Defense()],
    ],
)
def test_what_goes_together_is_let_through(entries):
    for algorithm, reply in (("fedavg", "gradient"), ("fedsgd", "step")):
        check_defenses(made(*entries), algorithm, reply)


def test_gradients_do_not_go_under_flowers_wrapper():
    with pytest.raises(UserError, match="reply = 'step', or placement 'client'"):
        check_defenses(made(CENTRAL), "fedsgd", "gradient")
    check_defenses(made(LOCAL), "fedsgd", "gradient")
    check_defenses(made(CENTRAL), "fedavg", "gradient")


@pytest.mark.parametrize("entry", [LOCAL, CENTRAL])
def test_delta_is_below_one_over_the_clients(entry):
    check_defenses(made({**entry, "delta": 0.04}), "fedavg", clients=24)
    with pytest.raises(UserError, match=r"delta = 0.05 is not below 1 / 20 clients"):
        check_defenses(made({**entry, "delta": 0.05}), "fedavg", clients=20)


def test_layers_are_told_by_the_models_own_shapes():
    shapes = {"encoder.weight": (4, 3), "encoder.bias": (4,), "out.weight": (2, 4)}
    defenses = made({**UPPER, "layers": ["first"]}, {**FREEZE, "layers": ["encoder"]})
    with pytest.raises(UserError, match="encoder.bias, encoder.weight"):
        check_defenses(defenses, "fedavg", shapes=shapes)
    with pytest.raises(UserError, match="no layer 'encoder'"):
        check_defenses(defenses, "fedavg")


def test_looking_at_layers_draws_no_random_number():
    import torch

    torch.manual_seed(1)
    check_defenses(made(UPPER, {**FREEZE, "layers": ["fc2"]}), "fedavg")
    drawn = torch.rand(())
    torch.manual_seed(1)
    assert drawn == torch.rand(())
    assert np.isfinite(float(drawn))
