"""Matched shadows as a plain loop: the attacker's clients run from the very models that the victims were sent.

The same updates to the bit as `fl_privacy.shadow_updates` gets from `fl_privacy.clients.ser`, without messages. Rounds
do not depend on one another, so they are spread over processes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fl_privacy._processes import keep_freed_memory, one_thread
from fl_privacy._randomness import kept_streams
from fl_privacy.errors import UserError
from fl_privacy.training._clients import Clients, MakeHooks
from fl_privacy.training._parallel import Told as Tell
from fl_privacy.training._parallel import run_jobs
from fl_privacy.training.flat import Flat
from fl_privacy.training.local_model import LocalModel, make_network
from fl_privacy.training.participation import ClientSettings
from fl_privacy.training.shards import read_federation
from fl_privacy.updates import SentMessage, ThreatModel, UpdateStore
from fl_privacy.updates._folder import refuse_used
from fl_privacy.updates.join import join_stores


@dataclass(frozen=True)
class Replay:
    """Which of the attacker's clients are sent which captured rounds again.

    Attributes
    ----------
    rounds : tuple of int
        In order.
    clients : int
        How many there are.
    a_round : int
        How many answer in each round, drawn anew for each.
    seed : int
        Of the draw.
    """

    rounds: tuple[int, ...]
    clients: int
    a_round: int
    seed: int

    @classmethod
    def of(
        cls,
        store: UpdateStore,
        clients: int,
        *,
        rounds: Sequence[int] | None = None,
        clients_per_round: int | None = None,
        seed: int = 0,
    ) -> Replay:
        """Check what is asked for; by default all captured rounds and all clients.

        Raises
        ------
        UserError
            If the store keeps no sent models or lacks a round, or a number is out of range.
        """
        wanted = sorted(set(store.rounds if rounds is None else rounds))
        if not wanted:
            raise UserError(f"matched shadows: no round of {store.path} is named")
        a_round = clients if clients_per_round is None else clients_per_round
        if clients < 1:
            raise UserError(f"matched shadows: num_clients must be at least 1, not {clients}")
        if not 1 <= a_round <= clients:
            raise UserError(f"matched shadows: clients_per_round must be 1 to {clients}, not {a_round}")
        if not 0 <= seed < 2**63:
            raise UserError(f"matched shadows: seed must be a whole number from 0, of 63 bits, not {seed}")
        if missing := sorted(set(wanted) - set(store.rounds)):
            raise UserError(f"{store.path} does not hold round(s) {', '.join(map(str, missing))}")
        # Refused before anything is written.
        if not any(store.messages(server_round) for server_round in wanted):
            raise UserError(
                f"{store.path}: in none of these rounds a client replied, so there is nothing to send again"
            )
        return cls(tuple(wanted), clients, a_round, seed)

    @property
    def threat_model(self) -> ThreatModel:
        """Who sees what, for the shadow store."""
        return ThreatModel(
            attacker="the attacker itself, among its own clients",
            observes=f"what its clients answer to the models of {len(self.rounds)} captured rounds",
            owns=f"{self.clients} clients of its own",
        )

    def chosen(self, server_round: int) -> list[int]:
        """Return the clients of a round in the order in which the round's messages go round them."""
        if self.a_round == self.clients:
            return list(range(self.clients))
        rng = np.random.default_rng([self.seed, server_round])
        return [int(client) for client in rng.choice(self.clients, self.a_round, replace=False)]


@dataclass(frozen=True)
class MatchedPlan:
    """The attacker's clients.

    Attributes
    ----------
    data : Path
        Folder of their data, see `fl_privacy.training.shards`.
    client : ClientSettings
        What the victims are told, with a seed of one's own.
    dropout : float
        Of the network.
    make_hooks : callable
        Makes the defenses anew; for several processes it must be one that can be pickled.
    """

    data: Path
    client: ClientSettings
    dropout: float
    make_hooks: MakeHooks = tuple


def matched_updates(
    store: UpdateStore,
    plan: MatchedPlan,
    out: str | Path,
    *,
    rounds: Sequence[int] | None = None,
    clients_per_round: int | None = None,
    seed: int = 0,
    processes: int = 1,
    trained: Callable[[int], None] | None = None,
) -> UpdateStore:
    """Run the attacker's SER clients from each model that a store has captured.

    Parameters
    ----------
    store : UpdateStore
        The victims' captured updates, with the models that were sent.
    plan : MatchedPlan
    out : str or Path
        Folder of the new store.
    rounds, clients_per_round, seed
        See `fl_privacy.shadow_updates`.
    processes : int
        Over which the rounds are spread; they change no byte.
    trained : callable, optional
        Told from time to time how many updates there have been.

    Returns
    -------
    UpdateStore
        The shadow store, with the same arrays and dtype as `store`.

    Raises
    ------
    UserError
        As `fl_privacy.shadow_updates`, and where the models are not of the plan's network.
    """
    out, replay = (
        Path(out),
        Replay.of(
            store,
            read_federation(plan.data).clients,
            rounds=rounds,
            clients_per_round=clients_per_round,
            seed=seed,
        ),
    )
    refuse_used(out)
    done: dict[int, int] = {}

    def tell(job: int, updates: int) -> None:
        done[job] = updates
        if trained is not None:
            trained(sum(done.values()))

    if processes == 1:
        _replay(_Job(store.path, plan, out, replay, replay.rounds), lambda updates: tell(0, updates))
        return UpdateStore(out)
    shares = [tuple(map(int, share)) for share in np.array_split(replay.rounds, max(processes, 1)) if len(share)]
    parts = out.with_name(f".{out.name}.parts")
    if parts.exists():  # of a killed run
        shutil.rmtree(parts)
    try:
        jobs = [_Job(store.path, plan, parts / str(i), replay, share) for i, share in enumerate(shares)]
        run_jobs(_replay, jobs, processes, tell)
        join_stores([job.out for job in jobs], out)
    finally:
        shutil.rmtree(parts, ignore_errors=True)
    return UpdateStore(out)


@dataclass(frozen=True)
class _Job:
    store: Path
    plan: MatchedPlan
    out: Path
    replay: Replay
    rounds: tuple[int, ...]


def _replay(job: _Job, told: Tell) -> None:
    """Do some of the rounds."""
    store, plan, replay = UpdateStore(job.store), job.plan, job.replay
    facts = read_federation(plan.data)
    keep_freed_memory()
    with kept_streams(), one_thread():
        model = LocalModel(make_network(facts.inputs, len(facts.classes), plan.dropout, plan.make_hooks()))
        # Rounds are spread over processes: a client finds nothing of what it did in another one.
        clients = Clients(plan.data, model, plan.client, replay.a_round, plan.make_hooks, replay.seed, remember=False)
        shadow = UpdateStore(job.out, arrays=list(store.shapes), dtype=store.dtype)
        shadow.begin(replay.threat_model)
        try:
            for number, server_round in enumerate(job.rounds, 1):
                messages = [Request(message, model) for message in store.messages(server_round)]
                if messages:  # else nobody replied
                    _round(shadow, server_round, messages, replay.chosen(server_round), clients)
                told(number * replay.a_round)
        finally:
            shadow.close()


def _round(
    shadow: UpdateStore, server_round: int, messages: Sequence[Request], chosen: Sequence[int], clients: Clients
) -> None:
    if len(messages) == 1:
        (message,) = messages
        replies = clients.answers(sorted(chosen), message.server_round, message.theta, step=message.step)
        shadow.append(server_round, [message.arrays], replies, [message.told])
        return
    models: list[Request] = []
    tolds: list[Any] = []
    requests = {}
    for i, client in enumerate(chosen):
        message = messages[i % len(messages)]
        sent = next((n for n, other in enumerate(models) if message.sends_as(other)), len(models))
        if sent == len(models):
            models.append(message)
        if message.told not in tolds:
            tolds.append(message.told)
        requests[client] = message, sent, tolds.index(message.told)
    replies = []
    for row, client in enumerate(sorted(requests)):
        message, sent, told = requests[client]
        replies.append(
            clients.answer(client, message.server_round, message.theta, row, step=message.step, sent=sent, told=told)
        )
    shadow.append(server_round, [model.arrays for model in models], replies, tolds)


class Request:
    """A captured message as a client of the SER app reads it."""

    def __init__(self, message: SentMessage, model: LocalModel) -> None:
        self.arrays, self.told = message.arrays, message.told
        self.theta = Flat(model.shapes)
        records = {(key, kind): values for key, kind, values in message.told.records}
        config = records.get(("config", "config"), {})
        try:
            if ("arrays", "arrays") not in records or set(message.arrays) != set(model.shapes):
                raise ValueError(f"the arrays are {', '.join(message.arrays)}")
            self.theta.fill(message.arrays)
            self.server_round = int(config["server-round"])
            self.step = float(config["learning-rate"]) if config.get("reply") == "step" else None
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"matched shadows: what the victims were sent is not what this network's clients read ({error}); "
                "for other apps there is fl_privacy.shadow_updates"
            ) from error

    def sends_as(self, other: Request) -> bool:
        """Whether the arrays are the same."""
        return all(array.tobytes() == other.arrays[name].tobytes() for name, array in self.arrays.items())
