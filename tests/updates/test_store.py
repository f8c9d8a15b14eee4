from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_privacy.errors import UserError
from fl_privacy.updates import StoreError, ThreatModel, UpdateStore
from fl_privacy.updates.store import Reply

NAMES = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\x00"), min_size=1, max_size=12
).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 4), min_size=0, max_size=4).map(tuple)


def model(seed: int = 0, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = shapes or {"fc1.weight": (4, 3), "fc1.bias": (4,), "fc2.weight": (2, 4), "fc2.bias": (2,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write(path: Path, rounds: int = 3, clients: int = 2, **options) -> UpdateStore:
    store = UpdateStore(path, **options)
    store.begin(ThreatModel())
    for number in range(1, rounds + 1):
        replies = [Reply(str(c), 0, model(10 * number + c), "delta", 20.0) for c in range(clients)]
        store.append(number, [model(number)], replies)
    store.close()
    return UpdateStore(path)


def digest(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.dictionaries(NAMES, SHAPES, min_size=1, max_size=5),
    clients=st.lists(NAMES, min_size=1, max_size=4, unique=True),
    kind=st.sampled_from(["gradient", "delta"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_written_is_read_back(shapes, clients, kind, seed):
    rng = np.random.default_rng(seed)

    def draw() -> dict[str, np.ndarray]:
        return {n: np.asarray(rng.normal(size=shape), dtype=np.float32) for n, shape in shapes.items()}

    sent, returned = draw(), {client: draw() for client in clients}
    with tempfile.TemporaryDirectory() as folder:
        store = UpdateStore(Path(folder) / "store")
        store.begin(ThreatModel())
        store.append(1, [sent], [Reply(c, 0, arrays, kind, 7.0) for c, arrays in returned.items()])
        store.close()
        read = UpdateStore(Path(folder) / "store")
        assert read.shapes == dict(shapes)
        assert list(read.shapes) == list(shapes)
        updates = read.updates()
        assert [u.client for u in updates] == clients
        for update in updates:
            assert (update.round, update.kind, update.num_examples) == (1, kind, 7.0)
            assert list(update.arrays) == list(shapes)
            for name, shape in shapes.items():
                expected = returned[update.client][name] - (sent[name] if kind == "delta" else np.float32(0))
                found = update.arrays[name]
                assert found.dtype == np.float32
                assert found.shape == shape
                np.testing.assert_array_equal(found, expected)
            for name, array in read.sent(1, update.client).items():
                assert array.shape == shapes[name]
                np.testing.assert_array_equal(array, sent[name])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_equal_input_gives_equal_bytes(tmp_path, dtype):
    write(tmp_path / "a", dtype=dtype)
    write(tmp_path / "b", dtype=dtype)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_bytes_name_no_path_of_the_machine(tmp_path):
    store = write(tmp_path / "somewhere-special")
    assert not any(b"somewhere-special" in p.read_bytes() for p in store.path.iterdir())


def test_bfloat16_keeps_three_digits_of_updates_and_all_of_sent_models(tmp_path):
    exact, half = write(tmp_path / "a"), write(tmp_path / "b", dtype="bfloat16")
    for one, other in zip(exact.updates(), half.updates(), strict=True):
        for name in one.arrays:
            np.testing.assert_allclose(other.arrays[name], one.arrays[name], rtol=2**-8)
            assert other.arrays[name].dtype == np.float32
    np.testing.assert_array_equal(half.sent(1, "0")["fc1.weight"], exact.sent(1, "0")["fc1.weight"])
    size = {s.path.name: sum(p.stat().st_size for p in s.path.glob("*.safetensors")) for s in (exact, half)}
    assert size["b"] < size["a"]


def test_index_cut_mid_line_is_read_up_to_the_last_whole_line(tmp_path):
    store = write(tmp_path / "s", rounds=3)
    index = store.path / "index.jsonl"
    text = index.read_bytes()
    ends = [i + 1 for i, byte in enumerate(text) if byte == ord("\n")]
    for cut in (ends[1], ends[1] + 1, ends[2] - 1):
        index.write_bytes(text[:cut])
        assert UpdateStore(store.path).rounds == (1, 2)
        assert {u.round for u in UpdateStore(store.path).updates()} == {1, 2}


def test_a_process_killed_while_writing_leaves_a_readable_store(tmp_path):
    code = """
import os, sys, numpy as np
from fl_privacy.updates import ThreatModel, UpdateStore
from fl_privacy.updates.store import Reply
store = UpdateStore(sys.argv[1]); store.begin(ThreatModel())
arrays = {"w": np.ones((200, 200), np.float32)}
for r in range(1, 1000):
    store.append(r, [arrays], [Reply("0", 0, arrays, "gradient")])
    if r == 12:
        os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], check=False)
    store = UpdateStore(tmp_path / "s")
    assert store.rounds == tuple(range(1, len(store.rounds) + 1))
    assert 9 <= len(store.rounds) <= 12
    assert all((u.arrays["w"] == 1).all() for u in store.updates())


def test_refuses_a_folder_that_holds_a_store(tmp_path):
    before = digest(write(tmp_path / "s").path)
    with pytest.raises(StoreError, match="already holds captured updates"):
        UpdateStore(tmp_path / "s").begin(ThreatModel())
    assert digest(tmp_path / "s") == before


def test_refuses_a_folder_whose_first_round_never_came(tmp_path):
    UpdateStore(tmp_path / "s").begin(ThreatModel())
    with pytest.raises(StoreError, match="already holds"):
        UpdateStore(tmp_path / "s").begin(ThreatModel())
    with pytest.raises(StoreError, match="no captured round yet"):
        UpdateStore(tmp_path / "s").updates()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"cannot write to .*file"):
        UpdateStore(tmp_path / "file" / "store").begin(ThreatModel())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_is_refused(tmp_path):
    (tmp_path / "ro").mkdir(mode=0o500)
    with pytest.raises(StoreError, match="cannot write to"):
        UpdateStore(tmp_path / "ro" / "store").begin(ThreatModel())


def test_a_failing_disk_is_reported_as_such(tmp_path):
    store = UpdateStore(tmp_path / "s")
    store.begin(ThreatModel())
    (tmp_path / "s" / ".round-000001.safetensors.part").mkdir()  # the shard cannot be created
    store.append(1, [model()], [Reply("0", 0, model(1), "delta")])
    with pytest.raises(StoreError, match="cannot write to"):
        store.close()


def test_an_error_of_the_writer_is_raised_by_a_later_append(tmp_path):
    store = UpdateStore(tmp_path / "s", arrays=["nope"])
    store.begin(ThreatModel())

    def go_on() -> None:
        for number in range(1, 6):
            store.append(number, [model()], [Reply("0", 0, model(1), "delta")])

    with pytest.raises(StoreError, match=r"nope.*fc1\.weight"):
        go_on()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: (p / "store.json").write_text('{"format": 99}'), "format 99"),
        (lambda p: (p / "store.json").write_text("{"), "cannot be read"),
        (lambda p: shutil.rmtree(p), "not a store"),
        (lambda p: (p / "index.jsonl").write_text("what is this?\n"), "index.jsonl"),
    ],
)
def test_a_spoilt_store_says_what_is_wrong(tmp_path, spoil, message):
    store = write(tmp_path / "s")
    spoil(store.path)
    with pytest.raises(UserError, match=message):
        dict(UpdateStore(store.path).updates()[0].arrays)


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "other.txt").write_text("x")
    with pytest.raises(StoreError, match="not a store of updates"):
        _ = UpdateStore(tmp_path).rounds


def test_keeps_only_the_chosen_layers(tmp_path):
    store = write(tmp_path / "s", arrays=["fc1", "fc2.bias"])
    assert list(store.shapes) == ["fc1.weight", "fc1.bias", "fc2.bias"]
    update = store.updates()[0]
    assert list(update.arrays) == list(store.shapes)
    with pytest.raises(KeyError):
        update.arrays["fc2.weight"]
    assert set(store.sent(1, "0")) == set(model())


def test_without_sent_models_they_are_refused(tmp_path):
    store = write(tmp_path / "s", keep_sent=False)
    full = write(tmp_path / "full")
    for one, other in zip(store.updates(), full.updates(), strict=True):
        np.testing.assert_array_equal(one.arrays["fc1.weight"], other.arrays["fc1.weight"])
    with pytest.raises(StoreError, match="without the models"):
        store.sent(1, "0")


def test_sent_of_a_client_that_took_no_part_is_refused(tmp_path):
    with pytest.raises(StoreError, match="took no part in round 2"):
        write(tmp_path / "s", rounds=2).sent(2, "99")


BROKEN = {
    "nan": (np.array([np.nan, 1], np.float32), "not finite"),
    "inf": (np.array([np.inf, 1], np.float32), "not finite"),
    "inf of both signs": (np.array([np.inf, -np.inf], np.float32), "not finite"),
    "shape": (np.ones(3, np.float32), "do not fit"),
    "broadcastable shape": (np.ones((1,), np.float32), "do not fit"),
    "missing": (None, "do not fit"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("kind", ["gradient", "delta"])
def test_an_unusable_reply_is_recorded_and_left_out(tmp_path, case, kind):
    array, reason = BROKEN[case]
    sent, good = {"b": np.zeros(2, np.float32)}, {"b": np.ones(2, np.float32)}
    store = UpdateStore(tmp_path / "s")
    store.begin(ThreatModel())
    bad = {} if array is None else {"b": array}
    store.append(1, [sent], [Reply("bad", 0, bad, kind), Reply("good", 0, good, kind)])
    store.close()
    read = UpdateStore(tmp_path / "s")
    assert [u.client for u in read.updates()] == ["good"]
    ((number, client, why),) = read.failures
    assert (number, client) == (1, "bad")
    assert reason in why


def test_two_replies_under_one_name_do_not_overwrite_each_other(tmp_path):
    sent = {"b": np.zeros(2, np.float32)}
    store = UpdateStore(tmp_path / "s")
    store.begin(ThreatModel())
    store.append(1, [sent], [Reply("7", 0, {"b": np.full(2, v, np.float32)}, "gradient") for v in (1.0, 2.0)])
    try:
        store.close()
    except StoreError:
        return  # refused: fine as well
    read = UpdateStore(tmp_path / "s")
    kept = [u.arrays["b"][0] for u in read.updates()]
    assert kept + [None] * len(read.failures) in ([1.0, 2.0], [1.0, None], [2.0, None])


def test_folder_is_for_its_owner_only(tmp_path):
    assert write(tmp_path / "s").path.stat().st_mode & 0o777 == 0o700


def test_an_existing_folder_of_other_things_is_not_taken_over(tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    (home / "thesis.tex").write_text("x")
    with pytest.raises(StoreError):
        UpdateStore(home).begin(ThreatModel())
    assert home.stat().st_mode & 0o777 == 0o755


def test_reading_between_rounds_does_not_end_the_capture(tmp_path):
    store = UpdateStore(tmp_path / "s")
    store.begin(ThreatModel())
    store.append(1, [model()], [Reply("0", 0, model(1), "delta")])
    assert store.rounds == (1,)
    store.append(2, [model()], [Reply("0", 0, model(1), "delta")])
    store.close()
    assert UpdateStore(store.path).rounds == (1, 2)


def test_close_twice_is_safe_and_append_needs_begin(tmp_path):
    store = UpdateStore(tmp_path / "s")
    store.close()
    store.close()
    with pytest.raises(StoreError, match="begin"):
        store.append(1, [model()], [])


def test_unknown_dtype_is_refused(tmp_path):
    with pytest.raises(StoreError, match="float16"):
        UpdateStore(tmp_path, dtype="float16")


def test_threat_model_is_kept(tmp_path):
    told = ThreatModel(attacker="a curious provider", observes="sums", owns="nothing", active=True)
    store = UpdateStore(tmp_path / "s")
    store.begin(told)
    store.append(1, [model()], [])
    store.close()
    assert UpdateStore(tmp_path / "s").threat_model == told
    assert "alters the protocol" in told.describe()


def test_integer_counters_of_a_model_are_no_obstacle(tmp_path):
    """BatchNorm keeps a 0-d int64 count of batches beside its weights."""
    sent = {"bn.weight": np.ones(2, np.float32), "bn.num_batches_tracked": np.array(4, np.int64)}
    back = {"bn.weight": np.zeros(2, np.float32), "bn.num_batches_tracked": np.array(9, np.int64)}
    store = UpdateStore(tmp_path / "s")
    store.begin(ThreatModel())
    store.append(1, [sent], [Reply("0", 0, back, "delta")])
    store.close()
    read = UpdateStore(tmp_path / "s")
    count = read.updates()[0].arrays["bn.num_batches_tracked"]
    assert count.shape == read.shapes["bn.num_batches_tracked"] == ()
    assert count == 5
    assert read.sent(1, "0")["bn.num_batches_tracked"].shape == ()


def test_index_is_strict_json_whatever_clients_report(tmp_path):
    store = UpdateStore(tmp_path / "s")
    store.begin(ThreatModel())
    store.append(1, [model()], [Reply("0", 0, model(1), "delta", float("nan"))])
    store.close()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    for line in (tmp_path / "s" / "index.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_more_rounds_than_open_files_can_be_read_at_once(tmp_path):
    tiny = {"b": np.ones(1, np.float32)}
    store = UpdateStore(tmp_path / "s")
    store.begin(ThreatModel())
    for number in range(1, 201):
        store.append(number, [tiny], [Reply("0", 0, tiny, "gradient")])
    store.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 60, hard))
    try:
        updates = UpdateStore(tmp_path / "s").updates()
        assert sum(float(u.arrays["b"][0]) for u in updates) == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_reading_a_store_costs_no_anonymous_memory(tmp_path):
    code = """
import sys, numpy as np
from fl_privacy.updates import ThreatModel, UpdateStore
from fl_privacy.updates.store import Reply
def anon():
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon")) / 1024
import torch, safetensors
store = UpdateStore(sys.argv[1], keep_sent=False); store.begin(ThreatModel())
arrays = {"w": np.ones((1280, 1024), np.float32)}
for r in range(1, 21):
    store.append(r, [arrays], [Reply(str(c), 0, arrays, "gradient") for c in range(2)])
store.close()
warm = UpdateStore(sys.argv[1]).updates()[0].arrays["w"].sum()
before, total, held = anon(), 0.0, []
updates = UpdateStore(sys.argv[1]).updates()
for u in updates:
    array = u.arrays["w"]
    total += float(array.sum()); held.append(array)
assert total == 40 * 1280 * 1024
print(anon() - before)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) < 20  # MiB, of 200 in the store


def test_models_in_double_precision_are_subtracted_in_double_precision(tmp_path):
    sent = {"b": np.array([1.0, -3.0])}
    back = {"b": sent["b"] + np.array([1e-9, 2e-10])}
    store = UpdateStore(tmp_path / "s")
    store.begin(ThreatModel())
    store.append(1, [sent], [Reply("0", 0, back, "delta")])
    store.close()
    np.testing.assert_allclose(UpdateStore(tmp_path / "s").updates()[0].arrays["b"], [1e-9, 2e-10], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("other", [np.int64, np.float64, np.float16, np.bool_, np.uint8, np.uint32])
def test_models_of_mixed_types_are_read_back(tmp_path, dtype, other):
    """Odd sizes put a wider type at an offset that is no multiple of its width."""
    sent = {"a": np.array([1, 0, 1], other), "b": np.ones(3, np.float32), "c": np.array([0, 1, 1], other)}
    sent["d"] = np.arange(3, dtype=np.float32)
    back = {name: (array + array).astype(array.dtype) for name, array in sent.items()}
    store = UpdateStore(tmp_path / "s", dtype=dtype)
    store.begin(ThreatModel())
    store.append(1, [sent], [Reply("0", 0, back, "delta")])
    store.close()
    read = UpdateStore(tmp_path / "s")
    (update,) = read.updates()
    for name, array in sent.items():
        np.testing.assert_array_equal(read.sent(1, "0")[name], array.astype(np.float32))
        np.testing.assert_array_equal(update.arrays[name], back[name].astype(np.float32) - array.astype(np.float32))
