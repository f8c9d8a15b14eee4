"""What an inversion's result holds beside its claims: the published table, waves to draw, corpora, scores."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fl_privacy.config.speaker_inversion import SpeakerInversionFile
from fl_privacy.models.speaker import LogMel
from fl_privacy.published.pizzi2023 import departures, table_1
from fl_privacy.sims.inversion_cells import Cell, Found
from fl_privacy.sims.inversion_findings import Judged
from fl_privacy.sims.inversion_judges import Bench
from fl_privacy.sims.inversion_people import People


def beside_published(
    file: SpeakerInversionFile, cells: Sequence[Cell], summaries: Mapping[str, Any], classes: int
) -> dict[str, Any]:
    """Lay the study's table beside the distances of this run, and say where the run departs from the study."""
    names = {cell.name for cell in cells}
    rows = []
    for row in table_1():
        name = f"{row.method} from {row.start}"
        mine = summaries.get(name, {}).get("own_recognised")
        rows.append(
            {
                **vars(row),
                "attack": name if name in names else None,
                "our_distance": None if mine is None else mine["mean"],
            }
        )
    return {"published": rows, "published_notes": departures(file.resolved(), classes)}


def examples(cells: Sequence[Cell], found: Mapping[str, Found], people: People, bench: Bench) -> list[dict[str, Any]]:
    """Return what the report draws of the first class: a real piece, the start, and inversions."""
    waved = [cell for cell in cells if cell.of_waves]
    chosen = list(dict.fromkeys([waved[0].name, *(c.name for c in waved if c.attack.name == "sliding")][:2]))
    length = max(found[name].waves.shape[1] for name in chosen)
    pieces, owners = bench.pieces(length)
    shown = [("a real recording", pieces[int(np.argmax(owners == 0))]), ("the start", found[chosen[0]].starts[0])]
    shown += [(name, found[name].waves[0]) for name in chosen]
    return [_drawn(name, wave) for name, wave in shown]


def _drawn(name: str, wave: NDArray[np.float32]) -> dict[str, Any]:
    stretches = np.array_split(wave, 160)
    frames = LogMel().logarithms(torch.from_numpy(np.ascontiguousarray(wave))[None])[0].T.numpy()
    step = max(1, frames.shape[1] // 50)
    return {
        "name": name,
        "low": [round(float(part.min()), 4) for part in stretches],
        "high": [round(float(part.max()), 4) for part in stretches],
        "spectrum": [[round(float(x), 2) for x in row] for row in frames[:, ::step]],
        "seconds": len(wave) / 16_000,
    }


def corpora_of(file: SpeakerInversionFile, people: People) -> dict[str, Any]:
    """Say of both sides how many speakers and recordings were taken, and what was left out."""
    recordings = sum(len(part[name]) for part in (people.trained, people.judged, people.tested) for name in part)
    other = file.private if file.auxiliary is None else file.auxiliary
    return {
        "private": [
            {
                "name": file.private.corpus,
                "speakers": len(people.classes),
                "utterances": recordings,
                "left_out": dict(sorted(people.left_out["private"].items())),
            }
        ],
        "auxiliary": [
            {
                "name": other.corpus,
                "speakers": len(people.auxiliary),
                "utterances": sum(map(len, people.auxiliary.values())),
                "left_out": dict(sorted(people.left_out["auxiliary"].items())),
            }
        ],
    }


def scores_csv(judged: Mapping[str, Judged], people: People) -> str:
    """Return the scores of every inversion before every judge as CSV text."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["attack", "unit", "judge", "speaker", "own", "best_other", "rank"])
    for name, one in judged.items():
        for judge in one.scores:
            table = one.verdicts(judge)
            for speaker, own, others, rank in zip(people.classes, table.own, table.others, table.ranks, strict=True):
                writer.writerow([name, "inversion", judge, speaker, repr(float(own)), repr(float(others.max())), rank])
    return out.getvalue()


def costs_csv(found: Mapping[str, Found]) -> str:
    """Return what each cell took as CSV text; with its seconds, which result.json leaves out."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["attack", "inversions", "gradient_steps", "windows_classified", "seconds"])
    for name, one in found.items():
        cost = one.cost
        writer.writerow([name, cost["inversions"], cost["gradient_steps"], cost["queries"], one.seconds])
    return out.getvalue()
