"""The graph cut by users: what one process trains, whatever the options; checkpoints that any number of them reads."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd.balance import DistillationWrapper
from pyg_ckd.balance.objective import Objective
from pyg_ckd.data import build_data
from pyg_ckd.errors import InputError
from pyg_ckd.nn import FREEDOM, LATTICE, MMGCN, VBPR, EarlyFusionLightGCN, LightGCN
from pyg_ckd.nn.models import lightgcn
from pyg_ckd.nn.propagation import Adjacency
from pyg_ckd.nn.user_part import UserPart
from pyg_ckd.processes import Processes, present
from pyg_ckd.training import build
from pyg_ckd.training.checkpoint import load_checkpoint
from pyg_ckd.training.layouts.rows import UserRows
from pyg_ckd.training.parts import read_parts, write_parts
from pyg_ckd.training.run_file import CHECKPOINT_NAME, IN_PARTS
from tests.training.problem import ITEMS, USERS, planted_data, teachers, trainer
from tests.training.several import in_processes

CASES: dict[str, tuple[Any, bool, dict[str, Any], dict[str, Any]]] = {
    "clipped": (VBPR, False, {}, {"clip_norm": 0.05}),
    "averaged": (EarlyFusionLightGCN, False, {}, {"averaging": 0.9}),
    "sparse": (VBPR, True, {"sparse": True}, {"batch_size": 16, "averaging": 0.9, "weight_decay": 0.1}),
    "sparse, clipped": (VBPR, False, {"sparse": True}, {"batch_size": 16, "clip_norm": 0.05}),
    "hard negatives": (LightGCN, False, {}, {"negatives": "hard"}),
    "softmax": (VBPR, False, {}, {"ranking": "softmax", "num_negatives": 9}),
    "several negatives": (LightGCN, False, {}, {"num_negatives": 3}),
    "cosines": (VBPR, False, {"cosine": 3.0}, {}),
    "one block": (VBPR, True, {"fusion": "sum"}, {}),
    "without ids": (EarlyFusionLightGCN, True, {"id_embedding": False, "num_layers": 3}, {}),
    "without layers": (LightGCN, False, {"num_layers": 0}, {}),
    "self-loops": (MMGCN, False, {"self_loops": True, "message_bias": True, "combine": "concat"}, {}),
    "recomputed": (MMGCN, True, {"recompute": True, "fusion": "mean"}, {}),
    "momentum": (LightGCN, False, {}, {"optimizer": lambda groups: torch.optim.SGD(groups, lr=0.5, momentum=0.9)}),
    "edges drawn anew": (FREEDOM, True, {"num_neighbors": 4, "dropout": 0.3}, {}),
    "learned graphs": (LATTICE, True, {"num_neighbors": 4, "latent_dim": 8}, {}),
    "mixed similarities": (LATTICE, False, {"num_neighbors": 4, "latent_dim": 8, "mixture": "similarities"}, {}),
    "never validated": (VBPR, False, {}, {"eval_every": 5, "track_views": False}),
}
FOUR = ("clipped", "sparse", "self-loops", "without ids", "edges drawn anew")
FEATURES_CUT = ("clipped", "self-loops", "without ids")
"""What four processes train with the features of eight, eight, eight and six items, too."""


def objective_of(backbone: Any, distils: bool, data: HeteroData, **options: Any) -> Objective:
    student = build(backbone, data, 0, embedding_dim=8, **options).double()
    if not distils:
        return Objective(student)
    given = {m: type(tables)(*(table.double() for table in tables)) for m, tables in teachers().items()}
    has = {"textual": torch.arange(ITEMS) % 3 > 0}
    return DistillationWrapper(student, given, num_random_triples=20, has=has, distillation_weight=0.5)


def fitted(objective: Objective, **options: Any) -> dict[str, Any]:
    history = trainer(**({"max_epochs": 2, "batch_size": 79} | options)).fit(objective, planted_data())
    weights = {key: value for key, value in objective.state_dict().items() if value.is_floating_point()}
    return {"rows": history.rows, "weights": weights, "users": objective.student.num_users}


def trained(name: str, **more: Any) -> dict[str, Any]:
    backbone, distils, model, options = CASES[name]
    return fitted(objective_of(backbone, distils, planted_data(), **model), **options, **more)


def by_two(folder: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {name: trained(name, strategy="users") for name in CASES}
    narrow, lightgcn.NARROW = lightgcn.NARROW, 0
    found["wide features"] = trained("without ids", strategy="users")
    lightgcn.NARROW = narrow
    return found | {"checkpoints": checkpoints(folder), "refused": refusals(), "products": all_products()}


def by_four() -> dict[str, dict[str, Any]]:
    cut = {f"{name}, cut": trained(name, strategy="users", cut_features=True) for name in FEATURES_CUT}
    return {name: trained(name, strategy="users") for name in FOUR} | cut | {"products": all_products()}


def same(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-9) -> None:
    for row, other in zip(found["rows"], expected["rows"], strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            assert value == pytest.approx(other[name], rel=0, abs=tolerance, nan_ok=True), name
    assert found["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, atol=tolerance, rtol=0, equal_nan=True)


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    return {name: trained(name) for name in CASES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def two(folder) -> list[dict[str, dict[str, Any]]]:
    run(folder / "of one", max_epochs=1)
    return in_processes(by_two, folder)


@pytest.fixture(scope="module")
def four() -> list[dict[str, dict[str, Any]]]:
    return in_processes(by_four, size=4)


@pytest.mark.parametrize("name", [*CASES, "wide features"])
def test_two_processes_train_what_one_trains(name, alone, two):
    for result in two:
        same(result[name], alone["without ids" if name == "wide features" else name])
        assert result[name]["users"] == USERS


@pytest.mark.parametrize("name", [*FOUR, *(f"{name}, cut" for name in FEATURES_CUT)])
def test_four_processes_train_what_one_trains(name, alone, four):
    for result in four:
        same(result[name], alone[name.removesuffix(", cut")])


def checkpoints(folder: Path) -> dict[str, Any]:
    """Train with and without a break, write and read all kinds of checkpoints, and fill a disk."""
    found: dict[str, Any] = {"whole": run(folder / "unbroken")}
    run(folder / "broken", max_epochs=1)
    if present().first:
        for name in ("alone", "ddp", "full"):
            shutil.copytree(folder / "broken", folder / name)
    present().wait()
    found["resumed"] = run(folder / "broken")
    found["as ddp"] = run(folder / "ddp", strategy="ddp")
    found["of one"] = run(folder / "of one")
    found["of ddp"] = [run(folder / "of ddp", strategy="ddp", max_epochs=1), run(folder / "of ddp")][1]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not present().first:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    found["full disk"] = refusal(run, folder / "full")
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    present().wait()
    found["left"] = sorted(path.name for path in (folder / "full").rglob("*"))
    found["after a full disk"] = run(folder / "full")
    found["parts"] = sorted(path.name for path in (folder / "broken").rglob("*.pt"))
    found["refused"] = refusal(run, folder / "full", l2=0.5)
    return found


def run(folder: Path, strategy: str = "users", l2: float = 0.01, **options: Any) -> dict[str, Any]:
    objective = objective_of(VBPR, True, planted_data(), sparse=True)
    objective.l2 = l2
    several = {} if present().alone else {"strategy": strategy}
    return fitted(objective, checkpoint_dir=folder, averaging=0.9, **several, **options)


def refusal(function: Any, *arguments: Any, **options: Any) -> str:
    try:
        function(*arguments, **options)
    except InputError as error:
        return str(error)
    return ""


def test_a_run_that_was_broken_off_goes_on_with_the_same_bits(two):
    for found in (result["checkpoints"] for result in two):
        same(found["resumed"], found["whole"], 0.0)
        assert found["parts"] == ["last.pt", "part-00000-of-00002.pt", "part-00001-of-00002.pt"]


def test_any_number_of_processes_goes_on_from_a_checkpoint(two, folder):
    expected = run(folder / "one")
    same(run(folder / "alone"), expected)
    assert [path.name for path in (folder / "alone").iterdir()] == [CHECKPOINT_NAME]
    for found in (result["checkpoints"] for result in two):
        for name in ("whole", "as ddp", "of one", "of ddp"):
            same(found[name], expected)


def test_a_full_disk_leaves_the_checkpoint_before(two):
    for found in (result["checkpoints"] for result in two):
        assert "cannot be written (not all of it has reached the disk)" in found["full disk"]
        assert "\n" not in found["full disk"]
        assert len(found["left"]) == 4
        same(found["after a full disk"], found["whole"], 0.0)


def test_a_checkpoint_of_other_settings_is_refused(two):
    for found in (result["checkpoints"] for result in two):
        assert "found l2 = 0.01, expected 0.5" in found["refused"]


class Quiet(LightGCN):
    """Overrides nothing, but does not say that it can be cut either."""


class Forgetful(VBPR):
    """Says that it can be cut, and forgets its preferences."""

    strategies = frozenset({"users", "ddp"})
    user_rows = frozenset({"user_embedding"})


class Curious(Objective):
    """Looks at the validation part."""

    needs_whole = ""
    strategies = Objective.strategies

    def before_validation(self, features, graphs, score):
        score(self.student(features, graphs))


def refusals() -> dict[str, str]:
    data = planted_data()

    def fit(backbone: Any, objective: Any = Objective, data: HeteroData = data, **options: Any) -> str:
        model = objective(build(backbone, data, 0, embedding_dim=8))
        return refusal(trainer(max_epochs=1, **({"strategy": "users"} | options)).fit, model, data)

    with_friends = planted_data()
    with_friends["user", "knows", "user"].edge_index = torch.tensor([[0, 1], [39, 2]])
    return {
        "quiet": fit(Quiet),
        "quiet, auto": fit(Quiet, strategy="auto"),
        "forgetful": fit(Forgetful),
        "curious": fit(LightGCN, Curious),
        "curious, auto": fit(LightGCN, Curious, strategy="auto"),
        "friends": fit(LightGCN, data=with_friends),
        "optimizer": fit(LightGCN, optimizer=lambda groups: torch.optim.Adafactor(groups)),
        "few users": fit(LightGCN, data=tiny()),
    }


def tiny() -> HeteroData:
    features = {"visual": torch.ones(ITEMS, 4).numpy(), "textual": torch.ones(ITEMS, 3).numpy()}
    train, val = ([[0, 0], [1, 2]], [[0], [3]])
    return build_data(torch.tensor(train).numpy(), features, val=torch.tensor(val).numpy(), transform="none")


def test_what_cannot_be_cut_is_refused_in_one_line(two):
    first, second = (result["refused"] for result in two)
    assert first == second
    words = {
        "quiet": "found 'users' for Quiet, expected 'ddp'",
        "forgetful": "Forgetful.user_rows: found ['user_embedding'], expected ['preference.textual'",
        "curious": "strategy='users': found Curious, whose before_validation looks at users of all processes, expected",
        "friends": "a graph ('user', 'knows', 'user') whose edges lead from the users of one process",
        "optimizer": "optimizer: found Adafactor for strategy='users'",
        "few users": "strategy='users': found 1 users for 2 processes, expected one at least for each",
    }
    for name, message in first.items():
        assert words.get(name, "") in message, name
        assert "\n" not in message, name
        assert bool(message) == (name in words), name


@pytest.mark.parametrize("size", [2, 3, 40])
def test_users_are_cut_by_their_interactions(size):
    user = torch.cat([torch.full((1000,), 3), torch.arange(40).repeat(5)])
    cuts = [UserRows.balanced(user, 40, size, rank) for rank in range(size)]
    assert len({cut.starts for cut in cuts}) == 1
    assert cuts[0].starts[0] == 0
    assert cuts[-1].last == 40
    assert all(cut.own >= 1 for cut in cuts)
    assert sum(cut.own for cut in cuts) == 40
    even = [UserRows.balanced(torch.arange(40).repeat(5), 40, 2, rank).own for rank in range(2)]
    assert even == [20, 20]


def products(normalization: str, self_loops: bool) -> dict[str, torch.Tensor]:
    """Compare products with the parts of a graph, forward and backward, with those of the whole."""
    generator = torch.Generator().manual_seed(0)
    edges = torch.stack([torch.randint(7, (30,), generator=generator), torch.randint(5, (30,), generator=generator)])
    whole = Adjacency.from_interactions(edges, 7, 5, normalization, self_loops, dtype=torch.float64)
    x, grad = torch.randn(2, 12, 3, generator=generator, dtype=torch.float64)
    here, rows = present(), UserRows.balanced(edges[0], 7, present().size, present().rank)
    mine = (edges[0] >= rows.first) & (edges[0] < rows.last)
    own = torch.stack([edges[0, mine] - rows.first, edges[1, mine]])
    graph = UserPart.of(own, (rows.own, 5, 7), here, normalization, self_loops, dtype=torch.float64)
    chosen = torch.cat([torch.arange(rows.first, rows.last), torch.arange(7, 12)])
    found = {}
    for name, run in {"product": lambda g, x: g.matmul(x), "powers": lambda g, x: g.mean_of_powers(x, 3)}.items():
        both = []
        for g, start in ((whole, x), (graph, x[chosen])):
            start = start.clone().requires_grad_()
            out = run(g, start)
            own_grad = grad if g is whole else graph.sums.once(grad[chosen])  # Gradients of items are shares.
            out.backward(own_grad)
            both.append((out.detach(), start.grad))
        (out, of_x), (part, of_part) = both
        graph.sums.add_up(of_part)
        found[f"{name} {normalization}"] = (part - out[chosen]).abs().max()
        found[f"gradient of {name} {normalization}"] = (of_part - of_x[chosen]).abs().max()
    found["refused"] = refusal(graph.matmul, x, torch.ones(3)) and refusal(graph.dot, x, x)
    return found


def all_products() -> dict[str, Any]:
    return {f"{kind} {loops}": products(kind, loops) for kind in ("sym", "mean", "none") for loops in (False, True)}


def test_products_with_parts_are_those_with_the_whole_graph(two, four):
    for result in (*two, *four):
        for found in result["products"].values():
            assert "expected the whole graph" in found["refused"]
            assert all(difference < 1e-12 for name, difference in found.items() if name != "refused"), found


class Lost(Processes):
    """A process that hears, when the checkpoint has been written, that another one has ended."""

    times = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        yield
        self.times += 1
        if self.times == 2:
            raise InputError("process 1 of 2: another process has ended")


def test_parts_stay_if_a_process_ends_when_the_checkpoint_has_been_written(tmp_path):
    path, table, rows = tmp_path / CHECKPOINT_NAME, torch.arange(8.0).view(4, 2), UserRows((0, 4), 0)
    places = [("model", "table")]
    with pytest.raises(InputError, match="another process has ended"):
        write_parts(path, {"kind": IN_PARTS}, {"model": {"table": table}, "taken": 3}, places, rows, Lost())
    content = load_checkpoint(path, IN_PARTS)
    assert content["run"] == {"model": {"table": None}, "taken": 3}
    assert torch.equal(read_parts(path, content["run"], content["parts"], None)["model"]["table"], table)
    own = read_parts(path, content["run"], content["parts"], UserRows((0, 1, 3, 4), 1))
    assert torch.equal(own["model"]["table"], table[1:3])
    part = tmp_path / content["parts"]["folder"] / "part-00000-of-00001.pt"
    whole = part.read_bytes()
    place = whole.index(table.numpy().tobytes()) + 5
    part.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(InputError, match=r"part-00000-of-00001.pt: cannot be read .* has changed since it was written"):
        read_parts(path, content["run"], content["parts"], UserRows((0, 1, 3, 4), 1))
    part.unlink()
    with pytest.raises(InputError, match=r"part-00000-of-00001.pt: found no such file"):
        read_parts(path, content["run"], content["parts"], None)
