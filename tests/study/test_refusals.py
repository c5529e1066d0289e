"""Values of knobs that no trial can have are refused before a search begins, and no others."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from pyg_ckd.balance import Objective
from pyg_ckd.errors import InputError
from pyg_ckd.nn import BM3, FISM, VBPR
from pyg_ckd.study import Contender
from pyg_ckd.study.knobs import space_of
from pyg_ckd.study.refusals import COMBINATIONS, check_space
from pyg_ckd.training import Trainer
from tests.training.problem import planted_data

DATA = planted_data()
RANKING = {"trainer.ranking": ["bpr", "softmax"]}


def check(knobs: dict[str, Any], backbone=VBPR, **trainer: Any) -> None:
    base = Contender(Objective, {}, {}, {"batch_size": 64, **trainer})
    check_space("plain", base, backbone, space_of("plain", base, backbone, knobs), DATA)


def accepted(**trainer: Any) -> bool:
    try:
        Trainer(**trainer)
    except InputError:
        return False
    return True


@pytest.mark.parametrize("size", [2, 3])
def test_a_value_is_refused_if_and_only_if_no_combination_with_it_is_accepted(size):
    for negatives in itertools.combinations(["uniform", "popularity", "hard"], size):
        expected = all(any(accepted(ranking=r, negatives=n) for n in negatives) for r in ("bpr", "softmax"))
        expected &= all(any(accepted(ranking=r, negatives=n) for r in ("bpr", "softmax")) for n in negatives)
        if expected:
            check({**RANKING, "trainer.negatives": list(negatives)})
            continue
        with pytest.raises(InputError, match=r"plain: knob trainer\.ranking at softmax: found no values of the other"):
            check({**RANKING, "trainer.negatives": list(negatives)})


def test_a_value_that_is_refused_beside_a_default_alone_is_accepted():
    given = {"negatives": "popularity"}
    with pytest.raises(InputError, match=r"plain: knob trainer\.ranking at softmax: num_negatives: found none beside"):
        check(RANKING, **given)
    check({**RANKING, "trainer.num_negatives": [4, 16]}, **given)


@pytest.mark.parametrize(
    ("first", "given"),
    [
        ({"trainer.negatives": ["hard", "uniform"], **RANKING}, {"negatives": "hard"}),
        ({**RANKING, "trainer.negatives": ["uniform", "hard"]}, {"ranking": "softmax"}),
    ],
)
def test_a_value_that_goes_with_one_other_is_accepted_however_many_knobs_there_are(first, given):
    many = {"trainer.lr": (1e-3, 1e-1), "trainer.weight_decay": (0.0, 0.1), "strategy.l2": (0.0, 1.0)}
    many |= {"trainer.averaging": [0.0, 0.5, 0.9], "trainer.clip_norm": [0.1, 1, 10]}
    many |= {"trainer.patience": [10, 20, 30], "model.embedding_dim": [4, 8], "trainer.num_negatives": [4, 16]}
    check({**first, **many}, **given)


class Divided(VBPR):
    """A backbone of one's own with sizes that must fit each other."""

    def __init__(self, num_users, num_items, feature_dims, embedding_dim: int = 30, heads: int = 3):
        if embedding_dim % heads:
            raise InputError(f"heads: found {heads}, expected a divisor of {embedding_dim}")
        super().__init__(num_users, num_items, feature_dims, embedding_dim)


def test_a_value_that_goes_with_some_of_a_range_is_accepted():
    check({"model.heads": [3, 5], "model.embedding_dim": (33, 63)}, Divided)
    with pytest.raises(InputError, match=r"knob model\.heads at 5: found no values of the other knobs"):
        check({"model.heads": [3, 5], "model.embedding_dim": [33, 66]}, Divided)


def test_a_bad_value_is_refused_by_its_own_name_however_many_knobs_there_are():
    many = {f"trainer.{name}": ends for name, ends in (("lr", (1e-3, 1e-1)), ("weight_decay", (0.0, 0.1)))}
    many |= {
        "trainer.averaging": [0.0, 0.5, 0.9],
        "trainer.schedule": ["constant", "cosine"],
        "strategy.l2": (0.0, 1.0),
    }
    many |= {"trainer.clip_norm": [0.1, 1, 10], "trainer.patience": [10, 20, 30]}
    assert COMBINATIONS < 2**5 * 3**3
    check({**many, "model.embedding_dim": [4, 8]})
    with pytest.raises(InputError, match=r"plain: knob model\.embedding_dim at 0: embedding_dim: found 0"):
        check({**many, "model.embedding_dim": [0, 8]})
    with pytest.raises(InputError, match=r"plain: knob trainer\.clip_norm at -1\.0: clip_norm: found -1\.0"):
        check({**many, "trainer.clip_norm": [-1, 1]})


@pytest.mark.parametrize("backbone", [FISM, BM3])
def test_the_softmax_is_no_value_for_a_backbone_with_losses_of_its_own(backbone):
    message = (
        rf"plain: knob trainer\.ranking at softmax: ranking: found 'softmax' for {backbone.__name__}, which trains"
    )
    with pytest.raises(InputError, match=message):
        check(RANKING, backbone)
    with pytest.raises(InputError, match=rf"^plain: ranking: found 'softmax' for {backbone.__name__}"):
        check({"trainer.lr": (1e-3, 1e-1)}, backbone, ranking="softmax")
