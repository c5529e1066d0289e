"""A model begins with what an earlier one has learnt: rows by id, newcomers from what is known, all else as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch_geometric.data import HeteroData

from pyg_ckd import Objective, Trainer
from pyg_ckd.balance import MultitaskObjective
from pyg_ckd.balance.reliability import ReliabilityObjective
from pyg_ckd.data import RATES, subgraph
from pyg_ckd.data.inputs import embed
from pyg_ckd.datasets import synthetic_multimodal
from pyg_ckd.errors import InputError
from pyg_ckd.nn import GRCN, VBPR, Backbone, as_backbone
from pyg_ckd.training import build, warm_start
from pyg_ckd.training.model import load_model, save_model
from pyg_ckd.training.warm_start import table_dims
from tests.conftest import random_data
from tests.nn.models.zoo import BACKBONES, Toy, every_backbone
from tests.training.problem import same_bits, trainer

USERS, ITEMS = [9, 3, 0, 12, 5, 7, 1, 11, 13, 2, 8, 4], [8, 2, 0, 10, 4, 6, 1, 3, 5]


def named(data: HeteroData) -> HeteroData:
    data.user_id = [f"u{row}" for row in range(data["user"].num_nodes)]
    data.item_id = torch.arange(data["item"].num_nodes) * 10 + 7
    return data


@pytest.fixture(name="today")
def _today() -> HeteroData:
    return named(random_data(num_users=14, num_items=11))


@pytest.fixture(name="yesterday")
def _yesterday(today) -> HeteroData:
    """The graph of some users and items of today's, in another order."""
    return subgraph(today, {"user": torch.tensor(USERS), "item": torch.tensor(ITEMS)})


def drawn(make: Callable[[HeteroData], Backbone], data: HeteroData, seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    model = make(data)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    return model


@every_backbone
def test_rows_are_matched_by_id_and_all_else_is_taken_as_it_is(make, yesterday, today):
    earlier, model = drawn(make, yesterday), drawn(make, today, seed=1)
    warm_start(model, today, (earlier, yesterday))
    before, counted = earlier.state_dict(), 0
    for name, now in model.state_dict().items():
        if now.size(0) == 14:
            for row, was in enumerate(USERS):
                torch.testing.assert_close(now[was], before[name][row], rtol=0, atol=0)
            for new in {6, 10}:
                torch.testing.assert_close(now[new], before[name].mean(dim=0), rtol=0, atol=1e-6)
        elif now.size(0) == 11:
            for row, was in enumerate(ITEMS):
                torch.testing.assert_close(now[was], before[name][row], rtol=0, atol=0)
            assert now.isfinite().all()
        else:
            assert torch.equal(now, before[name])
        counted += now.size(0) in (11, 14)
    assert counted > 0


@every_backbone
def test_a_graph_in_another_order_is_ranked_alike(make, today):
    users, items = (torch.randperm(n, generator=torch.Generator().manual_seed(n)) for n in (14, 11))
    other = subgraph(today, {"user": users, "item": items})
    earlier, model = drawn(make, today), drawn(make, other, seed=1)
    warm_start(model, other, (earlier, today))
    (user, item), (user_now, item_now) = embed(earlier, today)[0], embed(model, other)[0]
    torch.testing.assert_close(user_now @ item_now.t(), (user @ item.t())[users][:, items], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", sorted(name for name in BACKBONES if name != "adapted"))
def test_every_backbone_says_which_dimensions_grow_with_users_and_items(name, yesterday, today):
    one, other = (BACKBONES[name](data).state_dict() for data in (yesterday, today))
    dims = table_dims(BACKBONES[name](yesterday))
    for key, value in one.items():
        expected = {d: {(12, 14): "user", (9, 11): "item"}[pair] for d, pair in _grown(value, other[key]).items()}
        assert {d: kind for d, kind in dims[key].items() if kind != "modality"} == expected


def _grown(one, other):
    pairs = enumerate(zip(one.shape, other.shape, strict=True))
    return {d: pair for d, pair in pairs if pair[0] != pair[1]}


@pytest.mark.parametrize("name", ["VBPR", "GRCN", "LATTICE", "MICRO", "DualGNN"])
def test_modalities_in_another_order_are_matched_by_name(name, today):
    other = today.clone()
    other.modalities = ["mod1", "mod0"]
    earlier, model = drawn(BACKBONES[name], today), drawn(BACKBONES[name], other, seed=1)
    warm_start(model, other, (earlier, today))
    (user, item), (user_now, item_now) = embed(earlier, today)[0], embed(model, other)[0]
    torch.testing.assert_close(user_now @ item_now.t(), user @ item.t(), rtol=0, atol=1e-4)


def test_new_items_get_what_their_features_say_and_without_items_to_learn_from_the_mean(yesterday, today):
    x = [torch.cat([data["item"][m] for m in data.modalities], dim=1) for data in (yesterday, today)]
    # As many features as items to learn from would fit anything.
    flat = [part[:, :2] for part in x]
    for data, part in zip((yesterday, today), flat, strict=True):
        data["item"]["mod0"], data["item"]["mod1"] = part[:, :1].contiguous(), part[:, 1:].contiguous()
    earlier, model = drawn(BACKBONES["VBPR"], yesterday), drawn(BACKBONES["VBPR"], today, seed=1)
    weight = torch.tensor([[1.0, -2.0, 0.5, 0.0, 3.0], [2.0, 1.0, 0.0, -1.0, 0.5]])
    with torch.no_grad():
        earlier.item_embedding.copy_(flat[0] @ weight + 3)
    warm_start(model, today, (earlier, yesterday))
    torch.testing.assert_close(model.item_embedding[7], (flat[1] @ weight + 3)[7], rtol=0, atol=1e-2)
    today[RATES].edge_index = today[RATES].edge_index[:, :1]
    warm_start(model, today, (earlier, yesterday))
    torch.testing.assert_close(model.item_embedding[7], earlier.item_embedding.mean(dim=0), rtol=0, atol=1e-6)


def test_a_wrong_number_of_a_new_item_is_named_and_gives_it_no_longer_row_than_any_other(make_data):
    small, large = make_data(num_users=30, num_items=20), make_data(num_users=30, num_items=22)
    for data in (small, large):
        named(data)
    for m in large.modalities:
        large["item"][m][:20] = small["item"][m]
    large["item"]["mod1"][21, 2] = 1e4
    earlier, model = drawn(BACKBONES["VBPR"], small), drawn(BACKBONES["VBPR"], large, seed=1)
    with pytest.warns(
        UserWarning, match=r"start_from: 1 of 2 new items have .* \(first: 217, 'mod1', column 2: 1e\+04"
    ):
        warm_start(model, large, (earlier, small))
    longest = earlier.item_embedding.norm(dim=1).max()
    assert (model.item_embedding[20:].norm(dim=1) <= longest * (1 + 1e-5)).all()


def test_rows_without_ids_are_the_same_by_number_and_can_only_be_added(make_data):
    small, large = make_data(num_users=12), make_data(num_users=15, num_items=10)
    earlier, model = drawn(BACKBONES["VBPR"], small), drawn(BACKBONES["VBPR"], large, seed=1)
    warm_start(model, large, (earlier, small))
    assert torch.equal(model.user_embedding[:12], earlier.user_embedding)
    with pytest.raises(InputError, match=r"found 15 users without ids, but the graph has 12; .* give the graphs ids"):
        warm_start(earlier, small, (model, large))


def test_a_trained_model_and_its_file_know_their_ids(yesterday, today, tmp_path):
    earlier = build(VBPR, yesterday, 0, embedding_dim=4)
    trainer(max_epochs=1).fit(earlier, yesterday)
    save_model(tmp_path / "yesterday.pt", earlier, yesterday)
    opened = load_model(tmp_path / "yesterday.pt", yesterday)
    models = []
    for start in (tmp_path / "yesterday.pt", str(tmp_path / "yesterday.pt"), earlier, opened, (earlier, yesterday)):
        model = build(VBPR, today, 1, embedding_dim=4)
        found = warm_start(model, today, start)
        assert found.known.user.tolist() == [USERS.index(n) if n in USERS else -1 for n in range(14)]
        models.append(model.state_dict())
    assert all(same_bits(model, models[0]) for model in models)


def test_a_module_of_ones_own_is_started_too(yesterday, today):
    def module(data: HeteroData, seed: int) -> Toy:
        torch.manual_seed(seed)
        return Toy(data["user"].num_nodes, {m: data["item"][m].size(1) for m in data.modalities})

    earlier, model = module(yesterday, 0), module(today, 1)
    with pytest.raises(InputError, match="a Toy that no Trainer has trained"):
        trainer(max_epochs=1).fit(model, today, earlier)
    trainer(max_epochs=1).fit(earlier, yesterday)
    warm_start(as_backbone(model, today), today, earlier)
    assert torch.equal(model.user_embedding[USERS], earlier.user_embedding)
    assert torch.equal(model.lins["mod0"].weight, earlier.lins["mod0"].weight)


class Square(nn.Module):
    """A module in which shapes do not tell users from items."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.user, self.item = (nn.Parameter(torch.randn(size, 3)) for _ in range(2))

    def forward(self, x_dict, edge_index):
        return self.user, self.item


def test_tables_that_shapes_do_not_tell_apart_are_refused(make_data):
    data, back = named(make_data(num_users=9, num_items=9)), torch.arange(8, -1, -1)
    other = subgraph(data, {"user": back, "item": back})
    with pytest.raises(InputError, match=r"found 'module.user' of shape \[9, 3\], which may or may not count"):
        warm_start(as_backbone(Square(9), other), other, (Square(9), data))


def test_parameters_of_the_objective_itself_are_taken_by_one_of_its_class(yesterday, today, tmp_path):
    earlier = ReliabilityObjective(build(VBPR, yesterday, 0, embedding_dim=4))
    trainer(max_epochs=1).fit(earlier, yesterday)
    save_model(tmp_path / "yesterday.pt", earlier, yesterday)
    own = [name for name, p in earlier.named_parameters() if not name.startswith("student.")]
    assert own
    for start in (tmp_path / "yesterday.pt", earlier):
        model = ReliabilityObjective(build(VBPR, today, 1, embedding_dim=4))
        warm_start(model, today, start)
        for name in own:
            assert torch.equal(model.get_parameter(name), earlier.get_parameter(name))
    plain = MultitaskObjective(build(VBPR, today, 1, embedding_dim=4))
    warm_start(plain, today, earlier)
    assert torch.equal(plain.student.user_embedding[USERS], earlier.student.user_embedding)


@pytest.mark.parametrize("start", ["file", "model"])
def test_what_does_not_fit_is_refused_by_name(start, yesterday, today, tmp_path):
    earlier = build(VBPR, yesterday, 0, embedding_dim=4)
    trainer(max_epochs=1).fit(earlier, yesterday)
    save_model(tmp_path / "yesterday.pt", earlier, yesterday)
    source = tmp_path / "yesterday.pt" if start == "file" else earlier
    before = build(VBPR, today, 1, embedding_dim=6)
    kept = {k: v.clone() for k, v in before.state_dict().items()}
    with pytest.raises(
        InputError, match=r"found 'user_embedding' of shape \[12, 4\], which does not grow to \[14, 6\]"
    ):
        warm_start(before, today, source)
    assert same_bits(kept, before.state_dict())
    with pytest.raises(InputError, match=r"found a VBPR in .*, expected a GRCN"):
        warm_start(build(GRCN, today, 1), today, source)
    fewer, more, wider = (today.clone() for _ in range(3))
    fewer.modalities = ["mod0"]
    with pytest.raises(InputError, match=r"'mod1'.*trained with mod0, mod1"):
        warm_start(build(VBPR, fewer, 1, embedding_dim=4), fewer, source)
    more["item"]["mod2"], more.modalities = more["item"]["mod0"], ["mod0", "mod1", "mod2"]
    with pytest.raises(InputError, match="trained without modality 'mod2', which the graph has"):
        warm_start(build(VBPR, more, 1, embedding_dim=4), more, source)
    wider["item"]["mod1"] = torch.cat([wider["item"]["mod1"]] * 2, dim=1)
    with pytest.raises(InputError, match="features of 'mod1' of width 4, expected 8"):
        warm_start(build(VBPR, wider, 1, embedding_dim=4), wider, source)
    with pytest.raises(InputError, match="start_from: found int, expected the path of a model"):
        warm_start(build(VBPR, today, 1, embedding_dim=4), today, 3)


def test_a_file_of_an_older_version_has_no_ids_and_is_refused_where_they_are_needed(yesterday, today, tmp_path):
    earlier, path = build(VBPR, yesterday, 0, embedding_dim=4), tmp_path / "old.pt"
    save_model(path, earlier, yesterday)
    content = torch.load(path, weights_only=True)
    torch.save({k: v for k, v in content.items() if k != "graph"}, path)
    with pytest.raises(InputError, match=r"the graph names users by ids and the earlier model has none"):
        warm_start(build(VBPR, today, 1, embedding_dim=4), today, path)
    torch.save({k: v for k, v in content.items() if k != "state"}, path)
    with pytest.raises(InputError, match="lacks state; it is damaged"):
        warm_start(build(VBPR, today, 1, embedding_dim=4), today, path)


def test_a_run_that_was_broken_off_goes_on_from_where_it_was_and_not_from_another_start(yesterday, today, tmp_path):
    starts = [build(VBPR, yesterday, seed, embedding_dim=4) for seed in (0, 5)]
    whole, broken, resumed = (build(VBPR, today, 1, embedding_dim=4) for _ in range(3))
    sources = [(model, yesterday) for model in starts]
    expected = trainer(max_epochs=4).fit(whole, today, sources[0])
    trainer(max_epochs=2, checkpoint_dir=tmp_path).fit(broken, today, sources[0])
    history = trainer(max_epochs=4, checkpoint_dir=tmp_path).fit(resumed, today, sources[0])
    assert history.rows == expected.rows
    assert same_bits(resumed.state_dict(), whole.state_dict())
    for other in (sources[1], None):
        with pytest.raises(InputError, match=r"found start_from = .*, expected"):
            trainer(max_epochs=4, checkpoint_dir=tmp_path).fit(build(VBPR, today, 1, embedding_dim=4), today, other)


def test_one_warm_epoch_beats_one_cold_one(caplog):
    today = named(synthetic_multimodal(num_users=220, num_items=150, num_interactions=5000))
    order = torch.Generator().manual_seed(0)
    kept = {"user": torch.randperm(220, generator=order)[:180], "item": torch.randperm(150, generator=order)[:120]}
    yesterday = subgraph(today, kept)
    options = {"lr": 5e-3, "batch_size": 256, "monitor": "recall@20", "device": "cpu", "progress": False}
    earlier = build(VBPR, yesterday, 0)
    Trainer(max_epochs=10, **options).fit(Objective(earlier), yesterday)
    with caplog.at_level(logging.INFO, logger="pyg_ckd.training"):
        warm = Trainer(max_epochs=1, **options).fit(build(VBPR, today, 1), today, earlier).best_value
    cold = Trainer(max_epochs=1, **options).fit(build(VBPR, today, 1), today).best_value
    assert warm > 1.2 * cold
    assert "the VBPR given knows 180 of 220 users and 120 of 150 items" in caplog.text


def resplit(data: HeteroData, seed: int) -> HeteroData:
    """Return a graph whose held-out interactions are others of the same."""
    parts = [data[RATES][name] for name in ("edge_index", "val_edge_index", "test_edge_index")]
    whole = torch.cat(parts, dim=1)
    order = torch.randperm(whole.size(1), generator=torch.Generator().manual_seed(seed))
    out, sizes = data.clone(), [part.size(1) for part in parts]
    names = ("edge_index", "val_edge_index", "test_edge_index")
    for name, part in zip(names, whole[:, order].split(sizes, dim=1), strict=True):
        out[RATES][name] = part
    return out


@pytest.mark.parametrize("start", ["file", "model", "pair"])
def test_held_out_interactions_that_the_earlier_model_was_trained_on_are_counted(start, yesterday, today, tmp_path):
    later, earlier = resplit(today, 3), build(VBPR, yesterday, 0, embedding_dim=4)
    trainer(max_epochs=1).fit(earlier, yesterday)
    save_model(tmp_path / "yesterday.pt", earlier, yesterday)
    source = {"file": tmp_path / "yesterday.pt", "model": earlier, "pair": (earlier, yesterday)}[start]
    trained = {(USERS[u], ITEMS[i]) for u, i in yesterday[RATES].edge_index.t().tolist()}
    expected, words = {}, []
    for split, title in (("val", "validation"), ("test", "test")):
        pairs = later[RATES][f"{split}_edge_index"].t().tolist()
        count = sum((u, i) in trained for u, i in pairs)
        assert 0 < count < len(pairs)
        expected[split] = count / len(pairs)
        words.append(f"{count} of the {len(pairs)} {title} interactions ({count / len(pairs):.1%})")
    model = build(VBPR, later, 1, embedding_dim=4)
    with pytest.warns(UserWarning, match="metrics are too high.*a column split") as caught:
        history = trainer(max_epochs=1).fit(model, later, source)
    assert all(word in str(caught[0].message) for word in words)
    assert history.seen_by_start_from == expected


def test_the_same_split_has_seen_nothing_and_warns_of_nothing(yesterday, today, recwarn):
    earlier, model = (build(VBPR, data, 0, embedding_dim=4) for data in (yesterday, today))
    history = trainer(max_epochs=1).fit(model, today, (earlier, yesterday))
    assert history.seen_by_start_from == {"val": 0.0, "test": 0.0}
    assert not [w for w in recwarn if "start_from" in str(w.message)]
    assert trainer(max_epochs=1).fit(model, today).seen_by_start_from == {}


def test_a_model_whose_graph_was_changed_since_does_not_guess_what_it_has_seen(today):
    earlier, model = (build(VBPR, today, seed, embedding_dim=4) for seed in (0, 1))
    trainer(max_epochs=1).fit(earlier, today)
    today[RATES].edge_index = today[RATES].edge_index[:, 1:]
    assert warm_start(model, today, earlier).seen == {}
