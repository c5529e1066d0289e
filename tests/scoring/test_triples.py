"""Sorted triples: the margins and gradients of plain indexing, sorted once for all tables of a step."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from pyg_ckd import DistillationWrapper
from pyg_ckd.data import RATES, TripletBatch
from pyg_ckd.nn import VBPR
from pyg_ckd.scoring import triples as module
from pyg_ckd.scoring.blocks import Block, Deferred
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.margins import read_margins
from pyg_ckd.scoring.triples import Triples, shared_triples

USERS, ITEMS = 40, 30


def draw(count: int, seed: int = 0) -> Triples:
    """Triples of all users and items but the first two and the last two, some of them several times."""
    generator = torch.Generator().manual_seed(seed)
    user, first, second = (torch.randint(2, n - 2, (count,), generator=generator) for n in (USERS, ITEMS, ITEMS))
    return user, first, second


def tables(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    user, item = (torch.randn(n, 5, generator=generator, dtype=dtype).requires_grad_() for n in (USERS, ITEMS))
    return user, item


def plain(user: Tensor, item: Tensor, lists: list[Triples]) -> tuple[list[Tensor], Tensor]:
    """Margins and the squared norm of the first list's rows by plain indexing."""
    u, i, j = lists[0]
    margins = [(user[u] * (item[i] - item[j])).sum(dim=-1) for u, i, j in lists]
    return margins, user[u].square().sum() + item[i].square().sum() + item[j].square().sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("counts", [(100,), (7, 80), (0, 60), (60, 0)])
def test_values_and_gradients_are_those_of_plain_indexing(counts, norm, dtype):
    user, item = tables(dtype)
    lists = [draw(count, seed) for seed, count in enumerate(counts)]
    found = read_margins(user, item, lists, norm=norm)
    margins, squared_norm = plain(user, item, lists)
    tolerance = {"atol": 1e-12, "rtol": 0} if dtype == torch.float64 else {"atol": 1e-4, "rtol": 1e-6}
    torch.testing.assert_close(list(found.margins), margins, **tolerance)
    torch.testing.assert_close(found.squared_norm, squared_norm if norm else torch.zeros((), dtype=dtype), **tolerance)
    losses = (
        sum(m.sin().sum() for m in part) + 0.1 * n
        for part, n in ((found.margins, found.squared_norm), (margins, squared_norm * norm))
    )
    found_grads, grads = (torch.autograd.grad(loss, (user, item)) for loss in losses)
    torch.testing.assert_close(found_grads, grads, **tolerance)
    for grad in found_grads:
        assert torch.equal(grad[[0, 1, -2, -1]], torch.zeros(4, 5, dtype=dtype))


@pytest.mark.parametrize("asked", [0, 1])
def test_a_gradient_comes_to_the_table_that_asks_for_it(asked):
    both, lists = tables(), [draw(50)]
    pair = [x if k == asked else x.detach() for k, x in enumerate(both)]
    read_margins(*pair, lists, norm=False).margins[0].square().sum().backward()
    expected = plain(*both, lists)[0][0].square().sum()
    torch.testing.assert_close(both[asked].grad, torch.autograd.grad(expected, both)[asked])
    assert both[1 - asked].grad is None


def test_the_norm_alone_has_a_gradient():
    user, item = tables()
    lists = [draw(50)]
    grads = torch.autograd.grad(read_margins(user, item, lists).squared_norm, (user, item))
    torch.testing.assert_close(grads, torch.autograd.grad(plain(user, item, lists)[1], (user, item)))


def test_tables_may_be_parts_of_others():
    whole = torch.randn(2, USERS, 10, dtype=torch.float64)
    user, lists = whole[0, :, ::2], [draw(80)]
    for item in (
        whole[1, :ITEMS, 1::2],
        torch.randn(5, ITEMS, dtype=torch.float64).t(),
        torch.ones(1, 5).double().expand(ITEMS, 5),
    ):
        pair = user.requires_grad_(), item.requires_grad_()
        found, expected = read_margins(*pair, lists, norm=False).margins[0], plain(*pair, lists)[0][0]
        torch.testing.assert_close(found, expected)
        scale = torch.linspace(-1, 1, 80, dtype=torch.float64)
        grads = [torch.autograd.grad(part @ scale, pair) for part in (found, expected)]
        torch.testing.assert_close(*grads)


@pytest.fixture(name="count_sorts")
def _count_sorts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts: list[int] = []

    class Counted(module.SortedTriples):
        def __init__(self, lists, *sizes):
            counts.append(sum(t[0].numel() for t in lists))
            super().__init__(lists, *sizes)

    monkeypatch.setattr(module, "SortedTriples", Counted)
    return counts


def test_one_sort_serves_all_tables_of_a_step(count_sorts):
    training, random = draw(20), draw(40, seed=1)
    with shared_triples():
        for _ in range(3):
            Embeddings(*tables()).margins(training, random)
            Block(*tables()).margins(training, random)
            Embeddings(*tables(torch.float32)).margins(training, random)
    assert count_sorts == [60]


def test_outside_a_step_nothing_is_remembered(count_sorts):
    user, item = tables()
    lists = [draw(50)]
    for _ in range(2):
        read_margins(user, item, lists)
    with shared_triples():
        read_margins(user, item, lists)
    with shared_triples():
        read_margins(user, item, lists)
    assert count_sorts == [50] * 4


def test_triples_that_were_changed_are_sorted_anew(count_sorts):
    user, item = tables()
    lists = [draw(50)]
    with shared_triples():
        before = read_margins(user, item, lists, norm=False).margins[0]
        lists[0][1].copy_(lists[0][2])
        after = read_margins(user, item, lists, norm=False).margins[0]
    assert count_sorts == [50, 50]
    assert before.abs().max() > 0
    assert torch.equal(after, torch.zeros_like(after))


def test_triples_that_are_gone_leave_nothing_to_those_that_get_their_place():
    user, item = (x.detach() for x in tables())
    lists: list = [None]
    with shared_triples():
        for seed in range(50):
            lists[0] = None  # Frees the tensors, so that the next ones may get their ids.
            lists[0] = draw(50, seed)
            found = read_margins(user, item, lists, norm=False).margins[0]
            torch.testing.assert_close(found, plain(user, item, lists)[0][0])


def test_a_step_of_distillation_sorts_once(count_sorts):
    generator = torch.Generator().manual_seed(0)
    features = {m: torch.randn(ITEMS, 3, generator=generator) for m in ("v", "t")}
    student = VBPR(USERS, ITEMS, dict.fromkeys(features, 3), embedding_dim=2)
    teachers = {m: Embeddings(*(x.detach() for x in tables(torch.float32))) for m in features}
    wrapper = DistillationWrapper(student, teachers, num_random_triples=40)
    batch = TripletBatch(*draw(30), *draw(40, seed=1))
    loss = wrapper.loss(features, {RATES: torch.stack(draw(30)[:2])}, batch)
    assert sum(loss.values()).isfinite()
    assert count_sorts == [70]


def test_ids_of_32_bits_do_not_overflow():
    user, item, count = torch.randn(70_000, 2), torch.randn(10, 2), 40_000
    generator = torch.Generator().manual_seed(0)
    lists = [tuple(torch.randint(n, (count,), generator=generator) for n in (70_000, 10, 10))]
    narrow = [tuple(x.int() for x in lists[0])]
    assert 70_000 << 16 > 2**31
    found = read_margins(user, item, narrow, norm=False).margins[0]
    torch.testing.assert_close(found, plain(user, item, lists)[0][0])


def test_compiled_code_reads_margins_too():
    user, item = tables()
    lists = [draw(50)]
    read = torch.compile(
        lambda user, item: Embeddings(user, item).margins(*lists)[0].sum(), backend="eager", fullgraph=True
    )
    torch.testing.assert_close(read(user, item), plain(user, item, lists)[0][0].sum())


@pytest.mark.parametrize("kind", ["few reads", "more triples than pairs", "one item", "half width", "two widths"])
def test_where_sorting_does_not_pay_or_fit_rows_are_read_one_by_one(kind, count_sorts):
    user, item = (x.detach() for x in tables(torch.float32))
    count = {"few reads": (USERS + ITEMS) // 4 - 1, "more triples than pairs": USERS * ITEMS // 2 + 1}.get(kind, 50)
    lists = [draw(count)]
    if kind == "one item":
        item, lists = item[:1], [(lists[0][0], *[torch.zeros(count, dtype=torch.int64)] * 2)]
    if kind == "half width":
        user, item = user.bfloat16(), item.bfloat16()
    if kind == "two widths":
        item = item.double()
    expected = plain(user.double(), item.double(), lists)[0][0]
    found = read_margins(user, item, lists, norm=False).margins[0]
    torch.testing.assert_close(found.double(), expected, atol=0.1 if kind == "half width" else 1e-5, rtol=0)
    assert count_sorts == []


@pytest.mark.parametrize("wrong", [-1, None])
@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("count", [(USERS + ITEMS) // 4 - 1, 100], ids=["row by row", "sorted"])
def test_a_row_that_is_not_there_is_an_error(count, which, wrong):
    lists = [draw(count)]
    lists[0][which][3] = (USERS, ITEMS, ITEMS)[which] if wrong is None else wrong
    with pytest.raises(IndexError):
        read_margins(*(x.detach() for x in tables()), lists, norm=False)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 1000])
def test_order_is_that_of_a_stable_sort(count):
    ids = torch.randint(7, (count,), generator=torch.Generator().manual_seed(count))
    assert module.order_of(ids).tolist() == ids.sort(stable=True)[1].tolist()


@pytest.mark.parametrize("norm", [True, False])
def test_triples_of_inference_mode_can_be_trained_on(norm):
    user, item = tables()
    lists = [draw(50), draw(10, seed=1)]
    with torch.inference_mode():
        inner = [tuple(x.clone() for x in t) for t in lists]
    with shared_triples():
        found = read_margins(user, item, inner, norm=norm)
    (found.margins[0].sum() + found.squared_norm).backward()
    assert user.grad.isfinite().all()
    torch.testing.assert_close(found.margins[1], plain(user, item, lists)[0][1])


def test_deferred_tables_are_computed_once_when_somebody_asks():
    calls = []
    weight = torch.ones(2, requires_grad=True)

    def compute() -> Embeddings:
        calls.append(1)
        return Embeddings(torch.arange(6.0).view(3, 2) * weight, torch.ones(4, 2))

    with torch.no_grad():
        columns = Deferred(compute)
    block = Block(columns.user, columns.item, constant=True)
    assert calls == []
    rows = block.rows(torch.tensor([2, 0]), torch.tensor([1]))
    assert rows[0].tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert not rows[0].requires_grad  # As when the tables were promised.
    assert block.user is block.user
    assert columns.user.take(torch.tensor([1])) is None
    assert calls == [1]


def test_no_remark_about_sparse_matrices_reaches_the_user():
    code = (
        "import warnings, torch\n"
        "with warnings.catch_warnings(record=True) as found:\n"
        "    warnings.simplefilter('always')\n"
        "    from pyg_ckd.scoring.sparse import csr_matrix\n"
        "    csr_matrix(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), 1)\n"
        "print(sum('parse' in str(w.message) for w in found))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "0"
