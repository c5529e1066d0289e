"""MMGCN: the options that the golden files do not reach."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from pyg_ckd.balance import DistillationWrapper
from pyg_ckd.data import Embeddings
from pyg_ckd.data.inputs import RATES, unpack
from pyg_ckd.data.sampler import TripletSampler
from pyg_ckd.errors import InputError
from pyg_ckd.nn import MMGCN
from tests.nn.models.zoo import built, doubled


def test_sum_over_modalities_is_their_number_times_the_mean(make_data):
    data = make_data(modalities=3)
    features, graph = doubled(data)
    total, mean = (built(lambda data, f=f: MMGCN.from_data(data, fusion=f), data) for f in ("sum", "mean"))
    assert_close(torch.cat(total(features, graph)), 3 * torch.cat(mean(features, graph)), atol=1e-10, rtol=0)


def test_embeddings_are_the_sum_of_single_modality_models(make_data):
    data = make_data(modalities=2)
    features, graph = doubled(data)
    both = built(MMGCN.from_data, data)
    total = 0
    for m in both.modalities:
        single = MMGCN(both.num_users, both.num_items, {m: features[m].size(1)}).double()
        state = both.state_dict()
        single.load_state_dict({name: state[name] for name in single.state_dict()})
        total = total + torch.cat(single({m: features[m]}, graph))
    assert_close(torch.cat(both(features, graph)), total, atol=1e-10, rtol=0)


def test_modalities_outside_latent_dims_enter_at_their_own_width(make_data):
    data = make_data(modalities=["visual", "textual"])
    model = MMGCN.from_data(data, latent_dims={"visual": 7})
    assert model.preference["visual"].size(1) == 7
    assert model.preference["textual"].size(1) == data["item"]["textual"].size(1)
    assert not list(model.project["textual"].parameters())


def test_only_the_direction_of_features_and_preferences_matters_without_projection(make_data):
    data = make_data()
    model = built(lambda data: MMGCN.from_data(data, latent_dims=None), data)
    features, graph = doubled(data)
    longer = model({m: 3 * x for m, x in features.items()}, graph)
    assert_close(torch.cat(longer), torch.cat(model(features, graph)), atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "summ"}, "unknown fusion 'summ': did you mean 'sum'"),
        ({"combine": "ad"}, "unknown combination 'ad': did you mean 'add'"),
        ({"num_layers": 0}, "num_layers: found 0"),
        ({"latent_dims": {"visul": 4}}, "unknown modality 'visul': did you mean 'visual'"),
        ({"latent_dims": {"visual": 0}}, "found 0 for 'visual'"),
        ({"latent_dims": 0}, "found 0 for 'visual'"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        MMGCN(2, 2, {"visual": 3}, **options)


def test_recomputed_layers_give_the_same_gradients_and_save_less(make_data):
    features, graph = unpack(make_data(num_users=300, num_items=200), dtype=torch.float64)

    def run(recompute: bool) -> tuple[torch.Tensor, list[torch.Tensor], int]:
        torch.manual_seed(0)
        model = MMGCN(300, 200, {m: x.size(1) for m, x in features.items()}, recompute=recompute).double()
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (saved.append(x.nbytes), x)[1], lambda x: x):
            outs = model.forward_views(features, graph, [None, model.modalities[0]])
            loss = sum(out.user.square().sum() + out.item.sum() for out in outs)
        loss.backward()
        return loss, [p.grad for p in model.parameters()], sum(saved)

    (loss, grads, size), (kept_loss, kept_grads, kept) = run(True), run(False)
    assert torch.equal(loss, kept_loss)
    assert_close(grads, kept_grads, rtol=0, atol=1e-10)
    assert size < 0.6 * kept


@pytest.mark.parametrize("fusion", ["sum", "mean"])
def test_recomputed_distillation_has_the_losses_and_gradients_of_the_stored_one(fusion, make_data):
    data = make_data(num_users=300, num_items=200)
    features, edges = unpack(data)
    generator = torch.Generator().manual_seed(0)
    teachers = {
        m: Embeddings(*(torch.randn(n, 4, generator=generator).double() for n in (300, 200))) for m in data.modalities
    }
    batch = next(iter(TripletSampler(edges[RATES], 300, 200, 6, 20, 0)))  # Fewer rows than users and items.

    def run(recompute: bool) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        torch.manual_seed(0)
        model = MMGCN.from_data(data, fusion=fusion, recompute=recompute).double()
        objective = DistillationWrapper(model, teachers, num_random_triples=20)
        inputs = {m: x.double() for m, x in features.items()}
        terms = objective.loss(inputs, objective.prepare(inputs, edges), batch)
        torch.stack(list(terms.values())).sum().backward()
        return terms, [p.grad for p in objective.parameters()]

    (terms, grads), (kept_terms, kept_grads) = run(True), run(False)
    assert_close(terms, kept_terms, rtol=1e-12, atol=0)
    assert_close(grads, kept_grads, rtol=0, atol=1e-12)
    assert not any(grad.is_sparse for grad in grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("large", [False, True])
def test_standardized_features_that_are_intervened_on_are_zero_and_not_their_rounding(
    make_data, monkeypatch, dtype, large
):
    if large:
        monkeypatch.setattr("pyg_ckd.nn.models.mmgcn.is_large", lambda *args: True)
    data = make_data(modalities=["visual", "textual"])
    model = MMGCN.from_data(data, latent_dims={"visual": 7}).to(dtype)
    features, graph = doubled(data)
    x = features["textual"]
    features["textual"] = (x - x.mean(dim=0)) / x.std(dim=0)
    features = {m: x.to(dtype) for m, x in features.items()}
    given = features | {"textual": torch.zeros_like(x, dtype=dtype)}
    with torch.no_grad():
        graph = model.prepare(features, graph)
        found, expected = (model(x, graph, ["visual"]) for x in (features, given))
    assert_close(torch.cat(found), torch.cat(expected), atol=1e-6, rtol=0)


def test_a_mean_of_features_that_is_more_than_rounding_keeps_its_direction(make_data):
    data = make_data()
    model = built(lambda data: MMGCN.from_data(data, latent_dims=None), data)
    features, graph = doubled(data)
    shifted = {m: x - x.mean(dim=0) + 1e-6 for m, x in features.items()}
    larger = {m: x + 1 for m, x in shifted.items()}
    views = [torch.cat(model(x, graph, [])) for x in (shifted, larger)]
    assert_close(views[0], views[1], atol=1e-6, rtol=0)
