"""A store that was cut, lost or mixed up says so, and the rest of it stays of use; a killed capture goes on."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_privacy import cli
from fl_privacy.attacks.attribute import InputReconstruction, RawLinear
from fl_privacy.attacks.evaluate import evaluate
from fl_privacy.errors import UserError
from fl_privacy.updates import Labels, StoreError, ThreatModel, UpdateStore
from fl_privacy.updates.store import Reply
from fl_privacy.updates.told import Told

TOLD = Told("train", (("arrays", "arrays", {}), ("config", "config", {"rate": 0.1})))
SHAPES = {"fc.weight": (4, 3), "fc.bias": (4,)}


def arrays(seed: int, shift: float = 0.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: (rng.normal(size=s) + shift).astype(np.float32) for n, s in SHAPES.items()}


def fill(store: UpdateStore, rounds, clients=6, base=0) -> None:
    for number in rounds:
        replies = [
            Reply(str(c), 0, arrays(base + 100 * number + c, 3.0 * (c % 2)), "gradient", 10.0 + c)
            for c in range(clients)
        ]
        store.append(number, [arrays(number)], replies, [TOLD])


def write(path: Path, rounds: int = 5, base: int = 0, **settings) -> UpdateStore:
    store = UpdateStore(path, **settings)
    store.begin(ThreatModel())
    fill(store, range(1, rounds + 1), base=base)
    store.close()
    return UpdateStore(path)


def call(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["fl-privacy", *arguments])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def shard(store: UpdateStore, number: int) -> Path:
    return store.path / f"round-{number:06d}.safetensors"


def swap(store: UpdateStore) -> None:
    two, three = shard(store, 2).read_bytes(), shard(store, 3).read_bytes()
    assert len(two) == len(three)
    shard(store, 2).write_bytes(three)
    shard(store, 3).write_bytes(two)


def overwrite(store: UpdateStore, data) -> None:
    path = shard(store, 3)
    path.write_bytes(data(path.read_bytes()))


SPOILT = {
    "truncated": (lambda s: overwrite(s, lambda old: old[:-1]), [3], "bytes of"),
    "empty": (lambda s: overwrite(s, lambda old: b""), [3], "has 0 bytes"),
    "longer": (lambda s: overwrite(s, lambda old: old + b"x"), [3], "bytes of"),
    "missing": (lambda s: shard(s, 3).unlink(), [3], "No such file"),
    "garbage of the same size": (lambda s: overwrite(s, lambda old: bytes(len(old))), [3], "cannot be read"),
    "noise of the same size": (
        lambda s: overwrite(s, lambda old: np.random.default_rng(0).bytes(len(old))),
        [3],
        "cannot be read",
    ),
    "swapped": (swap, [2, 3], "written for round"),
    "replaced by another round's": (lambda s: shutil.copy(shard(s, 1), shard(s, 3)), [3], "written for round 1"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_shard_is_named_and_the_rest_stays_readable_and_attackable(
    tmp_path, name, monkeypatch, capsys, caplog
):
    spoil, broken, reason = SPOILT[name]
    store, shadow = write(tmp_path / "s"), write(tmp_path / "shadow", base=10_000)
    code, out, _ = call(monkeypatch, capsys, "store", str(store.path))
    assert code == 0
    assert "every shard is whole" in out
    assert store.digest() in out

    spoil(store)
    code, out, _ = call(monkeypatch, capsys, "store", str(store.path))
    assert code == 1
    for number in broken:
        (line,) = [line for line in out.splitlines() if f"round {number}: round-{number:06d}.safetensors" in line]
        assert reason in line
    assert f"{len(broken)} of 5 rounds are damaged; the others can be attacked" in out
    assert "every shard is whole" not in out

    whole = UpdateStore(store.path)
    good = [number for number in range(1, 6) if number not in broken]
    updates = whole.updates()
    assert [u.round for u in updates] == [number for number in good for _ in range(6)]
    for update in updates:
        expected = arrays(100 * update.round + int(update.client), 3.0 * (int(update.client) % 2))
        np.testing.assert_array_equal(update.arrays["fc.weight"], expected["fc.weight"])
    assert all(f"round {number} is left out" in caplog.text for number in broken)
    for number in broken:
        with pytest.raises(UserError, match=rf"round {number}|round-{number:06d}"):
            whole.sent(number, "0")
        with pytest.raises(UserError, match=rf"round {number}|round-{number:06d}"):
            whole.messages(number)
    assert whole.sent(1, "0")
    rows = {str(c): {"speaker": f"p{c}", "sex": "fm"[c % 2]} for c in range(6)}
    others = {client: {**row, "speaker": f"q{client}"} for client, row in rows.items()}
    audit = evaluate(
        [InputReconstruction(), RawLinear()],
        whole,
        shadow=shadow,
        labels=Labels(rows),
        shadow_labels=Labels(others),
        attribute="sex",
        permutations=2,
    )
    assert audit.auc().value is not None


def test_what_is_no_store_is_said_without_a_traceback(tmp_path, monkeypatch, capsys):
    (tmp_path / "other").mkdir()
    for place in (tmp_path / "other", tmp_path / "nowhere"):
        code, _, err = call(monkeypatch, capsys, "store", str(place))
        assert (code, "is not a store of updates" in err) == (2, True)
    empty = UpdateStore(tmp_path / "begun")
    empty.begin(ThreatModel())
    empty.close()
    code, _, err = call(monkeypatch, capsys, "store", str(tmp_path / "begun"))
    assert (code, "holds no captured round yet" in err) == (2, True)


HEADERS = {
    "[]": "has format None",
    '{"format": 1}': "has format 1.*capture again",
    '{"format": 99}': "has format 99.*update fl-privacy",
}
INDEXES = ["[]\n", "{}\n", "1\n", '"x"\n', "null\n", '{"round": 1}\n']


@pytest.mark.parametrize("text", HEADERS)
def test_a_header_of_something_else(tmp_path, text):
    store = write(tmp_path / "s", rounds=1)
    (store.path / "store.json").write_text(text)
    with pytest.raises(StoreError, match=HEADERS[text]):
        UpdateStore(store.path).updates()


@pytest.mark.parametrize("text", INDEXES)
def test_an_index_of_something_else(tmp_path, text, monkeypatch, capsys):
    store = write(tmp_path / "s", rounds=2)
    index = store.path / "index.jsonl"
    index.write_text(index.read_text() + text)
    code, _, err = call(monkeypatch, capsys, "store", str(store.path))
    assert code == 2
    assert "index.jsonl" in err
    assert "line 3" in err


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_an_index_that_was_cut_mid_line(tmp_path, cut, monkeypatch, capsys):
    store, short = write(tmp_path / "s", rounds=3), write(tmp_path / "short", rounds=2)
    index = store.path / "index.jsonl"
    index.write_bytes(index.read_bytes()[:-cut])
    code, out, _ = call(monkeypatch, capsys, "store", str(store.path))
    assert code == 0
    assert "2 (1 to 2)" in out
    # What a store holds decides its digest, not what a killed process left half written.
    assert UpdateStore(store.path).digest() == short.digest()


def test_the_digest_tells_captures_apart(tmp_path):
    first, again = write(tmp_path / "a"), write(tmp_path / "b")
    assert first.digest() == again.digest()
    others = {
        "one more round": write(tmp_path / "c", rounds=6),
        "other updates": write(tmp_path / "d", base=1),
        "half precision": write(tmp_path / "e", dtype="bfloat16"),
        "no models": write(tmp_path / "f", keep_sent=False),
        "fewer clients": write(tmp_path / "g", clients=["1", "2"]),
    }
    spoilt = write(tmp_path / "h")
    swap(spoilt)
    others["swapped"] = spoilt
    flipped = write(tmp_path / "i")
    data = bytearray(shard(flipped, 1).read_bytes())
    data[-1] ^= 1
    shard(flipped, 1).write_bytes(data)
    others["one bit"] = flipped
    digests = [store.digest() for store in others.values()] + [first.digest()]
    assert len(set(digests)) == len(digests)
    shard(again, 2).unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        again.digest()


def test_a_store_is_seen_as_it_grows(tmp_path):
    """Also by another object: what was read before is not taken for all there is."""
    store, reader = UpdateStore(tmp_path / "s"), UpdateStore(tmp_path / "s")
    store.begin(ThreatModel())
    for number in range(1, 4):
        fill(store, [number])
        store.flush()
        assert reader.rounds == tuple(range(1, number + 1))
        assert reader.check() == []
    store.close()


def test_messages_of_a_capture_that_was_not_told(tmp_path):
    store = UpdateStore(tmp_path / "s")
    store.begin(ThreatModel())
    store.append(1, [arrays(0)], [Reply("0", 0, arrays(1), "gradient")])
    store.append(2, [arrays(0)], [])
    store.close()
    with pytest.raises(StoreError, match="without what clients were told"):
        UpdateStore(tmp_path / "s").messages(1)
    assert UpdateStore(tmp_path / "s").messages(2) == []


# ---------------------------------------------------------------------- going on


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def draw(seed: int, number: int, clients: int, partial: bool):
    """A round that depends on its number alone; with `partial`, layers come into sight one by one."""
    rng = np.random.default_rng([seed, number])
    shapes = {"a": (2, 2), "b": (2,), "c": (3, 2), "d": (3,)}
    names = list(shapes)[-1 - number % 4 :] if partial else list(shapes)
    sent = [{n: rng.normal(size=shapes[n]).astype(np.float32) for n in names} for _ in range(1 + number % 2)]
    replies = [
        Reply(
            str(c),
            c % len(sent),
            {n: rng.normal(size=shapes[n]).astype(np.float32) for n in names},
            "delta",
            float(rng.integers(1, 9)),
            failure="gone" if rng.random() < 0.2 else "",
            told=0,
        )
        for c in range(clients)
    ]
    return sent, replies, [TOLD]


@settings(max_examples=30, deadline=None)
@given(
    rounds=st.integers(1, 7),
    killed=st.integers(0, 7),
    last=st.integers(0, 7),
    clients=st.integers(1, 3),
    every=st.integers(1, 3),
    observe=st.sampled_from(["each", "sum"]),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    partial=st.booleans(),
    debris=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_going_on_behind_a_round_ends_in_the_same_bytes(
    rounds, killed, last, clients, every, observe, dtype, partial, debris, seed
):
    killed, last = min(killed, rounds), min(last, killed, rounds)

    def run(path, numbers, resume_after=None):
        store = UpdateStore(path, every=every, dtype=dtype)
        store.begin(ThreatModel(), observe, resume_after)
        for number in numbers:
            if store.wants(number):
                store.append(number, *draw(seed, number, clients, partial))
        store.flush()
        return store

    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        run(whole, range(1, rounds + 1)).close()
        run(broken, range(1, killed + 1)).close()
        (broken / "labels.csv").write_text("somebody's own")
        if debris:  # what a process leaves that is killed while it writes
            with (broken / "index.jsonl").open("a") as index:
                index.write('{"records": [{"client"')
            (broken / f"round-{killed + 1:06d}.safetensors").write_bytes(b"half")
            (broken / f".round-{killed + 2:06d}.safetensors.part").write_bytes(b"less")
            (broken / ".store.json.part").write_text("{")
        store = run(broken, [], resume_after=last)
        if last:
            kept = [json.loads(line) for line in (broken / "index.jsonl").read_text().splitlines()]
            assert [entry["round"] for entry in kept] == [r for r in range(1, last + 1) if store.wants(r)]
            named = {entry["shard"] for entry in kept} | {"index.jsonl", "store.json", "labels.csv"}
            assert {path.name for path in broken.iterdir()} == named
        else:
            assert {path.name for path in broken.iterdir()} == {"index.jsonl", "labels.csv"}
        for number in range(last + 1, rounds + 1):
            if store.wants(number):
                store.append(number, *draw(seed, number, clients, partial))
        store.close()
        assert (broken / "labels.csv").read_text() == "somebody's own"
        (broken / "labels.csv").unlink()
        assert contents(broken) == contents(whole)


def test_going_on_where_nothing_is_left_is_refused(tmp_path):
    with pytest.raises(StoreError, match="lacks the 3 rounds"):
        UpdateStore(tmp_path / "s").begin(ThreatModel(), resume_after=3)
    UpdateStore(tmp_path / "s").begin(ThreatModel(), resume_after=0)  # nothing was done: from the beginning
    assert (tmp_path / "s" / "index.jsonl").exists()


@pytest.mark.parametrize(
    ("settings", "model"),
    [
        ({"dtype": "bfloat16"}, ThreatModel()),
        ({"every": 2}, ThreatModel()),
        ({"clients": ["1"]}, ThreatModel()),
        ({"arrays": ["fc.bias"]}, ThreatModel()),
        ({"keep_sent": False}, ThreatModel()),
        ({}, ThreatModel(owns="more")),
    ],
)
def test_going_on_with_other_settings_is_refused_and_removes_nothing(tmp_path, settings, model):
    store = write(tmp_path / "s")
    before = contents(store.path)
    with pytest.raises(StoreError, match="other settings"):
        UpdateStore(store.path, **settings).begin(model, resume_after=2)
    assert contents(store.path) == before
