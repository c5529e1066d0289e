"""FISM with content: sums of items, the item left out, the graph of item-item weights, the softmax."""

from __future__ import annotations

from functools import wraps

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from pyg_ckd import DistillationWrapper, Objective, Trainer, evaluate
from pyg_ckd.data import TripletBatch
from pyg_ckd.data import solved as cache
from pyg_ckd.data.inputs import RATES
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation.baselines import ease_content
from pyg_ckd.nn import FISM, backbones, softmax_loss
from pyg_ckd.nn.models import item_weights
from pyg_ckd.nn.models.fism import WEIGHTS
from pyg_ckd.nn.propagation import Adjacency
from pyg_ckd.scoring import late, pairs
from pyg_ckd.scoring.history import unit
from tests.nn.models.zoo import built, doubled


def model_of(data, **options):
    return built(lambda data: FISM.from_data(data, embedding_dim=6, num_neighbors=3, **options), data)


def summed(out, edges, num_users):
    """Return users as sums of the rows of their items, of norm one and with the column that biases are read by."""
    user, item = edges.unique(dim=1)
    total = out.row.new_zeros(num_users, out.row.size(1)).index_add_(0, user, out.row[item])
    return torch.cat([F.normalize(total), total.new_ones(num_users, 1)], dim=1)


def test_a_user_is_the_sum_of_the_items_and_scores_are_cosines_over_the_temperature(make_data):
    data = make_data()
    model = model_of(data, item_graph="none", temperature=0.5).eval()
    features, graph = doubled(data)
    out = model(features, graph)
    z = model.item_embedding.detach().clone()
    for m, x in features.items():
        centred = F.normalize(x - x.mean(dim=0))
        z += centred @ model.project[m].weight.detach().t()
    x = F.normalize(z)
    for u in range(data["user"].num_nodes):
        items = graph[RATES][1][graph[RATES][0] == u]
        expected = (
            F.cosine_similarity(x[items].sum(dim=0, keepdim=True), x) / 0.5 if len(items) else torch.zeros(len(x))
        )
        assert_close(out.user[u] @ out.item.t(), expected.double() + model.item_bias.detach(), atol=1e-10, rtol=0)


def test_in_training_the_preferred_item_is_left_out_of_its_user(make_data):
    data = make_data()
    model = model_of(data, feature_dropout=0.0)
    features, graph = doubled(data)
    out = model.outputs(features, graph, [None])[0]
    edges = graph[RATES]
    met = {(int(u), int(i)) for u, i in edges.t()}
    user, preferred = edges[0, :6], edges[1, :6].clone()
    preferred[3:] = (preferred[3:] + 1) % data["item"].num_nodes  # Met or not, as it comes.
    other = (preferred + 2) % data["item"].num_nodes
    tables = out.dense()
    for margin, u, i, j in zip(out.margin(user, preferred, other), user, preferred, other, strict=True):
        rest = [k for k in edges[1][edges[0] == u].tolist() if k != int(i) or (int(u), int(i)) not in met]
        h = F.normalize(out.row[rest].sum(dim=0), dim=0) if rest else torch.zeros(6).double()
        apart = tables.item[i] - tables.item[j]
        assert_close(margin, h @ apart[:6] + apart[6], atol=1e-10, rtol=0)
    assert_close(tables.user, summed(out, edges, data["user"].num_nodes), atol=1e-10, rtol=0)


@pytest.mark.parametrize(("users", "sparse"), [(20, True), (60, False)])
def test_the_graph_holds_the_largest_weights_of_ease_with_the_content_of_the_view(users, sparse, make_data):
    data = make_data(num_users=users, num_items=12)
    for m in data.modalities:
        data["item"][m] = data["item"][m] - data["item"][m].mean(dim=0)
    model = model_of(data, ridge=3.0, kernel_weight=0.5).eval()
    features, graph = doubled(data)
    prepared = model.prepare(features, graph)
    mean = data[RATES].edge_index.unique(dim=1).size(1) / 12
    assert (mean < 8) == sparse
    mean = max(mean, 8.0)
    for view in (list(data.modalities), [data.modalities[0]]):
        kept = {"modalities": view, "form": "collective", "ridge": 3.0 * mean, "weight": 0.5 * mean}
        expected = ease_content(data, **kept).weights.t().clamp(min=0).double()
        expected[expected < expected.topk(3, dim=1).values[:, -1:]] = 0
        expected /= expected.sum(dim=1, keepdim=True)
        found = prepared[WEIGHTS].of(frozenset(view), features)
        assert_close(found.matmul(torch.eye(12).double()), expected, atol=1e-5, rtol=0)


def test_a_modality_that_is_intervened_on_leaves_the_result_whatever_its_features_are(make_data):
    data = make_data(modalities=3)
    model = model_of(data).eval()
    features, graph = doubled(data)
    kept = data.modalities[1:]
    other = {**features, data.modalities[0]: torch.randn_like(features[data.modalities[0]])}
    one, two = (model(x, graph, kept) for x in (features, other))
    assert_close(torch.cat(one), torch.cat(two), atol=1e-10, rtol=0)
    assert not torch.allclose(model(features, graph).item, model(other, graph).item)


@pytest.mark.parametrize("most", [0.0, 1.0], ids=["all users", "the users read"])
@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "copies of rows"])
def test_margins_and_gradients_are_those_of_rows_that_items_were_taken_out_of(sparse, most, make_data, monkeypatch):
    if not sparse:
        monkeypatch.setattr(pairs, "suits_sparse", lambda *tables: False)
    monkeypatch.setattr(late.Selections.__init__, "__defaults__", (most,))
    data = make_data()
    model = model_of(data, feature_dropout=0.0)
    features, graph = doubled(data)
    edges = graph[RATES][:, graph[RATES][0] < 4]
    triples = (edges[0], edges[1].roll(2), (edges[1] + 3) % data["item"].num_nodes)
    found = []
    for by_rows in (False, True):
        out = model.outputs(features, graph, [None])[0]
        if by_rows:
            user, preferred, other = triples
            item = out.dense().item
            margins = (out.without(user, preferred) * (item[preferred] - item[other])).sum(dim=1)
        else:
            margins = out.margin(*triples)
        model.zero_grad()
        F.softplus(-margins).sum().backward()
        found.append([margins.detach(), *(p.grad for p in model.parameters())])
    for one, two in zip(*found, strict=True):
        assert_close(one, two, atol=1e-10, rtol=0)


def test_sums_are_those_of_the_users_that_are_read_until_somebody_asks_for_all(make_data, monkeypatch):
    sizes, original = [], Adjacency.matmul
    monkeypatch.setattr(Adjacency, "matmul", lambda self, x: sizes.append(self.matrix.size(0)) or original(self, x))
    data = make_data(num_users=12)
    model = model_of(data, feature_dropout=0.0, item_graph="none")
    features, graph = doubled(data)
    views = [None, data.modalities[:1]]
    outs = model.outputs(features, graph, views)
    user, item = torch.tensor([3, 1, 3]), torch.tensor([0, 1, 2])
    for _ in range(2):
        parts = [[out.margin(user, item, item.flip(0)), out.scores(user), out.without(user, item)] for out in outs]
    assert sizes == [2, 2]  # Users 1 and 3, once in every view.
    for out in outs:
        assert_close(out.dense().user, summed(out, graph[RATES], 12), atol=1e-10, rtol=0)
    assert sizes[2:] == [12, 12]
    again = [outs[0].margin(user, item, item.flip(0)), outs[0].scores(user), outs[0].without(user, item)]
    for one, two in zip(parts[0], again, strict=True):
        assert_close(one, two, atol=1e-12, rtol=0)


def test_rows_of_norm_one_have_the_gradients_of_a_quotient_and_zero_rows_none():
    x = torch.randn(5, 3).double()
    x[2] = 0
    x[3] *= 1e-9
    for least, none in ((1e-24, [2]), (1e-8, [2, 3])):
        given, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        out, expected = unit(given, least), F.normalize(other)
        weight = torch.randn(5, 3).double()
        (out * weight).sum().backward()
        (expected * weight).sum().backward()
        some = torch.tensor([row not in none for row in range(5)])
        assert_close(out[some], expected[some], atol=1e-12, rtol=0)
        assert_close(given.grad[some], other.grad[some], atol=1e-12, rtol=1e-9)
        assert not out[~some].any()
        assert not given.grad[~some].any()
    with torch.autocast("cpu", torch.bfloat16):
        found = unit(torch.full((2, 3), 0.3))
    assert_close(found, torch.full((2, 3), 3**-0.5), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["FISM", "LightGCN", "EarlyFusionLightGCN", "MMGCN", "VBPR"])
def test_what_is_read_without_gradient_first_has_gradients_later(name, make_data):
    data = make_data(num_users=40, num_items=40)
    model = built(lambda data: backbones()[name].from_data(data), data).train()
    features, graph = doubled(data)
    triples = torch.tensor([1, 2]), torch.tensor([3, 0]), torch.tensor([0, 3])
    gradients = []
    for first in (None, torch.no_grad, torch.inference_mode):
        torch.manual_seed(0)
        out = model.outputs(features, graph, [None])[0]
        if first is not None:
            with first():
                out.margin(*triples)
        model.zero_grad()
        out.margin(*triples).sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for found in gradients[1:]:
        for one, two in zip(found, gradients[0], strict=True):
            assert_close(one, two, atol=1e-12, rtol=0)


def left_out(out, user, item):
    """Return the score of a user for an item, which is taken out of the user where it was met."""
    return out.without(torch.tensor([user]), torch.tensor([item]))[0] @ out.dense().item[item]


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_a_softmax_over_all_items_each_left_out_of_its_user(weighted, make_data):
    data = make_data()
    model = model_of(data, feature_dropout=0.0)
    features, graph = doubled(data)
    out = model.outputs(features, graph, [None])[0]
    edges = graph[RATES][:, torch.tensor([0, 1, 2, 9, 20, 21])]
    batch = TripletBatch(edges[0], edges[1], edges[1], *(torch.zeros(0, dtype=torch.long),) * 3)
    weight = torch.tensor([0.5, 1, 2, 0, 1.5, 1]).double()
    batch = batch.weighted(weight) if weighted else batch
    expected = 0.0
    for n, (u, i) in enumerate(edges.t().tolist()):
        scores = torch.stack([left_out(out, u, j) for j in range(len(out.row))])
        expected += (weight[n] if weighted else 1) * -scores.log_softmax(dim=0)[i] / 6
    assert_close(model.losses(out, batch, features, frozenset(model.modalities))["softmax"], expected)


def test_scores_leave_items_out_alike_for_all_items_and_for_some(make_data):
    data = make_data()
    model = model_of(data, feature_dropout=0.0)
    out = model.outputs(*doubled(data), [None])[0]
    user, items = torch.tensor([4, 0, 2]), torch.arange(len(out.row))
    assert_close(out.scores(user, items), out.scores(user), atol=1e-12, rtol=0)
    drawn = torch.tensor([3, 3, 0])
    assert_close(out.scores(user, drawn), out.scores(user)[:, drawn], atol=1e-12, rtol=0)
    expected = torch.stack([torch.stack([left_out(out, u, j) for j in range(len(out.row))]) for u in user.tolist()])
    assert_close(out.scores(user), expected, atol=1e-10, rtol=0)
    unchanged = model_of(data, feature_dropout=0.0, leave_one_out=False).outputs(*doubled(data), [None])[0]
    assert_close(unchanged.scores(user), unchanged.dense().user[user] @ unchanged.dense().item.t(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("precise", [True, False], ids=["precise", "rounded products"])
def test_users_with_a_single_item_have_nothing_left_however_products_are_rounded(precise, make_data, monkeypatch):
    data = make_data()
    model = model_of(data, feature_dropout=0.0, item_graph="none")
    edges = data[RATES].edge_index
    edges = torch.cat([edges[:, edges[0] > 2], torch.tensor([[0, 1, 2], [1, 1, 3]])], dim=1)
    out = model.outputs(doubled(data)[0], {RATES: edges}, [None])[0]
    items = torch.arange(len(out.row))
    if not precise:  # As a GPU's TF32 does.
        out.row = out.row * (1 + 1e-3 * torch.randn(out.row.shape).double())
    scores = out.scores(torch.tensor([0, 2]), items)
    bias = model.item_bias.detach()
    assert_close(scores[0, 1], bias[1], atol=1e-12, rtol=0)
    assert_close(scores[1, 3], bias[3], atol=1e-12, rtol=0)


def test_a_mean_over_triples_is_that_of_its_parts_however_they_are_cut(make_data):
    data = make_data()
    model = model_of(data)
    features, graph = doubled(data)
    torch.manual_seed(0)
    out = model.outputs(features, graph, [None])[0]
    edges, none = graph[RATES], torch.zeros(0, dtype=torch.long)

    def loss(chosen: torch.Tensor) -> torch.Tensor:
        batch = TripletBatch(edges[0, chosen], edges[1, chosen], edges[1, chosen], none, none, none)
        return model.losses(out, batch, features, frozenset(model.modalities))["softmax"] * len(chosen)

    whole = torch.arange(edges.size(1))
    expected = loss(whole)
    for parts in (whole.split(5), torch.randperm(len(whole)).split(7), whole.split(1)):
        assert_close(sum(loss(part) for part in parts), expected, atol=1e-9, rtol=0)
    user = torch.arange(data["user"].num_nodes)
    assert_close(out.scores(user), out.scores(user, torch.arange(len(out.row))), atol=1e-9, rtol=0)


def test_a_softmax_over_drawn_items_leaves_them_out_too_and_counts_the_positive_once(make_data):
    data = make_data()
    model = model_of(data, feature_dropout=0.0, num_negatives=4)
    features, graph = doubled(data)
    out = model.outputs(features, graph, [None])[0]
    edges = graph[RATES][:, :7]
    batch = TripletBatch(edges[0], edges[1], edges[1], *(torch.zeros(0, dtype=torch.long),) * 3)
    torch.manual_seed(3)
    drawn = torch.randint(len(out.row), (4,)).tolist()
    expected = 0.0
    for u, i in edges.t().tolist():
        scores = torch.stack([left_out(out, u, j) for j in [i, *(j for j in drawn if j != i)]])
        expected -= scores.log_softmax(dim=0)[0] / 7
    torch.manual_seed(3)
    assert_close(model.losses(out, batch, features, frozenset(model.modalities))["softmax"], expected)


def test_drawn_items_that_are_the_positive_do_not_count():
    user, item = torch.randn(3, 4).double(), torch.randn(6, 4).double()
    positive, drawn = torch.tensor([0, 1, 5]), torch.tensor([1, 1, 4])
    scores = user @ item.t()
    expected = []
    for n, i in enumerate(positive.tolist()):
        among = [i, *(j for j in drawn.tolist() if j != i)]
        expected.append(-scores[n, among].log_softmax(dim=0)[0])
    assert_close(softmax_loss(user, item, positive, drawn), torch.stack(expected).mean())
    assert_close(softmax_loss(user, item, positive), F.cross_entropy(scores, positive))


def test_users_with_a_single_item_leave_the_gradients_of_others_alone(make_data):
    data = make_data()
    edges = data[RATES].edge_index
    edges = torch.cat([edges[:, edges[0] > 2], torch.tensor([[0, 1, 2], [1, 1, 3]])], dim=1)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        model = model_of(data, feature_dropout=0.0, item_graph="none").to(dtype)
        features = {m: data["item"][m].to(dtype) for m in data.modalities}
        out = model.outputs(features, {RATES: edges}, [None])[0]
        batch = TripletBatch(edges[0], edges[1], edges[1], *(torch.zeros(0, dtype=torch.long),) * 3)
        model.losses(out, batch, features, frozenset(model.modalities))["softmax"].backward()
        gradients.append([p.grad.double() for p in model.parameters()])
    for single, double in zip(*gradients, strict=True):
        assert_close(single, double, atol=1e-5 * double.abs().max().item(), rtol=0)


def test_a_graph_is_solved_once_however_often_it_is_prepared(make_data, monkeypatch):
    monkeypatch.setattr(cache, "_solved", {})
    data, solved = make_data(modalities=2), []
    model = model_of(data).eval()
    features, graph = doubled(data)
    original = item_weights.neighbours
    monkeypatch.setattr(item_weights, "neighbours", wraps(original)(lambda *args: solved.append(1) or original(*args)))
    first = model(features, graph)
    again = model(features, graph)
    assert len(solved) == 1
    assert torch.equal(first.item, again.item)
    other = {**features, data.modalities[0]: features[data.modalities[0]].flip(0)}
    assert not torch.equal(model(other, graph).item, first.item)
    assert len(solved) == 2
    twin = model_of(data).eval()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(features, graph).item, first.item)
    narrow = twin.float()({m: x.float() for m, x in features.items()}, graph)
    assert_close(narrow.item.double(), first.item, atol=1e-4, rtol=0)
    assert len(solved) == 3  # Another model of this process solves nothing; single precision has its own.
    model_of(data, ridge=2.0).eval()(features, graph)
    assert len(solved) == 4


def test_only_the_closed_forms_that_were_asked_for_last_are_kept(make_data, monkeypatch):
    kept: dict = {}
    monkeypatch.setattr(cache, "_solved", kept)
    monkeypatch.setattr(cache, "KEPT", 2)
    data = make_data(modalities=2)
    features, graph = doubled(data)
    for ridge in (1.0, 2.0, 1.0, 3.0):
        model_of(data, ridge=ridge).eval()(features, graph)
    assert [options[0] for _, _, options, *_ in kept] == [1.0, 3.0]


def test_a_student_that_has_its_teachers_tables_has_nothing_to_learn_from_them(make_data):
    data = make_data(modalities=2)
    model = model_of(data, feature_dropout=0.0)
    features, graph = doubled(data)
    views = [[m] for m in data.modalities]
    with torch.no_grad():
        teachers = dict(zip(data.modalities, model.forward_views(features, graph, views), strict=True))
    objective = DistillationWrapper(model, teachers, generic=False, l2=0.0)
    some = torch.tensor([0, 1])
    batch = TripletBatch(graph[RATES][0, :4], graph[RATES][1, :4], graph[RATES][1, :4].flip(0), some, some, some + 1)
    assert objective.loss(features, graph, batch)["specific"].item() == pytest.approx(0, abs=1e-9)


def test_it_learns_and_distils(make_data):
    data = make_data(num_users=30, num_items=20)
    torch.manual_seed(0)
    model = FISM.from_data(data, embedding_dim=8, num_negatives=7)
    trainer = Trainer(max_epochs=4, batch_size=32, lr=0.01, monitor="recall@5", device="cpu", progress=False)
    history = trainer.fit(Objective(model, l2=0.0), data)
    assert history.rows[-1]["loss/softmax"] < history.rows[0]["loss/softmax"]
    assert 0 <= evaluate(model, data, split="test", k=5)["recall@5"] <= 1


def test_what_cannot_be_is_refused(make_data):
    data = make_data()
    for options, text in (
        ({"temperature": 0.0}, "temperature"),
        ({"graph_weight": 2.0}, "graph_weight"),
        ({"ridge": 0.0}, "ridge"),
        ({"kernel_weight": -1.0}, "kernel_weight"),
        ({"feature_dropout": 1.0}, "feature_dropout"),
        ({"item_graph": "x"}, "item_graph"),
        ({"num_negatives": 0}, "num_negatives"),
    ):
        with pytest.raises(InputError, match=text):
            FISM.from_data(data, **options)
    model, (features, graph) = model_of(data), doubled(data)
    nodes = {kind: torch.arange(data[kind].num_nodes) for kind in ("user", "item")}
    with pytest.raises(InputError, match="item_graph='content'"):
        model(features, graph, None, nodes)
    assert model(features, {**graph, WEIGHTS: model.prepare(features, graph)[WEIGHTS]}, None, nodes).item.size(0) > 0


def test_more_items_than_a_closed_form_takes_have_a_graph_of_content():
    assert FISM(3, 8_000, {"a": 2}, embedding_dim=2).item_graph == "weights"
    assert FISM(3, 8_001, {"a": 2}, embedding_dim=2).item_graph == "content"
    model = FISM(3, 20_001, {"a": 2}, embedding_dim=2)
    assert model.num_negatives == 4096
    model = FISM(3, 20_001, {"a": 2}, embedding_dim=2, item_graph="weights")
    with pytest.raises(
        InputError,
        match=r"^item_graph='weights': found 20001 items, expected at most 20000: .*; choose item_graph='content'$",
    ):
        model({"a": torch.randn(20_001, 2)}, {RATES: torch.tensor([[0], [1]])})


def test_the_penalty_acts_on_the_id_rows_and_biases_of_the_positives(make_data):
    data = make_data()
    model = model_of(data)
    torch.nn.init.normal_(model.item_bias)
    batch = TripletBatch(*(torch.tensor(x) for x in ([0, 1], [2, 3], [1, 1], [0, 1], [2, 3], [1, 1])))
    found = Objective(model, l2=0.5).loss(*doubled(data), batch)["l2"].item()
    rows = torch.cat([model.item_embedding, model.item_bias.unsqueeze(1)], dim=1)[[2, 3]]
    assert found == pytest.approx(0.5 * 0.5 * (rows**2).sum().item() / 2)


@pytest.mark.parametrize("some", [False, True], ids=["all items", "drawn items"])
def test_scores_under_autocast_are_those_of_full_precision(some, make_data):
    data = make_data()
    model = model_of(data, feature_dropout=0.0, item_graph="none").float()
    features = {m: data["item"][m].float() for m in data.modalities}
    out = model.outputs(features, {RATES: data[RATES].edge_index}, [None])[0]
    user, items = torch.arange(6), torch.arange(len(out.row))
    plain = out.scores(user, items if some else None)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(out.scores(user, items if some else None).float(), plain, atol=1e-3, rtol=0)
