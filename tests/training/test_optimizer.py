"""Rows that a sparse gradient holds are moved as SparseAdam moves them, dense parameters as Adam moves them."""

from __future__ import annotations

import copy

import pytest
import torch

from pyg_ckd.balance import DistillationWrapper, Objective
from pyg_ckd.data.inputs import RATES, unpack
from pyg_ckd.data.sampler import TripletSampler
from pyg_ckd.nn import VBPR
from pyg_ckd.training import RowAdam, build
from tests.training.problem import ITEMS, USERS, planted_data, same_bits, teachers, trainer


def gradients(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    rows = torch.randint(7, (5,), generator=generator)  # Some twice.
    values = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    return torch.sparse_coo_tensor(rows[None], values, (7, 3), check_invariants=True), torch.randn(
        4, generator=generator
    ).double()


@pytest.mark.parametrize("fused", [False, True])
def test_rows_and_dense_parameters_move_as_torchs_own_optimisers_move_them(fused):
    table, vector = (torch.nn.Parameter(torch.ones(*size, dtype=torch.float64)) for size in ((7, 3), (4,)))
    other_table, other_vector = copy.deepcopy(table), copy.deepcopy(vector)
    ours = RowAdam([table, vector], lr=0.1, betas=(0.8, 0.9), eps=1e-12, fused=fused)
    rows = torch.optim.SparseAdam([other_table], lr=0.1, betas=(0.8, 0.9), eps=1e-12)
    dense = torch.optim.Adam([other_vector], lr=0.1, betas=(0.8, 0.9), eps=1e-12)
    for step in range(4):
        for t, v in ((table, vector), (other_table, other_vector)):
            t.grad, v.grad = gradients(step)
        ours.step()
        rows.step()
        dense.step()
        assert table.grad is not None
        assert table.grad.is_sparse  # Given back as it was.
    torch.testing.assert_close(table, other_table, rtol=1e-9, atol=0)
    torch.testing.assert_close(vector, other_vector, rtol=1e-9, atol=0)


def test_a_gradient_that_holds_all_rows_is_adams_epsilon_included():
    table = torch.nn.Parameter(torch.ones(7, 3, dtype=torch.float64))
    other = copy.deepcopy(table)
    ours, adam = (cls([p], lr=0.1, eps=0.1) for cls, p in ((RowAdam, table), (torch.optim.Adam, other)))
    for step in range(3):
        other.grad = torch.randn(7, 3, generator=torch.Generator().manual_seed(step)).double()
        table.grad = other.grad.to_sparse(1)
        ours.step()
        adam.step()
    torch.testing.assert_close(table, other, rtol=1e-9, atol=0)


def test_a_row_that_no_gradient_holds_keeps_its_bits():
    table = torch.nn.Parameter(torch.randn(7, 3, dtype=torch.float64))
    optimizer, touched, before = RowAdam([table]), set(), table.detach().clone()
    for step in range(2):
        table.grad, _ = gradients(step)
        touched |= set(table.grad.coalesce().indices()[0].tolist())
        optimizer.step()
    for row in range(7):
        assert torch.equal(table[row], before[row]) == (row not in touched)
    assert 0 < len(touched) < 7


def test_a_dense_gradient_after_a_sparse_one_moves_all_rows():
    table = torch.nn.Parameter(torch.zeros(7, 3, dtype=torch.float64))
    optimizer = RowAdam([table], lr=0.1, fused=True)
    table.grad, _ = gradients(0)
    optimizer.step()
    table.grad = torch.ones(7, 3, dtype=torch.float64)
    optimizer.step()
    assert (table != 0).all()
    assert optimizer.state[table]["step"] == 2


@pytest.mark.parametrize("option", [{"weight_decay": 0.1}, {"amsgrad": True}, {"maximize": True}], ids=str)
def test_options_that_dense_gradients_alone_have_are_refused(option):
    table = torch.nn.Parameter(torch.zeros(7, 3, dtype=torch.float64))
    vector = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = RowAdam([table, vector], **option)
    table.grad, vector.grad = gradients(0)
    with pytest.raises(RuntimeError, match="sparse gradients without weight_decay, amsgrad and maximize"):
        optimizer.step()
    assert (vector == 0).all()  # Nothing has moved,
    assert table.grad is not None  # and nothing is lost.


def test_a_gradient_of_single_elements_is_refused():
    table = torch.nn.Parameter(torch.zeros(7, 3))
    optimizer = RowAdam([table])
    table.grad = torch.eye(7, 3).to_sparse()
    with pytest.raises(RuntimeError, match="whole rows, found 2 sparse dimensions"):
        optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
def test_a_scaler_of_gradients_changes_nothing_and_skips_a_step_that_is_not_finite(fused):
    found = []
    for scale in (1.0, 1024.0):
        table, vector = torch.nn.Parameter(torch.zeros(7, 3)), torch.nn.Parameter(torch.zeros(4))
        optimizer = RowAdam([table, vector], lr=0.1, eps=1.0, fused=fused)  # This epsilon makes the scale show.
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for factor in (1.0, float("inf")):
            optimizer.zero_grad()
            rows = torch.nn.functional.embedding(torch.tensor([2, 2, 5]), table, sparse=True)
            scaler.scale(factor * (rows.sum() + vector.sum())).backward()
            scaler.step(optimizer)
            scaler.update()
        found.append([table, vector])
    assert (found[0][0][2] < 0).all()
    torch.testing.assert_close(found[0], found[1])


def test_a_closure_is_called_with_gradients_and_its_loss_returned():
    table = torch.nn.Parameter(torch.ones(7, 3))
    optimizer = RowAdam([table], lr=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.embedding(torch.tensor([2]), table, sparse=True).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 3.0
    assert (table[2] != 1).all()
    assert (table[:2] == 1).all()


@pytest.mark.parametrize("distil", [False, True])
@pytest.mark.parametrize("options", [{}, {"fusion": "sum"}, {"item_bias": False}], ids=str)
def test_sparse_gradients_of_vbpr_are_the_dense_ones_and_hold_the_rows_of_the_batch(distil, options):
    data = planted_data()
    features, edges = unpack(data)
    grads = []
    for sparse in (False, True):
        student = build(VBPR, data, 0, embedding_dim=4, sparse=sparse, **options)
        objective = DistillationWrapper(student, teachers(), num_random_triples=20) if distil else Objective(student)
        batch = next(iter(TripletSampler(edges[RATES], USERS, ITEMS, 6, objective.num_random_triples, 0)))
        torch.stack(list(objective.loss(features, objective.prepare(features, edges), batch).values())).sum().backward()
        grads.append({name: p.grad for name, p in objective.named_parameters()})
    for name, dense in grads[0].items():
        found = grads[1][name]
        assert found.is_sparse == ("project" not in name)
        torch.testing.assert_close(found.to_dense() if found.is_sparse else found, dense)
    named = grads[1]["student.user_embedding"].coalesce().indices()[0]
    assert set(named.tolist()) >= set(batch.user.tolist())
    assert len(named) < USERS


def test_training_on_rows_learns_repeats_itself_and_goes_on_after_a_break(tmp_path):
    data = planted_data()

    def model() -> VBPR:
        return build(VBPR, data, 0, embedding_dim=8, sparse=True)

    whole, again, broken = model(), model(), model()
    history = trainer(max_epochs=12).fit(whole, data)
    assert history.frame["loss/bpr"].iloc[-1] < 0.7 * history.frame["loss/bpr"].iloc[0]
    trainer(max_epochs=12).fit(again, data)
    for epochs in (5, 12):
        broken = model()
        trainer(max_epochs=epochs, checkpoint_dir=tmp_path).fit(broken, data)
    assert same_bits(whole.state_dict(), again.state_dict())
    assert same_bits(whole.state_dict(), broken.state_dict())
