"""What no graph may hold: names that break containers, and nothing to rank."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn

from pyg_ckd.data import build_data
from pyg_ckd.data.checks import check_modality_name
from pyg_ckd.datasets import write_npz
from pyg_ckd.errors import InputError

TRAIN = np.array([[0, 1, 2], [0, 1, 0]])


def graph(*names: str):
    return build_data(TRAIN, {name: np.arange(8.0).reshape(4, 2) for name in names})


@pytest.mark.parametrize(
    "texts", [["red shoes", "bag", "hat"], np.array(["a", "b", "c"], dtype=object)], ids=["list", "array"]
)
def test_texts_in_place_of_features_are_refused_with_what_makes_vectors_of_them(texts):
    with pytest.raises(InputError, match=r"'textual' .*; texts become vectors with pyg_ckd.datasets.text_features$"):
        build_data(TRAIN, {"textual": texts})


def attributes() -> list[str]:
    """Every name that a module or a dictionary of modules or parameters has a meaning for."""
    return sorted({name for cls in (nn.Module, nn.ModuleDict, nn.ParameterDict) for name in dir(cls())})


def test_no_name_of_a_module_is_a_modality():
    for name in attributes():
        with pytest.raises(InputError, match="is reserved by PyG, PyTorch"):
            check_modality_name(name, "input")


@pytest.mark.parametrize(
    ("name", "advice"),
    [("a.b", "a_b"), ("visual.x", "visual_x"), ("", "visual"), ("1st", "visual"), ("two words", "two_words")],
)
def test_a_name_that_is_no_identifier_is_refused_with_one_that_is(name, advice):
    with pytest.raises(InputError, match=f"modality name '{name}' is not an identifier; .* e.g. '{advice}'$"):
        graph("visual", name)


@pytest.mark.parametrize(
    "name", ["items", "keys", "pop", "train", "user_id", "edge_index", "has_visual", "x_dict", "_m"]
)
def test_a_reserved_name_is_refused_with_one_that_is_fine(name):
    with pytest.raises(InputError, match=f"modality name '{name}' is reserved .* rename it") as error:
        graph(name)
    graph(str(error.value).split("'")[-2])


@pytest.mark.parametrize("name", ["visual", "Text2", "data", "source", "weight", "face", "name", "画像"])
def test_any_other_identifier_works_wherever_modalities_go(name, tmp_path):
    data = graph(name, "other")
    assert nn.ModuleDict({name: nn.Linear(1, 1)})[name] is not None
    assert nn.ParameterDict({name: torch.zeros(1)})[name].shape == (1,)
    rows = data.subgraph({"item": torch.tensor([1, 3])})["item"][name]
    assert torch.equal(rows, data["item"][name][[1, 3]])
    write_npz(data, tmp_path / "data.npz")
    with np.load(tmp_path / "data.npz") as arrays:
        assert arrays["train"].tolist() == TRAIN.tolist()
        assert arrays[name].shape == (4, 2)


def test_a_single_item_is_refused_as_nothing_can_be_ranked_against_it():
    with pytest.raises(InputError, match="input: found a single item, expected at least two"):
        build_data([[0, 1], [0, 0]], {"visual": [[1.0, 2.0]]})


def test_a_single_user_is_a_graph():
    data = build_data([[0, 0], [0, 1]], {"visual": np.eye(4)}, val=[[0], [2]], test=[[0], [3]])
    assert data["user"].num_nodes == 1


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (lambda x: np.ma.masked_less(x, -1.0), "masked values.*filled"),
        (lambda x: scipy.sparse.csr_matrix(x), "sparse matrix.*csr_matrix.*toarray"),
        (lambda x: scipy.sparse.coo_array(x), "sparse matrix.*coo_array.*toarray"),
    ],
)
def test_masked_and_sparse_arrays_are_refused_with_what_to_write(features, words) -> None:
    pairs, x = np.array([[0, 1, 2], [0, 1, 2]]), np.linspace(-2, 2, 12).reshape(3, 4)
    with pytest.raises(InputError, match=words):
        build_data(pairs, {"a": features(x), "b": x})
    assert build_data(pairs, {"a": np.ma.masked_less(x, -9.0), "b": x})["item"].a.shape == (3, 4)
    with pytest.raises(InputError, match=r"numpy\.stack"):
        build_data(scipy.sparse.coo_array(np.eye(3)), {"a": x, "b": x})
