from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_privacy.errors import UserError
from fl_privacy.updates import Labels, LabelsError, Layer, describe_layers, find_layers, resolve_layers


def shapes_of(*layers: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in torch.nn.Sequential(*layers).state_dict().items()}


def test_torch_layout_by_name_even_where_square():
    found = find_layers(shapes_of(torch.nn.Linear(5, 3), torch.nn.ReLU(), torch.nn.Linear(3, 3)))
    assert found == (Layer("0", "0.weight", "0.bias"), Layer("2", "2.weight", "2.bias"))
    assert not any(layer.transposed for layer in found)
    assert found[0].arrays == ("0.weight", "0.bias")


def test_names_count_more_than_order():
    found = find_layers({"fc.bias": (3,), "fc.weight": (3, 5), "scale": (3,)})
    assert found == (Layer("fc", "fc.weight", "fc.bias"),)


def test_keras_layout_has_inputs_first():
    found = find_layers({"dense/kernel": (5, 3), "dense/bias": (3,), "out/kernel": (3, 2), "out/bias": (2,)})
    assert [(f.weight, f.bias, f.transposed) for f in found] == [
        ("dense/kernel", "dense/bias", True),
        ("out/kernel", "out/bias", True),
    ]


def test_unnamed_lists_are_read_by_order_and_length():
    found = find_layers({"0": (8, 5), "1": (8,), "2": (8, 8), "3": (8,), "4": (8, 2), "5": (2,)})
    assert [(f.weight, f.bias, f.transposed) for f in found] == [
        ("0", "1", False),
        ("2", "3", False),
        ("4", "5", True),
    ]


def test_a_layer_without_bias_has_none():
    assert find_layers(shapes_of(torch.nn.Linear(5, 3, bias=False), torch.nn.Linear(3, 2)))[0].bias is None
    assert find_layers({"w": (3, 5), "v": (7,)})[0].bias is None


@pytest.mark.parametrize("norm", [torch.nn.BatchNorm1d(3), torch.nn.LayerNorm(3)])
def test_the_scale_of_a_norm_behind_a_layer_is_not_its_bias(norm):
    layers = find_layers(shapes_of(torch.nn.Linear(5, 3, bias=False), norm, torch.nn.Linear(3, 2)))
    assert [layer.bias for layer in layers] == [None, "2.bias"]


def test_convolutions_are_no_dense_layers():
    assert [f.name for f in find_layers(shapes_of(torch.nn.Conv2d(1, 4, 3), torch.nn.Linear(4, 2)))] == ["1"]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=6),
    biases=st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_any_torch_perceptron_is_found(sizes, biases):
    layers = [torch.nn.Linear(i, o, bias=b) for i, o, b in zip(sizes, sizes[1:], biases, strict=False)]
    found = find_layers(shapes_of(*layers))
    assert [(f.weight, f.bias, f.transposed) for f in found] == [
        (f"{n}.weight", f"{n}.bias" if layer.bias is not None else None, False) for n, layer in enumerate(layers)
    ]


SHAPES = {"fc1.weight": (4, 3), "fc1.bias": (4,), "fc2.weight": (2, 4), "fc2.bias": (2,)}


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (["first"], ["fc1"]),
        (["second"], ["fc2"]),
        (["last"], ["fc2"]),
        (["all"], ["fc1", "fc2"]),
        (["fc2", "first", "fc2.weight"], ["fc2", "fc1"]),
    ],
)
def test_layers_by_place_or_name(wanted, names):
    assert [layer.name for layer in resolve_layers(SHAPES, wanted)] == names


def test_an_unknown_layer_names_the_known_ones():
    with pytest.raises(UserError, match=r"no layer 'fc9'.*fc1, fc2"):
        resolve_layers(SHAPES, ["fc9"])
    with pytest.raises(UserError, match=r"no dense layer among the arrays conv\.weight"):
        resolve_layers({"conv.weight": (4, 1, 3, 3)}, ["first"])


def test_one_name_for_a_list_of_names_is_not_read_letter_by_letter():
    try:
        layers = resolve_layers(SHAPES, "first")
    except UserError as error:
        assert "'f'" not in str(error)  # noqa: PT017
    else:
        assert [layer.name for layer in layers] == ["fc1"]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("first", "fc1 (fc1.weight 4 x 3, fc1.bias 4): the first dense layer, guessed from shapes"),
        (["last"], "fc2 (fc2.weight 2 x 4, fc2.bias 2): the last dense layer, guessed from shapes"),
        (
            ["all"],
            (
                "fc1 (fc1.weight 4 x 3, fc1.bias 4) and fc2 (fc2.weight 2 x 4, fc2.bias 2): "
                "all dense layers, guessed from shapes"
            ),
        ),
        (["fc2"], "fc2 (fc2.weight 2 x 4, fc2.bias 2), as named"),
        (
            ["fc1", "second"],
            (
                "fc1 (fc1.weight 4 x 3, fc1.bias 4) and fc2 (fc2.weight 2 x 4, fc2.bias 2): "
                "the second dense layer, guessed from shapes"
            ),
        ),
    ],
)
def test_layers_in_words(wanted, words):
    assert describe_layers(SHAPES, wanted) == words


def test_a_layer_without_bias_in_words():
    assert describe_layers({"w.weight": (4, 3)}, "first").startswith("w (w.weight 4 x 3): ")


CELLS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=8).map(str.strip)


@given(st.dictionaries(CELLS.filter(bool), st.tuples(CELLS.filter(bool), CELLS), min_size=1, max_size=5))
def test_labels_survive_a_file(tmp_path_factory, rows):
    labels = Labels({client: {"speaker": speaker, "gender": gender} for client, (speaker, gender) in rows.items()})
    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    labels.write(path)
    assert Labels.read(path).rows == labels.rows


def test_labels_speaker_defaults_to_the_client_and_spreadsheets_are_read(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes("\ufeffclient,speaker,gender\r\n0,,female\r\n 1 ,ann,male\r\n".encode())
    labels = Labels.read(path)
    assert labels.of(["1", "0"], "speaker") == ["ann", "0"]
    assert labels.of(["0", "1", "1"], "gender") == ["female", "male", "male"]
    assert set(labels.columns) == {"speaker", "gender"}
    path.write_text("client,gender\n0,female\n")
    assert Labels.read(path).of(["0"], "speaker") == ["0"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"node,gender\n0,f\n", "no column 'client'; it has: node, gender"),
        (b"", "no column 'client'"),
        (b"client,gender\n", "names no client"),
        (b"client,gender\n0,f\n0,m\n", "line 3: client '0' stands there twice"),
        (b"client,gender\n0,f\n,m\n", "line 3: the client's name is empty"),
        (b"client,gender\n\xff\xfe,f\n", "cannot be read"),
        (b"client,gender\n0," + b"x" * 200_000 + b"\n", "cannot be read"),
        (b"client,gender,gender\n0,f,m\n", "gender"),
    ],
)
def test_a_bad_label_file_says_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(LabelsError, match=message):
        Labels.read(path)


def test_missing_label_files_columns_and_values_are_named(tmp_path):
    with pytest.raises(LabelsError, match="no label file"):
        Labels.read(tmp_path / "none.csv")
    labels = Labels({"0": {"speaker": "a", "gender": "f"}, "1": {"speaker": "b", "gender": ""}})
    with pytest.raises(LabelsError, match="no column 'age'; it has: speaker, gender"):
        labels.of(["0"], "age")
    with pytest.raises(LabelsError, match=r"2 client.*1, 9"):
        labels.of(["0", "1", "9"], "gender")
