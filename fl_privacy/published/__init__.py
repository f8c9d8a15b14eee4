"""What a published study reports, as data, to lay beside results of one's own.

One CSV a study, one number a row. `values` reads it; ``fl-privacy published`` prints it.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib import resources

from fl_privacy.errors import UserError
from fl_privacy.published._tables import of_tables

STUDIES = {
    "feng2021": "Feng et al., attribute inference on speech emotion recognition in federated learning "
    "(arXiv 2112.13416, 2204.02500, and what the public code has reported since)",
}
"""The studies by name."""

GENERATIONS = {
    "A": "first release, December 2021; FedSGD with a learning rate of .05",
    "B": "December 2021 to May 2022; FedSGD with .1; all results under noise",
    "C": "September to December 2022; features extracted again, another choice of the model",
    "HEAD": "files of a re-tuning in September 2022, with two dropouts of the attack",
}
"""When a number was published, and with what. Numbers of two generations are of different experiments."""


@dataclass(frozen=True)
class Published:
    """One published number.

    Attributes
    ----------
    table : str
        Where it stands: T0 means over all; T1a, T1b the attack by layer; T2 release C; T3 dropout; T4 SER; T5 the
        re-tuned attack; T6, T6b the attack under noise and its means; T7 SER under noise; full, one network over all
        layers.
    generation : str
        One of `GENERATIONS`.
    private : str
        Corpus; "all" for a mean over the three.
    feature : str
        Features; "mean" for a mean over them.
    algorithm : str
        "fedsgd" or "fedavg".
    quantity : str
        "attack_uar" (per update, or per client where `n_updates` is given), "attack_asr" (share of right guesses,
        averaged over clients), "ser_uar" or "ser_acc" (held-out speakers).
    layer : str
        "first", "second", "last", "fusion" of the three, "full"; empty for SER.
    dropout, attack_dropout : float or None
        Of the SER model's first layer, and of the attack.
    learning_rate : float
        Of a FedAvg client, or of the FedSGD server.
    local_epochs : int
    epsilon : float
        Nominal epsilon of the noise, infinite for none.
    n_updates : int or None
        How many leaked updates of a client are averaged; 100 stands for all.
    value : float
        A fraction.
    note : str
        "*k": the mean of k folds' files instead of five. Where releases disagree, or a choice looks optimistic.
    """

    table: str
    generation: str
    private: str
    feature: str
    algorithm: str
    quantity: str
    layer: str
    dropout: float | None
    attack_dropout: float | None
    learning_rate: float
    local_epochs: int
    epsilon: float
    n_updates: int | None
    value: float
    note: str


_NUMBERS = {
    "dropout": float,
    "attack_dropout": float,
    "learning_rate": float,
    "local_epochs": int,
    "epsilon": float,
    "n_updates": int,
    "value": float,
}


def values(study: str, tables: Sequence[str] | None = None) -> tuple[Published, ...]:
    """Read a study's numbers.

    Parameters
    ----------
    study : str
        One of `STUDIES`.
    tables : sequence of str, optional
        Only of these tables.

    Raises
    ------
    UserError
        Where there is no such study or table.
    """
    if study not in STUDIES:
        raise UserError(
            f"no published study {study!r} in the package; there is: {', '.join((*STUDIES, 'tseng2022', 'pizzi2023'))}"
        )
    return of_tables(study, _read(study), tables)


@functools.cache
def _read(study: str) -> tuple[Published, ...]:
    text = resources.files("fl_privacy.published").joinpath(f"{study}.csv").read_text(encoding="utf-8")
    names = [field.name for field in fields(Published)]
    made = []
    for row in csv.DictReader(text.splitlines()):
        read = {n: _NUMBERS[n](row[n]) if row[n] else None for n in _NUMBERS}
        made.append(Published(**{**{n: row[n] for n in names}, **read}))  # type: ignore[arg-type]
    return tuple(made)
