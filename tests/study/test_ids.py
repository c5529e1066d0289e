"""Ids of users and items in the models of studies and searches, which no run computes with."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd import Trainer
from pyg_ckd.data import RATES, build_data
from pyg_ckd.data.inputs import held_out
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from pyg_ckd.serving import Recommender
from pyg_ckd.study import Study, StudySettings
from pyg_ckd.training.model import load_model, open_model
from tests.study import search_problem
from tests.study.problem import TRAINER, numbers
from tests.training.problem import ITEMS, USERS, planted_data


def named(prefix: str = "u", ids: bool = True) -> HeteroData:
    """Return the planted graph with ids."""
    data = planted_data()
    if ids:
        data.user_id, data.item_id = [f"{prefix}{n}" for n in range(USERS)], torch.arange(ITEMS) + 500
    return data


def in_rows(user: np.ndarray, item: np.ndarray, newcomers: int = 0) -> HeteroData:
    """Return the named graph in another order of rows, with users and items who are new at the end of the order."""
    data = named()
    place = np.argsort(user), np.argsort(item)
    rng = np.random.default_rng(5)
    edges = {
        s: np.stack([place[n][e] for n, e in enumerate(held_out(data, s).numpy())]) for s in ("train", "val", "test")
    }
    new = np.array([[USERS + n, 3 * n] for n in range(newcomers)] + [[n, ITEMS + n] for n in range(newcomers)])
    if newcomers:
        pairs = np.stack([place[0][new[:, 0]], place[1][new[:, 1]]])
        edges["train"] = np.concatenate([edges["train"], pairs], axis=1)
    wide = {m: np.concatenate([x, rng.normal(size=(newcomers, x.shape[1]))])[item] for m, x in raw(data).items()}
    return build_data(
        edges["train"],
        wide,
        val=edges["val"],
        test=edges["test"],
        num_users=user.size,
        user_id=[f"u{n}" for n in user],
        item_id=item + 500,
        transform="none",
    )


def raw(data: HeteroData) -> dict[str, np.ndarray]:
    return {m: data["item"][m].numpy() for m in data.modalities}


def study(folder: Path, data: HeteroData, workers: int = 1, runs: Path | None = None, **options) -> Study:
    settings = {"model": {"embedding_dim": 4}, "distillation": {"num_random_triples": 20}, "trainer": dict(TRAINER)}
    more = {"contenders": ["ckd"], "baselines": (), "runs": runs, "workers": workers}
    return Study(data, VBPR, folder, StudySettings(**settings, k=(3,)), **(more | options))


def models(folder: Path, count: int) -> list[Path]:
    found = sorted(folder.glob("*/model.pt"))
    assert len(found) == count
    return found


def serves(path: Path) -> None:
    """Require that a model meets its graph in other rows, serves a newer one and begins a training on it."""
    rng = np.random.default_rng(2)
    shuffled = in_rows(rng.permutation(USERS), rng.permutation(ITEMS))
    model, graph = open_model(path, shuffled)
    plain = load_model(path, named())
    assert list(graph.user_id) == [f"u{n}" for n in range(USERS)]
    for name, value in model.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name])
    newer = in_rows(rng.permutation(USERS + 2), rng.permutation(ITEMS + 2), newcomers=2)
    lists = Recommender.load(path, newer).recommend(["u3", f"u{USERS}"], k=4).to_frame()
    old = Recommender.load(path, named()).recommend(["u3"], k=ITEMS).to_frame()
    kept = lists[(lists.user == "u3") & (lists["item"] < 500 + ITEMS)]
    assert len(kept) >= 2
    for item, score in zip(kept["item"], kept.score, strict=True):
        assert score == pytest.approx(old.score[old["item"] == item].item(), abs=1e-4)
    tomorrow = VBPR.from_data(newer, embedding_dim=4)
    rows = [newer.user_id.index(f"u{n}") for n in range(USERS)]
    Trainer(max_epochs=1, lr=1e-9, progress=False, device="cpu").fit(tomorrow, newer, start_from=path)
    table = load_model(path, named()).state_dict()
    for name, value in tomorrow.state_dict().items():
        if value.dim() and value.size(0) == USERS + 2:
            torch.testing.assert_close(value[rows], table[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("workers", [1, 2])
def test_models_of_a_study_hold_ids_whoever_makes_them(workers: int, tmp_path) -> None:
    study(tmp_path / "a", named(), workers, tmp_path / "runs").run()
    for path in models(tmp_path / "runs", 2):
        serves(path)


def test_models_of_a_search_hold_ids(tmp_path) -> None:
    search_problem.small(tmp_path, data=named(), **search_problem.PLAIN).run()
    for path in sorted(tmp_path.glob("runs/*/model.pt"))[:1]:
        serves(path)


def test_ids_do_not_decide_which_runs_are_found_and_come_into_files_that_lack_them(tmp_path) -> None:
    runs, said = tmp_path / "runs", []
    study(tmp_path / "a", named(ids=False), runs=runs).run()
    before = {path: torch.load(path, weights_only=True) for path in models(runs, 2)}
    assert all(content["graph"]["ids"] == {"user": None, "item": None} for content in before.values())
    study(tmp_path / "b", named(), runs=runs, say=said.append).run()
    assert not [line for line in said if line.startswith("seed")]
    for path, content in before.items():
        after = torch.load(path, weights_only=True)
        assert after["graph"].pop("ids")["user"][:2] == ["u0", "u1"]
        del content["graph"]["ids"]
        assert str(after["about"]) == str(content["about"])
        assert all(torch.equal(after["state"][name], value) for name, value in content["state"].items())
        serves(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study(tmp_path / "c", named(ids=False), runs=runs).run()  # Whoever has no ids takes none away.
        study(tmp_path / "d", named(), runs=runs).run()
    assert [load_model(path, named(ids=False)) for path in models(runs, 2)]
    serves(path)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_study_of_other_ids_uses_results_and_leaves_the_ids_of_the_first(workers: int, tmp_path) -> None:
    runs = tmp_path / "runs"
    first = study(tmp_path / "a", named(), runs=runs).run()
    before = {path: path.read_bytes() for path in models(runs, 2)}
    if workers == 1:
        with pytest.warns(UserWarning, match=r"other ids \(user 'u0' and user 'x0' in row 0\)") as caught:
            second = study(tmp_path / "b", named("x"), workers, runs).run()
        assert "give the study a folder of runs of its own" in str(caught[0].message)
    else:
        second = study(tmp_path / "b", named("x"), workers, runs).run()
    assert {path: path.read_bytes() for path in models(runs, 2)} == before
    assert numbers(first) == numbers(second)
    with pytest.raises(InputError, match="lacks user 'u0'"):
        Recommender.load(path_of(runs), named("x"))


def path_of(runs: Path) -> Path:
    return models(runs, 2)[0]


def test_workers_that_stay_from_call_to_call_take_the_ids_of_each(tmp_path) -> None:
    study(tmp_path / "a", named(), 2, tmp_path / "first").run()
    other = copy.copy(named("x"))
    assert torch.equal(other[RATES].edge_index, named()[RATES].edge_index)
    place = tmp_path / "a"
    study(place, other, 2, tmp_path / "first", baselines=("lightgcn",)).run()
    for path in models(tmp_path / "first", 3):
        ids = torch.load(path, weights_only=True)["graph"]["ids"]["user"]
        assert ids[0] == ("x0" if path.parent.name.startswith("lightgcn") else "u0")
