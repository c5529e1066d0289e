"""Embeddings: margins and rows against single dot products."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from pyg_ckd.scoring.blocks import Block, BlockEmbeddings, Combination, Projection, with_sparse_gradient
from pyg_ckd.scoring.embeddings import DetailedEmbeddings, Embeddings
from pyg_ckd.scoring.rows import added_item_rows, item_rows, score_matrix

USER, PREFERRED, OTHER = torch.tensor([0, 3, 3, 1]), torch.tensor([2, 0, 0, 1]), torch.tensor([1, 4, 4, 1])


def tables() -> Embeddings:
    generator = torch.Generator().manual_seed(0)
    return Embeddings(*(torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (4, 5)))


def test_margin_is_the_difference_of_two_dot_products():
    out = tables()
    score = [[sum(float(a * b) for a, b in zip(u, i, strict=True)) for i in out.item] for u in out.user]
    expected = [score[u][i] - score[u][j] for u, i, j in zip(USER, PREFERRED, OTHER, strict=True)]
    assert out.margin(USER, PREFERRED, OTHER).tolist() == pytest.approx(expected)
    assert out.margin(USER, PREFERRED, OTHER)[-1] == 0  # An item against itself.


def test_gradient_of_margins_equals_finite_differences():
    out = tables()
    assert torch.autograd.gradcheck(
        lambda user, item: Embeddings(user, item).margin(USER, PREFERRED, OTHER),
        (out.user.requires_grad_(), out.item.requires_grad_()),
    )


def test_rows_repeat_as_often_as_they_are_asked_for():
    out = tables()
    rows = out.rows(USER, PREFERRED, OTHER)
    assert torch.equal(rows[0], out.user[USER])
    assert torch.equal(rows[1], out.item[PREFERRED])
    assert torch.equal(rows[2], out.item[OTHER])


def test_detached_tables_share_values_and_no_graph():
    out = Embeddings(*(x.requires_grad_() for x in tables()))
    detached = out.detach()
    assert not detached.user.requires_grad
    assert not detached.item.requires_grad
    assert torch.equal(torch.cat(detached), torch.cat(out))


def test_what_was_read_without_gradient_does_not_take_it_from_later_readers():
    user, item = torch.randn(3, 2, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    out = BlockEmbeddings([Block(user, item)])
    index = torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([0, 1])
    with torch.no_grad():
        before = out.margin(*index)
    assert out.margin(*index).requires_grad
    index[1][0] = 1  # In place: another list of items.
    assert not torch.equal(out.margin(*index), before)


TRAINING = (USER, PREFERRED, OTHER)
RANDOM = (torch.tensor([2, 2]), torch.tensor([4, 1]), torch.tensor([0, 3]))


def from_rows(user: torch.Tensor | None, item: torch.Tensor) -> list[torch.Tensor]:
    """Margins of both lists and the squared norm of the first one's rows, by plain indexing."""
    margins = []
    for u, i, j in (TRAINING, RANDOM):
        difference = item[i] - item[j]
        margins.append(difference if user is None else (user[u] * difference).sum(dim=-1))
    norm = item[PREFERRED].square().sum() + item[OTHER].square().sum()
    return [*margins, norm + (len(USER) if user is None else user[USER].square().sum())]


@pytest.mark.parametrize(
    "kind", ["columns", "columns of many items", "bias", "projected row by row", "projected whole"]
)
@pytest.mark.parametrize("used", [(0, 1, 2), (0,), (1,), (2,)])
def test_one_read_gives_the_values_and_gradients_of_plain_indexing(kind: str, used: tuple[int, ...]):
    user, item = tables()
    if kind == "columns of many items":
        item = torch.cat([item, torch.ones(9, 3, dtype=torch.float64)])
    feature = torch.randn(30 if kind == "projected row by row" else 5, 2, dtype=torch.float64)
    weight, bias = torch.randn(3, 2, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    leaves = [user, weight, bias] if kind.startswith("projected") else [user, item]
    leaves = [item[:, 0].clone()] if kind == "bias" else leaves
    leaves = [leaf.requires_grad_() for leaf in leaves]
    if kind.startswith("projected"):
        block, expected = Block(user, Projection(feature, weight, bias)), from_rows(user, feature @ weight.T + bias)
    else:
        pair = (None, leaves[0]) if kind == "bias" else (user, item)
        block, expected = Block(*pair), from_rows(*pair)
    found = [*block.margins(TRAINING, RANDOM), block.squared_norm(*TRAINING)]
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-12, rtol=0)
    scale = torch.tensor([1.5, -0.5, 2.0, 1.0], dtype=torch.float64)

    def loss(values: list[torch.Tensor]) -> torch.Tensor:
        return sum((values[k] * (scale[: len(values[k])] if values[k].dim() else 3.0)).sum() for k in used)

    for a, b in zip(
        torch.autograd.grad(loss(found), leaves, allow_unused=True),
        torch.autograd.grad(loss(expected), leaves, allow_unused=True),
        strict=True,
    ):
        zero = torch.zeros(())
        assert torch.allclose(zero if a is None else a, zero if b is None else b, atol=1e-12, rtol=0)


def test_what_was_read_with_gradient_serves_readers_without():
    block = Block(*(x.requires_grad_() for x in tables()))
    margin = block.margins(TRAINING)[0]
    with torch.no_grad():
        assert block.margins(TRAINING)[0] is margin


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_width_projections_have_gradients_of_their_own_width(dtype: torch.dtype):
    user = torch.randn(4, 3, requires_grad=True)
    item = torch.randn(5, 3).to(dtype).requires_grad_()
    block = Block(user, item)
    (block.margins(TRAINING, RANDOM)[1].sum() + block.squared_norm(*TRAINING)).backward()
    assert user.grad.dtype == torch.float32
    assert item.grad.dtype == dtype
    assert torch.isfinite(item.grad).all()


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("order", ["rows", "rows, then tables", "tables, then rows"])
def test_a_combination_gives_the_values_and_gradients_of_the_combined_tables(mean: bool, order: str) -> None:
    generator = torch.Generator().manual_seed(0)
    nodes = [torch.randn(20, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    triples = (USER[:3], PREFERRED[:3], OTHER[:3])

    def loss(user: Tensor | Combination, item: Tensor | Combination) -> Tensor:
        blocks = [Block(user, item), Block(user, item)]
        parts = {
            "rows": lambda: blocks[0].margins(triples)[0].square().sum() + 0.1 * blocks[0].squared_norm(*triples),
            "tables": lambda: cast(Tensor, blocks[1].user).cos().sum() + blocks[1].item.sin().sum(),
        }
        return torch.stack([parts[name]() for name in order.split(", then ")]).sum()

    def combined() -> tuple[Combination, Combination]:
        inner = [with_sparse_gradient(x * 2) for x in nodes]
        return Combination(inner, 0, 8, mean), Combination(inner, 8, 12, mean)

    expected = sum(2 * x for x in nodes) / (3 if mean else 1)
    wanted = loss(expected[:8], expected[8:])
    found = loss(*combined())
    torch.testing.assert_close(found, wanted)
    grads, wanted_grads = torch.autograd.grad(found, nodes), torch.autograd.grad(wanted, nodes)
    assert not any(grad.is_sparse for grad in grads)
    torch.testing.assert_close(grads, wanted_grads)


def test_a_combination_reads_rows_only_while_they_are_fewer_than_all():
    nodes = [torch.randn(9, 2, requires_grad=True) for _ in range(2)]
    columns = Combination([with_sparse_gradient(x) for x in nodes], 4, 5, mean=False)
    torch.testing.assert_close(columns.take(torch.tensor([1, 3, 3, 0])), (nodes[0] + nodes[1])[[5, 7, 7, 4]])
    assert columns.take(torch.arange(5)) is None
    torch.testing.assert_close(columns.table, (nodes[0] + nodes[1])[4:])
    assert columns.take(torch.tensor([1])) is None  # The table is there already.


ITEMS = torch.tensor([4, 0, 4, 2])


def test_item_rows_of_tables_are_zero_in_columns_in_which_all_items_agree():
    out = tables()
    fixed = torch.full((5, 1), 0.7, dtype=torch.float64) + 1e-9 * torch.arange(5).view(-1, 1)  # But for rounding.
    small = 1e-6 * out.item[:, :1]  # Small numbers differ as large ones do.
    item = torch.cat([out.item, fixed, torch.zeros(5, 1), small], dim=1).requires_grad_()
    rows = item_rows(Embeddings(torch.zeros(4, 6), item), ITEMS)
    expected = item.detach()[ITEMS]
    expected[:, 3:5] = 0
    assert torch.equal(rows.detach(), expected)
    rows.sum().backward()
    assert item.grad[:, 0].tolist() == [1, 0, 1, 0, 2]


@pytest.mark.parametrize("mode", ["tensor", "projection", "combination"])
def test_item_rows_of_blocks_leave_out_constant_ones_and_hold_the_bias(mode):
    out, bias = tables(), torch.arange(5.0, dtype=torch.float64)
    weight = torch.eye(3, dtype=torch.float64)
    item = {
        "tensor": out.item,
        "projection": Projection(out.item, weight, None),
        "combination": Combination([with_sparse_gradient(torch.cat(out))], 4, 5, False),
    }[mode]
    constant = Block(out.user, torch.ones(5, 2, dtype=torch.float64), constant=True)
    view = BlockEmbeddings([constant, Block(out.user, item), Block(None, bias)])
    expected = torch.cat([out.item, bias.unsqueeze(-1)], dim=1)[ITEMS]
    assert torch.allclose(item_rows(view, ITEMS), expected, rtol=0, atol=1e-12)
    assert item_rows(BlockEmbeddings([constant]), ITEMS).shape == (4, 0)


@pytest.mark.parametrize("sparse", [False, True])
def test_gradient_of_item_rows_is_sparse_where_that_of_the_table_is(sparse):
    out, bias = tables(), torch.zeros(5, dtype=torch.float64, requires_grad=True)
    item = out.item.requires_grad_()
    view = BlockEmbeddings([Block(out.user, item, sparse=sparse), Block(None, bias, sparse=sparse)])
    factor = torch.arange(16.0, dtype=torch.float64).view(4, 4)
    (item_rows(view, ITEMS) * factor).sum().backward()
    expected = torch.zeros(5, 4, dtype=torch.float64).index_add(0, ITEMS, factor)
    for grad, part in ((item.grad, expected[:, :3]), (bias.grad, expected[:, 3])):
        assert grad.is_sparse == sparse
        assert torch.equal(grad.to_dense() if sparse else grad, part)


def test_what_a_view_adds_to_another_leaves_shared_and_constant_blocks_out():
    out, bias = tables(), Block(None, torch.arange(5.0, dtype=torch.float64))
    ids, mean = Block(out.user, out.item), torch.ones(5, 3, dtype=torch.float64)
    factual, propagated = Block(out.user, 2 * out.item + 1), Block(out.user, out.item.flip(0))
    constant = Block(out.user, mean, constant=True)
    empty = BlockEmbeddings([ids, constant, propagated, bias])
    first = BlockEmbeddings([ids, factual, propagated, bias])
    assert torch.equal(added_item_rows(first, empty, ITEMS), (2 * out.item + 1)[ITEMS])
    second = BlockEmbeddings([ids, constant, factual, bias])
    assert torch.equal(added_item_rows(second, empty, ITEMS), (2 * out.item + 1 - out.item.flip(0))[ITEMS])
    assert added_item_rows(empty, empty, ITEMS).shape == (4, 0)
    both = BlockEmbeddings([ids, factual, factual, bias])
    assert added_item_rows(both, empty, ITEMS).shape == (4, 6)
    assert torch.equal(added_item_rows(both, empty, ITEMS, first), added_item_rows(first, empty, ITEMS))
    assert torch.equal(added_item_rows(out, Embeddings(out.user, mean), ITEMS), (out.item - 1)[ITEMS])


def test_scores_of_some_users_for_some_items_but_for_what_all_items_have():
    out, bias = tables(), torch.arange(5.0, dtype=torch.float64)
    users = torch.tensor([3, 1])
    constant = Block(out.user, torch.ones(5, 3, dtype=torch.float64), constant=True)
    weight = torch.eye(3, dtype=torch.float64)
    view = BlockEmbeddings([constant, Block(out.user, Projection(out.item, weight, None)), Block(None, bias)])
    expected = (out.user @ out.item.t())[users][:, ITEMS]
    assert torch.allclose(score_matrix(view, users, ITEMS), expected + bias[ITEMS], rtol=0, atol=1e-12)
    assert torch.allclose(score_matrix(out, users, ITEMS), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), lambda x: x._replace()]
)
def test_copies_have_the_parts(again: Callable[[Any], Any]):
    out = DetailedEmbeddings(*tables(), {"nodes": torch.arange(3.0)})
    out.n_id_dict = {"user": torch.tensor([2, 5])}
    found = again(out)
    assert type(found) is DetailedEmbeddings
    for mine, theirs in ((found, out), (found.parts.values(), out.parts.values())):
        assert all(map(torch.equal, mine, theirs))
    assert torch.equal(found.n_id_dict["user"], out.n_id_dict["user"])
    assert DetailedEmbeddings(*tables(), {}).n_id_dict == {}


def test_other_tables_keep_the_parts():
    out = DetailedEmbeddings(*tables(), {"nodes": torch.arange(3.0)})
    found = out._replace(user=out.user + 1)
    assert torch.equal(found.user, out.user + 1)
    assert found.item is out.item
    assert found.parts is out.parts
