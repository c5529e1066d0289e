"""Distillation of modalities that some items lack."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pyg_ckd.balance import DistillationWrapper, ModalityEffectEstimator
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from tests.balance.test_ckd import one_batch, random_teachers
from tests.nn.models.zoo import built, doubled

OPTIONS = {"distillation_weight": 0.3, "generic_weight": 2.0, "temperature": 0.7, "num_random_triples": 30}


def setting(make_data, modalities: int = 3, **options):
    data = make_data(modalities=modalities)
    model = built(lambda data: VBPR.from_data(data, embedding_dim=4), data)
    teachers = random_teachers(model)
    features, graph = doubled(data)
    has = {"mod1": torch.arange(9) % 3 > 0}
    wrapper = DistillationWrapper(model, teachers, has=has, **OPTIONS, **options).double()
    return wrapper, teachers, features, graph, one_batch(data, 30), has["mod1"]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("reweight", [True, False])
def test_terms_equal_those_of_a_loop_that_leaves_out_what_items_lack(make_data, reweight):
    wrapper, teachers, features, graph, batch, has = setting(make_data, reweight=reweight)
    names = wrapper.modalities
    model = wrapper.student
    alone = {m: model(features, graph, [m]) for m in names}
    full = model(features, graph)
    without = {m: model(features, graph, [n for n in names if n != m]) for m in names}

    def known(m, first, second):
        return m != "mod1" or bool(has[first] and has[second])

    generic = {}
    for m in names:
        rows = torch.tensor([known(m, a, b) for a, b in zip(*batch[4:], strict=True)])
        s, t = (out.margin(*batch[3:])[rows] / 0.7 for out in (alone[m], teachers[m]))
        generic[m] = F.binary_cross_entropy_with_logits(s, t.sigmoid())
    specific_total, generic_total = 0.0, 0.0
    for n in range(batch.user.numel()):
        triple = tuple(x[n : n + 1] for x in batch[:3])
        here = [m for m in names if known(m, triple[1], triple[2])]
        joint = full.margin(*triple)
        effect = {
            m: ((joint - without[m].margin(*triple)) / alone[m].margin(*triple)).clamp(1e-8, 10).item() for m in here
        }
        for m in here:
            share = len(here) / (len(here) - 1) * (1 - effect[m] / sum(effect.values()))
            weight = share if reweight else 1.0
            hinge = (teachers[m].margin(*triple) - alone[m].margin(*triple)).clamp(min=0)
            specific_total = specific_total + weight * hinge
            generic_total = generic_total + weight * generic[m]
    terms = wrapper.loss(features, graph, batch)
    num = batch.user.numel()
    torch.testing.assert_close(terms["specific"], (0.3 * specific_total / num).squeeze())
    torch.testing.assert_close(terms["generic"], 0.3 * 2.0 * generic_total / num)


@pytest.mark.usefixtures("double")
def test_a_mask_of_all_items_changes_nothing(make_data):
    wrapper, teachers, features, graph, batch, _ = setting(make_data)
    plain = DistillationWrapper(wrapper.student, teachers, **OPTIONS).double()
    full = DistillationWrapper(wrapper.student, teachers, has={"mod1": torch.ones(9, dtype=torch.bool)}, **OPTIONS)
    expected = plain.loss(features, graph, batch)
    for name, term in full.double().loss(features, graph, batch).items():
        torch.testing.assert_close(term, expected[name])


@pytest.mark.usefixtures("double")
def test_a_batch_without_any_known_triple_has_finite_terms(make_data):
    wrapper, _, features, graph, batch, _ = setting(make_data)
    wrapper.item_mask_mod1.zero_()
    terms = wrapper.loss(features, graph, batch)
    sum(terms.values()).backward()
    assert all(torch.isfinite(term) for term in terms.values())
    assert all(torch.isfinite(p.grad).all() for p in wrapper.parameters() if p.grad is not None)


def test_weights_are_shared_among_the_modalities_that_are_there():
    estimator = ModalityEffectEstimator(["a", "b", "c"])
    effects = torch.tensor([[1.0, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3]])
    there = torch.tensor([[True, True, True], [True, False, True], [False, True, False], [False, False, False]])
    weights = estimator.weights(effects, there)
    torch.testing.assert_close(weights[0], estimator.weights(effects)[0])
    torch.testing.assert_close(weights[1], torch.tensor([1.5, 0.0, 0.5]))
    assert weights[2:].tolist() == [[0, 1, 0], [0, 0, 0]]
    torch.testing.assert_close(weights.sum(dim=1), there.sum(dim=1).float())


def test_masks_that_do_not_fit_are_refused(make_data):
    with pytest.raises(InputError, match="unknown modality of a mask 'mod3': did you mean 'mod"):
        setting_with(make_data, {"mod3": torch.ones(9, dtype=torch.bool)})
    with pytest.raises(InputError, match=r"mask of 'mod1' is torch.float32 of shape \[9\], expected bool"):
        setting_with(make_data, {"mod1": torch.ones(9)})


def setting_with(make_data, has):
    data = make_data(modalities=3)
    model = VBPR.from_data(data, embedding_dim=4)
    return DistillationWrapper(model, None, has=has)
