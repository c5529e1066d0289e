"""A run is gone on with if the same parameters are trained in the same order, and is refused otherwise."""

from __future__ import annotations

import pytest
import torch

from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR, LightGCN
from pyg_ckd.training import build, load_checkpoint
from tests.training.problem import planted_data, trainer
from tests.training.several import in_processes

ALL = "expected one of the same parameters, of which the same are trained and not frozen"


def run(folder, frozen=(), epochs=1, backbone=LightGCN, **options):
    data = planted_data()
    model = build(backbone, data, 0, embedding_dim=4)
    for name, p in model.named_parameters():
        p.requires_grad_(not name.startswith(tuple(frozen)))
    return trainer(max_epochs=epochs, checkpoint_dir=folder, **options).fit(model, data)


def forget_names(folder) -> None:
    """Leave a checkpoint as it was written before there were names."""
    content = torch.load(folder / "last.pt", weights_only=True)
    del content["run"]["trained"]
    torch.save(content, folder / "last.pt")


FROZEN = {
    "larger": (
        LightGCN,
        ["user_emb"],
        ["item_emb"],
        "trains student.item_embedding .* this run student.user_embedding",
    ),
    "smaller": (
        LightGCN,
        ["item_emb"],
        ["user_emb"],
        "trains student.user_embedding .* this run student.item_embedding",
    ),
    "more": (LightGCN, ["item_emb"], [], "trains none .* this run student.item_embedding besides"),
    "alike": (VBPR, ["preference.visual"], ["preference.textual"], "student.preference.textual that this run does not"),
}


@pytest.mark.parametrize("averaging", [0.0, 0.9])
@pytest.mark.parametrize("case", FROZEN)
def test_a_run_that_trains_other_parameters_is_refused(case, averaging, tmp_path):
    backbone, before, now, words = FROZEN[case]
    run(tmp_path, before, backbone=backbone, averaging=averaging)
    with pytest.raises(InputError, match=f"{words}.*; {ALL}"):
        run(tmp_path, now, 3, backbone, averaging=averaging)
    assert len(run(tmp_path, before, 3, backbone, averaging=averaging).rows) == 3


def adam(step: int):
    def make(groups):
        return torch.optim.AdamW([{"params": g["params"][::step]} for g in groups], lr=0.01)

    return make


def test_the_same_parameters_in_another_order_are_refused(tmp_path):
    run(tmp_path, optimizer=adam(1))
    with pytest.raises(InputError, match=r"in another order: student.user_emb.* where this run has student.item_em"):
        run(tmp_path, epochs=3, optimizer=adam(-1))
    assert len(run(tmp_path, epochs=3, optimizer=adam(1)).rows) == 3


def test_names_are_those_of_the_groups_and_of_the_average(tmp_path):
    run(tmp_path, ["preference.visual"], backbone=VBPR, averaging=0.9)
    state = load_checkpoint(tmp_path / "last.pt", "run")["run"]
    groups, (average,) = state["trained"]["optimizer"], state["trained"]["average"]
    assert [len(names) for names in groups] == [len(g["params"]) for g in state["optimizer"]["param_groups"]]
    shapes = {name: x.shape for name, x in state["model"].items()}
    assert [x.shape for x in state["average"]["average"]] == [shapes[name] for name in average]
    order = [name for names in groups for name in names]
    assert sorted(order) == sorted(average)
    for n, moments in state["optimizer"]["state"].items():
        assert moments["exp_avg"].shape == shapes[order[n]]


@pytest.mark.parametrize(("averaging", "frozen"), [(0.0, []), (0.9, []), (0.9, ["item_emb"])])
def test_a_run_of_before_is_gone_on_with_to_the_bit(averaging, frozen, tmp_path):
    run(tmp_path / "one", frozen, averaging=averaging)
    run(tmp_path / "two", frozen, averaging=averaging)
    forget_names(tmp_path / "two")
    one, two = (run(tmp_path / name, frozen, 3, averaging=averaging) for name in ("one", "two"))
    assert one.rows == two.rows


@pytest.mark.parametrize("frozen", [(["user_emb"], ["item_emb"]), (["item_emb"], ["user_emb"])])
def test_a_run_of_before_with_moments_of_other_shapes_is_refused(frozen, tmp_path):
    before, now = frozen
    run(tmp_path, before)
    forget_names(tmp_path)
    words = r"found exp_avg of shape \[\d0, 4\] for student\.\w+ of shape \[\d0, 4\]"
    with pytest.raises(InputError, match=f"{words}.*; {ALL}"):
        run(tmp_path, now, 3)


def test_a_run_of_before_with_other_numbers_of_parameters_is_refused(tmp_path):
    run(tmp_path, ["item_emb"])
    forget_names(tmp_path)
    with pytest.raises(InputError, match=rf"found groups of 1 parameters, trained are 2\); {ALL}"):
        run(tmp_path, epochs=3)


def test_a_run_of_before_with_averages_of_other_shapes_is_refused(tmp_path):
    run(tmp_path, averaging=0.9)
    forget_names(tmp_path)
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    content["run"]["average"]["average"][0] = torch.ones(1, 4)
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(InputError, match=r"found average of shape \[1, 4\] for student"):
        run(tmp_path, epochs=3, averaging=0.9)


LAYOUTS = ("users", "columns", "ddp")


def frozen_otherwise(folder) -> dict[str, object]:
    """Go on from runs of one process in two, with names and without, with the same parameters and with others."""
    found = {}
    for strategy in LAYOUTS:
        for kind in ("named", "of before"):
            place = folder / f"{strategy}, {kind}"
            try:
                run(place / "other", ["item_emb"], 2, averaging=0.9, strategy=strategy)
            except InputError as error:
                found[f"{strategy}, {kind}"] = str(error)
            found[f"{strategy}, {kind}, same"] = run(place / "same", [], 2, averaging=0.9, strategy=strategy).rows
    return found


def test_several_processes_refuse_other_parameters_too(tmp_path):
    for strategy in LAYOUTS:
        for kind in ("named", "of before"):
            for place, frozen in (("other", ["user_emb"]), ("same", [])):
                folder = tmp_path / f"{strategy}, {kind}" / place
                run(folder, frozen, averaging=0.9)
                if kind == "of before":
                    forget_names(folder)
    expected = run(tmp_path / "alone", [], 2, averaging=0.9).rows
    for found in in_processes(frozen_otherwise, tmp_path):
        for name, result in found.items():
            if isinstance(result, str):
                assert "trained and not frozen" in result, name
            else:
                assert result[-1]["loss/bpr"] == pytest.approx(expected[-1]["loss/bpr"], abs=1e-5), name
        assert len(found) == 12
