import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd.data import build_data, check_data, fingerprint
from pyg_ckd.errors import InputError

RATES = ("user", "rates", "item")
TRAIN = np.array([[0, 0, 1, 2], [0, 1, 1, 3]])
VAL = np.array([[0, 2], [2, 0]])
TEST = np.array([[1], [3]])


def features(num_items: int = 4, dim: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(num_items, dim))


def small(**changes):
    arguments = {"train": TRAIN, "features": {"visual": features(), "audio": features(dim=5)}, "val": VAL, "test": TEST}
    arguments |= changes
    return build_data(arguments.pop("train"), arguments.pop("features"), **arguments)


def refuses(pattern: str, **changes) -> None:
    with pytest.raises(InputError, match=pattern) as error:
        small(**changes)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(changes.get("source", "input"))


def test_graph_holds_sizes_features_interactions_and_names():
    data = small(transform="none", source="here")
    assert (data["user"].num_nodes, data["item"].num_nodes) == (3, 4)
    assert data.modalities == ["visual", "audio"]
    assert data.source == "here"
    assert data["item"].visual.dtype == torch.float32
    np.testing.assert_allclose(data["item"].visual.numpy(), features(), atol=1e-6)
    for name, expected in {"edge_index": TRAIN, "val_edge_index": VAL, "test_edge_index": TEST}.items():
        assert data[RATES][name].dtype == torch.int64
        assert np.array_equal(data[RATES][name].numpy(), expected)
    assert "has_visual" not in data["item"]


def test_missing_splits_become_empty_edge_indices():
    data = small(val=None, test=None)
    assert data[RATES].val_edge_index.shape == data[RATES].test_edge_index.shape == (2, 0)
    assert data[RATES].test_edge_index.dtype == torch.int64


@pytest.mark.parametrize(
    "train",
    [
        TRAIN.astype(np.int32),
        TRAIN.astype(np.uint64),
        TRAIN.tolist(),
        torch.from_numpy(TRAIN),
        torch.from_numpy(TRAIN).int(),
        pd.DataFrame({"item": TRAIN[1], "user": TRAIN[0], "rating": 1.0}),
    ],
    ids=["int32", "uint64", "list", "tensor", "int32 tensor", "frame"],
)
def test_interactions_of_every_kind_give_the_same_graph(train):
    assert fingerprint(small(train=train)) == fingerprint(small())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_])
def test_features_of_every_real_dtype_become_float32(dtype):
    x = features().round().astype(dtype)
    data = small(features={"visual": x}, transform="none")
    assert data["item"].visual.dtype == torch.float32
    assert np.array_equal(data["item"].visual.numpy(), x.astype(np.float32))


def test_bfloat16_and_gradient_tensors_are_accepted():
    x = torch.ones(4, 2, dtype=torch.bfloat16, requires_grad=True)
    assert not small(features={"visual": x})["item"].visual.requires_grad


def test_float16_features_do_not_overflow_in_sums():
    x = np.full((4, 3), 60000, dtype=np.float16)
    x[0] = 50000
    data = small(features={"visual": x}, has={"visual": [True, True, True, False]}, transform="none")
    expected = x[:3].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(data["item"].visual[3].numpy(), expected, rtol=1e-6)


def test_graph_does_not_share_memory_with_the_input():
    x = features().astype(np.float32)
    data = small(features={"visual": x}, transform="none")
    x[:] = 0
    assert data["item"].visual.abs().sum() > 0


def test_rows_of_items_without_the_modality_are_the_mean_of_the_others():
    x = features()
    x[2] = np.nan
    has = np.array([True, True, False, True])
    data = small(features={"visual": x}, has={"visual": has}, transform="none")
    np.testing.assert_allclose(data["item"].visual[2].numpy(), x[has].mean(axis=0), atol=1e-6)
    assert data["item"].has_visual.tolist() == has.tolist()


def test_default_features_are_standardized_over_the_items_that_have_the_modality():
    x = features()
    x[2] = 1e9
    has = np.array([True, True, False, True])
    got = small(features={"visual": x}, has={"visual": has})["item"].visual.numpy()
    expected = (x[has] - x[has].mean(axis=0)) / x[has].std(axis=0) / np.sqrt(3)
    np.testing.assert_allclose(got[has], expected, atol=1e-6)
    np.testing.assert_allclose(got[2], 0, atol=1e-6)


def test_sizes_are_inferred_over_all_splits_and_feature_rows():
    data = small(test=np.array([[1, 6], [3, 2]]), features={"visual": features(9)})
    assert (data["user"].num_nodes, data["item"].num_nodes) == (7, 9)


def test_given_sizes_are_kept():
    data = small(num_users=np.int64(8), num_items=np.array(4))
    assert data["user"].num_nodes == 8
    assert type(data["user"].num_nodes) is int


BAD = {
    "empty train": ({"train": np.empty((2, 0), int)}, "train has no interactions"),
    "no train": ({"train": None}, "train has no interactions"),
    "transposed": ({"train": TRAIN.T}, r"train has shape \[4, 2\], expected \[2, E\].*transpose"),
    "one dimension": ({"train": TRAIN[0]}, r"train has shape \[4\], expected \[2, E\]"),
    "ragged": ({"train": [[0, 1], [0]]}, "train: rows of unequal length"),
    "float indices": ({"val": VAL.astype(float)}, "val has dtype float64, expected integers"),
    "bool indices": ({"train": TRAIN > 0}, "train has dtype bool, expected integers"),
    "string indices": ({"train": TRAIN.astype(str)}, "train has dtype <U.*factorize"),
    "object indices": ({"train": TRAIN.astype(object)}, "train has dtype object"),
    "sparse indices": ({"train": torch.eye(2).to_sparse()}, "train: found a sparse tensor"),
    "missing column": (
        {"train": pd.DataFrame({"users": [0], "item": [0]})},
        "lacks the column 'user'.*did you mean 'users'",
    ),
    "float column": ({"train": pd.DataFrame({"user": [0.5], "item": [0]})}, "train, column 'user' has dtype float64"),
    "negative user": ({"train": [[0, -1, -2], [0, 1, 1]]}, "train has 2 user indices out of range, .*position 1: -1"),
    "huge uint64": ({"train": np.array([[0], [2**63]], np.uint64)}, "train has 1 item indices .* 9223372036854775808"),
    "user too large": (
        {"test": [[1, 5], [3, 3]], "num_users": 3},
        r"test has 1 user indices out of range, the first at position 1: 5, expected 0 to 2 \(num_users=3",
    ),
    "item too large": (
        {"num_items": 3, "features": {"visual": features(3)}},
        "train has 1 item indices .*position 3: 3",
    ),
    "raw ids": ({"train": [[0, 2**40], [0, 1]]}, "too many to be row numbers; map raw ids.*factorize"),
    "duplicates": ({"train": [[0, 1, 1, 1], [0, 2, 2, 2]]}, "train has 2 duplicate .*user 1, item 2 at position 1"),
    "train and val": ({"val": [[1, 0], [1, 3]]}, "val repeats 1 interactions of train, the first is user 1, item 1"),
    "train and test": ({"test": TRAIN[:, 2:]}, "test repeats 2 interactions of train"),
    "val and test": ({"test": VAL}, "test repeats 2 interactions of val"),
    "cold val": ({"val": [[5], [0]]}, "no user of val has an interaction in train"),
    "cold test": ({"test": [[5, 6], [0, 1]]}, "no user of test has an interaction in train"),
    "num_users text": ({"num_users": "3"}, "num_users is '3', expected a positive integer"),
    "num_items zero": ({"num_items": 0}, "num_items is 0, expected a positive integer"),
    "no modality": ({"features": {}}, "no modality found"),
    "features no dictionary": ({"features": features()}, "features are a ndarray, expected a dictionary"),
    "too few rows": ({"features": {"visual": features(3)}}, "'visual' have 3 rows, too few for 4 items"),
    "too many rows": ({"features": {"visual": features(5)}, "num_items": 4}, "'visual' have 5 rows, too many for 4"),
    "one-dimensional": ({"features": {"visual": np.ones(4)}}, r"'visual' have shape \[4\], expected .*\[:, None\]"),
    "three-dimensional": (
        {"features": {"visual": np.ones((4, 2, 2))}},
        r"shape \[4, 2, 2\], expected \[num_items, d\]",
    ),
    "zero columns": ({"features": {"visual": np.ones((4, 0))}}, "'visual' have zero columns"),
    "complex": ({"features": {"visual": features() * 1j}}, "'visual' have dtype complex128, expected real"),
    "text": ({"features": {"visual": features().astype(str)}}, "'visual' have dtype <U.*expected real"),
    "objects": ({"features": {"visual": features().astype(object)}}, "'visual' has dtype object|dtype object"),
    "sparse features": ({"features": {"visual": torch.eye(4).to_sparse()}}, "sparse tensor, expected a dense one"),
    "unknown mask": (
        {"has": {"visul": np.ones(4, bool)}},
        "mask given for unknown modality 'visul': did you mean 'visual'",
    ),
    "mask of numbers": ({"has": {"visual": np.ones(4)}}, "has_visual has dtype float64, expected bool"),
    "short mask": ({"has": {"visual": np.ones(3, bool)}}, r"has_visual has shape \[3\], expected \[4\]"),
    "all-False mask": ({"has": {"visual": np.zeros(4, bool)}}, "has_visual is False for every item"),
}


@pytest.mark.parametrize(("changes", "pattern"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_in_one_line_that_says_where(changes, pattern):
    refuses(pattern, source="some/file", **changes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_float32_cannot_hold_are_refused_with_their_row(value):
    x = features()
    x[2:, 1] = value
    refuses(
        "'visual' are not finite in 2 rows, first in row 2, column 1.*give the mask has_visual", features={"visual": x}
    )


def test_nan_of_an_item_that_has_the_modality_is_refused():
    x = features()
    x[1:3] = np.nan
    refuses("in 1 rows, first in row 1", features={"visual": x}, has={"visual": [True, True, False, True]})


@pytest.mark.parametrize(
    "name", ["a b", "", "1st", "class", 3, "has_visual", "num_nodes", "x", "full", "id", "keys", "type", "_m", "x_dict"]
)
def test_modality_names_that_would_collide_are_refused(name):
    refuses("modality name .*(not an identifier|is reserved)", features={name: features()})


def test_unknown_transform_is_refused():
    with pytest.raises(InputError, match="unknown transform 'standardise': did you mean 'standardize'"):
        small(transform="standardise")


@pytest.mark.parametrize("name", ["duplicates", "train and val", "val and test", "cold test"])
def test_repetitions_pass_a_builder_that_is_not_strict(name):
    assert small(strict=False, **BAD[name][0])[RATES].edge_index.dtype == torch.int64


def test_features_that_are_not_finite_pass_a_builder_that_is_not_strict():
    x = features()
    x[1:3] = np.nan
    data = small(features={"visual": x}, has={"visual": [True, True, False, True]}, transform="none", strict=False)
    assert data["item"].visual.isnan().any(dim=1).tolist() == [False, True, True, False]


@pytest.mark.parametrize("name", ["transposed", "raw ids", "empty train", "too few rows", "short mask"])
def test_what_is_no_graph_passes_no_builder(name):
    changes, pattern = BAD[name]
    refuses(pattern, strict=False, **changes)


def test_read_only_arrays_become_tensors_of_their_own(recwarn):
    train = TRAIN.copy()
    train.flags.writeable = False
    small(train=train)[RATES].edge_index.zero_()
    assert np.array_equal(train, TRAIN)
    assert not recwarn


def foreign() -> HeteroData:
    data = HeteroData()
    data["user"].num_nodes = 3
    data["item"].visual = torch.from_numpy(features())
    data["item"].price = torch.arange(4)
    data[RATES].edge_index = torch.from_numpy(TRAIN).int()
    data["item", "similar", "item"].edge_index = torch.tensor([[0], [1]])
    data.modalities = ("visual",)
    return data


def test_check_data_gives_a_foreign_graph_our_dtypes_and_keeps_its_extras():
    given = foreign()
    data = check_data(given)
    assert data["item"].visual.dtype == torch.float32
    assert data[RATES].edge_index.dtype == torch.int64
    assert data[RATES].val_edge_index.shape == (2, 0)
    assert data.modalities == ["visual"]
    assert data["item"].price.tolist() == [0, 1, 2, 3]
    assert ("item", "similar", "item") in data.edge_types
    assert given["item"].visual.dtype == torch.float64
    assert "val_edge_index" not in given[RATES]


def test_check_data_leaves_a_built_graph_as_it_is():
    x = features()
    x[1] = np.nan
    data = small(features={"visual": x}, has={"visual": [True, False, True, True]})
    assert fingerprint(check_data(data)) == fingerprint(data)


def test_check_data_runs_the_checks_of_the_builder():
    data = foreign()
    data["item"].visual[2] = torch.nan
    with pytest.raises(InputError, match="not finite in 1 rows, first in row 2"):
        check_data(data)


def test_check_data_names_what_a_foreign_graph_lacks():
    without_modalities = foreign()
    del without_modalities.modalities
    with pytest.raises(InputError, match=r"data.modalities is None, expected the list.*\['visual'\]"):
        check_data(without_modalities)
    misspelt = foreign()
    misspelt.modalities = ["visaul"]
    with pytest.raises(InputError, match="unknown modality 'visaul': did you mean 'visual'"):
        check_data(misspelt)
    without_edges = foreign()
    del without_edges[RATES]
    with pytest.raises(InputError, match="edge_index is missing"):
        check_data(without_edges)
    uncounted = foreign()
    del uncounted["user"].num_nodes
    with pytest.raises(InputError, match="the number of users is unknown"):
        check_data(uncounted)
    without_users = foreign()
    del without_users["user"]
    with pytest.raises(InputError, match="unknown node type 'user'"):
        check_data(without_users)


def test_fingerprint_is_the_same_in_another_process():
    code = (
        "import numpy as np; from pyg_ckd.data import build_data, fingerprint;"
        "print(fingerprint(build_data([[0, 1], [0, 1]], {'visual': np.arange(6.0).reshape(2, 3)})))"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    here = fingerprint(build_data([[0, 1], [0, 1]], {"visual": np.arange(6.0).reshape(2, 3)}))
    assert run.stdout.strip() == here
    assert len(here) == 64


@pytest.mark.parametrize(
    "changes",
    [
        {"num_users": 4},
        {"train": TRAIN[:, :3]},
        {"val": None},
        {"test": None},
        {"features": {"audio": features(dim=5), "visual": features()}},
        {"features": {"visual": features() + 1e-3, "audio": features(dim=5)}},
        {"has": {"visual": np.ones(4, bool)}},
    ],
    ids=["sizes", "train", "val", "test", "order", "values", "mask"],
)
def test_fingerprint_changes_with_everything_that_a_model_sees(changes):
    assert fingerprint(small(transform="none", **changes)) != fingerprint(small(transform="none"))


@pytest.mark.slow
def test_ten_million_interactions_are_checked_in_seconds():
    key = np.unique(np.random.default_rng(0).integers(0, 10**11, size=10**7))
    data = build_data(np.stack([key // 10**5, key % 10**5]), {"visual": np.ones((10**5, 1))}, num_users=10**6)
    assert data[RATES].num_edges == key.size
