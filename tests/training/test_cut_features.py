"""Features of which every process has those of some items: what one process trains, what is held, what is sent."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_ckd import evaluate
from pyg_ckd.balance.objective import Objective
from pyg_ckd.data.mapped import file_of, mean_of_rows
from pyg_ckd.datasets import load, write_folder
from pyg_ckd.errors import InputError
from pyg_ckd.nn import FREEDOM, LATTICE, MMGCN, VBPR, EarlyFusionLightGCN, EgoGCN, LightGCN
from pyg_ckd.nn import feature_part as feature_parts
from pyg_ckd.nn.feature_part import FeaturePart
from pyg_ckd.nn.models import lightgcn
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.processes import ALONE, Processes, present
from pyg_ckd.training import build
from pyg_ckd.training.layouts import Users, choose_layout
from tests.training.problem import ITEMS, planted_data, trainer
from tests.training.several import in_processes
from tests.training.test_users import fitted, objective_of, refusal, same

PAIR = Processes(0, 2)


class Own(EarlyFusionLightGCN):
    """Can be cut by users, and says nothing of features."""

    strategies = frozenset({"users", "ddp"})

    def _map(self, modality: str, x: Tensor) -> Tensor:
        return x @ self.project[modality].weight.t()


class Rash(Own):
    """Says that it reads projections alone, and multiplies features itself."""

    strategies = frozenset({"users", "ddp"})
    projected = ("visual", "textual")


CUT, WHOLE = {"visual": (15, 15), "textual": (15, 15)}, {"visual": (30, 30), "textual": (30, 30)}
CASES: dict[str, tuple[Any, bool, dict[str, Any], dict[str, Any], dict[str, tuple[int, int]]]] = {
    "early fusion": (EarlyFusionLightGCN, False, {}, {"clip_norm": 0.05}, CUT),
    "propagated once": (EarlyFusionLightGCN, True, {"num_layers": 3}, {}, CUT),
    "wide features": (EarlyFusionLightGCN, True, {}, {}, CUT),
    "no item in a batch": (VBPR, True, {}, {"batch_size": 239}, CUT),
    "VBPR": (VBPR, False, {}, {"averaging": 0.9}, CUT),
    "one block": (VBPR, True, {"fusion": "sum"}, {}, CUT),
    "cosines": (VBPR, False, {"cosine": 3.0}, {}, CUT),
    "softmax": (VBPR, False, {}, {"ranking": "softmax", "num_negatives": 9}, CUT),
    "MMGCN": (MMGCN, True, {}, {}, CUT),
    "recomputed": (MMGCN, True, {"recompute": True, "self_loops": True}, {}, CUT),
    "as they are": (MMGCN, False, {"latent_dims": {"visual": 8}}, {}, {"visual": (15, 15), "textual": (30, 30)}),
    "no features": (LightGCN, False, {}, {}, CUT),
    "rows": (VBPR, True, {"sparse": True}, {"batch_size": 16}, WHOLE),
    "item graphs": (FREEDOM, True, {"num_neighbors": 4, "dropout": 0.3}, {}, WHOLE),
    "learned graphs": (LATTICE, False, {"num_neighbors": 4, "latent_dim": 8}, {}, WHOLE),
    "of one's own": (Own, True, {}, {}, WHOLE),
}


@contextmanager
def noted_rows() -> Iterator[dict[str, set[int]]]:
    """Note how many items' features a process has in its passes."""
    found: dict[str, set[int]] = {}
    original = Backbone.as_parameters

    def note(self: Backbone, features: Any) -> Any:
        for m, x in features.items():
            found.setdefault(m, set()).add(x.x.size(0) if isinstance(x, FeaturePart) else x.size(0))
        return original(self, features)

    Backbone.as_parameters = note
    yield found
    Backbone.as_parameters = original


def trained(name: str, **more: Any) -> dict[str, Any]:
    backbone, distils, model, options, _ = CASES[name]
    narrow, lightgcn.NARROW = lightgcn.NARROW, 0 if name == "wide features" else lightgcn.NARROW
    objective = objective_of(backbone, distils, planted_data(), **model)
    with noted_rows() as held:
        found = fitted(objective, **options, **more)
    lightgcn.NARROW = narrow
    found["held"] = held
    found["recall"] = evaluate(objective, planted_data(), k=5, metrics="recall")["recall@5"]
    return found


def cut(name: str, **more: Any) -> dict[str, Any]:
    return trained(name, strategy="users", cut_features=True, **more)


def by_two(folder: Path) -> dict[str, Any]:
    feature_parts.COLUMNS = 3  # Features of three and four columns, in two turns.
    found: dict[str, Any] = {name: cut(name) for name in CASES}
    unbroken = cut("VBPR", checkpoint_dir=folder / "unbroken")
    cut("VBPR", checkpoint_dir=folder / "broken", max_epochs=1)
    resumed = cut("VBPR", checkpoint_dir=folder / "broken")
    trained("VBPR", strategy="users", checkpoint_dir=folder / "whole", max_epochs=1)
    found["checkpoints"] = {"unbroken": unbroken, "resumed": resumed}
    found["checkpoints"]["from whole"] = cut("VBPR", checkpoint_dir=folder / "whole")
    own = {"strategy": "users", "shuffle": "own"}
    found["own"] = [trained("early fusion", cut_features=flag, **own) for flag in (True, False)]
    rash = objective_of(Rash, False, planted_data())
    found["rash"] = refusal(fitted, rash, strategy="users", cut_features=True)
    differ = objective_of(VBPR, False, planted_data())
    found["differ"] = refusal(fitted, differ, strategy="users", cut_features=present().first)
    return found | {"maps": maps(), "files": files(folder)}


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    return {name: trained(name) for name in CASES}


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("runs")
    data = load("synthetic", "none", num_users=40, num_items=31, num_interactions=300)
    for dtype in ("float32", "float16"):
        write_folder(data, folder / dtype, "standardize", dtype)
    return in_processes(by_two, folder)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_what_one_trains(name, alone, two):
    for rank, result in enumerate(two):
        same(result[name], alone[name])
        assert result[name]["recall"] == pytest.approx(alone[name]["recall"], abs=1e-9)
        # A teacher, a pass of validation and a step all have the same rows; only the last evaluation has all of them.
        assert result[name]["held"] == {m: {rows[rank]} for m, rows in CASES[name][4].items()}


def test_a_run_that_was_broken_off_goes_on_with_the_same_bits(two, alone):
    for found in (result["checkpoints"] for result in two):
        same(found["resumed"], found["unbroken"], 0.0)
        same(found["from whole"], alone["VBPR"])


def test_a_backbone_that_reads_more_than_it_says_is_refused_in_one_line(two):
    for result in two:
        assert "matmul__ of features of 'visual' of which each process has some items" in result["rash"]
        assert "\n" not in result["rash"]


def test_processes_that_draw_from_own_interactions_can_have_own_features_as_well(two):
    for result in two:
        found, expected = result["own"]
        same(found, expected)
        assert found["held"] == {m: {rows[0]} for m, rows in CUT.items()}


def test_processes_that_disagree_are_refused(two):
    for result in two:
        assert "cut_features: found several (process 1: True; process 2: False)" in result["differ"]


def maps() -> dict[str, Any]:
    """Compare a map of parts with that of the whole, forward and backward, and count what is sent."""
    here, found = present(), {}
    for items in (1, 3, 7, 12):
        generator = torch.Generator().manual_seed(items)
        x = torch.randn(items, 5, generator=generator, dtype=torch.float64)
        grads = torch.randn(here.size, items, 2, generator=generator, dtype=torch.float64)
        whole, lin = torch.nn.Linear(5, 2).double(), torch.nn.Linear(5, 2).double()
        for p, q in zip(whole.parameters(), lin.parameters(), strict=True):
            with torch.no_grad():
                p.copy_(torch.randn(p.shape, generator=generator))
                q.copy_(p)
        part = FeaturePart("visual", x[FeaturePart.block(items, here)], items, here)
        expected, calls, sent = whole(x), here.calls, here.bytes
        out = lin(part)
        expected.backward(grads.sum(dim=0))
        own = grads[here.rank].clone()
        out.backward(own)
        untouched = torch.equal(own, grads[here.rank])
        calls, sent = here.calls - calls, here.bytes - sent
        gathered = 8 * 2 * here.size * -(-items // here.size)
        here.add_up([p.grad for p in lin.parameters()])  # As a layout does.
        pairs = [(out, expected), (lin.weight.grad, whole.weight.grad), (lin.bias.grad, whole.bias.grad)]
        pairs.append((mean_of_rows(part), mean_of_rows(x)))
        found[items] = {
            "differ": max(float((a - b).abs().max()) for a, b in pairs),
            "untouched": untouched,
            "calls": calls,
            "beyond": sent - gathered - 8 * 2 * items,
        }
    with torch.autocast("cpu", torch.bfloat16):
        half = torch.nn.Linear(5, 2)(FeaturePart("visual", x[FeaturePart.block(12, here)].float(), 12, here))
    half.float().sum().backward()
    return found | {"half": half.dtype}


def test_a_map_of_parts_is_that_of_the_whole(two):
    for result in two:
        assert result["maps"].pop("half") == torch.bfloat16
        for found in result["maps"].values():
            assert found["differ"] < 1e-12
            assert found["untouched"]
            assert found["calls"] == 2
            assert found["beyond"] == 0


def files(folder: Path) -> dict[str, Any]:
    """Return what a process has of features in files."""
    found = {}
    for dtype in ("float32", "float16"):
        data = load(folder / dtype)
        for backbone in (EarlyFusionLightGCN, VBPR):
            objective = Objective(build(backbone, data, 0, embedding_dim=8))
            layout = choose_layout("users", present(), objective, cut_features=True)
            features, _ = layout.unpack(data, torch.device("cpu"), objective)
            for m, x in features.items():
                rows = x.x if isinstance(x, FeaturePart) else x
                expected = data["item"][m][layout_rows(31) if isinstance(x, FeaturePart) else slice(None)]
                right = torch.equal(rows, expected.to(rows.dtype))
                found[backbone.__name__, dtype, m] = rows.size(0), rows.dtype, file_of(rows) is not None, right
    return found


def layout_rows(items: int) -> slice:
    return FeaturePart.block(items, present())


def test_rows_in_files_are_read_by_whom_they_belong_to(two):
    for rank, result in enumerate(two):
        for (backbone, dtype, _), (rows, kind, mapped, right) in result["files"].items():
            assert right
            if backbone == "VBPR":  # Reads the rows of a batch from the file.
                assert (rows, kind, mapped) == (31, getattr(torch, dtype), True)
            else:
                assert (rows, kind, mapped) == ([16, 15][rank], torch.float32, dtype == "float32")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_blocks_hold_every_item_once(size):
    for items in (1, 2, 5, 16):
        blocks = [FeaturePart.block(items, Processes(rank, size)) for rank in range(size)]
        assert [i for block in blocks for i in range(items)[block]] == list(range(items))


def test_what_reads_rows_or_columns_is_refused():
    part = FeaturePart("visual", torch.randn(3, 4), 5, PAIR)
    assert (part.shape, part.size(), part.size(1)) == ((5, 4), (5, 4), 4)
    reads = {
        "a row": lambda: part[0],
        "a method": lambda: part.index_select(0, torch.tensor([0])),
        "a function": lambda: F.normalize(part),
        "a product": lambda: torch.ones(2, 5) @ part,
        "side by side": lambda: torch.cat([part, part]),
        "as a weight": lambda: F.linear(torch.ones(2, 4), part),
        "another mean": lambda: part.mean(1, True),
    }
    for name, read in reads.items():
        message = refusal(read)
        assert message.startswith("cut_features: found "), name
        assert "expected their projection (nn.Linear) and their mean alone" in message, name


def test_a_type_that_features_have_makes_no_copy():
    part = FeaturePart("visual", torch.randn(3, 4), 5, PAIR)
    assert part.to(torch.float32) is part
    other = part.to(torch.float64)
    assert (other.dtype, other.name, other.num_items) == (torch.float64, "visual", 5)


@pytest.mark.parametrize(
    ("backbone", "strategy", "message"),
    [
        (VBPR, "ddp", "cut_features: found True for VBPR under strategy='ddp', whose processes have all of them"),
        (VBPR, "columns", "cut_features: found True for VBPR under strategy='columns'"),
        (EgoGCN, "auto", "cut_features: found True for EgoGCN under strategy='ddp'"),
    ],
    ids=["ddp", "columns", "auto"],
)
def test_other_layouts_refuse_to_cut_features(backbone, strategy, message):
    objective = Objective(build(backbone, planted_data(), 0, embedding_dim=8))
    with pytest.raises(InputError) as error:
        choose_layout(strategy, PAIR, objective, cut_features=True)
    assert message in str(error.value)
    assert choose_layout("auto", ALONE, objective, cut_features=True).cut_features is False


def test_features_that_stay_whole_are_named(caplog):
    data = planted_data()
    layout = Users(PAIR)
    layout.cut_features = True
    with caplog.at_level(logging.WARNING, "pyg_ckd.training"):
        for backbone in (EarlyFusionLightGCN, FREEDOM):
            objective = Objective(build(backbone, data, 0, embedding_dim=8))
            features, _ = layout.unpack(data, torch.device("cpu"), objective)
            assert {type(x) for x in features.values()} == {FeaturePart if backbone is EarlyFusionLightGCN else Tensor}
    (record,) = caplog.records
    assert record.getMessage() == (
        "cut_features: FREEDOM reads features of 'visual', 'textual' otherwise than through a linear map: every "
        "process has those of all items"
    )


def test_one_process_has_all_features_whatever_it_is_told():
    objective = Objective(build(VBPR, planted_data(), 0, embedding_dim=8))
    with noted_rows() as held:
        trainer(max_epochs=1, cut_features=True).fit(objective, planted_data())
    assert held == {"visual": {ITEMS}, "textual": {ITEMS}}
