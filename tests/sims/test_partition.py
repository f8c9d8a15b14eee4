from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_privacy.config import FederationSettings, Task
from fl_privacy.corpora import Corpus, Utterance
from fl_privacy.errors import UserError
from fl_privacy.features import FeatureTable
from fl_privacy.sims.partition import corpus_names, partition, task_corpus

TASK = Task()


def corpus(speakers: int, utterances: int | list[int] = 8, name: str = "toy", emotions=TASK.classes) -> Corpus:
    """Odd speakers are men and even ones women, as in RAVDESS."""
    sizes = itertools.repeat(utterances) if isinstance(utterances, int) else utterances
    return Corpus(
        name,
        None,
        tuple(
            Utterance(
                f"{s}-{n}",
                str(s),
                None,
                {"gender": "female" if s % 2 == 0 else "male", "emotion": emotions[n % len(emotions)]},
            )
            for s, size in zip(range(1, speakers + 1), sizes, strict=False)
            for n in range(size)
        ),
    )


def sentences(speakers: int) -> Corpus:
    """Every speaker says each of three sentences in each emotion."""
    made = corpus(speakers, 12)
    said = [replace(u, labels={**u.labels, "sentence": "abc"[n % 12 // 4]}) for n, u in enumerate(made)]
    return replace(made, utterances=tuple(said))


def table(made: Corpus) -> FeatureTable:
    """Features that name their row: column 0 is the row's number."""
    values = np.random.default_rng(0).normal(size=(len(made), 3)).astype(np.float32)
    values[:, 0] = np.arange(len(made))
    return FeatureTable(made, values)


def cut(tables, seed=1, how="none", hold_out=True, shards=None, fold=None, attribute="gender", **options):
    tables = tables if isinstance(tables, list) else [tables]
    return partition(
        tables,
        FederationSettings(**options),
        TASK,
        names_of_corpora=corpus_names([t.corpus.name for t in tables]),
        attribute=attribute,
        how=how,
        seed=seed,
        hold_out=hold_out,
        shards=shards,
        fold=fold,
    )


def rows_of(client) -> list[int]:
    return [*client.train_features[:, 0].astype(int).tolist(), *client.validation_features[:, 0].astype(int).tolist()]


@settings(max_examples=60, deadline=None)
@given(
    speakers=st.integers(5, 14),
    sizes=st.lists(st.integers(4, 11), min_size=14, max_size=14),
    shards=st.integers(1, 3),
    folds=st.integers(2, 5),
    examples=st.sampled_from(["all", "equal", 1]),
    seed=st.integers(0, 1000),
)
def test_every_utterance_is_used_once_and_held_out_speakers_are_never_clients(
    speakers, sizes, shards, folds, examples, seed
):
    made = corpus(speakers, sizes)
    result = cut(table(made), seed, folds=folds, shards_per_speaker=shards, examples_per_client=examples)
    owner = [u.speaker for u in made]
    truth = np.array([TASK.classes.index(label) for label in made.label("emotion")])
    test_rows = result.test_features[:, 0].astype(int)
    used = [row for client in result.clients for row in rows_of(client)]
    assert len(set(used)) == len(used)
    held = {s.removeprefix("toy/") for s in result.test_speakers}
    assert held
    assert held == {owner[r] for r in test_rows}
    assert held.isdisjoint(owner[r] for r in used)
    assert sorted(test_rows) == [r for r, s in enumerate(owner) if s in held]
    if examples == "all":
        assert sorted([*used, *test_rows]) == list(range(len(made)))
    elif examples == "equal":
        assert len({len(rows_of(c)) for c in result.clients}) == 1
        assert min(len(rows_of(c)) for c in result.clients) == min(
            sizes[int(s) - 1] // shards for s in set(owner) - held
        )
    else:
        assert {len(rows_of(c)) for c in result.clients} == {1}
    assert len(result.clients) == shards * (speakers - len(held))
    np.testing.assert_array_equal(result.test_labels, truth[test_rows])
    for number, client in enumerate(result.clients):
        rows, label = rows_of(client), result.labels.rows[str(number)]
        assert {f"toy/{owner[r]}" for r in rows} == {label["speaker"]}
        assert label["gender"] == ("female" if int(owner[rows[0]]) % 2 == 0 else "male")
        assert int(label["examples"]) == len(rows)
        n = len(rows)
        assert len(client.train_labels) == max(1, n * 4 // 5)
        np.testing.assert_array_equal([*client.train_labels, *client.validation_labels], truth[rows])
        for c, emotion in enumerate(TASK.classes):
            assert float(label[f"share_{emotion}"]) == pytest.approx((truth[rows] == c).mean(), abs=1e-6)


def test_the_same_seed_gives_the_same_partition_and_another_another():
    made = table(corpus(10))

    def draw(seed):
        return [rows_of(c) for c in cut(made, seed, fold=0).clients]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_the_fold_is_the_seeds_or_the_one_asked_for_and_unshuffled():
    made = table(corpus(10))
    assert cut(made, 7).test_speakers == ("toy/5", "toy/6")  # 7 mod 5 = 2
    assert cut(made, 7, fold=0).test_speakers == ("toy/1", "toy/2")
    assert cut(made, 7, hold_out=False).test_speakers == ()
    assert len(cut(made, 7, hold_out=False).clients) == 10
    assert cut(made, 7, hold_out=False).test_features.shape == (0, 3)


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    wins = np.sign(scores[truth][:, None] - scores[~truth][None, :])
    return float((wins + 1).mean() / 2)


def test_a_clients_number_tells_nothing_of_the_speaker():
    """Corpus order alternates men and women: number, parity and position must be at chance over seeds."""
    made, found = table(corpus(24, 4)), {"number": [], "parity": [], "neighbour": []}
    for seed in range(120):
        rows = cut(made, seed, shards_per_speaker=1 + seed % 2).labels.rows
        female = np.array([row["gender"] == "female" for row in rows.values()])
        numbers = np.arange(len(female)).astype(float)
        found["number"].append(auc(numbers, female))
        found["parity"].append(auc(numbers % 2, female))
        found["neighbour"].append(float((female[1:] != female[:-1]).mean()))
    for name, values in found.items():
        expected = 0.5 if name != "neighbour" else 0.51
        assert abs(np.mean(values) - expected) < 4 * np.std(values) / np.sqrt(len(values)) + 0.01, name
        assert np.std(values) > 0.01, name


def test_global_normalisation_knows_training_speakers_alone():
    made = corpus(10)
    base = table(made)
    spoiled = base.values.copy()
    plain = cut(base, 0, how="global")
    held = [i for i, u in enumerate(made) if f"toy/{u.speaker}" in plain.test_speakers]
    spoiled[held] += 1000.0
    other = cut(FeatureTable(made, spoiled), 0, how="global")
    for one, two in zip(plain.clients, other.clients, strict=True):
        np.testing.assert_array_equal(one.train_features, two.train_features)
    everything = np.concatenate([np.concatenate([c.train_features, c.validation_features]) for c in plain.clients])
    np.testing.assert_allclose(everything.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(everything.std(axis=0), 1, atol=1e-4)


def test_speaker_normalisation_takes_each_speakers_mean_away():
    for client in cut(table(corpus(10, 20)), 0, how="speaker").clients:
        both = np.concatenate([client.train_features, client.validation_features])
        np.testing.assert_allclose(both.mean(axis=0), 0, atol=1e-4)


def test_corpora_are_normalised_each_by_itself_and_their_speakers_kept_apart():
    one, two = table(corpus(6, name="a")), table(corpus(6, name="b"))
    two = FeatureTable(two.corpus, two.values * 50 + 7)
    result = cut([one, two], hold_out=False, how="global")
    assert len({row["speaker"] for row in result.labels.rows.values()}) == 12
    for corpus_name in "ab":
        mine = [
            np.concatenate([c.train_features, c.validation_features])
            for c, row in zip(result.clients, result.labels.rows.values(), strict=True)
            if row["speaker"].startswith(corpus_name)
        ]
        np.testing.assert_allclose(np.concatenate(mine).std(axis=0), 1, atol=1e-4)


def test_two_corpora_of_one_name_are_two_sets_of_people():
    """Such as two synthetic corpora of different seeds, or two folders."""
    flipped = corpus(6)
    flipped = Corpus(
        "toy",
        None,
        tuple(
            Utterance(
                u.id, u.speaker, None, {**u.labels, "gender": "male" if u.labels["gender"] == "female" else "female"}
            )
            for u in flipped
        ),
    )
    result = cut([table(corpus(6)), table(flipped)], hold_out=False)
    genders: dict[str, set[str]] = {}
    for row in result.labels.rows.values():
        genders.setdefault(row["speaker"], set()).add(row["gender"])
    assert len(genders) == 12
    assert all(len(g) == 1 for g in genders.values())


def test_each_corpus_may_have_its_own_number_of_shards_and_is_folded_by_itself():
    result = cut([table(corpus(10, name="a")), table(corpus(15, name="b"))], shards=[3, 1], fold=1)
    counts: dict[str, int] = {}
    for row in result.labels.rows.values():
        counts[row["speaker"]] = counts.get(row["speaker"], 0) + 1
    assert {speaker.partition("/")[0]: n for speaker, n in counts.items()} == {"a": 3, "b": 1}
    assert len(counts) == 8 + 12
    assert result.test_speakers == ("a/3", "a/4", "b/4", "b/5", "b/6")  # the second fold of five of each
    # The settings' own number still holds where none is given, and the fold does not change what they say.
    assert len(cut([table(corpus(10))], shards_per_speaker=2, fold=1).clients) == 16
    with pytest.raises(UserError, match="^shards = 9, but speaker a/1 has only 8"):
        cut([table(corpus(10, name="a"))], shards=[9], seed=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 11}, "folds = 11"),
        ({"shards_per_speaker": 9}, "shards_per_speaker = 9, but speaker toy/1 has .*8"),
        ({"examples_per_client": 9}, "examples_per_client = 9, but a client has only 8"),
    ],
)
def test_what_the_corpus_cannot_give_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        cut(table(corpus(10)), seed=4, **options)


def test_what_a_speaker_says_is_one_sentence_the_same_in_every_federation():
    made = sentences(15)
    told = made.label("sentence")
    said: dict[str, set[str]] = {}
    for seed in range(10):
        part = cut(table(made), seed=seed, hold_out=seed % 2 == 0, attribute="sentence", shards_per_speaker=2)
        for number, client in enumerate(part.clients):
            row = part.labels.rows[str(number)]
            assert {told[i] for i in rows_of(client)} == {row["sentence"]}
            said.setdefault(row["speaker"], set()).add(row["sentence"])
        counts = Counter(row["sentence"] for row in part.labels.rows.values())
        assert set(counts) == set("abc")
        assert max(counts.values()) - min(counts.values()) <= 2  # of two shards each
        assert len(part.test_labels) == (3 * 12 if seed % 2 == 0 else 0)  # the test is of all sentences
    assert {len(values) for values in said.values()} == {1}
    assert len({said[f"toy/{s}"].copy().pop() for s in (1, 2, 3)}) == 3  # dealt out, not alternating like the sexes


def test_a_client_normalises_by_what_it_has():
    """Speakers' own normalisation: of the one sentence a client has, not of others that it never saw."""
    part = cut(table(sentences(10)), how="speaker", attribute="sentence")
    for client in part.clients:
        whole = np.concatenate([client.train_features, client.validation_features])
        np.testing.assert_allclose(whole.mean(axis=0), 0, atol=1e-5)
    for sentence in "abc":
        there = part.examples.attribute == sentence
        np.testing.assert_allclose(part.examples.features[there].mean(axis=0), 0, atol=1e-5)


def test_utterances_of_other_classes_are_refused_or_left_out():
    made = corpus(4, 5, emotions=(*TASK.classes, "bored"))
    with pytest.raises(UserError, match=r"4 utterances have emotion bored.*task\.others = 'leave-out'"):
        task_corpus(made, TASK)
    kept = task_corpus(made, Task(others="leave-out"))
    assert set(kept.label("emotion")) == set(TASK.classes)
    assert [e.reason for e in kept.excluded] == ["emotion bored is not one of the task's classes"] * 4
    with pytest.raises(UserError, match="no utterance with emotion among"):
        task_corpus(corpus(4, 5, emotions=("bored",)), Task(others="leave-out"))
    with pytest.raises(UserError, match="age"):
        task_corpus(made, Task(label="age"))


@pytest.mark.parametrize("n", range(1, 60))
def test_four_fifths_are_for_training(n):
    (client,) = cut(table(corpus(1, n)), hold_out=False).clients
    assert len(client.train_labels) == max(1, n * 4 // 5)
    assert len(client.validation_labels) == n - len(client.train_labels)
