"""All clients of a federation in one process: one network, one piece of memory for their answers."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fl_privacy._randomness import own_randomness
from fl_privacy.training.client import BrokenUpdate, local_update
from fl_privacy.training.flat import Flat
from fl_privacy.training.local_model import LocalModel
from fl_privacy.training.participation import ClientSettings, Hooks, Memory
from fl_privacy.training.shards import read_client
from fl_privacy.updates.record import Kind
from fl_privacy.updates.store import Reply

logger = logging.getLogger(__name__)

MakeHooks = Callable[[], Sequence[Hooks]]
"""Makes the defenses anew."""


class Clients:
    """Answers for any client, one after another.

    Parameters
    ----------
    data : Path
        Folder of the federation's data.
    model : LocalModel
        Used for all of them.
    settings : ClientSettings
    a_round : int
        Clients in a round, at most.
    make_hooks : callable
    stream : int
        Seed of the global random streams that a client finds, of which it should make no use.
    remember : bool
        Whether a client's defenses find what they kept in its earlier rounds.

    Attributes
    ----------
    matrix : ndarray, (a_round, size)
        The answers of a round, one a row.
    rows : list of Flat
        The same, each with its arrays.
    """

    def __init__(
        self,
        data: Path,
        model: LocalModel,
        settings: ClientSettings,
        a_round: int,
        make_hooks: MakeHooks,
        stream: int,
        *,
        remember: bool,
    ) -> None:
        self._data, self._model, self._settings, self._stream = data, model, settings, stream
        self._make_hooks, self._hooked = make_hooks, bool(make_hooks())
        memory = torch.zeros(a_round, Flat.size(model.shapes))
        self.rows = [Flat(model.shapes, row) for row in memory]
        self.matrix: NDArray[np.float32] = memory.numpy()
        self._examples: dict[int, dict[str, Tensor]] = {}
        self._memories: dict[int, Memory] | None = {} if remember else None

    def examples(self, client: int) -> dict[str, Tensor]:
        """Return a client's examples, read once."""
        if client not in self._examples:
            self._examples[client] = read_client(self._data, client)
        return self._examples[client]

    def answers(
        self, chosen: Sequence[int], server_round: int, theta: Flat, *, step: float | None = None
    ) -> list[Reply]:
        """Do the work of several clients that are sent the same: what `answer` gives for each.

        Parameters
        ----------
        chosen : sequence of int
        server_round, theta, step
            See `answer`.
        """
        if self._settings.algorithm == "fedsgd" and step is None and not self._hooked and self._model.stacks:
            examples = [self.examples(client) for client in chosen]
            seeds = [np.random.SeedSequence([self._settings.seed, server_round, client]) for client in chosen]
            work = [(s, e["train_features"], e["train_labels"]) for s, e in zip(seeds, examples, strict=True)]
            rows = self.rows[: len(chosen)]
            try:
                counts = self._model.gradients(theta, work, self._settings.batch_size, rows)
            except Exception:  # of a single client: it is found below
                counts = []
            if counts and not any(row.broken for row in rows):
                return [
                    Reply(str(client), 0, row.arrays, "gradient", num_examples=float(count), finite=True)
                    for client, row, count in zip(chosen, rows, counts, strict=True)
                ]
        return [self.answer(client, server_round, theta, row, step=step) for row, client in enumerate(chosen)]

    def answer(
        self,
        client: int,
        server_round: int,
        theta: Flat,
        row: int,
        *,
        step: float | None = None,
        sent: int = 0,
        told: int = 0,
    ) -> Reply:
        """Do a client's work of a round; whatever it raises becomes an error reply, as on every engine.

        Parameters
        ----------
        client, server_round : int
        theta : Flat
            The parameters that it is sent.
        row : int
            Which of `rows` takes the answer.
        step : float, optional
            See `local_update`.
        sent, told : int
            For the record.
        """
        name, out, data = str(client), self.rows[row], self.examples(client)
        try:
            with self._streams(server_round, name):
                answer = local_update(
                    self._model,
                    theta,
                    data["train_features"],
                    data["train_labels"],
                    self._settings,
                    server_round=server_round,
                    partition=client,
                    out=out,
                    defenses=self._make_hooks() if self._hooked else (),
                    private=data.get("train_private"),
                    memory=None if self._memories is None else self._memories.setdefault(client, {}),
                    step=step,
                )
        except BrokenUpdate as broken:
            return Reply.error(name, str(broken), sent=sent, told=told)
        except (Exception, SystemExit) as error:  # a client cannot end the run
            logger.warning("client %s raised:\n%s", name, traceback.format_exc())
            return Reply.error(name, f"{type(error).__name__}: {error}", sent=sent, told=told)
        kind: Kind = "gradient" if answer.kind == "gradient" else "delta"
        return Reply(name, sent, out.arrays, kind, num_examples=float(answer.examples), told=told)

    def _streams(self, server_round: int, client: str) -> AbstractContextManager[None]:
        # A defense that draws from a global stream, though it should not, finds there what a Flower client would.
        return own_randomness("client", self._stream, server_round, client, "train") if self._hooked else nullcontext()
