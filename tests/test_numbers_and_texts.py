"""Numbers of NumPy and PyTorch are those of Python, and what is no number, or no name, is refused by its argument."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from pyg_ckd.data import (
    build_data,
    cold_start_split,
    feature_transform,
    imputation,
    subgraph,
)
from pyg_ckd.data.negatives import popularity_weight
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import (
    Evaluator,
    ease,
    ease_content,
    evaluate,
    fit_baseline,
    item_knn,
    item_knn_content,
)
from pyg_ckd.evaluation.metrics import parse_metric
from pyg_ckd.nn import BM3, FISM, FREEDOM, GRCN, LATTICE, MGCN, MICRO, VBPR, EgoConv, EgoGCN
from pyg_ckd.scoring.views import as_views
from pyg_ckd.serving import Recommender
from pyg_ckd.training.model import save_model

PAIRS = np.array([[0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 3]])
LIKES = pd.DataFrame({"user": PAIRS[0], "item": PAIRS[1], "label": [1, 1, 1, 0, 1, 1]})
FEATURES = {"visual": np.eye(4)}

INTEGERS = {
    "item_knn": (lambda data, k: item_knn(data, k), "item-knn k"),
    "item_knn_content": (lambda data, k: item_knn_content(data, k), "item-knn k"),
    "ease": (lambda data, n: ease(data, max_items=n), "max_items"),
}
NUMBERS = {
    "item_knn": (lambda data, x: item_knn(data, 2, x), "item-knn shrinkage"),
    "item_knn_content": (lambda data, x: item_knn_content(data, 2, weight=x), "item-knn-content weight"),
    "ease": (ease, "ease ridge"),
    "ease_content": (lambda data, x: ease_content(data, content_ridge=x), "ease ridge"),
    "ease_content weight": (lambda data, x: ease_content(data, weight=x), "ease-content weight"),
    "cold_start_split": (lambda _, x: cold_start_split(PAIRS, cold_share=x), "cold_share"),
    "alpha": (lambda _, x: popularity_weight(torch.ones(3), x), "alpha"),
    "threshold": (lambda _, x: EgoConv(4, 1, threshold=x), "threshold"),
    "modality_weights": (
        lambda data, x: FREEDOM.from_data(data, modality_weights={"mod0": x, "mod1": 1.0}),
        "modality_weights of 'mod0'",
    ),
}
OPTIONS = [
    (BM3, "dropout"),
    (BM3, "modality_loss_weight"),
    *((FISM, name) for name in ("temperature", "graph_weight", "ridge", "kernel_weight", "feature_dropout")),
    (FREEDOM, "dropout"),
    (FREEDOM, "modality_loss_weight"),
    (GRCN, "cosine"),
    (LATTICE, "skip_weight"),
    (MGCN, "contrastive_weight"),
    (MGCN, "temperature"),
    (MICRO, "skip_weight"),
    (MICRO, "contrast_weight"),
    (MICRO, "temperature"),
    (VBPR, "cosine"),
    (EgoGCN, "threshold"),
]


@pytest.mark.parametrize("seed", [np.int64(2), torch.tensor(2), np.array(2)], ids=["numpy", "tensor", "array"])
def test_the_seed_of_evaluated_users_may_be_of_numpy_and_pytorch(seed, make_data):
    data = make_data()
    users = Evaluator(data, k=3, eval_users=5, seed=seed).users
    assert torch.equal(users, Evaluator(data, k=3, eval_users=5, seed=2).users)


@pytest.mark.parametrize("seed", ["2", None, 2.5, True, -1])
def test_other_seeds_of_evaluated_users_are_refused(seed, make_data):
    with pytest.raises(InputError, match=r"seed: found .*, expected an integer"):
        Evaluator(make_data(), k=3, eval_users=5, seed=seed)


@pytest.mark.parametrize(("use", "name"), INTEGERS.values(), ids=INTEGERS)
@pytest.mark.parametrize("value", ["2", None, 2.5, True, [2]])
def test_what_is_no_integer_is_refused(use, name, value, make_data):
    with pytest.raises(InputError, match=f"{name}: found .*, expected"):
        use(make_data(), value)


@pytest.mark.parametrize("make", [item_knn, item_knn_content])
@pytest.mark.parametrize("k", [np.int64(2), torch.tensor(2)], ids=["numpy", "tensor"])
def test_neighbours_may_be_counted_by_numpy_and_pytorch(make, k, make_data):
    data = make_data()
    users = torch.arange(12)
    assert torch.equal(make(data, k).scores(users), make(data, 2).scores(users))


@pytest.mark.parametrize(("use", "name"), NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("value", ["0.2", None, True, [0.2], 1j])
def test_what_is_no_number_is_refused(use, name, value, make_data):
    with pytest.raises(InputError, match=f"{name}: found .*, expected a number"):
        use(make_data(), value)


@pytest.mark.parametrize(
    "number", [np.float32(0.5), np.array(0.5), torch.tensor(0.5)], ids=["scalar", "array", "tensor"]
)
def test_numbers_of_other_libraries_are_numbers(number, make_data):
    data, users = make_data(), torch.arange(12)
    assert torch.equal(ease(data, number).scores(users), ease(data, 0.5).scores(users))
    assert torch.equal(item_knn(data, 2, number).scores(users), item_knn(data, 2, 0.5).scores(users))
    parts = zip(cold_start_split(PAIRS, cold_share=number), cold_start_split(PAIRS, cold_share=0.5), strict=True)
    assert all(np.array_equal(found, expected) for found, expected in parts)


@pytest.mark.parametrize(("model", "name"), OPTIONS, ids=[f"{model.__name__}-{name}" for model, name in OPTIONS])
@pytest.mark.parametrize("value", ["0.15", [0.15], True])
def test_options_of_models_that_are_no_numbers_are_refused(model, name, value, make_data):
    with pytest.raises(InputError, match=f"{name}: found .*, expected a number"):
        model.from_data(make_data(), **{name: value})


def test_options_of_models_are_of_their_annotated_type(make_data):
    with pytest.raises(InputError, match="item_bias: found 'no', expected true or false"):
        VBPR.from_data(make_data(), item_bias="no")
    with pytest.raises(InputError, match=r"fusion: found \['sum'\], expected a text"):
        VBPR.from_data(make_data(), fusion=["sum"])
    with pytest.raises(InputError, match=r"modality_weights: found \[1.0\], expected a weight for each modality"):
        FREEDOM.from_data(make_data(), modality_weights=[1.0])


class Implied(VBPR):
    """Annotated as many people do, with defaults of other types."""

    def __init__(
        self,
        num_users: int,
        num_items: int,
        feature_dims: dict[str, int],
        width: int = None,  # noqa: RUF013
        rate: float = "auto",
        sizes: int = (4, 4),
    ) -> None:
        super().__init__(num_users, num_items, feature_dims)
        self.chosen = width, rate, sizes


def test_defaults_of_options_are_taken_whatever_their_annotations_say(make_data, tmp_path):
    data = make_data()
    model = Implied.from_data(data)
    again = Implied.from_data(data, **model.options)
    assert again.chosen == model.chosen == (None, "auto", (4, 4))
    save_model(tmp_path / "model.pt", model, data)
    served = Recommender.load(tmp_path / "model.pt", data, {"Implied": Implied})
    assert np.array_equal(served.recommend(k=2).items, Recommender(model, data).recommend(k=2).items)
    with pytest.raises(InputError, match="width: found '8', expected an integer"):
        Implied.from_data(data, width="8")


@pytest.mark.parametrize("view", [2, 2.5, [1], [["mod0"]], torch.tensor(2), True], ids=repr)
def test_views_that_are_no_names_are_refused(view, make_data):
    data = make_data()
    with pytest.raises(InputError, match=r"view: found .*, expected names of modalities such as"):
        evaluate(VBPR.from_data(data), data, view=view, k=3)
    with pytest.raises(InputError, match=r"view: found .*, expected names of modalities such as"):
        as_views(2, ["visual"])


@pytest.mark.parametrize("name", [None, ["a"], 2, {"a": 1}], ids=repr)
def test_names_that_are_no_texts_are_refused(name, make_data):
    data = make_data()
    with pytest.raises(InputError, match=r"metric: found .*, expected a name and a cut-off"):
        parse_metric(name)
    with pytest.raises(InputError, match=r"metric: found .*, expected a name and a cut-off"):
        fit_baseline("popularity", data, monitor=name)
    with pytest.raises(InputError, match="unknown baseline"):
        fit_baseline(name, data)
    with pytest.raises(InputError, match="unknown imputation"):
        imputation(name)
    with pytest.raises(InputError, match="unknown imputation"):
        build_data(PAIRS, FEATURES, impute=name)
    if name is not None:  # Which is no transform.
        with pytest.raises(InputError, match="unknown transform"):
            feature_transform(name)


@pytest.mark.parametrize("modalities", [2, [1], torch.tensor(2)], ids=repr)
def test_modalities_that_are_no_names_are_refused(modalities, make_data):
    with pytest.raises(InputError, match=r"modalities: found .*, expected .*name"):
        item_knn_content(make_data(), 2, modalities=modalities)


@pytest.mark.parametrize(
    "positive", [iter([1]), (x for x in [1]), 1j, object()], ids=["iterator", "generator", "j", "o"]
)
def test_values_of_likes_that_are_no_list_are_refused(positive):
    with pytest.raises(InputError, match=r"positive: found .*, expected a value that counts as a like, or a list"):
        build_data(LIKES, FEATURES, positive=positive)


@pytest.mark.parametrize("positive", [1, [1], {1}, np.int64(1), np.array([1]), torch.tensor(1), range(1, 2)], ids=repr)
def test_values_of_likes_may_be_of_any_library(positive):
    assert build_data(LIKES, FEATURES, positive=positive)["user", "rates", "item"].edge_index.size(1) == 5


@pytest.mark.parametrize("subset", [None, 2, [0, 1]], ids=repr)
def test_subsets_that_are_no_dict_are_refused(subset, make_data):
    with pytest.raises(InputError, match=r"subset_dict: found .*, expected a dict from node type"):
        subgraph(make_data(), subset)


@pytest.mark.parametrize("rows", [["a"], "2", None, {"a": 1}, [[0], [1, 2]], [2**64]], ids=repr)
def test_rows_of_subsets_that_are_no_numbers_are_refused(rows, make_data):
    with pytest.raises(InputError, match=r"subgraph: found .* for 'item', expected row numbers or a bool mask"):
        subgraph(make_data(), {"item": rows})
