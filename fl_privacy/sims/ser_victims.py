"""The private side of a federation: who takes part how often, under which defenses, and what these promise."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from fl_privacy.audit import Privacy
from fl_privacy.config import FederatedSerFile
from fl_privacy.defenses import Accounted, Defense, check_defenses, make_defenses
from fl_privacy.errors import UserError
from fl_privacy.sims.ser_data import Voices
from fl_privacy.training.accounting import UNITS, Ledger
from fl_privacy.training.federation import FederationPlan
from fl_privacy.training.participation import DEFAULT_LEARNING_RATES, ClientSettings, Participation
from fl_privacy.training.shards import ClientData
from fl_privacy.updates import Update


class Victims:
    """The private clients and their defenses.

    Parameters
    ----------
    settings : FederatedSerFile
    voices : Voices
    """

    def __init__(self, settings: FederatedSerFile, voices: Voices) -> None:
        self._settings, self._voices = settings, voices
        self.defenses = [d.model_dump() for d in settings.defense]
        """Their settings."""

    @cached_property
    def clients(self) -> int:
        """How many there are."""
        return len(self._voices.partition("victim", self._settings.simulation.seed).clients)

    @cached_property
    def plan(self) -> FederationPlan:
        """Who takes part when, and with what settings."""
        settings = self._settings.federation
        rate = settings.learning_rate or DEFAULT_LEARNING_RATES[settings.algorithm]
        client = ClientSettings(
            self._settings.simulation.seed, settings.algorithm, settings.batch_size, rate, settings.local_epochs
        )
        a_round = settings.a_round_of(self.clients)
        return FederationPlan(Path(), client, settings.rounds, a_round, settings.dropout)

    @cached_property
    def participations(self) -> int:
        """In how many rounds a private client takes part at most: drawn beforehand, from the seed."""
        return max(self.plan.participations(self.clients))

    @property
    def client(self) -> ClientSettings:
        """What each is told, the number of its participations with it."""
        return replace(self.plan.client, participations=self.participations)

    def check(self, clients: Sequence[ClientData] = ()) -> None:
        """Refuse defenses with a wrong setting, that do not go together, or that a client cannot do."""
        federation, defenses = self._settings.federation, make_defenses(self.defenses)
        check_defenses(defenses, federation.algorithm, federation.reply, clients=len(clients) or None)
        if federation.fraction_evaluate and any(type(d).promises is not Defense.promises for d in defenses):
            raise UserError(
                "federation.fraction_evaluate: clients would answer their accuracy as it is, outside of what the "
                "defense accounts for; leave it at 0"
            )
        for number, client in enumerate(clients):
            private = torch.full((len(client.train_labels),), -1)
            if client.train_private is not None:
                private = torch.from_numpy(client.train_private)
            for defense in defenses:
                rng = np.random.default_rng(0)
                defense.ready(Participation(self.client, 1, number, len(client.train_labels), private, rng, {}))

    def noise(self, update: Update) -> float:
        """Say how large the defenses' noise is on each coordinate of an update, as far as that can be said.

        What a later defense does to an update (clipping, say) may make earlier noise smaller, nobody knows by how much:
        then that noise is left out.
        """
        defenses = make_defenses(self.defenses)
        scales = [0.0]
        for number, defense in enumerate(defenses):
            if any(type(later).update is not Defense.update for later in defenses[number + 1 :]):
                continue
            others = (*defenses[:number], *defenses[number + 1 :])
            counts = all(type(other).weight is Defense.weight for other in others)
            scales.append(defense.noise(self.client, update.num_examples if counts else None))
        step = self.plan.client.learning_rate if self._settings.federation.reply == "step" else 1.0
        return step * math.hypot(*scales)

    def promises(self, ledgers: Path) -> list[Privacy]:
        """Account for what the private clients did, by the noisy steps that they took (a file; see `Ledger`)."""
        if not self.defenses:
            return []
        plan, kept = self.plan, json.loads(ledgers.read_text(encoding="utf-8"))
        done = Accounted(
            settings=self.client,
            ledgers=[Ledger.read(memory, unit) for unit in UNITS for memory in kept.values()],
            clients=self.clients,
            clients_per_round=plan.clients_per_round,
            rounds=plan.rounds,
        )
        return [promise for defense in make_defenses(self.defenses) for promise in defense.promises(done)]
