"""A grid of simulations over processes: resumable, one table at the end, seeds merged by speaker."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fl_privacy._processes import cores, prepare_worker
from fl_privacy.attacks.files import aligned, cell, read_result
from fl_privacy.audit import Claim, Control
from fl_privacy.audit.files import write_atomically
from fl_privacy.config import ConfigError, SimulationFile, load, parse_value
from fl_privacy.errors import UserError
from fl_privacy.sims.federated_ser import Progress
from fl_privacy.sims.merge import merge_seeds
from fl_privacy.sims.run import default_folder, run_file


@dataclass(frozen=True)
class Cell:
    """One point of the grid.

    Attributes
    ----------
    settings : dict
        The varied keys and their values.
    files : tuple of SimulationFile
        One a seed.
    folder : Path
        Where its seeds' run folders and its merged result lie.
    """

    settings: Mapping[str, Any]
    files: tuple[SimulationFile, ...]
    folder: Path

    def run_folder(self, file: SimulationFile) -> Path:
        """Return the run folder of one seed."""
        return self.folder / f"seed-{file.simulation.seed}"


def sweep(
    source: str | Path | Mapping[str, Any],
    vary: Sequence[str] = (),
    *,
    seeds: int = 1,
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    processes: int | None = None,
    keep_stores: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Run a simulation for every combination of settings and several seeds, and merge the seeds.

    Parameters
    ----------
    source : str, Path or mapping
        A preset's name, a TOML file, or its content.
    vary : sequence of str
        ``"section.key=v1,v2"``. Keys that change together are joined: ``"a.b+c.d=v1+w1,v2+w2"``.
    seeds : int
        How many, counted up from the file's own. Seed s holds out speaker fold s mod 5: five seeds are the five folds.
    settings : sequence of str
        Changes for all cells.
    out : str or Path, optional
        Sweep folder; by default ``runs/sweep-<name>-<hash>``. The same call goes on where a killed one stopped.
    processes : int, optional
        Runs at a time; by default one a core.
    keep_stores : bool
        Whether runs keep their captured updates: gigabytes, and personal data.
    progress : callable, optional
        Called with (what, runs done, runs in all).

    Returns
    -------
    Path
        The sweep folder. ``sweep.json`` lists {settings, path of result}; a cell's ``result.json`` holds the merged
        claims: a speaker's scores are standardised within each run and averaged over the runs it took part in.
    """
    if seeds < 1:
        raise ConfigError(f"seeds must be at least 1, not {seeds}")
    fixed = [*settings, *([] if keep_stores else ["capture.keep=false"])]
    base = load(source, fixed)
    axes = [_axis(text) for text in vary]
    root = Path(out) if out is not None else default_folder(f"sweep-{Path(str(source)).stem}", base)
    cells = _cells(source, fixed, axes, seeds, base.simulation.seed, root)
    _run_all(cells, processes or cores(), progress)
    entries: list[dict[str, Any]] = []
    for point in cells:
        merge_seeds(point.folder, point.files, [point.run_folder(file) for file in point.files])
        shown = {"settings": dict(point.settings), "seeds": [f.simulation.seed for f in point.files]}
        entries.append({**shown, "path": str((point.folder / "result.json").relative_to(root))})
        entries += [
            {
                "settings": {**point.settings, "simulation.seed": file.simulation.seed},
                "path": str((point.run_folder(file) / "result.json").relative_to(root)),
            }
            for file in point.files
        ]
    write_atomically(root / "sweep.json", json.dumps(entries, indent=1) + "\n")
    write_atomically(root / "table.txt", table(root) + "\n")
    return root


def table(root: Path) -> str:
    """Return the sweep's table as plain text: one line a cell, the primary attack per speaker and its controls."""
    heads = ("settings", "seeds", "AUC", "UAR", "best blind AUC", "over best blind", "p aux", "p private", "SER UAR")
    rows: list[tuple[str, ...]] = [heads]
    for entry in json.loads((root / "sweep.json").read_text(encoding="utf-8")):
        if "seeds" not in entry:
            continue
        result = read_result(root / entry["path"])
        claims = map(Claim.from_dict, result["claims"])
        mine = {c.metric: c for c in claims if c.primary and c.unit == "speaker"}
        best = mine["auc_over_best_blind"].conditions["best_blind"]
        controls = map(Control.from_dict, result["controls"])
        aucs = {c.control: c for c in controls if (c.unit, c.metric, c.of) == ("speaker", "auc", mine["auc"].attack)}
        utility, permuted = result["utility"]["uar"], "permuted-auxiliary-labels"
        rows.append(
            (
                _settings(entry["settings"]) or "-",
                str(len(entry["seeds"])),
                cell(mine["auc"]),
                cell(mine["uar"]),
                f"{best} {cell(aucs[best])}" if best in aucs else "chance 0.500",
                cell(mine["auc_over_best_blind"]),
                f"{aucs[permuted].p_value:.3f}" if permuted in aucs else "",
                f"{aucs['permuted-private-labels'].p_value:.4f}",
                "" if utility is None else f"{utility:.3f}",
            )
        )
    return aligned(rows)


def _settings(settings: Mapping[str, Any]) -> str:
    """Return the varied settings, keys by their last part where that tells them apart."""
    last = [key.rsplit(".", 1)[-1] for key in settings]
    keys = [short if last.count(short) == 1 else key for key, short in zip(settings, last, strict=True)]
    return " ".join(f"{key}={value}" for key, value in zip(keys, settings.values(), strict=True))


# ------------------------------------------------------------------ the grid


def _axis(text: str) -> list[dict[str, Any]]:
    """Read ``a.b=v1,v2`` or ``a.b+c.d=v1+w1,v2+w2`` into one dict of settings a point."""
    joined, separator, values = text.partition("=")
    keys = [key.strip() for key in joined.split("+")]
    if not separator or not all(keys) or not values.strip():
        raise ConfigError(f"--vary {text!r} is not of the form section.key=value,value")
    points = []
    for point in _split(values, ","):
        parts = _split(point, "+") if len(keys) > 1 else [point]
        if len(parts) != len(keys):
            raise ConfigError(f"--vary {text!r}: {point!r} has {len(parts)} value(s) for {len(keys)} keys")
        points.append({key: parse_value(part) for key, part in zip(keys, parts, strict=True)})
    if any(point in points[:number] for number, point in enumerate(points)):
        raise ConfigError(f"--vary {text!r} names a value twice")
    return points


def _split(text: str, separator: str) -> list[str]:
    """Split outside of brackets and quotes."""
    parts, depth, quote, current = [], 0, "", ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        if character == separator and not depth and not quote:
            parts.append(current)
            current = ""
        else:
            current += character
    return [*parts, current]


def _cells(
    source: Any, fixed: Sequence[str], axes: Sequence[list[dict[str, Any]]], seeds: int, first: int, root: Path
) -> list[Cell]:
    cells = []
    for combination in itertools.product(*axes):
        chosen: dict[str, Any] = {k: v for point in combination for k, v in point.items()}
        start = int(chosen.get("simulation.seed", first))
        texts = [*fixed, *(f"{key}={_toml(value)}" for key, value in chosen.items())]
        files = tuple(load(source, [*texts, f"simulation.seed={seed}"]) for seed in range(start, start + seeds))
        name = "_".join(_safe(str(value)) for value in chosen.values()) or "all"
        cells.append(Cell(chosen, files, root / name))
    folders = [cell.folder for cell in cells]
    if len(set(folders)) == len(folders):
        return cells
    return [replace(cell, folder=cell.folder.with_name(f"{n:03d}_{cell.folder.name}")) for n, cell in enumerate(cells)]


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-")[:60] or "x"


def _toml(value: Any) -> str:
    """Write a value so that it reads back as the same."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return json.dumps(value) if isinstance(value, str | bool) else str(value)


# ------------------------------------------------------------------ runs


def _run_all(cells: Sequence[Cell], processes: int, progress: Progress | None) -> None:
    jobs = [(file, cell.run_folder(file)) for cell in cells for file in cell.files]
    tell = progress or (lambda what, done, total: None)
    tell("runs", 0, len(jobs))
    if processes == 1 or len(jobs) == 1:
        for number, (file, folder) in enumerate(jobs):
            run_file(file, folder)
            tell("runs", number + 1, len(jobs))
        return
    # The first run of each corpus fills the feature cache for the others: no work is done twice at the same time.
    warmed: set[str] = set()
    for file, _ in jobs:
        _warm(file, tell, warmed)
    with ProcessPoolExecutor(
        min(processes, len(jobs)), mp_context=multiprocessing.get_context("spawn"), initializer=prepare_worker
    ) as pool:
        futures = {pool.submit(_run_one, file.resolved(), str(folder)): folder for file, folder in jobs}
        try:
            for number, future in enumerate(as_completed(futures)):
                try:
                    future.result()
                except UserError as error:
                    raise UserError(f"{futures[future]}: {error}") from None
                tell("runs", number + 1, len(jobs))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _warm(file: SimulationFile, tell: Progress, warmed: set[str]) -> None:
    from fl_privacy.corpora import Corpus
    from fl_privacy.features import extract
    from fl_privacy.sims.partition import task_corpus

    for choice in (file.private, *file.auxiliary):
        key = json.dumps([file.features.name, choice.corpus, choice.root, choice.options, file.task.model_dump()])
        if key not in warmed:
            corpus = task_corpus(Corpus.load(choice.corpus, choice.root, **choice.options), file.task)
            what = f"features of {choice.corpus}"
            extract(corpus, file.features.name, progress=lambda done, total, what=what: tell(what, done, total))  # type: ignore[misc]
            warmed.add(key)


def _run_one(settings: dict[str, Any], folder: str) -> None:
    run_file(SimulationFile.model_validate(settings), Path(folder))
