"""The HTTP service of the examples, asked by FastAPI's own client."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pyg_ckd import __version__
from pyg_ckd.data import Embeddings, build_data
from pyg_ckd.datasets import load
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from pyg_ckd.serving import Recommender
from pyg_ckd.serving.ids import Ids
from pyg_ckd.training import build
from pyg_ckd.training.model import save_model

testclient = pytest.importorskip("fastapi.testclient")
serve = pytest.importorskip("examples.serve")

JSON = {"content-type": "application/json"}


def recommender(num_users: int = 6, text: bool = False) -> Recommender:
    """Random tables of 5 items; every user has met item ``user % 5``, the last one all but item 3."""
    rng = np.random.default_rng(0)
    pairs = {(user, user % 5) for user in range(num_users)} | {(num_users - 1, item) for item in range(3)}
    data = build_data(np.array(sorted(pairs)).T, {"visual": rng.normal(size=(5, 2))}, num_users=num_users, num_items=5)
    data.user_id = [f"u{n}" for n in range(num_users)] if text else list(range(100, 100 + num_users))
    data.item_id = [f"item {n}" for n in range(5)]
    tables = (torch.from_numpy(rng.normal(size=(size, 3))).float() for size in (num_users, 5))
    return Recommender(Embeddings(*tables), data)


@pytest.fixture
def client():
    return testclient.TestClient(serve.app(recommender()))


def test_health_and_version_say_what_runs(client) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/version").json() == {"pyg_ckd": __version__, "users": 6, "items": 5}


@pytest.mark.parametrize(("text", "name"), [(False, 101), (True, "u1")], ids=["numbers", "text"])
def test_one_user_gets_what_the_recommender_gives(text: bool, name: int | str) -> None:
    source = recommender(text=text)
    client = testclient.TestClient(serve.app(source))
    expected = source.recommend([name], k=3)
    (answer,) = client.get(f"/recommend/{name}?k=3").json()
    assert answer["user"] == name
    assert answer["items"] == expected.items[0].tolist()
    assert answer["scores"] == pytest.approx(expected.scores[0].tolist())
    assert client.post("/recommend", json={"users": [name], "k": 3}).json() == [answer]


def test_many_users_are_one_request_and_short_lists_stay_short() -> None:
    source = recommender(10_000)
    client = testclient.TestClient(serve.app(source))
    users = list(range(100, 10_100))
    answer = client.post("/recommend", json={"users": users, "k": 4}).json()
    assert len(answer) == 10_000
    assert [row["user"] for row in answer] == users
    found = source.recommend(users, k=4)
    assert [row["items"] for row in answer[:-1]] == found.items[:-1].tolist()
    assert answer[-1]["items"] == ["item 3"]
    assert len(answer[-1]["scores"]) == 1
    seen = client.post("/recommend", json={"users": users[-1:], "k": 5, "exclude_seen": False}).json()
    assert sorted(seen[0]["items"]) == [f"item {n}" for n in range(5)]
    assert client.post("/recommend", json={"users": [], "k": 5}).json() == []


def test_a_user_who_has_seen_all_items_gets_an_empty_list_alone_as_beside_others() -> None:
    source = recommender().with_seen({105: [f"item {n}" for n in range(5)]})
    client = testclient.TestClient(serve.app(source))
    empty = {"user": 105, "items": [], "scores": [], "from": "model"}
    assert client.get("/recommend/105?k=2").json() == [empty]
    assert client.post("/recommend", json={"users": [105, 105], "k": 5}).json() == [empty, empty]
    assert client.post("/recommend", json={"users": [101, 105], "k": 2}).json()[1] == empty
    with pytest.raises(InputError, match="recommend: user 105 has seen every one of the 5 items"):
        source.recommend(105, 2)


@pytest.mark.parametrize(
    ("path", "status", "line"),
    [
        ("/recommend/7", 404, "unknown user 7: did you mean 100 or 101 or 102? expected one of the 6 user ids of"),
        ("/recommend/anna", 404, "unknown user 'anna': expected one of the 6 user ids of the graph, integers from 100"),
        ("/recommend/101?k=9", 422, "k: found 9, expected 1 to 5, the number of items"),
        ("/recommend/101?k=0", 422, "k: found 0, expected 1 to 5"),
        ("/recommend/101?k=many", 422, "k: found 'many', "),
    ],
)
def test_a_bad_request_gets_one_clear_line(client, path: str, status: int, line: str) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(line)


@pytest.mark.parametrize(
    ("content", "status", "line"),
    [
        ({"users": [101, 7, 8], "k": 2}, 404, "unknown user 7 (2 such ids)"),
        ({"users": [101], "k": "x"}, 422, "k: found 'x', Input should be a valid integer"),
        ({"k": 2}, 422, "users: found "),
        ({"users": [[1]], "k": 2}, 422, ""),
        ({"users": [101], "k": True}, 422, "k: found True, Input should be a valid integer"),
        ({"users": [101], "k": 2.0}, 422, "k: found 2.0, "),
        ({"users": [101], "exclude_seen": "no"}, 422, "exclude_seen: found 'no', Input should be a valid boolean"),
        ({"users": [101], "exlude_seen": False}, 422, "exlude_seen: found False, Extra inputs are not permitted"),
    ],
    ids=["unknown", "k", "no users", "nested", "k is true", "k with a fraction", "word", "misspelt"],
)
def test_a_bad_batch_gets_one_clear_line(client, content: dict, status: int, line: str) -> None:
    answer = client.post("/recommend", json=content)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(line)
    assert len(answer.json()["error"]) < 400


def test_the_service_opens_a_model_file_by_environment(tmp_path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    pairs = np.stack([np.arange(8) % 4, np.arange(8) % 5])
    np.savez(tmp_path / "data.npz", train=pairs, visual=rng.normal(size=(5, 3)), num_users=4, num_items=5)
    data = load(tmp_path / "data.npz")
    save_model(tmp_path / "model.pt", VBPR.from_data(data, embedding_dim=2), data)
    monkeypatch.setenv("CHECKPOINT", str(tmp_path / "model.pt"))
    monkeypatch.setenv("DATA", str(tmp_path / "data.npz"))
    client = testclient.TestClient(serve.app())
    assert client.get("/version").json()["items"] == 5
    assert len(client.get("/recommend/0?k=2").json()[0]["items"]) == 2


def test_a_saved_recommender_is_served_without_data_and_unknown_users_get_popular_items(tmp_path, monkeypatch) -> None:
    source = recommender(text=True)
    monkeypatch.setenv("CHECKPOINT", str(source.save(tmp_path / "tonight.pt")))
    monkeypatch.setenv("DATA", "")
    monkeypatch.setenv("UNKNOWN", "popular")
    client = testclient.TestClient(serve.app())
    with pytest.warns(UserWarning, match="1 of 2 users is unknown"):
        known, new = client.post("/recommend", json={"users": ["u1", "anna"], "k": 2}).json()
    assert (known["from"], new["from"]) == ("model", "popularity")
    assert known["items"] == source.recommend("u1", 2).items[0].tolist()
    assert new["items"] == ["item 0", "item 1"]
    assert new["scores"] == [2, 2]


@pytest.mark.filterwarnings("ignore:recommend")
def test_users_without_training_interactions_get_popular_items(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    data = build_data(np.array([[0, 1, 1], [0, 0, 2]]), {"visual": rng.normal(size=(5, 2))}, num_users=3, num_items=5)
    monkeypatch.setenv("UNKNOWN", "popular")
    client = testclient.TestClient(serve.app(Recommender(build(VBPR, data, 0, embedding_dim=3), data)))
    known, idle = client.post("/recommend", json={"users": [0, 2], "k": 2}).json()
    assert (known["from"], idle["from"]) == ("model", "popularity")
    assert (idle["items"], idle["scores"]) == ([0, 2], [2, 1])


def test_the_example_is_short_and_the_image_runs_it() -> None:
    folder = Path(serve.__file__).parent
    assert len((folder / "serve.py").read_text(encoding="utf-8").splitlines()) < 55
    image = (folder / "Dockerfile").read_text(encoding="utf-8")
    assert "examples.serve:app" in image
    assert ".[serve]" in image


def test_users_with_a_slash_are_asked_for_by_their_names() -> None:
    source = recommender(text=True)
    source.users = Ids("user", ["a/b", *(f"u{n}" for n in range(1, 6))], 6)
    client = testclient.TestClient(serve.app(source))
    for name in ("a%2Fb", "a/b"):
        assert client.get(f"/recommend/{name}?k=2").json()[0]["user"] == "a/b"


@pytest.mark.filterwarnings("ignore:recommend")
@pytest.mark.parametrize("text", [True, False], ids=["text", "numbers"])
@pytest.mark.parametrize("unknown", ["error", "popular"])
def test_what_is_no_id_gets_one_clear_line(text: bool, unknown: str, monkeypatch) -> None:
    monkeypatch.setenv("UNKNOWN", unknown)
    client = testclient.TestClient(serve.app(recommender(text=text)))
    for users, line in (
        ("true", "users: found True, "),
        ("1.0", "users: found 1.0, "),
        ("null", "users: found None, "),
    ):
        answer = client.post("/recommend", content=f'{{"users": [{users}]}}', headers=JSON)
        assert answer.status_code == 422
        assert answer.json()["error"].startswith(line)
    answer = client.post("/recommend", content='{"users": ["\\ud800"], "k": 2}', headers=JSON)
    assert answer.status_code == (404 if unknown == "error" else 422)
    assert "ud800" in answer.json()["error"]


def test_a_wrong_environment_stops_the_service_at_its_start(monkeypatch) -> None:
    monkeypatch.setenv("UNKNOWN", "foo")
    with pytest.raises(InputError, match=r"'foo'.* valid names are error, popular"):
        serve.app(recommender())
    for name in ("UNKNOWN", "CHECKPOINT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"^checkpoint \$CHECKPOINT: found no such file"):
        serve.app()
