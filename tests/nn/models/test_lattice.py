"""LATTICE: dense definitions of all its variants, once-per-epoch learning, and training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from pyg_ckd import DistillationWrapper, Objective
from pyg_ckd.data.inputs import RATES, unpack
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.datasets import synthetic_multimodal
from pyg_ckd.errors import InputError
from pyg_ckd.nn import LightGCN
from pyg_ckd.nn.models.lattice import LATTICE, LatentStructure
from pyg_ckd.nn.models.micro import MICRO
from pyg_ckd.nn.structure import UniformGraph, item_graph_type
from pyg_ckd.scoring.embeddings import Embeddings
from tests.nn.models.test_base import all_views
from tests.nn.models.zoo import built, doubled
from tests.training.problem import trainer

both_models = pytest.mark.parametrize("cls", [LATTICE, MICRO])


def dense_neighbours(x: Tensor, k: int, keep_negative: bool) -> Tensor:
    """Return the k largest cosines of every row, others and, if so wanted, negative ones being zero."""
    unit = x / x.norm(dim=1, keepdim=True)
    cosine = unit @ unit.t()
    largest = torch.zeros_like(cosine).scatter(1, cosine.topk(k, dim=1).indices, 1)
    return cosine * largest if keep_negative else (cosine * largest).clamp(min=0)


def dense_laplacian(s: Tensor) -> Tensor:
    degree = s.sum(dim=1)
    return s / (degree.unsqueeze(1) * degree.unsqueeze(0)).sqrt()


def dense_graph(model: LatentStructure, modality: str, features: dict[str, Tensor], keep_negative: bool) -> Tensor:
    """Return a modality's learned graph with its skip connection."""
    raw, lin = features[modality], model.project[modality]
    fixed, learned = (
        dense_laplacian(dense_neighbours(x, model.num_neighbors, keep_negative))
        for x in (raw, raw @ lin.weight.t() + lin.bias)
    )
    return model.skip_weight * fixed + (1 - model.skip_weight) * learned


def collaborative(model: LatentStructure, features: dict[str, Tensor], graph: dict) -> Embeddings:
    """Return what LightGCN alone makes of the id embeddings."""
    plain = LightGCN(model.num_users, model.num_items, {}, model.item_embedding.size(1), model.num_layers).double()
    plain.load_state_dict({name: model.state_dict()[name] for name in ("user_embedding", "item_embedding")})
    return plain(features, graph)


def batch_of(num_users: int, num_items: int, size: int = 30) -> TripletBatch:
    def draw(high: int) -> Tensor:
        return torch.randint(high, (size,), generator=generator)

    generator = torch.Generator().manual_seed(0)
    return TripletBatch(*(draw(high) for high in (num_users, num_items, num_items) * 2))


@pytest.mark.parametrize("num_modalities", [1, 3])
@pytest.mark.parametrize("keep_negative", [False, True])
@pytest.mark.parametrize("num_item_layers", [0, 1, 2])
def test_every_view_equals_its_dense_definition(num_modalities, keep_negative, num_item_layers, make_data):
    data = make_data(modalities=num_modalities)
    options = {"num_neighbors": 4, "skip_weight": 0.6, "keep_negative": keep_negative, "latent_dim": 5}
    model = built(lambda data: LATTICE.from_data(data, num_item_layers=num_item_layers, **options), data)
    features, graph = doubled(data)
    z, alpha = collaborative(model, features, graph), model.modality_weight.softmax(dim=0)
    uniform = torch.full((model.num_items, model.num_items), 1 / model.num_items, dtype=torch.float64)
    for view in all_views(model.modalities):
        mixed = torch.zeros_like(uniform)
        for a, m in zip(alpha, model.modalities, strict=True):
            mixed = mixed + a * (dense_graph(model, m, features, keep_negative) if m in view else uniform)
        h = torch.linalg.matrix_power(mixed, num_item_layers) @ model.item_embedding
        out = model(features, graph, view)
        assert_close(out.user, z.user, atol=1e-10, rtol=0)
        assert_close(out.item, z.item + h / h.norm(dim=1, keepdim=True), atol=1e-10, rtol=0)


def test_mixed_similarities_equal_their_dense_definition(make_data):
    data = make_data(modalities=3)
    options = {"mixture": "similarities", "num_neighbors": 4, "skip_weight": 0.6, "num_item_layers": 2}
    model = built(lambda data: LATTICE.from_data(data, **options), data)
    features, graph = doubled(data)
    z, alpha = collaborative(model, features, graph), model.modality_weight.softmax(dim=0)
    for view in all_views(model.modalities):
        learned, mixed, share = 0, torch.zeros(model.num_items, model.num_items, dtype=torch.float64), 0
        for a, m in zip(alpha, model.modalities, strict=True):
            if m in view:
                lin, share = model.project[m], share + a
                learned = learned + a * dense_neighbours(features[m] @ lin.weight.t() + lin.bias, 4, False)
                mixed = mixed + 0.6 * a * dense_laplacian(dense_neighbours(features[m], 4, False))
            else:
                mixed = mixed + a / model.num_items  # With or without the skip connection the same matrix.
        if view:
            mixed = mixed + 0.4 * share * dense_laplacian(learned)
        h = mixed @ mixed @ model.item_embedding
        assert_close(model(features, graph, view).item, z.item + F.normalize(h), atol=1e-10, rtol=0)


def test_both_mixtures_are_one_where_there_is_one_modality(make_data):
    data = make_data(modalities=3)
    features, graph = doubled(data)
    graphs, similarities = (
        built(
            lambda data, mixture=mixture: LATTICE.from_data(data, mixture=mixture, num_neighbors=4, skip_weight=0.2),
            data,
        )
        for mixture in ("graphs", "similarities")
    )
    for m in graphs.modalities:
        one, other = graphs(features, graph, m), similarities(features, graph, m)
        assert_close(one.item, other.item, atol=1e-12, rtol=0)
    difference = graphs(features, graph).item - similarities(features, graph).item
    assert difference.abs().max() > 1e-3


@both_models
def test_a_modality_without_contrast_between_items_is_intervened_on_by_nature(cls, make_data):
    data = make_data(modalities=["visual", "textual"])
    model = built(lambda data: cls.from_data(data, num_neighbors=3), data)
    features, graph = doubled(data)
    features["textual"] = torch.full_like(features["textual"], 0.3)
    for view, same in ((None, "visual"), ("textual", ())):
        assert torch.equal(model(features, graph, view).item, model(features, graph, same).item)


@both_models
def test_items_graph_given_by_the_user_takes_the_place_of_the_raw_features_one(cls, make_data):
    data = make_data(modalities=["visual", "textual"])
    model = built(lambda data: cls.from_data(data, skip_weight=1.0), data)
    features, graph = doubled(data)
    graph[item_graph_type("visual")] = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
    mine, other = model(features, graph, "visual"), model(features, {RATES: graph[RATES]}, "visual")
    assert (mine.item - other.item).abs().max() > 1e-3
    features["visual"] = features["visual"].roll(1, dims=0)
    assert_close(model(features, graph, "visual").item, mine.item, atol=1e-12, rtol=0)


@both_models
def test_the_first_step_of_an_epoch_learns_the_graph_and_later_ones_keep_it(cls, make_data):
    data = make_data(modalities=2)
    model = built(lambda data: cls.from_data(data, num_neighbors=3, skip_weight=0.5), data)
    features, graph = doubled(data)
    prepared = model.prepare(features, graph)
    learned = [p for name, p in model.named_parameters() if name.startswith("project")]
    views = [None, *model.modalities]

    def items(graphs: dict) -> Tensor:
        return torch.cat([out.item for out in model.forward_views(features, graphs, views)])

    def gradients(graphs: dict) -> list[Tensor | None]:
        weight = torch.randn(items(prepared).shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return torch.autograd.grad((items(graphs) * weight).sum(), learned, allow_unused=True)

    before, expected = items(prepared), gradients(prepared)
    epoch = model.begin_epoch(features, prepared)
    with torch.no_grad():
        assert torch.equal(items(epoch), before)  # A look in between takes nothing away from the first step.
    for gradient, other in zip(gradients(epoch), expected, strict=True):
        assert gradient.abs().max() > 1e-6
        assert_close(gradient, other, atol=1e-12, rtol=0)
    assert gradients(epoch) == (None,) * len(learned)
    with torch.no_grad():
        for parameter in learned:
            parameter.normal_()
    assert_close(items(epoch), before, atol=1e-12, rtol=0)
    now = items(prepared)
    assert (now - before).abs().max() > 1e-3
    assert_close(items(model.begin_epoch(features, prepared)), now, atol=1e-12, rtol=0)


@pytest.mark.parametrize("mixture", ["graphs", "similarities"])
def test_weights_of_modalities_are_learned_in_every_step_unless_they_are_inside_the_graph(mixture, make_data):
    data = make_data(modalities=2)
    model = built(lambda data: LATTICE.from_data(data, num_neighbors=3, mixture=mixture), data)
    features, graph = doubled(data)
    epoch = model.begin_epoch(features, model.prepare(features, graph))
    for step in range(2):
        model.zero_grad(set_to_none=True)
        model(features, epoch).item.square().sum().backward()
        has_gradient = model.modality_weight.grad is not None
        assert has_gradient == (step == 0 or mixture == "graphs")


@both_models
@pytest.mark.parametrize("num_modalities", [2, 3])
def test_step_of_distillation_reaches_every_parameter(cls, num_modalities, make_data):
    data = make_data(modalities=num_modalities)
    model = built(lambda data: cls.from_data(data, embedding_dim=6, num_neighbors=3), data)
    features, graph = doubled(data)
    users, items = model.num_users, model.num_items
    teachers = {m: Embeddings(torch.randn(users, 4).double(), torch.randn(items, 4).double()) for m in model.modalities}
    objective = DistillationWrapper(model, teachers, num_random_triples=30, distillation_weight=0.5)
    graphs = objective.begin_epoch(features, objective.prepare(features, graph))
    terms = objective.loss(features, graphs, batch_of(users, items))
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@both_models
def test_teacher_learns_from_its_own_modality_only(cls, make_data):
    data = make_data(modalities=["visual", "textual"])
    model = built(lambda data: cls.from_data(data, num_neighbors=3), data)
    features, graph = doubled(data)
    objective = Objective(model, view="visual")
    terms = objective.loss(features, graph, batch_of(model.num_users, model.num_items))
    torch.stack(list(terms.values())).sum().backward()
    assert model.project["visual"].weight.grad.abs().max() > 0
    assert model.project["textual"].weight.grad is None


@both_models
def test_no_factual_modality_leaves_finite_embeddings_and_gradients(cls, make_data):
    data = make_data(modalities=2)
    model = built(cls.from_data, data)
    out = model(*doubled(data), ())
    out.item.square().sum().backward()
    assert torch.isfinite(torch.cat(out)).all()
    assert torch.isfinite(model.item_embedding.grad).all()


@both_models
def test_training_lowers_the_loss_and_improves_recall(cls):
    data = synthetic_multimodal(num_users=150, num_items=80, num_interactions=3000)
    torch.manual_seed(0)
    model = cls.from_data(data, embedding_dim=16, latent_dim=8)
    history = trainer(max_epochs=10, batch_size=512, monitor="recall@20").fit(Objective(model, l2=1e-3), data)
    losses = [row["loss/bpr"] for row in history.rows]
    recalls = [row["val/recall@20"] for row in history.rows]
    assert losses[-1] < 0.8 * losses[0]
    assert max(recalls) > 1.08 * recalls[0]


@both_models
def test_training_gone_on_with_from_a_checkpoint_ends_with_the_same_bits(cls, tmp_path):
    data = synthetic_multimodal(num_users=60, num_items=40, num_interactions=900)

    def trained(*epochs: int, folder: str | None = None) -> dict[str, Tensor]:
        for last in epochs:
            torch.manual_seed(0)
            model = cls.from_data(data, embedding_dim=8, latent_dim=8)
            trainer(max_epochs=last, checkpoint_dir=folder and tmp_path / folder).fit(model, data)
        return model.state_dict()

    whole, parts = trained(4), trained(2, 4, folder="run")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_prepared_graphs_have_the_type_of_the_parameters(make_data):
    data = make_data()
    features, graph = unpack(data)
    prepared = LATTICE.from_data(data).double().prepare(features, graph)
    assert {prepared[item_graph_type(m)].dtype for m in data.modalities} == {torch.float64}
    assert not any(isinstance(value, UniformGraph) for value in prepared.values())


def test_base_class_cannot_be_built():
    with pytest.raises(TypeError, match="abstract"):
        LatentStructure(3, 4, {"visual": 2})  # type: ignore[abstract]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim: found 0, expected at least 1"),
        ({"num_neighbors": 0}, "num_neighbors: found 0, expected at least 1"),
        ({"num_item_layers": -1}, "num_item_layers: found -1, expected at least 0"),
        ({"num_layers": -1}, "num_layers: found -1"),
        ({"skip_weight": 1.5}, "skip_weight: found 1.5, expected a number from 0 to 1"),
        ({"skip_weight": float("nan")}, "skip_weight: found nan"),
    ],
    ids=str,
)
@both_models
def test_bad_options_are_refused(cls, options, message):
    with pytest.raises(InputError, match=message):
        cls(2, 2, {"visual": 3}, **options)


def test_unknown_mixture_is_refused():
    with pytest.raises(InputError, match="unknown mixture 'graph': did you mean 'graphs'"):
        LATTICE(2, 2, {"visual": 3}, mixture="graph")


@both_models
def test_no_modality_is_refused(cls):
    with pytest.raises(InputError, match="number of modalities: found 0"):
        cls(2, 2, {})
