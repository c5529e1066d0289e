"""Backbones that compute the last layer for the rows of the batch have the losses and gradients of whole tables."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from pyg_ckd import DistillationWrapper, Objective
from pyg_ckd.data.inputs import RATES, unpack
from pyg_ckd.data.sampler import TripletSampler
from pyg_ckd.nn import MMGCN, EarlyFusionLightGCN, LightGCN
from pyg_ckd.nn import rows as graph_rows
from pyg_ckd.scoring import late
from pyg_ckd.scoring.embeddings import Embeddings

CASES = {
    "MMGCN": (MMGCN, {}),
    "MMGCN-published": (
        MMGCN,
        {"num_layers": 2, "combine": "concat", "self_loops": True, "message_bias": True, "fusion": "mean"},
    ),
    "MMGCN-wide": (MMGCN, {"latent_dims": None, "message_bias": True}),
    "LightGCN": (LightGCN, {"num_layers": 3}),
    "EarlyFusionLightGCN": (EarlyFusionLightGCN, {"num_layers": 2}),
    "EarlyFusionLightGCN-wide": (EarlyFusionLightGCN, {"embedding_dim": 1, "num_layers": 1}),
}
PAIRS = [(case, "plain") for case in CASES] + [(case, "ckd") for case in CASES if case != "LightGCN"]


def _run(data, case, strategy, monkeypatch, most, precision=None):
    """Return loss terms, gradients and how many cuts of the graph were made."""
    cls, options = CASES[case]
    features, edges = unpack(data, dtype=torch.float64)
    batch = next(iter(TripletSampler(edges[RATES], 300, 200, 20, 25 if strategy == "ckd" else 0, 0)))
    torch.manual_seed(0)
    student = cls.from_data(data, **options).double()
    if strategy == "ckd":
        generator = torch.Generator().manual_seed(0)
        sizes = (300, 200)
        teachers = {
            m: Embeddings(*(torch.randn(n, 4, generator=generator).double() for n in sizes)) for m in data.modalities
        }
        objective = DistillationWrapper(student, teachers, num_random_triples=25, distillation_weight=1.0)
    else:
        objective = Objective(student)
    cuts = []
    with monkeypatch.context() as patch:
        patch.setattr(late.Selections.__init__, "__defaults__", (most,))
        plain = graph_rows.GraphRows.__init__
        patch.setattr(graph_rows.GraphRows, "__init__", lambda self, *a: (cuts.append(a), plain(self, *a))[1])
        graph = objective.prepare(features, edges)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            terms = objective.loss(features, graph, batch)
        torch.stack(list(terms.values())).sum().backward()
    return terms, {name: p.grad for name, p in objective.named_parameters() if p.requires_grad}, len(cuts)


@pytest.mark.parametrize(("case", "strategy"), PAIRS)
def test_losses_and_gradients_are_those_of_whole_tables(case, strategy, make_data, monkeypatch):
    data = make_data(num_users=300, num_items=200)
    terms, grads, cuts = _run(data, case, strategy, monkeypatch, late.MOST)
    expected, expected_grads, none = _run(data, case, strategy, monkeypatch, 0.0)
    assert (cuts, none) == (1, 0)
    assert_close(terms, expected, rtol=0, atol=1e-10)
    assert_close(grads, expected_grads, rtol=0, atol=1e-10)


def test_a_changed_branch_is_left_alone(make_data, monkeypatch):
    class Doubled(MMGCN):
        def fuse(self, view, branches, inputs):
            out = super().fuse(view, branches, inputs)
            return Embeddings(2 * out.user, out.item)

    monkeypatch.setitem(CASES, "doubled", (Doubled, {}))
    terms, _, cuts = _run(make_data(num_users=300, num_items=200), "doubled", "plain", monkeypatch, late.MOST)
    expected, _, _ = _run(make_data(num_users=300, num_items=200), "MMGCN", "plain", monkeypatch, late.MOST)
    assert cuts == 0
    assert not torch.isclose(terms["bpr"], expected["bpr"], rtol=1e-6, atol=0)


def _doubled(table):
    return Embeddings(2 * table.user, table.item)


class MMGCNWithBranches(MMGCN):
    def branches(self, views, inputs):
        return {key: _doubled(branch) for key, branch in super().branches(views, inputs).items()}


class MMGCNWithSplit(MMGCN):
    def split(self, x, n_id_dict):
        return _doubled(super().split(x, n_id_dict))


class MMGCNWithHook(MMGCN):
    def reset_parameters(self):
        super().reset_parameters()
        self._layers(self.modalities[0])[-1].register_forward_hook(lambda conv, args, out: 2 * out)


class MMGCNWithHookInside(MMGCN):
    def reset_parameters(self):
        super().reset_parameters()
        self._layers(self.modalities[0])[-1].lin_neighbor.register_forward_hook(lambda lin, args, out: 2 * out)


class MMGCNWithLayers(MMGCN):
    def _layers(self, modality):
        return super()._layers(modality)[:-1]


class LightGCNWithSplit(LightGCN):
    def split(self, x, n_id_dict):
        return _doubled(super().split(x, n_id_dict))


class EarlyFusionWithMap(EarlyFusionLightGCN):
    def _map(self, modality, x):
        x = super()._map(modality, x)
        return x / x.norm()


@pytest.mark.parametrize(
    "changed",
    [
        *(MMGCNWithBranches, MMGCNWithSplit, MMGCNWithHook, MMGCNWithHookInside, MMGCNWithLayers),
        *(LightGCNWithSplit, EarlyFusionWithMap),
    ],
)
def test_what_is_changed_on_the_way_is_trained_as_it_is_evaluated(changed, make_data, monkeypatch):
    monkeypatch.setitem(CASES, "changed", (changed, {}))
    data = make_data(num_users=300, num_items=200)
    terms, grads, cuts = _run(data, "changed", "plain", monkeypatch, late.MOST)
    tables, table_grads, _ = _run(data, "changed", "plain", monkeypatch, 0.0)
    monkeypatch.setitem(CASES, "plain", (changed.__base__, {}))
    expected, _, _ = _run(data, "plain", "plain", monkeypatch, late.MOST)
    assert cuts == 0
    assert_close(terms, tables, rtol=0, atol=1e-10)
    assert_close(grads, table_grads, rtol=0, atol=1e-10)
    assert not torch.isclose(terms["bpr"], expected["bpr"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", ["MMGCN", "EarlyFusionLightGCN"])
def test_half_precision_is_near(case, make_data, monkeypatch):
    data = make_data(num_users=300, num_items=200)
    terms, _, cuts = _run(data, case, "ckd", monkeypatch, late.MOST, "bf16")
    expected, _, _ = _run(data, case, "ckd", monkeypatch, 0.0, "bf16")
    assert cuts == 1
    assert_close(terms, expected, rtol=0.02, atol=1e-3)


def test_outside_of_training_tables_are_computed_at_once(make_data):
    data = make_data(num_users=300, num_items=200)
    features, edges = unpack(data)
    model = MMGCN.from_data(data)
    with torch.no_grad():
        (out,) = model.outputs(features, edges, [None])
    assert type(out.blocks[0]) is not late.LateBlock
    (trained,) = model.outputs(features, edges, [None])
    assert type(trained.blocks[0]) is late.LateBlock
    assert_close(trained.dense(), out.dense(), rtol=0, atol=1e-6)
