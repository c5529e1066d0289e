"""What is validated while a model trains, and why training ends."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch_geometric.metrics import LinkPredMAP, LinkPredRecall

from pyg_ckd.balance import Objective
from pyg_ckd.data import build_data
from pyg_ckd.data.inputs import RATES, embed
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import Evaluator, evaluate
from pyg_ckd.evaluation.custom import hardly_differs
from pyg_ckd.nn import VBPR
from pyg_ckd.training import History, Trainer, build, train_teachers
from pyg_ckd.training.begin import warn_once
from pyg_ckd.training.options import EPOCHS
from tests.training.problem import distilled, planted_data, same_bits, trainer


def vbpr(data) -> VBPR:
    return build(VBPR, data, 0, embedding_dim=4)


def without_validation():
    data = planted_data()
    data[RATES].val_edge_index = data[RATES].val_edge_index[:, :0]
    return data


def test_a_metric_object_decides_as_the_same_metric_by_name():
    data = planted_data()
    named, given = distilled(data), distilled(data)
    first = trainer(lr=0.3, max_epochs=30, patience=3).fit(named, data)
    second = trainer(lr=0.3, max_epochs=30, patience=3, monitor=LinkPredRecall(k=5)).fit(given, data)
    for name in ("val", "val/visual", "val/textual"):
        assert second.frame[f"{name}/LinkPredRecall@5"].tolist() == first.frame[f"{name}/recall@5"].tolist()
    assert (second.best_epoch, second.best_value) == (first.best_epoch, first.best_value)
    assert same_bits(named.state_dict(), given.state_dict())


def test_a_function_decides_about_the_best_epoch(tmp_path):
    data = planted_data()
    calls = []

    def third_is_best(ranked, labels):
        calls.append(ranked.shape)
        return 1.0 if len(calls) == 3 else 0.5

    third_is_best.k = 4
    model = vbpr(data)
    options = {"monitor": third_is_best, "track_views": False, "checkpoint_dir": tmp_path}
    history = trainer(max_epochs=5, **options).fit(model, data)
    assert history.best_epoch == 3
    assert calls == [(40, 4)] * 5
    other = vbpr(data)
    trainer(max_epochs=3, monitor=lambda ranked, labels: float(len(calls))).fit(other, data)
    with pytest.raises(InputError, match=r"found monitor = .*third_is_best@4', expected 'recall@5'"):
        trainer(checkpoint_dir=tmp_path, track_views=False).fit(vbpr(data), data)


def test_a_strategy_may_measure_losses_on_triples_of_the_validation_part():
    seen = []

    class Watching(Objective):
        """Keeps what it is given."""

        needs_validation = True

        def before_validation(self, features, graphs, score):
            seen.append(score.triples)

    data = planted_data()
    trainer(max_epochs=2, eval_users=5).fit(Watching(vbpr(data)), data)
    user, item, other = seen[0]
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    assert torch.equal(torch.stack([user, item]), data[RATES].val_edge_index)
    for part in (data[RATES].edge_index, data[RATES].val_edge_index):
        known = set(map(tuple, part.t().tolist()))
        assert known.isdisjoint(zip(user.tolist(), other.tolist(), strict=True))
    assert 0 <= int(other.min()) < int(other.max()) < data["item"].num_nodes
    with pytest.raises(InputError, match="Watching: found a graph without a validation part, from which this strategy"):
        trainer().fit(Watching(vbpr(data)), without_validation())


def test_the_validation_part_is_shown_once_before_the_first_epoch_and_not_again_after_a_break(tmp_path):
    data, seen = planted_data(), []

    class Early(Objective):
        def before_training(self, features, graphs, score):
            assert not self.training
            (tables,) = self.forward_views(features, graphs, [self.view])
            seen.append((self.progress.epoch, score(tables)))

    for epochs in (2, 4):
        model = Early(vbpr(data))
        trainer(max_epochs=epochs, checkpoint_dir=tmp_path).fit(model, data)
        assert model.training
    expected = Evaluator(data, "val", [5], ["recall"])(embed(vbpr(data), data)[0])["recall@5"]
    assert seen == [(1, expected)]
    trainer(max_epochs=1).fit(Early(vbpr(data)), without_validation())
    assert len(seen) == 1


def first_hit(ranked, labels):
    """Return a number; a function without a cut-off."""
    return 0.5


@pytest.mark.parametrize(
    ("monitor", "found", "mend"),
    [
        ("recall@20", "'recall@20'", "monitor='recall@5'"),
        (LinkPredMAP(k=21), "'LinkPredMAP@21'", "the attribute k = 5"),
        (first_hit, "'first_hit'", "the attribute k = 5"),
    ],
)
def test_a_cut_off_that_is_larger_than_the_catalogue_is_refused_by_the_name_of_the_option(monitor, found, mend):
    users, features = torch.arange(12), {"visual": torch.randn(12, 2)}
    data = build_data(torch.stack([users, users]), features, val=torch.stack([users, users.flip(0)]))
    expected = rf"monitor: found {found} with the cut-off 2. for 12 items, expected .* at most 12, such as {mend}$"
    with pytest.raises(InputError, match=expected):
        trainer(monitor=monitor).fit(vbpr(data), data)
    trainer(monitor="recall@12", max_epochs=1).fit(vbpr(data), data)


def test_a_metric_that_is_not_finite_is_refused():
    data = planted_data()

    def nothing(ranked, labels):
        return torch.nan

    nothing.k = 4
    with pytest.raises(InputError, match="monitor: found nothing = nan in epoch 1, expected a finite number"):
        trainer(monitor=nothing).fit(vbpr(data), data)


def test_some_users_are_validated_and_the_same_ones_in_every_epoch():
    data = planted_data()
    model = vbpr(data)
    history = trainer(max_epochs=4, eval_users=0.5, seed=7).fit(model, data)
    evaluator = Evaluator(data, "val", [5], ["recall"], eval_users=20, seed=7)
    features = {m: data["item"][m] for m in data.modalities}
    with torch.no_grad():
        tables = model.eval()(features, {RATES: data[RATES].edge_index})
    assert evaluator(tables)["recall@5"] == pytest.approx(history.best_value, abs=1e-6)
    assert history.best_value != evaluate(model, data, "val", k=5)["recall@5"]


@pytest.mark.parametrize("wrong", [0, -1, 41, 0.0, 1.01, float("nan")])
def test_a_number_of_validation_users_that_there_are_not_is_refused(wrong):
    data = planted_data()
    with pytest.raises(InputError, match=f"eval_users: found {wrong}, expected"):
        trainer(eval_users=wrong).fit(vbpr(data), data)


def test_seconds_of_every_validation_are_kept_apart_from_the_rows(tmp_path):
    data = planted_data()
    for epochs in (3, 6):
        history = trainer(max_epochs=epochs, eval_every=2, checkpoint_dir=tmp_path).fit(vbpr(data), data)
    assert len(history.validation_seconds) == 3
    assert len(history.seconds) == 6
    assert all(seconds > 0 for seconds in history.validation_seconds)
    assert not any("seconds" in name for row in history.rows for name in row)


def test_without_a_validation_part_training_ends_after_its_epochs_with_the_last_weights(tmp_path):
    data, full = without_validation(), planted_data()
    model = vbpr(data)
    history = trainer(max_epochs=7, patience=1, lr=0.3).fit(model, data)
    assert (len(history.rows), history.best_epoch, history.stopped) == (7, 7, "budget")
    assert history.best_value != history.best_value
    assert history.converged is None  # Nobody knows.
    assert history.validation_seconds == []
    assert history.best_row is history.rows[-1]
    other = vbpr(full)  # The steps do not look at the validation part: the same losses.
    rows = trainer(max_epochs=7, lr=0.3, patience=20).fit(other, full).rows
    assert [row["loss/bpr"] for row in rows] == [row["loss/bpr"] for row in history.rows]
    checkpoint = trainer(max_epochs=7, lr=0.3, patience=1, checkpoint_dir=tmp_path)
    checkpoint.fit(vbpr(data), data)
    last = torch.load(tmp_path / "last.pt", weights_only=True)["run"]["model"]
    assert same_bits(last, {f"student.{name}": value for name, value in model.state_dict().items()})


def test_without_a_validation_part_nothing_is_extended():
    data = without_validation()
    assert len(trainer(max_epochs=2, extend=3).fit(vbpr(data), data).rows) == 2


def test_without_a_validation_part_a_break_changes_nothing(tmp_path):
    data = without_validation()
    whole = distilled(data)
    rows = trainer(max_epochs=6).fit(whole, data).rows
    for epochs in (2, 5, 6, 6):
        model = distilled(data)
        history = trainer(max_epochs=epochs, checkpoint_dir=tmp_path).fit(model, data)
    assert history.rows == rows
    assert same_bits(whole.state_dict(), model.state_dict())


def test_teachers_can_be_trained_without_a_validation_part(tmp_path):
    teachers = train_teachers(VBPR, without_validation(), trainer(max_epochs=2), cache_dir=tmp_path, embedding_dim=4)
    assert teachers.histories["visual"].best_epoch == 2


def test_a_plateau_without_a_validation_part_is_refused():
    data = without_validation()
    with pytest.raises(InputError, match="found ReduceLROnPlateau without a validation part"):
        trainer(scheduler=lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, mode="max")).fit(vbpr(data), data)


@pytest.mark.parametrize(
    ("values", "options", "stopped", "converged"),
    [
        ([0.1, 0.3, 0.2], {"max_epochs": 3}, "budget: too early to tell", False),
        ([0.1, 0.3], {"max_epochs": 5, "eval_every": 2}, "budget: too early to tell", False),
        ([0.1 * n for n in range(14)], {"max_epochs": 14}, "budget: still rising at the end", False),
        ([0.1 * n for n in range(6)] + [0.5] * 8, {"max_epochs": 14}, "budget: no longer rising", True),
        ([0.3, 0.2, 0.1] + [0.0] * 12, {"max_epochs": 20}, "no rise in the last 8 steps", True),
    ],
    ids=range(5),
)
def test_the_record_says_why_training_ended_and_whether_more_might_have_helped(values, options, stopped, converged):
    data, left = planted_data(), iter(values)

    def scripted(ranked, labels):
        return next(left)

    scripted.k = 3
    one_step = {"patience": 4, "batch_size": 1000}
    history = trainer(monitor=scripted, track_views=False, **one_step, **options).fit(vbpr(data), data)
    assert (history.stopped, history.converged) == (stopped, converged)
    assert history.best_value == max(values)


def test_reasons_and_seconds_come_back_with_cached_teachers(tmp_path):
    data = planted_data()
    first, again = (
        train_teachers(VBPR, data, trainer(max_epochs=3), ["visual"], cache_dir=tmp_path).histories["visual"]
        for _ in range(2)
    )
    assert isinstance(again, History)
    assert again == first
    assert again.stopped
    assert len(again.validation_seconds) == 3


def test_a_mean_average_precision_of_pyg_is_monitored_under_its_name():
    data = planted_data()
    model = vbpr(data)
    history = trainer(max_epochs=3, monitor=LinkPredMAP(k=10)).fit(model, data)
    assert evaluate(model, data, "val", k=10, metrics=["map"])["map@10"] == pytest.approx(history.best_value, abs=1e-6)


def test_all_epochs_without_a_validation_part_are_warned_of_unless_their_number_is_given(monkeypatch):
    data = without_validation()
    monkeypatch.setattr("pyg_ckd.training.begin.EPOCHS", 2)
    with pytest.warns(
        UserWarning, match=r"^without a validation part, .* all 2 epochs, .* its best epoch as max_epochs$"
    ):
        trainer(max_epochs=2).fit(vbpr(data), data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(max_epochs=3).fit(vbpr(data), data)
        trainer(max_epochs=2).fit(vbpr(planted_data()), planted_data())
    assert not [one for one in caught if "validation part" in str(one.message)]


def test_the_number_of_epochs_that_is_warned_of_is_the_default():
    assert Trainer().max_epochs == EPOCHS


def crowded(met: int = 12):
    """Return a graph of 30 users and 40 items, of whom all have met so many, and all but two have a held-out item."""
    user, item = np.divmod(np.arange(30 * met), met)
    edges = np.stack([user, (user + item) % 40])
    held = np.stack([np.arange(28), (np.arange(28) + 39) % 40])
    features = {"visual": np.random.default_rng(0).normal(size=(40, 4))}
    return build_data(edges, features, val=held, num_users=30, num_items=40)


def told_of_the_monitor(data, **options) -> list[str]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer(max_epochs=1, **options).fit(vbpr(data), data)
    return [str(one.message) for one in said if "monitor" in str(one.message)]


def test_a_monitor_whose_lists_hold_most_of_what_can_be_ranked_is_warned_of_once(tmp_path):
    warn_once.cache_clear()
    data = crowded()
    (line,) = told_of_the_monitor(data, monitor="recall@20", checkpoint_dir=tmp_path)
    assert line.startswith("monitor recall@20: 28 of 28 validation users have at most 30 items to rank, so that almost")
    assert line.endswith("such as recall@5 (--trainer.monitor recall@5)")
    assert told_of_the_monitor(data, monitor="recall@20") == []  # As in the next training of a study.
    warn_once.cache_clear()
    assert told_of_the_monitor(data, monitor="recall@20", checkpoint_dir=tmp_path) == []  # It had begun before.
    assert told_of_the_monitor(data, monitor="hit@19", eval_users=5)[0].startswith("monitor hit@19: 5 of 5 validation")


@pytest.mark.parametrize("monitor", ["recall@2", "recall@18", "ndcg@20", LinkPredMAP(k=20)])
def test_a_monitor_that_tells_rankings_apart_is_not_warned_of(monitor):
    warn_once.cache_clear()
    assert told_of_the_monitor(crowded(), monitor=monitor) == []


def test_more_than_half_of_the_users_have_to_be_concerned():
    left = torch.tensor([30, 30, 31, 31])
    assert hardly_differs("recall@20", "recall", 20, left) == ""
    assert "3 of 4 validation users" in hardly_differs("recall@20", "recall", 20, left - torch.tensor([0, 0, 0, 1]))
    assert hardly_differs("recall@1", "recall", 1, torch.ones(4)) == ""  # No cut-off is smaller.


@pytest.mark.parametrize("candidates", ["all", "cold", "warm"])
def test_what_is_left_to_rank_is_what_a_loop_counts(candidates):
    data = crowded()
    edges = data[RATES].edge_index
    data[RATES].edge_index = torch.cat([edges[:, edges[1] != 39], edges[:, :7]], dim=1)  # Some are repeated.
    met = {(u, i) for u, i in data[RATES].edge_index.t().tolist()}
    evaluator = Evaluator(data, "val", 1, candidates=candidates)
    among = {"all": range(40), "cold": [39], "warm": range(39)}[candidates]
    expected = [sum((u, i) not in met for i in among) for u in evaluator.users.tolist()]
    assert evaluator.left().tolist() == expected
    assert evaluator.left(0, 1).tolist() == expected[:1]
