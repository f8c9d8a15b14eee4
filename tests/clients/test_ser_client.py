from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from torch.nn import functional

from fl_privacy import _flower
from fl_privacy.models.ser import SERNet
from fl_privacy.sims.local import LocalGrid
from fl_privacy.training import ClientData, write_federation

INPUTS, CLASSES = 12, ("neutral", "happy", "sad", "angry")
SETTINGS = {
    "seed": 5,
    "algorithm": "fedsgd",
    "batch-size": 7,
    "learning-rate": 1e-3,
    "local-epochs": 1,
    "dropout": 0.3,
    "defenses": "[]",
}


def client_data(seed: int, n: int = 18, spoil: bool = False) -> ClientData:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, INPUTS)).astype(np.float32)
    if spoil:
        features[:, 0] = np.nan
    labels = rng.integers(0, len(CLASSES), n)
    return ClientData(features, labels, features[:5] + 1, labels[:5])


def federation(folder: Path, seeds=(0, 1, 2), spoiled: int | None = None) -> str:
    clients = [client_data(s, spoil=i == spoiled) for i, s in enumerate(seeds)]
    write_federation(folder, clients, CLASSES, np.zeros((0, INPUTS), np.float32), np.zeros(0, np.int64))
    return str(folder)


def start() -> dict[str, torch.Tensor]:
    torch.manual_seed(99)
    return {k: v.clone() for k, v in SERNet(INPUTS, len(CLASSES), 0.3).state_dict().items()}


def ask(
    data: str, partition: int = 0, server_round: int = 3, kind="train", told=None, clients=3, **settings
) -> Message:
    """Send one message to one client of the shipped app."""
    grid = LocalGrid(_flower.load_app("fl_privacy.clients.ser:app"), clients, {**SETTINGS, "data": data, **settings})
    with _flower.run_identity(1):
        arrays = ArrayRecord({n: Array(t.numpy()) for n, t in start().items()})
        config = ConfigRecord({"server-round": server_round, "reply": "gradient", "learning-rate": 0.1, **(told or {})})
        content = RecordDict({"arrays": arrays, "config": config})
        (answer,) = grid.send_and_receive([Message(content, dst_node_id=1000 + partition, message_type=kind)])
    return answer


def arrays_of(answer: Message) -> dict[str, np.ndarray]:
    assert answer.has_content(), answer.error.reason
    return {n: a.numpy() for n, a in answer.content.array_records["arrays"].items()}


def reseed(seed: int, server_round: int, partition: int) -> None:
    """The documented stream: seed, round and partition, nothing else."""
    sequence = np.random.SeedSequence([seed, server_round, partition])
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))


def slow_digest(arrays):
    value = 0
    for data in arrays:
        whole = len(data) // 8 * 8
        words = sum(int.from_bytes(data[i : i + 8], "little") for i in range(0, whole, 8)) % 2**64
        value = (31 * value + len(data) + words + sum(data[whole:])) % 2**63
    return value


@pytest.mark.parametrize("partition", [0, 2])
def test_gradient_is_that_of_autograd_on_the_same_batch(tmp_path, partition):
    answer = ask(federation(tmp_path / "d"), partition)
    data, model = client_data(partition), SERNet(INPUTS, len(CLASSES), 0.3)
    model.load_state_dict(start())
    model.train()
    reseed(5, 3, partition)
    batch = torch.randperm(18)[:7].numpy()
    loss = functional.cross_entropy(
        model(torch.from_numpy(data.train_features[batch])), torch.from_numpy(data.train_labels[batch])
    )
    loss.backward()
    found = arrays_of(answer)
    assert list(found) == list(start())
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(found[name], parameter.grad.numpy())
    assert answer.content.metric_records["metrics"]["num-examples"] == 7
    stamp = answer.content.config_records["fl_privacy"]
    assert stamp["kind"] == "gradient"
    assert stamp["partition-id"] == partition
    assert stamp["digest"] == slow_digest(a.data for a in answer.content.array_records["arrays"].values())


def test_step_is_the_gradient_times_the_servers_rate(tmp_path):
    data = federation(tmp_path / "d")
    gradient, step = arrays_of(ask(data)), ask(data, told={"reply": "step", "learning-rate": 0.25})
    for name, array in arrays_of(step).items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, start()[name].numpy() - 0.25 * gradient[name], rtol=1e-6, atol=1e-7)
    assert step.content.config_records["fl_privacy"]["kind"] == "weights"


def test_fedavg_is_adam_by_hand(tmp_path):
    """Adam written out (Kingma and Ba, algorithm 1, L2 in the gradient), in double precision."""
    answer = ask(federation(tmp_path / "d"), 1, algorithm="fedavg", **{"local-epochs": 2, "learning-rate": 5e-4})
    data, model = client_data(1), SERNet(INPUTS, len(CLASSES), 0.3).double()
    model.load_state_dict(start())
    model.train()
    x, y = torch.from_numpy(data.train_features).double(), torch.from_numpy(data.train_labels)
    theta = {n: p.detach().clone() for n, p in model.named_parameters()}
    m, v = ({n: torch.zeros_like(p) for n, p in theta.items()} for _ in range(2))
    reseed(5, 3, 1)
    steps = 0
    for _ in range(2):
        order = torch.randperm(18)
        for batch in (order[:7], order[7:14], order[14:]):
            model.load_state_dict(theta)
            # Dropout draws single-precision numbers: draw them as the single-precision network does.
            masks = [torch.empty(len(batch), w).bernoulli_(1 - p) / (1 - p) for w, p in ((256, 0.3), (128, 0.2))]
            hidden = torch.relu(model.fc1(x[batch])) * masks[0].double()
            hidden = torch.relu(model.fc2(hidden)) * masks[1].double()
            model.zero_grad()
            functional.cross_entropy(model.fc3(hidden), y[batch]).backward()
            steps += 1
            for name, parameter in model.named_parameters():
                g = parameter.grad + 1e-4 * theta[name]
                m[name] = 0.9 * m[name] + 0.1 * g
                v[name] = 0.98 * v[name] + 0.02 * g * g
                corrected = (v[name] / (1 - 0.98**steps)).sqrt() + 1e-9
                theta[name] = theta[name] - 5e-4 * (m[name] / (1 - 0.9**steps)) / corrected
    for name, array in arrays_of(answer).items():
        moved = np.abs(array - start()[name].numpy())
        assert moved.max() > 1e-4
        close = np.isclose(array, theta[name].numpy(), atol=2e-5)
        assert close.mean() > 0.995, name  # Adam divides by almost nothing where a gradient is almost nothing
    assert answer.content.config_records["fl_privacy"]["kind"] == "weights"


def test_a_client_with_nan_features_sends_an_error_and_no_arrays(tmp_path):
    data = federation(tmp_path / "d", spoiled=1)
    for algorithm in ("fedsgd", "fedavg"):
        answer = ask(data, 1, algorithm=algorithm)
        assert answer.has_error()
        assert "client 1" in answer.error.reason
        assert "not finite" in answer.error.reason
        assert ask(data, 0, algorithm=algorithm).has_content()


def test_evaluate_counts_the_validation_examples(tmp_path):
    answer = ask(federation(tmp_path / "d"), 2, kind="evaluate")
    data, model = client_data(2), SERNet(INPUTS, len(CLASSES), 0.3)
    model.load_state_dict(start())
    model.eval()
    right = model(torch.from_numpy(data.validation_features)).argmax(1).numpy() == data.validation_labels
    metrics = answer.content.metric_records["metrics"]
    assert metrics["num-examples"] == 5
    assert metrics["accuracy"] == pytest.approx(right.mean())


def test_an_unknown_partition_is_an_error_reply(tmp_path):
    answer = ask(federation(tmp_path / "d"), 3, clients=4)
    assert answer.has_error()
    assert "no data for partition 3" in answer.error.reason


def defended(*entries: tuple[str, dict]) -> str:
    return json.dumps([{"name": f"toy_defenses:{name}", **settings} for name, settings in entries])


def test_defense_hooks_are_called_in_order_gradient_before_update(tmp_path):
    data = federation(tmp_path / "d")
    plain = arrays_of(ask(data))
    found = arrays_of(ask(data, defenses=defended(("Affine", {"a": 2.0, "b": 1.0}), ("Affine", {"a": 3.0, "b": -0.5}))))
    for name, g in plain.items():
        for _ in ("gradient", "update"):
            g = 3.0 * (2.0 * g + 1.0) - 0.5
        np.testing.assert_allclose(found[name], g, rtol=1e-5)


def test_in_fedavg_the_update_hook_sees_the_difference(tmp_path):
    data, none = federation(tmp_path / "d"), {n: t.numpy() for n, t in start().items()}
    # A gradient hook that returns a constant direction, and an update hook that scales.
    found = arrays_of(ask(data, algorithm="fedavg", defenses=defended(("Affine", {"a": 0.0, "b": 0.0}))))
    for name, array in found.items():
        np.testing.assert_array_equal(array, none[name])


def test_replies_stay_in_single_precision_under_double_precision_noise(tmp_path):
    data = federation(tmp_path / "d")
    for settings in ({"algorithm": "fedsgd"}, {"algorithm": "fedavg"}):
        found = arrays_of(ask(data, defenses=defended(("Noise", {})), **settings))
        assert {a.dtype for a in found.values()} == {np.dtype(np.float32)}


def test_noise_comes_from_the_seed_round_and_client(tmp_path):
    data, noise = federation(tmp_path / "d"), defended(("Noise", {}))

    def drawn(**where) -> bytes:
        plain, noisy = arrays_of(ask(data, **where)), arrays_of(ask(data, defenses=noise, **where))
        return np.round((noisy["fc3.bias"] - plain["fc3.bias"]) * 1e4).tobytes()

    assert drawn() == drawn()
    assert len({drawn(), drawn(server_round=4), drawn(partition=1), drawn(seed=6)}) == 4


def test_a_frozen_layer_is_sent_as_unchanged(tmp_path):
    """Defense.model may freeze layers: their gradient is zero, their weights stay."""
    data, frozen = federation(tmp_path / "d"), defended(("FreezeLast", {}))
    gradient = arrays_of(ask(data, defenses=frozen))
    assert list(gradient) == list(start())
    assert not gradient["fc3.weight"].any()
    assert gradient["fc1.weight"].any()
    weights = arrays_of(ask(data, defenses=frozen, algorithm="fedavg"))
    np.testing.assert_array_equal(weights["fc3.weight"], start()["fc3.weight"].numpy())
    assert (weights["fc1.weight"] != start()["fc1.weight"].numpy()).any()


def test_a_defense_that_breaks_the_update_sends_an_error(tmp_path):
    assert ask(federation(tmp_path / "d"), defenses=defended(("Poison", {}))).has_error()


@pytest.mark.parametrize("settings", [{}, {"algorithm": "fedavg"}, {"defenses": defended(("Noise", {}))}])
def test_what_ran_before_does_not_matter(tmp_path, settings):
    data = federation(tmp_path / "d")
    first = arrays_of(ask(data, 0, **settings))
    ask(data, 1, 9, **settings)
    ask(data, 2, 1, algorithm="fedavg")
    ask(data, 2, kind="evaluate")
    torch.manual_seed(1)
    np.random.seed(3)  # noqa: NPY002
    again = arrays_of(ask(data, 0, **settings))
    assert all(again[n].tobytes() == first[n].tobytes() for n in first)


def test_a_defense_with_state_does_not_carry_it_from_client_to_client(tmp_path):
    """A real client is a process of its own: what one client's defense counted, another's cannot know."""
    data, counting = federation(tmp_path / "d"), defended(("Counter", {}))
    assert arrays_of(ask(data, 0, defenses=counting))["fc1.weight"].any()
    assert arrays_of(ask(data, 1, defenses=counting))["fc1.weight"].any()


def test_new_data_in_the_same_folder_is_read(tmp_path):
    """A run deleted and started again into the same folder, in one process."""
    first = arrays_of(ask(federation(tmp_path / "d", seeds=(0, 1, 2))))
    second = arrays_of(ask(federation(tmp_path / "d", seeds=(7, 8, 9))))
    alone = arrays_of(ask(federation(tmp_path / "elsewhere", seeds=(7, 8, 9))))
    assert (first["fc1.weight"] != alone["fc1.weight"]).any()
    np.testing.assert_array_equal(second["fc1.weight"], alone["fc1.weight"])
