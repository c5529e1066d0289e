"""Tables in arrays of any layout, and tables and modules that cannot be ranked, which are refused alike everywhere."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from pyg_ckd.data import Embeddings
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import Evaluator, estimate_effects, evaluate
from pyg_ckd.nn import as_backbone
from pyg_ckd.serving import Recommender, export_program
from pyg_ckd.training import Trainer

USER, ITEM = (np.random.default_rng(seed).normal(size=(size, 4)) for seed, size in ((0, 12), (1, 9)))

RANKS = {
    "evaluate": lambda tables, data: evaluate(tables, data, k=3),
    "recommender": Recommender,
}
USES = RANKS | {
    "fit": lambda model, data: Trainer(max_epochs=1, monitor="recall@3", progress=False).fit(model, data),
    "effects": lambda model, data: estimate_effects(model, data, k=3),
    "backbone": lambda model, data: as_backbone(model, data).prepare(
        {m: data["item"][m] for m in data.modalities}, data.edge_index_dict
    ),
}
every_rank = pytest.mark.parametrize("rank", RANKS.values(), ids=RANKS)
every_use = pytest.mark.parametrize("use", USES.values(), ids=USES)


class Module(nn.Module):
    """A module with two tables of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = (nn.Parameter(torch.from_numpy(x).float()) for x in (USER, ITEM))

    def forward(self, x_dict, edge_index):
        return self.user, self.item


def field(x, kind):
    """Return the same numbers as a field of an array whose rows are no multiple of a number apart."""
    rows = np.zeros(len(x), dtype=[("id", "i4"), ("values", kind, x.shape[1:])])
    rows["values"] = x
    return rows["values"]


def module(forward):
    return type("Own", (Module,), {"forward": forward})()


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[::-1].copy()[::-1],
        lambda x: x[:, ::-1].copy()[:, ::-1],
        lambda x: x.astype(">f8"),
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: x.astype(np.longdouble),
        lambda x: field(x, "<f8"),
        lambda x: field(x, ">f8"),
    ],
    ids=["rows turned", "columns turned", "big-endian", "by column", "every second", "long", "field", "big field"],
)
@pytest.mark.parametrize("kind", [lambda *pair: pair, Embeddings, lambda *pair: [*pair]], ids=["pair", "named", "list"])
def test_arrays_of_any_layout_are_ranked(change, kind, make_data):
    data = make_data()
    assert evaluate(kind(change(USER), change(ITEM)), data, k=3) == evaluate((USER, ITEM), data, k=3)
    found = Recommender(kind(change(USER), change(ITEM)), data).recommend(k=3)
    assert np.array_equal(found.items, Recommender((USER, ITEM), data).recommend(k=3).items)


def test_a_recommender_does_not_change_with_the_arrays_that_it_was_given(make_data):
    for user, item in ((USER.copy(), ITEM.copy()), (USER.astype(">f8"), ITEM[::-1])):
        recommender = Recommender((user, item), make_data())
        before = recommender.recommend(k=3).items.copy()
        user *= -1
        assert np.array_equal(recommender.recommend(k=3).items, before)


@every_rank
@pytest.mark.parametrize("kind", [lambda *pair: pair, Embeddings], ids=["pair", "named"])
@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr], ids=["coo", "csr"])
def test_sparse_tables_are_refused(rank, kind, change, make_data):
    tables = kind(*(change(torch.from_numpy(x)) for x in (USER, ITEM)))
    with pytest.raises(InputError, match=r"found sparse tensors, expected dense ones; pass table.to_dense\(\)"):
        rank(tables, make_data())


@every_rank
@pytest.mark.parametrize("dtype", [object, str, "M8[s]"])
def test_arrays_without_numbers_are_refused(rank, dtype, make_data):
    with pytest.raises(InputError, match=r"embeddings: found an array of .*, expected floating-point numbers"):
        rank((USER.astype(dtype), ITEM.astype(dtype)), make_data())


@every_rank
@pytest.mark.parametrize("kind", [lambda *pair: pair, Embeddings], ids=["pair", "named"])
def test_lists_are_refused(rank, kind, make_data):
    with pytest.raises(InputError, match=r"model: found \w+ of list and list, expected .*pair of tables"):
        rank(kind(USER.tolist(), ITEM.tolist()), make_data())


@pytest.mark.parametrize(("change", "found"), [(lambda x: x, "ndarray"), (lambda x: None, "NoneType")])
def test_an_evaluator_refuses_what_is_no_tensor(change, found, make_data):
    with pytest.raises(InputError, match=f"embeddings: found {found}, expected tensors"):
        Evaluator(make_data(), k=3)(Embeddings(change(USER), change(ITEM)))
    with pytest.raises(InputError, match="found sparse tensors"):
        Evaluator(make_data(), k=3)(Embeddings(*(torch.from_numpy(x).to_sparse() for x in (USER, ITEM))))


@every_use
@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda x: (10 * x).long(), "a table of torch.int64, expected .* floating-point numbers"),
        (lambda x: x.to(torch.complex64), "a table of torch.complex64, expected .* floating-point numbers"),
        (lambda x: x > 0, "a table of torch.bool, expected .* floating-point numbers"),
        (lambda x: x.to_sparse(), r"a sparse table, expected .* dense ones; use .to_dense\(\)"),
        (lambda x: x.detach().tolist(), "tuple of list, list, expected a pair"),
    ],
    ids=["integers", "complex", "truth values", "sparse", "lists"],
)
def test_modules_that_return_other_tables_are_refused(use, change, found, make_data):
    model = module(lambda self, x_dict, edge_index: (change(self.user), change(self.item)))
    with pytest.raises(InputError, match=rf"Own.forward returned {found}"):
        use(model, make_data())


def decorated(forward):
    """Return a forward that supplies an argument of another one."""

    @functools.wraps(forward)
    def inner(self, x_dict, edge_index):
        return forward(self, x_dict, edge_index, "view")

    return inner


def no_argument(self):
    return self.user, self.item


def one_argument(self, x_dict):
    return self.user, self.item


def three_arguments(self, x_dict, edge_index, view):
    return self.user, self.item


def by_name_alone(self, *, x_dict, edge_index):
    return self.user, self.item


@every_use
@pytest.mark.parametrize("forward", [no_argument, one_argument, three_arguments, by_name_alone])
def test_modules_with_other_arguments_are_refused_with_the_signature(use, forward, make_data):
    with pytest.raises(InputError, match=r"Own: found forward\(.*\), expected forward\(x_dict, edge_index\) -> \(user"):
        use(module(forward), make_data())


@every_use
def test_modules_without_forward_are_refused(use, make_data):
    with pytest.raises(InputError, match=r"Own: found no forward, expected forward\(x_dict, edge_index\)"):
        use(module(nn.Module.forward), make_data())


def test_programs_ask_for_the_same_arguments(make_data):
    with pytest.raises(InputError, match=r"Linear: found forward\(input.*, expected forward\(x_dict, edge_index\)"):
        export_program(nn.Linear(2, 2), make_data(), "never.pt2")


@every_use
@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x, e, n_id_dict=None: (self.user, self.item),
        lambda self, *args: (self.user, self.item),
        lambda self, x, e, **options: (self.user, self.item),
        decorated(lambda self, x, e, view: (self.user, self.item)),
        functools.singledispatchmethod(lambda self, x, e: (self.user, self.item)),
    ],
    ids=["third", "any", "options", "decorated", "dispatched"],
)
def test_modules_with_further_arguments_of_their_own_are_taken(use, forward, make_data):
    use(module(forward), make_data())


def test_hooks_and_calls_decide_what_forward_is_given(make_data):
    data = make_data()
    hooked = module(one_argument)
    hooked.register_forward_pre_hook(lambda module, args: args[:1])
    called = type(
        "Called", (Module,), {"__call__": lambda self, x, e: (self.user, self.item), "forward": no_argument}
    )()
    assert evaluate(hooked, data, k=3) == evaluate(called, data, k=3) == evaluate(Module(), data, k=3)


def test_errors_of_a_module_itself_are_shown_as_they_are(make_data):
    def forward(self, x_dict, edge_index):
        raise TypeError("its own")

    with pytest.raises(TypeError, match="its own"):
        evaluate(module(forward), make_data(), k=3)


@every_rank
@pytest.mark.parametrize("make", [tuple, lambda tables: Embeddings(*tables)], ids=["pair", "embeddings"])
def test_tables_without_memory_are_refused(rank, make, make_data):
    tables = make([torch.from_numpy(x).to("meta") for x in (USER, ITEM)])
    with pytest.raises(InputError, match=r"^embeddings: found tables on the meta device, which have no memory"):
        rank(tables, make_data(12, 9))


@every_rank
def test_models_without_memory_are_refused(rank, make_data):
    with pytest.raises(InputError, match=r"^model: found user of Module on the meta device, which has no memory"):
        rank(Module().to("meta"), make_data(12, 9))
