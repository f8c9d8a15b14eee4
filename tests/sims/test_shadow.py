"""shadow_updates: the attacker's own clients are sent what the victims were sent."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAdam, FedAvg, Strategy

from fl_privacy.clients.stamp import RECORD, stamp
from fl_privacy.errors import UserError
from fl_privacy.sims.local import run_simulation
from fl_privacy.sims.shadow import shadow_updates
from fl_privacy.strategies import CaptureUpdates, FedSGD
from fl_privacy.updates import UpdateStore
from fl_privacy.updates.protocol import RANDOMNESS

CLIENTS = 4
EVERY = {"fraction_evaluate": 0.0, "min_train_nodes": CLIENTS, "min_available_nodes": CLIENTS}
START = {
    "w.weight": np.arange(12, dtype=np.float32).reshape(3, 4) / 7,
    "w.bias": np.array([1e-9, -1.0, 3.5], np.float64),
    "half": np.array([0.1, 65504], np.float16),
    "steps": np.array(3, np.int64),
    "ids": np.array([2**64 - 1, 5], np.uint64),
    "10": np.array([True, False]),
}
CONFIG = {
    "rate": 0.1,
    "bytes": b"\x00\xff",
    "nan": float("nan"),
    "inf": [float("inf"), -0.0],
    "list": [1, 2, 3],
    "texts": ["a", "\u00e9\n"],
    "flag": True,
    "flags": [True, False],
    "blobs": [b"a", b""],
    "empty": [],
}


def record(model) -> ArrayRecord:
    return ArrayRecord({n: Array(a) for n, a in model.items()})


def plain(value):
    """A form in which equal means the same type and bits."""
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value.hex()
    return type(value).__name__, value


def message_form(message: Message):
    """What a client can see of a message, without what `Reproducible` adds."""
    form = [message.metadata.message_type]
    for key, item in message.content.items():
        if isinstance(item, ArrayRecord):
            form.append((key, [(n, a.dtype, tuple(a.shape), a.stype, a.data) for n, a in item.items()]))
        elif values := {n: v for n, v in item.items() if n != RANDOMNESS} or key != RECORD:
            held = {} if values is True else values
            form.append((key, type(item).__name__, [(n, plain(v)) for n, v in held.items()]))
    return form


def app(notes: list, *, action: str = "default", random: bool = False) -> ClientApp:
    """Clients that note what they are sent and add their number (or noise) to all of it."""
    client = ClientApp()

    @client.train(action)
    def train(message: Message, context: Context) -> Message:
        notes.append((context.node_config["partition-id"], message_form(message)))
        by = np.random.normal() if random else context.node_config["partition-id"] + 1  # noqa: NPY002
        content = {
            key: record({n: np.asarray(a.numpy() + by, a.numpy().dtype) for n, a in arrays.items()})
            for key, arrays in message.content.array_records.items()
        }
        return Message(RecordDict({**content, "metrics": MetricRecord({"num-examples": 2})}), reply_to=message)

    return client


class Sending(Strategy):
    """Sends ``contents(round, place)`` to each node and keeps no model."""

    def __init__(self, contents, message_type="train") -> None:
        super().__init__()
        self.contents, self.message_type = contents, message_type

    def configure_train(self, server_round, arrays, config, grid):
        made = [(node, self.contents(server_round, i)) for i, node in enumerate(grid.get_node_ids())]
        return [Message(content, node, self.message_type) for node, content in made if content is not None]

    def aggregate_train(self, server_round, replies):
        return None, None

    def configure_evaluate(self, *args):
        return []

    def aggregate_evaluate(self, *args):
        return None

    def summary(self):
        pass


def victim(path, strategy, client, rounds=3, start=None, observe="each", **settings) -> UpdateStore:
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        capture = CaptureUpdates(strategy, UpdateStore(path, **settings), observe=observe)
        capture.start(grid, record(START if start is None else start), num_rounds=rounds)

    run_simulation(server, client, CLIENTS, seed=3)
    return UpdateStore(path)


def sent_in(notes, number, clients=CLIENTS):
    return [form for _, form in notes[(number - 1) * clients : number * clients]]


def test_clients_are_sent_what_the_victims_were_sent_byte_for_byte(tmp_path):
    def contents(server_round, place):
        model = {n: np.asarray(a + a.dtype.type(server_round), a.dtype) for n, a in START.items()}
        extra = {"config": ConfigRecord(CONFIG), "m": MetricRecord({"x": [1.5, math.nan], "k": 3})}
        return RecordDict({"model": record(model), **extra, "last": ConfigRecord({"round": server_round})})

    theirs, ours = [], []
    store = victim(tmp_path / "v", Sending(contents, "train.special"), app(theirs, action="special"))
    shadow = shadow_updates(store, app(ours, action="special"), 3, tmp_path / "s")
    assert shadow.rounds == store.rounds == (1, 2, 3)
    for number in shadow.rounds:
        assert sent_in(theirs, number)[0][0] == "train.special"
        assert sent_in(ours, number, 3) == [sent_in(theirs, number)[0]] * 3
    assert (shadow.shapes, shadow.dtype) == (store.shapes, store.dtype)
    assert shadow.failures == store.failures == ()
    assert [(u.round, u.client) for u in shadow.updates()] == [(r, c) for r in (1, 2, 3) for c in "012"]
    assert shadow.check() == []


@pytest.mark.parametrize("make", [FedAvg, FedAdam])
def test_identical_clients_give_identical_updates(tmp_path, make):
    store = victim(tmp_path / "v", make(**EVERY), app([]), start={"w.weight": START["w.weight"]})
    shadow = shadow_updates(store, app([]), CLIENTS, tmp_path / "s")
    pairs = list(zip(store.updates(), shadow.updates(), strict=True))
    assert len(pairs) == 3 * CLIENTS
    for one, other in pairs:
        assert (one.round, one.client, one.kind, one.num_examples) == (
            other.round,
            other.client,
            other.kind,
            other.num_examples,
        )
        assert {n: a.tobytes() for n, a in one.arrays.items()} == {n: a.tobytes() for n, a in other.arrays.items()}
        assert (
            store.sent(one.round, one.client)["w.weight"].tobytes()
            == shadow.sent(other.round, other.client)["w.weight"].tobytes()
        )


def test_gradients_are_asked_for_as_the_victims_were_asked(tmp_path):
    client = ClientApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        assert message.content["config"]["reply"] == "gradient"
        made = record({"w.weight": np.full((3, 4), context.node_config["partition-id"] + 1, np.float32)})
        content = {"arrays": made, "metrics": MetricRecord({"num-examples": 2}), RECORD: stamp(made, "gradient")}
        return Message(RecordDict(content), reply_to=message)

    store = victim(tmp_path / "v", FedSGD(0.1, **EVERY), client, start={"w.weight": START["w.weight"]})
    shadow = shadow_updates(store, client, 2, tmp_path / "s", rounds=[2])
    assert [(u.round, u.kind, float(u.arrays["w.weight"][0, 0])) for u in shadow.updates()] == [
        (2, "gradient", 1.0),
        (2, "gradient", 2.0),
    ]


def test_some_of_the_clients_in_each_round(tmp_path):
    store = victim(tmp_path / "v", FedAvg(**EVERY), app([]), rounds=6, start={"w.weight": START["w.weight"]})
    drawn = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        shadow = shadow_updates(store, app([]), 9, tmp_path / name, clients_per_round=3, seed=seed)
        drawn[name] = [[u.client for u in shadow.updates() if u.round == r] for r in store.rounds]
        assert all(len(set(clients)) == 3 for clients in drawn[name])
    assert drawn["a"] == drawn["b"] != drawn["c"]
    assert len({tuple(clients) for clients in drawn["a"]}) > 1


def test_equal_calls_give_equal_stores_and_other_seeds_others(tmp_path):
    store = victim(tmp_path / "v", FedAvg(**EVERY), app([]), start={"w.weight": START["w.weight"]})
    digests = [
        shadow_updates(store, app([], random=True), 5, tmp_path / str(i), seed=seed).digest()
        for i, seed in enumerate((1, 1, 2))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_rounds_and_what_was_kept(tmp_path):
    settings = {"every": 2, "arrays": ["w"], "dtype": "bfloat16"}
    theirs, ours = [], []
    store = victim(tmp_path / "v", FedAvg(**EVERY), app(theirs), rounds=5, **settings)
    assert store.rounds == (1, 3, 5)
    shadow = shadow_updates(store, app(ours), 2, tmp_path / "s", rounds=[5, 3])
    assert shadow.rounds == (3, 5)
    assert (list(shadow.shapes), shadow.dtype) == (["w.weight", "w.bias"], "bfloat16")
    assert [form for _, form in ours] == [sent_in(theirs, 3)[0]] * 2 + [sent_in(theirs, 5)[0]] * 2


def test_personal_messages_go_round_in_turn(tmp_path):
    def contents(server_round, place):
        if place == 3:
            return None
        arrays = {"a/b": record({"x": np.full(2, place, np.float32)}), "a": record({"w": START["w.weight"] + place})}
        return RecordDict({**arrays, "config": ConfigRecord({"you": place})})

    theirs, ours = [], []
    store = victim(tmp_path / "v", Sending(contents), app(theirs), rounds=2)
    shadow_updates(store, app(ours), 7, tmp_path / "s")
    forms = [sorted(map(repr, sent_in(theirs, 1, 3))), [repr(form) for form in sent_in(ours, 1, 7)]]
    assert len(set(forms[0])) == 3
    assert [forms[1].count(form) for form in forms[0]] in ([3, 2, 2], [2, 3, 2], [2, 2, 3])


def test_sums_give_matched_shadows_too(tmp_path):
    theirs, ours = [], []
    store = victim(tmp_path / "v", FedAvg(**EVERY), app(theirs), observe="sum")
    shadow = shadow_updates(store, app(ours), 2, tmp_path / "s")
    assert shadow.observe == "each"
    assert [form for _, form in ours] == [sent_in(theirs, r)[0] for r in (1, 2, 3) for _ in range(2)]


def test_rounds_in_which_nobody_replied_are_passed_over(tmp_path):
    client, good = ClientApp(), app([])

    @client.train()
    def train(message: Message, context: Context) -> Message:
        return good(message, context)

    class Half(FedAvg):
        def configure_train(self, server_round, arrays, config, grid):
            messages = list(super().configure_train(server_round, arrays, config, grid))
            return [Message(m.content, 77, "train") for m in messages[:1]] if server_round == 2 else messages

    store = victim(tmp_path / "v", Half(**EVERY), client, clients=["0"])
    assert store.rounds == (1, 2, 3)
    shadow = shadow_updates(store, client, 2, tmp_path / "s")
    assert shadow.rounds == (1, 3)
    with pytest.raises(UserError, match="none of these rounds a client replied"):
        shadow_updates(store, client, 2, tmp_path / "t", rounds=[2])
    assert not (tmp_path / "t").exists()


def test_the_threat_model_says_whose_updates_these_are(tmp_path):
    store = victim(tmp_path / "v", FedAvg(**EVERY), app([]))
    shadow = shadow_updates(store, app([]), 2, tmp_path / "s")
    assert "among its own clients" in shadow.threat_model.attacker
    assert "models of 3 captured rounds" in shadow.threat_model.observes


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_clients": 0}, "num_clients must be at least 1"),
        ({"clients_per_round": 0}, "clients_per_round must be 1 to 3"),
        ({"clients_per_round": 4}, "clients_per_round must be 1 to 3"),
        ({"rounds": []}, "no round"),
        ({"rounds": [1, 9]}, r"does not hold round\(s\) 9"),
        ({"seed": 2**63}, "seed"),
        ({"client_app": "nowhere_at_all:app"}, "nowhere_at_all"),
    ],
)
def test_bad_input_leaves_nothing_behind(tmp_path, wrong, message):
    store = victim(tmp_path / "v", FedAvg(**EVERY), app([]), rounds=1)
    before = store.digest()
    given = {"client_app": app([]), "num_clients": 3, "out": tmp_path / "s", **wrong}
    with pytest.raises(UserError, match=message):
        shadow_updates(store, **given)
    assert not (tmp_path / "s").exists()
    assert store.digest() == before


def test_stores_without_models_and_folders_in_use_are_refused(tmp_path):
    bare = victim(tmp_path / "bare", FedAvg(**EVERY), app([]), rounds=1, keep_sent=False)
    with pytest.raises(UserError, match="without the models"):
        shadow_updates(bare, app([]), 2, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    store = victim(tmp_path / "v", FedAvg(**EVERY), app([]), rounds=1)
    before = store.digest()
    for place in (tmp_path / "v", tmp_path / "bare"):
        with pytest.raises(UserError, match="already holds"):
            shadow_updates(store, app([]), 2, place)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="other files"):
        shadow_updates(store, app([]), 2, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    assert store.digest() == before
