"""Processes that draw from the interactions of their own users: every interaction once, and shares weighted right."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd.balance import DistillationWrapper, MultitaskObjective
from pyg_ckd.balance.objective import Objective
from pyg_ckd.data import TripletBatch, TripletSampler, build_data
from pyg_ckd.data.inputs import RATES, unpack
from pyg_ckd.data.negatives import PopularityNegatives, Positives
from pyg_ckd.datasets import SyntheticMultimodal
from pyg_ckd.nn import VBPR, EarlyFusionLightGCN, LightGCN
from pyg_ckd.processes import ALONE, present
from pyg_ckd.training import Trainer, build
from pyg_ckd.training.layouts.rows import UserRows
from pyg_ckd.training.layouts.users import Users
from pyg_ckd.training.own_batches import OwnBatches, own_seed
from tests.training.problem import ITEMS, USERS, planted_data, teachers, trainer
from tests.training.several import in_processes
from tests.training.test_users import fitted, objective_of, refusal, same

GRADIENTS: dict[str, tuple[Any, Any, int]] = {
    "plain": (VBPR, Objective, 1),
    "several negatives": (LightGCN, Objective, 3),
    "distilled": (EarlyFusionLightGCN, DistillationWrapper, 1),
    "gathered": (VBPR, MultitaskObjective, 1),
}
"""Backbone, objective, and negatives of every interaction."""
BATCH, RANDOM = 37, 21


class Notes:
    """Keeps the batches of every step."""

    def __init__(self) -> None:
        self.batches: list[tuple[TripletBatch, int]] = []

    def on_train_batch_start(self, batch: TripletBatch) -> None:
        self.batches.append((TripletBatch(*batch), batch.whole_size))


def run(folder: Path | None = None, **options: Any) -> dict[str, Any]:
    several = {} if present().alone else {"strategy": "users"}
    objective = objective_of(VBPR, True, planted_data(), sparse=True)
    return fitted(objective, **({"checkpoint_dir": folder, "shuffle": "own", **several} | options))


def by_two(folder: Path) -> dict[str, Any]:
    return {
        "drawn": drawn(),
        "gradients": {name: gradients(name) for name in GRADIENTS},
        "checkpoints": checkpoints(folder),
        "recall": recall(shuffle="own", strategy="users"),
        "refused": refusals(),
        "kinds": {name: run(**options)["rows"] for name, options in KINDS.items()},
        "popularity": popularity(),
        "idle": trained_idle(),
    }


KINDS: dict[str, dict[str, Any]] = {
    "hard": {"negatives": "hard"},
    "popularity": {"negatives": "popularity"},
    "softmax": {"ranking": "softmax", "negatives": "popularity", "num_negatives": 9},
    "brought": {"shuffle": "auto", "sampler": partial(TripletSampler, shuffle="own", negatives="hard")},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def two(folder) -> list[dict[str, Any]]:
    run(folder / "of one", max_epochs=1)
    return in_processes(by_two, folder)


def rows_of(data: HeteroData) -> UserRows:
    return UserRows.balanced(data[RATES].edge_index[0], USERS, present().size, present().rank)


def drawn() -> dict[str, Any]:
    """Return the triples of two epochs, users numbered as in the whole graph, and how large the whole batches were."""
    notes, rows = Notes(), rows_of(planted_data())
    run(callbacks=notes, batch_size=BATCH, num_negatives=1)
    triples = [torch.stack([batch.user + rows.first, batch.positive, batch.negative]) for batch, _ in notes.batches]
    random = [torch.stack([batch.random_user + rows.first, *batch[4:]]) for batch, _ in notes.batches]
    return {"triples": triples, "random": random, "sizes": [size for _, size in notes.batches], "starts": rows.starts}


def test_an_epoch_over_both_processes_holds_every_interaction_once(two):
    edges = planted_data()[RATES].edge_index
    expected = sorted(map(tuple, edges.t().tolist()))
    steps = -(-edges.size(1) // BATCH)
    found = [result["drawn"] for result in two]
    for epoch in range(2):
        parts = [torch.cat(one["triples"][epoch * steps : (epoch + 1) * steps], dim=1) for one in found]
        pairs = torch.cat(parts, dim=1)[:2].t().tolist()
        assert sorted(map(tuple, pairs)) == expected
        assert pairs != edges.t().tolist()
    first, second = (torch.cat(one["triples"], dim=1)[0] for one in found)
    assert int(first.max()) < found[0]["starts"][1] <= int(second.min())
    assert all(len(one["triples"]) == 2 * steps for one in found)


def test_negatives_are_exact(two):
    met = set(map(tuple, planted_data()[RATES].edge_index.t().tolist()))
    for result in two:
        user, _, negative = torch.cat(result["drawn"]["triples"], dim=1)
        assert int(negative.min()) >= 0
        assert int(negative.max()) < ITEMS
        assert not met & set(zip(user.tolist(), negative.tolist(), strict=True))


def test_shares_are_as_documented_and_everybody_knows_the_whole_size(two):
    edges, (one, other) = planted_data()[RATES].edge_index, (result["drawn"] for result in two)
    own = [int((edges[0] < one["starts"][1]).sum()), int((edges[0] >= one["starts"][1]).sum())]
    steps = -(-edges.size(1) // BATCH)
    for step in range(2 * steps):
        expected = [(step % steps + 1) * n // steps - step % steps * n // steps for n in own]
        assert [found["triples"][step].size(1) for found in (one, other)] == expected
        assert one["sizes"][step] == other["sizes"][step] == sum(expected)
    counts = [[batch.size(1) for batch in found["random"]] for found in (one, other)]
    for found, users in zip(counts, np.diff(one["starts"]), strict=True):
        assert set(found) <= {20 * users // USERS, 20 * users // USERS + 1}
        assert abs(sum(found) - 2 * steps * 20 * users / USERS) < 2
    for found in (one, other):
        user = torch.cat(found["random"], dim=1)[0]
        mine = slice(0, 2) if found is one else slice(1, 3)
        first, last = one["starts"][mine]
        assert first <= int(user.min()) <= int(user.max()) < last


def test_processes_and_epochs_draw_other_numbers():
    seeds = [own_seed(seed, rank) for seed in (0, 1, 2**62) for rank in range(4)]
    assert len(set(seeds)) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)


def objective_named(name: str) -> Objective:
    backbone, kind, _ = GRADIENTS[name]
    student = build(backbone, planted_data(), 0, embedding_dim=8).double()
    if kind is DistillationWrapper:
        given = {m: type(tables)(*(table.double() for table in tables)) for m, tables in teachers().items()}
        has = {"textual": torch.arange(ITEMS) % 3 > 0}
        return DistillationWrapper(student, given, num_random_triples=RANDOM, has=has)
    return kind(student, valuation=0.5) if kind is MultitaskObjective else kind(student)


def gradients(name: str) -> dict[str, Any]:
    """Return the gradient of a step of two shares, and the triples of both shares together."""
    data, objective, here = planted_data(), objective_named(name), present()
    features, edges = unpack(data, "cpu", torch.float64)
    layout = Users(here)
    layout.draws_own = torch.device("cpu")
    features, graph = layout.cut(objective, features, edges)
    sizes = (layout.rows.own, ITEMS, BATCH, objective.num_random_triples, own_seed(0, here.rank))
    sampler = TripletSampler(layout.interactions, *sizes, num_negatives=GRADIENTS[name][2], shuffle="own")
    batches = OwnBatches(sampler, layout.rows, here)
    batch = list(batches)[2]
    share, factor = layout.share(batch)
    terms = {key: factor * term for key, term in objective.loss(features, graph, share).items()}
    torch.stack(list(terms.values())).sum().backward()
    layout.sum_gradients(objective)
    layout.add_up_epoch(objective)
    shared = {id(p) for p in layout.shared_parameters(objective)}
    found = {}
    for key, p in objective.named_parameters():
        if p.requires_grad and p.grad is not None:
            found[key] = p.grad if id(p) in shared else here.gather_rows(p.grad)
    whole = [torch.stack([batch.user + layout.rows.first, batch.positive, batch.negative], dim=1)]
    whole += [torch.stack([batch.random_user + layout.rows.first, *batch[4:]], dim=1)]
    return {
        "terms": layout.add_up({key: term.detach() for key, term in terms.items()}),
        "gradients": found,
        "batch": [here.gather_rows(x) for x in whole],
        "size": batch.whole_size,
        "statistics": objective.epoch_statistics(),
    }


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_gradient_is_that_of_the_mean_over_both_shares(name, two):
    found = [result["gradients"][name] for result in two]
    triples, random = found[0]["batch"]
    assert triples.size(0) == found[0]["size"] == found[1]["size"]
    assert len({one["size"] for one in found}) == 1
    objective = objective_named(name)
    features, edges = unpack(planted_data(), "cpu", torch.float64)
    terms = objective.loss(features, objective.prepare(features, edges), TripletBatch(*triples.t(), *random.t()))
    torch.stack(list(terms.values())).sum().backward()
    for one in found:
        for key, term in terms.items():
            assert float(one["terms"][key]) == pytest.approx(term.item(), rel=0, abs=1e-9)
        expected = {key: p.grad for key, p in objective.named_parameters() if p.grad is not None}
        assert one["gradients"].keys() == expected.keys()
        for key, grad in expected.items():
            torch.testing.assert_close(one["gradients"][key], grad, atol=1e-9, rtol=0)
    statistics = objective.epoch_statistics()
    for key, value in statistics.items():
        assert found[0]["statistics"][key] == pytest.approx(value, rel=0, abs=1e-9, nan_ok=True)


def checkpoints(folder: Path) -> dict[str, Any]:
    found = {"whole": run(folder / "unbroken")}
    run(folder / "broken", max_epochs=1)
    if present().first:
        shutil.copytree(folder / "broken", folder / "alone")
        shutil.copytree(folder / "broken", folder / "alone again")
        shutil.copytree(folder / "of one", folder / "of one again")
    present().wait()
    found["resumed"] = run(folder / "broken")
    found["of one"], found["of one again"] = run(folder / "of one"), run(folder / "of one again")
    return found


def test_as_many_processes_go_on_with_the_same_bits(two):
    for found in (result["checkpoints"] for result in two):
        same(found["resumed"], found["whole"], 0.0)


def test_another_number_of_processes_goes_on_and_always_in_the_same_way(two, folder):
    unbroken = two[0]["checkpoints"]["whole"]
    alone, again = run(folder / "alone"), run(folder / "alone again")
    same(alone, again, 0.0)
    assert alone["rows"][0] == unbroken["rows"][0]
    for found in (result["checkpoints"] for result in two):
        same(found["of one"], found["of one again"], 0.0)
        assert len(found["of one"]["rows"]) == 2
        assert all(np.isfinite(value) for row in found["of one"]["rows"] for value in row.values())


def test_in_one_process_it_is_shuffling_by_blocks(folder):
    same(run(), run(shuffle="blocks"), 0.0)
    brought = run(shuffle="auto", sampler=partial(TripletSampler, shuffle="own"))
    same(brought, run(num_negatives=1), 0.0)
    assert trainer(shuffle="own").settings()["shuffle"] == "own"
    assert trainer(sampler=partial(TripletSampler, shuffle="own")).settings()["sampler"]["shuffle"] == "own"
    assert "shuffle" not in trainer().settings()


def recall(**options: Any) -> float:
    """Return the best validation recall@20 after eight epochs, a mean over three seeds of the triples."""
    data = SyntheticMultimodal(num_users=300, num_items=120, num_interactions=6000)[0]
    run = {"max_epochs": 8, "batch_size": 256, "lr": 0.02, "track_views": False, "device": "cpu", "progress": False}
    found = []
    for seed in range(3):
        model = build(LightGCN, data, 0, embedding_dim=16)
        found.append(Trainer(**run, seed=seed, **options).fit(model, data).best_value)
    return float(np.mean(found))


def test_recall_is_that_of_one_process_within_four_hundredths(two):
    expected = recall()
    for result in two:
        assert result["recall"] == two[0]["recall"]
        assert result["recall"] == pytest.approx(expected, abs=0.04)  # Single seeds differ by 0.015 (deviation).


@pytest.mark.parametrize("name", KINDS)
def test_other_negatives_and_samplers_train_too(name, two):
    first, second = (result["kinds"][name] for result in two)
    assert first == second
    assert all(np.isfinite(value) for row in first for value in row.values())
    main = next(key for key in first[0] if key in ("loss/bpr", "loss/softmax"))
    assert first[1][main] < first[0][main]


def popularity() -> dict[str, torch.Tensor]:
    """Return the line of items that negatives are drawn from, and the weights of a softmax's items."""
    data, layout = planted_data(), Users(present())
    layout.draws_own = torch.device("cpu")
    layout.cut(objective_named("plain"), *unpack(data, "cpu", torch.float64))
    sampler = TripletSampler(layout.interactions, layout.rows.own, ITEMS, shuffle="own", negatives="popularity")
    OwnBatches(sampler, layout.rows, present())
    objective = objective_of(VBPR, False, data)
    fitted(objective, strategy="users", shuffle="own", max_epochs=1, **KINDS["softmax"])
    return {"line": sampler._negatives._end, "weight": objective.shared_negatives._weight}


def test_popularity_is_counted_over_all_processes(two):
    positives = Positives(planted_data()[RATES].edge_index, USERS, ITEMS)
    objective = objective_of(VBPR, False, planted_data())
    fitted(objective, max_epochs=1, **KINDS["softmax"])
    for found in (result["popularity"] for result in two):
        weight, whole = (line.diff() / line[-1] for line in (found["line"], PopularityNegatives(positives)._end))
        torch.testing.assert_close(weight.double(), whole.double(), atol=1e-9, rtol=0)
        assert torch.equal(found["weight"], objective.shared_negatives._weight)


def idle() -> HeteroData:
    """One user has all interactions, so that the other process has users without any."""
    features = {"visual": np.eye(ITEMS, 4) + 1, "textual": np.eye(ITEMS, 3) + 1}
    train = np.array([[0] * 9, range(9)])
    return build_data(train, features, val=np.array([[0], [20]]), num_users=3, num_items=ITEMS, transform="none")


def trained_idle() -> dict[str, Any]:
    objective = Objective(build(LightGCN, idle(), 0, embedding_dim=4))
    history = trainer(max_epochs=2, batch_size=4, strategy="users", shuffle="own").fit(objective, idle())
    return {"rows": history.rows, "weights": objective.state_dict()}


def test_a_process_may_have_no_interaction(two):
    for found in (result["idle"] for result in two):
        assert all(np.isfinite(value) for row in found["rows"] for value in row.values())
        same(found, two[0]["idle"], 0.0)


class Curious(Objective):
    """Reads the items of the whole batch."""

    needs_whole = ""
    strategies = Objective.strategies

    def balance(self, out, batch):
        batch.whole.positive.sum()
        return {}


class Weighted(TripletSampler):
    """Makes batches of its own."""

    def __iter__(self):
        for batch in super().__iter__():
            yield batch.weighted(torch.ones(batch.user.numel()))


def refusals() -> dict[str, str]:
    data = planted_data()

    def fit(kind: Any = Objective, **options: Any) -> str:
        options = {"strategy": "users", "max_epochs": 1} | options
        return refusal(trainer(**options).fit, kind(build(VBPR, data, 0, embedding_dim=4)), data)

    built = TripletSampler(data[RATES].edge_index, USERS, ITEMS, shuffle="own")
    return {
        "ddp": fit(strategy="ddp", shuffle="own"),
        "columns": fit(strategy="columns", shuffle="own"),
        "whole": fit(Curious, shuffle="own"),
        "built": fit(sampler=built),
        "weighted": fit(sampler=partial(Weighted, shuffle="own")),
        "nothing": fit(shuffle="own"),
    }


def test_what_cannot_draw_its_own_is_refused_in_one_line(two):
    first, second = (result["refused"] for result in two)
    assert first == second
    words = {
        "ddp": "shuffle: found 'own' for strategy='ddp', whose processes have all users each, expected shuffle='bl",
        "columns": "shuffle: found 'own' for strategy='columns'",
        "whole": "shuffle: found 'own' for a strategy that reads the whole batch",
        "built": "sampler: found a TripletSampler that is built already and shuffle='own'",
        "weighted": "sampler: found a Weighted with its own batches and shuffle='own'",
        "nothing": "",
    }
    assert first.keys() == words.keys()
    for name, message in first.items():
        assert message.startswith(words[name]), name
        assert bool(message) == bool(words[name]), name
        assert "\n" not in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shuffle": "mine"}, "shuffle 'mine'"),
        ({"shuffle": "own", "sampler": TripletSampler}, "shuffle: found 'own' beside the sampler of one's own"),
    ],
    ids=["unknown", "beside a sampler"],
)
def test_options_that_cannot_be_are_refused(options, message):
    assert message in refusal(trainer, **options)


def test_an_epoch_without_interactions_is_refused():
    edges = torch.tensor([[0, 0], [0, 1]])
    message = "found none that a negative item exists for"
    with pytest.warns(UserWarning, match="interacted with all 2 items"):
        sampler = TripletSampler(edges, 1, 2, shuffle="own")
    assert message in refusal(lambda: list(sampler))
    assert message in refusal(lambda: OwnBatches(sampler, UserRows((0, 1), 0), ALONE))
    assert "known: found" in refusal(partial(TripletSampler, edges, 3, 9, known=edges, shuffle="own"))
