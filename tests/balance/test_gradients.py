"""Gradients by modality and by term against autograd, dense, sparse, and under a scale as of ``16-mixed``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pyg_ckd.balance import Objective
from pyg_ckd.balance.gradients import (
    SHARED,
    assign,
    combine,
    edit,
    gate,
    inner_product,
    only,
    parameter_groups,
    per_term,
)
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from pyg_ckd.scoring.views import unimodal_views
from pyg_ckd.training.optimizer import RowAdam
from tests.nn.models.zoo import built, doubled, every_multimodal_backbone

NOTHING = torch.zeros(0, dtype=torch.int64)
BATCH = TripletBatch(*torch.tensor([(0, 1, 2), (3, 0, 4), (3, 0, 4)]).t(), NOTHING, NOTHING, NOTHING)


class Multitask(Objective):
    """BPR of every uni-modal view, and a number that depends on nothing."""

    @property
    def views(self):
        return [self.view, *unimodal_views(self.modalities).values()]

    def balance(self, out, batch):
        terms = {
            f"alone/{m}": -out[view].margin(batch.user, batch.positive, batch.negative).mean()
            for m, view in unimodal_views(self.modalities).items()
        }
        return terms | {"constant": torch.ones((), dtype=torch.float64)}


def make(make_data, sparse: bool = False) -> tuple[Multitask, dict[str, Tensor]]:
    data = make_data()
    student = built(lambda data: VBPR.from_data(data, embedding_dim=4, sparse=sparse), data)
    objective = Multitask(student, l2=0.1)
    return objective, objective.loss(*doubled(data), BATCH)


def backward(loss: Tensor, retain_graph: bool = False) -> None:
    loss.backward(retain_graph=retain_graph)


def dense(grad: Tensor | None) -> Tensor | None:
    return grad.to_dense() if grad is not None and grad.is_sparse else grad


def test_groups_hold_every_trained_parameter_once_and_those_of_the_objective_are_shared(make_data):
    objective, _ = make(make_data)
    objective.head = nn.Parameter(torch.zeros(2))
    objective.student.item_bias.requires_grad_(False)
    groups = parameter_groups(objective)
    assert list(groups) == ["mod0", "mod1", SHARED]
    names = {id(p): name for name, p in objective.named_parameters()}
    found = {group: {names[id(p)] for p in own} for group, own in groups.items()}
    for m in ("mod0", "mod1"):
        assert found[m] == {
            f"student.{name}" for name in (f"preference.{m}", f"project.{m}.weight", f"project.{m}.bias")
        }
    assert found[SHARED] == {"head", "student.user_embedding", "student.item_embedding"}
    assert parameter_groups(objective.student)[SHARED] == [p for p in groups[SHARED] if p is not objective.head]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kept", ["mod0", ["mod1"], [], ["mod0", "mod1"]])
def test_gradients_of_other_modalities_become_none(kept, shared, make_data):
    objective, terms = make(make_data)
    sum(terms.values()).backward()
    before = {name: p.grad.clone() for name, p in objective.named_parameters()}
    only(objective.student, kept, shared)
    names = [kept] if isinstance(kept, str) else kept
    for name, p in objective.named_parameters():
        own = [m for m in objective.modalities if f".{m}" in name]
        if own[0] in names if own else shared:
            assert torch.equal(p.grad, before[name])
        else:
            assert p.grad is None


def test_unknown_modality_is_refused_and_nothing_changes(make_data):
    objective, terms = make(make_data)
    sum(terms.values()).backward()
    with pytest.raises(InputError, match="unknown modality 'mod2': did you mean"):
        only(objective.student, ["mod0", "mod2"])
    assert all(p.grad is not None for p in objective.parameters())


def test_adam_leaves_parameters_and_moments_alone_where_a_zero_would_move_both(make_data):
    objective, terms = make(make_data)
    adam = RowAdam(objective.parameters(), lr=0.1)
    sum(terms.values()).backward(retain_graph=True)
    adam.step()
    frozen = objective.student.preference["mod1"]
    value, moment = frozen.detach().clone(), adam.state[frozen]["exp_avg"].clone()
    only(objective.student, "mod0")
    adam.step()
    assert torch.equal(frozen, value)
    assert torch.equal(adam.state[frozen]["exp_avg"], moment)
    frozen.grad = torch.zeros_like(frozen)
    adam.step()
    assert not torch.equal(frozen, value)
    assert not torch.equal(adam.state[frozen]["exp_avg"], moment)


@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_of_every_term_equal_those_of_autograd(sparse, make_data):
    objective, terms = make(make_data, sparse)
    groups = parameter_groups(objective)
    found = per_term(terms, groups, backward, retain_graph=True)
    assert found.keys() == terms.keys() == {"bpr", "l2", "alone/mod0", "alone/mod1", "constant"}
    kinds = set()
    for name, term in terms.items():
        for group, parameters in groups.items():
            assert len(found[name][group]) == len(parameters)
            for p, grad in zip(parameters, found[name][group], strict=True):
                if name == "constant":
                    assert grad is None
                    continue
                objective.zero_grad(set_to_none=True)
                term.backward(retain_graph=True)
                assert (p.grad is None) == (grad is None)
                if grad is not None:
                    kinds.add(grad.is_sparse)
                    assert torch.allclose(dense(p.grad), dense(grad), rtol=0, atol=1e-12)
    assert kinds == {False, True} if sparse else kinds == {False}
    # In VBPR a uni-modal view reaches no parameter of another modality but through its mean, which moves no margin.
    assert all(g is None or not dense(g).any() for g in found["alone/mod0"]["mod1"])


def test_gradients_that_were_there_stay_and_the_graph_is_freed_in_the_end(make_data):
    objective, terms = make(make_data)
    kept = {p: torch.ones_like(p) for p in list(objective.parameters())[::2]}
    for p, grad in kept.items():
        p.grad = grad
    per_term(terms, objective.student.modality_parameters, backward)
    for p in objective.parameters():
        assert p.grad is kept.get(p)
    assert all(torch.equal(grad, torch.ones_like(p)) for p, grad in kept.items())
    with pytest.raises(RuntimeError, match="second time"):
        terms["l2"].backward()


def test_gradients_that_were_there_stay_when_a_pass_fails(make_data):
    objective, terms = make(make_data)
    p = objective.student.user_embedding
    p.grad = mine = torch.ones_like(p)

    def broken(loss: Tensor, retain_graph: bool = False) -> None:
        loss.backward(retain_graph=retain_graph)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        per_term(terms, parameter_groups(objective), broken)
    assert p.grad is mine


def test_a_scaler_of_gradients_gives_all_terms_the_same_factor(make_data):
    objective, terms = make(make_data)
    groups = parameter_groups(objective)
    plain = per_term(terms, groups, backward, retain_graph=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scaled = per_term(terms, groups, lambda loss, retain_graph: scaler.scale(loss).backward(retain_graph=retain_graph))
    for name in terms:
        for group in groups:
            for a, b in zip(plain[name][group], scaled[name][group], strict=True):
                assert (a is None and b is None) or torch.equal(2.0**16 * a, b)  # A power of two: no rounding.
    of = [scaled[name][SHARED] for name in ("bpr", "l2")]
    cosine = inner_product(*of) / (inner_product(of[0], of[0]) * inner_product(of[1], of[1])).sqrt()
    of = [plain[name][SHARED] for name in ("bpr", "l2")]
    expected = inner_product(*of) / (inner_product(of[0], of[0]) * inner_product(of[1], of[1])).sqrt()
    assert float(cosine) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_of_terms_put_together_again_are_those_of_the_sum(sparse, make_data):
    objective, terms = make(make_data, sparse)
    groups = parameter_groups(objective)
    found = per_term(terms, groups, backward, retain_graph=True)
    for group, parameters in groups.items():
        assign(parameters, combine([found[name][group] for name in terms], [1.0] * len(terms)))
    got = {p: dense(p.grad) for p in objective.parameters()}
    objective.zero_grad(set_to_none=True)
    sum(terms.values()).backward()
    for p, grad in got.items():
        assert torch.allclose(grad, dense(p.grad), rtol=0, atol=1e-12)


@every_multimodal_backbone
def test_on_every_backbone_one_pass_per_term_gives_what_one_pass_over_the_sum_gives(make, make_data):
    data = make_data(modalities=3)
    objective = Multitask(built(make, data), l2=0.1)
    features, graph = doubled(data)
    graphs = objective.begin_epoch(features, objective.prepare(features, graph))
    terms = objective.loss(features, graphs, BATCH)
    groups = parameter_groups(objective)
    found = per_term(terms, groups, backward, retain_graph=True)
    assert all(p.grad is None for p in objective.parameters())
    sum(terms.values()).backward()
    for group, parameters in groups.items():
        for p, grad in zip(parameters, combine([found[name][group] for name in terms], [1] * len(terms)), strict=True):
            assert (p.grad is None) == (grad is None)
            if grad is not None:
                torch.testing.assert_close(grad, p.grad, rtol=0, atol=1e-9)


def rows(index: list[int], values: list[float], size: int = 4) -> Tensor:
    """A sparse gradient of a table with two columns, in which a row may occur twice."""
    value = torch.tensor(values, dtype=torch.float64).unsqueeze(-1) * torch.tensor([1.0, -2.0], dtype=torch.float64)
    return torch.sparse_coo_tensor(torch.tensor([index], dtype=torch.int64), value, (size, 2), check_invariants=True)


FIRST, SECOND, EMPTY = rows([3, 0, 3], [1.0, 2.0, 4.0]), rows([0, 1], [3.0, 5.0]), rows([], [])
DENSE = torch.arange(8, dtype=torch.float64).view(4, 2)


@pytest.mark.parametrize(
    "first", [FIRST, SECOND, EMPTY, DENSE, None], ids=["first", "second", "empty", "dense", "none"]
)
@pytest.mark.parametrize(
    "second", [FIRST, SECOND, EMPTY, DENSE, None], ids=["first", "second", "empty", "dense", "none"]
)
def test_sums_and_inner_products_of_any_kinds_equal_those_of_dense_tables(first, second):
    a, b = (torch.zeros(4, 2, dtype=torch.float64) if g is None else dense(g) for g in (first, second))
    assert float(inner_product([first, DENSE], [second, DENSE])) == pytest.approx(
        float((a * b).sum() + DENSE.square().sum()), abs=1e-12
    )
    (total,) = combine([[first], [second]], [2.0, torch.tensor(-3.0)])
    if first is None and second is None:
        assert total is None
        assert float(inner_product([first], [second])) == 0
    else:
        assert torch.allclose(dense(total), 2 * a - 3 * b, rtol=0, atol=1e-12)
        given = [g for g in (first, second) if g is not None]
        assert total.is_sparse == all(g.is_sparse for g in given)


def test_inner_product_is_summed_in_double_precision():
    big, small = torch.tensor([1e8, 1.0, -1e8]), torch.ones(3)
    assert float(inner_product([big], [small])) == 1.0


def parameter(grad: Tensor | None) -> nn.Parameter:
    p = nn.Parameter(torch.zeros(4, 2, dtype=torch.float64))
    p.grad = None if grad is None else grad.clone()
    return p


def test_a_function_edits_dense_gradients_and_the_rows_of_sparse_ones():
    parameters = [parameter(grad) for grad in (DENSE, FIRST, EMPTY, None)]
    seen = []

    def fn(grad: Tensor) -> Tensor:
        seen.append(grad.shape)
        return grad / grad.abs().max() if grad.numel() else grad

    edit(parameters, fn)
    assert seen == [(4, 2), (2, 2), (0, 2)]  # The row that occurs twice is one.
    assert torch.equal(parameters[0].grad, DENSE / 7)
    assert parameters[1].grad.is_sparse
    assert torch.equal(parameters[1].grad.to_dense(), dense(FIRST) / 10)
    assert not parameters[2].grad.to_dense().any()
    assert parameters[3].grad is None


def test_a_function_may_work_in_place_or_take_a_gradient_away():
    first, second = parameter(DENSE), parameter(FIRST)
    edit([first, second], lambda grad: grad.mul_(3))
    assert torch.equal(first.grad, 3 * DENSE)
    assert torch.equal(second.grad.to_dense(), 3 * dense(FIRST))
    edit([first, second], lambda grad: None)
    assert first.grad is None
    assert second.grad is None


def test_an_edited_sparse_gradient_moves_the_rows_that_it_holds():
    p = parameter(FIRST)
    adam = RowAdam([p], lr=0.1)
    edit([p], lambda grad: -grad)
    adam.step()
    assert (p != 0).any(dim=1).tolist() == [True, False, False, True]
    assert p[0, 0] > 0


def test_gradients_of_other_kinds_and_results_of_other_shapes_are_refused_in_one_line():
    p = parameter(DENSE)
    with pytest.raises(
        InputError, match=r"gradient of shape \[1, 2\] of one of shape \[4, 2\], expected the same shape"
    ):
        edit([p], lambda grad: grad[:1])
    p.grad = DENSE.to_sparse()  # Single numbers, not rows.
    with pytest.raises(
        InputError, match="found 2 sparse dimensions, expected a dense gradient or a sparse one of whole"
    ):
        edit([p], lambda grad: grad)
    with pytest.raises(InputError, match=r"found torch\.sparse_csr, expected a dense gradient"):
        inner_product([DENSE.to_sparse_csr()], [DENSE])


def test_a_gate_keeps_the_value_and_multiplies_the_gradient():
    x = torch.randn(5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    factor = torch.tensor([0.0, 0.5, 1.0, 2.0, -1.0], requires_grad=True)
    out = gate(x, factor)
    assert torch.equal(out, x)
    out.square().sum().backward()
    assert torch.equal(x.grad, factor.detach() * 2 * x.detach())
    assert factor.grad is None
    assert torch.equal(gate(x, 0.3), x)
