"""Unpacking a graph into the arguments of a backbone."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd.balance.objective import as_objective
from pyg_ckd.data import fingerprint
from pyg_ckd.data.inputs import RATES, held_out, unpack
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import estimate_effects, evaluate
from pyg_ckd.nn import VBPR
from pyg_ckd.serving import Recommender, export_program
from pyg_ckd.training import Trainer, save_model


def test_features_come_in_the_order_of_the_modalities_and_graphs_by_edge_type(make_data):
    data = make_data(modalities=["visual", "textual", "acoustic"])
    data["item", "similar", "item"].edge_index = torch.tensor([[0, 1], [1, 0]])
    features, graph = unpack(data)
    assert list(features) == ["visual", "textual", "acoustic"]
    assert all(torch.equal(features[m], data["item"][m]) for m in features)
    assert torch.equal(graph[RATES], data[RATES].edge_index)
    assert torch.equal(graph["item", "similar", "item"], torch.tensor([[0, 1], [1, 0]]))


def test_held_out_returns_the_interactions_of_each_split(make_data):
    data = make_data()
    assert held_out(data, "train") is data[RATES].edge_index
    assert held_out(data, "val") is data[RATES].val_edge_index
    assert held_out(data, "test") is data[RATES].test_edge_index


def test_unknown_split_is_refused_with_the_closest_name(make_data):
    with pytest.raises(InputError, match="unknown split 'tests': did you mean 'test'"):
        held_out(make_data(), "tests")


MODEL = VBPR(2, 2, {"visual": 2})


class Stored(torch.utils.data.Dataset):
    """A data set of graphs."""


def bare() -> HeteroData:
    data = HeteroData()
    data["user"].num_nodes = data["item"].num_nodes = 2
    data[RATES].edge_index = torch.tensor([[0, 1], [0, 1]])
    return data


def without_features() -> HeteroData:
    data = bare()
    data.modalities = ["visual"]
    return data


@pytest.mark.parametrize(
    "call",
    [
        VBPR.from_data,
        lambda data: evaluate(MODEL, data),
        lambda data: Recommender(MODEL, data),
        lambda data: estimate_effects(MODEL, data),
        lambda data: export_program(MODEL, data, "never.pt2"),
        lambda data: save_model("never.pt", MODEL, data),
        fingerprint,
    ],
    ids=["from_data", "evaluate", "recommender", "effects", "program", "save", "fingerprint"],
)
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Stored(), r"found Stored, expected a HeteroData; pass the graph of the data set, Stored\(...\)\[0\]"),
        (torch.nn.Linear(2, 2), "found Linear, expected a HeteroData; the model comes first"),
        ({"user": 1}, "found dict, expected a HeteroData; make one with pyg_ckd.data.build_data"),
        (bare(), "found modalities None.*build_data"),
        (HeteroData(), "found no interactions of the type.*build_data"),
        (without_features(), "found no features of items named 'visual'.*build_data"),
    ],
)
def test_what_is_no_graph_is_refused_with_the_way_to_mend_it(call, data, message):
    with pytest.raises(InputError, match=message):
        call(data)


def test_tables_have_no_views(make_data):
    with pytest.raises(InputError, match="found tuple, expected a backbone"):
        estimate_effects((torch.zeros(12, 2), torch.zeros(9, 2)), make_data(), k=3)


@pytest.mark.parametrize("use", [lambda *pair: evaluate(*pair, k=3), Recommender], ids=["evaluate", "recommender"])
def test_a_model_warns_of_a_graph_with_other_ids_than_it_was_trained_on(use, make_data):
    trained, other = make_data(), make_data()
    users, items = trained["user"].num_nodes, trained["item"].num_nodes
    model = VBPR.from_data(trained, embedding_dim=4)
    other.user_id, other.item_id = list(range(users)), [f"i{n}" for n in range(items)]
    use(model, other)  # Not trained yet.
    trained.user_id, trained.item_id = torch.arange(users), [f"i{n}" for n in range(items)]
    Trainer(max_epochs=1, monitor="recall@5", progress=False).fit(model, trained)
    use(model, other)  # The same ids, in a list.
    use(model, make_data())  # None.
    other.item_id[2:4] = other.item_id[3], other.item_id[2]
    with pytest.warns(
        UserWarning, match=r"other item ids than it was trained on \(2 of 9; row 2 is 'i3' and was 'i2'\)"
    ):
        use(as_objective(model, trained) if use is not Recommender else model, other)
    other.user_id = [str(number + 1) for number in range(users)]
    with pytest.warns(UserWarning, match=r"other user ids .*\(12 of 12; row 0 is '1' and was '0'\).*open_model"):
        use(model, other)
