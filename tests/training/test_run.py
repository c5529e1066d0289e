"""What a checkpoint of a run holds, and when it is written."""

from __future__ import annotations

import pytest
import torch

from pyg_ckd.nn import VBPR
from pyg_ckd.training import build, load_checkpoint, save_checkpoint
from pyg_ckd.training.run_file import RunFile
from tests.training.problem import planted_data, same_bits, trainer


def vbpr(data) -> VBPR:
    return build(VBPR, data, 0, embedding_dim=4)


@pytest.mark.parametrize(("minutes", "epochs"), [(0, [1, 2, 3, 4, 5]), (9.0, [5])])
def test_a_checkpoint_is_written_after_every_epoch_or_after_some_minutes_and_at_the_end(
    minutes, epochs, tmp_path, monkeypatch
):
    data, written, original = planted_data(), [], RunFile.write

    def write(file, run):
        written.append(run.epoch)
        original(file, run)

    monkeypatch.setattr(RunFile, "write", write)
    run = trainer(max_epochs=5, eval_every=2, checkpoint_minutes=minutes, checkpoint_dir=tmp_path)
    run.fit(vbpr(data), data)
    assert written == epochs


@pytest.fixture
def scalers(monkeypatch) -> list[torch.amp.GradScaler]:
    """Scale gradients on a CPU as ``16-mixed`` does on a GPU, growing in the middle of an epoch."""
    from lightning_fabric.plugins.precision.amp import MixedPrecision

    made: list[torch.amp.GradScaler] = []
    original = MixedPrecision.__init__

    def init(self, precision, device, scaler=None):
        original(self, precision, device)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=6)
        made.append(self.scaler)

    monkeypatch.setattr(MixedPrecision, "__init__", init)
    return made


def test_the_scale_of_gradients_goes_on_after_a_break(scalers, tmp_path):
    data, options = planted_data(), {"precision": "bf16-mixed"}
    whole, resumed = vbpr(data), vbpr(data)
    expected = trainer(max_epochs=5, **options).fit(whole, data)
    trainer(max_epochs=2, checkpoint_dir=tmp_path, **options).fit(vbpr(data), data)
    history = trainer(max_epochs=5, checkpoint_dir=tmp_path, **options).fit(resumed, data)
    first, broken, last = (scaler.state_dict() for scaler in scalers)
    assert last == first
    assert broken["scale"] not in (2.0**10, first["scale"])
    assert history.rows == expected.rows
    assert same_bits(resumed.state_dict(), whole.state_dict())


def test_a_run_without_the_scale_of_gradients_is_gone_on_with(scalers, tmp_path):
    data, options = planted_data(), {"precision": "bf16-mixed", "checkpoint_dir": tmp_path}
    trainer(max_epochs=2, **options).fit(vbpr(data), data)
    content = load_checkpoint(tmp_path / "last.pt", "run")
    del content["run"]["scaler"]
    save_checkpoint(tmp_path / "last.pt", content)
    assert len(trainer(max_epochs=3, **options).fit(vbpr(data), data).rows) == 3
