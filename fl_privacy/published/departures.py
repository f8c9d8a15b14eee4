"""In which settings a run is not the study: held against the presets that are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fl_privacy.config import load

_STUDIED = {
    "feng2021": {"iemocap": 10, "crema_d": 1, "msp_improv": 10},
}
"""The corpora of a study and the clients that each speaker is cut into; the attacker owns all but the private one."""

_FEDERATION = ("rounds", "clients_per_round", "learning_rate", "batch_size", "folds", "examples_per_client")
_CAPTURE = ("observe", "every", "clients")
_RATES = {"fedsgd": 0.1, "fedavg": 5e-4}


def departures(study: str, simulation: Mapping[str, Any], attack: str) -> list[str]:
    """Say what of a simulation is not as in the study, beside what a table of the comparison tells apart.

    Parameters
    ----------
    study : str
        One of `fl_privacy.published.STUDIES`.
    simulation : mapping
        The part ``simulation`` of a result.json.
    attack : str
        Label of the attack that is looked at.

    Returns
    -------
    list of str
        Each ``"what ours (study: theirs)"``.
    """
    corpora = _STUDIED[study]
    algorithm = simulation["federation"]["algorithm"]
    preset = load(f"{study}-{algorithm}").resolved()
    private, shards = simulation["private"], simulation["federation"].get("shards_per_speaker", 1)
    told = []

    def hold(what: str, ours: Any, theirs: Any) -> None:
        if ours != theirs:
            told.append(f"{what} {_text(ours)} (study: {_text(theirs)})")

    used = [private, *simulation["auxiliary"]]
    if private["corpus"] in corpora:
        others = sorted(set(corpora) - {private["corpus"]})
        hold("auxiliary", sorted(choice["corpus"] for choice in simulation["auxiliary"]), others)
    else:
        told.append(f"private {private['corpus']} (study: {_text(list(corpora))})")
    for choice in used:
        if choice["corpus"] in corpora:
            hold(f"shards of {choice['corpus']}", choice.get("shards", shards), corpora[choice["corpus"]])
    hold("attribute", private["attribute"], preset["private"]["attribute"])
    hold("task", simulation["task"], preset["task"])
    hold("normalise", simulation["features"]["normalise"], preset["features"]["normalise"])
    ours = {"learning_rate": _RATES[algorithm], **simulation["federation"]}
    for key in _FEDERATION:
        hold(key, ours.get(key), preset["federation"].get(key))
    for key in _CAPTURE:
        hold(f"capture.{key}", simulation["capture"].get(key), preset["capture"].get(key))
    for key in sorted({*simulation["shadow"], *preset["shadow"]}):
        hold(f"shadow.{key}", simulation["shadow"].get(key), preset["shadow"].get(key))
    entry = next((a for a in simulation["attack"] if attack in (a.get("label"), a["name"])), {"name": attack})
    expected = preset["attack"][0]
    if entry["name"] == expected["name"]:
        apart = ("name", "label", "layers", "permutations", "device", "seed")
        for key in sorted({*entry, *expected} - set(apart)):
            hold(f"{entry['name']}.{key}", entry.get(key), expected.get(key))
    return told


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " + ".join(map(str, value))
    return "default" if value is None else str(value)
