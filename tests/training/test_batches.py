"""Batches that grow with the data."""

from __future__ import annotations

import math

import pytest

from pyg_ckd import Objective, Trainer
from pyg_ckd.cli import main
from pyg_ckd.errors import InputError
from pyg_ckd.nn import FISM, MMGCN, VBPR
from pyg_ckd.training import Pace, batches, build


@pytest.mark.parametrize(
    ("interactions", "size", "patience"),
    [(100, 2048, 1000), (8_000, 2048, 1000), (20_000, 8192, 500), (59_541, 16_384, 500), (10**9, 16_384, 500)],
)
def test_large_batches_follow_the_interactions(interactions, size, patience):
    pace = Pace.of("large", 0.005, 1000, interactions)
    assert pace == Pace(size, pytest.approx(0.005 * math.sqrt(size / 2048)), patience)
    assert Pace.of("large", 0.005, 150, interactions).patience == 150
    assert Pace.of(512, 0.005, 1000, interactions) == Pace(512, 0.005, 1000)


@pytest.mark.parametrize(
    ("backbone", "times", "patience"), [(MMGCN, 2, 400), (FISM, 8, 150), (VBPR, 8, 500)], ids=["MMGCN", "FISM", "VBPR"]
)
def test_rates_are_those_of_the_batch_that_the_backbone_recommends(backbone, times, patience):
    trainer = backbone.recommended.get("trainer", {})
    lr, base = trainer.get("lr", 0.001), trainer.get("batch_size")
    pace = Pace.of("large", lr, trainer.get("patience", 1000), 59_541, base=base)
    assert pace == Pace(16_384, pytest.approx(lr * math.sqrt(times)), patience)


def test_a_training_takes_the_recommended_batch_of_its_backbone(make_data, monkeypatch):
    data = make_data(num_users=60, num_items=50)
    asked = []
    plain = Pace.of
    monkeypatch.setattr(Pace, "of", lambda *args, **kwargs: asked.append(kwargs) or plain(*args, **kwargs))
    for backbone in (MMGCN, FISM, VBPR):
        model = build(backbone, data, 0)
        Trainer(1, "large", progress=False).fit(Objective(model), data)
    assert asked == [{"base": 8192}, {"base": 2048}, {"base": None}]


@pytest.mark.parametrize("value", ["larg", 0, 2.5, None], ids=["word", "zero", "fraction", "none"])
def test_other_sizes_are_refused(value):
    with pytest.raises(InputError, match="batch_size: found"):
        Trainer(batch_size=value)


def test_a_training_with_large_batches_is_the_one_with_their_numbers(make_data, monkeypatch):
    monkeypatch.setattr(batches, "BASE", 4)
    data = make_data(num_users=60, num_items=50)
    interactions = data["user", "rates", "item"].edge_index.size(1)
    pace = Pace.of("large", 0.01, 500, interactions)
    assert pace.batch_size > 4
    rows = []
    for batch_size, lr, patience in (("large", 0.01, 500), (pace.batch_size, pace.lr, pace.patience)):
        model = build(VBPR, data, 0)
        trainer = Trainer(3, batch_size, lr, patience=patience, progress=False)
        rows.append(trainer.fit(Objective(model), data).rows)
    assert rows[0] == rows[1]
    assert Trainer(batch_size="large").settings()["batch_size"] == "large"


def test_the_command_line_takes_the_word(tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--data", "synthetic", "--backbone", "VBPR", "--objective", "plain", "--out", str(out)]
    assert main(["train", *options, "--trainer.batch_size", "large", "--trainer.max_epochs", "1"]) == 0
    assert (out / "model.pt").exists()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main(["train", *options, "--trainer.batch_size", "huge"]))
    assert stopped.value.code == 2
    assert "found 'huge', expected a number of triples, or 'large'" in capsys.readouterr().err
