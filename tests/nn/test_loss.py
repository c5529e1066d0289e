"""Losses against their closed forms, written out in Python's own floating point."""

from __future__ import annotations

import math

import pytest
import torch

from pyg_ckd.nn import bpr_loss, l2_penalty, ranking_cross_entropy
from pyg_ckd.nn.loss import contrastive_loss, first_of_each

MARGINS = [-3.0, -0.2, 0.0, 1.5, 4.0]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("eps", [0.0, 1e-10, 0.1])
def test_bpr_is_the_mean_negative_log_sigmoid(eps):
    expected = sum(-math.log(eps + sigmoid(x)) for x in MARGINS) / len(MARGINS)
    assert bpr_loss(torch.tensor(MARGINS, dtype=torch.float64), eps).item() == pytest.approx(expected, abs=1e-12)


def test_bpr_and_its_gradient_are_finite_on_margins_that_saturate_the_sigmoid():
    margin = torch.tensor([-1e4, 1e4], dtype=torch.float64, requires_grad=True)
    loss = bpr_loss(margin)
    loss.backward()
    assert loss.item() == pytest.approx(1e4 / 2)
    assert margin.grad.tolist() == pytest.approx([-0.5, 0.0])


def test_l2_penalty_counts_repeated_rows_each_time():
    rows = [[1.0, 2.0], [1.0, 2.0], [0.0, -3.0]]
    expected = 2 * 0.5 * sum(x * x for row in rows for x in row) / 3
    assert l2_penalty(torch.tensor(rows), torch.tensor(rows)).item() == pytest.approx(expected)


def test_unsquared_penalty_is_the_frobenius_norm_over_the_number_of_triples():
    first, second = [[3.0, 4.0], [0.0, 0.0]], [[6.0, 0.0], [0.0, 8.0]]
    assert l2_penalty(torch.tensor(first), torch.tensor(second), squared=False).item() == pytest.approx((5 + 10) / 2)


@pytest.mark.parametrize("eps", [0.0, 1e-8])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_ranking_cross_entropy_equals_its_closed_form(temperature, eps):
    teacher, total = [2.0, -1.0, 0.3, 0.0, -4.0], 0.0
    for s, t in zip(MARGINS, teacher, strict=True):
        a, b = sigmoid(t / temperature), sigmoid(s / temperature)
        total -= a * math.log(b + eps) + (1 - a) * math.log(1 - b + eps)
    student, target = (torch.tensor(x, dtype=torch.float64) for x in (MARGINS, teacher))
    assert ranking_cross_entropy(student, target, temperature, eps).item() == pytest.approx(total / 5, abs=1e-12)


def test_ranking_cross_entropy_has_zero_gradient_exactly_where_student_and_teacher_agree():
    student = torch.tensor(MARGINS, dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([-3.0, 5.0, 0.0, -5.0, 4.0], dtype=torch.float64)
    ranking_cross_entropy(student, teacher, temperature=0.7).backward()
    assert (student.grad.abs() < 1e-12).tolist() == [True, False, True, False, True]


def test_log_eps_caps_a_saturated_term_and_stops_its_gradient():
    student = torch.tensor([-100.0], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([100.0], dtype=torch.float64)
    loss = ranking_cross_entropy(student, teacher, temperature=0.1, eps=1e-8)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1e-8))
    assert student.grad.item() == 0


def test_of_equal_ids_the_first_one_counts():
    assert first_of_each(torch.tensor([4, 2, 4, 4, 7, 2])).tolist() == [True, True, False, False, True, False]
    assert first_of_each(torch.tensor([], dtype=torch.long)).tolist() == []
    ids = torch.randint(300, (5000,))
    seen = set[int]()
    assert first_of_each(ids).tolist() == [i not in seen and not seen.add(i) for i in ids.tolist()]


def test_without_triples_and_rows_losses_are_zero_with_a_gradient():
    none, rows, ids = torch.empty(0, requires_grad=True), torch.empty(0, 3, requires_grad=True), torch.empty(0).long()
    for loss in (
        bpr_loss(none),
        ranking_cross_entropy(none, none.detach(), 0.5),
        ranking_cross_entropy(none, none.detach(), 0.5, known=none > 0),
        contrastive_loss(rows, rows * 2, 0.1),
        contrastive_loss(rows, rows * 2, 0.1, ids, normalize=False),
        contrastive_loss(rows, rows * 2, 0.1, known=ids > 0),
    ):
        assert loss.item() == 0
        loss.backward()
