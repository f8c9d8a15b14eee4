"""Where voices tell nothing of the label, no attack finds anything, and its p-values say so evenly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kstest

from fl_privacy.attacks import Auxiliary
from fl_privacy.attacks.attribute import InputReconstruction, RawLinear
from fl_privacy.attacks.attribute.gaussian import GaussianLikelihoodRatio
from fl_privacy.attacks.attribute.layer_statistics import LayerStatistics
from fl_privacy.attacks.observed import Observed
from fl_privacy.attacks.question import Question
from fl_privacy.attacks.score import run_attack
from fl_privacy.audit.controls import permutation_p_value
from tests.attacks.toy_federation import federation

ATTACKS = {
    "reconstruction": lambda: InputReconstruction(),
    "raw": lambda: RawLinear(["all"]),
    "raw-means": lambda: RawLinear(rows=16),
    "gaussian": lambda: GaussianLikelihoodRatio(noise=0.01),
    "statistics": lambda: LayerStatistics(),
}
LABELLINGS, FEDERATIONS = 5, 3


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Observed, Observed]]:
    folder = tmp_path_factory.mktemp("null")
    pairs = []
    for seed in range(FEDERATIONS):
        made = (
            federation(Path(folder) / f"{who}{seed}", 10 * seed + i, effect=0.0, speakers=16, name=who)
            for i, who in enumerate("op")
        )
        own, private = (Observed.of([pair]) for pair in made)
        pairs.append((in_memory(own), in_memory(private)))
    return pairs


def in_memory(side: Observed) -> Observed:
    return Observed(tuple(replace(u, arrays=dict(u.arrays)) for u in side.updates), side.rows)


def labelled(side: Observed, kind: str, rng: np.random.Generator) -> Observed:
    """Deal out labels to the speakers anew."""
    names = sorted(set(side.speakers))
    values = {
        "two": np.array(["a", "b"])[np.arange(len(names)) % 2],
        "three": np.array(["a", "b", "c"])[np.arange(len(names)) % 3],
        "number": np.round(rng.uniform(20, 70, len(names)), 1).astype(str),
    }[kind]
    of = dict(zip(names, rng.permutation(values).tolist(), strict=True))
    return Observed(side.updates, tuple({**row, "x": of[row["speaker"]]} for row in side.rows))


@pytest.mark.parametrize("kind", ["two", "three", "number"])
@pytest.mark.parametrize("name", list(ATTACKS))
def test_nothing_is_found_where_there_is_nothing(name, kind, sides):
    if kind == "number" and name != "reconstruction":
        pytest.skip("tells classes, or is told by another case")
    rng = np.random.default_rng(0)
    excess, p_values = [], []
    for own, private in sides:
        for number in range(LABELLINGS):
            asked = Question.ask(labelled(own, kind, rng), labelled(private, kind, rng), "x", numeric=kind == "number")
            auxiliary = Auxiliary(tuple(own.speakers), asked.classes)
            found = run_attack(
                ATTACKS[name](),
                asked.own,
                asked.private,
                asked.labels(asked.own),
                auxiliary,
                permutations=19,
                seed=number,
            )
            claimed = asked.audit(found.evidence, name, 0.95, correlation=found.correlation)
            excess.append(claimed.headline_value() - claimed.chance_level)
            plain = asked.audit(found.scores, name, 0.95)
            null = [plain.headline_value(asked.audit(row, name, 0.95).speaker_scores()[1]) for row in found.permuted]
            p_values.append(permutation_p_value(plain.headline_value(), null).value)
    error = np.std(excess) / np.sqrt(len(excess))
    assert abs(np.mean(excess)) < 3.5 * error
    assert np.std(excess) > 0.03  # it is a distribution, not a constant
    # The p-values lie on a grid of 20; spread evenly within its steps they are uniform.
    spread = np.array(p_values) - rng.uniform(0, 1 / 20, len(p_values))
    assert kstest(spread, "uniform").pvalue > 1e-3
