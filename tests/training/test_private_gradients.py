"""Clipped sums and noise against Opacus' own, and against gradients that are taken one example at a time."""

from __future__ import annotations

import copy
import doctest
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import PrivacyEngine
from scipy import stats
from torch import nn
from torch.nn import functional

from fl_privacy.errors import UserError
from fl_privacy.models.ser import SERNet
from fl_privacy.training import private
from fl_privacy.training.flat import Flat
from fl_privacy.training.local_model import LocalModel
from fl_privacy.training.losses import LOSSES, Loss, aam_softmax, private_loss
from fl_privacy.training.participation import ClientSettings
from fl_privacy.training.private import (
    DPSGD,
    PrivateGradients,
    check,
    poisson,
    private_gradient,
    replaced,
    sample_rate,
    steps_of,
    train_privately,
)

ENGINES = ("auto", "hooks", "ghost")
FEATURES, CLASSES = 12, 4


def problem(n: int, inputs: int = FEATURES, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, inputs, generator=generator), torch.randint(CLASSES, (n,), generator=generator)


def ser_network(dropout: float = 0.0, inputs: int = FEATURES) -> SERNet:
    torch.manual_seed(1)
    network = SERNet(inputs, CLASSES, dropout)
    network.dropout2.p = dropout
    return network


def flat_of(network: nn.Module) -> Flat:
    flat = Flat({name: tuple(p.shape) for name, p in network.named_parameters()})
    flat.fill({name: p.detach().numpy() for name, p in network.named_parameters()})
    return flat


def one_by_one(network, inputs, targets, norm, expected, by_example=None):
    """The definition, an example at a time; dropout must be off."""
    by_example = by_example or (lambda out, y: functional.cross_entropy(out, y, reduction="none"))
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p) for name, p in named.items()}
    network.train()
    for x, y in zip(inputs.split(1), targets.split(1), strict=True):
        gradient = torch.autograd.grad(by_example(network(x), y).sum(), list(named.values()), allow_unused=True)
        gradient = [torch.zeros_like(p) if g is None else g for g, p in zip(gradient, named.values(), strict=True)]
        scale = min(1.0, norm / float(torch.cat([g.flatten() for g in gradient]).norm()))
        for name, g in zip(named, gradient, strict=True):
            sums[name] += scale * g / expected
    return sums


def local_gradient(model, features, labels, batch_size, dpsgd, seed=0, hook=None):
    out = Flat(model.shapes)
    out.whole.fill_(math.nan)
    torch.manual_seed(3)
    start = flat_of(model.network)
    examples = model.private_gradient(
        start, features, labels, batch_size, dpsgd, np.random.default_rng(seed), hook, out
    )
    return {name: tensor.clone() for name, tensor in out.tensors.items()}, examples


def assert_equal(found, expected, atol=1e-6):
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient.detach(), rtol=1e-5, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


def opacus_step(network, inputs, targets, norm, ghost):
    """The gradient that Opacus' own optimiser steps along, without noise."""
    mine = copy.deepcopy(network).train()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, targets), batch_size=len(inputs))
    kind = {"grad_sample_mode": "ghost", "criterion": nn.CrossEntropyLoss()} if ghost else {}
    made = PrivacyEngine().make_private(
        module=mine,
        optimizer=torch.optim.SGD(mine.parameters(), lr=1.0),
        data_loader=loader,
        noise_multiplier=0.0,
        max_grad_norm=norm,
        poisson_sampling=False,
        **kind,
    )
    module, optimiser, criterion = made[0], made[1], made[2] if ghost else nn.CrossEntropyLoss()
    torch.manual_seed(3)
    criterion(module(inputs), targets).backward()
    optimiser.step()
    return {name: p - q for (name, p), q in zip(network.named_parameters(), mine.parameters(), strict=True)}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("engine", [*ENGINES, "bookkeeping"])
@pytest.mark.parametrize("ghost", [False, True])
def test_without_noise_it_is_the_gradient_of_opacus(engine, ghost, dropout):
    network, (features, labels) = ser_network(dropout), problem(20)
    theirs = opacus_step(network, features, labels, 0.7, ghost)
    model = LocalModel(network)
    if engine == "bookkeeping":
        model._steps = None
    dpsgd = DPSGD(0.7, 0.0, "auto" if engine == "bookkeeping" else engine)
    # All examples, in order, and the same dropout: masks are drawn layer by layer from the same generator.
    found, examples = local_gradient(model, features, labels, 20, dpsgd)
    assert examples == 20
    assert_equal(found, theirs)


@settings(max_examples=25, deadline=None)
@given(
    inputs=st.sampled_from([1, 12, 988]),
    n=st.integers(1, 25),
    norm=st.sampled_from([1e-3, 0.5, 2.0, 1e6]),
    engine=st.sampled_from(ENGINES),
)
def test_each_examples_gradient_is_clipped_by_itself(inputs, n, norm, engine):
    network, (features, labels) = ser_network(0.0, inputs), problem(n, inputs)
    found, _ = local_gradient(LocalModel(network), features, labels, n, DPSGD(norm, 0.0, engine))
    expected = one_by_one(network, features, labels, norm, n)
    assert_equal(found, expected, atol=1e-6 * max(1.0, max(float(g.abs().max()) for g in expected.values())))
    if norm == 1e6:  # nothing is clipped: it is the plain gradient
        network.train()
        plain = torch.autograd.grad(functional.cross_entropy(network(features), labels), list(network.parameters()))
        assert_equal(found, dict(zip(found, plain, strict=True)))


class Frames(nn.Module):
    """Applies its layers to frames, one of them twice, changes values in place, and has no bias in one."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.again = nn.Linear(3, 6, bias=False), nn.Linear(6, 6)
        self.out = nn.Linear(6, CLASSES)
        self.fixed = nn.Linear(6, 6).requires_grad_(False)

    def forward(self, x):
        hidden = self.up(x).tanh_()
        hidden = self.again(hidden).sigmoid_() + hidden
        return self.out(self.fixed(self.again(hidden))).mean(1)


@pytest.mark.parametrize("frames", [1, 2, 30])
def test_layers_that_are_applied_to_many_frames_and_often(frames):
    torch.manual_seed(0)
    network, inputs, targets = Frames(), torch.randn(5, frames, 3), torch.randint(CLASSES, (5,))
    before = {name: p.clone() for name, p in network.named_parameters()}
    with PrivateGradients(network, "cross-entropy", DPSGD(0.3, 0.0)) as gradients:
        found = gradients(inputs, targets, rng=np.random.default_rng(0), expected=5.0)
        again = gradients(inputs[:2], targets[:2], rng=np.random.default_rng(0), expected=2.0)
    assert_equal(found, one_by_one(network, inputs, targets, 0.3, 5.0))
    assert_equal(again, one_by_one(network, inputs[:2], targets[:2], 0.3, 2.0))
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


class Speech(nn.Module):
    """Convolutions and a norm: nothing that our own pass could take."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv1d(3, 4, 3), nn.GroupNorm(2, 4), nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.out(torch.relu(self.norm(self.conv(x))).mean(2))


@pytest.mark.parametrize("engine", ENGINES)
def test_other_layers_go_through_opacus_which_is_taken_off_again(engine):
    torch.manual_seed(0)
    network, inputs, targets = Speech(), torch.randn(6, 3, 9), torch.randint(CLASSES, (6,))
    expected = one_by_one(network, inputs, targets, 0.2, 6.0)
    for _ in range(2):
        rng = np.random.default_rng(0)
        found = private_gradient(
            network, "cross-entropy", inputs, targets, DPSGD(0.2, 0.0, engine), rng=rng, expected=6
        )
        assert_equal(found, expected)
    assert not any(vars(m).get("_forward_hooks") or vars(m).get("_backward_hooks") for m in network.modules())
    assert not any(vars(p) for p in network.parameters())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if not loss.mixes])
def test_every_loss_is_that_of_the_example_alone(loss):
    torch.manual_seed(0)
    outputs = torch.rand(5, 7, 4) * 1.8 - 0.9 if loss in ("tera", "cpc") else torch.rand(5, 4) * 1.8 - 0.9
    targets = torch.rand(5, 7, 4) if loss in ("tera", "cpc") else torch.tensor([0, 1, 2, 3, 1])
    together = private_loss(loss)(outputs, targets)
    alone = [private_loss(loss)(outputs[i : i + 1], targets[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert (together > 0).all()


def test_the_margin_is_added_to_the_angle_of_the_true_class():
    cosines = torch.cos(torch.tensor([[0.5, 1.0, 2.0]]))
    shifted = 30 * torch.cos(torch.tensor([[0.5 + 0.2, 1.0, 2.0]]))
    expected = functional.cross_entropy(shifted, torch.tensor([0]))
    torch.testing.assert_close(aam_softmax(0.2, 30.0)(cosines, torch.tensor([0]))[0], expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_noise_is_gaussian_of_the_stated_scale(engine):
    network, (features, labels) = ser_network(inputs=988), problem(30, 988)
    model = LocalModel(network)
    clean, _ = local_gradient(model, features, labels, 10, DPSGD(0.8, 0.0, engine))
    found, examples = local_gradient(model, features, labels, 10, DPSGD(0.8, 1.5, engine))
    noise = torch.cat([(found[name] - clean[name]).flatten() for name in clean]).double().numpy()
    assert examples == 10
    assert stats.kstest(noise, "norm", args=(0, 1.5 * 0.8 / 10)).pvalue > 1e-3
    assert noise.std() == pytest.approx(1.5 * 0.8 / 10, rel=0.01)


def test_noise_is_that_of_the_clients_generator_and_never_the_same_twice():
    network, (features, labels) = ser_network(), problem(30)
    model, dpsgd = LocalModel(network), DPSGD(1e-6, 1e6)  # as good as noise alone
    drawn = [
        local_gradient(model, features, labels, 10, dpsgd, seed)[0]["fc1.weight"].flatten() for seed in (0, 0, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    for one, other in ((0, 2), (0, 3), (2, 3)):
        assert abs(np.corrcoef(drawn[one], drawn[other])[0, 1]) < 5 / math.sqrt(len(drawn[0]))
    rng = np.random.default_rng(0)
    in_a_row = [
        private_gradient(network, "cross-entropy", features, labels, dpsgd, rng=rng, expected=10.0)["fc1.weight"]
        for _ in range(2)
    ]
    assert abs(np.corrcoef(*(g.flatten() for g in in_a_row))[0, 1]) < 5 / math.sqrt(len(drawn[0]))


@pytest.mark.parametrize("engine", ENGINES)
def test_an_empty_batch_is_noise_alone(engine):
    network, (features, labels) = ser_network(), problem(3)

    class Never(np.random.Generator):
        def random(self, *args, **kwargs):
            return np.ones(3)  # nobody is drawn

    out, rng = Flat(LocalModel(network).shapes), Never(np.random.PCG64(0))
    args = flat_of(network), features, labels, 1
    assert LocalModel(network).private_gradient(*args, DPSGD(2.0, 0.0, engine), rng, None, out) == 1
    assert not out.whole.any()
    LocalModel(network).private_gradient(*args, DPSGD(2.0, 1.0, engine), rng, None, out)
    assert float(torch.cat([t.flatten() for t in out.tensors.values()]).std()) == pytest.approx(2.0, rel=0.05)


def test_each_example_is_drawn_by_itself_with_its_rate():
    rng, rate, n, rounds = np.random.default_rng(0), 0.3, 40, 3000
    drawn = np.zeros((rounds, n))
    for row in drawn:
        row[poisson(rng, n, rate).numpy()] = 1
    assert stats.chisquare(drawn.sum(0), np.full(n, drawn.sum() / n)).pvalue > 1e-3
    # The sizes are binomial: neither fixed, nor of examples that come together.
    assert drawn.sum(1).mean() == pytest.approx(n * rate, abs=4 * math.sqrt(n * rate * 0.7 / rounds))
    assert drawn.sum(1).var() == pytest.approx(n * rate * 0.7, rel=0.15)
    assert sample_rate(40, 20) == 0.5 and sample_rate(7, 20) == 1.0
    assert (steps_of(40, 20, 3), steps_of(41, 20, 1), steps_of(7, 20, 2)) == (6, 3, 2)


@pytest.mark.parametrize("engine", ENGINES)
def test_training_is_adam_along_poisson_batches(engine):
    network, (features, labels) = ser_network(0.0), problem(45)
    settings_ = ClientSettings(0, "fedavg", 20, 5e-4, 2)
    theta, slow = flat_of(network), copy.deepcopy(network)
    seen = []

    def hook(gradient):
        seen.append(gradient)
        return gradient

    model, dpsgd = LocalModel(network), DPSGD(0.5, 0.7, engine)
    examples = model.private_train(theta, features, labels, settings_, dpsgd, np.random.default_rng(4), hook)
    assert examples == 90 and len(seen) == 6
    rng = np.random.default_rng(4)
    optimiser = torch.optim.Adam(slow.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-9, weight_decay=1e-4)
    for gradient in seen:
        batch = poisson(rng, 45, 20 / 45)
        clean = one_by_one(slow, features[batch], labels[batch], 0.5, 20.0)
        noise = {name: torch.empty_like(p, requires_grad=False) for name, p in slow.named_parameters()}
        from fl_privacy.training.private import fill_noise

        fill_noise(rng, 0.7 * 0.5 / 20, noise.values())
        for name, p in slow.named_parameters():
            torch.testing.assert_close(gradient[name], clean[name] + noise[name], rtol=1e-4, atol=1e-6)
            p.grad = gradient[name]
        optimiser.step()
    for name, p in slow.named_parameters():
        torch.testing.assert_close(theta.tensors[name], p.detach(), rtol=1e-6, atol=1e-7)


def test_the_example_in_the_documentation_holds():
    assert doctest.testmod(private).failed == 0


def test_any_module_learns_privately():
    torch.manual_seed(0)
    inputs = torch.randn(300, 2)
    targets = (inputs[:, 0] > 0).long()
    network = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    often = {"rng": np.random.default_rng(0), "batch_size": 50, "epochs": 15}
    steps = train_privately(network, "cross-entropy", inputs, targets, DPSGD(1.0, 1.0), optimiser, **often)
    assert steps == 90
    assert float((network(inputs).argmax(1) == targets).float().mean()) > 0.9


class Normalised(nn.Module):
    def __init__(self, **how) -> None:
        super().__init__()
        self.first, self.norm, self.out = nn.Conv1d(1, 8, 3), nn.BatchNorm1d(8, **how), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.out(self.norm(self.first(x.unsqueeze(1))).relu().mean(2))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("how", [{}, {"affine": False}, {"track_running_stats": False}])
def test_batch_norm_is_refused_before_training(engine, how):
    network = Normalised(**how)
    with pytest.raises(UserError, match=r"norm \(BatchNorm1d\): it normalises each example by the others"):
        check(network, DPSGD(1.0, 1.0, engine))
    with pytest.raises(UserError, match="BatchNorm1d"):
        PrivateGradients(network, "cross-entropy", DPSGD(1.0, 1.0, engine))
    network.norm.requires_grad_(False)
    with pytest.raises(UserError, match="BatchNorm1d"):
        check(network, DPSGD(1.0, 1.0, engine))


def test_layers_are_replaced_when_asked_for():
    with pytest.raises(UserError, match=r"norm \(BatchNorm1d\).*replace_batch_norm=True puts GroupNorm"):
        replaced(Normalised())
    network, (inputs, targets) = Normalised(), problem(6)
    copied, changes = replaced(network, replace_batch_norm=True)
    assert list(changes) == ["norm"] and "GroupNorm" in changes["norm"]
    assert isinstance(network.norm, nn.BatchNorm1d)
    found = private_gradient(
        copied, "cross-entropy", inputs, targets, DPSGD(0.4, 0.0), rng=np.random.default_rng(0), expected=6.0
    )
    assert_equal(found, one_by_one(copied, inputs, targets, 0.4, 6.0))
    with pytest.raises(UserError, match="nothing can be put in the place of"):
        replaced(Normalised(affine=False), replace_batch_norm=True)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.act = nn.LSTM(3, 5, batch_first=True), nn.ReLU(inplace=True)
        self.out = nn.Linear(5, CLASSES)

    def forward(self, x):
        return self.out(self.act(self.lstm(x)[0][:, -1]))


def test_recurrent_layers_become_opacus_own_which_compute_the_same():
    torch.manual_seed(0)
    network, inputs, targets = Recurrent(), torch.randn(4, 6, 3), torch.randint(CLASSES, (4,))
    with pytest.raises(UserError, match=r"lstm \(LSTM\): .*; act \(ReLU\): it overwrites"):
        check(network, DPSGD(1.0, 1.0))
    copied, changes = replaced(network)
    assert set(changes) == {"lstm", "act"}
    torch.testing.assert_close(copied(inputs), network(inputs))
    found = private_gradient(
        copied, "cross-entropy", inputs, targets, DPSGD(0.4, 0.0), rng=np.random.default_rng(0), expected=4.0
    )
    assert_equal(found, one_by_one(copied, inputs, targets, 0.4, 4.0))


class Attending(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first)
        self.time_first = not batch_first
        self.encoder, self.out = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, CLASSES)

    def forward(self, x, **masks):
        encoded = self.encoder(x.transpose(0, 1) if self.time_first else x, **masks)
        return self.out((encoded.transpose(0, 1) if self.time_first else encoded).mean(1))


@pytest.mark.parametrize("engine", ENGINES)
def test_transformers_become_ones_that_can_be_private_and_compute_the_same(engine):
    torch.manual_seed(0)
    network, inputs, targets = Attending(True), torch.randn(4, 6, 8), torch.randint(CLASSES, (4,))
    with pytest.raises(UserError, match=r"encoder.layers.0.self_attn \(MultiheadAttention\)"):
        check(network, DPSGD(1.0, 1.0, engine))
    copied, changes = replaced(network)
    assert {"encoder.layers.0.self_attn", "encoder.layers.1.self_attn"} <= set(changes)
    mask, padding = (
        torch.triu(torch.ones(6, 6, dtype=torch.bool), 1),
        torch.arange(6) > torch.tensor([[2], [3], [4], [5]]),
    )
    for masks in (
        {},
        {"mask": mask},
        {"src_key_padding_mask": padding},
        {"mask": mask, "src_key_padding_mask": padding},
    ):
        for mode in (network.train(), network.eval()):
            copied.train(mode.training)
            torch.testing.assert_close(copied(inputs, **masks), network(inputs, **masks), rtol=1e-4, atol=1e-5)
    rng = np.random.default_rng(0)
    found = private_gradient(copied, "cross-entropy", inputs, targets, DPSGD(0.4, 0.0, engine), rng=rng, expected=4.0)
    assert_equal(found, one_by_one(copied, inputs, targets, 0.4, 4.0))


def test_attention_with_time_first_puts_examples_first_inside():
    torch.manual_seed(0)
    attention, x = nn.MultiheadAttention(8, 2, bias=False), torch.randn(6, 4, 8)
    copied, _ = replaced(attention)
    torch.testing.assert_close(copied(x, x, x)[0], attention(x, x, x)[0])
    with pytest.raises(UserError, match="further keys"):
        replaced(nn.MultiheadAttention(8, 2, add_bias_kv=True))


@pytest.mark.parametrize(
    ("loss", "reason"), [("ge2e", "centroid"), ("contrastive", "other utterances"), ("mse", "unknown")]
)
def test_losses_in_which_examples_meet_are_refused(loss, reason):
    with pytest.raises(UserError, match=reason):
        PrivateGradients(nn.Linear(2, 2), loss, DPSGD(1.0, 1.0))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_loss_that_is_one_number_for_all_is_refused(engine):
    loss = Loss("mean", lambda out, y: functional.cross_entropy(out, y))
    inputs, targets = problem(5)
    with (
        pytest.raises(UserError, match=r"'mean' has the shape \(\)"),
        PrivateGradients(nn.Linear(FEATURES, CLASSES), loss, DPSGD(1.0, 1.0, engine)) as gradients,
    ):
        gradients(inputs, targets, rng=np.random.default_rng(0), expected=5.0)


class Sideways(nn.Module):
    """Uses weights past their layer's call; or puts time first; or overwrites what a layer was given."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first, self.out = how, nn.Linear(FEATURES, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        hidden = torch.sigmoid(self.first(x))
        if self.how == "functional":
            return functional.linear(hidden, functional.normalize(self.out.weight))
        if self.how == "flattened":
            return self.out(hidden.repeat(2, 1))[: len(x)]
        x.mul_(2.0)
        return self.out(hidden)


@pytest.mark.parametrize(
    ("how", "engine", "message"),
    [
        ("functional", "auto", "out.weight is used past"),
        ("functional", "hooks", "out.weight is used past"),
        ("functional", "ghost", "out.weight is used past"),
        ("flattened", "auto", "out is used on 10 rows for 5 examples"),
        ("flattened", "hooks", "out.weight is used on 10 rows for 5 examples"),
        ("flattened", "ghost", "out.weight is used on 10 rows for 5 examples"),
        ("overwritten", "auto", "'first' was given, or gave, is overwritten"),
    ],
)
def test_what_cannot_be_told_apart_by_example_is_refused(how, engine, message):
    inputs, targets = problem(5)
    with (
        pytest.raises(UserError, match=message),
        PrivateGradients(Sideways(how), "cross-entropy", DPSGD(1.0, 1.0, engine)) as gradients,
    ):
        gradients(inputs, targets, rng=np.random.default_rng(0), expected=5.0)


def test_shared_parameters_are_left_to_hooks_and_refused_by_ghost_clipping():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.Tanh(), nn.Linear(FEATURES, FEATURES))
    network[2].weight = network[0].weight
    inputs, targets = problem(5)
    found = private_gradient(
        network, "cross-entropy", inputs, targets, DPSGD(0.2, 0.0), rng=np.random.default_rng(0), expected=5.0
    )
    assert_equal(found, one_by_one(network, inputs, targets, 0.2, 5.0))
    with pytest.raises(UserError, match="layers share parameters"):
        check(network, DPSGD(1.0, 1.0, "ghost"))


def test_nothing_to_train_and_nobody_to_train_on_are_refused():
    with pytest.raises(UserError, match="no parameter to train"):
        check(nn.Linear(2, 2).requires_grad_(False), DPSGD(1.0, 1.0))
    with pytest.raises(UserError, match="DP-SGD with 0 examples"):
        sample_rate(0, 20)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ((0.0, 1.0), "clipping_norm is 0"),
        ((math.inf, 1.0), "clipping_norm is inf"),
        ((math.nan, 1.0), "clipping_norm is nan"),
        ((1.0, -0.1), "noise_multiplier is -0.1"),
        ((1.0, math.nan), "noise_multiplier is nan"),
        ((1.0, 1.0, "fast"), "engine is 'fast'. Known: auto, hooks, ghost"),
    ],
)
def test_impossible_settings_are_refused(settings_, message):
    with pytest.raises(UserError, match=message):
        DPSGD(*settings_)
