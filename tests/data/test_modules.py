"""What is done with any module: modes in evaluation, also of several threads."""

from __future__ import annotations

import copy
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from pyg_ckd import evaluate
from pyg_ckd.data import modules
from pyg_ckd.data.modules import evaluating
from pyg_ckd.nn import FISM


def modes(model: nn.Module) -> list[bool]:
    return [part.training for part in model.modules()]


def model() -> nn.Sequential:
    made = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout()))
    made[0].training = False
    return made


@pytest.mark.parametrize("inner", [lambda m: m, lambda m: m[1]], ids=["same", "part"])
@pytest.mark.parametrize("first_out", [0, 1])
def test_modes_come_back_after_the_last_block(inner, first_out: int) -> None:
    whole = model()
    before = modes(whole)
    blocks = [evaluating(whole), evaluating(inner(whole))]
    for block in blocks:
        block.__enter__()
        assert not any(modes(whole))
    blocks.pop(first_out).__exit__(None, None, None)
    assert not any(modes(inner(whole)))
    blocks.pop().__exit__(None, None, None)
    assert modes(whole) == before


def test_modes_come_back_after_an_error_and_copies_know_nothing_of_blocks() -> None:
    whole = model()
    before = modes(whole)
    copies: list[nn.Module] = []

    def fail() -> None:
        with evaluating(whole):
            copies.extend([copy.deepcopy(whole), pickle.loads(pickle.dumps(whole))])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert modes(whole) == before
    for one in copies:
        one.train()
        with evaluating(one):
            assert not any(modes(one))
        assert all(modes(one))


def test_several_threads_evaluate_one_model_as_one_does(make_data) -> None:
    data = make_data(30, 20)
    torch.manual_seed(0)
    backbone = FISM.from_data(data, embedding_dim=8).train()
    alone = evaluate(backbone, data, k=5, metrics="recall")
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: evaluate(backbone, data, k=5, metrics="recall"), range(24)))
    assert found == [alone] * 24
    assert all(modes(backbone))


def test_a_block_inside_another_evaluates_what_was_put_into_training_mode_between() -> None:
    whole = model()
    with evaluating(whole):
        whole.train()
        with evaluating(whole):
            assert not any(modes(whole))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_knows_nothing_of_blocks_of_other_threads() -> None:
    with modules._LOCK, evaluating(model()):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if not modules._EVALUATED and modules._LOCK.acquire(timeout=1) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
