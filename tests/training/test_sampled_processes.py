"""Several processes on sampled neighbourhoods: what one process trains, or the same in expectation."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd import Objective
from pyg_ckd.balance.contrast import CrossModalContrast
from pyg_ckd.balance.discovery import strategies
from pyg_ckd.data import TripletSampler, build_data
from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.neighbors_sampled import UniformSampler
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn import BM3, FREEDOM, MMGCN, VBPR, EarlyFusionLightGCN, LightGCN, as_backbone
from pyg_ckd.processes import ALONE, Processes, present
from pyg_ckd.training import build
from pyg_ckd.training.layouts import Whole, choose_layout
from pyg_ckd.training.sampled import Subgraphs
from tests.balance.test_strategies import objective_of
from tests.training.problem import ITEMS, USERS, planted_data, same_bits, teachers, trainer
from tests.training.several import in_processes

ALL = [-1, -1]
SIZE = 300
CASES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    f"{cls.__name__}-{objective}": (cls, objective, {})
    for cls in (LightGCN, EarlyFusionLightGCN, MMGCN, VBPR)
    for objective in ("plain", "ckd", "ckd-has")
    if objective == "plain" or cls is not LightGCN
}
CASES |= {
    "one triple": (LightGCN, "plain", {"batch_size": 239}),  # Of 240 interactions: one process has none of it.
    "one triple, MMGCN": (MMGCN, "plain", {"batch_size": 239}),
    "one triple, distilled": (EarlyFusionLightGCN, "ckd-has", {"batch_size": 239}),
    "several negatives, clipped": (EarlyFusionLightGCN, "ckd", {"num_negatives": 3, "clip_norm": 0.05}),
    "sparse": (LightGCN, "plain", {"batch_size": 4}),
    "sparse, clipped": (EarlyFusionLightGCN, "plain", {"batch_size": 4, "clip_norm": 0.05, "averaging": 0.9}),
    "sparse, VBPR": (VBPR, "plain", {"batch_size": 4, "weight_decay": 0.1}),
}
WHOLE_BATCH = {"mla", "margo", "samm", "snr-contrast", "umurl", "unseen", "incremental"}
"""Strategies that read rows of a whole batch's items."""
OPTIONS: dict[str, dict[str, Any]] = {
    "dyncim": {"inner": "samm", "pace_epochs": 2},
    "incremental": {"num_items": 4},
    "lfm": {"rate": 0.0},
    "multitask": {"valuation": 2.0},
    "odsw": {"inner": "snr-contrast", "temperature": 0.5},
    "ogm-ge": {"noise": 0.0},
    "samm": {"num_items": 4},
    "snr-contrast": {"num_items": 4},
    "umurl": {"num_items": 4},
    "unseen": {"alignment": 0.5, "num_classes": 4, "num_items": 4},
}
"""What can be shared out where the defaults cannot, or reads items of others."""
SHARED = [name for name, cls in strategies().items() if cls.trains and (not cls.needs_whole or name in OPTIONS)]


def sparse_data() -> HeteroData:
    """Return a graph of which the neighbourhoods of a few triples are a small part."""
    rng = np.random.default_rng(0)
    edges = {name: rng.integers(0, SIZE, (2, number)) for name, number in (("train", 64), ("val", 40), ("test", 40))}
    edges = {name: np.unique(pairs, axis=1) for name, pairs in edges.items()}
    features = {m: rng.normal(size=(SIZE, 3)) for m in ("visual", "textual")}
    given = {"val": edges["val"], "test": edges["test"], "num_users": SIZE, "transform": "none"}
    return build_data(edges["train"], features, **given)


def built(cls: Any, data: HeteroData, **options: Any) -> Any:
    layers = {} if cls is VBPR else {"num_layers": 2}
    return build(cls, data, 0, **{"embedding_dim": 8, **layers, **options}).double()


def made(cls: Any, name: str, data: HeteroData) -> Objective:
    if name == "plain":
        return Objective(built(cls, data))
    given = {m: type(tables)(*(table.double() for table in tables)) for m, tables in teachers().items()}
    has = {"textual": torch.arange(ITEMS) % 3 > 0} if name == "ckd-has" else None
    return strategies()["ckd"](built(cls, data), given, num_random_triples=20, has=has, distillation_weight=0.5)


def trained(cls: Any, name: str, options: dict[str, Any], fan: list[int] | None = None) -> dict[str, Any]:
    few = options.get("batch_size", 79) < 64
    data, kinds = (sparse_data() if few else planted_data()), set()

    class Watch:
        def on_before_optimizer_step(self, optimizer: Any, **kw: Any) -> None:
            kinds.update(str(p.grad.layout) for group in optimizer.param_groups for p in group["params"])

    objective, fan = made(cls, name, data), ALL if fan is None else fan
    chosen = {"max_epochs": 2, "batch_size": 79, "callbacks": Watch(), "num_neighbors": [] if cls is VBPR else fan}
    history = trainer(**(chosen | options)).fit(objective, data)
    weights = {key: value for key, value in objective.state_dict().items() if value.is_floating_point()}
    return {"rows": history.rows, "weights": weights, "sparse": "torch.sparse_coo" in kinds, "calls": present().calls}


def steps_of(name: str, lacking: bool) -> list[dict[str, Tensor]]:
    """Return terms and gradients of some steps of a strategy on shares of batches of seven triples."""
    data = planted_data()
    if lacking:
        data["item"].has_textual = torch.arange(ITEMS) % 3 > 0
        data["item"].textual = data["item"].textual * data["item"].has_textual.unsqueeze(1)
    options = OPTIONS.get(name, {})
    objective = objective_of(strategies()[name], data, lambda d: built(EarlyFusionLightGCN, d), **options).double()
    layout = Whole(present())
    features = {m: data["item"][m].double() for m in data.modalities}
    graphs = objective.prepare(features, {RATES: data[RATES].edge_index})
    parts, found = Subgraphs(objective.student, ALL, None, False, objective, layout.processes), []
    for epoch in (1, 2):  # Some compare from the second epoch on.
        objective.progress = type(objective.progress)(epoch, 3)
        torch.manual_seed(3)
        current = objective.begin_epoch(features, graphs)
        batches = iter(TripletSampler(data[RATES].edge_index, USERS, ITEMS, 7, 5, epoch))
        for batch in itertools.islice(batches, 2):
            objective.zero_grad(set_to_none=True)
            share, factor = layout.share(batch)
            terms = objective.loss(features, *parts(current, share))
            parts.done()
            terms = {term: factor * value for term, value in terms.items()}
            objective.backward(terms, lambda loss, **options: loss.backward(**options))
            layout.sum_gradients(objective, unlike=True)
            grads = {key: p.grad for key, p in objective.named_parameters() if p.grad is not None}
            found.append(layout.add_up({key: term.detach() for key, term in terms.items()}) | grads)
        layout.add_up_epoch(objective)
        numbers = objective.epoch_statistics()
        found.append({key: torch.tensor(number, dtype=torch.float64) for key, number in numbers.items()})
    return found


def all_steps() -> dict[str, list[dict[str, Tensor]]]:
    return {f"{name}, {lacking}": steps_of(name, lacking) for name in SHARED for lacking in (False, True)}


def all_cases() -> dict[str, Any]:
    return {"trained": {key: trained(*case) for key, case in CASES.items()}, "steps": all_steps()}


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return all_cases()


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> list[dict[str, Any]]:
    return in_processes(all_of_it, str(tmp_path_factory.mktemp("sampled")))


@pytest.fixture(scope="module")
def two(both) -> list[dict[str, Any]]:
    return [result["cases"] for result in both]


@pytest.fixture(scope="module")
def ways(both) -> list[dict[str, Any]]:
    return [result["ways"] for result in both]


@pytest.mark.parametrize("case", CASES)
def test_with_all_neighbours_two_processes_train_what_one_trains(case, alone, two):
    expected = alone["trained"][case]
    for found in (result["trained"][case] for result in two):
        assert found["calls"] > 0
        assert found["sparse"] == expected["sparse"]
        assert found["sparse"] or "sparse" not in case
        for row, other in zip(found["rows"], expected["rows"], strict=True):
            assert row.keys() == other.keys()
            for name, value in row.items():
                assert value == pytest.approx(other[name], abs=1e-9, nan_ok=True), name
        for name, weight in expected["weights"].items():
            torch.testing.assert_close(found["weights"][name], weight, atol=1e-9, rtol=0)
    assert same_bits(*(result["trained"][case]["weights"] for result in two))


@pytest.mark.parametrize("lacking", [False, True], ids=["all there", "some lacking"])
@pytest.mark.parametrize("name", SHARED)
def test_with_all_neighbours_the_steps_of_a_strategy_are_those_of_one_process(name, lacking, alone, two):
    expected = alone["steps"][f"{name}, {lacking}"]
    for result in two:
        for found, other in zip(result["steps"][f"{name}, {lacking}"], expected, strict=True):
            assert found.keys() == other.keys()
            for key, value in other.items():
                torch.testing.assert_close(found[key], value, atol=1e-9, rtol=0, equal_nan=True, msg=key)


def test_what_strategies_read_of_a_whole_batch_is_expanded_by_every_process():
    """A strategy that does not say has all items of the batch; the others have what they say."""
    data, processes = sparse_data(), Processes(1, 2)
    batch = next(iter(TripletSampler(data[RATES].edge_index, SIZE, SIZE, 6, 0, 0)))

    class Own(Objective):
        def balance(self, out: Any, batch: TripletBatch) -> dict[str, Tensor]:
            return {}

    assert Own.batch_items is None
    for make, expanded in ((Objective, 0), (Own, 12)):
        objective = make(built(LightGCN, data))
        assert objective.read_of_batch(batch)[0].numel() == expanded
        parts = Subgraphs(objective.student, ALL, None, False, objective, processes)
        graphs = objective.prepare({}, {RATES: data[RATES].edge_index})
        _, local, n_id_dict = parts(graphs, Whole(processes).share(batch)[0])
        assert torch.equal(n_id_dict["item"][local.positive], batch.positive[3:])
        absent = local.whole.positive[~torch.isin(batch.positive, n_id_dict["item"])]
        assert bool((absent == n_id_dict["item"].numel()).all())  # No row has this number.
        assert (absent.numel() > 0) == (make is Objective)
        if make is Own:
            assert torch.equal(n_id_dict["item"][local.whole.negative], batch.negative)
    names = {name for name in SHARED if getattr(_made(name), "batch_items", 0) != 0}
    assert names == WHOLE_BATCH


def _made(name: str) -> Objective:
    return objective_of(strategies()[name], planted_data(), lambda d: built(VBPR, d), **OPTIONS.get(name, {}))


class Own(nn.Module):
    """A module of a PyG user: drop-out, running means, and a part that few neighbourhoods have a use for."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(USERS, 4), nn.Embedding(ITEMS, 4)
        self.map, self.norm, self.seldom = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x_dict: Any, edge_index: Tensor, n_id_dict: Any = None) -> tuple[Tensor, Tensor]:
        whole = {"user": torch.arange(USERS), "item": torch.arange(ITEMS)}
        rows = n_id_dict or whole
        item = self.norm(self.map(x_dict["visual"]))
        item = nn.functional.dropout(item, 0.5, self.training) + self.item(rows["item"])
        user = self.user(rows["user"])
        user = user.index_add(0, edge_index[0], 0.1 * item[edge_index[1]])
        return (user if user.size(0) < 18 else self.seldom(user)), item


class Summing(nn.Module):
    """One that computes the rows of all users, from sums over the neighbours it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Parameter(torch.randn(USERS, 4)), nn.Parameter(torch.randn(ITEMS, 4))
        self.map = nn.Linear(4, 4)

    def forward(self, x_dict: Any, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        item = self.map(x_dict["visual"]) + self.item
        return self.user.index_add(0, edge_index[0], 0.1 * item[edge_index[1]]), item


def adapted(cls: Any, data: HeteroData) -> Any:
    torch.manual_seed(0)
    model = as_backbone(cls(), data)
    return model.double() if cls is Summing else model


def summed(num_neighbors: list[int]) -> dict[str, Any]:
    data = planted_data()
    data["item"].visual = data["item"].visual.double()
    model = adapted(Summing, data)
    history = trainer(max_epochs=2, batch_size=79, num_neighbors=num_neighbors).fit(model, data)
    return {"rows": history.rows, "weights": model.state_dict()}


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    """Return which edges this process draws for all triples of a batch, and where PyTorch's generator is then."""
    data = planted_data()
    objective = Objective(built(LightGCN, data))
    graphs = objective.prepare({}, {RATES: data[RATES].edge_index})
    batch = next(iter(TripletSampler(data[RATES].edge_index, USERS, ITEMS, 20, 0, 0)))
    every = slice(None)
    torch.manual_seed(seed)
    parts = Subgraphs(objective.student, [2, 2], None, False, objective, present())
    graph = parts(graphs, batch.shared(every, every, present()))[0][RATES]
    return graph.matrix.to_dense(), torch.get_rng_state()


def refused(work: Any, *arguments: Any) -> str:
    try:
        work(*arguments)
    except InputError as error:
        return str(error)
    return "nothing was refused"


class Moves:
    """A callback that changes the model in one process alone."""

    def on_train_epoch_end(self, pl_module: Objective, epoch: int, **kw: Any) -> None:
        if epoch == 1 and present().rank == 1:
            with torch.no_grad():
                pl_module.student.item_embedding[0] += 0.1


def one_way_or_another(folder: str) -> dict[str, Any]:
    data, found = planted_data(), {"drawn": [drawn(seed) for seed in (5, 5, 6)]}
    for name, make in {
        "ckd": lambda: made(EarlyFusionLightGCN, "ckd", data),
        "MMGCN": lambda: made(MMGCN, "plain", data),
        "Own": lambda: adapted(Own, data),
    }.items():
        options = {"max_epochs": 2, "batch_size": 10, "num_neighbors": [2, 2]}
        whole, resumed = make(), make()
        first = trainer(**options).fit(whole, data)
        trainer(**options | {"max_epochs": 1}, checkpoint_dir=f"{folder}/{name}").fit(make(), data)
        again = trainer(**options, checkpoint_dir=f"{folder}/{name}").fit(resumed, data)
        found[name] = {"rows": (first.rows, again.rows), "weights": (whole.state_dict(), resumed.state_dict())}
    found["summed"] = summed([-1])
    sampled = {"num_neighbors": ALL}
    for strategy in ("users", "columns"):
        found[strategy] = refused(trainer(strategy=strategy, **sampled).fit, built(LightGCN, data), data)
    for cls, options in ((BM3, {}), (FREEDOM, {"num_neighbors": 3})):
        found[cls.__name__] = refused(trainer(**sampled).fit, built(cls, data, **options), data)
    found["moved"] = refused(trainer(strategy="ddp", callbacks=Moves()).fit, built(VBPR, data), data)
    found["layout"] = choose_layout("auto", present(), Objective(built(LightGCN, data)), ALL).name
    return found


def all_of_it(folder: str) -> dict[str, Any]:
    return {"cases": all_cases(), "ways": one_way_or_another(folder)}


def test_processes_draw_other_neighbours_from_generators_that_stay_alike(ways):
    first, second = (way["drawn"][0][0] for way in ways)
    assert first.shape != second.shape or not torch.equal(first, second)
    for n in range(3):
        assert torch.equal(ways[0]["drawn"][n][1], ways[1]["drawn"][n][1])
    for way in ways:
        again, other = way["drawn"][1][0], way["drawn"][2][0]
        assert torch.equal(way["drawn"][0][0], again)
        assert again.shape != other.shape or not torch.equal(again, other)


@pytest.mark.parametrize("name", ["ckd", "MMGCN", "Own"])
def test_they_go_on_after_a_break_to_the_bit_and_end_with_one_model(name, ways):
    for way in ways:
        first, again = way[name]["rows"]
        assert first == again
        assert same_bits(*way[name]["weights"])
    assert same_bits(*(way[name]["weights"][0] for way in ways))
    assert ways[0][name]["rows"] == ways[1][name]["rows"]


def test_a_module_of_ones_own_has_the_losses_of_one_process(ways):
    expected = summed([-1])
    for found in (way["summed"] for way in ways):
        for row, other in zip(found["rows"], expected["rows"], strict=True):
            assert row == pytest.approx(other, abs=1e-9)
        for name, weight in expected["weights"].items():
            torch.testing.assert_close(found["weights"][name], weight, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("case", "words"),
    {
        "users": "strategy: found 'users' beside num_neighbors=[-1, -1], whose neighbourhoods are sampled from a",
        "columns": "strategy: found 'columns' beside num_neighbors=[-1, -1], whose neighbourhoods are sampled from a",
        "BM3": "strategy: found 2 processes for BM3, whose losses are no means over the triples",
        "FREEDOM": "num_neighbors: found [-1, -1] for FREEDOM, which makes a graph of its own",
        "moved": "parameters of the model after epoch 2: found another in process 2 than in process 1, expected",
    }.items(),
)
def test_what_cannot_be_is_refused_in_one_line_by_all(case, words, ways):
    for way in ways:
        assert words in way[case]
        assert "\n" not in way[case]
        assert way["layout"] == "ddp"


def counted(processes: Processes, data: HeteroData, batch: TripletBatch) -> tuple[int, int]:
    """Return how many nodes a process expands and how many edges it draws for its share of a batch."""
    seen: list[tuple[int, int]] = []

    class Counting(UniformSampler):
        def sample_from_nodes(self, index: Any, **kw: Any) -> Any:
            out = super().sample_from_nodes(index)
            seen.append((out.col.unique().numel(), out.edge.numel()))
            return out

    objective = Objective(built(LightGCN, data))
    graphs = objective.prepare({}, {RATES: data[RATES].edge_index})
    parts = Subgraphs(objective.student, [3, 3], Counting, False, objective, processes)
    parts(graphs, Whole(processes).share(batch)[0])
    return seen[0]


def test_a_process_expands_the_nodes_of_its_share_alone():
    data = sparse_data()
    batch = next(iter(TripletSampler(data[RATES].edge_index, SIZE, SIZE, 16, 0, 0)))
    one, *both = (np.array(counted(p, data, batch)) for p in (ALONE, Processes(0, 2), Processes(1, 2)))
    assert all((part < 0.7 * one).all() for part in both)
    assert (sum(both) >= 0.95 * one).all()  # Nothing is left out; what both reach is expanded by both.


def test_the_sum_of_the_shares_gradients_is_that_of_the_whole_graph_in_expectation():
    """A margin is a product of sums over the neighbours of two nodes, which are drawn apart."""
    data = planted_data()
    batch = next(iter(TripletSampler(data[RATES].edge_index, USERS, ITEMS, 6, 0, 0)))
    model = built(LightGCN, data, num_layers=1)
    graphs = model.prepare({}, {RATES: data[RATES].edge_index})

    def gradient(graphs: Any, batch: TripletBatch, n_id_dict: Any = None) -> Tensor:
        (out,) = model.outputs({}, graphs, [None], n_id_dict)
        margin = out.margin(batch.user, batch.positive, batch.negative).sum() / 6
        return torch.cat(torch.autograd.grad(margin, [model.user_embedding, model.item_embedding]))

    expected, found = gradient(graphs, batch), []
    layouts = [Whole(Processes(rank, 2)) for rank in range(2)]
    parts = [Subgraphs(model, [2], None, False, Objective(model), layout.processes) for layout in layouts]
    torch.manual_seed(0)
    for _ in range(300):
        state, total = torch.get_rng_state(), torch.zeros_like(expected)
        for layout, part in zip(layouts, parts, strict=True):
            torch.set_rng_state(state)  # As it is in both.
            total += gradient(*part(graphs, layout.share(batch)[0]))
            part.done()
        found.append(total)
    samples = torch.stack(found)
    error = samples.std(dim=0) / len(found) ** 0.5
    off = (samples.mean(dim=0) - expected).abs() > 4 * error + 1e-12
    assert float(off.float().mean()) < 0.01
    assert float(error.max()) > 0


class Reading(CrossModalContrast):
    """Reads more of a batch than its base class says."""

    def balance(self, out, batch):
        return {**super().balance(out, batch), "more": 0.0 * batch.whole.negative.float().mean()}


def test_a_subclass_that_does_not_say_has_all_items_whatever_its_base_class_says():
    options = {"num_items": 7}
    data = planted_data()
    assert CrossModalContrast(build(EarlyFusionLightGCN, data, 0), **options).batch_items == 7
    assert Reading(build(EarlyFusionLightGCN, data, 0), **options).batch_items is None
