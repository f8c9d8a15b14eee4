from __future__ import annotations

import json

import pytest

from fl_privacy.config import ConfigError, load, load_any, parse_value, presets
from fl_privacy.errors import UserError

BASE = {
    "simulation": {"kind": "federated-ser"},
    "private": {"corpus": "ravdess"},
    "auxiliary": [{"corpus": "emodb"}, {"corpus": "folder", "root": "/voices"}],
    "defense": [{"name": "my.mod:Noise", "sigma": 1.0}],
    "attack": [{"name": "input-reconstruction"}, {"name": "raw-linear", "label": "deep", "layers": ["fc2"]}],
}


def test_defaults_are_the_published_settings():
    file = load(BASE)
    assert (file.federation.algorithm, file.federation.rounds, file.federation.batch_size) == ("fedsgd", 200, 20)
    assert (file.federation.folds, file.federation.dropout, file.features.normalise) == (5, 0.2, "global")
    assert file.task.classes == ("neutral", "happy", "sad", "angry")
    assert file.audit.permutations >= 50


def test_resolved_settings_read_back_as_the_same():
    file = load(BASE, ["federation.algorithm=fedavg", "federation.local_epochs=2"])
    assert load(json.loads(json.dumps(file.resolved()))) == file


def test_the_file_is_not_changed_by_settings():
    before = json.dumps(BASE)
    load(BASE, ["federation.rounds=3", "attack.deep.layers=['fc1']", "auxiliary.0.corpus=crema-d"])
    assert json.dumps(BASE) == before


@pytest.mark.parametrize(
    ("setting", "where", "value"),
    [
        ("federation.rounds=7", lambda f: f.federation.rounds, 7),
        ("federation.rounds = 7 ", lambda f: f.federation.rounds, 7),
        ("federation.algorithm=fedavg", lambda f: f.federation.algorithm, "fedavg"),
        ("federation.algorithm='fedavg'", lambda f: f.federation.algorithm, "fedavg"),
        ("federation.learning_rate=1e-2", lambda f: f.federation.learning_rate, 0.01),
        ("capture.keep=false", lambda f: f.capture.keep, False),
        ("private.root=/a b/c=d", lambda f: f.private.root, "/a b/c=d"),
        ("auxiliary.emodb.root=/x", lambda f: f.auxiliary[0].root, "/x"),
        ("auxiliary.1.root=/x", lambda f: f.auxiliary[1].root, "/x"),
        ('auxiliary=[{corpus="an4"}]', lambda f: [a.corpus for a in f.auxiliary], ["an4"]),
        ("attack.deep.C=0.5", lambda f: f.attack[1].model_dump()["C"], 0.5),
        ("attack.input-reconstruction.C=2", lambda f: f.attack[0].model_dump()["C"], 2),
        ("private.options={speakers = 4}", lambda f: f.private.options, {"speakers": 4}),
        ("features.options.checkpoint=/m.pt", lambda f: f.features.options, {"checkpoint": "/m.pt"}),
        ("features.options={layer = 3}", lambda f: f.features.options, {"layer": 3}),
        ("private.options.speakers=4", lambda f: f.private.options, {"speakers": 4}),
    ],
)
def test_settings_by_path_name_and_number(setting, where, value):
    assert where(load(BASE, [setting])) == value


def test_later_settings_win():
    assert load(BASE, ["federation.rounds=7", "federation.rounds=8"]).federation.rounds == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["federation.round=3"], r"federation\.round: unknown key \(did you mean 'rounds'\?\)$"),
        (["private.option.x=3"], r"private\.option: unknown key \(did you mean 'options'\?\)$"),
        (["federation.rounds=0"], r"federation\.rounds: .*greater than or equal to 1 \(it is 0\)"),
        (["federation.rounds=many"], r"federation\.rounds: .*'many'"),
        (["federation.rounds=2.5"], r"federation\.rounds"),
        (["federation.rounds=true"], r"federation\.rounds"),
        (["federation.learning_rate=nan"], r"federation\.learning_rate"),
        (["federation.learning_rate=inf"], r"federation\.learning_rate"),
        (["federation.learning_rate=0"], r"federation\.learning_rate"),
        (["federation.dropout=1.0"], r"federation\.dropout"),
        (["federation.dropout=nan"], r"federation\.dropout"),
        (["federation.algorithm=sgd"], r"federation\.algorithm.*fedsgd"),
        (["federation.examples_per_client=some"], r"federation\.examples_per_client"),
        (["federation.local_epochs=2"], "local_epochs is a setting of fedavg"),
        (["federation.fold=5"], r"fold must be below folds \(5\)"),
        (["simulation.seed=-1"], r"simulation\.seed"),
        (["simulation.kind=nope"], r"simulation\.kind.*federated-ser"),
        (["audit.confidence=1"], r"audit\.confidence"),
        (["audit.permutations=0"], r"audit\.permutations"),
        (["task.classes=['a']"], "at least two different names"),
        (["task.classes=['a', 'a', 'b']"], "different names"),
        (["attack=[]"], "attack"),
        (["auxiliary=[]"], "auxiliary"),
        (["private.corpus=''"], r"private\.corpus"),
        (["nonsense.key=1"], r"nonsense: unknown key$"),
        (["auxiliary.7.root=x"], "no entry '7'; there are: emodb, folder"),
        (["attack.raw-linear.C=1"], "no entry 'raw-linear'; there are: input-reconstruction, deep"),
        (["private.corpus.name=x"], "not a table"),
        (["task.classes.0.x=calm"], r"task\.classes"),
        (["federation.rounds"], "not of the form"),
        (["=3"], "not of the form"),
        (["auxiliary=[{corpus="], "no TOML value"),
        (["federation..rounds=3"], "federation"),
    ],
)
def test_what_cannot_be_is_refused_with_its_path(settings, message):
    if settings == ["task.classes.0.x=calm"]:
        settings = ["task.classes=['a', 'b']", *settings]
    with pytest.raises(ConfigError, match=message):
        load(BASE, settings)


def test_missing_parts_are_named():
    with pytest.raises(ConfigError, match="private: missing"):
        load({k: v for k, v in BASE.items() if k != "private"})


@pytest.mark.parametrize(
    "corpora",
    [
        ({"corpus": "ravdess"}, {"corpus": "ravdess"}),
        ({"corpus": "folder", "root": "/voices"}, {"corpus": "folder", "root": "/voices"}),
        ({"corpus": "folder", "root": "/voices"}, {"corpus": "folder", "root": "/voices/"}),
        ({"corpus": "folder", "root": "/voices"}, {"corpus": "folder", "root": "/voices/../voices"}),
        ({"corpus": "ravdess"}, {"corpus": "ravdess", "root": "{data}/ravdess"}),
        (
            {"corpus": "synthetic", "options": {"speakers": 40, "seed": 1}},
            {"corpus": "synthetic", "options": {"speakers": 30, "seed": 1}},
        ),
    ],
)
def test_the_attacker_does_not_own_the_private_speakers(corpora, tmp_path, monkeypatch):
    monkeypatch.setenv("FL_PRIVACY_DATA", str(tmp_path))
    private, own = ({k: v.format(data=tmp_path) if k == "root" else v for k, v in c.items()} for c in corpora)
    with pytest.raises(ConfigError, match="other speakers"):
        load({**BASE, "private": private, "auxiliary": [{"corpus": "emodb"}, own]})


def test_the_same_kind_of_corpus_with_other_people_is_fine():
    people = [{"corpus": "synthetic", "options": {"seed": s}} for s in (1, 2)]
    load({**BASE, "private": people[0], "auxiliary": [people[1]]})


def test_clients_of_a_round_are_a_number_a_share_or_the_default():
    def a_round(clients, *settings):
        return load(BASE, settings).federation.a_round_of(clients)

    assert [a_round(n) for n in (3, 30, 80)] == [3, 4, 8]
    assert [a_round(n, "federation.clients_per_round=6") for n in (6, 80)] == [6, 6]
    assert [a_round(n, "federation.clients_per_round=0.1") for n in (5, 73, 80, 100)] == [1, 7, 8, 10]
    assert a_round(100, "federation.clients_per_round=0.29") == 29


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("federation.clients_per_round=0", "clients_per_round"),
        ("federation.clients_per_round=1.5", "clients_per_round"),
        ("federation.clients_per_round=1.0", "clients_per_round"),
        ("private.shards=0", "private.shards"),
        ("protocol.name=mine", "protocol.name"),
        ("protocol.leaked_updates=[1]", "leaked_updates is a setting of the protocol as-published"),
        ('protocol={name="as-published", leaked_updates=[1, 1]}', "leaked_updates: 1 stands there twice"),
        ('protocol={name="as-published", leaked_updates=[0]}', "leaked_updates"),
    ],
)
def test_what_the_study_s_settings_cannot_be_is_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        load(BASE, [setting])


@pytest.mark.parametrize("name", sorted(presets()))
def test_presets_load_and_say_what_they_are(name):
    kinds = {
        "speaker-membership": "speaker-membership",
        "speaker-inversion": "speaker-inversion",
        "pizzi2023": "speaker-inversion",
        "ssl": "ssl-membership",
        "tseng2022": "ssl-membership",
    }
    kind = next((kind for start, kind in kinds.items() if name.startswith(start)), "federated-ser")
    assert load_any(name).resolved()["simulation"]["kind"] == kind
    assert len(presets()[name]) > 20


def test_files_are_read_and_missing_or_broken_ones_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no file and no preset 'nowhere\.toml'.*federated-ser"):
        load("nowhere.toml")
    path = tmp_path / "sim.toml"
    path.write_text("[simulation\n")
    with pytest.raises(ConfigError, match="is no TOML"):
        load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)
    path.write_text('[simulation]\nkind = "federated-ser"\nsede = 3\n[private]\ncorpus = "a"\n')
    with pytest.raises(ConfigError, match=r"sim\.toml.*simulation\.sede: unknown key"):
        load(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3.5", 3.5),
        ("true", True),
        ("word", "word"),
        ("two words", "two words"),
        ("[1, 2]", [1, 2]),
        ("'3'", "3"),
    ],
)
def test_values_are_toml_and_bare_words_strings(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_config_errors_are_user_errors_of_two_lines_at_most():
    with pytest.raises(UserError) as refused:
        load(BASE, ["federation.nope=1"])
    assert len(str(refused.value).splitlines()) <= 2
