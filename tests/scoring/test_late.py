"""Tables that are computed for the rows alone that a step reads."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from pyg_ckd.scoring.blocks import BlockEmbeddings
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.late import LateBlock, Selection, Selections, compute_tables

FIRST = (torch.tensor([7, 2, 7]), torch.tensor([1, 1, 8]), torch.tensor([4, 8, 9]))
SECOND = (torch.tensor([2, 3]), torch.tensor([0, 1]), torch.tensor([9, 9]))


class Counted:
    """Two tables that count how often they and rows of them are asked for."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.user, self.item = (
            torch.randn(n, 3, generator=generator, dtype=torch.float64).requires_grad_() for n in (40, 30)
        )
        self.tables, self.rows = 0, 0
        self.selections = Selections(40, 30)

    def block(self) -> LateBlock:
        return LateBlock(self._tables, self._rows, self.selections)

    def _tables(self) -> Embeddings:
        self.tables += 1
        return Embeddings(self.user * 2, self.item * 2)

    def _rows(self, found: Selection) -> Embeddings:
        self.rows += 1
        return Embeddings(self.user[found.user] * 2, self.item[found.item] * 2)


def test_a_selection_holds_every_row_once_and_renumbers():
    found = Selection(torch.cat([FIRST[0], SECOND[0]]), torch.cat([*FIRST[1:], *SECOND[1:]]), 40, 30)
    assert found.user.tolist() == [2, 3, 7]
    assert found.item.tolist() == [0, 1, 4, 8, 9]
    user, first, second = found.renumber(FIRST)
    assert torch.equal(found.user[user], FIRST[0])
    assert torch.equal(found.item[first], FIRST[1])
    assert torch.equal(found.item[second], FIRST[2])
    assert found.renumber(FIRST)[0] is user
    assert found.places(torch.tensor([2]), torch.tensor([5])) is None


def test_margins_and_norms_of_rows_are_those_of_tables():
    late, whole = Counted(), Counted()
    out, tables = BlockEmbeddings([late.block()]), BlockEmbeddings([whole.block()])
    compute_tables(tables)
    values, expected = ([*x.margins(FIRST, SECOND), x.squared_norm(*FIRST)] for x in (out, tables))
    assert_close(values, expected, rtol=0, atol=1e-12)
    for x, counted in ((values, late), (expected, whole)):
        torch.stack([part.square().sum() for part in x]).sum().backward()
        assert counted.user.grad is not None
    assert_close(late.user.grad, whole.user.grad, rtol=0, atol=1e-12)
    assert_close(late.item.grad, whole.item.grad, rtol=0, atol=1e-12)
    assert (late.tables, late.rows, whole.tables, whole.rows) == (0, 1, 1, 0)


def test_what_was_read_serves_shorter_lists_and_rows_of_items():
    counted = Counted()
    out = BlockEmbeddings([counted.block()])
    out.margins(FIRST, SECOND)
    out.margin(*SECOND)
    assert torch.equal(out.item_rows(torch.tensor([9, 0])), counted.item[[9, 0]] * 2)
    assert (counted.tables, counted.rows) == (0, 1)


def test_views_share_a_selection_without_gradients_as_with_them():
    counted = Counted()
    blocks = [BlockEmbeddings([counted.block()]) for _ in range(2)]
    blocks[0].margins(FIRST)
    with torch.no_grad():
        blocks[1].margins(FIRST)
    margins = blocks[1].margins(FIRST)  # The rows were computed with gradients.
    assert margins[0].requires_grad
    assert len(counted.selections._found) == 1
    assert counted.rows == 2


def test_tables_are_computed_where_somebody_asks_for_other_rows_or_nearly_all():
    counted = Counted()
    out = BlockEmbeddings([counted.block()])
    assert torch.equal(out.item_rows(torch.tensor([5])), counted.item[[5]] * 2)
    out.margins(FIRST)  # The tables are there.
    assert (counted.tables, counted.rows) == (1, 0)

    counted = Counted()
    everybody = (torch.arange(40), torch.arange(40) % 30, torch.arange(40) % 29)
    for out in (BlockEmbeddings([counted.block()]), BlockEmbeddings([counted.block()])):
        out.margins(everybody)
        out.margins(FIRST)
    assert (counted.tables, counted.rows) == (2, 0)


def test_rows_that_do_not_exist_are_refused():
    with pytest.raises(IndexError, match="found row 30 of a table of 30 rows"):
        BlockEmbeddings([Counted().block()]).margin(FIRST[0], FIRST[1], torch.tensor([4, 8, 30]))
