"""Local training: what a client computes, with no knowledge of who asks for it."""

from fl_privacy.training.local import batch_gradient, predict, train_epochs
from fl_privacy.training.shards import (
    ClientData,
    Federation,
    read_client,
    read_federation,
    read_server,
    write_federation,
)
from fl_privacy.training.utility import held_out_scores, write_utility

__all__ = [
    "ClientData",
    "Federation",
    "batch_gradient",
    "held_out_scores",
    "predict",
    "read_client",
    "read_federation",
    "read_server",
    "train_epochs",
    "write_federation",
    "write_utility",
]
