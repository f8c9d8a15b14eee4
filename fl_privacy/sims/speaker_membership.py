"""Was this speaker's voice used? A speaker recogniser's leakage, measured on recognisers trained for it.

SLMIA-SR (Chen, Zhang and Song 2024, arXiv 2309.07983) with swapped roles, and what is ahead of it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_privacy.attacks.membership.baselines import hardest_pairs, learned_similarity, norms, pair_quantiles
from fl_privacy.attacks.membership.evidence import WHITE_BOX, Evidence, Features, attack_targets, default_attacks
from fl_privacy.attacks.membership.features import FEATURES, Imposters, membership_features
from fl_privacy.attacks.membership.protocol import SwapDesign, Voices, split_voices, swap_design
from fl_privacy.attacks.membership.queries import Budget, centroid
from fl_privacy.audit import SwappedAudit
from fl_privacy.audit.claims import Claim, Control, jsonable
from fl_privacy.audit.controls import permutation_p_value
from fl_privacy.audit.files import write_atomically
from fl_privacy.corpora import Corpus
from fl_privacy.errors import UserError
from fl_privacy.models.encoder import vectors_of
from fl_privacy.sims.speaker_recognisers import Embeddings, RecogniserJob, Source, embed_by_recognisers, read_embeddings
from fl_privacy.sims.stages import RunFolder
from fl_privacy.training.speaker import SpeakerTraining
from fl_privacy.training.verification import verification_eer


@dataclass(frozen=True)
class SpeakerMembership:
    """The settings of a run.

    Attributes
    ----------
    corpus : str
        A name, or ``package.module:function``.
    root : str or None
        The corpus's folder.
    options : mapping
        Further arguments of the corpus's scan.
    training : SpeakerTraining
        Of the targets.
    shadow : SpeakerTraining or None
        Of shadows and references, where the attacker does not know how the targets were trained; None: alike.
    access : str
        "white-box": the attack sees embeddings; "scores": cosine similarities of voices alone, of which it makes the
        same features.
    imposters : int
        Speakers, at least, that train no recogniser and are known to the attacker.
    pairs : int
        How often each of the two pools of speakers is halved: 4 times as many recognisers, each a target once.
    voices : int
        How many of a speaker's voices the attack hears.
    ratios : tuple of float
        Shares of these that were trained on, where the speaker is a member; the attack learns on all of them, and each
        gets its own result.
    chunk_frames : int
        Split voices into chunks of this length, 10 ms each; 0: do not.
    fpr : float
        Wished false positive rate of the thresholds that shadows set.
    attacks : tuple of str
        Names out of `fl_privacy.attacks.membership.evidence.default_attacks`, the primary one first; by default all
        that serve either access.
    permutations : int
        Of the speakers' roles, for p-values.
    confidence : float
        Of every interval.
    seed : int
    processes : int
        The results are the same for any number.
    budgets : tuple of Budget
        With how many queries the primary attack is tried beside.
    """

    corpus: str = "an4"
    root: str | None = None
    training: SpeakerTraining = field(default_factory=SpeakerTraining)
    shadow: SpeakerTraining | None = None
    access: str = "white-box"
    imposters: int = 12
    pairs: int = 4
    voices: int = 5
    ratios: tuple[float, ...] = (1.0, 0.0)
    chunk_frames: int = 0
    fpr: float = 0.05
    attacks: tuple[str, ...] = tuple(name for name in default_attacks() if name not in WHITE_BOX)
    permutations: int = 200
    confidence: float = 0.95
    seed: int = 1
    processes: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    budgets: tuple[Budget, ...] = ()

    def __post_init__(self) -> None:
        unknown = sorted(set(self.attacks) - set(default_attacks()))
        if unknown or not self.attacks:
            raise UserError(f"unknown membership attack {unknown[:1] or 'none'}. Known: {', '.join(default_attacks())}")
        if self.access not in ("white-box", "scores"):
            raise UserError(f'access = {self.access!r}: give "white-box" (embeddings) or "scores" (similarities)')
        if any(budget.voices > self.voices for budget in self.budgets):
            raise UserError(f"budgets: more than the {self.voices} voices that are heard of a speaker")
        blind = [name for name in self.attacks if name in WHITE_BOX]
        if blind and self.access == "scores":
            raise UserError(f'attack {blind[0]!r} looks at embeddings; with access = "scores" there are none')
        if self.permutations < 1:
            raise UserError(f"permutations = {self.permutations} must be positive")
        if self.voices < 2:
            raise UserError(f"voices = {self.voices}: how close voices lie takes two at least")
        if not self.ratios or not all(0.0 <= r <= 1.0 for r in self.ratios):
            raise UserError(f"ratios = {self.ratios}: give shares from 0 to 1")
        if not 0.0 < self.fpr < 1.0:
            raise UserError(f"fpr = {self.fpr} must lie strictly between 0 and 1")

    @property
    def source(self) -> Source:
        """Where the voices are."""
        return Source(self.corpus, self.root, json.dumps(dict(self.options), sort_keys=True))


@dataclass(frozen=True)
class SpeakerMembershipResult:
    """What a run found.

    Attributes
    ----------
    audits : mapping of (str, float) to SwappedAudit
        By attack and mixing ratio; decisions are positive log-odds.
    at_threshold : mapping of (str, float) to SwappedAudit
        The same with decisions at the threshold that shadows set; without attacks whose shadows were too few.
    utility : mapping of str to float
        Mean equal error rates over targets: ``eer_members`` on members' unseen voices, ``eer_nonmembers``.
    queries : int
        Voices sent to a target to judge all its candidates, imposters' included.
    excluded : tuple of (str, str)
        Speakers left out, and why.
    settings : SpeakerMembership
    reduced : mapping of (Budget, float) to SwappedAudit
        The primary attack with fewer queries, by budget and mixing ratio.
    imposters : mapping of str to sequence of str
        Ids of the imposters' voices.
    """

    audits: Mapping[tuple[str, float], SwappedAudit]
    at_threshold: Mapping[tuple[str, float], SwappedAudit]
    utility: Mapping[str, float]
    queries: int
    excluded: tuple[tuple[str, str], ...]
    settings: SpeakerMembership
    reduced: Mapping[tuple[Budget, float], SwappedAudit]
    imposters: Mapping[str, Sequence[str]]

    def claims(self) -> list[Claim]:
        """The rows of result.json.

        Beside each attack's own metrics, how far its AUC lies above one half and above that of `pair.mean` alone.
        """
        found = []
        for (name, r), audit in self.audits.items():
            shared = self._shared(r)
            found += audit.claims(**shared, primary=name == self.settings.attacks[0])
            beside = {"auc_over_best_blind": (audit.over_chance(), {"best_blind": "chance"})}
            one = self.audits.get(("pair.mean", r))
            if one is not None and one is not audit:
                beside["auc_over_pair_mean"] = (audit.difference(one), {})
            found += [
                Claim(
                    **shared | {"conditions": shared["conditions"] | more},
                    attack=name,
                    primary=name == self.settings.attacks[0],
                    unit="speaker",
                    attribute="membership",
                    metric=metric,
                    **vars(estimate),
                )
                for metric, (estimate, more) in beside.items()
            ]
        for (budget, r), audit in self.reduced.items():
            candidates = audit.n_speakers // 2  # of a target: those of its pool
            less = {
                "voices": budget.voices,
                "imposters": budget.imposters,
                "imposter_voices": budget.imposter_voices,
                "grouped": budget.grouped,
                "queries": budget.sent(candidates, self.imposters),
                "scores_a_candidate": budget.scores(self.imposters),
            }
            found.append(
                Claim(
                    **self._shared(r) | {"conditions": self._shared(r)["conditions"] | less},
                    attack=self.settings.attacks[0],
                    unit="speaker",
                    attribute="membership",
                    metric="auc",
                    **vars(audit.auc()),
                )
            )
        return found

    def controls(self) -> list[Control]:
        """The controls of result.json: the AUC of each attack's scores with speakers' roles permuted."""
        rows = []
        for (name, r), audit in self.audits.items():
            null = audit.permuted(self.settings.permutations, self.settings.seed)
            p = permutation_p_value(audit.auc().value or 0.0, null)
            low, high = (float(q) for q in np.quantile(null, [0.025, 0.975]))
            estimate = replace(audit.auc(), value=float(null.mean()), low=low, high=high, confidence=0.95)
            rows.append(
                Control(
                    **self._shared(r),
                    **vars(estimate),
                    attack=name,
                    of=name,
                    unit="speaker",
                    attribute="membership",
                    metric="auc",
                    control="permuted-private-labels",
                    n_permutations=p.n,
                    p_value=p.value,
                )
            )
        return rows

    def scores_csv(self) -> str:
        """The scores of every speaker before every target, as CSV text."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["attack", "unit", "r", "target", "speaker", "label", "score", "decision"])
        for (name, r), audit in self.audits.items():
            labels = np.where(audit.members, "member", "non-member")
            for row in zip(audit.targets, audit.speakers, labels, audit.scores, audit.decisions, strict=True):
                writer.writerow([name, "speaker before target", r, *row])
        return out.getvalue()

    def _shared(self, r: float) -> dict[str, Any]:
        settings = self.settings
        return {
            "target": settings.training.encoder,
            "protocol": "swapped roles",
            "seeds": (settings.seed,),
            "conditions": {"private": settings.corpus, "r": r, "voices": settings.voices, "access": settings.access},
        }

    def table(self) -> str:
        """One line for each attack and ratio."""
        s, eer = self.settings, self.utility
        kind = s.training.encoder if s.shadow is None else f"{s.training.encoder} (shadows {s.shadow.encoder})"
        what = f"{s.corpus}: {kind}, {s.training.loss}, {4 * s.pairs} targets, {s.voices} voices a speaker"
        errors = f"EER {eer['eer_members']:.3f} on members' unseen voices, {eer['eer_nonmembers']:.3f} on non-members"
        heads = f"{'r':<6}{'attack':<28}{'AUC':<24}{'accuracy':<24}{'TPR at FPR .01':<24}"
        lines = [f"{what}; {errors}", f"{heads}TPR, FPR at shadows' {s.fpr:g}"]
        for (name, r), audit in self.audits.items():
            at = self.at_threshold.get((name, r))
            rates = "unresolved" if at is None else f"{at.rates()[0].value:.3f}, {at.rates()[1].value:.3f}"
            tpr = str(audit.tpr_at_fpr(0.01))
            lines.append(f"{r:<6g}{name:<28}{audit.auc()!s:<24}{audit.accuracy()!s:<24}{tpr:<24}{rates}")
        if self.reduced:
            lines.append(f"\n{s.attacks[0]} with fewer queries\n{'r':<6}{'sent to a target':<52}{'voices':<10}AUC")
        for (budget, r), audit in self.reduced.items():
            sent = budget.sent(audit.n_speakers // 2, self.imposters)
            lines.append(f"{r:<6g}{budget!s:<52}{sent:<10}{audit.auc()}")
        return "\n".join(lines)


def run_speaker_membership(
    settings: SpeakerMembership, out: Path, told: Callable[[int, int], None] | None = None
) -> SpeakerMembershipResult:
    """Train recognisers, attack each of them, and audit the attacks.

    Stages that are done are not done again, and neither are recognisers of one that was cut off.

    Parameters
    ----------
    settings : SpeakerMembership
    out : Path
        The run's folder: ``recognisers/``, ``attacks/scores.csv``, ``attacks/result.json``, ``attacks/table.txt``.
    told : callable, optional
        Told the number of a recogniser in training and how many steps of it are done.

    Returns
    -------
    SpeakerMembershipResult

    Raises
    ------
    UserError
        Where the corpus has too few speakers or voices, or the folder holds another run.
    """
    # Nothing that a stage writes depends on these.
    changing = ("attacks", "processes", "permutations", "access", "confidence", "budgets")
    what = {key: value for key, value in asdict(settings).items() if key not in changing}
    with RunFolder(out, jsonable(what)).held() as folder:
        result = attack_in_swapped_roles(folder, settings, told)
        attacks = out / "attacks"
        attacks.mkdir(exist_ok=True)
        write_atomically(attacks / "scores.csv", result.scores_csv())
        write_atomically(attacks / "table.txt", result.table() + "\n")
        rows = {
            "utility": result.utility,
            "queries": result.queries,
            "claims": [claim.to_dict() for claim in result.claims()],
            "controls": [control.to_dict() for control in result.controls()],
        }
        write_atomically(attacks / "result.json", json.dumps(jsonable(rows), indent=1) + "\n")
    return result


def attack_in_swapped_roles(
    folder: RunFolder, settings: SpeakerMembership, told: Callable[[int, int], None] | None = None
) -> SpeakerMembershipResult:
    """Do what is left of the stages ``recognisers`` (and ``shadows``, where these are of another kind), and attack."""
    corpus = settings.source.load()
    voices, excluded = usable_voices(corpus, settings.seed)
    design = swap_design(tuple(voices), settings.imposters, settings.pairs, settings.seed)
    kinds = {"recognisers": settings.training}
    if settings.shadow is not None:
        kinds["shadows"] = settings.shadow
    found = []
    for name, training in kinds.items():

        def work(path: Path, training: SpeakerTraining = training) -> None:
            _embed(path, settings, training, design, voices, told)

        held = folder.stage(name, work, go_on="started")
        tables = [read_embeddings(_file(held, number)) for number in range(len(design.recognisers))]
        found.append([as_seen(table, settings.access) for table in tables])
    inputs = read_embeddings(_file(folder.path / "recognisers", len(design.recognisers)))
    return _attacked(settings, design, voices, excluded, found[0], found[-1], inputs)


def usable_voices(corpus: Corpus, seed: int, side: str = "") -> tuple[dict[str, Voices], tuple[tuple[str, str], ...]]:
    """Return the voices of every speaker who has enough to train a recogniser and be heard, and who has not, and why.

    Parameters
    ----------
    corpus : Corpus
    seed : int
    side : str
        Stands before names and ids.
    """
    by_speaker: dict[str, list[str]] = {}
    for utterance in corpus:
        by_speaker.setdefault(side + utterance.speaker, []).append(side + utterance.id)
    sessions = {side + u.id: f"{u.speaker}/{u.labels['session']}" for u in corpus if "session" in u.labels}
    voices = split_voices(by_speaker, seed, sessions)
    # Two voices of either kind: how close voices lie takes two.
    left = {name: v for name, v in voices.items() if min(len(v.trained), len(v.unseen)) < 2}
    excluded = tuple((name, f"{len(v.all)} voices; two of each half are needed") for name, v in left.items())
    return {name: v for name, v in voices.items() if name not in left}, excluded


def _file(folder: Path, number: int) -> Path:
    return folder / f"recogniser-{number:02d}.npz"


def _embed(
    folder: Path,
    settings: SpeakerMembership,
    training: SpeakerTraining,
    design: SwapDesign,
    voices: Mapping[str, Voices],
    told: Callable[[int, int], None] | None,
) -> None:
    (folder / "started").touch()
    jobs = [
        RecogniserJob(
            (settings.source,),
            recogniser,
            voices,
            training,
            settings.chunk_frames,
            1000 * settings.seed + number,
            str(_file(folder, number)),
        )
        for number, recogniser in enumerate([*design.recognisers, None])
    ]
    embed_by_recognisers(jobs, settings.processes, told)


def _attacked(
    settings: SpeakerMembership,
    design: SwapDesign,
    voices: Mapping[str, Voices],
    excluded: tuple[tuple[str, str], ...],
    tables: Sequence[Embeddings],
    shadow_tables: Sequence[Embeddings],
    inputs: Embeddings,
) -> SpeakerMembershipResult:
    def rows(of: Sequence[Embeddings]) -> dict[float, Features]:
        return {r: _features(settings, design, voices, of, inputs, r) for r in settings.ratios}

    shadows = rows(shadow_tables)
    targets = shadows if settings.shadow is None else rows(tables)
    audits, at_threshold = {}, {}
    attacks = default_attacks(settings.voices)
    for r in settings.ratios:
        for name in settings.attacks:
            found = attack_targets(
                attacks[name], design, list(shadows.values()), targets[r], fpr=settings.fpr, references=shadows[r]
            )
            audits[name, r] = _audit(name, found, found.scores, settings.confidence)
            if np.isfinite(found.thresholds).all():
                at_threshold[name, r] = _audit(name, found, found.scores - found.thresholds, settings.confidence)
    reduced = {}
    primary = settings.attacks[0]
    for budget in settings.budgets:

        def fewer(of: Sequence[Embeddings], budget: Budget = budget) -> dict[float, Features]:
            return {r: _features(settings, design, voices, of, inputs, r, budget) for r in settings.ratios}

        # The attack is trained on as few voices as it then hears ("N-dependent training").
        shadows = fewer(shadow_tables)
        targets = shadows if settings.shadow is None else fewer(tables)
        attack = default_attacks(budget.voices)[primary]
        for r in settings.ratios:
            found = attack_targets(
                attack, design, list(shadows.values()), targets[r], fpr=settings.fpr, references=shadows[r]
            )
            reduced[budget, r] = _audit(primary, found, found.scores, settings.confidence)
    imposters = _imposters(design, voices)
    everything = sum(len(ids) for ids in imposters.values()) + len(design.speakers(0)) * settings.voices
    return SpeakerMembershipResult(
        audits,
        at_threshold,
        _utility(design, voices, tables),
        everything,
        excluded,
        settings,
        reduced,
        imposters,
    )


def _imposters(design: SwapDesign, voices: Mapping[str, Voices]) -> dict[str, tuple[str, ...]]:
    return {name: voices[name].all for name in design.imposters}


def as_seen(table: Embeddings, access: str) -> Embeddings:
    """What the attacker works with: embeddings, or vectors of the same similarities."""
    if access == "white-box":
        return table
    ids, ends = list(table), np.cumsum([len(rows) for rows in table.values()])[:-1]
    rows = np.concatenate(list(table.values()))
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-8)
    return dict(zip(ids, np.split(vectors_of(unit @ unit.T), ends), strict=True))


def _audit(name: str, found: Evidence, decisions: NDArray[np.float64], confidence: float) -> SwappedAudit:
    return SwappedAudit(
        found.scores,
        found.members,
        found.speakers,
        found.targets,
        decisions=decisions,
        name=name,
        confidence=confidence,
    )


def _features(
    settings: SpeakerMembership,
    design: SwapDesign,
    voices: Mapping[str, Voices],
    tables: Sequence[Embeddings],
    inputs: Embeddings,
    r: float,
    budget: Budget | None = None,
) -> Features:
    """What attacks look at of every speaker before every recogniser, from one draw of voices."""
    count = settings.voices if budget is None else budget.voices
    people = [*design.speakers(0), *design.speakers(1)]
    heard = {
        name: voices[name].draw(r, count, np.random.default_rng([settings.seed, 2, number, round(1000 * r)]))
        for number, name in enumerate(people)
    }
    imposters = _imposters(design, voices)
    if budget is None:
        return looked_at(heard, imposters, tables, inputs, settings.attacks, count, settings.seed)
    primary, grouped = settings.attacks[:1], budget.grouped
    return looked_at(heard, budget.of(imposters), tables, inputs, primary, count, settings.seed, grouped=grouped)


def looked_at(
    heard: Mapping[str, Sequence[str]],
    imposters: Mapping[str, Sequence[str]],
    tables: Sequence[Embeddings],
    inputs: Embeddings,
    attacks: Sequence[str],
    voices: int,
    seed: int,
    *,
    grouped: bool = False,
) -> Features:
    """Return what attacks look at, before each recogniser, of the speakers whose voices it heard.

    Parameters
    ----------
    heard : mapping of str to sequence of str
        Ids of each speaker's voices.
    imposters : mapping of str to sequence of str
        Ids of each imposter's voices.
    tables : sequence of Embeddings
        Of each recogniser.
    inputs : Embeddings
        Mean log-mel energies of the voices.
    attacks : sequence of str
        Names of the attacks, which say what is needed.
    voices : int
        How many voices are heard of a speaker.
    seed : int
    grouped : bool
        Whether each imposter is enrolled as one; see `Budget`.
    """
    known = default_attacks(voices)
    columns_of = [known[name].columns for name in attacks]
    baselines = any(columns is not None and max(columns) >= len(FEATURES) for columns in columns_of)
    pairs = voices * (voices - 1) // 2
    found = []
    for table in tables:
        people = [name for name, ids in heard.items() if all(id in table for id in ids)]
        looks = [np.concatenate([inputs[voice] for voice in heard[name]]) for name in people]
        others = [np.concatenate([table[voice] for voice in ids]) for ids in imposters.values()]
        if grouped:
            others = [centroid(rows).astype(np.float32) for rows in others]
        mine = [np.concatenate([table[voice] for voice in heard[name]]) for name in people]
        columns = [membership_features(mine, Imposters.of(others))]
        if baselines:
            columns += [
                np.stack([pair_quantiles(rows, pairs) for rows in mine]),
                np.stack([hardest_pairs(rows, look) for rows, look in zip(mine, looks, strict=True)]),
                learned_similarity(others, mine, seed=seed)[:, None],
                np.stack([norms(rows) for rows in mine]),
            ]
        found.append(dict(zip(people, np.concatenate(columns, axis=1), strict=True)))
    return found


def _utility(design: SwapDesign, voices: Mapping[str, Voices], tables: Sequence[Embeddings]) -> dict[str, float]:
    members: list[float] = []
    nonmembers: list[float] = []
    for recogniser, table in zip(design.recognisers, tables, strict=True):
        for people, found in ((recogniser.members, members), (recogniser.nonmembers, nonmembers)):
            heard = [(name, voice) for name in people for voice in voices[name].unseen]
            # A voice's embedding is the mean of its chunks'.
            embeddings = np.stack([table[voice].mean(axis=0) for _, voice in heard])
            found.append(verification_eer(embeddings, [name for name, _ in heard]))
    return {"eer_members": float(np.mean(members)), "eer_nonmembers": float(np.mean(nonmembers))}
