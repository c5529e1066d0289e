"""Several processes train what one trains: all losses, effects, metrics and weights, to rounding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd.balance import DistillationWrapper
from pyg_ckd.balance.discovery import build_inner, options_of, strategies
from pyg_ckd.balance.objective import Objective
from pyg_ckd.errors import InputError
from pyg_ckd.launching import launch
from pyg_ckd.nn import VBPR, backbones
from pyg_ckd.processes import ALONE, LARGE_SUM, Processes, present
from pyg_ckd.training import build, train_teachers
from pyg_ckd.training.layouts import choose_layout
from tests.training.problem import planted_data, teachers, trainer
from tests.training.several import in_processes

CASES = {
    f"{strategy}-{backbone}-{objective}": (strategy, backbone, objective)
    for strategy, names in {
        "users": ("LightGCN", "EarlyFusionLightGCN", "VBPR", "MMGCN"),
        "columns": ("LightGCN", "EarlyFusionLightGCN", "VBPR", "FREEDOM"),
        "ddp": (
            "LightGCN",
            "EarlyFusionLightGCN",
            "VBPR",
            "MMGCN",
            "FISM",
            "FREEDOM",
            "GRCN",
            "EgoGCN",
            "LATTICE",
            "MICRO",
            "DualGNN",
        ),
    }.items()
    for backbone in names
    for objective in ("plain", "ckd", "ckd-has")
    if objective == "plain" or backbone not in ("LightGCN", "FREEDOM", "EgoGCN", "LATTICE", "MICRO", "DualGNN")
}
OPTIONS: dict[str, dict[str, Any]] = {
    "ckd+": {"target": "best", "rows_weight": 1.0, "effect_base": "id"},
    "dyncim": {"inner": "samm", "pace_epochs": 2},
    "g-blending": {"period": 1},
    "lfm": {"rate": 0.0},
    "mi-balance": {"pretrain_epochs": 1},
    "multitask": {"valuation": 2.0},
    "odsw": {"inner": "ckd", "inner_options": {"num_random_triples": 20}, "temperature": 0.5},
    "ogm-ge": {"noise": 0.0},
    "relearn": {"every": 1},
    "unseen": {"alignment": 0.1},
}
"""What does more in two epochs than the defaults, or can be shared out where the defaults cannot."""
UNSURE = ("umurl",)
"""What divides by next to nothing in a batch of one triple, where rounding grows."""
SHARED = [name for name, cls in strategies().items() if not cls.needs_whole and name not in ("plain", "ckd", *UNSURE)]
CASES |= {f"ddp-VBPR-{name}": ("ddp", "VBPR", name) for name in (*SHARED, *UNSURE)}
CASES |= {f"ddp-VBPR-{name}-has": ("ddp", "VBPR", f"{name}-has") for name in OPTIONS}
SMALL = {"embedding_dim": 8}


def objective_of(backbone: str, name: str, data: HeteroData) -> Objective:
    student = build(backbones()[backbone], data, 0, **SMALL).double()
    if name == "plain":
        return Objective(student)
    given = {m: type(tables)(*(table.double() for table in tables)) for m, tables in teachers().items()}
    name, masked = name.removesuffix("-has"), name.endswith("-has")
    has = {"textual": torch.arange(data["item"].num_nodes) % 3 > 0} if masked else None
    if name == "ckd":
        return DistillationWrapper(student, given, num_random_triples=20, has=has, distillation_weight=0.5)
    cls, options = strategies()[name.rstrip("+")], OPTIONS.get(name, {})
    if "rows_weight" in options:  # Teachers as wide as the student's views.
        given = {m: type(tables)(*(torch.cat([table] * 4, dim=1) for table in tables)) for m, tables in given.items()}
    if "num_random_triples" in options_of(cls):
        options = {"num_random_triples": 20, **options}
    return build_inner(cls, student, options, given, has).double()


def trained(strategy: str, backbone: str, name: str, **options: Any) -> dict[str, Any]:
    """Train for two epochs; with strategies of :data:`SHARED`, one process has no triple of the last batch."""
    data = planted_data()
    objective = objective_of(backbone, name, data)
    size = 239 if name.removesuffix("-has") in (*SHARED, *OPTIONS) else 79  # Of 240 interactions.
    chosen = {"max_epochs": 2, "batch_size": size, "track_views": True} | options
    history = trainer(strategy=strategy, **chosen).fit(objective, data)
    weights = {key: value for key, value in objective.state_dict().items() if value.is_floating_point()}
    return {"rows": history.rows, "weights": weights, "calls": present().calls}


def all_cases() -> dict[str, dict[str, Any]]:
    return {key: trained(*case) for key, case in CASES.items()}


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    return {key: trained("auto", *case[1:]) for key, case in CASES.items()}


@pytest.fixture(scope="module")
def two() -> list[dict[str, dict[str, Any]]]:
    return in_processes(all_cases)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_what_one_trains(case, alone, two):
    expected = alone[case]
    for found in (result[case] for result in two):
        assert found["calls"] > 0
        for row, other in zip(found["rows"], expected["rows"], strict=True):
            assert row.keys() == other.keys()
            for name, value in row.items():
                assert value == pytest.approx(other[name], abs=1e-9, nan_ok=True), name
        for name, weight in expected["weights"].items():
            torch.testing.assert_close(found["weights"][name], weight, atol=1e-9, rtol=0, equal_nan=True)


def refused(work: Any, *arguments: Any, **options: Any) -> str:
    try:
        work(*arguments, **options)
    except InputError as error:
        return str(error)
    return "nothing was refused"


def taught(folder: str | None) -> dict[str, Any]:
    """Train teachers, and see which of them this process has trained."""
    trained_here: list[str] = []

    class Watch:
        def on_fit_start(self, pl_module: Objective, **kwargs: Any) -> None:
            trained_here.extend(pl_module.view)

    found = train_teachers(
        VBPR,
        planted_data(),
        trainer(max_epochs=2, callbacks=Watch()),
        cache_dir=folder,
        use_cache=folder is not None,
        embedding_dim=4,
    )
    return {
        "tables": dict(found),
        "epochs": {m: h.best_epoch for m, h in found.histories.items()},
        "here": trained_here,
    }


def sums_of_large_and_small() -> dict[str, Any]:
    """Add up a large tensor, one whose rows lie apart, and small ones."""
    here = present()
    large, shared = torch.arange(LARGE_SUM // 4, dtype=torch.float32), torch.ones(LARGE_SUM // 4)
    parts = {
        "large": large,
        "turned": torch.ones(2, LARGE_SUM // 4).t(),
        "small": torch.ones(3),
        "other": torch.ones(2),
    }
    calls = here.calls
    for part in parts.values():
        part.mul_(here.rank + 1)
    here.add_up([*parts.values(), shared, shared.view(2, -1)])  # As gradients of a sum can be.
    return {**parts, "shared": shared, "calls": here.calls - calls}


def one_way_or_another(folder: str) -> dict[str, Any]:
    """What does not need its own processes: teachers, refusals, disagreement, and going on after a break."""
    rank, data = present().rank, planted_data()
    found: dict[str, Any] = {"cached": taught(f"{folder}/teachers"), "apart": taught(None)}
    model = build(VBPR, data, 0, embedding_dim=4)
    found["devices"] = refused(trainer(devices=3).fit, model, data)
    found["device"] = refused(trainer(device="cpu:0").fit, model, data)
    found["strategy"] = refused(trainer(strategy="ddp").fit, build(backbones()["MGCN"], data, 0), data)
    found["seeds"] = refused(trainer(seed=rank).fit, model, data)
    found["weights"] = refused(trainer().fit, build(VBPR, data, rank, embedding_dim=4), data)

    class Own(Objective):
        def balance(self, out: Any, batch: Any) -> dict[str, torch.Tensor]:
            return {}

    found["objective"] = refused(trainer().fit, Own(model), data)
    options = {"batch_size": 79, "max_epochs": 1, "checkpoint_dir": f"{folder}/run"}
    trained("ddp", "VBPR", "ckd", **options)
    found["files"] = sorted(path.name for path in Path(folder, "run").iterdir())
    found["resumed"] = trained("ddp", "VBPR", "ckd", **options | {"max_epochs": 2})
    found["whole"] = trained("ddp", "VBPR", "ckd")
    found["few"] = trained("ddp", "VBPR", "ckd", batch_size=239, max_epochs=1)
    found["sums"] = sums_of_large_and_small()
    return found


@pytest.fixture(scope="module")
def ways(tmp_path_factory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("several")
    return [*in_processes(one_way_or_another, str(folder)), folder]


def test_large_tensors_are_summed_where_they_are_and_small_ones_together(ways):
    for found in (way["sums"] for way in ways[:2]):
        assert torch.equal(found["large"], 3 * torch.arange(LARGE_SUM // 4, dtype=torch.float32))
        for name, shape in (("turned", (LARGE_SUM // 4, 2)), ("small", (3,)), ("other", (2,))):
            assert torch.equal(found[name], torch.full(shape, 3.0))
        assert torch.equal(found["shared"], torch.full((LARGE_SUM // 4,), 2.0))
        assert found["calls"] == 5  # Of the small ones together, and of every large one.


def test_every_process_trains_some_of_the_teachers_and_all_have_the_bits_of_one(ways):
    expected = taught(None)
    for way in ("cached", "apart"):
        assert [sorted(result[way]["here"]) for result in ways[:2]] == [["visual"], ["textual"]]
        for result in ways[:2]:
            assert result[way]["epochs"] == expected["epochs"]
            for m, tables in expected["tables"].items():
                assert all(torch.equal(*pair) for pair in zip(result[way]["tables"][m], tables, strict=True))


@pytest.mark.parametrize(
    ("case", "words"),
    {
        "devices": "devices: found 3 on 1 machines in a group of 2 processes, expected as many as there are",
        "device": "device: found 'cpu:0' for 2 processes, expected a kind of device",
        "strategy": "strategy: found 2 processes for MGCN, whose losses are no means over the triples of a batch",
        "seeds": "settings of the training, seed: found several",
        "weights": "initial weights: found several",
        "objective": "strategy: found 2 processes for Own, which needs the batch whole, expected one process; a study "
        "trains several runs at a time, one process each (--workers). If all terms of Own are means over triples, "
        'declare needs_whole = "" in the class',
    }.items(),
)
def test_what_several_processes_cannot_share_is_refused_in_all_of_them(case, words, ways):
    for result in ways[:2]:
        assert words in result[case]
        assert "\n" not in result[case]


def test_several_processes_go_on_after_a_break_to_the_bit_and_one_goes_on_with_theirs(ways):
    for result in ways[:2]:
        assert result["files"] == ["last.pt"]
        assert result["resumed"]["rows"] == result["whole"]["rows"]
        assert all(torch.equal(w, result["resumed"]["weights"][k]) for k, w in result["whole"]["weights"].items())
    alone = trained("auto", "VBPR", "ckd", checkpoint_dir=ways[2] / "run", batch_size=79, max_epochs=3)
    expected = trained("auto", "VBPR", "ckd", batch_size=79, max_epochs=3)
    for row, other in zip(alone["rows"], expected["rows"], strict=True):
        assert row == pytest.approx(other, abs=1e-9, nan_ok=True)


def test_a_batch_of_fewer_triples_than_processes_leaves_some_without(ways):
    expected = trained("auto", "VBPR", "ckd", batch_size=239, max_epochs=1)  # 240 interactions.
    for result in ways[:2]:
        assert result["few"]["rows"][0] == pytest.approx(expected["rows"][0], abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", [name for name, cls in strategies().items() if cls.needs_whole])
def test_a_strategy_that_needs_something_whole_is_refused_with_what_it_is(name, monkeypatch):
    monkeypatch.delitem(OPTIONS, name, raising=False)
    objective = objective_of("VBPR", name, planted_data())
    with pytest.raises(InputError) as error:
        choose_layout("ddp", Processes(0, 2), objective)
    words = f"strategy: found 2 processes for {name}, which needs {strategies()[name].needs_whole} whole, expected one"
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)


def test_devices_without_a_group_are_refused_with_the_way_to_start_one():
    with pytest.raises(InputError, match=r"devices: found 2 on 1 machines outside a group of processes.* torchrun"):
        trainer(devices=2).fit(build(VBPR, planted_data(), 0), planted_data())
    for options, words in [
        ({"devices": 0}, "devices"),
        ({"devices": "many"}, "devices: found 'many', expected 'auto' or a number"),
        ({"num_nodes": 0}, "num_nodes"),
        ({"strategy": "fsdp"}, "unknown strategy 'fsdp'"),
    ]:
        with pytest.raises(InputError, match=words):
            trainer(**options)


def test_processes_without_numbers_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(InputError, match=r"processes: found 2 of them \(WORLD_SIZE\) without numbers"):
        trainer().fit(build(VBPR, planted_data(), 0), planted_data())


def test_a_process_without_others_exchanges_nothing():
    x = torch.ones(3, requires_grad=True)
    assert all(same is x for same in (ALONE.sum(x), ALONE.total(x), ALONE.gather_rows(x)))
    assert ALONE.gather(1) == [1]
    ALONE.add_up([x])
    ALONE.agree("x", 1)
    ALONE.wait()
    assert (ALONE.calls, ALONE.bytes, ALONE.share(5)) == (0, 0, (0, 5))
    assert launch() is ALONE
    assert choose_layout("ddp", ALONE, objective_of("MGCN", "plain", planted_data())).name == "ddp"
    with pytest.raises(InputError, match="no"), ALONE.together():
        raise InputError("no")


KILLED = """
import os, signal, sys, torch
from pyg_ckd.errors import InputError
from pyg_ckd.training import build
from pyg_ckd.nn import VBPR
from tests.training.problem import planted_data, trainer
rank, folder, deadly = int(os.environ["RANK"]), sys.argv[1], sys.argv[2] == "1"
class Death:
    def on_train_batch_end(self, epoch, batch_idx, **kwargs):
        if deadly and rank == 1 and (epoch, batch_idx) == (3, 1):
            os.kill(os.getpid(), signal.SIGKILL)
torch.set_num_threads(1)
data = planted_data()
try:
    history = trainer(max_epochs=4, checkpoint_dir=folder, callbacks=Death()).fit(build(VBPR, data, 0), data)
    print("rows", len(history.rows), flush=True)
except InputError as error:
    print("refused:", error, flush=True)
"""


def test_a_process_that_dies_ends_the_others_with_one_line_and_the_same_call_goes_on(tmp_path):
    def start(rank: int, deadly: bool) -> subprocess.Popen[str]:
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
        group |= {"MASTER_PORT": port, "OMP_NUM_THREADS": 1, "GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "tests"}
        environment = {**os.environ, **{name: str(value) for name, value in group.items()}}
        command = [sys.executable, "-c", KILLED, str(tmp_path / "run"), str(int(deadly))]
        return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    for deadly in (True, False):
        port = free_port()
        both = [start(rank, deadly) for rank in range(2)]
        said = [process.communicate(timeout=300)[0].splitlines() for process in both]
        if deadly:
            assert len(said[0]) == 1, said
            assert "process 1 of 2: another process has ended" in said[0][0]
            assert said[1] == []
            assert both[1].returncode < 0
        else:
            assert said == [["rows 4"], ["rows 4"]]


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
