"""Checkpoints are written whole, read without executing anything, and refused where they do not fit."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from pyg_ckd.balance import Objective
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from pyg_ckd.training import Trainer, checkpoint, load_checkpoint, save_checkpoint, seeded
from pyg_ckd.training.checkpoint import check_settings
from pyg_ckd.training.made_of import made_of
from tests.training.problem import ITEMS, USERS, planted_data


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (open, (self.marker, "w"))


pytestmark = pytest.mark.filterwarnings("error")  # One line about a bad file, and nothing beside it.
CONTENT = {"kind": "run", "weights": torch.arange(6.0).view(2, 3), "rows": [{"epoch": 1, "x": 0.5}], "none": None}


def test_content_comes_back_bit_by_bit(tmp_path):
    save_checkpoint(tmp_path / "new" / "a.pt", CONTENT)
    content = load_checkpoint(tmp_path / "new" / "a.pt", "run")
    assert torch.equal(content.pop("weights"), CONTENT["weights"])
    assert content == {k: v for k, v in CONTENT.items() if k != "weights"} | {"format": checkpoint.FORMAT}


def test_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"no_such\.pt: found no such file"):
        load_checkpoint(tmp_path / "no_such.pt", "run")


@pytest.mark.parametrize("name", ["x" * 300 + ".pt", "a/" * 3000 + "b.pt"], ids=["name", "path"])
def test_name_that_no_file_can_have_is_refused(name, tmp_path):
    with pytest.raises(InputError, match=r"checkpoint .*\.pt: File name too long, expected a file"):
        load_checkpoint(tmp_path / name, "run")


def test_file_cut_off_anywhere_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, CONTENT)
    whole = path.read_bytes()
    for size in [0, 1, 2, 10, *range(50, len(whole) - 1, len(whole) // 25)]:
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"a\.pt: cannot be read .* damaged or no checkpoint"):
            load_checkpoint(path, "run")


@pytest.mark.parametrize("mmap", [False, True])
def test_a_bit_that_changed_anywhere_in_the_weights_is_found(mmap, tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, CONTENT)
    whole = path.read_bytes()
    start = whole.index(CONTENT["weights"].numpy().tobytes())
    for place in range(start, start + CONTENT["weights"].nbytes, 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(InputError, match=r"a\.pt: cannot be read \(the part .* has changed since it was written"):
            load_checkpoint(path, "run", mmap=mmap)
    path.write_bytes(whole)
    assert load_checkpoint(path, "run", mmap=mmap)["rows"] == CONTENT["rows"]


def test_checksums_are_written_where_the_program_goes_without(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        save_checkpoint(tmp_path / "a.pt", CONTENT)
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_checkpoint(tmp_path / "a.pt", "run")["rows"] == CONTENT["rows"]


@pytest.mark.parametrize(
    "content", [b"not a checkpoint", b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff.", b"PK\x03\x04" * 99]
)
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged or no checkpoint"):
        load_checkpoint(path, "run")


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickle_in_a_checkpoint_is_refused_and_not_executed(protocol, tmp_path):
    marker, zipped, plain = tmp_path / "marker", tmp_path / "zip.pt", tmp_path / "plain.pt"
    content = {"format": checkpoint.FORMAT, "kind": "run", "bomb": Bomb(marker)}
    torch.save(content, zipped, pickle_protocol=protocol)
    plain.write_bytes(pickle.dumps(content, protocol))
    for path in (zipped, plain):
        with pytest.raises(InputError, match="cannot be read"):
            load_checkpoint(path, "run")
        assert not marker.exists()
    pickle.loads(plain.read_bytes())["bomb"].close()
    assert marker.exists()  # The bomb does go off in a reader that executes pickles.


def test_other_format_and_other_kind_are_refused(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "teacher.pt", {"kind": "teacher"})
    with pytest.raises(InputError, match="found a checkpoint of kind 'teacher', expected 'run'"):
        load_checkpoint(tmp_path / "teacher.pt", "run")
    torch.save({"kind": "run"}, tmp_path / "old.pt")
    with pytest.raises(InputError, match=f"found format none, expected {checkpoint.FORMAT}"):
        load_checkpoint(tmp_path / "old.pt", "run")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match=f"found format list, expected {checkpoint.FORMAT}"):
        load_checkpoint(tmp_path / "list.pt", "run")


def test_first_setting_that_differs_is_named():
    check_settings("a.pt", {"lr": 0.1, "data": "x"}, {"data": "x", "lr": 0.1})
    with pytest.raises(InputError, match=r"a\.pt: found lr = 0\.1, expected 0\.2"):
        check_settings("a.pt", {"lr": 0.1, "data": "x"}, {"lr": 0.2, "data": "x"})
    with pytest.raises(InputError, match="found reweight = True, expected None"):
        check_settings("a.pt", {"reweight": True}, {})
    with pytest.raises(InputError, match="trained on other data"):
        check_settings("a.pt", {"data": "x"}, {"data": "y"})


def test_setting_that_differs_is_named_by_its_whole_path():
    nested = {"trainer": {"lr": 0.001, "monitor": "recall@20"}, "options": {}}
    check_settings("a.pt", nested, {"trainer": {"monitor": "recall@20", "lr": 0.001}})
    with pytest.raises(InputError, match=r"a\.pt: found trainer\.lr = 0\.001, expected 0\.0003 as in this run"):
        check_settings("a.pt", nested, {"trainer": {"lr": 0.0003, "monitor": "recall@20"}})
    with pytest.raises(InputError, match=r"found options\.width = None, expected 4"):
        check_settings("a.pt", nested, nested | {"options": {"width": 4}})


@pytest.mark.parametrize("error", [IndexError("pop from empty list"), TypeError("takes 6"), AttributeError("dtype")])
def test_whatever_the_reader_of_a_damaged_file_raises_is_refused(error, tmp_path, monkeypatch):
    # Single flipped bytes in a valid file led to each of these errors of torch.load.
    def load(*args, **options):
        raise error

    save_checkpoint(tmp_path / "a.pt", CONTENT)
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(InputError, match=r"a\.pt: cannot be read"):
        load_checkpoint(tmp_path / "a.pt", "run")


def test_seeded_block_draws_the_same_and_leaves_the_state_outside_alone():
    torch.manual_seed(9)
    before = torch.get_rng_state()
    with seeded(1):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    with seeded(1):
        assert torch.equal(torch.rand(3), first)
    with seeded(2):
        assert not torch.equal(torch.rand(3), first)


@pytest.mark.parametrize("kind", ["model", "teacher"])
def test_models_and_teachers_of_the_first_version_are_read(kind, tmp_path):
    torch.save({"format": 1, "kind": kind, "x": torch.ones(2)}, tmp_path / "a.pt")
    assert torch.equal(load_checkpoint(tmp_path / "a.pt", kind)["x"], torch.ones(2))


def test_a_run_of_the_first_version_is_refused_in_one_line(tmp_path):
    torch.save({"format": 1, "kind": "run", "run": {}, "settings": {}}, tmp_path / "last.pt")
    with pytest.raises(InputError, match=r"last\.pt: found format 1, expected 3; another version wrote it") as caught:
        load_checkpoint(tmp_path / "last.pt", "run")
    assert "\n" not in str(caught.value)


def plain_module(width: int = 4, scale: float = 1.0, name: str = "Net") -> nn.Module:
    """Return a module that is no backbone, whose class has a name and a code of its own."""

    class Net(nn.Module):
        """Two tables."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.user, self.item = nn.Embedding(USERS, width), nn.Embedding(ITEMS, width)

        def forward(self, x_dict, edge_index):
            return self.user.weight * scale, self.item.weight

    Net.__qualname__ = name
    return Net(width)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"name": "Another"}, r"found made_of\.code\.tests\S+\.Another = None, expected '\w+' as in this run"),
        ({"scale": 2.0}, r"found made_of\.code\.tests\S+\.Net = '\w+', expected"),
        ({"width": 5}, r"found made_of\.parameters\.item\.weight = \[30, 4\], expected \[30, 5\]"),
    ],
    ids=["class", "code", "width"],
)
def test_a_run_of_another_module_is_refused(other, words, tmp_path):
    data = planted_data()
    torch.manual_seed(0)
    trainer = Trainer(max_epochs=1, monitor="ndcg@5", progress=False, checkpoint_dir=tmp_path)
    first = plain_module()
    trainer.fit(first, data)
    again = plain_module()
    trainer.fit(again, data)
    assert torch.equal(again.user.weight, first.user.weight)
    with pytest.raises(InputError, match=words):
        trainer.fit(plain_module(**other), data)


def test_a_run_of_a_strategy_whose_code_has_changed_is_refused(tmp_path):
    def weighted(weight: float) -> type[Objective]:
        class Weighted(Objective):
            """Has a term that changes nothing but the sum."""

            def balance(self, out, batch):
                return {"x": torch.full((), weight)}

        return Weighted

    data = planted_data()
    trainer = Trainer(max_epochs=1, monitor="ndcg@5", progress=False, checkpoint_dir=tmp_path)
    for _ in range(2):
        trainer.fit(weighted(1.0)(VBPR.from_data(data, embedding_dim=4)), data)
    with pytest.raises(InputError, match=r"found made_of\.code\.\S+Weighted = '\w+', expected '\w+'"):
        trainer.fit(weighted(2.0)(VBPR.from_data(data, embedding_dim=4)), data)


def test_what_is_said_of_a_run_of_the_packages_own_classes_is_what_it_was():
    assert made_of(Objective(VBPR.from_data(planted_data(), embedding_dim=4))) == {}


def test_a_run_of_a_model_with_a_parameter_frozen_since_is_refused(tmp_path):
    data = planted_data()
    trainer = Trainer(max_epochs=1, monitor="ndcg@5", progress=False, checkpoint_dir=tmp_path)
    trainer.fit(VBPR.from_data(data, embedding_dim=4), data)
    model = VBPR.from_data(data, embedding_dim=4)
    next(model.parameters()).requires_grad_(False)
    with pytest.raises(InputError, match=r"last\.pt: does not fit the model .* trained and not frozen; choose"):
        trainer.fit(model, data)


@pytest.mark.parametrize("kind", [None, "model"])
def test_weights_alone_are_no_model(kind, tmp_path):
    torch.save({"user.weight": torch.zeros(2)}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"such as a state_dict.*load_state_dict"):
        load_checkpoint(tmp_path / "weights.pt", kind)


class Configured(nn.Module):
    """Two tables, options that no code shows, and a number that changes in every step."""

    def __init__(self, rate: float = 0.1, scale: float = 1.0, act=torch.relu) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(USERS, 4), nn.Embedding(ITEMS, 4)
        self.dropout, self._scale, self.act = nn.Dropout(rate), scale, act
        self.calls, self.drawn, self.cache = 0, torch.randn(3), None

    def forward(self, x_dict, edge_index):
        self.calls, self.cache = self.calls + 1, self.drawn
        return self.user.weight, self._scale * self.act(self.dropout(self.item.weight))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"rate": 0.9}, r"found model\.dropout = 'Dropout\(p=0\.1, inplace=False\)', expected 'Dropout\(p=0\.9, "),
        ({"scale": 50.0}, r"found model\._scale = '1\.0', expected '50\.0' as in this run; choose another folder"),
        ({"act": torch.tanh}, r"found model\.act = '\S+relu>', expected '\S+tanh>'"),
    ],
    ids=["dropout", "private", "function"],
)
def test_a_run_of_a_module_with_other_options_is_refused(other, words, tmp_path):
    data = planted_data()
    for epochs in (1, 2):  # Built again, with other weights, and trained on.
        trainer = Trainer(max_epochs=epochs, monitor="ndcg@5", progress=False, checkpoint_dir=tmp_path)
        module = Configured()
        assert len(trainer.fit(module, data).rows) == epochs
    assert len(trainer.fit(module, data).rows) == 2
    assert len(trainer.fit(Configured(), data).rows) == 2
    with pytest.raises(InputError, match=words):
        trainer.fit(Configured(**other), data)


def test_a_run_that_says_nothing_of_options_is_gone_on_with(tmp_path):
    data = planted_data()
    trainer = Trainer(max_epochs=1, monitor="ndcg@5", progress=False, checkpoint_dir=tmp_path)
    trainer.fit(Configured(), data)
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    told = content.pop("attributes")
    assert told["model._scale"] == "1.0"
    assert not {"model.calls", "model.drawn", "model.cache"} & told.keys()
    torch.save(content, tmp_path / "last.pt")
    assert len(trainer.fit(Configured(scale=2.0), data).rows) == 1


def test_a_run_of_the_packages_own_models_has_no_options_beside_its_settings(tmp_path):
    data = planted_data()
    trainer = Trainer(max_epochs=1, monitor="ndcg@5", progress=False, checkpoint_dir=tmp_path)
    trainer.fit(VBPR.from_data(data, embedding_dim=4), data)
    assert load_checkpoint(tmp_path / "last.pt", "run")["attributes"] == {}
