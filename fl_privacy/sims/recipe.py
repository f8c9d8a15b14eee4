"""What recipes have in common: each makes a run folder with a result and a report of a simulation file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from fl_privacy.config import CorpusChoice
from fl_privacy.corpora import Corpus
from fl_privacy.report import write_report
from fl_privacy.sims.stages import RunFolder
from fl_privacy.updates import ThreatModel

EVIDENCE = "evidence.npz"
"""File in the stage ``audit``: what several seeds are merged from."""


class Recipe(Protocol):
    """How a kind of simulation is run."""

    @property
    def threat_model(self) -> ThreatModel:
        """Who attacks, what they see and own."""

    def run(self, folder: RunFolder) -> None:
        """Do every stage that is not done."""


def finish(folder: RunFolder, work: Callable[[], object]) -> None:
    """Do the stages that lead to ``result.json``, the last of them ``audit``, unless it is there; then the report."""
    if not (folder.done("audit") and (folder.path / "result.json").exists()):
        folder.undo("audit")
        work()
    if not (folder.path / "report.html").exists():
        write_report(folder.path)


def facts_of(choice: CorpusChoice, left_out: Mapping[str, str]) -> dict[str, Any]:
    """Say of a corpus what was taken, and what was left out and why.

    Parameters
    ----------
    choice : CorpusChoice
    left_out : mapping of str to str
        Of what the scan took: a speaker or a voice, and why it was left out.
    """
    corpus = Corpus.load(choice.corpus, choice.root, **choice.options)
    reasons = Counter([excluded.reason for excluded in corpus.excluded])
    reasons.update(left_out.values())
    return {
        "name": corpus.name,
        "speakers": len(corpus.speakers),
        "utterances": len(corpus),
        "left_out": dict(sorted(reasons.items())),
    }
