"""Models as people bring them: plain, wrapped, compiled, in double precision, with lazy layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.testing import assert_close
from torch_geometric.nn import SAGEConv

from pyg_ckd import DistillationWrapper, Objective, Trainer, as_backbone, estimate_effects, evaluate, train_teachers
from pyg_ckd.data import Embeddings, unpack
from pyg_ckd.data.inputs import RATES, embed
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import Evaluator
from pyg_ckd.nn import VBPR, AdaptedBackbone
from pyg_ckd.serving import Recommender
from pyg_ckd.training.model import load_model, save_model
from pyg_ckd.wrappers import unwrap, unwrapped_state
from tests.nn.models.zoo import Toy, built, doubled, every_backbone, every_multimodal_backbone

USES: dict[str, Callable[[Any, Any], Any]] = {
    "evaluate": lambda model, data: dict(evaluate(model, data, k=3)),
    "evaluate a view": lambda model, data: dict(evaluate(model, data, k=3, view="mod1")),
    "estimate_effects": lambda model, data: (
        estimate_effects(model, data, k=3, num_bootstrap=5).table.fillna(-1.0).to_dict()
    ),
    "recommend": lambda model, data: Recommender(model, data).recommend(k=3).items.tolist(),
    "explain": lambda model, data: Recommender(model, data).explain([0, 1], 2).shares.tolist(),
    "embed": lambda model, data: [x.tolist() for x in embed(model, data, [["mod0"]])[0]],
}
every_use = pytest.mark.parametrize("use", USES.values(), ids=USES.keys())


def trainer(**options: Any) -> Trainer:
    return Trainer(**{"max_epochs": 2, "batch_size": 16, "monitor": "recall@3", "progress": False} | options)


def toy(data: Any, seed: int = 0) -> Toy:
    torch.manual_seed(seed)
    return Toy(data["user"].num_nodes, {m: data["item"][m].size(1) for m in data.modalities})


def vbpr(data: Any, seed: int = 0) -> VBPR:
    torch.manual_seed(seed)
    return VBPR.from_data(data, embedding_dim=4)


def fabric(model: nn.Module) -> nn.Module:
    from lightning_fabric import Fabric

    return Fabric(accelerator="cpu", devices=1).setup(model)


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": torch.compile,
    "data parallel": nn.DataParallel,
    "averaged": AveragedModel,
    "fabric": fabric,
    "compiled and data parallel": lambda model: nn.DataParallel(torch.compile(model)),
    "data parallel and compiled": lambda model: torch.compile(nn.DataParallel(model)),
    "fabric and compiled": lambda model: torch.compile(fabric(model)),
}
every_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())


@every_use
def test_a_plain_module_is_used_as_its_adapted_backbone_is(use, make_data):
    data = make_data(modalities=3)
    module = toy(data)
    assert use(module, data) == use(as_backbone(toy(data), data), data)
    assert module.training  # It comes back as it was.


def test_a_plain_module_is_intervened_on_from_outside(make_data):
    data = make_data()
    module = toy(data)
    features, graph = unpack(data)
    features["mod1"] = features["mod1"].mean(dim=0).repeat(9, 1)
    with torch.no_grad():
        expected = module(features, graph[RATES])
    assert_close(embed(module, data, "mod0")[0], Embeddings(*expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("wrong", [lambda x, e: x, lambda x, e: (x["mod0"], x["mod0"])], ids=["dict", "shapes"])
def test_a_module_that_returns_something_else_is_named(wrong, make_data):
    class Wrong(nn.Module):
        def forward(self, x_dict, edge_index):
            return wrong(x_dict, edge_index)

    data = make_data()
    with pytest.raises(
        InputError, match=r"^Wrong.forward returned .+, expected a pair \(user \[12, D\], item \[9, D\]\)"
    ):
        evaluate(Wrong(), data, k=3)


@pytest.mark.parametrize("as_given", [torch.as_tensor, np.asarray], ids=["tensors", "arrays"])
def test_a_pair_of_tables_is_a_model(as_given, make_data):
    data = make_data()
    tables = embed(vbpr(data), data)[0]
    pair = tuple(as_given(table) for table in tables)
    assert evaluate(pair, data, k=3) == evaluate(tables, data, k=3)
    assert evaluate((pair[0], tables.item.double()), data, k=3) == evaluate(tables, data, k=3)
    assert np.array_equal(Recommender(pair, data).recommend(k=3).items, Recommender(tables, data).recommend(k=3).items)


def test_lazily_computed_embeddings_are_tables(make_data):
    data = make_data()
    model = vbpr(data)
    with torch.no_grad():
        out = model.outputs(*unpack(data), [None])[0]
    assert evaluate(out, data, k=3) == evaluate(model, data, k=3)


@pytest.mark.parametrize("wrong", [3, "model.pt", None, (1, 2), torch.ones(2, 2), VBPR])
def test_what_is_no_model_is_refused(wrong, make_data):
    with pytest.raises(InputError, match=r"^model: found \w+( of int and int)?, expected a backbone"):
        evaluate(wrong, make_data(), k=3)


@pytest.mark.parametrize("shapes", [((11, 4), (9, 4)), ((12, 4), (8, 4)), ((12, 4), (9, 3)), ((12,), (9,))], ids=str)
def test_tables_of_other_sizes_are_refused(shapes, make_data):
    data = make_data()
    with pytest.raises(InputError, match=r"embeddings: found shapes? .+, expected \[12, D\] and \[9, D\]"):
        Evaluator(data, "test", k=[3])(Embeddings(*(torch.ones(shape) for shape in shapes)))


@every_wrapper
@every_use
def test_a_wrapped_backbone_is_used_as_the_one_inside(wrap, use, make_data):
    data = make_data()
    assert use(wrap(vbpr(data)), data) == use(vbpr(data), data)


@every_wrapper
@pytest.mark.parametrize("make", [vbpr, toy, lambda data: Objective(vbpr(data))], ids=["own", "plain", "objective"])
def test_a_wrapped_model_is_trained_as_the_one_inside(wrap, make, make_data):
    data = make_data()
    plain, wrapped = make(data), make(data)
    outer = wrap(wrapped)
    rows = trainer().fit(outer, data).rows
    assert rows == trainer().fit(plain, data).rows
    inner = unwrap(outer)
    assert all(map(torch.equal, inner.parameters(), plain.parameters()))


@every_wrapper
def test_wrapped_students_and_backbones_of_teachers_are_unwrapped(wrap, make_data):
    data = make_data()
    teachers = train_teachers(lambda data: wrap(vbpr(data)), data, trainer(), use_cache=False)
    expected = train_teachers(vbpr, data, trainer(), use_cache=False)
    for m in data.modalities:
        assert_close(teachers[m], expected[m], atol=0, rtol=0)
    for student in (wrap(vbpr(data)), wrap(as_backbone(wrap(toy(data)), data))):
        objective = DistillationWrapper(student, teachers, num_random_triples=5)
        assert not any("module.module" in name or "_orig_mod" in name for name in objective.state_dict())
        trainer(max_epochs=1).fit(wrap(objective), data)
        assert objective.modalities == ("mod0", "mod1")


def test_a_model_of_several_processes_is_used_as_the_one_inside(make_data, tmp_path):
    data = make_data()
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        outer = nn.parallel.DistributedDataParallel(vbpr(data))
    finally:
        torch.distributed.destroy_process_group()
    assert unwrap(torch.compile(outer)) is outer.module
    assert evaluate(outer, data, k=3) == evaluate(vbpr(data), data, k=3)
    stored, again = outer.state_dict(), vbpr(data, 1)
    again.load_state_dict(stored)
    assert all(map(torch.equal, again.parameters(), outer.module.parameters()))


@every_wrapper
def test_a_wrapped_model_is_written_under_its_own_names(wrap, make_data, tmp_path):
    data = make_data()
    save_model(tmp_path / "model.pt", wrap(vbpr(data)), data)
    again = load_model(tmp_path / "model.pt", data)
    assert all(torch.equal(value, vbpr(data).state_dict()[name]) for name, value in again.state_dict().items())


@every_wrapper
@pytest.mark.parametrize(
    "make", [vbpr, lambda data, *seed: as_backbone(toy(data, *seed), data)], ids=["own", "adapted"]
)
def test_weights_that_were_stored_from_a_wrapped_model_are_read(wrap, make, make_data):
    data = make_data()
    stored = wrap(make(data)).state_dict()
    for model in (make(data, 1), Objective(make(data, 1))):
        outer = wrap(Objective(make(data))).state_dict() if isinstance(model, Objective) else stored
        model.load_state_dict(outer)
        expected = Objective(make(data)) if isinstance(model, Objective) else make(data)
        assert all(torch.equal(model.state_dict()[name], value) for name, value in expected.state_dict().items())


def test_weights_of_another_model_are_refused_as_before(make_data):
    data = make_data()
    with pytest.raises(RuntimeError, match="Unexpected key"):
        vbpr(data).load_state_dict({"module.nothing": torch.ones(1)})
    state = {"a": 1, "module.b": 2}
    assert unwrapped_state(state, {"c"}) is state


def test_saving_a_plain_module_says_how_to_adapt_it(make_data, tmp_path):
    data = make_data()
    with pytest.raises(InputError, match=r"save_model: found Toy, expected a backbone .+ as_backbone\(module, data\)"):
        save_model(tmp_path / "model.pt", toy(data), data)


@every_backbone
def test_double_precision_is_trained_evaluated_and_served(make, make_data):
    data = make_data()
    torch.manual_seed(0)
    single = make(data)
    double = make(data).double()
    double.load_state_dict(single.state_dict())
    tables = embed(double, data)[0]
    assert tables.user.dtype == tables.item.dtype == torch.float64
    assert_close(tables, Embeddings(*(x.double() for x in embed(single, data)[0])), atol=1e-4, rtol=0)
    features, graph = unpack(data)
    with torch.no_grad():
        assert_close(double.eval()(features, graph), tables, atol=1e-12, rtol=0)  # Called by hand as well.
    assert len(trainer().fit(double, data).rows) == 2
    assert all(p.dtype == torch.float64 for p in double.parameters())
    assert evaluate(double, data, k=3)
    assert len(estimate_effects(double, data, k=3, num_bootstrap=5).table) == 2
    assert Recommender(double, data).recommend(k=3).scores.dtype == np.float64
    assert Recommender(double, data).explain(0, 1).shares.dtype == np.float64


@every_multimodal_backbone
@pytest.mark.parametrize("teachers_dtype", [torch.float32, torch.float64])
def test_double_precision_is_distilled(make, teachers_dtype, make_data):
    data = make_data()
    teachers = {
        m: Embeddings(torch.randn(12, 3).to(teachers_dtype), torch.randn(9, 3).to(teachers_dtype))
        for m in data.modalities
    }
    wrapper = DistillationWrapper(make(data).double(), teachers, num_random_triples=8)
    assert len(trainer().fit(wrapper, data).rows) == 2


def test_double_precision_is_read_from_a_file_with_all_its_digits(make_data, tmp_path):
    data = make_data()
    model = vbpr(data).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1e-12)
    save_model(tmp_path / "model.pt", model, data)
    again = load_model(tmp_path / "model.pt", data)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


@pytest.mark.usefixtures("double")
@every_backbone
def test_double_precision_can_be_the_default(make, make_data, tmp_path):
    data = make_data()
    model = make(data)
    assert len(trainer(checkpoint_dir=tmp_path).fit(model, data).rows) == 2
    assert Recommender(model, data).recommend(k=3).items.shape == (12, 3)


def test_single_precision_reads_features_in_double_precision(make_data):
    data, wide = make_data(), make_data()
    for m in wide.modalities:
        wide["item"][m] = wide["item"][m].double()
    first, second = vbpr(data), vbpr(data)
    assert trainer().fit(first, data).rows == trainer().fit(second, wide).rows
    assert evaluate(first, data, k=3) == evaluate(second, wide, k=3)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_keeps_double_parameters(precision, make_data):
    data = make_data()
    model = vbpr(data).double()
    if precision == "16-mixed" and not torch.cuda.is_available():
        pytest.skip("float16 needs a GPU")
    trainer(precision=precision).fit(model, data)
    assert all(p.dtype == torch.float64 for p in model.parameters())


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(12, 8)
        self.conv = SAGEConv((-1, -1), 8)
        self.lin = nn.LazyLinear(8)

    def forward(self, x_dict: dict[str, Tensor], edge_index: Tensor) -> tuple[Tensor, Tensor]:
        item = self.lin(torch.cat(list(x_dict.values()), dim=1))
        return self.conv((item, self.user.weight), edge_index.flip(0)), item


class LazyBackbone(VBPR):
    def __init__(self, num_users: int, num_items: int, feature_dims: dict[str, int]) -> None:
        super().__init__(num_users, num_items, feature_dims, embedding_dim=4)
        self.head = nn.LazyLinear(4, bias=False)

    def encode(self, views, inputs):
        return [
            Embeddings(self.head(out.dense().user), self.head(out.dense().item))
            for out in super().encode(views, inputs)
        ]


LAZY = {
    "module": lambda data: Lazy(),
    "adapted": lambda data: AdaptedBackbone(Lazy(), 12, 9, {m: data["item"][m].size(1) for m in data.modalities}),
    "backbone": LazyBackbone.from_data,
    "objective": lambda data: Objective(LazyBackbone.from_data(data)),
    "compiled": lambda data: torch.compile(Lazy()),
}


@pytest.mark.parametrize("make", LAZY.values(), ids=LAZY.keys())
def test_lazy_layers_are_trained_as_if_their_sizes_had_been_given(make, make_data):
    """Initialised before the optimizer is built, so that it holds them: they move."""
    data = make_data()
    torch.manual_seed(0)
    model = make(data)
    trainer(max_epochs=1, lr=0.05).fit(model, data)
    start = {name: p.clone() for name, p in model.named_parameters()}
    trainer(max_epochs=3, lr=0.05, seed=1).fit(model, data)
    assert any("lin" in name or "head" in name for name in start)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, start[name])}
    assert moved == {name for name in start if not name.endswith("item_bias")} or moved == set(start)


@pytest.mark.parametrize("make", [Lazy, LazyBackbone.from_data], ids=["module", "backbone"])
def test_lazy_layers_are_used_before_training(make, make_data):
    data = make_data()
    for use in USES.values():
        torch.manual_seed(0)
        use(make() if make is Lazy else make(data), data)


def test_teachers_with_lazy_layers_have_the_same_seeded_weights_every_time(make_data, tmp_path):
    data = make_data()
    first, again = (train_teachers(lambda data: Lazy(), data, trainer(), cache_dir=tmp_path / str(n)) for n in range(2))
    for m in data.modalities:
        assert_close(first[m], again[m], atol=0, rtol=0)


def test_lazy_training_goes_on_from_a_checkpoint(make_data, tmp_path):
    data = make_data()
    torch.manual_seed(0)
    whole = trainer(max_epochs=4).fit(Lazy(), data)
    torch.manual_seed(0)
    trainer(max_epochs=2, checkpoint_dir=tmp_path).fit(Lazy(), data)
    assert trainer(max_epochs=4, checkpoint_dir=tmp_path).fit(Lazy(), data).rows == whole.rows


def test_lazy_layers_that_nothing_reaches_are_named(make_data):
    class Unused(Lazy):
        def __init__(self) -> None:
            super().__init__()
            self.forgotten = nn.LazyLinear(3)

    with pytest.raises(
        InputError, match=r"lazy parameters that a forward pass does not reach \(module.forgotten.weight"
    ):
        trainer().fit(Unused(), make_data())


@every_backbone
@pytest.mark.parametrize("prepared", [False, True])
def test_a_compiled_backbone_computes_what_it_does_otherwise(make, prepared, make_data):
    data = make_data()
    torch._dynamo.reset()
    model = built(make, data)
    features, graph = doubled(data)
    graph = model.prepare(features, graph) if prepared else graph
    compiled = torch.compile(model, backend="eager")
    for training in (True, False):
        model.train(training)
        found = []
        for call in (model, compiled):
            torch.manual_seed(0)
            model.zero_grad()
            out = call(features, graph)
            sum(x.square().sum() for x in out).backward()
            found.append([*out, *(p.grad for p in model.parameters() if p.grad is not None)])
        for one, other in zip(*found, strict=True):
            assert_close(other, one)
