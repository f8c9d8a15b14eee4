"""A grid of simulations over processes: resumable, one table at the end, seeds merged by speaker."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from fl_privacy._processes import THREAD_SETTINGS, cores, prepare_worker
from fl_privacy.attacks.files import aligned, cell
from fl_privacy.audit.claims import jsonable
from fl_privacy.audit.files import write_atomically
from fl_privacy.audit.reading import TITLES, columns
from fl_privacy.config import KINDS, ConfigError, FederatedSerFile, SimulationFile, SweepSettings, load_any
from fl_privacy.errors import UserError
from fl_privacy.report import epsilon, toml, tradeoff, write_sweep_report
from fl_privacy.report.run import PERMUTATIONS, Run
from fl_privacy.report.swept import Sweep, in_words
from fl_privacy.sims.grid import Cell, cells_of
from fl_privacy.sims.merge import merge_seeds
from fl_privacy.sims.progress import Progress, silent
from fl_privacy.sims.run import default_folder, run_file


def sweep(
    source: str | Path | Mapping[str, Any],
    vary: Sequence[str] | None = None,
    *,
    seeds: int | None = None,
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    processes: int | None = None,
    ray: str | None = None,
    keep_stores: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Run a simulation for every combination of settings and several seeds, and merge the seeds.

    Parameters
    ----------
    source : str, Path or mapping
        A preset's name, a TOML file, or its content.
    vary : sequence of str, optional
        ``"section.key=v1,v2"``. Keys that change together are joined: ``"a.b+c.d=v1+w1,v2+w2"``. By default what the
        file's ``[sweep]`` says.
    seeds : int, optional
        How many, counted up from the file's own. Seed s holds out speaker fold s mod 5: five seeds are the five folds.
        By default what the file's ``[sweep]`` says, else 1.
    settings : sequence of str
        Changes for all cells.
    out : str or Path, optional
        Sweep folder; by default ``runs/sweep-<name>-<hash>``. The same call goes on where a killed one stopped.
    processes : int, optional
        Runs at a time; by default one a core.
    ray : str, optional
        Address of a Ray cluster that is to do the runs ("auto": the one that this machine is part of; "local": one that
        is started for it here). Its machines need the same package, and the sweep folder, corpora and feature cache at
        the same paths.
    keep_stores : bool
        Whether federated runs keep their captured updates: gigabytes, and personal data.
    progress : callable, optional
        Called with (what, runs done, runs in all).

    Returns
    -------
    Path
        The sweep folder. ``sweep.json`` lists {settings, path of result}, once for each grid that a cell stands in (an
        infinite setting as "inf"); a cell's ``result.json`` holds the merged claims: a speaker's scores are
        standardised within each run and averaged over the runs it took part in.
    """
    if seeds is not None and seeds < 1:
        raise ConfigError(f"seeds must be at least 1, not {seeds}")
    fixed = [*settings]
    base = load_any(source, fixed)
    if isinstance(base, FederatedSerFile) and not keep_stores:
        fixed.append("capture.keep=false")
        base = load_any(source, fixed)
    elif keep_stores and not isinstance(base, FederatedSerFile):
        raise ConfigError(f"keep_stores is for federated simulations; {base.simulation.kind!r} captures no updates")
    if "sweep" not in type(base).model_fields:
        raise ConfigError(f"simulations of kind {base.simulation.kind!r} cannot be swept; `fl-privacy run` runs one")
    chosen = _chosen(getattr(base, "sweep", None) or SweepSettings(), vary, seeds)
    base = base.model_copy(update={"sweep": chosen})
    root = Path(out) if out is not None else default_folder(f"sweep-{Path(str(source)).stem}", base)
    cells = cells_of(source, fixed, chosen, root)
    if any(getattr(file, "beside", ()) for cell in cells for file in cell.files):
        raise ConfigError("beside is of one run; a sweep varies the defense itself: --vary 'defense=...'")
    if ray is not None and processes is not None and ray != "local":
        raise ConfigError("processes is for runs on this machine; a Ray cluster runs as many as it has CPUs")
    _run_all(cells, processes or cores(), progress, ray)
    entries: list[dict[str, Any]] = []
    for point in {c.folder: c for c in cells}.values():
        merge_seeds(point.folder, point.files, [point.run_folder(file) for file in point.files])
    for point in cells:
        path = str((point.folder / "result.json").relative_to(root))
        shown = {"settings": dict(point.settings), "seeds": [f.simulation.seed for f in point.files]}
        entries.append({**shown, "grid": point.grid, "path": path})
        entries += [
            {
                "settings": {**point.settings, "simulation.seed": file.simulation.seed},
                "grid": point.grid,
                "path": str((point.run_folder(file) / "result.json").relative_to(root)),
            }
            for file in point.files
        ]
    write_atomically(root / "sweep.json", json.dumps(jsonable(entries), indent=1, allow_nan=False) + "\n")
    write_atomically(root / "simulation.toml", toml.dumps(base.resolved()))
    write_atomically(root / "table.txt", table(root) + "\n")
    write_sweep_report(root)
    return root


def _chosen(own: SweepSettings, vary: Sequence[str] | None, seeds: int | None) -> SweepSettings:
    """Return a file's sweep with what a call names instead."""
    if vary is not None:
        own = SweepSettings(vary=tuple(vary), seeds=own.seeds)
    return own if seeds is None else own.reseeded(seeds)


def table(root: Path) -> str:
    """Return the sweep's table as plain text: one line a cell, the primary attack per speaker and its controls."""
    whole = Sweep.read(root)
    cells = whole.cells
    pareto = {path: "yes" if best else "" for path, best in tradeoff.marks(whole).items()}
    quoted, second = (" / ".join(dict.fromkeys(TITLES[columns(c.run.main)[i]] for c in cells)) for i in (0, 1))
    heads = ("settings", "seeds", quoted, second, f"best blind {quoted}", "over best blind")
    defended = (f"static {quoted}", "epsilon (from below)", "Pareto set") if pareto else ()
    task = " / ".join(dict.fromkeys(_pair(c.run)[0] for c in cells))
    rows: list[tuple[str, ...]] = [(*heads, "p aux", "p private", task, *defended)]
    for point in cells:
        run = point.run
        best = run.best_blind or "chance"
        control = run.baseline(best, run.metric)
        guessed = "" if run.guessing is None else f"{run.guessing:.3f}"
        p = [run.permuted(run.primary, name) for name in PERMUTATIONS]
        rows.append(
            (
                " ".join(in_words(point.settings)) or "-",
                str(len(point.seeds)),
                cell(run.quoted(run.primary)),
                cell(run.claim(run.primary, columns(run.main)[1])),
                f"{best} {cell(control) or guessed}",
                cell(run.claim(run.primary, run.over_blind)),
                *(
                    "" if c is None or c.p_value is None else f"{c.p_value:.{n}f}"
                    for c, n in zip(p, (3, 4), strict=True)
                ),
                _utility(run),
                *(() if not pareto else (cell(tradeoff.pair(run)[1]), _epsilons(run), pareto[point.path])),
            )
        )
    if not defended:
        return aligned(rows)
    told = (
        "Static: the attacker does not know the defense; the other columns are of one that does. Pareto set: no other",
        "defense has as much utility and as little leakage, the larger of both. A point of it that is picked after",
        "the run is a choice.",
    )
    return "\n".join((aligned(rows), *told))


def _pair(run: Run) -> tuple[str, tuple[float, float] | None]:
    """Name what the table says of utility; of recognisers and encoders it has two numbers: on members, and others."""
    part = run.part("utility")
    for title, members, others in (
        ("EER members / others", "eer_members", "eer_nonmembers"),
        ("loss members / others", "loss_members", "loss_nonmembers"),
    ):
        if part.get(members) is not None:
            return title, (part[members], part[others])
    return "SER UAR", None


def _utility(run: Run) -> str:
    both, uar = _pair(run)[1], run.part("utility").get("uar")
    if both is not None:
        return f"{both[0]:.3f} / {both[1]:.3f}"
    return "" if uar is None else f"{uar:.3f}"


def _epsilons(run: Run) -> str:
    return "; ".join(f"{p.unit} {epsilon.upper(p)} ({epsilon.lower(p)})" for p in run.privacy)


# ------------------------------------------------------------------ runs


def _run_all(cells: Sequence[Cell], processes: int, progress: Progress | None, ray: str | None) -> None:
    # A cell that stands in two grids is run once.
    jobs = [(file, folder) for folder, file in {c.run_folder(f): f for c in cells for f in c.files}.items()]
    tell = progress or silent
    tell("runs", 0, len(jobs))
    if ray is None and (processes == 1 or len(jobs) == 1):
        for number, (file, folder) in enumerate(jobs):
            run_file(file, folder)
            tell("runs", number + 1, len(jobs))
        return
    # The first run of each corpus fills the feature cache for the others: no work is done twice at the same time.
    warmed: set[str] = set()
    for file, _ in jobs:
        if isinstance(file, FederatedSerFile):
            _warm(file, tell, warmed)
    over = _over_processes(jobs, processes) if ray is None else _over_ray(jobs, ray, processes)
    for number, (folder, outcome) in enumerate(over):
        try:
            outcome()
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None
        tell("runs", number + 1, len(jobs))


Done = Iterator[tuple[Path, Callable[[], None]]]
"""Runs that are over: the folder, and what raises the error that ended it, if one did."""


def _over_processes(jobs: Sequence[tuple[SimulationFile, Path]], processes: int) -> Done:
    with ProcessPoolExecutor(
        min(processes, len(jobs)), mp_context=multiprocessing.get_context("spawn"), initializer=prepare_worker
    ) as pool:
        futures = {pool.submit(_run_one, file.resolved(), str(folder)): folder for file, folder in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _over_ray(jobs: Sequence[tuple[SimulationFile, Path]], address: str, processes: int) -> Done:
    import ray

    one_thread = dict.fromkeys(THREAD_SETTINGS, "1")
    here = {"num_cpus": processes, "include_dashboard": False} if address == "local" else {"address": address}
    told = {"env_vars": one_thread | _passed_on()}
    try:
        _knock(address)
        ray.init(**here, runtime_env=told, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"no Ray cluster at {address!r}: {str(error).strip().splitlines()[-1]}") from error
    try:
        run_one = ray.remote(num_cpus=1)(_run_one)
        waiting = {run_one.remote(file.resolved(), str(folder.resolve())): folder for file, folder in jobs}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(done), lambda done=done: _fetched(done)  # type: ignore[misc]
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """See that somebody listens at an address: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10.0).close()


def _fetched(reference: Any) -> None:
    import ray

    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


def _passed_on() -> dict[str, str]:
    """Return the settings of this process that its runs need elsewhere."""
    return {name: value for name, value in os.environ.items() if name.startswith(("FL_PRIVACY_", "FLWR_"))}


def _warm(file: FederatedSerFile, tell: Progress, warmed: set[str]) -> None:
    from fl_privacy.corpora import Corpus
    from fl_privacy.features import extract
    from fl_privacy.sims.partition import task_corpus

    for choice in (file.private, *file.auxiliary):
        features = [file.features.name, file.features.options]
        key = json.dumps([features, choice.corpus, choice.root, choice.options, file.task.model_dump()])
        if key not in warmed:
            corpus = task_corpus(Corpus.load(choice.corpus, choice.root, **choice.options), file.task)
            what = f"features of {choice.corpus}"
            extract(
                corpus,
                file.features.name,
                file.features.options,
                progress=lambda done, total, what=what: tell(what, done, total),  # type: ignore[misc]
            )
            warmed.add(key)


def _run_one(settings: dict[str, Any], folder: str) -> None:
    run_file(KINDS[settings["simulation"]["kind"]].model_validate(settings), Path(folder))
