"""Users of whom a model has learnt nothing are not served from random weights: against counts, everywhere alike."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd.balance import Objective
from pyg_ckd.cli import main
from pyg_ckd.data import build_data
from pyg_ckd.data.inputs import unpack
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import ease
from pyg_ckd.nn import FISM, VBPR, LightGCN, as_backbone
from pyg_ckd.serving import ItemIndex, NeighbourhoodRecommender, Recommender
from pyg_ckd.training import Trainer, build, save_checkpoint, save_model
from pyg_ckd.training.checkpoint import load_checkpoint

USERS, ITEMS = 12, 9
IDLE = ["u10", "u11"]
LEARNT = pytest.mark.parametrize("cls", [VBPR, LightGCN])


def world(more: list[tuple[int, int]] | None = None) -> HeteroData:
    """Return a graph whose last two users have no training interactions; user 10 has a held-out one with item 1."""
    rng = np.random.default_rng(0)
    pairs = sorted({(u, int(i)) for u in range(10) for i in rng.choice(ITEMS - 1, 3, replace=False)} | set(more or []))
    return build_data(
        np.array(pairs).T,
        {"visual": rng.normal(size=(ITEMS, 4))},
        val=np.array([[10, 0], [1, ITEMS - 1]]),
        num_users=USERS,
        num_items=ITEMS,
        user_id=[f"u{n}" for n in range(USERS)],
        item_id=np.arange(ITEMS) * 10 + 100,
    )


def popular(data: HeteroData, without: tuple[int, ...] = ()) -> list[int]:
    count = np.bincount(data["user", "rates", "item"].edge_index[1].numpy(), minlength=ITEMS)
    return [100 + 10 * i for i in sorted(range(ITEMS), key=lambda i: (-count[i], i)) if i not in without]


def served(cls=VBPR) -> Recommender:
    data = world()
    return Recommender(build(cls, data, 0, embedding_dim=4), data)


@LEARNT
def test_users_without_training_interactions_get_popular_items_without_those_they_have_met(cls) -> None:
    source = served(cls)
    with pytest.warns(UserWarning, match=r"2 of 3 users have no training interactions \(first: 'u10'\), .* they get"):
        got = source.recommend(["u10", "u3", "u11"], 4, unknown="popular")
    assert got.sources.tolist() == ["popularity", "model", "popularity"]
    assert got.items[0].tolist() == popular(world(), (1,))[:4]
    assert got.items[2].tolist() == popular(world())[:4]
    count = torch.bincount(world()["user", "rates", "item"].edge_index[1], minlength=ITEMS)
    assert got.scores[2].tolist() == count[(got.items[2] - 100) // 10].tolist()
    assert got.items[1].tolist() == source.recommend("u3", 4).items[0].tolist()


@pytest.mark.filterwarnings("ignore:recommend")
def test_popular_items_of_known_users_obey_their_candidates_and_exclusions() -> None:
    source, order = served(), popular(world())
    options = {"exclude": {"u11": order[:1], "u10": [order[2]]}, "unknown": "popular"}
    got = source.recommend(["new", "u11", "u10"], 3, exclude_seen=False, **options)
    assert got.items.tolist() == [order[:3], order[1:4], [*order[:2], order[3]]]
    among = {"u11": order[4:6], "u10": [110]}
    got = source.recommend(["new", "u11", "u10"], 2, candidates=among, unknown="popular")
    assert got.items.tolist() == [[-1, -1], order[4:6], [-1, -1]]
    assert got.scores[0].tolist() == [-np.inf, -np.inf]
    got = source.recommend(["u11", "new"], 4, candidates=order[3:7], unknown="popular")
    assert got.items.tolist() == [order[3:7]] * 2


@LEARNT
def test_without_popular_items_their_lists_are_those_of_the_model_with_one_warning(cls) -> None:
    source = served(cls)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        got = source.recommend(k=3)
    (one,) = said
    assert "2 of 12 users have no training interactions (first: 'u10')" in str(one.message)
    assert "unknown='popular' gives them popular items" in str(one.message)
    assert got.fallback is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source.recommend(["u1", "u2"], 3, unknown="popular")


def test_closed_forms_rank_users_who_have_met_nothing_by_popularity(tmp_path) -> None:
    data = world()
    source = NeighbourhoodRecommender(ease(data, ridge=1), data)
    state = source.state()
    del state["counts"]
    save_checkpoint(tmp_path / "before.pt", {"kind": "recommender", **state})  # As files of before are.
    with pytest.warns(UserWarning, match=r"unknown='popular' gives them popular items"):
        before = Recommender.load(tmp_path / "before.pt").recommend(["u10", "u3"], 4)
    assert before.scores[0].tolist() == [0] * 4
    for one in (source, Recommender.load(source.save(tmp_path / "r.pt"))):
        with pytest.warns(UserWarning, match=r"1 of 2 users has no .* of them; they get the items with most inter"):
            got = one.recommend(["u10", "u3"], 4)
        count = np.bincount(data["user", "rates", "item"].edge_index[1].numpy(), minlength=ITEMS)
        best = sorted((count[i] for i in range(ITEMS) if i != 1), reverse=True)[:4]
        assert got.scores[0].tolist() == [count[(i - 100) // 10] for i in got.items[0]] == best
        assert got.items[1].tolist() == before.items[1].tolist()
        assert got.scores[1].tolist() == before.scores[1].tolist()
        with pytest.warns(UserWarning, match="they get the items with most interactions"):
            marked = one.recommend(["u10", "u3"], 4, unknown="popular")
        assert marked.sources.tolist() == ["popularity", "model"]
        assert marked.items[0].tolist() == popular(data, (1,))[:4]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert one.with_seen({"u10": [120]}).recommend("u10", 3).scores[0].tolist() != best[:3]


@pytest.mark.filterwarnings("ignore:recommend")
@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_exports_of_all_users_mark_them(suffix: str, tmp_path) -> None:
    source = served()
    path = source.export_top_k(tmp_path / f"lists{suffix}", 3, unknown="popular")
    frame = source.recommend(k=3, unknown="popular").to_frame()
    assert sorted(set(frame.user[frame["from"] == "popularity"])) == IDLE
    if suffix == ".jsonl":
        got = pd.read_json(path, lines=True)
        assert got.user[got["from"] == "popularity"].tolist() == IDLE
        assert got["items"].tolist() == [group.tolist() for _, group in frame.groupby("user", sort=False)["item"]]
        return
    got = pd.read_parquet(path) if suffix == ".parquet" else pd.read_csv(path)
    assert got[["user", "item", "from"]].to_numpy().tolist() == frame[["user", "item", "from"]].to_numpy().tolist()
    mixed = source.export_top_k(tmp_path / f"some{suffix}", 3, user_ids=["u11", "new", "u1"], unknown="popular")
    got = pd.read_parquet(mixed) if suffix == ".parquet" else pd.read_csv(mixed)
    assert got["from"].tolist() == ["popularity"] * 6 + ["model"] * 3


@pytest.mark.filterwarnings("ignore:recommend")
def test_users_that_are_a_function_of_their_items_are_nobody_without_any(tmp_path) -> None:
    source = served(FISM)
    content = source.state()
    content["untrained"] = torch.zeros_like(content["untrained"])  # As files of before have it.
    save_checkpoint(tmp_path / "before.pt", {"kind": "recommender", **content})
    for one in (source, Recommender.load(source.save(tmp_path / "r.pt")), Recommender.load(tmp_path / "before.pt")):
        with pytest.warns(
            UserWarning, match=r"2 of 3 users have no training interactions \(first: 'u10'\), .* they get"
        ):
            got = one.recommend([*IDLE, "u3"], 3, unknown="popular")
        assert got.sources.tolist() == ["popularity", "popularity", "model"]
        assert got.items[1].tolist() == popular(world())[:3]
        with pytest.warns(UserWarning, match="unknown='popular' gives them popular items"):
            assert one.recommend(IDLE, 3).fallback is None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert one.recommend([f"u{n}" for n in range(10)], 3, unknown="popular").fallback is None
            assert one.with_seen({"u10": [120]}).recommend("u10", 3, unknown="popular").fallback is None


@pytest.mark.filterwarnings("ignore:start_from")
def test_users_that_are_a_function_of_their_items_keep_nothing_of_an_earlier_model(tmp_path) -> None:
    nights = [world([(10, 2), (10, 5)]), world()]
    first, second = (build(FISM, data, 0, embedding_dim=4) for data in nights)
    trainer = Trainer(max_epochs=1, monitor="recall@5", device="cpu", progress=False, track_views=False)
    trainer.fit(first, nights[0])
    trainer.fit(second, nights[1], start_from=(first, nights[0]))
    assert sources(Recommender(second, nights[1])) == ["popularity", "popularity", "model"]


class WithProfiles(torch.nn.Module):
    """Knows every user by features, with clicks or without."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = torch.nn.Linear(3, 4), torch.nn.Linear(4, 4)
        self.register_buffer("profiles", torch.randn(USERS, 3))

    def forward(self, x_dict, edge_index):
        return self.user(self.profiles), self.item(x_dict["visual"])


@pytest.mark.parametrize("way", ["module", "adapted", "objective", "tables", "file"])
def test_users_are_served_by_tables_and_by_modules_that_may_know_them_otherwise(way: str, tmp_path) -> None:
    data = world()
    module = WithProfiles()
    model = {"module": module, "adapted": as_backbone(module, data), "objective": Objective(as_backbone(module, data))}
    tables = model["adapted"].eval()(*unpack(data)) if way in ("tables", "file") else None
    source = Recommender(model.get(way, tables), data)
    source = Recommender.load(source.save(tmp_path / "r.pt")) if way == "file" else source
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert source.recommend([*IDLE, "u3"], 3, unknown="popular").fallback is None
        before = source.embeddings.user[10]
        assert torch.equal(source.with_seen({"u10": [120]}).embeddings.user[10], before)


@pytest.mark.filterwarnings("ignore:recommend")
def test_an_objective_around_a_model_with_learnt_users_has_learnt_nothing_of_them_either() -> None:
    data = world()
    source = Recommender(Objective(build(VBPR, data, 0, embedding_dim=4)), data)
    assert sources(source) == ["popularity", "popularity", "model"]


@pytest.mark.filterwarnings("ignore:recommend")
def test_weights_between_items_say_nothing_about_them_either() -> None:
    data = world()
    source = NeighbourhoodRecommender(ease(data, ridge=1), data)
    got = source.recommend("u11", 3, unknown="popular")
    assert got.items[0].tolist() == popular(data)[:3]
    assert source.with_seen({"u11": [100]}).recommend("u11", 3, unknown="popular").fallback is None


@pytest.mark.filterwarnings("ignore:recommend")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_saved_recommender_knows_them(suffix: str, tmp_path) -> None:
    if suffix != ".pt":
        pytest.importorskip("safetensors")
    source = served().with_new_users([[100, 110]], ["late"])
    again = Recommender.load(source.save(tmp_path / f"r{suffix}"))
    for one in (source, again):
        got = one.recommend(["late", *IDLE], 3, unknown="popular")
        assert got.sources.tolist() == ["model", "popularity", "popularity"]
    if suffix == ".pt":  # A file of before does not say it.
        content = load_checkpoint(tmp_path / "r.pt", "recommender")
        save_checkpoint(tmp_path / "before.pt", {k: v for k, v in content.items() if k != "untrained"})
        before = Recommender.load(tmp_path / "before.pt")
        assert before.recommend(IDLE, 3, unknown="popular").fallback.all()
        save_checkpoint(tmp_path / "bad.pt", {**content, "untrained": torch.zeros(3, dtype=torch.bool)})
        with pytest.raises(InputError, match=r"bad.pt: is damaged .* untrained users of shape \[3\]"):
            Recommender.load(tmp_path / "bad.pt")


@LEARNT
def test_what_they_have_met_since_gives_them_the_embeddings_of_new_users(cls, tmp_path) -> None:
    data, clicks = world(), [(10, 2), (10, 5)]
    model = build(cls, data, 0, embedding_dim=4)
    save_model(tmp_path / "model.pt", model, data)
    source = Recommender(model, data)
    expected = source.with_new_users([[120, 150]], ["x"]).embeddings.user[-1]
    later = Recommender.load(source.save(tmp_path / "r.pt"))
    for one in (source, later):
        now = one.with_seen({"u10": [120, 150]})
        torch.testing.assert_close(now.embeddings.user[10], expected)
        assert torch.equal(now.embeddings.user[11], source.embeddings.user[11])
        assert now.recommend("u10", 3, unknown="popular").fallback is None
    today = Recommender.load(tmp_path / "model.pt", world(clicks))
    got = today.recommend("u10", 3, unknown="popular")
    assert got.fallback is None
    fresh = today.with_new_users([[120, 150]], ["x"]).embeddings.user[-1]
    torch.testing.assert_close(today.embeddings.user[10], fresh)
    assert not torch.allclose(today.embeddings.user[10], source.embeddings.user[10])


@pytest.mark.filterwarnings("ignore:recommend")
def test_an_index_warns_of_them() -> None:
    pytest.importorskip("faiss")
    with pytest.warns(UserWarning, match="1 of 1 users has no training interactions"):
        ItemIndex(served()).recommend("u11", 3)


@pytest.mark.filterwarnings("ignore:recommend")
def test_the_command_marks_them(tmp_path) -> None:
    source = served()
    command = ["recommend", "--checkpoint", str(source.save(tmp_path / "r.pt")), "--k", "3"]
    assert main([*command, "--out", str(tmp_path / "a.csv"), "--unknown", "popular"]) == 0
    got = pd.read_csv(tmp_path / "a.csv")
    assert got.user[got["from"] == "popularity"].unique().tolist() == IDLE
    assert got.item[got.user == "u11"].tolist() == popular(world())[:3]


def trained(data: HeteroData, start_from=None):
    model = build(VBPR, data, 0, embedding_dim=4)
    trainer = Trainer(max_epochs=2, monitor="recall@5", device="cpu", progress=False, track_views=False)
    trainer.fit(model, data, start_from=start_from)
    return model


def sources(recommender: Recommender) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return recommender.recommend([*IDLE, "u3"], 3, unknown="popular").sources.tolist()


@pytest.mark.filterwarnings("ignore:start_from")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_users_whom_an_earlier_model_has_learnt_are_served_by_the_one_that_began_from_it(suffix, tmp_path) -> None:
    nights = [world([(10, 2), (10, 5)]), world(), world()]  # Only in the first has user 10 met something.
    first, second, third = (tmp_path / f"{name}{suffix}" for name in ("first", "second", "third"))
    save_model(first, trained(nights[0]), nights[0])
    save_model(second, trained(nights[1], first), nights[1])
    save_model(third, trained(nights[2], second), nights[2])
    expected = ["model", "popularity", "model"]
    assert sources(Recommender(trained(nights[1]), nights[1])) == ["popularity", "popularity", "model"]
    for path in (second, third):
        opened = Recommender.load(path, nights[1])
        assert sources(opened) == expected
        assert sources(Recommender.load(path, world([(9, 0), (9, 1), (9, 2)]))) == expected
        opened.save(tmp_path / f"lists{suffix}")
        assert sources(Recommender.load(tmp_path / f"lists{suffix}")) == expected
    begun = trained(nights[1], (trained(nights[0]), nights[0]))
    assert sources(Recommender(begun, nights[1])) == expected
    assert sources(Recommender(pickle.loads(pickle.dumps(begun)), nights[1])) == expected
    assert sources(Recommender(trained(nights[2], begun), nights[2])) == expected


@pytest.mark.filterwarnings("ignore:start_from")
def test_of_a_model_whose_interactions_nobody_knows_all_users_count_as_learnt(tmp_path) -> None:
    data = world()
    save_model(tmp_path / "first.pt", trained(data), data)
    content = load_checkpoint(tmp_path / "first.pt", "model")
    del content["graph"]["interactions"]
    save_checkpoint(tmp_path / "old.pt", content)
    begun = trained(data, tmp_path / "old.pt")
    assert sources(Recommender(begun, data)) == ["model"] * 3
