"""Integers, numbers and names of any library, wherever the package asks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd import DistillationWrapper, Trainer, estimate_effects, evaluate
from pyg_ckd.arguments import (
    as_flag,
    as_integer,
    as_integers,
    as_names,
    as_number,
    as_seed,
    as_seeds,
    plain_number,
    shown,
)
from pyg_ckd.data import (
    Embeddings,
    NeighborImputation,
    PCAFeatures,
    StandardizeFeatures,
    TripletSampler,
    co_occurrence,
    describe_data,
    k_core,
    knn,
    knn_graph,
    leave_one_out_split,
)
from pyg_ckd.data.inputs import RATES, embed
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation.metrics import user_metrics
from pyg_ckd.nn import MMGCN, VBPR
from pyg_ckd.serving import Recommender
from pyg_ckd.training import train_teachers
from pyg_ckd.training.model import load_model, save_model

KINDS = {
    "int64": np.int64,
    "uint8": np.uint8,
    "array": np.array,
    "tensor": torch.tensor,
    "int32 tensor": lambda n: torch.tensor(n, dtype=torch.int32),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


def tables(data: HeteroData) -> Embeddings:
    generator = torch.Generator().manual_seed(1)
    return Embeddings(*(torch.randn(data[kind].num_nodes, 4, generator=generator) for kind in ("user", "item")))


TAKES_AN_INTEGER: dict[str, Callable[[HeteroData, Any], Any]] = {
    "evaluate k": lambda data, n: dict(evaluate(tables(data), data, k=n)),
    "metrics k": lambda data, n: user_metrics(torch.tensor([[0, 1, 2]]), torch.tensor([[0], [1]]), ["recall"], n),
    "effects k": lambda data, n: estimate_effects(fixed(data), data, k=n, num_bootstrap=5).table,
    "effects negatives": lambda data, n: estimate_effects(fixed(data), data, k=2, num_negatives=n).table,
    "effects seed": lambda data, n: estimate_effects(fixed(data), data, k=2, seed=n, num_bootstrap=n).table,
    "sampler": lambda data, n: next(iter(TripletSampler(data[RATES].edge_index, 12, 9, n, n, n))),
    "knn": lambda data, n: knn(data["item"].mod0, n, block_size=n),
    "knn_graph": lambda data, n: knn_graph(data["item"].mod0, n),
    "co_occurrence": lambda data, n: co_occurrence(data[RATES].edge_index, 12, 9, n),
    "describe": lambda data, n: describe_data(data, k=n, seed=n).agreement,
    "impute": lambda data, n: NeighborImputation(n),
    "pca": lambda data, n: PCAFeatures(n, seed=n)(data)["item"].mod0,
    "k_core": lambda data, n: k_core(data[RATES].edge_index, n - 2, n - 2),
    "split": lambda data, n: leave_one_out_split(data[RATES].edge_index, seed=n),
    "recommend": lambda data, n: Recommender(tables(data), data).recommend([0], k=n).items,
    "similar": lambda data, n: Recommender(tables(data), data).similar_items(k=n).items,
    "backbone": lambda data, n: repr(MMGCN.from_data(data, embedding_dim=n, num_layers=n)),
    "trainer": lambda data, n: (
        Trainer(n, n, patience=n, eval_every=n, seed=n, monitor="recall@3", progress=False).fit(fixed(data), data).rows
    ),
}


def fixed(data: HeteroData) -> VBPR:
    torch.manual_seed(0)
    return VBPR.from_data(data, embedding_dim=4)


def same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    if hasattr(first, "equals"):
        return first.equals(second)
    if isinstance(first, (torch.Tensor, np.ndarray)):
        return np.array_equal(first, second, equal_nan=first.dtype not in (object,))
    return first == second or repr(first) == repr(second)


@every_kind
@pytest.mark.parametrize("call", TAKES_AN_INTEGER.values(), ids=TAKES_AN_INTEGER.keys())
def test_integers_of_any_library_are_integers(call, kind, make_data):
    data = make_data()
    assert same(call(data, 3), call(data, kind(3)))


@pytest.mark.parametrize("wrong", [3.0, np.float64(3), "3", None, True, torch.tensor(3.0)], ids=repr)
@pytest.mark.parametrize(
    "call",
    [
        lambda data, n: evaluate(tables(data), data, k=n),
        lambda data, n: estimate_effects(fixed(data), data, k=2, num_negatives=n),
        lambda data, n: TripletSampler(data[RATES].edge_index, 12, 9, n),
        lambda data, n: knn(data["item"].mod0, n),
        lambda data, n: PCAFeatures(n),
        lambda data, n: NeighborImputation(n),
        lambda data, n: leave_one_out_split(data[RATES].edge_index, seed=n),
        lambda data, n: Recommender(tables(data), data).recommend(k=n),
        lambda data, n: VBPR.from_data(data, embedding_dim=n),
        lambda data, n: Trainer(max_epochs=n),
        lambda data, n: Trainer(patience=n),
        lambda data, n: Trainer(eval_every=n),
    ],
)
def test_what_is_no_integer_is_named(call, wrong, make_data):
    with pytest.raises(InputError, match=r"found|expected"):
        call(make_data(), wrong)


@pytest.mark.parametrize("wrong", [-1, 2**64, 1.5, "0", None, True])
def test_a_seed_is_refused_where_it_is_given(wrong):
    with pytest.raises(InputError, match=r"^seed: found "):
        Trainer(seed=wrong)


@pytest.mark.parametrize("wrong", ["1e-3", None, True, [0.1], float("nan"), 0])
def test_a_learning_rate_is_a_positive_number(wrong):
    with pytest.raises(InputError, match=r"^lr: found "):
        Trainer(lr=wrong)


@pytest.mark.parametrize("rate", [np.float32(0.5), torch.tensor(0.5), np.array(0.5), 0.5])
def test_numbers_of_any_library_are_numbers(rate):
    assert Trainer(lr=rate).lr == 0.5
    assert type(Trainer(lr=rate).lr) is float


def test_options_of_another_library_are_kept_in_a_file(make_data, tmp_path):
    """An option that was dropped would come back as the default, 64."""
    data = make_data()
    model = VBPR.from_data(data, embedding_dim=np.int64(5))
    assert model.options["embedding_dim"] == 5
    save_model(tmp_path / "model.pt", model, data)
    assert load_model(tmp_path / "model.pt", data).options == model.options
    wrapper = DistillationWrapper(model, None, distillation_weight=np.float32(0.25))
    assert wrapper.options["distillation_weight"] == 0.25


def test_a_bare_name_is_one_name(make_data):
    data = make_data()
    emb = tables(data)
    assert evaluate(emb, data, k=3, metrics="recall", mask="train") == evaluate(
        emb, data, k=3, metrics=["recall"], mask=["train"]
    )
    assert torch.equal(
        Recommender(emb, data, seen="train").seen.of(torch.arange(12))[1],
        Recommender(emb, data, seen=["train"]).seen.of(torch.arange(12))[1],
    )
    one, same_one = StandardizeFeatures("mod0")(data), StandardizeFeatures(["mod0"])(data)
    assert torch.equal(one["item"].mod0, same_one["item"].mod0)
    trainer = Trainer(max_epochs=1, monitor="recall@3", progress=False)
    assert list(train_teachers(VBPR, data, trainer, modalities="mod1", use_cache=False)) == ["mod1"]


@pytest.mark.parametrize("views", ["mod1", {"mod1"}, frozenset({"mod1"})], ids=repr)
def test_a_bare_view_is_one_view(make_data, views):
    data = make_data()
    model = fixed(data)
    (alone,) = embed(model, data, views)
    assert torch.equal(alone.item, embed(model, data, [["mod1"]])[0].item)


@pytest.mark.parametrize("option", ["metrics", "mask"])
def test_an_unknown_bare_name_is_named_whole(option, make_data):
    data = make_data()
    with pytest.raises(InputError, match="'recal'"):
        evaluate(tables(data), data, k=3, **{option: "recal"})


def test_conversions():
    assert as_integer(np.int8(3), "n") == as_integer(torch.tensor(3), "n") == 3
    assert as_integers(range(2, 5), "n") == as_integers(np.arange(2, 5), "n") == [2, 3, 4]
    assert as_integers(torch.tensor(4), "n") == [4]
    assert as_names("ab", "names") == ("ab",)
    assert as_names(np.array(["a", "b"]), "names") == ("a", "b")
    assert as_seed(2**64 - 1) == 2**64 - 1
    assert as_number(np.float64(0.5), "x") == 0.5
    parameter = torch.nn.Parameter(torch.tensor(1.0))
    assert plain_number([np.int64(1), (torch.tensor(2.5),), {"a": np.str_("b")}]) == [1, (2.5,), {"a": "b"}]
    assert plain_number(parameter) is parameter
    for call in (lambda: as_names(3, "names"), lambda: as_names(["a", 3], "names")):
        with pytest.raises(InputError, match=r"^names: found 3"):
            call()
    with pytest.raises(InputError, match=r"^n: found 2, expected at least 3"):
        as_integer(2, "n", 3)


def test_seeds_are_several_and_each_counts_once():
    for seeds in ([3, 1, 3], (3, 1), np.array([3, 1]), torch.tensor([3, 1]), (seed for seed in (3, 1))):
        assert as_seeds(seeds) == [3, 1]
    assert as_seeds(range(2)) == [0, 1]


@pytest.mark.parametrize("value", [3, np.int64(3), "3", None, True, np.array(3), torch.tensor(3)], ids=repr)
def test_one_number_is_no_choice_of_seeds(value):
    with pytest.raises(InputError, match=r"seeds: found .*, expected several seeds such as range\(3\), or one as"):
        as_seeds(value)


def test_a_value_that_is_long_is_shown_by_its_type_and_size():
    assert shown(0.5) == "0.5"
    assert shown("a") == "'a'"
    assert shown({"a": 1}) == "{'a': 1}"
    assert shown(torch.ones(3, 4)) == "Tensor of shape [3, 4]"
    assert shown(np.ones(3)) == "ndarray of shape [3]"
    assert shown(list(range(1000))) == "list with 1000 values"
    assert shown({"a": torch.ones(100, 100), "b": 1}) == "dict with 2 keys"
    assert shown("x" * 500) == f"'{'x' * 119}... (500 characters)"
    assert shown(torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(9)))) == "Sequential"


@pytest.mark.parametrize("convert", [as_number, as_integer, as_flag, as_names, as_seeds])
def test_messages_about_long_values_are_short(convert):
    for value in ([(torch.ones(200, 200), torch.ones(200, 200))], [{"a": list(range(9999))}]):
        with pytest.raises(InputError) as caught:
            convert(value, "x")
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)
