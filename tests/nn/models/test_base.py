"""What holds for all backbones."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn import (
    BM3,
    FISM,
    FREEDOM,
    GRCN,
    MMGCN,
    VBPR,
    Adjacency,
    DualGNN,
    EarlyFusionLightGCN,
    EgoGCN,
    LightGCN,
)
from tests.nn.models.zoo import (
    built,
    doubled,
    every_backbone,
    every_backbone_with_preferences,
    every_multimodal_backbone,
    every_own_backbone,
)

PENALTY_OF_THEIR_OWN = (BM3, DualGNN, EgoGCN, FISM, GRCN)
NO_GRADIENT_TO_FEATURES = (BM3, FREEDOM)  # They shape the losses, or a graph of nearest neighbours, and nothing else.


def all_views(modalities) -> list[frozenset[str]]:
    sizes = range(len(modalities) + 1)
    return [frozenset(view) for view in chain.from_iterable(combinations(modalities, size) for size in sizes)]


@every_backbone
def test_embeddings_have_a_row_per_node_and_are_finite_for_nodes_without_edges(make, make_data):
    data = make_data()
    data[RATES].edge_index = data[RATES].edge_index[:, data[RATES].edge_index[0] > 1]  # Users 0, 1 and the last item.
    model = built(make, data)
    out = model(*doubled(data))
    assert (out.user.size(0), out.item.size(0)) == (data["user"].num_nodes, data["item"].num_nodes)
    assert out.user.size(1) == out.item.size(1)
    assert torch.isfinite(out.user).all()
    assert torch.isfinite(out.item).all()
    sum(x.square().sum() for x in out).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@every_backbone
def test_graph_without_interactions_gives_finite_embeddings(make, make_data):
    data = make_data()
    features, _ = doubled(data)
    out = built(make, data)(features, {RATES: torch.zeros(2, 0, dtype=torch.int64)})
    assert torch.isfinite(torch.cat(out)).all()


@every_backbone
def test_type_of_parameters_is_the_type_of_embeddings(make, make_data):
    data = make_data()
    assert {x.dtype for x in built(make, data)(*doubled(data))} == {torch.float64}
    features, graph = doubled(data)
    out = built(make, data).float()({m: x.float() for m, x in features.items()}, graph)
    assert {x.dtype for x in out} == {torch.float32}


@every_backbone
@pytest.mark.parametrize("lacking", [None, "mean", "zero"])
def test_renumbering_users_and_items_renumbers_embeddings(make, lacking, make_data):
    data = make_data(num_users=15, num_items=20)
    users, items = data["user"].num_nodes, data["item"].num_nodes
    generator = torch.Generator().manual_seed(3)
    new_user, new_item = torch.randperm(users, generator=generator), torch.randperm(items, generator=generator)
    old_user, old_item = new_user.argsort(), new_item.argsort()  # Row r of a renumbered table was row old[r].
    model, renumbered = built(make, data), built(make, data)
    state = model.state_dict()
    for name, value in state.items():
        if value.size(0) == users and "lin" not in name and "project" not in name:
            state[name] = value[old_user]
        elif value.size(0) == items and "lin" not in name and "project" not in name:
            state[name] = value[old_item]
    renumbered.load_state_dict(state)
    features, graph = doubled(data)
    if lacking is not None:  # More items than an item has neighbours have the same features.
        missing = torch.tensor([1, 4, 5, 9, 12, 16, 17, 18])
        there = torch.ones(items, dtype=torch.bool).index_fill(0, missing, False)
        fill = features["mod0"][there].mean(dim=0) if lacking == "mean" else torch.zeros(3, dtype=torch.float64)
        features["mod0"] = torch.where(there.unsqueeze(1), features["mod0"], fill)
    edges = graph[RATES]
    new_features = {m: x[old_item] for m, x in features.items()}
    new_edges = torch.stack([new_user[edges[0]], new_item[edges[1]]])
    for view in all_views(model.modalities):
        before, after = model(features, graph, view), renumbered(new_features, {RATES: new_edges}, view)
        assert_close(after.user[new_user], before.user, atol=1e-10, rtol=0)
        assert_close(after.item[new_item], before.item, atol=1e-10, rtol=0)


@every_backbone
def test_order_and_repetition_of_interactions_do_not_matter_to_own_backbones(make, make_data):
    data = make_data()
    model = built(make, data)
    features, graph = doubled(data)
    edges = graph[RATES]
    order = torch.randperm(edges.size(1), generator=torch.Generator().manual_seed(0))
    once = model(features, graph)
    shuffled = model(features, {RATES: edges[:, order]})
    assert_close(torch.cat(shuffled), torch.cat(once), atol=1e-10, rtol=0)
    if type(model).__name__ != "AdaptedBackbone":  # What a module does with repetitions is its own affair.
        repeated = model(features, {RATES: torch.cat([edges, edges[:, :5]], dim=1)})
        assert_close(torch.cat(repeated), torch.cat(once), atol=1e-10, rtol=0)


@every_backbone
def test_full_view_by_any_name_equals_the_call_without_a_view(make, make_data):
    data = make_data()
    model = built(make, data)
    expected = torch.cat(model(*doubled(data)))
    for view in (None, "full", model.modalities, list(reversed(model.modalities)), set(model.modalities)):
        assert torch.equal(torch.cat(model(*doubled(data), view)), expected)


@every_backbone
@pytest.mark.parametrize("num_modalities", [1, 2, 3, 4])
def test_views_together_equal_views_one_by_one(make, num_modalities, make_data):
    data = make_data(modalities=num_modalities)
    model = built(make, data)
    features, graph = doubled(data)
    views = all_views(model.modalities)
    views = [*views, views[0]]  # A repeated view is answered twice.
    together = model.forward_views(features, graph, views)
    assert len(together) == len(views)
    for view, out in zip(views, together, strict=True):
        alone = model(features, graph, view)
        assert_close(torch.cat(out), torch.cat(alone), atol=1e-10, rtol=0)


@every_own_backbone
def test_prepared_graph_gives_the_same_embeddings(make, make_data):
    data = make_data()
    model = built(make, data)
    features, graph = doubled(data)
    prepared = model.prepare({}, graph)
    assert torch.equal(torch.cat(model(features, prepared)), torch.cat(model(features, graph)))
    assert model.prepare({}, prepared)[RATES] is prepared[RATES]


def _put_means_in(state: dict[str, Tensor], column: int, modality: str) -> None:
    """Replace everything that users, or nodes, hold for a modality with its mean."""
    for name in (f"preference.{modality}", f"attention.{modality}"):
        if name in state:
            state[name] = state[name].mean(dim=0, keepdim=True).expand_as(state[name])
    if "user_confidence" in state:  # Of GRCN: a column for every modality, the mean is over all nodes.
        tables = [state["user_confidence"], state["item_confidence"]]
        mean = torch.cat(tables)[:, column].mean()
        for table in tables:
            table[:, column] = mean


@every_backbone
def test_view_equals_the_full_view_of_a_model_and_data_with_means_put_in(make, make_data):
    """The definition of the intervention, carried out on the inputs and the preferences from outside."""
    data = make_data(modalities=3, transform="none")
    model = built(make, data)
    features, graph = doubled(data)
    for view in all_views(model.modalities):
        state = {name: value.clone() for name, value in model.state_dict().items()}
        changed = dict(features)
        for m in set(model.modalities) - view:
            changed[m] = features[m].mean(dim=0, keepdim=True).expand_as(features[m])
            _put_means_in(state, model.modalities.index(m), m)
        intervened = built(make, data)
        intervened.load_state_dict(state)
        assert_close(torch.cat(model(features, graph, view)), torch.cat(intervened(changed, graph)), atol=1e-10, rtol=0)


@every_multimodal_backbone
def test_every_modality_matters_where_it_is_factual(make, make_data):
    data = make_data(modalities=3)
    model = built(make, data)
    features, graph = doubled(data)
    for m in model.modalities:
        shuffled = features | {m: features[m].roll(1, dims=0)}
        difference = torch.cat(model(shuffled, graph, m)) - torch.cat(model(features, graph, m))
        assert difference.abs().max() > 1e-3


@every_backbone
def test_intervened_modality_is_seen_only_through_its_mean(make, make_data):
    data = make_data(modalities=3)
    model = built(make, data)
    features, graph = doubled(data)
    order = torch.randperm(data["item"].num_nodes, generator=torch.Generator().manual_seed(1))
    for view in all_views(model.modalities):
        leaves = {m: x.clone().requires_grad_() for m, x in features.items()}
        out = torch.cat(model(leaves, graph, view))
        shuffled = {m: x if m in view else x[order] for m, x in features.items()}
        assert_close(torch.cat(model(shuffled, graph, view)), out, atol=1e-10, rtol=0)
        if not model.uses_features:
            continue
        weights = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(2))
        loss = (out * weights).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        for m, gradient in zip(leaves, gradients, strict=True):
            alike = torch.allclose(gradient, gradient[:1].expand_as(gradient), atol=1e-10, rtol=0)
            assert alike == (m not in view or type(model) in NO_GRADIENT_TO_FEATURES)


@every_backbone_with_preferences
def test_intervened_preferences_get_the_same_gradient_for_all_users(make, make_data):
    data = make_data()
    model = built(make, data)
    preferences = {n: p for n, p in model.named_parameters() if n.startswith("preference.mod")}
    view = model.modalities[0]
    out = torch.cat(model(*doubled(data), view))
    (out * torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(2))).sum().backward()
    for name, parameter in preferences.items():
        alike = torch.allclose(parameter.grad, parameter.grad[:1].expand_as(parameter.grad), atol=1e-10, rtol=0)
        assert alike == (not name.endswith(view))


@pytest.mark.parametrize("cls", [VBPR, MMGCN, EarlyFusionLightGCN])
def test_mean_features_pass_gradients_and_follow_changes(cls, make_data):
    data = make_data()
    model = cls.from_data(data).double()
    features, edges = doubled(data)
    graph = model.prepare(features, edges)
    first, second = model.modalities[:2]
    trainable = {m: x.clone().requires_grad_() for m, x in features.items()}
    model(trainable, graph, [second]).item.square().sum().backward()
    grad = trainable[first].grad
    assert grad.abs().max() > 0
    assert_close(grad, grad[:1].expand_as(grad))
    before = model(features, graph, [second]).item.detach()
    features[first].add_(torch.arange(1.0, features[first].size(1) + 1))
    after = model(features, graph, [second]).item.detach()
    assert (after - before).abs().max() > 1e-3
    assert_close(after, model(features, model.prepare(features, edges), [second]).item.detach())


@every_backbone
def test_saving_and_loading_changes_no_bit(make, make_data, tmp_path):
    data = make_data()
    model, other = built(make, data), built(make, data, seed=1)
    features, graph = doubled(data)
    assert not torch.equal(torch.cat(model(features, graph)), torch.cat(other(features, graph)))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    for view in (None, model.modalities[0]):
        assert torch.equal(torch.cat(model(features, graph, view)), torch.cat(other(features, graph, view)))


@every_backbone
def test_repeated_triples_count_each_time(make, make_data):
    data = make_data()
    model = built(make, data)
    out = model.outputs(*doubled(data), [None])[0]
    tables = out.dense()
    user, positive, negative = torch.tensor([2, 2, 5]), torch.tensor([1, 1, 0]), torch.tensor([3, 3, 4])
    nothing = torch.zeros(0, dtype=torch.int64)
    margins = out.margin(user, positive, negative)
    by_hand = [(tables.user[u] @ (tables.item[i] - tables.item[j])).item() for u, i, j in [(2, 1, 3), (5, 0, 4)]]
    assert margins.tolist() == pytest.approx([by_hand[0], by_hand[0], by_hand[1]])
    twice = model.penalty(out, TripletBatch(user[:2], positive[:2], negative[:2], nothing, nothing, nothing))
    once = model.penalty(out, TripletBatch(user[:1], positive[:1], negative[:1], nothing, nothing, nothing))
    assert twice.item() == pytest.approx(once.item())  # The mean over triples of the same triple.
    if type(model) in PENALTY_OF_THEIR_OWN:  # Tested with the model.
        return
    rows = (model.user_embedding, model.item_embedding) if type(model) is LightGCN else tables  # As in its paper.
    expected = 0.5 * sum(row.square().sum().item() for row in (rows[0][2], rows[1][1], rows[1][3]))
    assert once.item() == pytest.approx(expected)


@every_own_backbone
def test_all_node_ids_give_the_full_result(make, make_data):
    data = make_data()
    model = built(make, data)
    n_id_dict = {"user": torch.arange(data["user"].num_nodes), "item": torch.arange(data["item"].num_nodes)}
    for view in all_views(model.modalities):
        full, sampled = model(*doubled(data), view), model(*doubled(data), view, n_id_dict)
        assert_close(torch.cat(sampled), torch.cat(full), atol=1e-10, rtol=0)


@every_own_backbone
def test_sampled_subgraph_that_holds_all_neighbours_gives_the_rows_of_the_full_result(make, make_data):
    """Two halves without an edge between them: each half alone is a subgraph that misses nothing."""
    data = make_data(num_users=10, num_items=12)
    model = built(make, data)
    features, _ = doubled(data)
    edges = torch.tensor([[1, 3, 3, 7, 0, 2], [4, 4, 9, 2, 1, 3]])
    users, items = torch.tensor([7, 1, 3]), torch.tensor([9, 2, 4, 11])  # In any order; item 11 is isolated.
    local = torch.tensor([[1, 2, 2, 0], [2, 2, 0, 1]])
    for view in all_views(model.modalities):
        full = model(features, {RATES: edges}, view)
        part = model(features, {RATES: local}, view, {"user": users, "item": items})
        assert_close(part.user, full.user[users], atol=1e-10, rtol=0)
        assert_close(part.item, full.item[items], atol=1e-10, rtol=0)


@every_own_backbone
def test_losses_and_penalty_of_a_subgraph_are_those_of_the_same_triples_in_the_whole_graph(make, make_data):
    """The subgraph holds everything, in another order: local row numbers name other users and items."""
    data = make_data(num_users=10, num_items=12)
    model = built(make, data)
    features, graph = doubled(data)
    generator = torch.Generator().manual_seed(5)
    n_id_dict = {"user": torch.randperm(10, generator=generator), "item": torch.randperm(12, generator=generator)}
    local_user, local_item = (n_id_dict[kind].argsort() for kind in ("user", "item"))
    batch = TripletBatch(*(torch.randint(0, 10, (4,), generator=generator) for _ in range(6)))
    numbers = [local_user, local_item, local_item] * 2
    local = TripletBatch(*(number[rows] for number, rows in zip(numbers, batch, strict=True)))
    edges = graph[RATES]
    local_graph = {RATES: torch.stack([local_user[edges[0]], local_item[edges[1]]])}
    for view in all_views(model.modalities):
        torch.manual_seed(0)
        whole = model.outputs(features, graph, [view])[0]
        expected = model.losses(whole, batch, features, view) | {"l2": model.penalty(whole, batch)}
        torch.manual_seed(0)
        part = model.outputs(features, local_graph, [view], n_id_dict)[0]
        found = model.losses(part, local, features, view) | {"l2": model.penalty(part, local)}
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(found[name], value, atol=1e-10, rtol=0, msg=name)


@every_own_backbone
def test_sizes_and_options_come_from_the_data(make, make_data):
    data = make_data(modalities=3)
    model = make(data)
    assert (model.num_users, model.num_items) == (data["user"].num_nodes, data["item"].num_nodes)
    assert model.feature_dims == {m: data["item"][m].size(1) for m in data.modalities}
    assert model.modalities == tuple(data.modalities)
    assert model.options["embedding_dim"] in (5, 6)


@every_own_backbone
def test_parameters_are_drawn_anew_on_reset_and_frozen_ones_stay(make, make_data):
    model = make(make_data())
    before = {name: value.clone() for name, value in model.named_parameters()}
    model.reset_parameters()
    for name, value in model.named_parameters():
        drawn = value.requires_grad and before[name].unique().numel() > 1  # Zero biases stay zero.
        assert torch.equal(value, before[name]) != drawn, name


@every_own_backbone
def test_what_was_prepared_in_inference_mode_trains(make, make_data):
    data = make_data()
    model, other = built(make, data), built(make, data)
    features, graph = doubled(data)
    with torch.inference_mode():
        graphs = model.prepare(features, graph)
        assert not any(g.weight.is_inference() for g in graphs.values() if isinstance(g, Adjacency))
        model(features, graphs, [model.modalities[0]])
        model(features, graphs)
    for trained, given in ((model, graphs), (other, graph)):
        sum(x.square().sum() for x in trained(features, given)).backward()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad)


@every_backbone
def test_a_batch_without_triples_has_finite_losses_and_gradients(make, make_data):
    data = make_data()
    model = built(make, data)
    features, graph = doubled(data)
    view, batch = frozenset(model.modalities), TripletBatch(*(torch.empty(0, dtype=torch.int64) for _ in range(6)))
    out = model.outputs(features, model.begin_epoch(features, model.prepare(features, graph)), [view])[0]
    terms = {**model.losses(out, batch, features, view), "l2": model.penalty(out, batch)}
    assert all(torch.isfinite(term) for term in terms.values()), terms
    sum(terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
