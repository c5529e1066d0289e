"""Incremental training against plain loops: what is kept, what is aligned, and what may move."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch_geometric.data import HeteroData

from pyg_ckd import Objective, Trainer
from pyg_ckd.balance import DifficultyCurriculum, Incremental
from pyg_ckd.balance.given import added_rows_of
from pyg_ckd.balance.incremental import Adapter, rehearsal_loss
from pyg_ckd.data import RATES, RecordedTransform, TripletBatch, build_data, subgraph
from pyg_ckd.data.identity import Known
from pyg_ckd.data.inputs import embed, unpack
from pyg_ckd.errors import InputError
from pyg_ckd.nn import GRCN, VBPR, EarlyFusionLightGCN, backbones
from pyg_ckd.training import build, warm_start
from pyg_ckd.training.model import save_model
from tests.balance.test_ckd import margin, one_batch
from tests.balance.test_relational import by_hand, smooth
from tests.conftest import random_data
from tests.nn.models.zoo import BACKBONES, built, doubled
from tests.training.problem import planted_data, same_bits, trainer
from tests.training.several import in_processes

NEW_USERS, NEW_ITEMS = (2, 5), (1, 6)


def known_of(data, new_modalities: tuple[str, ...] = ()) -> Known:
    user, item = torch.arange(12), torch.arange(9)
    user[list(NEW_USERS)], item[list(NEW_ITEMS)] = -1, -1
    modality = torch.tensor([-1 if m in new_modalities else n for n, m in enumerate(data.modalities)])
    return Known(user, item, modality, tuple(data.modalities), "yesterday")


def started(data, backbone: str = "EarlyFusionLightGCN", new: tuple[str, ...] = (), **options) -> Incremental:
    """Return an objective whose student has moved on since it started."""
    objective = Incremental(built(BACKBONES[backbone], data), **options)
    graph = objective.prepare(*doubled(data))
    objective.begin_from(known_of(data, new))
    objective.begin_epoch(doubled(data)[0], graph)
    with torch.no_grad():
        for parameter in objective.student.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return objective


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("backbone", ["EarlyFusionLightGCN", "VBPR"])
def test_relations_of_known_items_are_kept_as_they_were(backbone, make_data):
    data = make_data(modalities=3)
    objective = started(data, backbone, preserve=2.0, rehearsal=0.0, alignment=0.0, num_items=17)
    batch = one_batch(data, 0)
    items = [i for i in dict.fromkeys(batch.positive[:17].tolist()) if i not in NEW_ITEMS]
    assert len(items) > 3
    now, old = (model(*doubled(data)).item.detach()[items] for model in (objective.student, objective.previous))
    expected = 2.0 * by_hand(_varying(now), _varying(old), 0.0)
    terms = objective.loss(*doubled(data), batch)
    assert set(terms) == {"bpr", "l2", "relations"}
    assert terms["relations"].item() == pytest.approx(expected, abs=1e-10)


def _varying(rows: Tensor) -> Tensor:
    return rows[:, (rows != rows[:1]).any(dim=0)]  # A user's bias is one and the same for all items.


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
@pytest.mark.parametrize("best", [False, True])
def test_the_rehearsal_keeps_margins_of_random_triples_of_who_is_known(best, lacking, make_data):
    data = make_data(modalities=2)
    has = {"mod1": torch.arange(9) % 4 > 0} if lacking else {}
    objective = started(data, preserve=0.0, rehearsal=0.5, alignment=0.0, best=best, has=has)
    batch = one_batch(data, 60)
    views = [["mod0", "mod1"], ["mod0"], ["mod1"]]
    now, old = ([model(*doubled(data), v) for v in views] for model in (objective.student, objective.previous))
    total, count = [0.0] * 3, [0] * 3
    for u, i, j in zip(*(x.tolist() for x in batch[3:6]), strict=True):
        if u in NEW_USERS or i in NEW_ITEMS or j in NEW_ITEMS:
            continue
        there = [True, True, not lacking or bool(has["mod1"][i] and has["mod1"][j])]
        t = [margin(out, u, i, j).item() for out in old]
        d = [margin(out, u, i, j).item() for out in now]
        target = t[0]
        if best:
            target = t[
                max((n for n in range(3) if there[n]), key=lambda n: d[n] * math.copysign(1, t[0]) * (t[0] != 0))
            ]
        for n in range(3):
            total[n] += smooth(d[n] - target) * there[n]
            count[n] += there[n]
    assert count[0] > 10
    expected = total[0] / count[0] + 0.01 * (total[1] / count[1] + total[2] / count[2])
    assert objective.loss(*doubled(data), batch)["rehearsal"].item() == pytest.approx(0.5 * expected, abs=1e-10)


@pytest.mark.usefixtures("double")
def test_the_alignment_compares_adapted_rows_of_a_modality_with_the_fused_ones(make_data):
    data = make_data(modalities=3)
    objective = Incremental(built(BACKBONES["EarlyFusionLightGCN"], data), alignment=0.2)
    objective.prepare(*doubled(data))
    with torch.no_grad():
        for adapter in objective.adapters.values():
            adapter.up.normal_(generator=torch.Generator().manual_seed(2))
    batch = one_batch(data, 0)
    items = list(dict.fromkeys(batch.positive.tolist()))
    student = objective.student
    full, empty = (student(*doubled(data), view).item.detach()[items] for view in (None, []))
    terms = objective.loss(*doubled(data), batch)
    assert set(terms) == {"bpr", "l2", *(f"alignment/{m}" for m in data.modalities)}
    for m in data.modalities:
        rows = student(*doubled(data), m).item.detach()[items] - empty
        adapter = objective.adapters[m]
        adapted = []
        for x in rows:
            share = (adapter.route.detach() @ x).softmax(dim=0)
            y = x.clone()
            for e in range(4):
                y += share[e] * (adapter.up.detach()[e] @ (adapter.down.detach()[e] @ x).clamp(min=0))
            adapted.append(y)
        assert terms[f"alignment/{m}"].item() == pytest.approx(0.2 * by_hand(torch.stack(adapted), full, 0), abs=1e-10)
    assert not _reached(objective, terms, "alignment/mod0", "user_embedding")


def _reached(objective: Objective, terms, term: str, name: str) -> bool:
    (grad,) = torch.autograd.grad(
        terms[term], [objective.student.get_parameter(name)], retain_graph=True, allow_unused=True
    )
    return grad is not None and bool(grad.abs().max() > 1e-6)


def test_an_adapter_begins_as_the_identity_and_its_frozen_experts_do_not_learn():
    adapter, x = Adapter(5, 3, 2, "visual"), torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(adapter(x), x)
    assert torch.equal(adapter.route, Adapter(5, 3, 2, "visual").route)
    adapter.freeze(x)
    assert not adapter.frozen.any()  # There is nothing in them yet.
    with torch.no_grad():
        adapter.up.fill_(0.1)
        adapter.route.zero_()
        adapter.route[1] = x[0]
    adapter.freeze(x[:1])
    assert adapter.frozen.tolist() == [False, True, False]
    adapter(x).square().sum().backward()
    for weight in (adapter.up, adapter.down, adapter.route):
        assert weight.grad[1].abs().max() == 0
        assert weight.grad[0].abs().max() > 0
    with torch.no_grad():
        adapter.route[2] = 10 * x[0]
    adapter.freeze(x[:1])
    assert adapter.frozen.tolist() == [False, True, True]


def test_a_new_modality_trains_alone_at_first(make_data):
    whole = make_data(modalities=3)
    before = whole.clone()
    before.modalities = ["mod2", "mod0"]
    options = {"lr": 0.05, "batch_size": 16, "monitor": "recall@5", "device": "cpu", "progress": False}
    earlier = build(VBPR, before, 0, embedding_dim=4)
    Trainer(max_epochs=1, **options).fit(earlier, before)
    objective = Incremental(build(VBPR, whole, 1, embedding_dim=4), epochs_alone=1, l2=0.0)
    changed = {}

    class Watch:
        def on_train_epoch_start(self, epoch):
            self.start = {k: v.clone() for k, v in objective.named_parameters()}

        def on_train_epoch_end(self, epoch):
            changed[epoch] = {k for k, v in objective.named_parameters() if not torch.equal(v, self.start[k])}

    Trainer(max_epochs=2, callbacks=Watch(), **options).fit(objective, whole, earlier)
    assert changed[1]
    assert all("mod1" in name for name in changed[1])
    assert {"student.user_embedding", "student.project.mod0.weight", "adapters.mod2.up"} <= changed[2]
    with pytest.raises(InputError, match=r"trained without modality 'mod1'.*such as incremental"):
        Trainer(max_epochs=1, **options).fit(build(VBPR, whole, 1, embedding_dim=4), whole, earlier)


def test_a_run_goes_on_with_the_same_bits_and_adapters_go_to_the_next_period(make_data, tmp_path):
    data = make_data(num_users=14)
    data.user_id = [f"u{n}" for n in range(14)]
    part = subgraph(data, {"user": torch.arange(12).flip(0)})
    options = {"lr": 0.05, "batch_size": 16, "monitor": "recall@5", "device": "cpu", "progress": False}

    def fit(epochs: int, start, graph=data, **more):
        objective = Incremental(build(EarlyFusionLightGCN, graph, 1, embedding_dim=4), alignment=0.1)
        history = Trainer(max_epochs=epochs, **options, **more).fit(objective, graph, start)
        return objective, history

    first, _ = fit(2, None, part)
    assert first.adapters["mod0"].up.abs().max() > 0
    save_model(tmp_path / "first.pt", first, part)
    whole, expected = fit(4, tmp_path / "first.pt")
    assert "loss/rehearsal" in expected.rows[0]
    fit(2, tmp_path / "first.pt", checkpoint_dir=tmp_path)
    resumed, history = fit(4, tmp_path / "first.pt", checkpoint_dir=tmp_path)
    assert history.rows == expected.rows
    assert same_bits(resumed.state_dict(), whole.state_dict())
    assert any(adapter.frozen.any() for adapter in whole.adapters.values())
    for m, adapter in whole.adapters.items():
        for kept in adapter.frozen.nonzero()[:, 0].tolist():
            assert torch.equal(adapter.up[kept], first.adapters[m].up[kept])


KNOWN_USERS, KNOWN_ITEMS = torch.tensor([9, 3, 0, 12, 5, 7, 1, 11, 13, 2]), torch.tensor([8, 2, 0, 10, 4, 6, 1, 3])
OPTIONS = {"lr": 0.05, "batch_size": 16, "monitor": "recall@5", "device": "cpu", "progress": False}


def two_days(named: bool = True, added: bool = False) -> tuple[HeteroData, HeteroData]:
    """Return a graph, and a later one with other clicks alone, new users and items, and perhaps a new modality."""
    later = random_data(num_users=16, num_items=12, modalities=3 if added else 2)
    rows = {"user": KNOWN_USERS, "item": KNOWN_ITEMS}
    if named:
        later.user_id, later.item_id = [f"u{n}" for n in range(16)], torch.arange(12) * 10 + 7
    else:
        rows = {"user": torch.arange(10), "item": torch.arange(8)}
    earlier = subgraph(later, rows)
    if added:
        earlier.modalities = ["mod2", "mod0"]
    edges = later[RATES].edge_index
    new = ~(torch.isin(edges[0], rows["user"]) & torch.isin(edges[1], rows["item"]))
    new[::5] = True
    later[RATES].edge_index = edges[:, new]
    return earlier, later


def start_of(kind: str, model: Objective, data: HeteroData, folder) -> object:
    if kind == "model":
        return model
    save_model(folder / "earlier.pt", model, data)
    return (model, data) if kind == "pair" else folder / "earlier.pt"


def every_margin(tables, user: Tensor, item: Tensor) -> Tensor:
    scores = tables.user[user] @ tables.item[item].t()
    return scores - scores[:, :1]


@pytest.mark.parametrize("kind", ["model", "pair", "file"])
@pytest.mark.parametrize("added", [False, True], ids=["", "new modality"])
@pytest.mark.parametrize("backbone", ["EarlyFusionLightGCN", "GRCN", "MMGCN", "FREEDOM", "VBPR"])
def test_margins_of_the_earlier_model_are_kept_as_they_were_on_its_own_graph(backbone, added, kind, tmp_path):
    data, later = two_days(added=added)
    cls = backbones()[backbone]
    earlier = Incremental(build(cls, data, 0, embedding_dim=4), alignment=0.1)
    Trainer(max_epochs=2, **OPTIONS).fit(earlier, data)
    objective = Incremental(build(cls, later, 1, embedding_dim=4), alignment=0.1)
    kept = {}

    class Watch:
        def on_train_epoch_end(self, epoch):
            kept.update(objective._kept)

    Trainer(max_epochs=1, callbacks=Watch(), **OPTIONS).fit(objective, later, start_of(kind, earlier, data, tmp_path))
    views = [list(data.modalities), *([m] for m in data.modalities)]
    assert set(kept) == {frozenset(view) for view in views}
    for view, tables in zip(views, embed(earlier, data, views), strict=True):
        own = every_margin(tables, torch.arange(10), torch.arange(8))
        assert_close(every_margin(kept[frozenset(view)], KNOWN_USERS, KNOWN_ITEMS), own, atol=1e-6, rtol=0)
        assert own.abs().max() > 1e-2
    assert objective.previous is None
    features, graph = unpack(data)
    rows = added_rows_of(earlier.student, features, graph, earlier._alone, torch.arange(8))
    for m, x in rows.items():  # Experts are frozen by what the earlier model routed to them.
        route, up = earlier.adapters[m].route, earlier.adapters[m].up
        share = (x @ route.detach().t()).softmax(dim=1).mean(dim=0)
        relied = (share > 1 / 4) & (up != 0).flatten(1).any(dim=1)
        assert torch.equal(objective.adapters[m].frozen, relied)


def test_rows_without_ids_are_the_same_by_number_in_a_file(tmp_path):
    data, later = two_days(named=False)
    earlier = Objective(build(GRCN, data, 0, embedding_dim=4))
    Trainer(max_epochs=1, **OPTIONS).fit(earlier, data)
    objective = Incremental(build(GRCN, later, 1, embedding_dim=4))
    warm_start(objective, later, start_of("file", earlier, data, tmp_path))
    rows = torch.arange(10), torch.arange(8)
    kept = next(iter(objective._kept.values()))
    assert_close(every_margin(kept, *rows), every_margin(embed(earlier, data)[0], *rows), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("gone", r"the graph is gone.*Give start_from=\(model, graph\)"),
        ("changed", "the graph was changed in place"),
        ("left", "the graph lacks item"),
        ("features", "has other features 'mod1'"),
    ],
)
def test_where_the_earlier_graph_cannot_be_had_a_copy_is_read_on_that_of_today(case, message, tmp_path):
    data, later = two_days()
    earlier = Objective(build(GRCN, data, 0, embedding_dim=4))
    Trainer(max_epochs=1, **OPTIONS).fit(earlier, data)
    start = start_of("file" if case in ("left", "features") else "model", earlier, data, tmp_path)
    if case == "gone":
        del data
        gc.collect()
    elif case == "changed":
        data[RATES].edge_index = data[RATES].edge_index[:, 1:]
    elif case == "left":
        later = subgraph(later, {"item": torch.arange(10)})
    else:
        later["item"]["mod1"][4] += 1
    objective = Incremental(build(GRCN, later, 1, embedding_dim=4))
    with pytest.warns(UserWarning, match=message):
        Trainer(max_epochs=1, **OPTIONS).fit(objective, later, start)
    assert objective.previous is not None
    assert {len(tables.user) for tables in objective._kept.values()} == {16}
    fresh = Incremental(build(GRCN, later, 1, embedding_dim=4))
    fresh.load_state_dict(objective.state_dict())  # What it began from is no state of its own.


def test_a_model_that_was_copied_or_pickled_still_knows_whose_its_rows_are():
    data, later = two_days()
    earlier = build(VBPR, data, 0, embedding_dim=4)
    Trainer(max_epochs=1, **OPTIONS).fit(earlier, data)
    objective = Incremental(build(VBPR, later, 1, embedding_dim=4))
    warm_start(objective, later, copy.deepcopy(earlier))
    assert objective.previous is None
    again = pickle.loads(pickle.dumps(earlier))
    with pytest.warns(UserWarning, match="the graph is gone"):
        warm_start(objective, later, again)
    pickle.dumps(objective)


def two_periods(backbone: str) -> dict:
    """Train on after a period in which only some of the users and items were there."""
    later = planted_data()
    earlier = subgraph(later, {"user": torch.arange(1, 31).flip(0), "item": torch.arange(0, 18)})
    cls = backbones()[backbone]
    first = build(cls, earlier, 0, embedding_dim=4).double()
    objective = Incremental(build(cls, later, 1, embedding_dim=4).double(), rehearsal=1.0, num_random_triples=200)
    history = trainer(max_epochs=2).fit(objective, later, (first, earlier))
    assert objective.previous is None
    state = {k: v for k, v in objective.state_dict().items() if v.is_floating_point()}
    return {"rows": history.rows, "weights": state}


@pytest.mark.parametrize("backbone", ["VBPR", "EarlyFusionLightGCN"])
def test_several_processes_keep_the_margins_of_all_users(backbone):
    expected = two_periods(backbone)
    for found in in_processes(two_periods, backbone):
        for row, other in zip(found["rows"], expected["rows"], strict=True):
            for name in ("loss/rehearsal", "loss/relations", "loss/bpr"):
                assert row[name] == pytest.approx(other[name], rel=0, abs=1e-9)
        for name, weight in expected["weights"].items():
            assert_close(found["weights"][name], weight, atol=1e-9, rtol=0)


def test_an_expert_that_was_frozen_once_stays_so_in_all_later_periods(tmp_path):
    data, later = two_days()
    first = Incremental(build(VBPR, data, 0, embedding_dim=4), alignment=0.1)
    Trainer(max_epochs=1, **OPTIONS).fit(first, data)
    for adapter in first.adapters.values():
        adapter.frozen[:] = torch.tensor([True, False, True, False])
        with torch.no_grad():
            adapter.route[1], adapter.route[0] = 0.0, -50.0  # Nothing is routed to the first any more.
    for kind in ("model", "file"):
        objective = Incremental(build(VBPR, later, 1, embedding_dim=4), alignment=0.1)
        Trainer(max_epochs=2, **OPTIONS).fit(objective, later, start_of(kind, first, data, tmp_path))
        for m, adapter in objective.adapters.items():
            assert adapter.frozen[[0, 2]].all()
            for name in ("route", "up", "down"):
                now, before = getattr(adapter, name), getattr(first.adapters[m], name)
                assert torch.equal(now[adapter.frozen], before[adapter.frozen])
                assert adapter.frozen.all() or not torch.equal(now, before)


def test_it_trains_inside_a_curriculum(make_data):
    data = make_data()
    earlier, options = build(VBPR, data, 0, embedding_dim=4), {"monitor": "recall@5", "progress": False}
    wrapper = DifficultyCurriculum(Incremental(build(VBPR, data, 1, embedding_dim=4)))
    rows = Trainer(max_epochs=1, device="cpu", **options).fit(wrapper, data, (earlier, data)).rows
    assert rows[0]["loss/rehearsal"] > 0


def test_nothing_counts_where_nobody_is_known():
    margins, target = torch.randn(3, 5), torch.randn(5)
    batch = TripletBatch(*torch.zeros(6, 5, dtype=torch.int64))
    assert rehearsal_loss(margins, target, torch.zeros(3, 5, dtype=torch.bool), batch).item() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preserve": -1.0}, "preserve: found -1.0"),
        ({"rehearsal": math.nan}, "rehearsal: found nan"),
        ({"alignment": math.inf}, "alignment: found inf"),
        ({"experts": 0}, "experts: found 0"),
        ({"rank": 0}, "rank: found 0"),
        ({"epochs_alone": -1}, "epochs_alone: found -1"),
        ({"num_items": 1}, "num_items: found 1, expected at least 2"),
        ({"num_random_triples": 0}, "num_random_triples: found 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message, make_data):
    with pytest.raises(InputError, match=message):
        Incremental(build(VBPR, make_data(), 0), **options)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_new_objective_takes_the_state_of_a_trained_one(wrapped, make_data):
    data = make_data()

    def made(**options) -> Objective:
        objective = Incremental(built(BACKBONES["VBPR"], data), **options)
        return DifficultyCurriculum(objective, stage_epochs=1) if wrapped else objective

    trained = made().float()
    Trainer(max_epochs=1, progress=False, device="cpu", monitor="recall@5").fit(trained, data)
    new, state = made().float(), trained.state_dict()
    assert any(".adapters." in f".{name}" for name in state)
    new.load_state_dict(state)
    assert state.keys() == new.state_dict().keys()
    assert all(torch.equal(value, new.state_dict()[name]) for name, value in state.items())
    Trainer(max_epochs=1, progress=False, device="cpu", monitor="recall@5").fit(new, data)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        made(alignment=0.0).float().load_state_dict(state)


@pytest.mark.parametrize("lacking", [False, True])
def test_a_modality_of_today_joins_those_that_are_prepared_as_yesterday(lacking, tmp_path):
    rng = np.random.default_rng(0)
    visual, audio = rng.normal(3.0, 2.0, (30, 5)), rng.normal(size=(30, 4))
    keys = rng.permutation(20 * 30)[:300]
    ids = {"num_users": 20, "user_id": [f"u{n}" for n in range(20)]}
    pairs = np.stack([keys // 30, keys % 30])
    old = pairs[:, (pairs[1] < 25)]
    monday = build_data(old, {"visual": visual[:25]}, item_id=range(25), **ids)
    model = VBPR.from_data(monday, embedding_dim=4)
    Trainer(max_epochs=2, **OPTIONS).fit(model, monday)
    save_model(tmp_path / "monday.pt", model, monday)
    has = {"audio": np.arange(30) % 4 > 0} if lacking else None
    features = {"visual": visual, "audio": audio}
    recorded = RecordedTransform(monday)
    tuesday = build_data(pairs, features, item_id=range(30), has=has, transform=recorded, **ids)
    objective = Incremental(VBPR.from_data(tuesday, embedding_dim=4))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "start_from")  # Monday's graph is found in Tuesday's.
        Trainer(max_epochs=1, **{**OPTIONS, "lr": 1e-9}).fit(objective, tuesday, tmp_path / "monday.pt")
    for name, value in model.state_dict().items():
        now = objective.student.state_dict()[name]
        assert_close(now[: len(value)] if now.dim() else now, value, atol=1e-6, rtol=0)
    save_model(tmp_path / "tuesday.pt", objective, tuesday)
    again = build_data(pairs, features, item_id=range(30), has=has, transform=RecordedTransform(tuesday), **ids)
    for m in features:
        assert_close(again["item"][m], tuesday["item"][m], atol=1e-6, rtol=0)
    later = Incremental(VBPR.from_data(again, embedding_dim=4))
    Trainer(max_epochs=1, **OPTIONS).fit(later, again, tmp_path / "tuesday.pt")
