"""Callbacks and loggers: what they are called with, and what happens when one raises."""

from __future__ import annotations

import logging
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from lightning_fabric.loggers import CSVLogger

from pyg_ckd.balance import Objective
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from pyg_ckd.training import CallbackError, Trainer, build, load_checkpoint
from pyg_ckd.training.callbacks import HOOKS
from tests.training import problem
from tests.training.problem import distilled, planted_data, same_bits, trainer


class Notes:
    """Notes every hook in the order of the calls."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        if name not in HOOKS:
            raise AttributeError(name)
        return lambda **arguments: self.calls.append((name, arguments))


def test_hooks_are_called_in_lightnings_order():
    data, notes = planted_data(), Notes()
    trainer(max_epochs=2, batch_size=200, eval_every=2, callbacks=notes).fit(build(VBPR, data, 0), data)
    step = ["on_train_batch_start", "on_before_backward", "on_before_optimizer_step", "on_train_batch_end"]
    epoch = ["on_train_epoch_start", *step, *step]
    validation = ["on_validation_start", "on_validation_end"]
    ends = ["on_train_epoch_end"]
    assert [name for name, _ in notes.calls] == [
        *["on_fit_start", *epoch, *ends],
        *[*epoch, *validation, *ends, "on_fit_end"],
    ]


def test_hooks_get_what_they_name():
    data, notes = planted_data(), Notes()
    run = trainer(max_epochs=1, batch_size=200, num_negatives=1, callbacks=notes)
    model = Objective(build(VBPR, data, 0))
    history = run.fit(model, data)
    for _, arguments in notes.calls:
        assert arguments["trainer"] is run
        assert arguments["pl_module"] is model
        assert arguments["history"] is history
    last = dict(notes.calls)
    assert last["on_train_batch_end"]["batch_idx"] == 1
    assert last["on_train_batch_end"]["batch"].user.numel() == 40
    assert last["on_train_batch_end"]["outputs"].keys() == {"bpr", "l2"}
    assert last["on_before_backward"]["loss"].shape == ()
    assert isinstance(last["on_before_optimizer_step"]["optimizer"], torch.optim.Optimizer)
    assert last["on_train_epoch_end"]["row"] == history.rows[0]
    assert "val/recall@5" in last["on_validation_end"]["row"]


def test_a_callback_of_lightning_gets_the_arguments_of_its_signature():
    seen = []

    class Callback:
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append((type(trainer), type(pl_module), sorted(outputs), batch.user.numel(), batch_idx))

    data = planted_data()
    trainer(max_epochs=1, batch_size=1000, num_negatives=1, callbacks=[Callback()]).fit(build(VBPR, data, 0), data)
    assert seen == [(Trainer, Objective, ["bpr", "l2"], 240, 0)]


def test_callbacks_and_loggers_that_look_on_change_no_bit(tmp_path):
    data = planted_data()
    plain, watched = distilled(data), distilled(data)
    rows = trainer().fit(plain, data).rows
    options = {"callbacks": [Notes(), Notes()], "loggers": CSVLogger(tmp_path)}
    assert trainer(**options).fit(watched, data).rows == rows
    assert same_bits(plain.state_dict(), watched.state_dict())


@pytest.mark.parametrize("hook", HOOKS)
def test_a_callback_that_raises_is_named_and_leaves_nothing_half_written(hook, tmp_path):
    data = planted_data()
    whole = distilled(data)
    expected = trainer(max_epochs=4).fit(whole, data)

    class Broken:
        calls = 0

        def on_train_epoch_end(self, epoch):
            if hook == "on_exception" and epoch == 2:
                raise KeyboardInterrupt

    def fails(self):
        self.calls += 1
        if self.calls > (12 if "batch" in hook or "before" in hook else 2 if "epoch" in hook or "val" in hook else 0):
            raise ZeroDivisionError("division\nby zero")

    setattr(Broken, hook, fails)
    options = {"max_epochs": 4, "checkpoint_dir": tmp_path}
    if hook == "on_exception":
        setattr(Broken, hook, lambda self: 1 / 0)
        with pytest.raises(KeyboardInterrupt):  # What went wrong first.
            trainer(callbacks=Broken(), **options).fit(distilled(data), data)
    else:
        with pytest.raises(CallbackError) as caught:
            trainer(callbacks=[Notes(), Broken()], **options).fit(distilled(data), data)
        message = str(caught.value)
        assert f"callback Broken.{hook}: raised ZeroDivisionError (division by zero)" in message
        assert "\n" not in message
        assert isinstance(caught.value, InputError)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert {path.name for path in tmp_path.iterdir()} <= {"last.pt"}
    if hook not in ("on_fit_start",):
        load_checkpoint(tmp_path / "last.pt", "run")
    model = distilled(data)
    assert trainer(**options).fit(model, data).rows == expected.rows
    assert same_bits(model.state_dict(), whole.state_dict())


def test_an_exception_reaches_the_callbacks_and_the_caller():
    data, notes = planted_data(), Notes()
    with pytest.raises(InputError, match="diverged") as caught:
        trainer(lr=1e30, max_epochs=20, callbacks=notes).fit(build(VBPR, data, 0), data)
    assert notes.calls[-1][0] == "on_exception"
    assert notes.calls[-1][1]["exception"] is caught.value


def test_a_callback_ends_training_and_an_ended_run_stays_ended(tmp_path):
    class Stops:
        def on_train_epoch_end(self, history, epoch):
            if epoch == 3:
                history.stopped = "seen enough"

    data = planted_data()
    model = build(VBPR, data, 0)
    history = trainer(max_epochs=50, checkpoint_dir=tmp_path, callbacks=Stops()).fit(model, data)
    assert len(history.rows) == 3
    assert (history.stopped, history.converged) == ("seen enough", False)
    again = build(VBPR, data, 0)
    assert trainer(max_epochs=50, checkpoint_dir=tmp_path).fit(again, data).rows == history.rows
    assert same_bits(model.state_dict(), again.state_dict())


@pytest.mark.parametrize("stopped", [0, 2], ids=["by the budget", "by a callback"])
def test_a_logger_gets_the_last_row_once_where_no_evaluation_was_due(stopped, tmp_path):
    class Stops:
        def on_train_epoch_end(self, epoch, history):
            history.stopped = "enough" if epoch == stopped else ""

    data = planted_data()
    logger = CSVLogger(tmp_path, name="run", version=0)
    options = {"max_epochs": 9 if stopped else 2, "eval_every": 20, "loggers": [logger], "callbacks": Stops()}
    history = trainer(**options).fit(build(VBPR, data, 0), data)
    table = pd.read_csv(tmp_path / "run" / "version_0" / "metrics.csv")
    assert table["step"].tolist() == [1, 2]
    assert table["val/recall@5"].dropna().tolist() == pytest.approx([history.best_value])


def test_a_training_that_is_ended_before_its_first_epoch_has_no_best_row():
    class Stops:
        def on_fit_start(self, history):
            history.stopped = "not today"

    data = planted_data()
    history = trainer(callbacks=Stops()).fit(build(VBPR, data, 0), data)
    assert (history.rows, history.best_epoch, history.stopped) == ([], -1, "not today")
    with pytest.raises(
        InputError, match=r"no row of the best epoch \(-1\) among 0 epochs, stopped: not today, expected"
    ):
        _ = history.best_row


def test_a_logger_gets_the_row_of_every_epoch(tmp_path):
    data = planted_data()
    logger = CSVLogger(tmp_path, name="run", version=0)
    history = trainer(max_epochs=5, eval_every=2, loggers=[logger]).fit(build(VBPR, data, 0), data)
    table = pd.read_csv(tmp_path / "run" / "version_0" / "metrics.csv").set_index("step")
    assert table.index.tolist() == [1, 2, 3, 4, 5]
    for row in history.rows:
        found = table.loc[row["epoch"]].dropna().to_dict()
        assert found == pytest.approx({k: v for k, v in row.items() if k != "epoch"})


def test_a_logger_that_raises_is_named():
    class Full:
        def log_metrics(self, metrics, step):
            raise OSError("no space left")

    data = planted_data()
    with pytest.raises(CallbackError, match=r"logger Full.log_metrics: raised OSError \(no space left\)"):
        trainer(loggers=Full()).fit(build(VBPR, data, 0), data)


def test_every_epoch_is_a_record_of_the_logger_of_python(caplog):
    data = planted_data()
    with caplog.at_level(logging.INFO, logger="pyg_ckd.training"):
        history = trainer(max_epochs=3).fit(build(VBPR, data, 0), data)
    records = [record for record in caplog.records if record.name == "pyg_ckd.training"]
    assert [record.levelno for record in records] == [logging.INFO] * 4
    for epoch, record in enumerate(records[:3], start=1):
        text = record.getMessage()
        assert text.startswith(f"VBPR: epoch {epoch} of at most 3: loss/bpr ")
        assert f"val/recall@5 {history.rows[epoch - 1]['val/recall@5']:.4f}" in text
    assert records[3].getMessage() == (
        "VBPR: ended after epoch 3: budget: too early to tell (not converged); the weights are those of epoch "
        f"{history.best_epoch}"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"callbacks": [Notes(), 3]}, "callbacks: found int without a hook, expected at least one of on_fit_start"),
        ({"loggers": print}, "loggers: found builtin_function_or_method, expected a logger of lightning-fabric"),
    ],
    ids=["callbacks", "loggers"],
)
def test_what_is_no_callback_or_logger_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        trainer(**options)


class Puts:
    """Writes something into the row of every epoch, and a reason into the history of the second one."""

    def __init__(self, value=None, reason=""):
        self.value, self.reason = value, reason

    def on_train_epoch_end(self, row, epoch, history):
        if self.value is not None:
            row["x"] = self.value
        if epoch == 2:
            history.stopped = self.reason


@pytest.mark.parametrize(
    "value",
    [np.float64(0.5), np.float32(0.5), torch.tensor(0.5), np.array(0.5), Fraction(1, 2), np.int64(3), np.bool_(True)],
    ids=["float64", "float32", "tensor", "array", "fraction", "int64", "bool"],
)
def test_numbers_of_other_libraries_in_a_row_are_plain_ones_in_files(value, tmp_path):
    data = planted_data()
    for epochs in (2, 3):
        run = trainer(max_epochs=epochs, checkpoint_dir=tmp_path, callbacks=Puts(value))
        history = run.fit(build(VBPR, data, 0), data)
        assert [row["x"] for row in history.rows] == [float(value)] * epochs
        assert {type(row["x"]) for row in history.rows} <= {bool, int, float}


@pytest.mark.parametrize("value", ["hello", [1], torch.ones(2), 1j, object()], ids=lambda v: type(v).__name__)
def test_what_is_no_number_is_refused_in_a_row_before_it_is_written(value, tmp_path):
    data = planted_data()
    message = rf"row of epoch 1 in the history: found {type(value).__name__} under 'x', expected a number"
    with pytest.raises(InputError, match=message):
        trainer(checkpoint_dir=tmp_path, callbacks=Puts(value)).fit(build(VBPR, data, 0), data)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("reason", "text"), [(True, "True"), (ValueError("no\nmore"), "no more"), (KeyError(), "KeyError")], ids=str
)
def test_a_reason_of_any_kind_is_text(reason, text, tmp_path):
    data = planted_data()
    for _ in range(2):
        run = trainer(checkpoint_dir=tmp_path, callbacks=Puts(reason=reason))
        history = run.fit(build(VBPR, data, 0), data)
        assert (history.stopped, len(history.rows)) == (text, 2)


def test_a_training_that_a_callback_ended_goes_on_with_a_larger_budget(tmp_path):
    data = planted_data()
    whole, model = build(VBPR, data, 0), build(VBPR, data, 0)
    expected = trainer(max_epochs=6).fit(whole, data)
    trainer(max_epochs=4, checkpoint_dir=tmp_path, callbacks=Puts(reason="time is up")).fit(build(VBPR, data, 0), data)
    history = trainer(max_epochs=6, checkpoint_dir=tmp_path).fit(model, data)
    assert (history.rows, history.stopped) == (expected.rows, expected.stopped)
    assert same_bits(model.state_dict(), whole.state_dict())


def test_a_checkpoint_that_knows_no_budget_is_read_and_stays_ended(tmp_path):
    data = planted_data()
    trainer(max_epochs=4, checkpoint_dir=tmp_path, callbacks=Puts(reason="time is up")).fit(build(VBPR, data, 0), data)
    content = load_checkpoint(tmp_path / "last.pt", "run")
    assert content["run"].pop("budget") == 4
    torch.save(content, tmp_path / "last.pt")
    history = trainer(max_epochs=6, checkpoint_dir=tmp_path).fit(build(VBPR, data, 0), data)
    assert (len(history.rows), history.stopped) == (2, "time is up")


def test_methods_that_look_like_hooks_and_are_none_are_named_in_a_warning():
    class Lightnings:
        def on_train_start(self):
            raise AssertionError

        def on_validation_epoch_end(self):
            raise AssertionError

        def on_train_epoch_end(self):
            pass

    data = planted_data()
    words = (
        r"on_train_start \(did you mean on_fit_start\?\), on_validation_epoch_end \(did you mean on_validation_end\?\)"
    )
    with pytest.warns(UserWarning, match=f"callbacks: found {words} of Lightnings, never called") as caught:
        run = trainer(max_epochs=1, callbacks=[Lightnings()])
    assert [warning.filename for warning in caught] == [problem.__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.fit(build(VBPR, data, 0), data)
        trainer(callbacks=[Notes(), Puts()])
