"""One corpus on both sides: disjoint parts of its speakers."""

from __future__ import annotations

import pytest

from fl_privacy.config import ConfigError, load
from fl_privacy.sims.ser_data import Voices

BASE = {
    "simulation": {"kind": "federated-ser", "seed": 3},
    "private": {"corpus": "synthetic", "options": {"speakers": 12, "utterances": 4}, "part": "1/3"},
    "auxiliary": [
        {"corpus": "synthetic", "options": {"speakers": 12, "utterances": 4}, "part": "2/3"},
        {"corpus": "synthetic", "options": {"speakers": 12, "utterances": 4}, "part": "3/3"},
    ],
    "attack": [{"name": "input-reconstruction"}],
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FL_PRIVACY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def sides(*settings: str) -> list[tuple[str, ...]]:
    voices = Voices(load(BASE, settings), lambda what, done, total: None)
    voices.check_strangers()
    return [table.corpus.speakers for table in (voices.private, *voices.auxiliary)]


def test_parts_are_disjoint_whole_and_hold_the_sexes_evenly():
    voices = Voices(load(BASE), lambda what, done, total: None)
    tables = [voices.private, *voices.auxiliary]
    speakers = [s for table in tables for s in table.corpus.speakers]
    assert len(speakers) == len(set(speakers)) == 12
    for table in tables:
        sexes = list(table.corpus.speaker_labels("gender").values())
        assert (sexes.count("female"), sexes.count("male")) == (2, 2)
        assert any(left.reason.startswith("not in part") for left in table.corpus.excluded)


def test_another_seed_draws_other_parts_and_the_same_seed_the_same():
    assert sides() == sides()
    assert any(sides(f"simulation.seed={seed}") != sides() for seed in (4, 5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["auxiliary.0.part=1/3"], "is the private corpus itself"),
        (["auxiliary.0.part=2/2"], "is the private corpus itself"),
        (["private.part=4/3"], "there are only 3"),
        (["private.part=half"], "private.part"),
    ],
)
def test_parts_that_are_none_or_overlap_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        load(BASE, settings)
