"""Which views modality dropout draws, and how often."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations, pairwise

import pytest
import torch

from pyg_ckd import Trainer
from pyg_ckd.balance import ModalityDropout, Progress
from pyg_ckd.balance.dropout import PredictionModulation, dominance, draw_view, drop_rates, score_ratios
from pyg_ckd.data.inputs import unpack
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from tests.balance.test_ckd import one_batch
from tests.conftest import TOLERANCE
from tests.nn.models.zoo import BACKBONES, built, doubled


@pytest.mark.parametrize(("modalities", "rate"), [(2, 0.5), (3, 0.3)])
def test_views_come_as_often_as_the_probabilities_say(modalities, rate, make_data):
    objective = ModalityDropout(built(BACKBONES["VBPR"], make_data(modalities=modalities)), rate=rate)
    torch.manual_seed(0)
    num = 4000
    drawn = Counter(objective.views[0] for _ in range(num))
    nothing = rate**modalities / modalities  # What is left of the empty view goes to the uni-modal ones.
    for size in range(1, modalities + 1):
        for view in combinations(objective.modalities, size):
            share = (1 - rate) ** size * rate ** (modalities - size) + (nothing if size == 1 else 0)
            assert abs(drawn[frozenset(view)] / num - share) < 5 * (share * (1 - share) / num) ** 0.5
    assert sum(drawn.values()) == num
    assert frozenset() not in drawn


def test_the_drawn_view_is_the_one_that_is_trained(make_data):
    data = make_data(modalities=3)
    model, batch = built(BACKBONES["VBPR"], data), one_batch(data, 0)
    objective = ModalityDropout(model, rate=0.6, l2=0.0)
    torch.manual_seed(3)
    view = objective.views[0]
    torch.manual_seed(3)
    loss = objective.loss(*doubled(data), batch)["bpr"]
    margin = model(*doubled(data), view).margin(*batch[:3])
    assert loss.item() == pytest.approx(torch.nn.functional.softplus(-margin).mean().item(), abs=1e-10)
    assert len(view) < 3


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_out_of_its_range_is_refused(rate, make_data):
    with pytest.raises(InputError, match=f"rate: found {rate}, expected a probability"):
        ModalityDropout(built(BACKBONES["VBPR"], make_data()), rate=rate)


def test_rates_equal_those_of_the_published_code(golden):
    file = golden("balance/opm")
    names = sorted({key.split("/")[0] for key in file if key.startswith("margins")})
    assert names
    for name in names:
        score = torch.sigmoid(file[f"{name}/margin"]).sum(dim=1)
        assert torch.allclose(score, file[f"{name}/score"], rtol=0, atol=TOLERANCE)
        ratio = score_ratios(score, eps=1e-5) / (len(score) - 1)  # Theirs is to the sum of the others.
        assert torch.allclose(ratio, file[f"{name}/ratio"], rtol=0, atol=TOLERANCE)
        rho = dominance(ratio)
        assert torch.allclose(rho, file[f"{name}/rho"], rtol=0, atol=TOLERANCE)
        drop = drop_rates(rho, float(file["q_base"]), float(file["alpha"]))
        assert torch.allclose(drop, file[f"{name}/drop"], rtol=0, atol=TOLERANCE)
        # Masks of samples, and the scale of what they leave: a step here has one view, and BPR finds the scale.
        keep = file[f"{name}/keep"]
        assert keep[drop == 0].all()
        assert torch.equal(keep.bool().any(dim=0), file[f"{name}/used"])
        assert torch.allclose(1 / (1 - drop.mean() + 1e-5), file[f"{name}/rescale"], rtol=0, atol=TOLERANCE)
    assert 0 <= file.number("p_exe") <= 1


def test_a_ratio_of_three_is_to_the_mean_of_the_others_and_unknown_scores_drop_nothing():
    assert score_ratios(torch.tensor([6.0, 2.0, 4.0])).tolist() == pytest.approx([2.0, 0.4, 1.0])
    for score in (torch.tensor([torch.nan, torch.nan]), torch.zeros(2), torch.ones(3)):
        assert not drop_rates(dominance(score_ratios(score)), 0.4, 0.5).any()
    assert drop_rates(dominance(score_ratios(torch.tensor([1.0, 0.0]))), 0.9, 0.5).tolist() == [1.0, 0.0]


def modulated(data, **options) -> PredictionModulation:
    """Return an objective whose first modality dominates, at the beginning of its second epoch."""
    objective = PredictionModulation(built(BACKBONES["VBPR"], data), **options)
    objective.score.copy_(torch.tensor([0.9, *[0.5] * (len(objective.modalities) - 1)]))
    objective.progress = Progress(2, 10)
    objective.begin_epoch(*unpack(data))
    return objective


@pytest.mark.parametrize("modalities", [2, 3])
def test_only_the_dominant_modality_is_dropped_as_often_as_its_rate_and_the_execution_say(modalities, make_data):
    objective = modulated(make_data(modalities=modalities), rate=0.4, execution=0.7)
    torch.manual_seed(0)
    num = 3000
    drawn = Counter(objective.views[0] for _ in range(num))
    rate = 0.4 * (1 + 0.5 * math.tanh(0.9 / 0.5 - 1))
    without = frozenset(objective.modalities[1:])
    assert drawn.keys() == {frozenset(objective.modalities), without}
    assert abs(drawn[without] / num - 0.7 * rate) < 5 * (0.7 * rate / num) ** 0.5


def test_scores_are_measured_on_every_tenth_step_and_equal_a_loop_over_what_items_have(make_data):
    data = make_data(modalities=2)
    has = {"mod1": torch.arange(9) % 3 > 0}
    objective = PredictionModulation(built(BACKBONES["VBPR"], data), l2=0.0, has=has)
    objective.begin_epoch(*unpack(data))
    batch, sizes = one_batch(data, 0), []
    for _ in range(21):
        views = objective.views
        sizes.append(len(views))
        out = dict(zip(views, objective.student.outputs(*doubled(data), views), strict=True))
        assert objective.balance(out, batch) == {}
    assert sizes == [4 if step % 10 == 0 else 1 for step in range(21)]
    statistics = objective.epoch_statistics()
    for m in data.modalities:
        alone, empty = (objective.student(*doubled(data), view).margin(*batch[:3]) for view in (m, []))
        there = torch.ones(20, dtype=torch.bool) if m == "mod0" else has[m][batch.positive] & has[m][batch.negative]
        expected = [
            1 / (1 + math.exp(b - a)) for a, b, t in zip(alone.tolist(), empty.tolist(), there, strict=True) if t
        ]
        assert statistics[f"score/{m}"] == pytest.approx(sum(expected) / len(expected), abs=1e-10)
        assert statistics[f"drop/{m}"] == 0.0
    assert objective.epoch_statistics() == statistics  # Nothing new was measured.


def test_rates_wait_for_the_warm_up_and_grow_over_the_ramp(make_data):
    data = make_data()
    full = modulated(data, rate=0.4, warmup=1)._rates
    assert full[0] > 0.4
    assert full[1] == 0.0
    assert modulated(data, rate=0.4, warmup=2)._rates == [0.0, 0.0]
    assert modulated(data, rate=0.4, warmup=1, ramp=4)._rates[0] == pytest.approx(math.sin(math.pi / 8) * full[0])
    assert modulated(data, rate=0.4, warmup=0, ramp=2)._rates == full


def test_a_modality_that_ranks_better_is_dropped_in_training(make_data):
    data = make_data(modalities=2)
    objective = PredictionModulation(VBPR.from_data(data, embedding_dim=4), rate=0.5, measure_every=1)
    rows = (
        Trainer(max_epochs=4, batch_size=8, lr=0.05, monitor="recall@5", device="cpu", progress=False)
        .fit(objective, data)
        .rows
    )
    assert [rows[0][f"drop/{m}"] for m in data.modalities] == [0.0, 0.0]
    for before, row in pairwise(rows):
        best = max(data.modalities, key=lambda m: before[f"score/{m}"])
        for m in data.modalities:
            assert (row[f"drop/{m}"] >= 0.5) == (m == best)


def test_a_view_is_never_empty():
    assert {len(draw_view(["a", "b", "c"], [1.0, 1.0, 1.0])) for _ in range(20)} == {1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 1.0}, r"rate: found 1\.0, expected a probability"),
        ({"strength": -0.1}, r"strength: found -0\.1, expected a number of zero or more"),
        ({"execution": 1.5}, r"execution: found 1\.5, expected a number from 0 to 1"),
        ({"warmup": -1}, "warmup: found -1, expected at least 0"),
        ({"ramp": -1}, "ramp: found -1, expected at least 0"),
        ({"measure_every": 0}, "measure_every: found 0, expected at least 1"),
    ],
)
def test_bad_numbers_are_refused(options, message, make_data):
    with pytest.raises(InputError, match=message):
        PredictionModulation(built(BACKBONES["VBPR"], make_data()), **options)


def test_a_modality_that_nothing_is_known_of_is_left_out_of_the_ratios_of_the_others():
    score = torch.tensor([0.9, 0.5, torch.nan]).double()
    found = score_ratios(score)
    assert torch.equal(found[:2], score_ratios(score[:2]))
    assert found[2].isnan()
    assert drop_rates(dominance(found), 0.4, 0.5).tolist() == [
        *drop_rates(dominance(found[:2]), 0.4, 0.5).tolist(),
        0.0,
    ]
    assert not dominance(score_ratios(torch.tensor([0.9, torch.nan, torch.nan]))).any()
    known = torch.tensor([0.9, 0.5, 0.31, 0.77]).double()
    assert torch.equal(score_ratios(known), known * 3 / (known.sum() - known))


def test_a_rare_modality_leaves_the_dropping_of_the_others_on(make_data):
    data = make_data(modalities=3)
    objective = PredictionModulation(built(BACKBONES["VBPR"], data), has={"mod2": torch.arange(9) == 0})
    objective.score_sum += torch.tensor([9.0, 5.0, 0.0])
    objective.count += torch.tensor([10.0, 10.0, 0.0])
    objective.epoch_statistics()
    objective.progress = Progress(epoch=2, max_epochs=9)
    objective.begin_epoch(*unpack(data))
    assert objective._rates[0] > 0.4
    assert objective._rates[1:] == [0.0, 0.0]
