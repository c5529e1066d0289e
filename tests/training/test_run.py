"""What a checkpoint of a run holds, and when it is written."""

from __future__ import annotations

import pytest
import torch

from pyg_ckd.balance import DifficultyCurriculum, Incremental
from pyg_ckd.nn import VBPR
from pyg_ckd.training import build, load_checkpoint, save_checkpoint
from pyg_ckd.training.run import Run
from pyg_ckd.training.run_file import RunFile, remove_checkpoint
from tests.training.problem import distilled, planted_data, same_bits, trainer


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


def odsw(data):
    return DifficultyCurriculum(distilled(data), stage_epochs=2)


def shared(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> set[str]:
    """Return which entries are in the same memory."""
    return {name for name, value in first.items() if value.data_ptr() == second[name].data_ptr()}


@pytest.mark.parametrize(("make", "start"), [(distilled, "teacher_"), (odsw, "inner.teacher_")])
def test_tables_of_teachers_are_in_memory_and_in_a_checkpoint_once(make, start, tmp_path, monkeypatch):
    data, seen, original = planted_data(), [], Run.state_dict

    def state_dict(run):
        seen.append(shared(run.objective.state_dict(), run.best_state))
        return original(run)

    monkeypatch.setattr(Run, "state_dict", state_dict)
    whole = make(data)
    expected = trainer(max_epochs=6, lr=0.3).fit(whole, data)
    assert expected.best_epoch < 6  # The last checkpoints hold other weights than those of the best epoch.
    for epochs in (5, 6):
        model = make(data)
        history = trainer(max_epochs=epochs, lr=0.3, checkpoint_dir=tmp_path).fit(model, data)
    tables = {name for name in model.state_dict() if name.startswith(start)}
    assert len(tables) == 4
    assert len(seen) == 6
    assert set(map(frozenset, seen)) == {frozenset(tables)}
    run = load_checkpoint(tmp_path / "last.pt", "run")["run"]
    assert shared(run["model"], run["best_state"]) == tables
    assert history.rows == expected.rows
    assert same_bits(model.state_dict(), whole.state_dict())


def test_a_run_that_holds_tables_of_teachers_twice_is_gone_on_with(tmp_path):
    data, whole, model = planted_data(), distilled(planted_data()), distilled(planted_data())
    expected = trainer(max_epochs=4).fit(whole, data)
    trainer(max_epochs=2, checkpoint_dir=tmp_path).fit(distilled(data), data)
    content = load_checkpoint(tmp_path / "last.pt", "run")
    content["run"]["best_state"] = {name: x.clone() for name, x in content["run"]["best_state"].items()}
    save_checkpoint(tmp_path / "last.pt", content)
    assert trainer(max_epochs=4, checkpoint_dir=tmp_path).fit(model, data).rows == expected.rows
    assert same_bits(model.state_dict(), whole.state_dict())


def test_the_frozen_copy_of_an_earlier_model_is_in_a_checkpoint_once(tmp_path):
    data, earlier = planted_data(), vbpr(planted_data())
    trainer(max_epochs=1).fit(earlier, planted_data())  # Of a graph that is gone, so that a copy is kept.
    model = Incremental(vbpr(data))
    with pytest.warns(UserWarning, match="found no graph that it was trained on"):
        trainer(max_epochs=3, checkpoint_dir=tmp_path).fit(model, data, start_from=earlier)
    run = load_checkpoint(tmp_path / "last.pt", "run")["run"]
    found = shared(run["model"], run["best_state"])
    assert found == {name for name in run["model"] if name.startswith("previous.")} != set()


def test_what_a_killed_process_has_left_of_a_checkpoint_goes_with_the_next_one(tmp_path):
    data = planted_data()
    trainer(max_epochs=1, checkpoint_dir=tmp_path).fit(vbpr(data), data)
    half = tmp_path / ".last.pt.partial-abcd_123.pt"
    half.write_bytes((tmp_path / "last.pt").read_bytes()[:100])
    assert len(trainer(max_epochs=2, checkpoint_dir=tmp_path).fit(vbpr(data), data).rows) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    half.touch()
    remove_checkpoint(tmp_path)
    assert not list(tmp_path.iterdir())
