"""Federated SGD: clients send the gradient of one batch, the server takes the step."""

from __future__ import annotations

from collections.abc import Iterable
from logging import INFO
from typing import Any, Literal

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fl_privacy._npy import view
from fl_privacy.errors import UserError
from fl_privacy.updates.protocol import DIGEST, KIND, RECORD, digest


class FedSGD(FedAvg):
    """Federated SGD: ``theta <- theta - lr * sum_k (n_k / n) g_k`` (McMahan et al. 2017, section 2).

    Parameters
    ----------
    learning_rate : float
        The server's step size; clients that reply a step take it with this step size too.
    reply : {"gradient", "step"}
        What clients send. ``"gradient"``: the gradient g_k of one batch. ``"step"``: the weights ``theta - lr * g_k``,
        whose weighted mean is the same step; needed under every Flower DP wrapper and client mod, since those clip
        ``reply - theta``.
    **fedavg
        Settings of `flwr.serverapp.strategy.FedAvg`: sampling, weights, record keys.

    Raises
    ------
    UserError
        During aggregation, where the replies are not what `reply` says, or where something between client and
        strategy (a DP wrapper or mod) has rewritten gradients as if they were weights.

    Notes
    -----
    Clients are told in the train config: ``"reply"`` and ``"learning-rate"``. They answer with a ConfigRecord
    ``"fl_privacy"``, made by `fl_privacy.clients.stamp.stamp`.
    """

    def __init__(
        self, learning_rate: float = 0.1, *, reply: Literal["gradient", "step"] = "gradient", **fedavg: Any
    ) -> None:
        if not learning_rate > 0:
            raise UserError(f"FedSGD: learning_rate must be positive, not {learning_rate}")
        if reply not in ("gradient", "step"):
            raise UserError(f"FedSGD: reply must be 'gradient' or 'step', not {reply!r}")
        super().__init__(**fedavg)
        self.learning_rate = learning_rate
        self.reply = reply
        self._arrays = ArrayRecord()

    def summary(self) -> None:
        """Log summary configuration of the strategy."""
        log(INFO, "\t├──> FedSGD: learning rate %s, clients reply a %s", self.learning_rate, self.reply)
        super().summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the next round of training; tells clients what to reply."""
        self._arrays = arrays
        config["reply"] = self.reply
        config["learning-rate"] = self.learning_rate
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the replies and, where they are gradients, take the step."""
        replies = list(replies)
        for reply in replies:
            if reply.has_content():
                self._check(reply)
        mean, metrics = super().aggregate_train(server_round, replies)
        if mean is None or self.reply == "step":
            return mean, metrics
        stepped = {
            name: Array(theta - (self.learning_rate * mean[name].numpy()).astype(theta.dtype))
            for name, theta in ((name, array.numpy()) for name, array in self._arrays.items())
        }
        return ArrayRecord(stepped), metrics

    def _check(self, reply: Message) -> None:
        """Refuse a reply that is not what it should be: aggregated, it would wreck the model without a word."""
        stamp = reply.content.config_records.get(RECORD)
        node = reply.metadata.src_node_id
        wanted = "gradient" if self.reply == "gradient" else "weights"
        if stamp is None or stamp.get(KIND) != wanted:
            raise UserError(
                f"FedSGD(reply={self.reply!r}): node {node} did not say that it replies {wanted}; the ClientApp must "
                f"honour the train config's 'reply' and add fl_privacy.clients.stamp.stamp(...) as {RECORD!r}"
            )
        if wanted == "weights":
            return
        arrays = {n: a for record in reply.content.array_records.values() for n, a in record.items()}
        if stamp.get(DIGEST) != digest(array.data for array in arrays.values()):
            raise UserError(
                f"FedSGD: the gradient of node {node} is not the one it sent: a DP wrapper or client mod treats it as "
                "weights. Use FedSGD(reply='step') with Flower's DP wrappers and mods."
            )
        wrong = [n for n, a in self._arrays.items() if n not in arrays or tuple(arrays[n].shape) != tuple(a.shape)]
        broken = [n for n, a in arrays.items() if not _is_finite(a)]
        if broken:
            raise UserError(f"FedSGD: the gradient of node {node} is not finite (arrays: {', '.join(broken)})")
        if wrong or len(arrays) != len(self._arrays):
            raise UserError(
                f"FedSGD: the gradient of node {node} does not fit the model (arrays: {', '.join(wrong) or 'too many'})"
            )


def _is_finite(array: Array) -> bool:
    flat = view(array.data).reshape(-1) if array.stype == "numpy.ndarray" else array.numpy().reshape(-1)
    # The product is quick and needs no temporary; where it overflows, look closer.
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.dot(flat, flat)) or np.isfinite(flat).all())
