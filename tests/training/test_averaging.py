"""Averages of weights against plain arithmetic, and what a training makes of them."""

from __future__ import annotations

import pytest
import torch

from pyg_ckd.data.inputs import held_out
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import evaluate
from pyg_ckd.training import WeightAverage
from tests.training.problem import planted_data, same_bits, trainer
from tests.training.test_seam import vbpr


def test_the_average_is_that_of_plain_arithmetic_and_the_weights_come_back():
    p, frozen = torch.nn.Parameter(torch.ones(2, dtype=torch.float64)), torch.nn.Parameter(torch.ones(1))
    average = WeightAverage([p, frozen.requires_grad_(False)], decay=0.5)
    expected = 1.0
    for step in range(1, 40):
        with torch.no_grad():
            p.fill_(float(step))
        average.update()
        decay = min(0.5, step / (step + 9))
        expected = decay * expected + (1 - decay) * step
    with average.applied():
        assert p.tolist() == pytest.approx([expected] * 2)
    assert p.tolist() == [39.0, 39.0]


class Follows:
    """Averages the weights after every step on its own."""

    def __init__(self, decay):
        self.decay, self.average, self.steps, self.own = decay, None, 0, None

    def on_fit_start(self, pl_module):
        self.average = {k: v.clone().double() for k, v in pl_module.state_dict().items()}

    def on_train_batch_end(self, pl_module):
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 9))
        self.own = {k: v.clone() for k, v in pl_module.state_dict().items()}
        for name, value in self.own.items():
            self.average[name] = decay * self.average[name] + (1 - decay) * value.double()


@pytest.mark.parametrize("validates", [True, False])
def test_the_result_is_the_average_and_what_was_validated(validates):
    data = planted_data()
    if not validates:
        data["user", "rates", "item"].val_edge_index = held_out(data, "val")[:, :0]
    model, plain, follows = vbpr(data), vbpr(data), Follows(0.9)
    options = {"max_epochs": 5, "lr": 0.1, "eval_every": 5}  # One evaluation, hence the best.
    history = trainer(**options, averaging=0.9, callbacks=follows).fit(model, data)
    for name, value in model.state_dict().items():
        expected = follows.average[f"student.{name}"]
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-6)
    if validates:
        assert evaluate(model, data, "val", k=5)["recall@5"] == history.best_value
    trainer(**options).fit(plain, data)  # The steps themselves are those of plain training.
    assert same_bits(plain.state_dict(), {k.removeprefix("student."): v for k, v in follows.own.items()})
    assert not same_bits(plain.state_dict(), model.state_dict())


class Breaks:
    """Lets the gradients of the last step overflow."""

    def __init__(self):
        self.last = False

    def on_train_batch_start(self, epoch, batch_idx):
        self.last = epoch == 2 and batch_idx == 3

    def on_before_optimizer_step(self, optimizer):
        if self.last:
            next(p for group in optimizer.param_groups for p in group["params"]).grad.fill_(torch.inf)


@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_weights_that_the_last_step_broke_are_refused_without_a_validation_part(averaging):
    data = planted_data()
    data["user", "rates", "item"].val_edge_index = held_out(data, "val")[:, :0]
    options = {"max_epochs": 2, "averaging": averaging, "callbacks": Breaks()}
    with pytest.raises(InputError, match=r"diverged in epoch 2: student\.\S+ has values that are not finite; lower lr"):
        trainer(**options).fit(vbpr(data), data)
