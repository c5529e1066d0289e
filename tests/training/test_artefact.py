"""A model file knows what the model is: ids, transforms, training, metrics and versions, in both formats."""

from __future__ import annotations

import sys
from datetime import datetime, timezone

import numpy as np
import pytest
import torch

import pyg_ckd
from pyg_ckd.balance import MultitaskObjective
from pyg_ckd.data import Embeddings, build_data
from pyg_ckd.data.inputs import embed
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from pyg_ckd.training import about_training, build, load_model, open_model, save_model
from pyg_ckd.training.card import model_card
from pyg_ckd.training.model import convert_model
from pyg_ckd.training.safe_file import read_model
from tests.training.problem import ITEMS, USERS, planted_data, same_bits, trainer


def named(transform: str = "standardize"):
    """The planted problem with ids, a transform and items that lack a modality."""
    plain = planted_data()
    rates, item = plain["user", "rates", "item"], plain["item"]
    return build_data(
        rates.edge_index,
        {"visual": item.visual, "textual": item.textual},
        val=rates.val_edge_index,
        test=rates.test_edge_index,
        num_users=USERS,
        has={"textual": np.arange(ITEMS) % 5 > 0},
        user_id=[f"u{n}" for n in range(USERS)],
        item_id=np.arange(ITEMS) + 1000,
        transform=transform,
        impute="neighbors",
    )


@pytest.fixture(scope="module")
def run():
    data = named()
    model = MultitaskObjective(build(VBPR, data, 0, embedding_dim=4))
    own = trainer(max_epochs=2)
    history = own.fit(model, data)
    return data, model, about_training(history, 7, {"test": {"recall@5": 0.25}}, own.settings()), history


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_card_says_what_the_model_is(suffix: str, run, tmp_path) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    data, model, about, history = run
    path = tmp_path / f"model{suffix}"
    save_model(path, model, data, about)
    card = model_card(read_model(path))
    assert card["model"]["class"] == "pyg_ckd.nn.models.vbpr.VBPR"
    assert card["model"]["options"]["embedding_dim"] == 4
    assert card["model"]["weights"] == sum(p.numel() for p in model.student.parameters())
    assert card["model"]["type"] == "float32"
    known = card["data"]
    assert (known["users"], known["items"]) == (USERS, ITEMS)
    assert known["user ids"] == "texts from 'u0' to 'u9'"
    assert known["item ids"] == f"integers from 1000 to {999 + ITEMS}"
    assert known["interactions"] == {"train": 6 * USERS, "val": 2 * USERS, "test": 2 * USERS}
    assert known["modalities"]["visual"]["transform"] == "StandardizeFeatures(scale=True)"
    assert known["modalities"]["textual"]["imputation"] == "NeighborImputation(k=10)"
    assert known["modalities"]["textual"]["items with it"] == ITEMS - ITEMS // 5
    trained = card["training"]
    assert (trained["objective"], trained["seed"], trained["epochs"]) == ("multitask", 7, 2)
    assert trained["settings"]["lr"] == 0.02
    age = datetime.now(timezone.utc) - datetime.fromisoformat(trained["date"])
    assert 0 <= age.total_seconds() + 1 < 600
    assert card["metrics"]["test"] == {"recall@5": 0.25}
    assert card["metrics"]["val"]["recall@5"] == history.best_value
    assert card["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"pyg-ckd", "torch-geometric"} <= card["versions"].keys()
    assert card["format"] == 4
    assert pyg_ckd.__version__


def test_formats_hold_the_same_and_open_as_the_same_model(run, tmp_path) -> None:
    pytest.importorskip("safetensors")
    data, model, about, _ = run
    save_model(tmp_path / "a.pt", model, data, about)
    convert_model(tmp_path / "a.pt", tmp_path / "b.safetensors")
    convert_model(tmp_path / "b.safetensors", tmp_path / "c.pt")
    cards = [model_card(read_model(tmp_path / name)) for name in ("a.pt", "b.safetensors", "c.pt")]
    assert cards[0] == cards[1] == cards[2]
    found = [load_model(tmp_path / name, data) for name in ("a.pt", "b.safetensors", "c.pt")]
    assert all(same_bits(one.state_dict(), model.student.state_dict()) for one in found)
    with pytest.raises(InputError, match=r"unknown format '\.onnx': .*\.pt, \.safetensors"):
        convert_model(tmp_path / "a.pt", tmp_path / "b.onnx")


def test_many_text_ids_and_keys_that_are_no_texts_come_back_from_safetensors(tmp_path) -> None:
    safe_file = pytest.importorskip("pyg_ckd.training.safe_file")
    pytest.importorskip("safetensors")
    content = {
        "kind": "model",
        "ids": [f"ä{n}" for n in range(1500)],
        "numbers": {1: torch.arange(3), 2: None},
        "pair": (torch.ones(2, dtype=torch.bool), torch.tensor(1.5)),
        "empty": [[], {}, torch.empty(0, 4)],
    }
    safe_file.save_safetensors(tmp_path / "a.safetensors", content)
    got = safe_file.load_safetensors(tmp_path / "a.safetensors", "model")
    assert got["ids"] == content["ids"]
    assert torch.equal(got["numbers"][1], content["numbers"][1])
    assert got["numbers"][2] is None
    assert got["pair"][0].dtype == torch.bool
    assert float(got["pair"][1]) == 1.5
    assert got["empty"][:2] == [[], {}]
    assert got["empty"][2].shape == (0, 4)


def test_damaged_safetensors_are_refused(run, tmp_path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    data, model, about, _ = run
    path = tmp_path / "a.safetensors"
    save_model(path, model, data, about)
    whole = path.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"a\.safetensors: cannot be read .* damaged or no checkpoint"):
            read_model(path)
    safetensors.save_file({"x": torch.ones(2)}, path)
    with pytest.raises(InputError, match="without what pyg-ckd writes beside them"):
        read_model(path)
    safetensors.save_file({"x": torch.ones(2)}, path, {"pyg_ckd": '{"os.system": "x"}'})
    with pytest.raises(InputError, match=r"unknown entry 'os\.system'"):
        read_model(path)


def test_a_bit_that_changed_anywhere_in_safetensors_is_found(run, tmp_path) -> None:
    package = pytest.importorskip("safetensors")
    data, model, about, _ = run
    path = tmp_path / "a.safetensors"
    save_model(path, model, data, about)
    whole = path.read_bytes()
    start = int.from_bytes(whole[:8], "little") + 8
    places = [*range(start, len(whole), (len(whole) - start) // 20), len(whole) - 1, whole.index(b"embedding_dim") + 3]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(
            InputError, match=r"a\.safetensors: found other content than its digest .*remove 'sha256' from"
        ):
            read_model(path)
    path.write_bytes(whole)
    with package.safe_open(path, "pt") as file:
        text, tensors = file.metadata()["pyg_ckd"], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    package.torch.save_file(tensors, path, {"pyg_ckd": text})  # As files of before are.
    assert read_model(path)["about"] == read_model(convert_model(path, tmp_path / "b.safetensors"))["about"]


def test_without_safetensors_the_extra_is_named(run, tmp_path, monkeypatch) -> None:
    data, model, _, _ = run
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(InputError, match=r"pyg-ckd\[safetensors\]"):
        save_model(tmp_path / "a.safetensors", model, data)
    assert not list(tmp_path.iterdir())


def test_a_file_of_an_older_version_opens_and_says_what_it_lacks(run, tmp_path) -> None:
    data, model, about, _ = run
    path = tmp_path / "model.pt"
    save_model(path, model, data, about)
    content = torch.load(path, weights_only=True)
    old = {k: v for k, v in content.items() if k not in ("class", "graph", "objective", "about", "versions")}
    for number in (1, 2, 3):
        torch.save(old | {"format": number}, path)
        assert same_bits(load_model(path, data).state_dict(), model.student.state_dict())
    card = model_card(read_model(path))
    assert "older version" in card["data"]["ids"]
    assert "older version" in card["training"]["about"]
    torch.save(content | {"format": 5}, path)
    with pytest.raises(InputError, match="found format 5, expected 4; a newer version wrote it, update pyg-ckd"):
        load_model(path, data)


def test_a_graph_in_another_order_is_returned_in_that_of_the_model(run, tmp_path) -> None:
    data, model, about, _ = run
    path = tmp_path / "model.pt"
    save_model(path, model, data, about)
    order = torch.arange(ITEMS).flip(0)
    place = order.argsort()
    rates, item = data["user", "rates", "item"], planted_data()["item"]
    names = ("edge_index", "val_edge_index", "test_edge_index")
    train, val, test = (torch.stack([rates[n][0], place[rates[n][1]]]) for n in names)
    other = build_data(
        train,
        {"visual": item.visual[order], "textual": item.textual[order]},
        val=val,
        test=test,
        num_users=USERS,
        has={"textual": data["item"].has_textual[order]},
        user_id=data.user_id,
        item_id=data.item_id[order],
        impute="neighbors",
    )
    found, graph = open_model(path, other)
    assert torch.equal(graph.item_id, data.item_id)
    expected: Embeddings = embed(model, data)[0]
    for mine, theirs in zip(embed(found, graph)[0], expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
    with pytest.raises(InputError, match=r"in another order .* take open_model\(path, data\)"):
        load_model(path, other)
    reversed_ids = named()
    reversed_ids.item_id = reversed_ids.item_id.flip(0)
    with pytest.raises(InputError, match=r"item 1000, 1001, 1002 and 27 more has other features"):
        load_model(path, reversed_ids)


def test_what_is_said_of_a_training_must_be_plain(run, tmp_path) -> None:
    data, model, _, _ = run
    with pytest.raises(InputError, match=r"about\['history'\]: found object, expected plain values"):
        save_model(tmp_path / "model.pt", model, data, {"history": object()})
    save_model(tmp_path / "model.pt", model, data, {"seed": np.int64(3), "date": "2020-02-02"})
    assert read_model(tmp_path / "model.pt")["about"] == {"date": "2020-02-02", "seed": 3}


def test_suffixes_in_capitals_are_those_in_small_letters(run, tmp_path) -> None:
    safetensors = pytest.importorskip("safetensors")
    data, model, about, _ = run
    save_model(tmp_path / "A.SAFETENSORS", model, data, about)
    with safetensors.safe_open(tmp_path / "A.SAFETENSORS", "pt") as file:
        assert "pyg_ckd" in file.metadata()
    assert read_model(convert_model(tmp_path / "A.SAFETENSORS", tmp_path / "B.PT"))["about"]["seed"] == about["seed"]


def test_folders_and_other_files_are_named_in_usual_words(run, tmp_path) -> None:
    data, model, about, _ = run
    save_model(tmp_path / "model.pt", model, data, about)
    for name in ("last.pt", "other.pt"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"is a folder, expected a file; take \S+model\.pt$"):
        read_model(tmp_path)
    (tmp_path / "model.pt").unlink()
    with pytest.raises(InputError, match=r"is a folder, expected a file; of such files it holds other\.pt$"):
        read_model(tmp_path)
    (tmp_path / "other.pt").unlink()
    with pytest.raises(InputError, match=r"it holds none; model\.pt is written when a training has ended$"):
        read_model(tmp_path)
    np.savez(tmp_path / "data.npz", visual=np.eye(3))
    with pytest.raises(InputError, match=r"data\.npz: is no model file, expected a model\.pt of train or compare$"):
        read_model(tmp_path / "data.npz")
    (tmp_path / "history.csv").write_text("epoch,loss\n1,0.5\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"cannot be read \(it is no file of PyTorch, or holds more than tensors"):
        read_model(tmp_path / "history.csv")
