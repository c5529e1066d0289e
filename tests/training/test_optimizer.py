"""Rows that a sparse gradient holds are moved as Adam over all rows would have moved them, at once or afterwards."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from pyg_ckd.balance import DistillationWrapper, Objective
from pyg_ckd.data.inputs import RATES, unpack
from pyg_ckd.data.sampler import TripletSampler
from pyg_ckd.nn import VBPR
from pyg_ckd.training import RowAdam, build
from pyg_ckd.training.run_file import CHECKPOINT_NAME
from tests.training.problem import ITEMS, USERS, planted_data, same_bits, teachers, trainer


def gradients(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    rows = torch.randint(7, (5,), generator=generator)  # Some twice.
    values = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    return torch.sparse_coo_tensor(rows[None], values, (7, 3), check_invariants=True), torch.randn(
        4, generator=generator
    ).double()


@pytest.mark.parametrize("fused", [False, True])
def test_rows_and_dense_parameters_move_as_adam_moves_them(fused):
    found = []
    for cls in (RowAdam, torch.optim.Adam):
        table, vector = (torch.nn.Parameter(torch.ones(*size, dtype=torch.float64)) for size in ((7, 3), (4,)))
        optimizer = cls([table, vector], lr=0.1, betas=(0.8, 0.9), eps=1e-12, fused=fused)
        for step in range(60):
            table.grad, vector.grad = gradients(step)
            table.grad = table.grad.to_dense() if cls is torch.optim.Adam else table.grad
            optimizer.step()
        if isinstance(optimizer, RowAdam):
            assert table.grad is not None
            assert table.grad.is_sparse  # Given back as it was.
            optimizer.settle()
        found.append((table.detach(), vector.detach()))
    (table, vector), (all_rows, other_vector) = found
    torch.testing.assert_close(vector, other_vector, rtol=1e-9, atol=1e-12)
    assert (table - all_rows).abs().max() < 0.01 * (all_rows - 1).abs().max()  # The first steps' corrections of bias.


def test_rows_move_exactly_as_adam_moves_them_once_the_corrections_of_bias_are_over():
    table = torch.nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
    other = copy.deepcopy(table)
    options: dict[str, Any] = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-14}
    ours, adam = RowAdam([table], **options), torch.optim.Adam([other], **options)
    generator = torch.Generator().manual_seed(0)
    for step in range(400):
        grad = torch.randn(2, 3, generator=generator, dtype=torch.float64)
        if step > 300:
            grad[0] = 0  # Not one gradient for a hundred steps,
            sparse = torch.sparse_coo_tensor(torch.tensor([[1]]), grad[1:], (2, 3), check_invariants=True)
        else:
            sparse = grad.to_sparse(1)
        if step == 399:  # and then one.
            grad = torch.ones_like(grad)
            sparse = grad.to_sparse(1)
        table.grad, other.grad = sparse, grad
        ours.step()
        adam.step()
    torch.testing.assert_close(table, other, rtol=1e-8, atol=1e-10)
    for name in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(ours.state[table][name], adam.state[other][name], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("last", [1, 10, 100])
@pytest.mark.parametrize("gap", [5, 400])
def test_a_row_that_was_last_seen_early_is_made_up_for_at_the_rate_of_that_time(last, gap):
    tables = [torch.nn.Parameter(torch.zeros(2, 1, dtype=torch.float64)) for _ in range(2)]
    ours, adam = RowAdam([tables[0]]), torch.optim.Adam([tables[1]])  # The usual betas, near one.
    for step in range(1, last + gap + 1):
        grad = torch.tensor([[1.0 if step <= last else 0.0], [1.0]], dtype=torch.float64)
        rows = torch.arange(2)[grad[:, 0] > 0]
        tables[0].grad = torch.sparse_coo_tensor(rows[None], grad[rows], (2, 1), check_invariants=True)
        tables[1].grad = grad
        ours.step()
        adam.step()
    ours.settle()
    moved = (tables[0] / tables[1])[0].item()
    assert moved == pytest.approx(1, abs=0.15 if last == 1 else 0.02)


def test_a_row_is_settled_once(monkeypatch):
    monkeypatch.setattr("pyg_ckd.training.optimizer.BLOCK", 2)
    table = torch.nn.Parameter(torch.zeros(7, 3, dtype=torch.float64))
    optimizer = RowAdam([table], lr=0.1)
    for step in range(4):
        table.grad, _ = gradients(step)
        optimizer.step()
    before = table.detach().clone()
    owed = optimizer.state[table]["last_step"] < 4
    optimizer.settle()
    after = table.detach().clone()
    assert torch.equal((before != after).any(dim=1), owed & (before != 0).any(dim=1))  # In all blocks.
    assert owed[2:].any()
    optimizer.settle()
    assert torch.equal(table, after)


def test_rows_go_on_from_a_saved_state_with_the_same_bits():
    tables = [torch.nn.Parameter(torch.zeros(7, 3, dtype=torch.float64)) for _ in range(2)]
    whole, broken = (RowAdam([table], lr=0.1) for table in tables)
    for step in range(6):
        if step == 3:
            state, broken = broken.state_dict(), RowAdam([tables[1]], lr=0.1)
            broken.load_state_dict(copy.deepcopy(state))
        for table, optimizer in zip(tables, (whole, broken), strict=True):
            table.grad, _ = gradients(step)
            optimizer.step()
    whole.settle()
    broken.settle()
    assert torch.equal(*tables)


def test_a_gradient_that_holds_all_rows_is_adams_epsilon_included():
    table = torch.nn.Parameter(torch.ones(7, 3, dtype=torch.float64))
    other = copy.deepcopy(table)
    ours, adam = (cls([p], lr=0.1, eps=0.1) for cls, p in ((RowAdam, table), (torch.optim.Adam, other)))
    for step in range(3):
        other.grad = torch.randn(7, 3, generator=torch.Generator().manual_seed(step)).double()
        table.grad = other.grad.to_sparse(1)
        ours.step()
        adam.step()
    torch.testing.assert_close(table, other, rtol=1e-9, atol=1e-12)


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


def test_a_dense_gradient_after_sparse_ones_finds_all_rows_settled():
    found = []
    for cls in (RowAdam, torch.optim.Adam):
        table = torch.nn.Parameter(torch.zeros(7, 3, dtype=torch.float64))
        optimizer = cls([table], lr=0.1, betas=(0.5, 0.9), eps=1e-12, fused=True)
        for step in range(60):
            grad, _ = gradients(step)
            table.grad = torch.ones(7, 3, dtype=torch.float64) if step % 4 == 3 else grad
            table.grad = table.grad.to_dense() if cls is torch.optim.Adam else table.grad
            optimizer.step()
        found.append(table.detach().clone())  # After a dense step, so that nothing is left to settle.
        if isinstance(optimizer, RowAdam):
            assert (optimizer.state[table]["last_step"] == 60).all()
            optimizer.settle()
            assert torch.equal(table, found[-1])
    assert (found[0] - found[1]).abs().max() < 0.01 * found[1].abs().max()


def test_the_trainer_settles_what_it_evaluates(tmp_path):
    data = planted_data()
    found = []
    for sparse in (False, True):
        folder = tmp_path / str(sparse)
        history = trainer(max_epochs=2, checkpoint_dir=folder).fit(Objective(build(VBPR, data, 0, sparse=sparse)), data)
        found.append(history.rows[-1]["loss/bpr"])
        state = torch.load(folder / CHECKPOINT_NAME, weights_only=True)["run"]["optimizer"]["state"]
        assert all(("last_step" in s) == (sparse and s["exp_avg"].size(0) in (USERS, ITEMS)) for s in state.values())
        assert all((s["last_step"] == s["step"]).all() for s in state.values() if "last_step" in s)
    assert found[0] == pytest.approx(found[1], rel=0.1)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_decay_is_that_of_adamw_where_gradients_hold_all_rows(sparse, fused):
    found = []
    for cls in (RowAdam, torch.optim.AdamW):
        table, rests = (torch.nn.Parameter(torch.ones(4, 3, dtype=torch.float64)) for _ in range(2))
        decay = {"decay" if cls is RowAdam else "weight_decay": 0.3}
        optimizer = cls([{"params": [table]}, {"params": [rests]}], lr=0.1, fused=fused, **decay)
        generator = torch.Generator().manual_seed(0)
        for _ in range(30):
            table.grad = torch.randn(4, 3, generator=generator, dtype=torch.float64)
            if sparse and cls is RowAdam:
                table.grad = table.grad.to_sparse(1)
            optimizer.step()
        assert rests.eq(1).all()  # Without any gradient.
        found.append(table.detach())
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_rows_without_a_gradient_decay_by_all_steps_when_they_are_made_up_for():
    found = []
    for cls in (RowAdam, torch.optim.AdamW):
        table = torch.nn.Parameter(torch.ones(7, 3, dtype=torch.float64))
        options = {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-12}
        optimizer = cls([table], **options, **{"decay" if cls is RowAdam else "weight_decay": 0.5})
        for step in range(60):
            grad, _ = gradients(step % 5)
            grad = torch.sparse_coo_tensor(grad._indices() % 6, grad._values(), (7, 3), check_invariants=True)
            table.grad = grad if cls is RowAdam else grad.to_dense()
            optimizer.step()
        if isinstance(optimizer, RowAdam):
            assert table[6].eq(1).all()  # Never read.
            optimizer.settle()
            optimizer.settle()  # Once.
        found.append(table.detach())
    torch.testing.assert_close(found[0][6], torch.full((3,), (1 - 0.005) ** 60, dtype=torch.float64))
    assert (found[0] - found[1]).abs().max() < 0.02 * (found[1] - 1).abs().max()


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


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (torch.zeros(7, 3, dtype=torch.bfloat16), {}, "float32 and float64 tables, found torch.bfloat16"),
        (torch.zeros(7, 3), {"betas": (0.99, 0.9)}, "expected the first below the square root of the second"),
    ],
    ids=["half width", "betas"],
)
def test_tables_and_betas_that_cannot_be_made_up_for_are_refused(table, options, message):
    table = torch.nn.Parameter(table)
    optimizer = RowAdam([table], **options)
    table.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), table.detach()[:1], (7, 3), check_invariants=True)
    with pytest.raises(RuntimeError, match=message):
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


def test_hooks_of_a_step_run_once_a_step():
    """PyTorch wraps the step of every class of which there is an object, and this one calls that of Adam."""
    table = torch.nn.Parameter(torch.ones(3, 2))
    torch.optim.Adam([table], lr=0.1)
    optimizer = RowAdam([table], lr=0.1)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    table.grad = torch.ones(3, 2)
    optimizer.step()
    assert calls == ["before", "after"]
    assert torch.allclose(table, torch.full((3, 2), 0.9))


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
