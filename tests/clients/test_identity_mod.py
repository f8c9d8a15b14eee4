from __future__ import annotations

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict

from fl_privacy import _flower
from fl_privacy.clients.mods import identity_mod
from fl_privacy.updates.protocol import IDENTITY_QUERY


@pytest.fixture(autouse=True)
def _identity():
    with _flower.run_identity(1):
        yield


def context(config) -> Context:
    return Context(1, 1000, config, RecordDict(), {})


def never(message, context):
    raise AssertionError("the app was called")


def test_answers_the_query_without_the_app():
    query = Message(RecordDict(), dst_node_id=1000, message_type=IDENTITY_QUERY)
    answer = identity_mod(query, context({"partition-id": 4}), never)
    assert answer.content.config_records["fl_privacy"]["partition-id"] == 4


def test_without_a_partition_it_says_nothing():
    query = Message(RecordDict(), dst_node_id=1000, message_type=IDENTITY_QUERY)
    assert "partition-id" not in identity_mod(query, context({}), never).content.config_records["fl_privacy"]
    train = Message(RecordDict(), dst_node_id=1000, message_type="train")
    answer = identity_mod(train, context({}), lambda m, c: Message(RecordDict(), reply_to=m))
    assert not answer.content.config_records


@pytest.mark.parametrize("kind", ["train", "train.other", "evaluate", "query"])
def test_stamps_train_replies_only_and_keeps_what_stands_there(kind):
    def app(message, context):
        said = {"fl_privacy": ConfigRecord({"kind": "gradient"}), "metrics": MetricRecord({"n": 1})}
        return Message(RecordDict(said), reply_to=message)

    message = Message(RecordDict(), dst_node_id=1000, message_type=kind)
    answer = identity_mod(message, context({"partition-id": 0}), app)
    expected = {"kind": "gradient"} | ({"partition-id": 0} if kind.startswith("train") else {})
    assert dict(answer.content.config_records["fl_privacy"]) == expected
    assert answer.content.metric_records["metrics"]["n"] == 1


def test_error_replies_pass():
    message = Message(RecordDict(), dst_node_id=1000, message_type="train")
    answer = identity_mod(message, context({"partition-id": 0}), lambda m, c: Message(Error(0, "no"), reply_to=m))
    assert answer.has_error()
