"""GradientClipAndNoise against what it says: g * min(1, C / |g|) + N(0, (z C)^2)."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_privacy import _flower
from fl_privacy.clients.mods import GradientClipAndNoise
from fl_privacy.clients.stamp import RECORD, stamp
from fl_privacy.errors import UserError
from fl_privacy.sims.local import run_simulation
from fl_privacy.strategies import FedSGD
from fl_privacy.updates.protocol import DIGEST


@pytest.fixture(autouse=True)
def _identity():
    with _flower.run_identity(1):
        yield


def release(mod, records: dict[str, dict[str, np.ndarray]], kind="gradient") -> dict[str, dict[str, np.ndarray]]:
    """Pass a reply of these array records through the mod."""
    made = {key: ArrayRecord({n: Array(a) for n, a in arrays.items()}) for key, arrays in records.items()}

    def app(message, context):
        said = stamp(ArrayRecord({f"{k}{n}": a for k, part in made.items() for n, a in part.items()}), kind)
        content = {**made, "metrics": MetricRecord({"n": 1}), RECORD: said}
        return Message(RecordDict(content), reply_to=message)

    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    reply = mod(message, Context(1, 1, {}, RecordDict(), {}), app)
    assert list(reply.content) == [*records, "metrics", RECORD]
    return {key: {n: a.numpy() for n, a in reply.content[key].items()} for key in records}


def size(records) -> float:
    """The slow obvious norm: one number after another, in long double."""
    total = np.longdouble(0)
    for arrays in records.values():
        for array in arrays.values():
            for value in array.ravel():
                total += np.longdouble(value) ** 2
    return float(np.sqrt(total))


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=4),
    split=st.integers(0, 3),
    clip=st.floats(1e-3, 1e3),
    scale=st.floats(1e-6, 1e6),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**32 - 1),
)
def test_clips_the_whole_gradient_to_the_norm(shapes, split, clip, scale, dtype, seed):
    rng = np.random.default_rng(seed)
    arrays = {f"a{i}": np.asarray(rng.normal(size=s) * scale, dtype) for i, s in enumerate(shapes)}
    names = list(arrays)
    records = {"one": {n: arrays[n] for n in names[:split]}, "two": {n: arrays[n] for n in names[split:]}}
    with _flower.run_identity(1):
        released = release(GradientClipAndNoise(clip), records)
    norm = size(records)
    factor = min(1.0, clip / norm) if norm > 0 else 1.0
    for key, part in records.items():
        assert list(released[key]) == list(part)
        for name, array in part.items():
            found = released[key][name]
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            np.testing.assert_allclose(found, array.astype(np.float64) * factor, rtol=1e-6)
    assert size(released) <= clip * (1 + 1e-6)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_doubles_whose_squares_do_not_fit(scale):
    array = np.array([3.0, 4.0]) * scale
    (found,) = release(GradientClipAndNoise(1.0), {"g": {"a": array}})["g"].values()
    np.testing.assert_allclose(found, array if scale < 1 else [0.6, 0.8])


def test_a_gradient_of_zeros_stays_so_without_noise_and_is_noise_with_it():
    zeros = {"g": {"a": np.zeros((40, 50), np.float32), "b": np.zeros((), np.float32)}}
    assert size(release(GradientClipAndNoise(1.0), zeros)) == 0
    np.random.seed(0)  # noqa: NPY002
    noise = release(GradientClipAndNoise(2.0, 0.5), zeros)["g"]
    assert np.isfinite(noise["b"])
    assert noise["b"] != 0
    assert noise["a"].std() == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize(("clip", "multiplier"), [(0.5, 2.0), (3.0, 0.1)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_noise_has_the_spread_it_says_and_is_independent(clip, multiplier, dtype):
    np.random.seed(1)  # noqa: NPY002
    gradient = {"g": {"a": np.full(20_000, 1.0, dtype), "b": np.full(20_000, -1.0, dtype)}}
    mod = GradientClipAndNoise(clip, multiplier)
    first, second = release(mod, gradient)["g"], release(mod, gradient)["g"]
    factor = min(1.0, clip / np.sqrt(40_000))
    draws = [one[n].astype(np.float64) - sign * factor for one in (first, second) for n, sign in (("a", 1), ("b", -1))]
    spread = clip * multiplier
    for draw in draws:
        # Four standard errors of the mean and of the standard deviation of 20,000 draws.
        assert abs(draw.mean()) < 4 * spread / np.sqrt(20_000)
        assert abs(draw.std() / spread - 1) < 4 / np.sqrt(2 * 20_000)
        kurtosis = np.mean((draw / draw.std()) ** 4)
        assert abs(kurtosis - 3) < 4 * np.sqrt(24 / 20_000)
    correlations = np.corrcoef(draws) - np.eye(4)
    assert np.abs(correlations).max() < 4 / np.sqrt(20_000)


def test_half_precision_gradients_are_clipped_in_full_precision():
    """The squares of a half-precision gradient of this size overflow its own type."""
    gradient = {"g": {"a": np.full(100, 300.0, np.float16)}}
    (found,) = release(GradientClipAndNoise(1.0), gradient)["g"].values()
    assert found.dtype == np.float16
    np.testing.assert_allclose(found.astype(np.float64), 0.1, rtol=1e-3)


def test_a_gradient_that_is_not_finite_is_not_made_to_look_so():
    for bad in (np.nan, np.inf):
        gradient = {"g": {"a": np.array([1.0, bad], np.float32)}}
        with np.errstate(invalid="ignore"):
            assert not np.isfinite(release(GradientClipAndNoise(1.0), gradient)["g"]["a"]).all()


@pytest.mark.parametrize("kind", ["weights", None])
def test_weights_are_refused(kind):
    def app(message, context):
        arrays = ArrayRecord({"a": Array(np.ones(3, np.float32))})
        content = {"arrays": arrays} | ({RECORD: stamp(arrays, kind)} if kind else {})
        return Message(RecordDict(content), reply_to=message)

    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    with pytest.raises(UserError, match="does not say that it is a gradient.*fixedclipping_mod"):
        GradientClipAndNoise(1.0)(message, Context(1, 1, {}, RecordDict(), {}), app)


def test_error_replies_pass():
    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    answer = GradientClipAndNoise(1.0, 1.0)(
        message, Context(1, 1, {}, RecordDict(), {}), lambda m, c: Message(Error(0, "no"), reply_to=m)
    )
    assert answer.has_error()


@pytest.mark.parametrize("wrong", [(0,), (-1.0,), (float("nan"),), (float("inf"),), (1, -0.1), (1, float("nan"))])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match="GradientClipAndNoise"):
        GradientClipAndNoise(*wrong)


START = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float32)}


def sgd(train_mods) -> dict[str, np.ndarray]:
    """One round of FedSGD with learning rate 1 over clients whose gradient is 10 x (partition + 1) everywhere."""
    client, server, left = ClientApp(), ServerApp(), {}

    @client.train(mods=train_mods)
    def train(message: Message, context: Context) -> Message:
        arrays = ArrayRecord(
            {
                n: Array(np.full(a.shape, 10 * (context.node_config["partition-id"] + 1), np.float32))
                for n, a in message.content["arrays"].items()
            }
        )
        content = {"arrays": arrays, "metrics": MetricRecord({"num-examples": 1}), RECORD: stamp(arrays, "gradient")}
        return Message(RecordDict(content), reply_to=message)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedSGD(1.0, fraction_evaluate=0.0)
        result = strategy.start(grid, ArrayRecord({n: Array(a) for n, a in START.items()}), num_rounds=1)
        left.update({n: a.numpy() for n, a in result.arrays.items()})

    run_simulation(server, client, 3, seed=1)
    return left


def test_fedsgd_takes_the_step_of_clipped_gradients():
    final = sgd([GradientClipAndNoise(2.0)])
    for name, start in START.items():  # every gradient has the direction of ones; eight coordinates
        np.testing.assert_allclose(start - final[name], 2.0 / np.sqrt(8), rtol=1e-5)


def test_fedsgd_still_refuses_a_gradient_that_somebody_else_rewrites_behind_it():
    def rewrite(message, context, call_next):
        reply = call_next(message, context)
        arrays = {n: Array(a.numpy() * np.float32(0.5)) for n, a in reply.content["arrays"].items()}
        reply.content["arrays"] = ArrayRecord(arrays)
        return reply

    with pytest.raises(UserError, match="is not the one it sent"):
        sgd([rewrite, GradientClipAndNoise(2.0)])
    # Before it, a rewrite is the client's own business: the mod says what leaves.
    assert sgd([GradientClipAndNoise(2.0), rewrite]).keys() == START.keys()


def test_what_the_reply_says_beside_is_kept():
    def app(message, context):
        arrays = ArrayRecord({"a": Array(np.ones(3, np.float32))})
        said = stamp(arrays, "gradient")
        said["partition-id"] = 4
        return Message(RecordDict({"arrays": arrays, RECORD: said}), reply_to=message)

    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    reply = GradientClipAndNoise(1.0)(message, Context(1, 1, {}, RecordDict(), {}), app)
    said = reply.content[RECORD]
    assert (said["partition-id"], said["kind"]) == (4, "gradient")
    assert said[DIGEST] == stamp(reply.content["arrays"], "gradient")[DIGEST]
