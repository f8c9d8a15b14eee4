"""Shards are plain safetensors files, whatever lay in the memory from which they are written."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from fl_privacy.updates._image import Image, Plan, Way

FORMS = st.dictionaries(
    st.sampled_from(["update/0/w", "update/0/b", "update/1/w", "update/10/w", "sent/0/w", "sent/0/n"]),
    st.tuples(
        st.sampled_from([(), (0,), (1,), (3,), (5, 7), (64, 33)]), st.sampled_from(["f4", "f4", "f4", "i8", "b1", "f2"])
    ),
    min_size=1,
)


@settings(max_examples=60, deadline=None)
@given(rounds=st.lists(st.tuples(FORMS, st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=6))
def test_what_is_written_is_what_was_there(tmp_path_factory, rounds):
    """Files of changing form, made in the image's own places or elsewhere, all from one image."""
    path, image = tmp_path_factory.mktemp("shards") / "round.safetensors", Image()
    for number, (forms, in_place, halved, past_cache) in enumerate(rounds, 9):
        rng = np.random.default_rng(number)
        tensors = {}
        for name, (shape, dtype) in forms.items():
            made = rng.integers(0, 2, shape) if dtype == "b1" else rng.standard_normal(shape) * 10
            made = np.asarray(made).astype(dtype)
            if in_place:
                place = image.place(name, shape, np.dtype(dtype))
                place[...] = made
                tensors[name] = place
            else:
                tensors[name] = made.copy()
        wanted = {name: array.copy() for name, array in tensors.items()}
        image.write(path, Plan.of(tensors, "update/" if halved else None, number, image), past_cache=past_cache)
        with safe_open(path, framework="pt") as file:
            assert file.metadata() == {"round": str(number)}
            assert set(file.keys()) == set(wanted)
            for name, array in wanted.items():
                found = file.get_tensor(name)
                if halved and name.startswith("update/"):
                    array = torch.from_numpy(np.asarray(array, np.float32)).bfloat16().float().numpy()
                    found = found.float()
                assert found.shape == array.shape
                np.testing.assert_array_equal(found.numpy(), array)


def test_the_arrays_begin_at_a_multiple_of_64_bytes_and_stand_in_order(tmp_path):
    tensors = {f"update/{i}/w": np.full(16, i, np.float32) for i in (2, 10, 1)}
    Image().write(tmp_path / "a", Plan.of(tensors), past_cache=False)
    data = (tmp_path / "a").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    assert start % 64 == 0
    assert list(json.loads(data[8:start])) == ["update/1/w", "update/10/w", "update/2/w"]
    assert np.frombuffer(data[start:], np.float32).reshape(3, 16)[:, 0].tolist() == [1, 10, 2]
    assert {file.name for file in tmp_path.iterdir()} == {"a"}


def test_places_of_one_file_are_where_the_next_has_its_arrays(tmp_path):
    image, tensors = Image(), {"a": np.ones(1000, np.float32), "b": np.zeros(3, np.float32)}
    image.write(tmp_path / "1", Plan.of(tensors), past_cache=False)
    place = image.place("a", (1000,), np.float32)
    place[:] = 7
    image.write(tmp_path / "2", Plan.of({"a": place, "b": tensors["b"]}), past_cache=False)
    assert image.place("a", (1000,), np.float32) is not place  # a view made anew,
    assert np.shares_memory(image.place("a", (1000,), np.float32), place)  # of the same memory
    assert image.place("a", (999,), np.float32).shape == (999,)
    assert not np.shares_memory(image.place("a", (999,), np.float32), place)


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("fl_privacy.updates._image._write_all", fail)
    with pytest.raises(OSError, match="no space"):
        Image().write(tmp_path / "a", Plan.of({"a": np.ones(3)}), past_cache=False)
    assert not (tmp_path / "a").exists()


def test_where_the_medium_is_late_the_quicker_way_is_taken_and_the_other_tried_again():
    way, ways = Way(), []
    for late in [False, True, True, *[True] * 200]:
        ways.append(way.choose(late))
        way.note(ways[-1], 1.0 if ways[-1] else 2.0)  # the page cache is the slower one here
    assert ways[:3] == [True, False, True]
    assert 1 <= ways[3:].count(False) <= 5
    way.note(False, 0.5)
    assert [way.choose(True), way.choose(False)] == [False, True]
