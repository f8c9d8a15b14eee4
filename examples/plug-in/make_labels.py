"""Write victim.csv and shadow.csv, which say the sex of each practice's patients: python make_labels.py [FOLDER]."""

import argparse
import csv
from pathlib import Path

from clinics.task import deal_out


def write_labels(folder: Path, partition_seed: int = 1) -> None:
    """Write the label files of both sides.

    Parameters
    ----------
    folder : Path
        Where to; made if there is none.
    partition_seed : int
        The app's `partition-seed`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    people = deal_out(partition_seed)
    for name, practices in (("victim", people.victim), ("shadow", people.shadow)):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["client", "sex"])
            writer.writerows([i, practice.sex] for i, practice in enumerate(practices))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path())
    parser.add_argument("--partition-seed", type=int, default=1)
    arguments = parser.parse_args()
    write_labels(arguments.folder, arguments.partition_seed)
