"""Several batches may make one step: gradients of a batch are added to those that parameters have already."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pyg_ckd import Objective
from pyg_ckd.balance import Progress
from pyg_ckd.balance.curriculum import DifficultyCurriculum
from pyg_ckd.balance.wrapper import ObjectiveWrapper
from pyg_ckd.data.inputs import RATES, unpack
from pyg_ckd.data.sampler import TripletSampler
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from tests.balance.test_strategies import STRATEGIES, objective_of
from tests.training.problem import planted_data
from tests.training.several import in_processes


class Score:
    """Ranks tables by something that differs, on triples that are always the same."""

    triples = tuple(torch.randint(n, (50,), generator=torch.Generator().manual_seed(n)) for n in (12, 9, 8))

    def __call__(self, embeddings):
        return float(embeddings.item.sum())


def gradients(objective, graphs, batch) -> None:
    torch.manual_seed(3)
    terms = objective.loss(*graphs, batch)
    objective.backward(terms, lambda loss, retain_graph=False: loss.backward(retain_graph=retain_graph))


def of(objective):
    return {
        name: None if p.grad is None else p.grad.to_dense().clone() if p.grad.is_sparse else p.grad.clone()
        for name, p in objective.named_parameters()
    }


TRAINED = [name for name, cls in STRATEGIES.items() if cls.trains]


@pytest.mark.parametrize(
    ("epoch", "wrapped", "sparse"),
    [(1, False, False), (1, True, False), (2, False, False), (2, True, False), (2, False, True)],
)
@pytest.mark.parametrize("name", TRAINED)
def test_gradients_of_two_batches_are_the_sum_of_those_of_each(name, epoch, wrapped, sparse, make_data):
    data = make_data(modalities=3)
    inside = objective_of(STRATEGIES[name], data, lambda data: VBPR.from_data(data, embedding_dim=4, sparse=sparse))
    objective = DifficultyCurriculum(inside, stage_epochs=1) if wrapped else inside
    features, graph = unpack(data)
    objective.progress = Progress(epoch, 10)
    graphs = features, objective.prepare(features, graph)
    objective.before_training(*graphs, Score())
    objective.begin_epoch(*graphs)
    sampler = TripletSampler(
        data[RATES].edge_index, 12, 9, batch_size=16, num_random_triples=objective.num_random_triples and 20, seed=5
    )
    first, second, *_ = sampler
    apart, found = copy.deepcopy(objective), objective
    for batch in (first, second):
        gradients(found, graphs, batch)
    gradients(apart, graphs, first)
    expected = of(apart)
    apart.zero_grad(set_to_none=True)
    gradients(apart, graphs, second)
    for key, grad in of(apart).items():
        before, total = expected[key], of(found)[key]
        if before is None or grad is None:
            assert (total is None) == (before is None and grad is None), key
            one = grad if before is None else before
            assert total is None or torch.equal(total, one), key
        else:
            torch.testing.assert_close(total, before + grad, rtol=1e-5, atol=1e-7, msg=key)
    assert any(grad is not None for grad in of(found).values())


def test_a_backward_sees_and_drops_the_gradients_of_its_own_step_alone(make_data):
    data = make_data()

    class Dropped(Objective):
        def backward(self, terms, run):
            assert all(p.grad is None for p in self.parameters())
            super().backward(terms, run)
            for p in self.parameters():
                p.grad = None

    objective = objective_of(Dropped, data)
    for p in objective.parameters():
        p.grad = torch.ones_like(p)
    before = {name: p.grad for name, p in objective.named_parameters()}
    features, graph = unpack(data)
    gradients(objective, (features, objective.prepare(features, graph)), next(iter(sampled(data))))
    for name, p in objective.named_parameters():
        assert p.grad is before[name]
        assert bool((p.grad == 1).all())


def sampled(data) -> TripletSampler:
    return TripletSampler(data[RATES].edge_index, 12, 9, batch_size=16, seed=5)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_backward_that_runs_nothing_is_refused(wrapped, make_data):
    data = make_data()

    class Idle(Objective):
        def backward(self, terms, run):
            sum(terms.values())

    class OfItsOwn(Objective):
        def backward(self, terms, run):
            terms["bpr"].backward()

    class Whole(Objective):
        def backward(self, terms, run):
            sum(terms.values()).backward()

    features, graph = unpack(data)
    for cls in (Idle, OfItsOwn, Whole):
        objective = objective_of(cls, data)
        objective = DifficultyCurriculum(objective, stage_epochs=1) if wrapped else objective
        graphs = features, objective.prepare(features, graph)
        if cls is OfItsOwn:
            with pytest.warns(UserWarning, match=r"OfItsOwn.backward: found no call of run .* of l2, which are not"):
                gradients(objective, graphs, next(iter(sampled(data))))
            continue
        if cls is Whole:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                gradients(objective, graphs, next(iter(sampled(data))))
            continue
        with pytest.raises(InputError, match=r"Idle.backward: found no call of run in the step, .* call run\(loss\)"):
            gradients(objective, graphs, next(iter(sampled(data))))


def test_a_step_that_is_skipped_in_the_middle_of_a_training_is_no_error(make_data):
    data = make_data()

    class Guarded(Objective):
        skips = False

        def backward(self, terms, run):
            if not self.skips:
                super().backward(terms, run)

    objective = objective_of(Guarded, data)
    features, graph = unpack(data)
    graphs = features, objective.prepare(features, graph)
    batch = next(iter(sampled(data)))
    keys = objective.state_dict().keys()
    gradients(objective, graphs, batch)
    again = copy.deepcopy(objective)
    for model in (objective, again):
        model.zero_grad()
        model.skips = True
        gradients(model, graphs, batch)
        assert all(p.grad is None for p in model.parameters())
    assert objective.state_dict().keys() == keys


def test_a_backward_that_leaves_nothing_for_the_one_of_its_parent_is_no_error(make_data):
    data = make_data()

    class Rest(Objective):
        def backward(self, terms, run):
            if terms:
                super().backward(terms, run)

    class Child(Rest):
        def backward(self, terms, run):
            run(sum(terms.values()))
            super().backward({}, run)

    class Parent(ObjectiveWrapper):
        def backward(self, terms, run):
            run(sum(terms.values()))
            self.inner.backward({}, lambda loss: run(loss))

    for objective in (objective_of(Child, data), Parent(objective_of(Rest, data))):
        features, graph = unpack(data)
        gradients(objective, (features, objective.prepare(features, graph)), next(iter(sampled(data))))
        assert any(p.grad is not None for p in objective.parameters())


def test_a_wrapper_that_only_delegates_sets_no_gradients_aside():
    assert not hasattr(ObjectiveWrapper.backward, "__wrapped__")
    assert DifficultyCurriculum.backward is ObjectiveWrapper.backward
    assert hasattr(STRATEGIES["mmpareto"].backward, "__wrapped__")


class Edited(Objective):
    """Doubles its gradients."""

    def backward(self, terms, run):
        super().backward(terms, run)
        for p in self.parameters():
            if p.grad is not None:
                p.grad.mul_(2)


class Loop(nn.Module):
    """What a loop of one's own hands to DistributedDataParallel."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, features, graph, batch):
        return self.objective.loss(features, graph, batch)


def two_batches_of_this_process() -> dict[Any, dict[str, torch.Tensor]]:
    """Accumulate the gradients of two batches per process, with gradients in the buckets of the sums and apart."""
    data, found = planted_data(), {}
    edge_index, sizes = data[RATES].edge_index, (data["user"].num_nodes, data["item"].num_nodes)
    features, graph = unpack(data)
    for views in (True, False):
        torch.manual_seed(0)
        objective = Edited(VBPR.from_data(data, embedding_dim=4))
        graphs = features, objective.prepare(features, graph)
        model = DistributedDataParallel(Loop(objective), gradient_as_bucket_view=views)
        first, second, third, fourth, *_ = TripletSampler(edge_index, *sizes, batch_size=32, seed=5)
        for batch in (first, second) if dist.get_rank() == 0 else (third, fourth):
            objective.backward(model(*graphs, batch), lambda loss: loss.backward())
        found[views] = of(objective)
    torch.manual_seed(0)
    alone = Edited(VBPR.from_data(data, embedding_dim=4))
    for batch in (first, second, third, fourth):
        gradients(alone, graphs, batch)
    return {**found, "expected": {name: grad / 2 for name, grad in of(alone).items()}}


def test_processes_that_share_their_gradients_add_up_those_of_several_batches():
    for result in in_processes(two_batches_of_this_process):
        for views in (True, False):
            for name, grad in result["expected"].items():
                torch.testing.assert_close(result[views][name], grad, rtol=1e-4, atol=1e-6, msg=f"{views} {name}")
