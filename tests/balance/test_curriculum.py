"""Curricula against the published arithmetic, plain loops, and what stages and paces do."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from pyg_ckd.balance.curriculum import (
    DifficultyCurriculum,
    DynamicCurriculum,
    difficulty_signals,
    difficulty_weights,
    modality_gates,
    stalled_stages,
)
from pyg_ckd.balance.progress import Progress
from pyg_ckd.data import TripletBatch
from pyg_ckd.data.inputs import RATES
from pyg_ckd.errors import InputError
from tests.balance.test_ckd import one_batch
from tests.balance.test_strategies import fit
from tests.conftest import TOLERANCE
from tests.nn.models.zoo import BACKBONES, built, doubled
from tests.training.problem import trainer


def model(cls, data, backbone: str = "MMGCN", **options):
    return cls(built(BACKBONES[backbone], data), **options)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("stage", ["easy", "medium", "hard"])
def test_weights_of_a_stage_equal_the_reference(stage, binary, golden):
    file = golden("balance/odsw")
    expected = file[f"weight/{stage}{'_binary' if binary else ''}"]
    assert torch.allclose(difficulty_weights(file["accuracy"], stage, binary), expected, rtol=0, atol=TOLERANCE)
    if stage == "hard" and not binary:
        nothing = torch.zeros(1, dtype=torch.float64)
        assert difficulty_weights(nothing, "hard").item() == file.number("all_wrong")


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("stage", ["easy", "medium", "hard"])
def test_triples_are_weighed_by_how_sure_the_model_is(stage, make_data):
    data = make_data(modalities=3)
    objective = model(DifficultyCurriculum, data, temperature=0.7, stages=[stage], inner_options={"l2": 0.0})
    batch = one_batch(data, 0)
    margins = objective.student(*doubled(data)).margin(*batch[:3]).detach()
    found = objective.loss(*doubled(data), batch)
    assert found.keys() == {"bpr"}
    weights = []
    for margin in margins.tolist():
        accuracy = 1 / (1 + math.exp(-margin / 0.7))
        peak, right = math.sin(math.pi * accuracy), accuracy > 0.5
        weight = {"easy": 1.0 if right else peak, "medium": peak, "hard": peak if right else 1.0}[stage]
        never = accuracy < 1 / 16
        weights.append({"easy": 0.0, "medium": 0.0, "hard": 0.25}[stage] if never else weight)
    assert 0 < sum(w in (0.0, 0.25) for w in weights) < len(weights)
    losses = [math.log1p(math.exp(-margin)) for margin in margins.tolist()]
    expected = sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)
    assert found["bpr"].item() == pytest.approx(expected, abs=1e-10)
    assert objective.statistics() == {"stage": ["easy", "medium", "hard"].index(stage) + 1}


class Given:
    """The output of a view with known margins."""

    def __init__(self, margins: list[float], dtype: torch.dtype) -> None:
        self.margins = torch.tensor(margins, dtype=dtype)

    def margin(self, *triples: torch.Tensor) -> torch.Tensor:
        return self.margins


def weights_of(objective: DifficultyCurriculum, margins: list[float], dtype: torch.dtype = torch.float32):
    nobody = torch.zeros(len(margins), dtype=torch.int64)
    found = objective.weigh({None: Given(margins, dtype)}, TripletBatch(*[nobody] * 6))
    return found / found.max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_hopelessly_wrong_counts_in_the_last_stage_alone_and_least_of_all_wrong(dtype, make_data):
    data, margins = make_data(), [-100.0, -30.0, -10.0, -2.9, -2.5, -1.0, 1.0]
    weights = {
        stage: weights_of(model(DifficultyCurriculum, data, stages=[stage]), margins, dtype)
        for stage in ("easy", "medium", "hard")
    }
    assert weights["hard"][:6].tolist() == [0.25] * 4 + [1.0] * 2
    for stage in ("easy", "medium"):
        assert weights[stage][:4].tolist() == [0.0] * 4
        assert bool((weights[stage][4:] > 0).all())
    binary = model(DifficultyCurriculum, data, stages=["hard"], binary=True)
    assert weights_of(binary, margins, dtype).tolist() == [0.0] * 4 + [1.0] * 2 + [0.0]


def test_what_counts_as_never_right_is_an_option_and_scales_with_the_temperature(make_data):
    data, margins = make_data(), [-1000.0, -5.0, -2.0, -1.0]
    for options, expected in (
        ({"never_right": 0.0}, [1.0, 1.0, 1.0, 1.0]),
        ({"never_right": 0.2}, [0.25, 0.25, 0.25, 1.0]),
        ({"never_right": 0.5}, [1.0, 1.0, 1.0, 1.0]),  # A quarter each, over their mean.
        ({"temperature": 0.5}, [0.25, 0.25, 0.25, 1.0]),
        ({"temperature": 2.0}, [0.25, 1.0, 1.0, 1.0]),
    ):
        found = weights_of(model(DifficultyCurriculum, data, stages=["hard"], **options), margins)
        assert found.tolist() == pytest.approx(expected), options


def test_a_stage_ends_after_evaluations_without_a_better_value_of_its_own():
    values = [0.1, 0.3, 0.2, 0.25, 0.2, 0.4, 0.1, 0.1]
    assert [stalled_stages(values[:n], 2) for n in range(len(values) + 1)] == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert stalled_stages([0.1] * 9, 4) == 1


def test_stages_follow_evaluations_or_epochs(make_data):
    data = make_data()
    by_epochs = model(DifficultyCurriculum, data, stage_epochs=2)
    history = fit(by_epochs.float(), data, max_epochs=7)
    assert [row["stage"] for row in history.rows] == [1, 1, 2, 2, 3, 3, 3]
    by_values = model(DifficultyCurriculum, data, patience=2)
    seen = []
    for n in range(6):
        rows = tuple({"epoch": k + 1, "val/recall@5": v} for k, v in enumerate([0.2, 0.1, 0.1, 0.2, 0.1][:n]))
        by_values.progress = Progress(n + 1, 9, rows, "recall@5")
        by_values.begin()
        seen.append(by_values.stage)
    assert seen == ["easy", "easy", "easy", "medium", "medium", "medium"]


def test_early_stopping_waits_for_the_hard_triples(make_data):
    data = make_data()
    objective = DifficultyCurriculum(built(BACKBONES["VBPR"], data).float(), patience=4)
    history = trainer(max_epochs=200, patience=2, lr=0.05).fit(objective, data)
    stages = [row["stage"] for row in history.rows]
    assert history.stopped.startswith("no rise")
    assert sorted(set(stages)) == [1, 2, 3]
    assert stages.count(3) >= 12
    values = [row["val/recall@5"] for row in history.rows]
    assert history.best_epoch == values.index(max(values)) + 1  # Of any stage: all of them rank with the whole model.


def test_a_curriculum_by_evaluations_needs_a_validation_part_and_one_by_epochs_does_not(make_data):
    data = make_data()
    edges = data["user", "rates", "item"]
    edges.val_edge_index = edges.val_edge_index[:, :0]
    with pytest.raises(InputError, match="odsw: found a graph without a validation part"):
        fit(model(DifficultyCurriculum, data).float(), data)
    assert len(fit(model(DifficultyCurriculum, data, stage_epochs=1).float(), data, max_epochs=2).rows) == 2
    table = (Path(__file__).parents[2] / "docs/strategies/README.md").read_text(encoding="utf-8")
    row = next(line for line in table.splitlines() if line.startswith("| `odsw` |"))
    assert "| needed, unless `stage_epochs` |" in row


def margins_of(objective, data, batch) -> dict[frozenset, torch.Tensor]:
    subsets = itertools.chain.from_iterable(itertools.combinations(data.modalities, n) for n in range(4))
    return {
        frozenset(s): objective.student(*doubled(data), list(s)).margin(*batch[:3]).detach() for s in map(list, subsets)
    }


@pytest.mark.parametrize(("inner", "named"), [("plain", True), ("g-blending", False)])
def test_without_a_validation_part_the_option_that_does_without_it_is_named(inner, named, make_data):
    data = make_data(modalities=2)
    del data[RATES].val_edge_index
    with pytest.raises(InputError, match="odsw: found a graph without a validation part") as caught:
        fit(model(DifficultyCurriculum, data, inner=inner).float(), data, max_epochs=1)
    assert ("or give stage_epochs" in str(caught.value)) == named


@pytest.mark.parametrize("lacking", [False, True])
def test_signals_of_difficulty_by_hand(lacking):
    generator = torch.Generator().manual_seed(0)
    full, alone = torch.randn(6, generator=generator), torch.randn(6, 3, generator=generator)
    known = torch.rand(6, 3, generator=generator) > 0.4 if lacking else torch.ones(6, 3, dtype=torch.bool)
    found = difficulty_signals(full, alone, known if lacking else None)
    for b in range(6):
        p = 1 / (1 + math.exp(-full[b].item()))
        d = [alone[b, m].item() for m in range(3) if known[b, m]]
        deviation = -math.log(p) + sum(math.log1p(math.exp(-x)) for x in d) / max(1, len(d))
        inconsistency = sum((1 / (1 + math.exp(-x)) - p) ** 2 for x in d) / max(1, len(d))
        entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
        assert found[b].tolist() == pytest.approx([deviation, inconsistency, entropy], abs=1e-6)


@pytest.mark.usefixtures("double")
def test_weights_go_from_easy_to_hard_with_the_pace(make_data):
    data = make_data(modalities=3)
    objective = model(DynamicCurriculum, data, gate_weight=0.0, pace_epochs=10)
    batches = [one_batch(data, 0)] * 2
    margins = margins_of(objective, data, batches[0])
    signals = difficulty_signals(
        margins[frozenset(data.modalities)], torch.stack([margins[frozenset([m])] for m in data.modalities], dim=1)
    )
    difficulty = (signals / signals.mean(dim=0)).mean(dim=1)  # Nothing varies between equal batches.
    losses = torch.nn.functional.softplus(-margins[frozenset(data.modalities)])
    for epoch, factor in ((1, -1.0), (6, 0.0), (11, 1.0), (99, 1.0)):
        objective.progress = Progress(epoch, 200)
        for batch in batches:
            found = objective.loss(*doubled(data), batch)["bpr"].item()
        weights = torch.softmax(factor * difficulty, dim=0)
        assert found == pytest.approx((weights * losses).sum().item(), abs=1e-9)
    shown = objective.epoch_statistics()
    assert shown["pace"] == 1.0
    assert [shown[f"share/{n}"] for n in ("deviation", "inconsistency", "instability")] == pytest.approx([1 / 3] * 3)


@pytest.mark.usefixtures("double")
def test_signals_that_vary_more_between_batches_have_the_larger_share(make_data):
    objective = model(DynamicCurriculum, make_data())
    means = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.5, 2.0, 2.9]), torch.tensor([0.7, 2.0, 3.0])]
    for mean in means:
        level = objective._running(mean.unsqueeze(0))
    weight = torch.tensor([0.1 * 0.9**age for age in (2, 1, 0)])
    weight = weight / weight.sum()
    expected = (weight.unsqueeze(1) * torch.stack(means)).sum(dim=0)
    assert level.tolist() == pytest.approx(expected.tolist(), abs=1e-12)
    variance = (weight.unsqueeze(1) * torch.stack(means).square()).sum(dim=0) - expected.square()
    volatility = variance.clamp(min=0).sqrt() / expected
    assert objective._shares().tolist() == pytest.approx((volatility / volatility.sum()).tolist(), abs=1e-7)
    assert objective._shares()[1].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.usefixtures("double")
def test_the_unit_of_a_signal_changes_neither_shares_nor_difficulty(make_data):
    signals = torch.rand(4, 8, 3, generator=torch.Generator().manual_seed(0)) + 0.1
    found = []
    for unit in (torch.ones(3), torch.tensor([1.0, 1e-4, 1e4])):
        objective = model(DynamicCurriculum, make_data())
        found.append([x * unit / objective._running(x * unit) * objective._shares() for x in signals])
    for one, two in zip(*found, strict=True):
        assert torch.allclose(one, two, rtol=1e-6, atol=0)
    assert len({round(x, 3) for x in objective._shares().tolist()}) == 3


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("lacking", [False, True])
def test_the_gated_decision_is_the_sum_of_gated_shapley_values(lacking, make_data):
    data = make_data(modalities=3)
    has = {"mod1": torch.arange(9) % 4 > 0} if lacking else None
    objective = model(DynamicCurriculum, data, samples=False, gate_weight=0.4, has=has)
    objective.gates.copy_(torch.tensor([0.5, 2.0, 0.5]))
    batch = one_batch(data, 0)
    found = objective.loss(*doubled(data), batch)["gated"].item()
    margins = margins_of(objective, data, batch)
    losses = []
    for b in range(batch.user.numel()):
        if lacking and not (has["mod1"][batch.positive[b]] and has["mod1"][batch.negative[b]]):
            continue
        value = {s: margins[s][b].item() for s in margins}
        decision = value[frozenset()]
        for m, gate in zip(data.modalities, (0.5, 2.0, 0.5), strict=True):
            orders = list(itertools.permutations(data.modalities))
            for order in orders:
                before = frozenset(order[: order.index(m)])
                decision += gate * (value[before | {m}] - value[before]) / len(orders)
        losses.append(math.log1p(math.exp(-decision)))
    assert found == pytest.approx(0.4 * sum(losses) / batch.user.numel(), abs=1e-9)


def test_gates_by_hand():
    losses, before = [0.4, 0.5, 0.6, 0.69], [0.5, 0.55, 0.6, 0.68]
    ratio = math.prod(x / 0.4 for x in losses[1:]) ** (1 / 3)
    improved = [max(0.0, (b - x) / b) for x, b in zip(losses[1:], before[1:], strict=True)]
    rate = 3 / sum(1 / (d + 0.01) for d in improved)
    eta = 1 / (1 + math.exp(-math.log(ratio)))
    scores = [
        eta * math.log(0.4 / x) + (1 - eta) * math.log((d + 0.01) / (rate + 0.01))
        for x, d in zip(losses[1:], improved, strict=True)
    ]
    total = sum(map(math.exp, scores))
    expected = [0.1 + 0.9 * 3 * math.exp(s) / total for s in scores]
    found = modality_gates(torch.tensor(losses, dtype=torch.float64), torch.tensor(before, dtype=torch.float64))
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert found[0] > found[1] > found[2]
    nothing = torch.zeros(3, dtype=torch.float64)
    assert torch.isfinite(modality_gates(nothing, nothing)).all()


@pytest.mark.parametrize(
    ("losses", "before"),
    [
        ([0.02, 0.02, 0.69], [0.03, 0.69, 0.69]),
        ([0.05, 0.05, 0.69, 0.69, 0.69], [0.06, 0.4, 0.69, 0.69, 0.69]),
        ([1e-9, 1e-9, 5.0, 5.0], [1e-9, 5.0, 5.0, 5.0]),
        ([0.5, 0.6, 0.6], [0.5, 0.6, 0.6]),
    ],
)
def test_no_gate_is_below_its_floor_and_their_mean_is_one(losses, before):
    gates = modality_gates(torch.tensor(losses, dtype=torch.float64), torch.tensor(before, dtype=torch.float64))
    assert bool((gates >= 0.1).all())
    assert gates.mean().item() == pytest.approx(1, abs=1e-12)
    if len(set(losses[1:])) == 1:
        assert gates.tolist() == pytest.approx([1.0, 1.0], abs=1e-12)


def test_gates_follow_the_losses_of_the_last_two_epochs(make_data):
    data = make_data(modalities=3)
    objective = model(DynamicCurriculum, data, samples=False)
    batch = one_batch(data, 0)
    losses = []
    for scale in (1.0, 0.5):
        with torch.no_grad():
            for p in objective.student.parameters():
                p.mul_(scale)
        objective.loss(*doubled(data), batch)
        shown = objective.epoch_statistics()
        assert [shown[f"gate/{m}"] for m in data.modalities] == [1.0, 1.0, 1.0]  # Those of the finished epoch.
        views = [None, *([m] for m in data.modalities)]
        margins = [objective.student(*doubled(data), view).margin(*batch[:3]) for view in views]
        losses.append(torch.stack([torch.nn.functional.softplus(-x).mean() for x in margins]).detach().double())
    assert objective.gates.tolist() == pytest.approx(modality_gates(losses[1], losses[0]).tolist(), abs=1e-6)
    assert float(objective.sums.sum()) == 0.0


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (DifficultyCurriculum, {"temperature": 0.0}, "temperature: found 0.0, expected a positive number, or infinity"),
        (DifficultyCurriculum, {"stages": []}, "stages: found none, expected at least one of easy, medium, hard"),
        (DifficultyCurriculum, {"stages": "esay"}, "unknown stage 'esay': did you mean 'easy'"),
        (DifficultyCurriculum, {"patience": 0}, "patience: found 0"),
        (DifficultyCurriculum, {"never_right": 0.6}, "never_right: found 0.6, expected an accuracy from 0 to 0.5"),
        (DynamicCurriculum, {"gate_weight": -1.0}, "gate_weight: found -1.0, expected a number of zero or more"),
        (DynamicCurriculum, {"pace_epochs": 0}, "pace_epochs: found 0"),
    ],
)
def test_options_that_cannot_be_are_refused(cls, options, message, make_data):
    with pytest.raises(InputError, match=message):
        model(cls, make_data(), **options)
