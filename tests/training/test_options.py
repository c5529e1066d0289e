"""Options of plain training: what they refuse, what they are recorded as, and that a break changes no bit."""

from __future__ import annotations

import math
import warnings
from functools import partial
from statistics import fmean

import pytest
import torch
import torch.nn.functional as F

from pyg_ckd.balance import Objective
from pyg_ckd.balance.discovery import build_objective, find_strategy
from pyg_ckd.data import TripletSampler
from pyg_ckd.data.inputs import embed
from pyg_ckd.errors import InputError
from pyg_ckd.nn import BM3, FISM, FREEDOM, VBPR, LightGCN
from pyg_ckd.training import Trainer, build
from pyg_ckd.training.begin import warn_once
from tests.training.problem import distilled, planted_data, same_bits, trainer
from tests.training.test_factories import Reversed, adamw
from tests.training.test_seam import vbpr

CHANGED = {
    "cosine": {"schedule": "cosine", "warmup_steps": 6},
    "step": {"schedule": "step"},
    "warm-up": {"warmup_steps": 10},
    "decay": {"weight_decay": 0.5},
    "clip": {"clip_norm": 0.01},
    "average": {"averaging": 0.8},
    "softmax": {"ranking": "softmax"},
    "drawn": {"ranking": "softmax", "num_negatives": 7},
    "popularity": {"ranking": "softmax", "num_negatives": 7, "negatives": "popularity"},
    "several": {"num_negatives": 3},
    "by users": {"shuffle": "users"},
}


class Dies:
    """Ends the process, as it were, in the middle of an epoch after the second."""

    def on_train_batch_start(self, epoch, batch_idx):
        if (epoch, batch_idx) == (3, 2):
            raise KeyboardInterrupt


PLAIN = {"max_epochs": 4, "lr": 0.1, "track_views": False}


@pytest.fixture(scope="module")
def plain():
    data = planted_data()
    model = Objective(vbpr(data, sparse=True))
    trainer(**PLAIN).fit(model, data)
    return model.state_dict()


@pytest.mark.parametrize("kind", CHANGED)
def test_a_break_changes_no_bit(kind, plain, tmp_path):
    data = planted_data()
    options = {**PLAIN, **CHANGED[kind]}
    whole, killed, resumed = (Objective(vbpr(data, sparse=True)) for _ in range(3))
    expected = trainer(**options).fit(whole, data)
    with pytest.raises(KeyboardInterrupt):
        trainer(**options, callbacks=Dies(), checkpoint_dir=tmp_path).fit(killed, data)
    history = trainer(**options, checkpoint_dir=tmp_path).fit(resumed, data)
    assert history.rows == expected.rows
    assert same_bits(resumed.state_dict(), whole.state_dict())
    assert not same_bits(plain, whole.state_dict())  # It did something.
    with pytest.raises(InputError, match=r"expected .* as in this run"):
        trainer(**PLAIN, checkpoint_dir=tmp_path).fit(vbpr(data, sparse=True), data)


def test_settings_hold_what_is_not_the_default_alone():
    plain = Trainer().settings()
    assert not plain.keys() & vars(Trainer().options).keys()
    options = {"warmup_steps": 3, "weight_decay": 0.1, "clip_norm": 1.0, "averaging": 0.9, "num_negatives": 2}
    assert Trainer(**options).settings() == plain | options
    found = Trainer(ranking="softmax", schedule="cosine", max_epochs=7).settings()
    assert found == plain | {"ranking": "softmax", "schedule": {"kind": "cosine", "max_epochs": 7}}


def test_a_schedule_is_not_gone_on_with_under_another_budget(tmp_path):
    data = planted_data()
    options = {"schedule": "cosine", "checkpoint_dir": tmp_path}
    trainer(max_epochs=2, **options).fit(vbpr(data), data)
    with pytest.raises(InputError, match=r"found schedule.max_epochs = 2, expected 3"):
        trainer(max_epochs=3, **options).fit(vbpr(data), data)


@pytest.mark.parametrize("negatives", ["uniform", "popularity"])
def test_several_negatives_are_as_many_triples_whose_mean_is_the_loss(negatives):
    seen = []

    class Watches:
        def on_train_batch_end(self, batch, outputs):
            seen.append((batch, outputs["bpr"].item()))

    data = planted_data()
    model = vbpr(data)
    user, item = embed(model, data)[0]
    options = {"max_epochs": 1, "batch_size": 100, "lr": 1e-12, "callbacks": Watches()}
    trainer(**options, num_negatives=3, negatives=negatives).fit(model, data)
    assert [batch.user.numel() for batch, _ in seen] == [300, 300, 120]
    for batch, loss in seen:
        pairs = torch.stack([batch.user, batch.positive]).view(2, 3, -1)
        assert (pairs == pairs[:, :1]).all()
        per_pair = []
        for u, i in pairs[:, 0].t().tolist():
            negative = batch.negative[(batch.user == u) & (batch.positive == i)]
            assert negative.numel() == 3
            per_pair.append(F.softplus(-user[u] @ (item[i] - item[negative]).t()).mean().item())
        assert loss == pytest.approx(fmean(per_pair), abs=1e-5)


def test_the_softmax_takes_the_place_of_bpr_alone():
    data = planted_data()
    history = trainer(max_epochs=3, ranking="softmax", lr=0.05).fit(build(FREEDOM, data, 0, num_neighbors=3), data)
    losses = [name for name in history.rows[-1] if name.startswith("loss/")]
    assert losses == ["loss/softmax", "loss/bpr/visual", "loss/bpr/textual", "loss/l2"]
    assert history.rows[-1]["loss/softmax"] < history.rows[0]["loss/softmax"]
    history = trainer(max_epochs=1, ranking="softmax").fit(distilled(data), data)
    assert {"loss/softmax", "loss/specific", "loss/generic"} <= history.rows[0].keys()


@pytest.mark.parametrize(
    ("name", "options", "together"),
    [
        (FISM, {}, True),
        (FISM, {"shuffle": "whole"}, False),
        (LightGCN, {}, False),
        (LightGCN, {"shuffle": "users"}, True),
    ],
)
def test_the_backbone_says_how_an_epoch_is_shuffled_unless_the_trainer_does(name, options, together):
    class Sees:
        def on_train_batch_start(self, batch):
            users.append(batch.user)

    data, users = planted_data(), list[torch.Tensor]()
    given = {"max_epochs": 1, "batch_size": 16, "num_negatives": 1, "track_views": False, "callbacks": [Sees()]}
    trainer(**given, **options).fit(Objective(build(name, data, 0)), data)
    order = torch.cat(users)
    assert (order.unique_consecutive().numel() == order.unique().numel()) == together


@pytest.mark.parametrize(
    ("backbone", "options", "each"),
    [
        (VBPR, {}, 4),
        (VBPR, {"num_negatives": 2}, 2),
        (VBPR, {"ranking": "softmax"}, 1),
        (VBPR, {"sampler": TripletSampler}, 1),
        (LightGCN, {}, 4),
        (LightGCN, {"num_neighbors": [2, 2, 2]}, 1),
        (BM3, {}, 1),
    ],
)
def test_the_backbone_says_how_many_negatives_an_interaction_has_unless_the_trainer_does(backbone, options, each):
    class Sees:
        def on_train_batch_start(self, batch):
            sizes.append(batch.user.numel())

    data, sizes = planted_data(), list[int]()
    run, model = (
        trainer(max_epochs=1, batch_size=60, callbacks=[Sees()], **options),
        Objective(build(backbone, data, 0)),
    )
    run.fit(model, data)
    assert set(sizes) == {60 * each}
    whole = "sampler" not in options and "ranking" not in options
    assert run.settings(model).get("num_negatives", 1) == (each if whole else 1)


def test_a_training_does_not_go_on_with_another_number_of_negatives(tmp_path):
    data = planted_data()
    trainer(max_epochs=1, num_negatives=1, checkpoint_dir=tmp_path).fit(Objective(build(VBPR, data, 0)), data)
    with pytest.raises(InputError, match="num_negatives = 1, expected 4"):
        trainer(checkpoint_dir=tmp_path).fit(Objective(build(VBPR, data, 0)), data)


def test_a_softmax_of_one_training_is_not_that_of_the_next():
    data = planted_data()
    model = Objective(build(LightGCN, data, 0))
    trainer(max_epochs=1, ranking="softmax").fit(model, data)
    assert "loss/bpr" in trainer(max_epochs=1).fit(model, data).rows[0]


def test_a_backbone_with_a_softmax_of_its_own_says_so():
    data = planted_data()
    with pytest.raises(InputError, match=r"ranking: found 'softmax' for FISM, which trains with losses of its own"):
        trainer(ranking="softmax").fit(build(FISM, data, 0), data)


@pytest.fixture
def told():
    """Forget what was warned of before, and return the warnings from now on."""
    warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield lambda: [str(one.message) for one in caught if "negatives" in str(one.message)]


@pytest.mark.parametrize("backbone", [FISM, BM3])
@pytest.mark.parametrize(("name", "value"), [("negatives", "hard"), ("negatives", "popularity"), ("num_negatives", 3)])
def test_negatives_that_no_loss_reads_are_told_of_once(name, value, backbone, told):
    data = planted_data()
    for _ in range(2):
        trainer(max_epochs=1, **{name: value}).fit(build(backbone, data, 0), data)
    (line,) = told()
    assert line.startswith(f"{name}: found {value!r} for {backbone.__name__}, whose losses read no negatives of the")
    assert line.endswith("its own num_negatives") == (backbone is FISM)


def test_defaults_strategies_and_losses_that_read_negatives_are_not_warned_of(told):
    data = planted_data()
    given: dict[str, object] = {"negatives": "popularity", "num_negatives": 2}
    trainer(max_epochs=1).fit(build(FISM, data, 0), data)
    trainer(max_epochs=1, negatives="uniform", num_negatives=1).fit(build(FISM, data, 0), data)
    trainer(max_epochs=1, **given).fit(build(VBPR, data, 0), data)
    trainer(max_epochs=1, **given).fit(
        build_objective(find_strategy("multitask"), build(FISM, data, 0), data, None, {}), data
    )
    trainer(max_epochs=1, sampler=partial(TripletSampler, num_negatives=2)).fit(build(FISM, data, 0), data)
    assert told() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "cosin"}, "schedule.*'cosin'.*cosine"),
        ({"ranking": "softmx"}, "ranking.*'softmx'.*softmax"),
        ({"warmup_steps": -1}, "warmup_steps: found -1"),
        ({"warmup_steps": 0.5}, "warmup_steps: found 0.5"),
        ({"weight_decay": -0.1}, "weight_decay: found -0.1"),
        ({"weight_decay": math.inf}, "weight_decay: found inf"),
        ({"clip_norm": 0}, "clip_norm: found 0"),
        ({"clip_norm": math.nan}, "clip_norm: found nan"),
        ({"averaging": 1.0}, "averaging: found 1.0"),
        ({"averaging": -0.5}, "averaging: found -0.5"),
        ({"averaging": math.nan}, "averaging: found nan"),
        ({"num_negatives": 0}, "num_negatives: found 0"),
        ({"checkpoint_minutes": math.nan}, "checkpoint_minutes: found nan"),
        ({"track_views": "false"}, "track_views: found 'false', expected true or false"),
        ({"progress": None}, "progress: found None, expected true or false"),
        ({"cut_features": 2}, "cut_features: found 2, expected true or false"),
        ({"ranking": "softmax", "negatives": "hard"}, "negatives: found 'hard' beside ranking='softmax'"),
        ({"ranking": "softmax", "negatives": "popularity"}, "num_negatives: found none"),
        ({"schedule": "step", "scheduler": lambda o: None}, "schedule: found 'step' beside the scheduler of one's own"),
        ({"warmup_steps": 2, "scheduler": lambda o: None}, "warmup_steps: found 2 beside the scheduler"),
        ({"weight_decay": 0.1, "optimizer": adamw}, "weight_decay: found 0.1 beside the optimizer"),
        ({"num_negatives": 2, "sampler": Reversed}, "num_negatives: found 2 beside the sampler"),
    ],
)
def test_values_that_cannot_be_are_refused_in_one_line(options, message):
    with pytest.raises(InputError, match=message) as error:
        trainer(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"warmup_steps": 24},
            "warmup_steps: found 24, expected fewer than the 24 steps of the training, max_epochs = 6",
        ),
        ({"schedule": "cosine", "sampler": Reversed}, "schedule: found 'cosine' .* beside a sampler without a length"),
    ],
    ids=str,
)
def test_a_schedule_that_does_not_fit_the_training_is_refused(options, message):
    data = planted_data()
    with pytest.raises(InputError, match=message):
        trainer(**options).fit(vbpr(data), data)


@pytest.mark.parametrize(
    ("backbone", "named"),
    [
        (LightGCN, {"shuffle": "whole"}),
        (LightGCN, {"num_negatives": 4}),
        (FISM, {"shuffle": "users"}),
        (FREEDOM, {"num_negatives": 1}),
        (LightGCN, {"ranking": "softmax", "shuffle": "whole"}),
    ],
    ids=str,
)
def test_a_run_goes_on_with_the_same_options_by_name_or_by_default(backbone, named, tmp_path):
    data = planted_data()
    plain = {"ranking": named["ranking"]} if "ranking" in named else {}
    for first, second in ((plain, named), (named, plain)):
        folder = tmp_path / str(len(first))
        trainer(max_epochs=1, checkpoint_dir=folder, **first).fit(build(backbone, data, 0), data)
        history = trainer(max_epochs=2, checkpoint_dir=folder, **second).fit(build(backbone, data, 0), data)
        whole = trainer(max_epochs=2, **second).fit(build(backbone, data, 0), data)
        assert history.rows == whole.rows
    other = {"shuffle": "blocks"} if "shuffle" in named else {"num_negatives": 2}
    with pytest.raises(InputError, match=f"expected {next(iter(other.values()))!r} as in this run"):
        trainer(max_epochs=3, checkpoint_dir=folder, **plain, **other).fit(build(backbone, data, 0), data)
