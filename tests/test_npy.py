from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from fl_privacy._npy import dump, view


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@given(hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
def test_a_view_is_what_numpy_loads(array):
    for form in (array, np.asfortranarray(array)):
        data = saved(form)
        seen, loaded = view(data), np.load(io.BytesIO(data))
        assert (seen.dtype, seen.shape) == (loaded.dtype, loaded.shape)
        assert (seen.flags.c_contiguous, seen.flags.f_contiguous) == (
            loaded.flags.c_contiguous,
            loaded.flags.f_contiguous,
        )
        assert seen.tobytes() == loaded.tobytes()
        assert dump(form) == data


def test_parts_and_mixtures_are_written_as_numpy_does():
    mixed = np.zeros(3, [("a", "f4"), ("ü", "i8")])
    for array in (np.arange(12.0).reshape(3, 4)[:, ::2], np.arange(6).reshape(2, 3)[1:], mixed, np.zeros(2, ">f8")):
        assert dump(array) == saved(array)


def test_a_view_cannot_be_written_and_copies_nothing():
    data = saved(np.arange(4.0))
    seen = view(data)
    with pytest.raises(ValueError, match="read-only"):
        seen[0] = 1
    assert np.shares_memory(seen, np.frombuffer(data, np.uint8))


def test_objects_are_refused():
    with pytest.raises(ValueError):
        dump(np.array([{}, None]))
    with pytest.raises(ValueError):
        view(saved(np.array([{}, None])))
