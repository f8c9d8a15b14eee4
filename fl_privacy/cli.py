"""The ``fl-privacy`` command. What a command needs is imported when it runs, so that ``--help`` is quick."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from fl_privacy._version import __version__
from fl_privacy.errors import UserError

app = typer.Typer(
    name="fl-privacy",
    help="Measure what speech models give away about the people whose voices trained them.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)

Source = Annotated[str, typer.Argument(metavar="PRESET_OR_FILE", help="A preset's name or a TOML file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. federation.rounds=50. Repeatable."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]

_INTERRUPTED = 130


def main() -> None:
    """Run the command line; a mistake the user can mend is one message and exit status 2, without a traceback."""
    # As with `python -m`: a file's own attacks and extractors are found beside it.
    sys.path.insert(0, os.getcwd())
    try:
        app(prog_name="fl-privacy")  # `python -m`, too: completion is of a command, not of Python
    except UserError as error:
        print(f"fl-privacy: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # what typer makes of Ctrl-C
            print("fl-privacy: stopped; the same command goes on from here", file=sys.stderr)
        raise


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fl-privacy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    source: Source,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; a killed run goes on in it.")] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes: same results.")] = 1,
    quiet: Quiet = False,
) -> None:
    """Run a simulation: training, attacks, audit, report."""
    from fl_privacy.attacks.files import table
    from fl_privacy.audit import Claim, Control
    from fl_privacy.audit.files import read_result
    from fl_privacy.config import load_any
    from fl_privacy.sims.run import default_folder, recipe_of, run_file

    file = load_any(source, settings or [])
    print(recipe_of(file).threat_model.describe(), end="\n\n", flush=True)
    with _progress(quiet) as progress:
        folder = run_file(file, out or default_folder(source, file), progress, workers=workers)
    result = read_result(folder / "result.json")
    if "table" in result:
        print(result["table"])
    else:
        claims = [Claim.from_dict(c) for c in result["claims"]]
        print(table(claims, [Control.from_dict(c) for c in result["controls"]]))
    if result["utility"].get("uar") is not None:
        uar, chance = result["utility"]["uar"], result["utility"]["chance_uar"]
        print(f"\nSER on held-out speakers: UAR {uar:.3f} (chance {chance:.3f})")
    if result.get("beside"):
        from fl_privacy.sims.beside import table_beside

        print(f"\n{table_beside(result)}\n")
    lost = {c["name"]: n for c in corpora_of(result) if (n := sum(c["left_out"].values()))}
    if lost:
        print("left out: " + ", ".join(f"{n} of {name}" for name, n in lost.items()) + " (the report says why)")
    print(f"report: {folder / 'report.html'}")
    print(folder)


def corpora_of(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a result says of the corpora of both sides."""
    return [*result["corpora"]["private"], *result["corpora"]["auxiliary"]]


@app.command()
def presets() -> None:
    """List the simulations that come with the package."""
    from fl_privacy.config import load_any
    from fl_privacy.config import presets as known

    width = max(map(len, known()))
    for name, what in known().items():
        print(f"{name:{width}} {'(sweep) ' if getattr(load_any(name), 'sweep', None) else ''}{what}")


@app.command()
def corpus(
    name: Annotated[
        str,
        typer.Argument(
            help="synthetic, ravdess, emodb, crema_d, iemocap, msp_improv, an4, librispeech, timit, vctk, voxceleb2, "
            "folder, or package.module:scan."
        ),
    ],
    path: Annotated[Path | None, typer.Argument(help="Its folder; default $FL_PRIVACY_DATA/NAME.")] = None,
) -> None:
    """Show what a corpus holds: speakers by sex, utterances by emotion, hours, and what was left out and why."""
    from fl_privacy.corpora import Corpus
    from fl_privacy.corpora.describe import describe

    print(describe(Corpus.load(name, path)))


@app.command()
def store(path: Annotated[Path, typer.Argument(metavar="STORE", help="Folder of captured updates.")]) -> None:
    """Show what captured updates hold, under which threat model, and whether they are whole (else status 1)."""
    from fl_privacy.updates import UpdateStore
    from fl_privacy.updates.describe import describe

    held = UpdateStore(path)
    problems = held.check()
    print(describe(held, problems))
    if problems:
        raise typer.Exit(1)


@app.command()
def attack(
    store: Annotated[Path, typer.Argument(help="Captured updates of the private federation.")],
    shadow: Annotated[list[Path], typer.Option("--shadow", help="The attacker's own captured updates. Repeatable.")],
    labels: Annotated[Path, typer.Option("--labels", help="CSV: client, speaker, the attribute.")],
    shadow_labels: Annotated[list[Path], typer.Option("--shadow-labels", help="The same for each shadow store.")],
    attribute: Annotated[str, typer.Option("--attribute", help="Column to infer.")],
    attacks: Annotated[
        list[str] | None,
        typer.Option("--attack", help="Name or package.module:Class; the first is primary. Repeatable."),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            metavar="NAME",
            help="Dense layer that attacks on layers read: first (default), second, last, all or its name. Repeatable.",
        ),
    ] = None,
    positive: Annotated[
        str | None, typer.Option("--positive", help="Of two values, the one that high scores mean; default: the last.")
    ] = None,
    numeric: Annotated[bool, typer.Option("--numeric", help="The attribute is a number, told by regression.")] = False,
    permutations: Annotated[int, typer.Option("--permutations", min=1)] = 200,
    confidence: Annotated[float, typer.Option("--confidence", min=0.5, max=0.999)] = 0.95,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for result.json, scores.csv, report.html.")] = None,
) -> None:
    """Attack captured updates, from any Flower app."""
    from fl_privacy.attacks.base import ReadsLayers, make_attacks, on_layers
    from fl_privacy.attacks.evaluate import evaluate
    from fl_privacy.report import write_report
    from fl_privacy.sims.stages import new_folder
    from fl_privacy.updates import UpdateStore

    if out is not None:
        new_folder(out)
    settings = [{"name": name} for name in attacks or ["input-reconstruction", "raw-linear"]]
    made = make_attacks(on_layers(settings, layers) if layers else settings)
    private = UpdateStore(store)
    print(private.threat_model.describe(), flush=True)
    for name, attack in made:
        if isinstance(attack, ReadsLayers):
            hint = "" if layers else "; --layer names another"
            print(f"{name} reads {attack.reads(private.model_shapes)}{hint}", flush=True)
    evaluation = evaluate(
        [attack for _, attack in made],
        private,
        shadow=[UpdateStore(path) for path in shadow],
        labels=labels,
        shadow_labels=list(shadow_labels),
        attribute=attribute,
        positive=positive,
        numeric=numeric,
        permutations=permutations,
        confidence=confidence,
        names=[name for name, _ in made],
    )
    print(f"\n{evaluation.table()}")
    if out is not None:
        evaluation.save(out, threat_model=private.threat_model.to_result())
        write_report(out)
        print(out)


@app.command("audit-speaker")
def audit_speaker(
    target: Annotated[
        str,
        typer.Option("--target", metavar="MODEL", help="package.module:object, or a TorchScript or torch.export file."),
    ],
    voices: Annotated[Path, typer.Option("--voices", help="Folder of one person's recordings (wav, flac).")],
    reference: Annotated[
        Path,
        typer.Option(
            "--reference", help="Folder of other people, one sub-folder each, who did not train it: 19 at least."
        ),
    ],
    most: Annotated[int, typer.Option("--most", min=2, help="Voices heard of each person, at most.")] = 10,
    alpha: Annotated[float, typer.Option("--alpha", help="A p-value of at most this is evidence.")] = 0.05,
    sample_rate: Annotated[
        int | None, typer.Option("--sample-rate", min=1, help="That the model expects; default 16000.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the voices that are drawn.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="The answer as JSON.")] = False,
) -> None:
    """Tell whether one person's voice was used to train a speaker recogniser: a p-value and a sentence."""
    from fl_privacy.models.encoder import load_encoder
    from fl_privacy.sims.speaker_audit import audit_speaker as ask
    from fl_privacy.sims.speaker_audit import read_references, read_voices

    encoder = load_encoder(target, sample_rate)
    lost: dict[str, str] = {}
    mine, others = read_voices(voices, lost), read_references(reference, most, seed, lost)
    if not mine:
        raise UserError(f"voices: none can be used: {'; '.join(f'{n}: {why}' for n, why in lost.items())[:200]}")
    found = ask(encoder, mine, others, most=most, alpha=alpha, seed=seed)
    found = replace(found, left_out={**lost, **found.left_out})
    if as_json:
        print(found.to_json())
        return
    for name, reason in found.left_out.items():
        print(f"left out: {name}: {reason}")
    print(
        f"p = {found.p_value:.4g} (smallest possible {found.smallest:.4g}): {found.references} reference people, "
        f"{found.voices} voices each, {found.queries} voices sent to the recogniser"
    )
    print(found.sentence)


@app.command()
def sweep(
    source: Source,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary",
            metavar="KEY=V1,V2",
            help="An axis of the grid, instead of the file's own; a.b+c.d=v+w,x+y joins keys. Repeatable.",
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="How many seeds, merged by speaker; default: the file's, or 1.")
    ] = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option("--out", help="Sweep folder; a killed sweep goes on in it.")] = None,
    processes: Annotated[int | None, typer.Option("--processes", min=1, help="Runs at a time; default: cores.")] = None,
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="ADDRESS", help="A Ray cluster does the runs: auto, local, or its address."),
    ] = None,
    keep_stores: Annotated[bool, typer.Option("--keep-stores", help="Keep the captured updates (gigabytes).")] = False,
    quiet: Quiet = False,
) -> None:
    """Run a grid of simulations (--vary, or the sweep section of the file) over processes, and print one table."""
    from fl_privacy.sims.sweep import sweep as run_sweep
    from fl_privacy.sims.sweep import table

    with _progress(quiet) as progress:
        folder = run_sweep(
            source,
            vary or None,
            seeds=seeds,
            settings=settings or [],
            out=out,
            processes=processes,
            ray=ray,
            keep_stores=keep_stores,
            progress=progress,
        )
    print(table(folder))
    print(f"report: {folder / 'report.html'}")
    print(folder)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs and sweeps.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The page to write; default for one: its report.html.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--csv", metavar="DIR", help="Also write the numbers behind each figure there.")
    ] = None,
) -> None:
    """Make the report of a run or a sweep again, or lay several beside one another."""
    from fl_privacy.report import make_report

    for path in make_report(runs, out, data):
        print(path)


@app.command()
def published(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="feng2021, tseng2022 or pizzi2023.")],
    results: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN_OR_SWEEP]...",
            help="Folders of runs with protocol.name=as-published; of inversions, any.",
        ),
    ] = None,
    tables: Annotated[
        list[str] | None, typer.Option("--table", metavar="NAME", help="Only this published table. Repeatable.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--all", help="All published numbers, also where no result of ours is.")
    ] = False,
) -> None:
    """Print what a published study reports, its generations apart, and results of one's own beside it."""
    from fl_privacy.published.compare import comparison

    print(comparison(study, results or (), tables, whole=whole))


@app.command()
def check(
    as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
) -> None:
    """Look at the environment and say what would fail; exit status 1 if something would."""
    from fl_privacy.sims.environment import check_environment, table

    findings = check_environment()
    if as_json:
        print(json.dumps([finding.to_dict() for finding in findings], indent=2))
    else:
        print(table(findings))
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """Show a bar for each thing that is being done."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bars = Progress(*columns, console=Console(stderr=True))
    tasks = {}

    def tell(what: str, done: int, total: int) -> None:
        if what not in tasks:
            bars.start()  # not before there is something to show: a mistake is said without an empty display
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done, total=total)

    try:
        yield tell
    finally:
        if tasks:
            bars.stop()


if __name__ == "__main__":
    main()
