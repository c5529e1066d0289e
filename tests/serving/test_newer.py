"""Yesterday's model and today's graph: newer clicks, users and items, in any order of rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd.data import RATES, build_data
from pyg_ckd.data.inputs import embed
from pyg_ckd.errors import InputError
from pyg_ckd.nn import FISM, VBPR
from pyg_ckd.serving import Recommender
from pyg_ckd.training import build, save_model
from pyg_ckd.training.model import open_model

USERS, ITEMS = 40, 25
NAMES = {"visual": 5, "text": 3}


def world(seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return all interactions that there will ever be (five more users, four more items) and all features."""
    rng = np.random.default_rng(seed)
    keys = rng.permutation((USERS + 5) * (ITEMS + 4))[:500]
    return np.stack([keys // (ITEMS + 4), keys % (ITEMS + 4)]), {
        m: rng.normal(2.0, 3.0, (ITEMS + 4, d)) for m, d in NAMES.items()
    }


def yesterday() -> HeteroData:
    pairs, features = world()
    known = pairs[:, (pairs[0] < USERS) & (pairs[1] < ITEMS)]
    return build_data(
        known[:, :250],
        {m: x[:ITEMS] for m, x in features.items()},
        val=known[:, 250:270],
        num_users=USERS,
        num_items=ITEMS,
        user_id=[f"u{n}" for n in range(USERS)],
        item_id=np.arange(ITEMS) + 500,
    )


def today(seed: int = 1, transform: str = "standardize", idle: int = 0) -> tuple[HeteroData, np.ndarray, np.ndarray]:
    """Return everything in shuffled rows, and the order of the rows of users and items."""
    pairs, features = world()
    rng = np.random.default_rng(seed)
    user, item = rng.permutation(USERS + 5 + idle), rng.permutation(ITEMS + 4)
    place = np.argsort(user), np.argsort(item)
    data = build_data(
        np.stack([place[0][pairs[0]], place[1][pairs[1]]]),
        {m: x[item] for m, x in features.items()},
        num_users=USERS + 5 + idle,
        num_items=ITEMS + 4,
        user_id=[f"u{n}" for n in user],
        item_id=item + 500,
        transform=transform,
    )
    return data, user, item


def met(user: int) -> set[int]:
    pairs, _ = world()
    return {int(i) + 500 for u, i in pairs.T if u == user}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[str, HeteroData, VBPR]:
    data, path = yesterday(), tmp_path_factory.mktemp("newer") / "model.pt"
    model = build(VBPR, data, 0, embedding_dim=4)
    save_model(path, model, data)
    return str(path), data, model


@pytest.mark.parametrize("transform", ["standardize", "none"])
def test_everybody_is_served_and_what_was_met_since_is_masked(transform: str, saved) -> None:
    path, data, model = saved
    source = Recommender.load(path, today(transform=transform)[0])
    assert set(source.users.take(np.arange(USERS + 5))) == {f"u{n}" for n in range(USERS + 5)}
    assert set(source.items.take(np.arange(ITEMS + 4))) == set(range(500, 529))
    expected = embed(model, data)[0]
    torch.testing.assert_close(source.embeddings.user[:USERS], expected.user, atol=1e-5, rtol=0)
    torch.testing.assert_close(source.embeddings.item[:ITEMS], expected.item, atol=1e-4, rtol=0)
    lists = source.recommend(k=ITEMS + 4)
    for name, items in zip(lists.users, lists.items, strict=True):
        found = {int(i) for i in items if i >= 0}
        assert found == set(range(500, 529)) - met(int(name[1:]))
    assert len(source.notes) == 2
    assert source.notes[0].startswith("4 new items have embeddings from their features")
    assert source.notes[1].startswith("5 new users have embeddings from what they have met")


@pytest.mark.parametrize("value", [1e9, -3e12])
def test_a_wrong_number_of_a_new_item_is_named_and_not_the_items_that_it_squeezed(value: float, saved) -> None:
    pairs, features = world()
    features["text"][ITEMS + 2, 1] = value
    data = build_data(
        pairs,
        features,
        num_users=USERS + 5,
        num_items=ITEMS + 4,
        user_id=[f"u{n}" for n in range(USERS + 5)],
        item_id=np.arange(ITEMS + 4) + 500,
    )
    line = r"item 527, which the model does not know, has .* in column 1 of 'text', where known items have .* mend that"
    with pytest.raises(InputError, match=line) as said:
        Recommender.load(saved[0], data)
    assert "500" not in str(said.value)
    assert "\n" not in str(said.value)


def test_newcomers_are_those_of_the_methods_for_newcomers(saved) -> None:
    path, data, model = saved
    source = Recommender.load(path, today()[0])
    pairs, features = world()
    later = pairs[:, pairs[0] >= USERS]
    by_hand = Recommender(model, data).with_new_items(
        {m: x[ITEMS:] for m, x in features.items()}, np.arange(ITEMS, ITEMS + 4) + 500
    )
    histories = [later[1][later[0] == u] + 500 for u in range(USERS, USERS + 5)]
    by_hand = by_hand.with_new_users(histories, [f"u{u}" for u in range(USERS, USERS + 5)])
    rows = source.items.rows(np.arange(ITEMS, ITEMS + 4) + 500)
    # Ridge sees a few more interactions here: which items are warm does not change, their embeddings neither.
    torch.testing.assert_close(source.embeddings.item[rows], by_hand.embeddings.item[ITEMS:], atol=1e-3, rtol=0)
    assert source.recommend("u41", 3, exclude_seen=False).items.shape == (1, 3)
    assert by_hand.recommend("u41", 3).items.shape == (1, 3)


def test_users_without_interactions_stay_unknown_and_can_have_popular_items(saved) -> None:
    source = Recommender.load(saved[0], today(idle=2)[0])
    assert "new users without training interactions stay unknown (2, such as 'u4" in source.notes[-1]
    with pytest.raises(InputError, match="unknown user 'u46'"):
        source.recommend("u46", 3)
    with pytest.warns(UserWarning, match="1 of 2 users is unknown"):
        got = source.recommend(["u46", "u1"], 3, unknown="popular")
    count = np.bincount(world()[0][1], minlength=ITEMS + 4)
    assert count[got.items[0] - 500].tolist() == sorted(count.tolist(), reverse=True)[:3]


def test_the_same_graph_in_another_order_serves_the_same_lists(saved) -> None:
    path, data, model = saved
    order = torch.arange(USERS).flip(0)
    place, edges = order.argsort(), data[RATES]
    _, features = world()
    other = build_data(
        torch.stack([place[edges.edge_index[0]], edges.edge_index[1]]),
        {m: x[:ITEMS] for m, x in features.items()},
        val=torch.stack([place[edges.val_edge_index[0]], edges.val_edge_index[1]]),
        num_users=USERS,
        num_items=ITEMS,
        user_id=[data.user_id[int(n)] for n in order],
        item_id=data.item_id,
    )
    source, expected = Recommender.load(path, other), Recommender(model, data)
    assert source.notes == ()
    assert source.recommend("u3", 5).items.tolist() == expected.recommend("u3", 5).items.tolist()
    other.user_id = other.user_id[::-1]
    with pytest.raises(InputError, match="other training interactions than the model was trained on"):
        Recommender.load(path, other)
    del other.user_id
    with pytest.raises(InputError, match="it was trained on other data"):
        Recommender.load(path, other)


def content_free_fism(data: HeteroData) -> FISM:
    return build(FISM, data, 0, embedding_dim=4, item_graph="none")


def test_users_of_fism_are_exactly_those_of_the_model_on_the_newer_graph(tmp_path) -> None:
    data = yesterday()
    model = content_free_fism(data)
    save_model(tmp_path / "model.pt", model, data)
    pairs, features = world()
    newer = build_data(
        pairs[:, pairs[1] < ITEMS],
        {m: x[:ITEMS] for m, x in features.items()},
        num_users=USERS + 5,
        num_items=ITEMS,
        user_id=[f"u{n}" for n in range(USERS + 5)],
        item_id=np.arange(ITEMS) + 500,
    )
    whole = content_free_fism(newer)
    whole.load_state_dict(model.state_dict())
    expected = embed(whole, newer)[0].user
    source = Recommender.load(tmp_path / "model.pt", newer)
    rows = source.users.rows([f"u{n}" for n in range(USERS + 5)])
    torch.testing.assert_close(source.embeddings.user[rows], expected, atol=1e-5, rtol=0)
    clicks = {f"u{u}": [i for i in sorted(met(u)) if i < 500 + ITEMS] for u in range(USERS)}
    since = Recommender(model, data).with_seen(clicks)
    torch.testing.assert_close(since.embeddings.user, expected[:USERS], atol=1e-5, rtol=0)


def test_a_model_without_its_graph_says_so(saved) -> None:
    with pytest.raises(InputError, match=r"which needs the graph .* Recommender\.load\(model, data\)"):
        Recommender.load(saved[0])


def scores_of_views(
    source: Recommender, model: FISM, data: HeteroData, views: list, user: int, item: int
) -> list[float]:
    """Return the scores of a pair of rows, the user computed from all that it has met."""
    row, met_items = source.history.of(torch.tensor([user]))
    tables = embed(model, data, views)
    return [float(source.user_map()(one.item, row, met_items, 1)[0] @ one.item[item]) for one in tables]


def test_shares_are_of_what_users_have_met_since() -> None:
    data = yesterday()
    model = build(FISM, data, 0, embedding_dim=4)
    source = Recommender(model, data)
    clicks = {"u0": [n for n in range(500, 525) if n not in met(0)][:5]}
    later = source.with_seen(clicks)
    got = later.explain(["u0", "u1"], 503)
    none, visual, text, full = scores_of_views(later, model, data, [(), "visual", "text", None], 0, 3)
    shares = [none, (visual - none + full - text) / 2, (text - none + full - visual) / 2]
    assert got.shares[0].tolist() == pytest.approx(shares, abs=1e-5)
    assert got.shares.sum(axis=1).tolist() == pytest.approx(got.scores.tolist(), abs=1e-6)
    assert got.shares[1].tolist() == pytest.approx(source.explain("u1", 503).shares[0].tolist(), abs=1e-6)
    new = source.with_new_items({m: np.ones((1, d)) for m, d in NAMES.items()}, [900]).with_seen({"u0": [900]})
    assert new.explain("u1", 503).shares.shape == (1, 3)
    with pytest.raises(InputError, match=r"^explain: user 'u0' has met items that were added without training"):
        new.explain("u0", 503)


def test_a_model_that_was_trained_on_is_not_explained() -> None:
    data = yesterday()
    model = build(VBPR, data, 0, embedding_dim=4)
    source = Recommender(model, data)
    source.explain("u0", 503)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-3)
    with pytest.raises(InputError, match=r"^explain: the model has changed since its embeddings were computed"):
        source.explain("u0", 503)


@pytest.mark.parametrize(
    ("stripped", "words"),
    [
        (
            "model",
            "the model has no ids of users and items; give user_id and item_id, .* per row, and train again",
        ),
        ("data", "the data have no ids of users and items; give user_id and item_id, keys of an .npz file .* per row$"),
        ("both", "by ids, but neither the model nor the data have ids of users and items; give .* again"),
        ("items", "by ids, but the data have no ids of items; give item_id, keys"),
    ],
)
def test_newer_data_without_ids_are_refused_by_the_ids_that_are_missing(stripped: str, words: str, tmp_path) -> None:
    old, (new, *_) = yesterday(), today()
    for data in {"model": [old], "data": [new], "both": [old, new]}.get(stripped, []):
        del data.user_id, data.item_id
    if stripped == "items":
        del new.item_id
    model = build(VBPR, old, 0, embedding_dim=4)
    save_model(tmp_path / "model.pt", model, old)
    for opened in (Recommender.load, open_model):
        with pytest.raises(InputError, match=f"it was trained on other data .* {words}"):
            opened(tmp_path / "model.pt", new)


@pytest.mark.filterwarnings("ignore:recommend")
@pytest.mark.parametrize("cls", [VBPR, FISM])
def test_new_users_without_training_interactions_can_be_known_as_such(cls, tmp_path) -> None:
    data, later = yesterday(), today(idle=2)[0]
    save_model(tmp_path / "model.pt", build(cls, data, 0, embedding_dim=4), data)
    idle, place = [f"u{USERS + 5 + n}" for n in range(2)], {name: n for n, name in enumerate(later.user_id)}
    later["user", "rates", "item"].test_edge_index = torch.tensor([[place[idle[0]]], [0]])
    source = Recommender.load(tmp_path / "model.pt", later)
    more = source.with_idle_users()
    assert [len(one.users) for one in (source, more)] == [USERS + 5, USERS + 7]
    assert any("stay unknown (2" in note for note in source.notes)
    assert not any("stay unknown" in note for note in more.notes)
    assert more.with_idle_users() is more
    more.save(tmp_path / "more.pt")
    count = np.bincount(later["user", "rates", "item"].edge_index[1].numpy(), minlength=ITEMS + 4)
    items = source.items.take(np.arange(ITEMS + 4)).tolist()
    row = {int(name): n for n, name in enumerate(later.item_id.tolist())}
    order = sorted(items, key=lambda name: (-count[row[name]], items.index(name)))
    for one in (more, Recommender.load(tmp_path / "more.pt")):
        got = one.recommend([*idle, "u0"], 3, unknown="popular")
        assert got.sources.tolist() == ["popularity", "popularity", "model"]
        assert got.items[0].tolist() == [name for name in order if name != int(later.item_id[0])][:3]
        assert got.items[1].tolist() == order[:3]
        assert got.items[2].tolist() == source.recommend("u0", 3).items[0].tolist()
        now = one.with_seen({idle[1]: [500, 501]})
        assert now.recommend(idle[1], 3, unknown="popular").fallback is None
        same = one.with_new_users([[500, 501]], ["late"]).embeddings.user[-1]
        torch.testing.assert_close(now.embeddings.user[now.users.rows(idle[1])[0]], same)
