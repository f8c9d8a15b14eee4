"""Attack the app over several ways of dealing the patients out, with true and with permuted labels.

Usage: python measure.py [--partitions 20] [--null 20]. Everything runs in this process; nothing is kept.
"""

import argparse
import logging
import tempfile
import tomllib
from collections import defaultdict
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

import fl_privacy as flp
from clinics.client_app import app as client_app
from clinics.server_app_captured import app as server_app
from clinics.task import PRACTICES, deal_out, test
from fl_privacy.attacks.attribute import InputReconstruction, RawLinear
from fl_privacy.audit import metrics
from fl_privacy.updates import Labels
from make_labels import write_labels

ATTACKS = ["input-reconstruction", "raw-linear"]
CONFIG = tomllib.loads((Path(__file__).parent / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]


def federate(folder: Path, partition: int) -> dict[str, float]:
    """Run both federations, from different initialisations, and the attacker's clients from the victims' models.

    The captured updates go into folders called victim, shadow and matched. Returns R squared.
    """
    found = {}
    for number, name in enumerate(("victim", "shadow")):
        config = CONFIG | {"store": str(folder / name), "people": name, "partition-seed": partition}
        context = flp.run_simulation(server_app, client_app, PRACTICES, config, seed=2 * partition + number)
        found[f"R squared ({name})"] = test(context.state["arrays"].to_torch_state_dict(), partition)
    matched = CONFIG | {"people": "shadow", "partition-seed": partition}
    flp.shadow_updates(
        flp.UpdateStore(folder / "victim"), client_app, PRACTICES, folder / "matched", run_config=matched
    )
    return found


def attack(folder: Path, labels: dict[str, Labels], shadow: str = "shadow") -> dict[str, float]:
    """Attack both ways that the command line does by default; return each AUC per practice."""
    evaluation = flp.evaluate(
        [InputReconstruction(C=1e-2, classifier="logistic"), RawLinear(classifier="logistic")],
        flp.UpdateStore(folder / "victim"),
        shadow=flp.UpdateStore(folder / shadow),
        labels=labels["victim"],
        shadow_labels=labels["shadow"],
        attribute="sex",
        permutations=1,
        names=ATTACKS,
    )
    return {name: audit.auc().value for name, audit in (evaluation.audits | evaluation.blind).items()}


def from_patients(partition: int) -> float:
    """Return the AUC of an attacker who is handed the mean of each practice's patients instead of its updates."""
    people = deal_out(partition)
    means = {name: np.stack([p.x.numpy().mean(axis=0) for p in getattr(people, name)]) for name in ("victim", "shadow")}
    sex = {name: np.array([p.sex == "2" for p in getattr(people, name)]) for name in ("victim", "shadow")}
    scale = means["shadow"].std(axis=0)
    model = LogisticRegression(C=1e-2, class_weight="balanced").fit(means["shadow"] / scale, sex["shadow"])
    scores = model.decision_function(means["victim"] / scale)
    return metrics.auc(scores[sex["victim"]], scores[~sex["victim"]])


def permuted(labels: Labels, rng: np.random.Generator) -> Labels:
    """Give the practices each other's labels."""
    rows = list(labels.rows.values())
    sexes = rng.permutation([row["sex"] for row in rows])
    return Labels({client: row | {"sex": str(sex)} for client, row, sex in zip(labels.rows, rows, sexes, strict=True)})


def main(partitions: int, nulls: int) -> None:
    """Measure and print."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    columns: dict[str, list[float]] = defaultdict(list)
    for partition in range(1, partitions + 1):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            utility = federate(folder, partition)
            write_labels(folder, partition)
            labels = {side: Labels.read(folder / f"{side}.csv") for side in ("victim", "shadow")}
            matched = attack(folder, labels, "matched")
            found = attack(folder, labels) | {f"{name}, matched": matched[name] for name in ATTACKS}
            found |= {"mean of the patients": from_patients(partition)} | utility
            for column, value in found.items():
                columns[column].append(value)
            rng = np.random.default_rng(partition)
            for _ in range(nulls):
                for suffix, shadow in (("", "shadow"), (", matched", "matched")):
                    null = attack(folder, {side: permuted(truth, rng) for side, truth in labels.items()}, shadow)
                    for name in ATTACKS:
                        columns[f"{name}{suffix}, sex permuted"].append(null[name])
        print(f"partition {partition}: " + ", ".join(f"{key} {value:.3f}" for key, value in found.items()), flush=True)
    heads = {"n": 5, "mean": 8, "least": 8, "median": 8, "95 %": 8, "greatest": 10}
    print("\n" + " " * 46 + "".join(f"{head:>{width}}" for head, width in heads.items()))
    for column, values in columns.items():
        least, median, high, greatest = np.quantile(values, [0, 0.5, 0.95, 1])
        print(f"{column:46}{len(values):5}{np.mean(values):8.3f}{least:8.3f}{median:8.3f}{high:8.3f}{greatest:10.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partitions", type=int, default=20)
    parser.add_argument("--null", type=int, default=20, help="permutations of the labels in each partition")
    arguments = parser.parse_args()
    main(arguments.partitions, arguments.null)
