"""Columns of frames are joined by name, those of arrays and numbered ones by place."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd import Trainer
from pyg_ckd.data import RecordedTransform, build_data, fingerprint
from pyg_ckd.data.identity import identity_of, match
from pyg_ckd.data.matching import graph_record, matched, matched_newer
from pyg_ckd.datasets import read_npz, write_npz
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from pyg_ckd.serving import Recommender
from pyg_ckd.training.model import save_model

NAMES = list("abcdef")
IDS = [f"i{n:02}" for n in range(40)]
V = pd.DataFrame(np.random.default_rng(5).normal(2, 5, (40, 6)), index=IDS, columns=NAMES)
T = pd.DataFrame(np.random.default_rng(6).normal(size=(40, 4)), index=IDS)
NEW = ["new1", "new2"]


def clicks(items: int = 30) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    pairs = [(f"u{u}", IDS[i]) for u in range(20) for i in rng.choice(items, 8, replace=False)]
    return pd.DataFrame(pairs, columns=["user", "item"])


def graph(v: pd.DataFrame = V, transform="standardize", items: int = 30) -> HeteroData:
    return build_data(clicks(items), {"v": v, "t": T}, transform=transform)


@pytest.fixture(scope="module")
def trained() -> tuple[VBPR, HeteroData]:
    data = graph()
    model = VBPR.from_data(data, embedding_dim=4)
    Trainer(max_epochs=2, progress=False, device="cpu").fit(model, data)
    return model, data


def newcomers(v: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {"v": v[:2].set_axis(NEW), "t": T[:2].set_axis(NEW)}


def table(recommender: Recommender, **features) -> torch.Tensor:
    return recommender.with_new_items(**features).embeddings.item[-2:]


def test_new_items_are_joined_by_the_names_of_columns(trained) -> None:
    served = Recommender(*trained)
    want = table(served, features=newcomers(V))
    assert torch.equal(table(served, features=newcomers(V[NAMES[::-1]])), want)
    shuffled = newcomers(V[NAMES[::-1]])
    shuffled["v"] = shuffled["v"].reset_index(names="item")  # Ids in a column among the others.
    assert torch.equal(table(served, features=shuffled), want)
    for by_place in (V.set_axis(range(6), axis=1), V.set_axis([f"{n}" for n in range(6)], axis=1).to_numpy()):
        features = {"v": by_place[:2], "t": T.to_numpy()[:2]}
        if isinstance(by_place, pd.DataFrame):
            features["v"] = features["v"].set_axis(NEW)
        assert torch.equal(table(served, features=features, item_ids=NEW), want)


def test_other_names_are_refused_by_name(trained) -> None:
    served = Recommender(*trained)
    with pytest.raises(InputError, match=r"'v': found the new columns 'u', 'w', 'x' and 3 more and no column 'a', 'b'"):
        served.with_new_items(newcomers(V.set_axis(list("uwxyzq"), axis=1)))
    with pytest.raises(InputError, match=r"features of 'v': found no column 'c', expected the names .*to_numpy"):
        served.with_new_items(newcomers(V.drop(columns="c")))
    with pytest.raises(InputError, match=r"known items: features of 'v': found the new columns 'z' and no column 'a'"):
        served.with_new_items(newcomers(V), known_features={"v": V.rename(columns={"a": "z"}), "t": T})


def test_names_of_known_and_new_items_of_one_call_are_compared_where_none_are_recorded() -> None:
    data = build_data(clicks(), {"v": V.to_numpy(), "t": T.to_numpy()}, item_id=IDS)
    data["item"].v = data["item"].v * 2  # By a transform that nobody knows.
    served = Recommender(VBPR.from_data(data, embedding_dim=4), data)
    known = {"v": V, "t": T}
    want = table(served, features=newcomers(V), known_features=known)
    assert torch.equal(table(served, features=newcomers(V[NAMES[::-1]]), known_features=known), want)
    with pytest.raises(InputError, match="new items: features of 'v': found the new columns 'z' and no column 'f'"):
        served.with_new_items(newcomers(V.rename(columns={"f": "z"})), known_features=known)


def test_models_and_archives_keep_names_and_older_ones_open(trained, tmp_path) -> None:
    model, data = trained
    want = table(Recommender(model, data), features=newcomers(V))
    write_npz(data, tmp_path / "data.npz")
    save_model(tmp_path / "model.pt", model, data)
    restored = read_npz(tmp_path / "data.npz", transform="none")
    assert restored.prepared["v"]["columns"] == NAMES
    assert "columns" not in restored.prepared["t"]
    assert fingerprint(restored) == fingerprint(build_data(clicks(), {"v": V.set_axis(range(6), axis=1), "t": T}))
    served = Recommender.load(tmp_path / "model.pt", restored)
    assert torch.equal(table(served, features=newcomers(V[NAMES[::-1]])), want)
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert content["graph"]["prepared"]["v"].pop("columns") == NAMES
    torch.save(content, tmp_path / "old.pt")
    rows = np.random.default_rng(3).permutation(20)
    moved = build_data(clicks(), {"v": V, "t": T}, user_id=[f"u{n}" for n in rows])
    served = Recommender.load(tmp_path / "old.pt", moved)
    torch.testing.assert_close(table(served, features=newcomers(V[NAMES[::-1]])), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("transform", ["standardize", "none"])
def test_a_model_meets_its_graph_with_columns_in_another_order(transform: str) -> None:
    data = graph(transform=transform)
    other = graph(V[NAMES[::-1]], transform)
    found = matched(other, fingerprint(data), graph_record(data), "model.pt")
    torch.testing.assert_close(found["item"].v, data["item"].v, atol=1e-5, rtol=0)
    known, whole = matched_newer(other, graph_record(data), "model.pt")
    torch.testing.assert_close(known["item"].v, data["item"].v, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole["item"].v, data["item"].v, atol=1e-5, rtol=0)
    renamed = graph(V.set_axis(list("uwxyzq"), axis=1), transform)
    assert matched(renamed, fingerprint(data), graph_record(data), "model.pt") is renamed  # The numbers are the same.


def test_the_next_day_is_brought_to_the_recorded_order() -> None:
    monday = graph()
    tuesday = graph(V[NAMES[::-1]], RecordedTransform(monday))
    torch.testing.assert_close(tuesday["item"].v, monday["item"].v, atol=1e-6, rtol=0)
    assert tuesday.prepared["v"]["columns"] == NAMES
    assert fingerprint(tuesday) == fingerprint(graph(V, RecordedTransform(monday)))
    assert match(identity_of(monday), identity_of(tuesday), "old").item.tolist() == list(range(40))
    wednesday = graph(V[["c", "a", "b", "f", "e", "d"]], RecordedTransform(tuesday))
    torch.testing.assert_close(wednesday["item"].v, monday["item"].v, atol=1e-6, rtol=0)
    with pytest.raises(InputError, match=r"modality 'v': found the new columns 'z' and no column 'a', expected"):
        graph(V.rename(columns={"a": "z"}), RecordedTransform(monday))


def test_a_training_does_not_begin_from_columns_in_another_order() -> None:
    monday = identity_of(graph())
    swapped = V[["b", "a", "c", "d", "e", "f"]]
    with pytest.raises(InputError, match=r"columns in another order than in training \(the first was 'a', now in pl"):
        match(monday, identity_of(graph(swapped)), "old")
    with pytest.raises(InputError, match="features of 'v': found the new columns 'z' and no column 'a'"):
        match(monday, identity_of(graph(V.rename(columns={"a": "z"}))), "old")
    numbered = identity_of(graph(V.set_axis(range(6), axis=1)))
    assert match(monday, numbered, "old").item.tolist() == list(range(40))
