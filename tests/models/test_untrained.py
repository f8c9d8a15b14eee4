"""Encoders of one's own, started anew: every weight is drawn, or it is said why not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fl_privacy.errors import UserError
from fl_privacy.models.frame_encoder import FrameEncoder

WAVE = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)


class Net(nn.Module):
    """Convolution, normalisation and attention, trained to weights that no fresh layer has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 8, 400, 160)
        self.norm = nn.LayerNorm(8)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        for tensor in self.parameters():
            nn.init.constant_(tensor, 7.0)
        self.eval()

    def forward(self, wave: np.ndarray) -> torch.Tensor:
        x = self.norm(self.conv(torch.from_numpy(wave)[None, None])[0].T)
        return self.attend(x, x, x, need_weights=False)[0]

    def frames(self, wave: np.ndarray) -> torch.Tensor:
        return 2.0 * self(wave)


@pytest.mark.parametrize("method", [False, True])
def test_a_module_or_its_method_starts_anew_by_seed(method: bool) -> None:
    net = Net()
    encoder = FrameEncoder.of_callable(net.frames if method else net, name="own")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    one, again, other = encoder.untrained(1), encoder.untrained(1), encoder.untrained(2)
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(one(WAVE), again(WAVE))
    assert np.ptp(one(WAVE)) > 0 and not np.allclose(one(WAVE), other(WAVE))
    assert one(WAVE).shape == encoder(WAVE).shape and one.name == "own, untrained"
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items()), "the target stays"
    assert encoder.queries == 2, "what another network is asked is none of the target's queries"


def test_a_function_names_its_untrained_kind() -> None:
    def frames(wave: np.ndarray) -> np.ndarray:
        return wave[:400].reshape(-1, 4) + 1.0

    def fresh(seed: int):
        return lambda wave: wave[:400].reshape(-1, 4) * seed

    encoder = FrameEncoder.of_callable(frames, name="own")
    with pytest.raises(UserError, match="own: there is no network of its kind .* no torch module and has no attribute"):
        encoder.untrained(0)
    frames.untrained = fresh  # type: ignore[attr-defined]
    np.testing.assert_allclose(encoder.untrained(3)(WAVE), 3 * WAVE[:400].reshape(-1, 4))
    frames.untrained = lambda seed: seed  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"its untrained\(3\) is a int, no function of a wave"):
        encoder.untrained(3)


def test_an_encoder_that_was_made_by_hand_takes_a_function_of_a_seed() -> None:
    def read(wave: np.ndarray, count: int) -> list[np.ndarray]:
        return [wave[:400].reshape(-1, 4)]

    with pytest.raises(UserError, match="was made without `untrained`"):
        FrameEncoder(read, name="own", dim=4, hop=4).untrained(0)
    made = FrameEncoder(read, name="other", dim=4, hop=4)
    assert FrameEncoder(read, name="own", dim=4, hop=4, untrained=lambda seed: made).untrained(0) is made


class Scaled(nn.Module):
    """A weight that belongs to no layer of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(4, 4), nn.Parameter(torch.tensor(3.0))

    def forward(self, wave: np.ndarray) -> torch.Tensor:
        return self.scale * self.layer(torch.from_numpy(wave[:400].reshape(-1, 4)))


def test_weights_that_would_stay_trained_are_no_control() -> None:
    with pytest.raises(UserError, match="scale keeps its weights, for want of a reset_parameters"):
        FrameEncoder.of_callable(Scaled(), name="own").untrained(0)
    net = Net()
    nn.init.normal_(net.conv.weight)
    net.conv = nn.utils.parametrizations.weight_norm(net.conv)
    with pytest.raises(UserError, match=r"conv\.parametrizations.* keeps its weights"):
        FrameEncoder.of_callable(net, name="own").untrained(0)
    net = Net()
    nn.init.normal_(net.conv.weight)
    net.conv.reset_parameters = lambda: None  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"conv\.weight keeps its weights"):
        FrameEncoder.of_callable(net, name="own").untrained(0)
