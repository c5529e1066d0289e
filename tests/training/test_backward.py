"""Gradients of a step are clipped as PyTorch clips dense ones."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning_fabric import Fabric

from pyg_ckd.training import RowAdam
from pyg_ckd.training.backward import clip_gradients
from tests.training.problem import planted_data, trainer
from tests.training.test_seam import Reads, vbpr


def with_gradients() -> list[torch.nn.Parameter]:
    table, vector, frozen = (torch.nn.Parameter(torch.ones(*size)) for size in ((7, 3), (4,), (2,)))
    rows = torch.tensor([[1, 5, 1]])  # One of them twice.
    table.grad = torch.sparse_coo_tensor(rows, torch.arange(9.0).view(3, 3), (7, 3), check_invariants=True)
    vector.grad = torch.linspace(-1, 1, 4)
    return [table, vector, frozen]


@pytest.mark.parametrize("most", [0.5, 1e6])
def test_the_norm_is_over_dense_and_sparse_gradients_together(most):
    parameters, others = with_gradients(), copy.deepcopy(with_gradients())
    for p, given in zip(others, parameters, strict=True):
        p.grad = None if given.grad is None else given.grad.to_dense() if given.grad.is_sparse else given.grad.clone()
    clip_gradients(Fabric(accelerator="cpu"), RowAdam(parameters), most)
    torch.nn.utils.clip_grad_norm_(others, most)
    for p, other in zip(parameters[:2], others, strict=False):
        torch.testing.assert_close(p.grad.to_dense() if p.grad.is_sparse else p.grad, other.grad, rtol=1e-5, atol=1e-7)
    assert parameters[0].grad.is_sparse
    assert parameters[2].grad is None


def test_gradients_that_are_all_zero_stay_so():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.zeros(3)
    clip_gradients(Fabric(accelerator="cpu"), RowAdam([p]), 1.0)
    assert p.grad.tolist() == [0.0] * 3


@pytest.mark.parametrize("sparse", [False, True])
def test_a_training_steps_with_clipped_gradients_and_waits_for_no_number(sparse):
    norms: list[float] = []
    reads: list[int] = []

    class SGD(torch.optim.SGD):
        def step(self, closure=None):
            grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            norms.append(
                float(torch.stack([g.coalesce()._values().norm() if g.is_sparse else g.norm() for g in grads]).norm())
            )
            return super().step(closure)

    data = planted_data()
    options = {"max_epochs": 1, "optimizer": lambda groups: SGD(groups, lr=1.0)}
    for most in (None, 1e-3):
        with Reads() as found:
            trainer(**options, clip_norm=most).fit(vbpr(data, sparse=sparse), data)
        reads.append(len(found.found))
    unclipped, clipped = norms[:4], norms[4:]
    assert min(unclipped) > 1e-3
    assert clipped == pytest.approx([1e-3] * 4, rel=1e-4)
    assert reads[0] == reads[1]


def test_scaled_gradients_are_clipped_by_their_true_norm():
    fabric, (parameters, others) = Fabric(accelerator="cpu"), (with_gradients(), with_gradients())
    clip_gradients(fabric, RowAdam(others), 0.5)
    scaler = fabric.strategy.precision.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for p in parameters[:2]:
        p.grad = p.grad * scaler.scale(torch.ones(()))
    optimizer = RowAdam(parameters)
    clip_gradients(fabric, optimizer, 0.5)
    for p, other in zip(parameters[:2], others, strict=False):
        torch.testing.assert_close(p.grad.to_dense(), other.grad.to_dense())
    scaler.step(optimizer)  # Does not unscale again.
    torch.testing.assert_close(parameters[1].grad, others[1].grad)
