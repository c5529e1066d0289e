"""The training loop: it learns, it repeats itself bit for bit, and it goes on where it stopped."""

from __future__ import annotations

import math
import os
from functools import partial

import pytest
import torch
from torch import nn

from pyg_ckd.balance import Objective
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import evaluate, popularity
from pyg_ckd.nn import FREEDOM, LATTICE, MGCN, MICRO, MMGCN, VBPR, EarlyFusionLightGCN, LightGCN
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.training import EarlyStopping, build, parse_metric
from tests.nn.models.zoo import Toy
from tests.training.problem import distilled, planted_data, same_bits, trainer


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("backbone", [VBPR, LightGCN, EarlyFusionLightGCN, MMGCN])
def test_every_backbone_learns_an_easy_problem(backbone):
    data = planted_data()
    model = build(backbone, data, 0, embedding_dim=8)
    history = trainer(max_epochs=25).fit(model, data)
    losses = history.frame["loss/bpr"].tolist()
    assert losses[-1] < 0.7 * losses[0]
    reached = evaluate(model, data, "test", k=5)["recall@5"]
    assert reached > 1.5 * evaluate(popularity(data), data, "test", k=5)["recall@5"]


def test_distilled_student_learns_and_reports_effects_and_uni_modal_metrics():
    data = planted_data()
    history = trainer(max_epochs=15).fit(distilled(data), data)
    row, losses = history.rows[-1], history.frame["loss/bpr"].tolist()
    assert losses[-1] < 0.7 * losses[0]
    expected = {"epoch", "loss/bpr", "loss/l2", "loss/specific", "loss/generic"}
    expected |= {f"{kind}/{m}" for kind in ("effect", "weight") for m in data.modalities}
    expected |= {"val/recall@5", "val/visual/recall@5", "val/textual/recall@5"}
    assert row.keys() == expected
    assert row["weight/visual"] + row["weight/textual"] == pytest.approx(2, abs=1e-5)


def test_loss_of_an_epoch_is_the_mean_over_its_steps():
    data = planted_data()
    seen = []

    class Recording(Objective):
        def loss(self, features, edge_index_dict, batch):
            terms = super().loss(features, edge_index_dict, batch)
            seen.append(terms["bpr"].item())
            return terms

    history = trainer(max_epochs=2, batch_size=100).fit(Recording(build(VBPR, data, 0)), data)
    steps = math.ceil(240 / 100)
    assert len(seen) == 2 * steps
    assert history.frame["loss/bpr"].tolist() == pytest.approx(
        [sum(seen[:steps]) / steps, sum(seen[steps:]) / steps], rel=1e-6
    )


class Forgets:
    """Sets all parameters to zero before the validation of one epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    @torch.no_grad()
    def on_validation_start(self, pl_module, epoch):
        for p in pl_module.parameters() if epoch == self.epoch else ():
            p.zero_()


@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_of_the_best_epoch_are_restored(wrapped):
    data = planted_data()
    model = distilled(data) if wrapped else build(VBPR, data, 0, embedding_dim=4)
    history = trainer(max_epochs=12, callbacks=Forgets(12)).fit(model, data)
    values = history.frame["val/recall@5"]
    assert values.iloc[-1] < values.max()
    assert history.best_value == values.max() == history.best_row["val/recall@5"]
    assert history.best_epoch == values.idxmax()
    assert evaluate(model, data, "val", k=5)["recall@5"] == history.best_value
    for m in data.modalities:
        expected = history.best_row[f"val/{m}/recall@5"]
        assert evaluate(model, data, "val", k=5, view=m)["recall@5"] == expected


def test_training_stops_after_patience_steps_without_a_rise():
    data = planted_data()
    history = trainer(max_epochs=200, lr=0.3, patience=40, batch_size=32).fit(build(VBPR, data, 0), data)
    steps = -(-data["user", "rates", "item"].edge_index.size(1) // 32)
    curve = EarlyStopping(40)
    for row in history.rows:
        assert not curve.should_stop
        curve.update(row["epoch"] * steps, row["epoch"], row["val/recall@5"])
    assert curve.should_stop
    assert len(history.rows) < 200
    assert (history.stopped, history.converged) == (f"no rise in the last {curve.waited} steps", True)
    assert curve.waited >= 40


def test_evaluation_happens_every_so_many_epochs_and_at_the_end_only_if_never_before():
    data = planted_data()
    history = trainer(max_epochs=7, eval_every=3).fit(build(VBPR, data, 0), data)
    assert [row["epoch"] for row in history.rows if "val/recall@5" in row] == [3, 6]
    history = trainer(max_epochs=2, eval_every=3).fit(build(VBPR, data, 0), data)
    assert [row["epoch"] for row in history.rows if "val/recall@5" in row] == [2]


@pytest.mark.parametrize("stops", [[3], [1], [1, 3, 5]], ids=str)
def test_a_break_between_evaluations_changes_nothing(stops, tmp_path):
    data = planted_data()
    options = {"eval_every": 2, "track_views": False}
    whole = trainer(max_epochs=6, **options).fit(build(VBPR, data, 0), data)
    for epochs in stops:
        part = trainer(max_epochs=epochs, checkpoint_dir=tmp_path, **options).fit(build(VBPR, data, 0), data)
        assert part.best_epoch > 0  # Where no evaluation was due, the last epoch is evaluated for the result alone.
    broken = trainer(max_epochs=6, checkpoint_dir=tmp_path, **options).fit(build(VBPR, data, 0), data)
    assert broken.rows == whole.rows
    assert len(broken.validation_seconds) == len(whole.validation_seconds) == 3
    assert (broken.best_epoch, broken.best_value) == (whole.best_epoch, whole.best_value)


def test_a_training_that_has_not_converged_is_extended_with_the_bits_of_a_larger_budget():
    data = planted_data()
    long, extended = distilled(data), distilled(data)
    expected = trainer(max_epochs=6).fit(long, data)
    history = trainer(max_epochs=2, extend=3).fit(extended, data)
    assert history.rows == expected.rows
    assert (history.stopped, history.converged) == ("budget: too early to tell", False)
    assert same_bits(extended.state_dict(), long.state_dict())


def test_a_training_is_extended_only_as_often_as_it_needs():
    data = planted_data()
    options = {
        "lr": 0.1,
        "patience": 4,
        "batch_size": 400,
        "monitor": _scripted([0.1 * n for n in range(15)] + [1.4] * 40),
    }
    history = trainer(max_epochs=12, extend=4, track_views=False, **options).fit(build(VBPR, data, 0), data)
    assert (len(history.rows), history.stopped, history.converged) == (24, "budget: no longer rising", True)
    options["monitor"] = _scripted([0.1 * n for n in range(60)])
    history = trainer(max_epochs=12, extend=4, track_views=False, **options).fit(build(VBPR, data, 0), data)
    assert (len(history.rows), history.stopped, history.converged) == (48, "budget: still rising at the end", False)


@pytest.mark.parametrize("last", [1, 3, 4, 5])
def test_an_extended_training_that_was_killed_goes_on_with_the_same_bits(last, tmp_path):
    data = planted_data()
    whole, killed, model = (build(VBPR, data, 0) for _ in range(3))
    options = {"max_epochs": 2, "extend": 3, "eval_every": 2, "track_views": False}
    expected = trainer(**options).fit(whole, data)

    class Dies:
        def on_train_epoch_start(self, epoch, **_) -> None:
            if epoch == last + 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(**options, callbacks=Dies(), checkpoint_dir=tmp_path).fit(killed, data)
    history = trainer(**options, checkpoint_dir=tmp_path).fit(model, data)
    assert history.rows == expected.rows
    assert len(history.rows) == 6
    assert same_bits(model.state_dict(), whole.state_dict())


def test_a_training_with_a_schedule_of_its_own_is_not_extended():
    data = planted_data()
    schedule = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=2)
    history = trainer(max_epochs=2, extend=3, scheduler=schedule).fit(build(VBPR, data, 0), data)
    assert len(history.rows) == 2
    assert history.converged is False


def test_uni_modal_views_are_not_evaluated_unless_asked_for():
    data = planted_data()
    history = trainer(max_epochs=1, track_views=False).fit(build(VBPR, data, 0), data)
    assert [name for name in history.rows[0] if name.startswith("val")] == ["val/recall@5"]


def test_teacher_is_trained_and_monitored_in_its_own_view():
    data = planted_data()
    objective = Objective(build(VBPR, data, 0), view="visual")
    history = trainer().fit(objective, data)
    assert [name for name in history.rows[0] if name.startswith("val")] == ["val/recall@5"]
    assert evaluate(objective, data, "val", k=5, view="visual")["recall@5"] == history.best_value


def test_same_seed_gives_the_same_bits_and_another_seed_others():
    data = planted_data()
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(runs))  # What happened before must not matter.
        model = distilled(data)
        history = trainer(seed=seed).fit(model, data)
        runs.append((weights_of(model), history.rows))
    assert same_bits(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert not same_bits(runs[0][0], runs[2][0])


def test_random_state_outside_is_left_alone():
    data = planted_data()
    model = distilled(data)
    before = torch.get_rng_state()
    trainer(max_epochs=2).fit(model, data)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("stops", [[3], [1, 2, 5]], ids=str)
def test_interrupted_run_ends_with_the_bits_of_an_undisturbed_one(stops, tmp_path):
    data = planted_data()
    whole = distilled(data)
    expected = trainer(max_epochs=7, lr=0.1, checkpoint_dir=tmp_path / "whole").fit(whole, data)
    for epochs in [*stops, 7]:
        model = distilled(data)
        history = trainer(max_epochs=epochs, lr=0.1, checkpoint_dir=tmp_path / "parts").fit(model, data)
        assert len(history.rows) == epochs
    assert history.rows == expected.rows
    assert (history.best_epoch, history.best_value) == (expected.best_epoch, expected.best_value)
    assert same_bits(model.state_dict(), whole.state_dict())
    states = [
        torch.load(tmp_path / folder / "last.pt", weights_only=True)["run"]["optimizer"]["state"]
        for folder in ("whole", "parts")
    ]
    assert states[0].keys() == states[1].keys() != set()
    for number in states[0]:
        assert same_bits(states[0][number], states[1][number])


def test_run_that_was_killed_goes_on_from_its_last_checkpoint(tmp_path):
    data = planted_data()
    whole = distilled(data)
    expected = trainer(max_epochs=6, checkpoint_dir=tmp_path / "whole").fit(whole, data)

    killed = distilled(data)
    calls = 0
    original = killed.epoch_statistics

    def dies_in_the_fifth_epoch():
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return original()

    killed.epoch_statistics = dies_in_the_fifth_epoch
    with pytest.raises(KeyboardInterrupt):
        trainer(max_epochs=6, checkpoint_dir=tmp_path / "parts").fit(killed, data)
    model = distilled(data)
    history = trainer(max_epochs=6, checkpoint_dir=tmp_path / "parts").fit(model, data)
    assert history.rows == expected.rows
    assert same_bits(model.state_dict(), whole.state_dict())


def test_patience_counts_on_across_a_break(tmp_path):
    data = planted_data()
    options = {"lr": 0.3, "patience": 20}
    whole = build(VBPR, data, 0)
    expected = trainer(max_epochs=100, **options).fit(whole, data)
    stop = len(expected.rows)
    assert stop < 100
    assert expected.converged
    for epochs in (stop - 2, 100):  # A break while it waits.
        model = build(VBPR, data, 0)
        history = trainer(max_epochs=epochs, checkpoint_dir=tmp_path, **options).fit(model, data)
    assert (history.rows, history.best_epoch, history.best_value) == (
        expected.rows,
        expected.best_epoch,
        expected.best_value,
    )
    assert same_bits(model.state_dict(), whole.state_dict())


def test_randomness_inside_the_model_goes_on_across_a_break(tmp_path):
    data = planted_data()

    class Noisy(Toy):
        def forward(self, x_dict, edge_index):
            user, item = super().forward(x_dict, edge_index)
            return nn.functional.dropout(user, 0.3, self.training), item

    def noisy() -> Noisy:
        torch.manual_seed(0)
        return Noisy(40, {m: data["item"][m].size(1) for m in data.modalities})

    whole = noisy()
    expected = trainer(max_epochs=5).fit(whole, data)
    for epochs in (2, 5):
        model = noisy()
        history = trainer(max_epochs=epochs, checkpoint_dir=tmp_path).fit(model, data)
    assert history.rows == expected.rows
    assert same_bits(model.state_dict(), whole.state_dict())


def test_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    data = planted_data()
    first = distilled(data)
    expected = trainer(checkpoint_dir=tmp_path).fit(first, data)
    again = distilled(data)
    monkeypatch.setattr(type(again), "loss", lambda *args: pytest.fail("a step was made"))
    history = trainer(checkpoint_dir=tmp_path).fit(again, data)
    assert history.rows == expected.rows
    assert same_bits(first.state_dict(), again.state_dict())


def test_no_folder_means_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer(max_epochs=1).fit(distilled(planted_data()), planted_data())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({"lr": 0.5}, {}, "found lr = 0.02, expected 0.5"),
        ({"seed": 1}, {}, "found seed = 0, expected 1"),
        ({"batch_size": 32}, {}, "found batch_size = 64, expected 32"),
        ({}, {"reweight": False}, "found reweight = True, expected False"),
        ({}, {"l2": 0.5}, "found l2 = 0.01, expected 0.5"),
    ],
    ids=str,
)
def test_checkpoint_of_other_settings_is_refused_by_name(options, changes, message, tmp_path):
    data = planted_data()
    trainer(max_epochs=1, checkpoint_dir=tmp_path).fit(distilled(data), data)
    with pytest.raises(InputError, match=message):
        trainer(checkpoint_dir=tmp_path, **options).fit(distilled(data, **changes), data)


def test_checkpoint_of_other_data_or_another_backbone_is_refused(tmp_path):
    data = planted_data()
    trainer(max_epochs=1, checkpoint_dir=tmp_path).fit(distilled(data), data)
    for other in (planted_data(seed=1), planted_data(shift=1e-3)):
        with pytest.raises(InputError, match="trained on other data"):
            trainer(checkpoint_dir=tmp_path).fit(distilled(other), other)
    with pytest.raises(InputError, match="found backbone = 'VBPR', expected 'LightGCN'"):
        trainer(checkpoint_dir=tmp_path).fit(build(LightGCN, data, 0), data)


def test_damaged_or_poisoned_checkpoint_is_refused_and_nothing_executed(tmp_path):
    data = planted_data()
    trainer(max_epochs=1, checkpoint_dir=tmp_path).fit(distilled(data), data)
    path = tmp_path / "last.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged or no checkpoint"):
        trainer(checkpoint_dir=tmp_path).fit(distilled(data), data)

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"format": 1, "kind": "run", "settings": Bomb(), "run": {}}, path)
    with pytest.raises(InputError, match="cannot be read"):
        trainer(checkpoint_dir=tmp_path).fit(distilled(data), data)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("lr", [1e18, 1e30])
def test_diverging_rate_is_reported_with_what_to_do(lr):
    data = planted_data()
    with pytest.raises(InputError, match=r"training diverged in epoch \d+: .* lower lr"):
        trainer(lr=lr, max_epochs=20).fit(build(VBPR, data, 0), data)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda data, dims: build(VBPR, data, 0), ": found NaN or infinite values, first in row 3"),
        (lambda data, dims: Toy(40, dims), " are not finite in 1 rows, first in row 3"),
    ],
    ids=["VBPR", "module"],
)
def test_features_that_became_nan_are_named_in_the_place_of_the_rate(make, found):
    data = planted_data()
    modality = data.modalities[1]
    data["item"][modality][3, 2] = float("nan")
    model = make(data, {m: data["item"][m].size(1) for m in data.modalities})
    with pytest.raises(InputError, match=rf"features of '{modality}'{found}"):
        trainer(max_epochs=2).fit(model, data)


@pytest.mark.parametrize("backbone", [VBPR, LATTICE, MGCN, FREEDOM, MICRO, EarlyFusionLightGCN])
def test_features_whose_squares_overflow_are_named_with_a_transform(backbone):
    data = planted_data()
    data["item"].visual *= 1e30
    x = f"{float(data['item'].visual.abs().max()):.2g}".replace("+", r"\+")
    with pytest.raises(InputError, match=rf"^features of 'visual' are up to {x}, .* use --transform standardize or l2"):
        trainer(max_epochs=2).fit(build(backbone, data, 0), data)


def test_features_that_are_large_without_an_overflow_are_trained():
    data = planted_data()
    data["item"].visual *= 1e15
    trainer(max_epochs=1).fit(build(LATTICE, data, 0), data)


def test_module_of_pyg_style_is_trained_in_place():
    data = planted_data()
    torch.manual_seed(0)
    toy = Toy(40, {m: data["item"][m].size(1) for m in data.modalities})
    before = weights_of(toy)
    trainer(max_epochs=2).fit(toy, data)
    assert not same_bits(before, weights_of(toy))


def test_nothing_to_train_is_refused():
    data = planted_data()
    frozen = build(VBPR, data, 0).requires_grad_(False)
    with pytest.raises(InputError, match="VBPR: found no trainable parameter"):
        trainer().fit(frozen, data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_epochs": 0}, "max_epochs: found 0"),
        ({"extend": 0}, "extend: found 0"),
        ({"batch_size": 0}, "batch_size: found 0"),
        ({"eval_every": 0}, "eval_every: found 0"),
        ({"lr": 0.0}, "lr: found 0.0"),
        ({"lr": math.nan}, "lr: found nan"),
        ({"lr": math.inf}, "lr: found inf"),
        ({"patience": 0}, "found patience 0"),
        ({"monitor": "recall"}, "metric: found 'recall', expected a name and a cut-off such as 'recall@20'"),
        ({"checkpoint_minutes": -1}, "checkpoint_minutes: found -1"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        trainer(**options)


def test_unknown_metric_is_refused_with_the_closest_name():
    data = planted_data()
    with pytest.raises(InputError, match="unknown metric 'recal': did you mean 'recall'"):
        trainer(monitor="recal@5").fit(build(VBPR, data, 0), data)


def test_metric_is_split_into_name_and_cutoff():
    assert parse_metric("ndcg@10") == ("ndcg", 10)
    for wrong in ("ndcg", "ndcg@", "ndcg@x", "@", "ndcg@-1", "ndcg@05", "ndcg@0", "ndcg@\u0665", "ndcg@5\n", "ndcg@+5"):
        with pytest.raises(InputError, match="metric: found"):
            parse_metric(wrong)


def _scripted(values: list[float]):
    """Return a metric that says what it is told to, whatever the ranking."""
    left = iter(values)

    def scripted(ranked, labels):
        return next(left)

    scripted.k = 3
    return scripted


class _Stop:
    """Ends training after an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_end(self, history, epoch, **_) -> None:
        if epoch == self.epoch:
            history.stopped = "enough"


def test_a_training_that_is_ended_before_an_evaluation_was_due_is_evaluated_and_keeps_what_it_learnt():
    data = planted_data()
    model = build(VBPR, data, 0, embedding_dim=4)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    history = trainer(max_epochs=9, eval_every=5, callbacks=_Stop(3)).fit(model, data)
    assert history.best_epoch == 3
    assert history.best_row["val/recall@5"] == history.best_value
    assert not history.converged
    assert any(not torch.equal(before[k], v) for k, v in model.state_dict().items())


class Staged(Objective):
    """Has three stages of a number of epochs each, and chooses the best epoch anew in each if it is told to."""

    def __init__(self, student: Backbone, epochs: int = 15, anew: bool = False) -> None:
        super().__init__(student)
        self.epochs, self.anew = epochs, anew

    @property
    def stages_left(self) -> int:
        return max(0, 2 - (self.progress.epoch - 1) // self.epochs)

    @property
    def stage_of_best(self) -> int:
        return min(2, (self.progress.epoch - 1) // self.epochs) if self.anew else 0


@pytest.mark.parametrize("anew", [False, True])
def test_every_stage_has_a_patience_of_its_own_and_none_is_cut_off(anew):
    data, values = planted_data(), [0.5, *[0.4] * 29, 0.3, *[0.2] * 60]

    def fit(model: nn.Module, max_epochs: int = 80):
        options = {"patience": 4, "track_views": False, "max_epochs": max_epochs}
        return trainer(monitor=_scripted(values), **options).fit(model, data)

    plain = fit(build(VBPR, data, 0))
    assert len(plain.rows) == 12  # Nothing rises, so that only the least number of evaluations is waited for.
    staged = fit(Staged(build(VBPR, data, 0), anew=anew))
    assert (len(staged.rows), staged.best_epoch) == (30 + len(plain.rows), 31 if anew else 1)
    assert staged.stopped.startswith("no rise")
    assert staged.converged
    short = fit(Staged(build(VBPR, data, 0), anew=anew), 20)
    assert (len(short.rows), short.stopped, short.converged) == (20, "budget: stages still to come", False)
    assert short.best_epoch == (16 if anew else 1)


@pytest.mark.parametrize("eval_every", [1, 2])
@pytest.mark.parametrize("anew", [False, True])
def test_a_training_with_stages_goes_on_with_the_same_bits_wherever_it_was_broken_off(anew, eval_every, tmp_path):
    data, options = planted_data(), {"patience": 4, "lr": 0.05, "eval_every": eval_every}
    whole = Staged(build(VBPR, data, 0), epochs=7, anew=anew)
    expected = trainer(max_epochs=60, **options).fit(whole, data)
    assert 14 < len(expected.rows) < 60
    for epochs in (6, 7, 8, 14, 15, 60, 60):
        broken = Staged(build(VBPR, data, 0), epochs=7, anew=anew)
        history = trainer(max_epochs=epochs, checkpoint_dir=tmp_path, **options).fit(broken, data)
        assert history.best_epoch > 0
        if anew and epochs == 8:
            assert history.best_epoch == 8
    assert history.rows == expected.rows
    assert (history.best_epoch, history.stopped) == (expected.best_epoch, expected.stopped)
    assert same_bits(broken.state_dict(), whole.state_dict())
