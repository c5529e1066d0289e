"""Optimizers, schedulers and samplers that a user brings."""

from __future__ import annotations

import copy
import functools
import json

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from pyg_ckd.balance import Objective
from pyg_ckd.data import TripletBatch, TripletSampler
from pyg_ckd.data.inputs import RATES
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from pyg_ckd.training import RowAdam, build, train_teachers
from pyg_ckd.training.groups import MODALITY
from pyg_ckd.training.teachers import _key
from tests.training.problem import ITEMS, USERS, distilled, planted_data, same_bits, trainer
from tests.training.strategies import Everything


def vbpr(data, **options) -> VBPR:
    return build(VBPR, data, 0, embedding_dim=4, **options)


def adamw(groups):
    return torch.optim.AdamW(groups, lr=0.02, weight_decay=0.1)


class Rates:
    """Notes the learning rate of every modality in every epoch."""

    def __init__(self):
        self.found: list[dict[str | None, float]] = []

    def on_before_optimizer_step(self, optimizer, epoch=None):
        self.last = {group[MODALITY]: group["lr"] for group in optimizer.param_groups}

    def on_train_epoch_end(self, row):
        self.found.append(self.last)


def test_the_usual_optimizer_given_as_a_function_keeps_the_bits():
    data = planted_data()
    plain, given = vbpr(data), vbpr(data)
    rows = trainer().fit(plain, data).rows
    assert trainer(optimizer=lambda groups: RowAdam(groups, lr=0.02, fused=True)).fit(given, data).rows == rows
    assert same_bits(plain.state_dict(), given.state_dict())


def test_a_new_optimizer_over_all_parameters_trains_as_the_function_of_groups_does():
    data = planted_data()
    first, second = vbpr(data), vbpr(data)
    rows = trainer(optimizer=lambda groups: torch.optim.Adam(groups, lr=0.02)).fit(first, data).rows
    optimizer = torch.optim.Adam(second.parameters(), lr=0.02)
    run = trainer(optimizer=optimizer)
    assert run.fit(second, data).rows == rows
    assert same_bits(first.state_dict(), second.state_dict())
    with pytest.raises(InputError, match="found Adam that has made steps already, expected a new one"):
        run.fit(second, data)


def test_options_of_a_group_go_to_all_its_parts():
    data = planted_data()
    model = vbpr(data)
    own = {id(p) for p in model.modality_parameters["visual"]}
    slow = [p for p in model.parameters() if id(p) in own or p is model.user_embedding]
    rest = [p for p in model.parameters() if not any(p is q for q in slow)]
    rates = Rates()
    optimizer = torch.optim.SGD([{"params": slow, "lr": 0.1}, {"params": rest}], lr=0.5)
    trainer(max_epochs=1, optimizer=optimizer, callbacks=rates).fit(model, data)
    found = [(group[MODALITY], group["lr"]) for group in optimizer.param_groups]
    assert sorted(found, key=str) == [("textual", 0.5), ("visual", 0.1), (None, 0.1), (None, 0.5)]


def test_rates_are_the_scheduled_ones_times_the_factors_of_the_strategy():
    data = planted_data()

    class Slowed(Objective):
        def step_sizes(self):
            return {"visual": 0.5**self.progress.epoch}

    for make, scheduled in [
        (lambda o: lr_scheduler.StepLR(o, 2, gamma=0.1), lambda e: 0.8 * 0.1 ** (e // 2)),
        (lambda o: lr_scheduler.ExponentialLR(o, 0.9), lambda e: 0.8 * 0.9**e),
        (lambda o: lr_scheduler.LambdaLR(o, lambda e: 1 / (e + 1)), lambda e: 0.8 / (e + 1)),
        (
            lambda o: lr_scheduler.SequentialLR(
                o, [lr_scheduler.LinearLR(o, 0.25, total_iters=3), lr_scheduler.ConstantLR(o, 1.0)], [3]
            ),
            lambda e: 0.8 * min(1.0, 0.25 + 0.25 * e),
        ),
    ]:
        rates = Rates()
        options = {"optimizer": lambda groups: torch.optim.SGD(groups, lr=0.8), "scheduler": make}
        trainer(max_epochs=5, callbacks=rates, **options).fit(Slowed(vbpr(data)), data)
        for epoch, found in enumerate(rates.found):
            rate = scheduled(epoch)
            assert found == pytest.approx({None: rate, "visual": rate * 0.5 ** (epoch + 1), "textual": rate})


def test_a_plateau_is_found_by_the_monitored_metric():
    data = planted_data()
    rates = Rates()

    def plateau(optimizer):
        return lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0, factor=0.5)

    history = trainer(max_epochs=12, eval_every=2, lr=0.3, scheduler=plateau, callbacks=rates).fit(vbpr(data), data)
    rate, best, expected = 0.3, -np.inf, []
    for row in history.rows:
        expected.append(rate)
        if "val/recall@5" in row:
            better = row["val/recall@5"] > best * (1 + 1e-4)
            best, rate = (row["val/recall@5"], rate) if better else (best, rate * 0.5)
    assert [found[None] for found in rates.found] == pytest.approx(expected)
    assert rate < 0.3


class Reversed:
    """A sampler of one's own: all interactions in their order, each with a random item."""

    def __init__(self, edge_index, num_users, num_items, batch_size, num_random_triples, seed, device="cpu"):
        self.edge_index, self.num_items, self.batch_size = edge_index.to(device), num_items, batch_size
        self.num_users, self.num_random_triples = num_users, num_random_triples
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self):
        for part in self.edge_index.flip(1).split(self.batch_size, dim=1):
            random = [
                torch.randint(size, (n,), generator=self.generator)
                for size, n in [(self.num_items, part.size(1))]
                + [(size, self.num_random_triples) for size in (self.num_users, self.num_items, self.num_items)]
            ]
            yield TripletBatch(*part, *random)


BROUGHT = {
    "optimizer": {"optimizer": adamw},
    "momentum": {"optimizer": lambda groups: torch.optim.SGD(groups, lr=1.0, momentum=0.9)},
    "cosine": {"scheduler": lambda o: lr_scheduler.CosineAnnealingLR(o, 5)},
    "milestones": {"scheduler": lambda o: lr_scheduler.MultiStepLR(o, [1, 3]), "optimizer": adamw},
    "plateau": {"scheduler": lambda o: lr_scheduler.ReduceLROnPlateau(o, mode="max", patience=0)},
    "sampler": {"sampler": Reversed},
    "popularity": {"negatives": "popularity"},
    "hard": {"negatives": "hard", "scheduler": lambda o: lr_scheduler.StepLR(o, 2)},
    "partial": {"sampler": functools.partial(TripletSampler, negatives="hard", candidates=3)},
}


@pytest.mark.parametrize("kind", BROUGHT)
@pytest.mark.parametrize("strategy", ["ckd", "everything"])
def test_a_break_changes_no_bit_with_what_a_user_brings(kind, strategy, tmp_path):
    data = planted_data()
    options = {"lr": 0.1, **BROUGHT[kind]}

    def model():
        return distilled(data) if strategy == "ckd" else Everything(vbpr(data))

    whole = model()
    expected = trainer(max_epochs=6, **options).fit(whole, data)
    for epochs in (1, 4, 6):
        broken = model()
        history = trainer(max_epochs=epochs, checkpoint_dir=tmp_path, **options).fit(broken, data)
    assert history.rows == expected.rows
    assert (history.best_epoch, history.stopped) == (expected.best_epoch, expected.stopped)
    assert same_bits(broken.state_dict(), whole.state_dict())
    assert trainer(max_epochs=6, lr=0.1).fit(model(), data).rows != expected.rows  # It did something.


def tensor_rate(rate):
    return lambda groups: torch.optim.AdamW(
        groups, lr=torch.tensor(rate), betas=(torch.tensor(0.9), torch.tensor(0.99))
    )


def numpy_rate(rate):
    return lambda groups: torch.optim.SGD(groups, lr=np.float32(rate))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"optimizer": adamw}, {}, "found optimizer.class = 'torch.optim.adamw.AdamW', expected None"),
        (
            {"optimizer": adamw},
            {"optimizer": lambda g: torch.optim.AdamW(g, lr=0.03)},
            r"found optimizer.groups = .*0\.02",
        ),
        ({"optimizer": tensor_rate(0.5)}, {"optimizer": tensor_rate(0.25)}, r"found optimizer.groups = .*'lr': 0\.5"),
        (
            {"optimizer": tensor_rate(0.5), "scheduler": lambda o: lr_scheduler.StepLR(o, 3)},
            {"optimizer": tensor_rate(0.25), "scheduler": lambda o: lr_scheduler.StepLR(o, 3)},
            r"found optimizer.groups = .*'lr': 0\.5",
        ),
        ({"optimizer": numpy_rate(0.5)}, {"optimizer": numpy_rate(0.25)}, r"found optimizer.groups = .*'lr': 0\.5"),
        ({"scheduler": BROUGHT["cosine"]["scheduler"]}, {}, "found scheduler.T_max = 5, expected None"),
        (
            {"scheduler": lambda o: lr_scheduler.StepLR(o, 3)},
            {"scheduler": lambda o: lr_scheduler.StepLR(o, 4)},
            "found scheduler.step_size = 3, expected 4",
        ),
        ({"sampler": Reversed}, {}, "found num_negatives = None, expected 4"),
        (
            {"sampler": functools.partial(TripletSampler, negatives="popularity", alpha=0.5)},
            {"sampler": lambda *a: TripletSampler(*a, negatives="popularity", alpha=1.0)},
            "found sampler.alpha = 0.5, expected 1.0",
        ),
        ({"negatives": "popularity"}, {"negatives": "hard"}, "found negatives = 'popularity', expected 'hard'"),
        ({"eval_users": 10}, {"eval_users": 11}, "found eval_users = 10, expected 11"),
    ],
    ids=range(11),
)
def test_a_run_does_not_go_on_with_others(first, second, message, tmp_path):
    data = planted_data()
    trainer(max_epochs=1, checkpoint_dir=tmp_path, **first).fit(vbpr(data), data)
    with pytest.raises(InputError, match=message):
        trainer(checkpoint_dir=tmp_path, **second).fit(vbpr(data), data)
    assert len(trainer(max_epochs=2, checkpoint_dir=tmp_path, **first).fit(vbpr(data), data).rows) == 2


def test_a_sampler_given_as_an_object_is_seeded_anew_by_every_training():
    data = planted_data()
    edge_index = data[RATES].edge_index
    sampler = TripletSampler(edge_index, USERS, ITEMS, 64, seed=99)
    runs = []
    for given in ({"num_negatives": 1}, {"sampler": sampler}, {"sampler": sampler}):
        model = vbpr(data)
        runs.append((trainer(seed=3, **given).fit(model, data).rows, model.state_dict()))
    for rows, state in runs[1:]:
        assert rows == runs[0][0]
        assert same_bits(state, runs[0][1])


def test_a_sampler_is_given_the_embeddings_of_the_trained_view_before_every_epoch():
    data = planted_data()
    given = []

    class Wants(Reversed):
        wants_embeddings = True

        def update(self, embeddings):
            given.append(embeddings)

    model = vbpr(data)
    with torch.no_grad():
        before = model.eval()({m: data["item"][m] for m in data.modalities}, {RATES: data[RATES].edge_index})
    trainer(max_epochs=3, sampler=Wants).fit(model, data)
    assert len(given) == 3
    for found, expected in zip(given[0], before, strict=True):
        assert torch.equal(found, expected)
        assert not found.requires_grad
    assert not torch.equal(given[1].user, given[0].user)


class Twisted(Reversed):
    """Spoils one field of its batches."""

    def __init__(self, change, *arguments):
        super().__init__(*arguments)
        self._change = change

    def __iter__(self):
        for batch in super().__iter__():
            yield self._change(batch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda b: b._replace(negative=b.negative + ITEMS),
            "gave negative between 30 and 59, expected row numbers betw",
        ),
        (lambda b: b._replace(user=b.user - USERS), r"gave user between -\d+ and -1"),
        (
            lambda b: b._replace(positive=b.positive[1:]),
            r"gave positive of type torch.int64 and shape \[63\], expected",
        ),
        (lambda b: b._replace(negative=b.negative.float()), "gave negative of type torch.float32"),
        (lambda b: tuple(b), "gave tuple, expected a TripletBatch"),
        (
            lambda b: TripletBatch(*b[:3], *[x[:7] for x in b[3:]]),
            "gave 7 random triples beside a batch, expected 20 for DistillationWrapper",
        ),
    ],
    ids=range(6),
)
def test_batches_that_cannot_be_are_refused(change, message):
    data = planted_data()
    with pytest.raises(InputError, match=f"sampler: Twisted {message}"):
        trainer(sampler=functools.partial(Twisted, change)).fit(distilled(data), data)


def _without_generator(*arguments):
    sampler = Reversed(*arguments)
    del sampler.generator
    return sampler


class Empty(Reversed):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adam"}, "optimizer: found str, expected a function of groups"),
        ({"optimizer": lambda groups: 3}, "optimizer: the function returned int, expected a torch.optim.Optimizer"),
        ({"optimizer": lambda groups: 1 / 0}, r"optimizer: it raised ZeroDivisionError \(division by zero\)"),
        (
            {"optimizer": lambda groups: torch.optim.SGD(groups[:1], lr=0.1)},
            r"optimizer: found SGD over \d of the \d+ trainable parameters of VBPR and 0 others",
        ),
        (
            {"optimizer": torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], lr=0.1)},
            r"optimizer: found SGD over 0 of the \d+ trainable parameters of VBPR and 1 others",
        ),
        ({"scheduler": 0.1}, "scheduler: found float, expected a function of the optimizer"),
        (
            {"scheduler": lr_scheduler.StepLR(torch.optim.SGD([torch.zeros(1)], lr=0.1), 3)},
            "scheduler: found StepLR, expected a function of the optimizer",
        ),
        ({"scheduler": lambda o: o}, "scheduler: the function returned .*, expected a scheduler of torch.optim"),
        (
            {"scheduler": lambda o: lr_scheduler.StepLR(torch.optim.SGD([torch.zeros(1)], lr=0.1), 3)},
            "scheduler: found StepLR of another optimizer",
        ),
        (
            {"scheduler": lambda o: lr_scheduler.ReduceLROnPlateau(o)},
            "found ReduceLROnPlateau with mode='min', expected mode='max'",
        ),
        (
            {"scheduler": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=2), "max_epochs": 9},
            "scheduler: it raised ValueError",
        ),
        ({"sampler": 3}, "sampler: found int, expected a function of"),
        ({"sampler": [1, 2]}, "sampler: found list, expected a function of"),
        ({"sampler": _without_generator}, "sampler: the function returned Reversed, expected an object that iterates"),
        ({"sampler": lambda *a: None}, "sampler: the function returned NoneType"),
        ({"sampler": Empty}, "sampler: Empty gave no batch in an epoch"),
        ({"sampler": Reversed, "negatives": "hard"}, "negatives: found 'hard' beside a sampler"),
        ({"negatives": "hrad"}, "unknown kind of negatives 'hrad': did you mean 'hard'"),
    ],
    ids=range(18),
)
def test_what_cannot_be_used_is_refused_in_one_line(options, message):
    data = planted_data()
    with pytest.raises(InputError, match=message) as caught:
        trainer(**options).fit(vbpr(data), data)
    assert "\n" not in str(caught.value)


def test_an_optimizer_without_sparse_gradients_is_refused_by_name_and_one_with_them_works():
    data = planted_data()
    with pytest.raises(
        InputError, match=r"optimizer: AdamW takes no sparse gradients .* choose another, such as RowAdam"
    ):
        trainer(optimizer=adamw).fit(vbpr(data, sparse=True), data)
    states = []
    for sparse in (False, True):
        model = vbpr(data, sparse=sparse)
        trainer(max_epochs=1, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.5)).fit(model, data)
        states.append(model.state_dict())
    for name in states[0]:
        torch.testing.assert_close(states[1][name], states[0][name], rtol=1e-4, atol=1e-6)


def test_another_optimizer_misses_the_cache_of_teachers(tmp_path):
    data = planted_data()
    options = {"cache_dir": tmp_path, "embedding_dim": 4}
    for rate in (0.1, 0.2, 0.1):
        run = trainer(max_epochs=1, optimizer=lambda groups, rate=rate: torch.optim.SGD(groups, lr=rate))
        train_teachers(VBPR, data, run, ["visual"], **options)
    assert len(list(tmp_path.glob("*.pt"))) == 2


def test_a_teacher_of_the_first_version_of_checkpoints_is_read_where_the_same_code_made_it(tmp_path):
    """Such a file lacks what the record has since then. A teacher of other code is trained anew."""
    data, run = planted_data(), trainer(max_epochs=1)
    key = _key(Objective(vbpr(data), view="visual"), run, data)
    tables = {"user": torch.randn(USERS, 4), "item": torch.randn(ITEMS, 4)}
    record = {"rows": [{"epoch": 1}], "seconds": [0.5], "best_epoch": 1, "best_value": 0.25}
    torch.save({"format": 1, "kind": "teacher", **tables, **record}, tmp_path / f"{key}.pt")
    teachers = train_teachers(VBPR, data, run, ["visual"], cache_dir=tmp_path, embedding_dim=4)
    assert torch.equal(teachers["visual"].user, tables["user"])
    assert teachers.histories["visual"].best_value == 0.25


def test_settings_can_be_asked_for_without_a_model_and_leave_no_trace():
    calls = []

    def optimizer(groups):
        calls.append(copy.copy(groups))
        return torch.optim.SGD(groups, lr=0.5)

    run = trainer(optimizer=optimizer, scheduler=lambda o: lr_scheduler.StepLR(o, 3), sampler=Reversed)
    settings = run.settings()
    assert settings["optimizer"]["class"] == "torch.optim.sgd.SGD"
    assert settings["optimizer"]["groups"][0]["lr"] == 0.5
    assert settings["scheduler"]["step_size"] == 3
    assert settings == run.settings()
    assert json.loads(json.dumps(settings)) == settings
    assert trainer().settings().keys().isdisjoint({"optimizer", "scheduler", "sampler", "negatives", "eval_users"})
    assert len(calls) == 4
