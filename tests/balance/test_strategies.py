"""What every strategy must do, over all that the library finds by itself."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd import Objective, Trainer, estimate_effects, evaluate
from pyg_ckd.balance.discovery import build_objective, options_of, reports_of, strategies
from pyg_ckd.data import TripletSampler
from pyg_ckd.data.inputs import RATES, unpack
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR, Backbone, EarlyFusionLightGCN
from pyg_ckd.scoring import Embeddings
from pyg_ckd.training import seeded
from pyg_ckd.training.checkpoint import load_checkpoint
from tests.nn.models.zoo import adapted
from tests.training.test_seam import Reads

STRATEGIES = {name: cls for name, cls in strategies().items() if name != "plain"}
every_strategy = pytest.mark.parametrize("cls", STRATEGIES.values(), ids=STRATEGIES.keys())
BACKBONES: dict[str, Callable[[HeteroData], Backbone]] = {
    "late": lambda data: VBPR.from_data(data, embedding_dim=4),
    "early": lambda data: EarlyFusionLightGCN.from_data(data, embedding_dim=4),
    "adapted": adapted,
}
every_kind = pytest.mark.parametrize("make", BACKBONES.values(), ids=BACKBONES.keys())
NEUTRAL = {name: cls.neutral for name, cls in STRATEGIES.items() if cls.trains}


def teachers_of(data: HeteroData, seed: int = 0) -> dict[str, Embeddings]:
    """Return random teachers that depend on the name of the modality alone."""
    sizes = data["user"].num_nodes, data["item"].num_nodes
    found = {}
    for m in data.modalities:
        generator = torch.Generator().manual_seed(seed + sum(map(ord, m)))
        found[m] = Embeddings(*(torch.randn(size, 3, generator=generator) for size in sizes))
    return found


def objective_of(
    cls: type[Objective], data: HeteroData, make: Callable[[HeteroData], Backbone] = BACKBONES["late"], **options: Any
) -> Objective:
    with seeded(0):
        student = make(data)
    return build_objective(cls, student, data, teachers_of(data), options)


def fit(objective: Objective, data: HeteroData, **options: Any) -> Any:
    defaults = {"max_epochs": 3, "batch_size": 8, "lr": 0.01, "monitor": "recall@5", "device": "cpu", "progress": False}
    return Trainer(**(defaults | options)).fit(objective, data)


def numbers(values: Any) -> Tensor:
    return torch.tensor([float(v) for v in values], dtype=torch.float64)


@every_strategy
def test_a_single_modality_is_refused(cls, make_data):
    with pytest.raises(InputError, match="expected at least two"):
        objective_of(cls, make_data(modalities=1))


WRONG: dict[str, list[Any]] = {
    "int": [2.5, float("nan"), float("inf"), "x", [1], -1],
    "float": ["x", [0.5], float("nan"), -1.0],
    "bool": ["maybe", 2, [True]],
    "str": [1, ["x"], "no such value"],
}
"""Values that no option of an annotated type can have."""


@every_strategy
def test_an_option_of_another_type_or_out_of_range_is_refused_by_name(cls, make_data):
    data = make_data()
    for name, parameter in options_of(cls).items():
        kind = str(parameter.annotation).partition(" | ")[0]
        for value in WRONG.get(kind, []):
            with pytest.raises(InputError) as caught:
                objective_of(cls, data, **{name: value})
            assert str(caught.value).startswith((f"{name}: found", f"unknown {name}", "unknown strategy"))


@every_kind
@pytest.mark.parametrize("modalities", [2, 3, 5])
@every_strategy
def test_trains_and_ranks_with_any_number_of_modalities(cls, modalities, make, make_data):
    data = make_data(modalities=modalities)
    objective = objective_of(cls, data, make)
    history = fit(objective, data)
    assert torch.isfinite(numbers(v for row in history.rows for v in row.values())).all()
    assert 0 <= evaluate(objective, data, split="test", k=[5])["recall@5"] <= 1
    assert set(estimate_effects(objective, data, k=5, num_bootstrap=10).table.index) == set(data.modalities)


@every_strategy
def test_goes_on_after_a_break_with_the_same_bits(cls, make_data, tmp_path):
    data = make_data(modalities=3)
    whole = objective_of(cls, data)
    expected = fit(whole, data, max_epochs=4)
    broken = objective_of(cls, data)
    fit(broken, data, max_epochs=2, checkpoint_dir=tmp_path)
    resumed = objective_of(cls, data)
    history = fit(resumed, data, max_epochs=4, checkpoint_dir=tmp_path)
    assert history.rows == expected.rows
    assert not cls.trains or load_checkpoint(tmp_path / "last.pt", "run")
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0, equal_nan=True, msg=name)


@every_strategy
def test_what_a_strategy_records_is_explained_to_readers_of_a_report(cls, make_data):
    data = make_data(modalities=3)
    objective = objective_of(cls, data, **({"pretrain_epochs": 1} if cls.name == "mi-balance" else {}))
    history = fit(objective, data, max_epochs=2)
    kinds = {name.partition("/")[0] for row in history.rows for name in row} - {"epoch", "loss", "val"}
    assert kinds <= set(reports_of(cls))
    assert all(text and text.strip() == text and not text.endswith(".") for text in cls.reports.values())


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name in NEUTRAL])
@every_kind
def test_with_neutral_settings_training_is_plain(name, make, make_data):
    data = make_data(modalities=3)
    neutral = objective_of(STRATEGIES[name], data, make, **NEUTRAL[name])
    with seeded(0):
        plain = Objective(make(data))
    # Early fusion propagates all views in one product, and for the rows alone that are read: how a processor rounds
    # depends on its width and on whether a strategy reads further rows.
    same_shapes = make is not BACKBONES["early"] or (len(neutral.views) == 1 and name != "incremental")
    tolerance = 0.0 if same_shapes else 1e-5
    rows = [fit(objective, data).rows for objective in (neutral, plain)]
    for mine, theirs in zip(*rows, strict=True):
        for key, value in theirs.items():
            assert mine[key] == pytest.approx(value, rel=0, abs=tolerance), key
    for parameter, value in plain.student.state_dict().items():
        torch.testing.assert_close(neutral.student.state_dict()[parameter], value, rtol=0, atol=tolerance)


HOOKS = (
    *("views", "ranked", "balance", "triple_weights", "backward", "step_sizes", "begin_from"),
    *("before_training", "before_validation", "forward_views", "further_views", "weigh", "add_terms"),
)


@every_strategy
def test_every_docstring_says_which_hooks_the_strategy_overrides_and_what_it_costs(cls):
    own = [hook for hook in HOOKS if hook in cls.__dict__]
    assert not [hook for hook in own if f"``{hook}``" not in cls.__doc__]
    assert "Costs" in cls.__doc__ or "costs" in cls.__doc__
    assert ".. math::" in cls.__doc__ or ":math:`" in cls.__doc__


@every_strategy
def test_every_strategy_that_trains_says_with_which_options_it_is_plain(cls):
    assert bool(cls.__dict__.get("neutral")) == cls.trains
    assert cls.neutral.keys() <= options_of(cls).keys()


@every_strategy
def test_what_a_strategy_recommends_is_another_value_of_a_knob_that_a_search_could_find(cls):
    for name, value in cls.recommended.items():
        low, high = cls.search_space[name]
        assert low <= value <= high
        assert value != options_of(cls)[name].default


@every_strategy
def test_the_order_of_modalities_permutes_the_result_only(cls, make_data):
    data = make_data(modalities=["visual", "textual", "acoustic"])
    rows = []
    for names in (["visual", "textual", "acoustic"], ["acoustic", "visual", "textual"]):
        other = data.clone()
        other.modalities = names
        objective = objective_of(cls, other, lambda data: _by_name(data))
        fit_history = fit(objective, other, max_epochs=1, batch_size=64) if cls.name != "modality-dropout" else None
        tables = objective.forward_views(*unpack(other), ["visual", "textual", "acoustic"])
        rows.append([table.user @ table.item.t() for table in tables])
        assert fit_history is None or len(fit_history.rows) == 1
    for one, two in zip(*rows, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=2e-4)


def _by_name(data: HeteroData) -> VBPR:
    """Return a model whose parameters depend on names, not on the order of modalities."""
    model = VBPR.from_data(data, embedding_dim=4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(sum(map(ord, name)))
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@every_strategy
def test_identical_and_constant_modalities_give_finite_numbers(cls, make_data):
    data = make_data(modalities=3)
    data["item"]["mod1"] = torch.zeros_like(data["item"]["mod1"])
    data["item"]["mod2"] = data["item"]["mod0"].clone()
    objective = objective_of(cls, data)
    history = fit(objective, data)
    assert torch.isfinite(numbers(v for row in history.rows for v in row.values())).all()
    assert all(bool(torch.isfinite(p).all()) for p in objective.parameters())


@every_strategy
def test_works_where_not_every_epoch_is_validated_and_in_mixed_precision(cls, make_data):
    data = make_data(modalities=2)
    history = fit(objective_of(cls, data), data, eval_every=2, max_epochs=4)
    validated = [row["epoch"] for row in history.rows if "val/recall@5" in row]
    assert validated == ([1] if not cls.trains else [2, 4])
    assert fit(objective_of(cls, data), data, precision="bf16-mixed").rows


@every_strategy
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_works_after_all_numbers_were_given_another_precision(cls, dtype, make_data):
    data = make_data(modalities=2)
    objective = objective_of(cls, data).to(dtype)
    assert fit(objective, data, max_epochs=2, batch_size=200).rows
    assert next(objective.student.parameters()).dtype == dtype


@every_strategy
def test_works_with_sparse_gradients(cls, make_data):
    data = make_data(modalities=2)
    objective = objective_of(cls, data, lambda data: VBPR.from_data(data, embedding_dim=4, sparse=True))
    dense = objective_of(cls, data)
    loss = [fit(o, data, max_epochs=1, batch_size=200).rows[0] for o in (objective, dense)]
    for key, value in loss[0].items():
        assert value == pytest.approx(loss[1][key], abs=1e-5), key


MODULATION = {"reinforced"}
"""Terms with a value of zero that scale the gradient of the joint loss, in which all items are."""


def gradients_of(loss: Tensor, objective: Objective) -> dict[str, Tensor]:
    """Return the gradient of every parameter that a loss reaches."""
    named = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return {name: x for name, x in zip(named, found, strict=True) if x is not None}


@every_strategy
def test_what_items_lack_does_not_enter_the_terms_of_a_strategy(cls, make_data):
    data = make_data(modalities=3)
    lacking = torch.tensor([1, 4, 6, 7])
    data["item"].has_mod1 = ~torch.isin(torch.arange(9), lacking)
    features, graph = unpack(data)
    swapped = features["mod1"].clone()
    swapped[lacking] = features["mod1"][lacking.flip(0)]  # Their mean, which interventions use, stays.
    sampler = TripletSampler(data[RATES].edge_index, 12, 9, batch_size=30, num_random_triples=50, seed=1)
    batch = next(iter(sampler))
    terms, joint, gradients = [], [], []
    for x in (features["mod1"], swapped):
        objective = objective_of(cls, data)
        with torch.no_grad():
            for parameter in objective.student.parameters():
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
        with seeded(0):  # Some draw their views.
            terms.append(objective.loss({**features, "mod1": x}, graph, batch))
        joint.append(Objective(objective.student).loss({**features, "mod1": x}, graph, batch))
        own = terms[-1].keys() - joint[-1].keys() - MODULATION
        further = [terms[-1][name] for name in own if terms[-1][name].requires_grad]
        gradients.append(gradients_of(sum(further), objective) if further else {})
    assert joint[0]["bpr"].item() != pytest.approx(joint[1]["bpr"].item(), abs=1e-6)
    for name in terms[0].keys() - joint[0].keys():
        assert terms[0][name].item() == pytest.approx(terms[1][name].item(), abs=1e-6), name
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)


@every_strategy
def test_weights_of_a_sampler_reach_the_main_loss_of_every_strategy(cls, make_data):
    data = make_data(modalities=2)
    features, graph = unpack(data)
    sampler = TripletSampler(data[RATES].edge_index, 12, 9, batch_size=30, num_random_triples=5, seed=1)
    batch = next(iter(sampler))
    losses = []
    for weight in (torch.ones(batch.user.numel()), torch.full((batch.user.numel(),), 0.5)):
        objective = objective_of(cls, data)
        with seeded(0):  # Some draw their views.
            losses.append(objective.loss(features, graph, batch.weighted(weight))["bpr"].item())
    assert losses[1] == pytest.approx(losses[0] / 2, abs=1e-6)


@every_strategy
def test_own_parameters_with_a_row_for_every_user_or_item_say_so(cls, make_data):
    data = make_data(num_users=23, num_items=17)
    objective = objective_of(cls, data)
    objective.prepare(*unpack(data))
    own = {name: p for name, p in objective.named_parameters() if not name.startswith(("student.", "inner."))}
    for name, parameter in own.items():
        kind = {23: "user", 17: "item"}.get(parameter.size(0))
        assert kind is None or objective.own_rows[name.partition(".")[0]] == kind, name


RANKED = {
    "arl": "weight",
    "arm": "weight",
    "cml": "view_weight",
    "elimrec": "weight",
    "g-blending": "weight",
    "mbsd": "alone_weight",
    "mi-balance": "weight",  # In its second stage.
    "mmpareto": "weight",
    "multitask": "weight",
    "samm": "weight",
}
"""Strategies with BPR losses of further views, and the option that is their weight."""


@pytest.mark.parametrize("name", RANKED)
@every_kind
def test_every_ranking_loss_brings_the_penalty_of_its_view(name, make, make_data):
    data = make_data(modalities=3)
    features, graph = unpack(data)
    batch = next(iter(TripletSampler(data[RATES].edge_index, 12, 9, batch_size=30, num_random_triples=5, seed=1)))
    with seeded(0):
        student = make(data)
    more = {"mi-balance": {"teachers": None, "pretrain_epochs": 0}}.get(name, {})
    objective = STRATEGIES[name](student, l2=0.2, **{RANKED[name]: 0.3}, **more)
    views = [{m} if name != "cml" else set(data.modalities) - {m} for m in data.modalities]
    found = objective.loss(features, graph, batch)["l2"].item()
    outputs = student.outputs(features, graph, [frozenset(data.modalities), *map(frozenset, views)])
    joint, *others = (student.penalty(out, batch).item() for out in outputs)
    assert found == pytest.approx(0.2 * (joint + 0.3 * sum(others)), rel=1e-5)


@every_strategy
def test_a_step_reads_no_number_from_the_device(cls, make_data):
    if not cls.trains:
        pytest.skip("nothing is trained")
    data, reads, found = make_data(modalities=3), Reads(), []
    data["item"].has_mod1 = torch.arange(9) > 0

    class Watch:
        def on_train_batch_start(self, epoch, batch_idx):
            if (epoch, batch_idx) in ((1, 1), (2, 0)):  # What is looked at once, in the first step, may be read.
                reads.__enter__()

        def on_train_batch_end(self, epoch, batch_idx):
            if (epoch, batch_idx) in ((1, 2), (2, 2)):
                reads.__exit__(None, None, None)
                found.append([names for names in reads.found if "views" not in names])  # These are drawn on the CPU.

    fit(objective_of(cls, data), data, max_epochs=2, callbacks=Watch())
    assert found == [[], []]


@pytest.mark.parametrize("cls", strategies().values(), ids=strategies().keys())
def test_every_strategy_says_itself_what_it_needs_whole(cls):
    assert "needs_whole" in cls.__dict__
    assert cls.needs_whole != "the batch"  # What is taken of one that does not say.


@pytest.mark.parametrize("hook", ["balance", "backward", "observe", "weigh"])
def test_a_strategy_that_does_not_say_what_it_needs_whole_needs_the_batch(hook):
    for base in (Objective, strategies()["arl"], strategies()["odsw"]):
        assert type("Own", (base,), {hook: lambda self, *given: None}).needs_whole == "the batch"
        assert type("Own", (base,), {hook: lambda self, *given: None, "needs_whole": "it"}).needs_whole == "it"
        assert type("Own", (base,), {"helper": lambda self: None}).needs_whole == base.needs_whole


def test_the_table_of_strategies_says_what_several_processes_cannot_share_out():
    text = (Path(__file__).parents[2] / "docs" / "strategies" / "README.md").read_text(encoding="utf-8")
    head, _, *rows = (line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| "))
    column = head.index("several processes")
    said = {row[0].strip("`"): row[column] for row in rows if len(row) == len(head)}
    assert said == {name: cls.needs_whole or "yes" for name, cls in STRATEGIES.items()}


@pytest.mark.parametrize(
    ("name", "options", "whole"),
    [
        ("lfm", {"rate": 0.0}, ""),
        ("lfm", {}, "the gradients of single terms"),
        ("ogm-ge", {"noise": 0.0}, ""),
        ("udi", {"consistency": "contrast"}, "the scores of a batch's users"),
        ("odsw", {"inner": "amss"}, "the gradients of a batch"),
        ("dyncim", {"inner": "odsw", "inner_options": {"inner": "greedy"}}, "the gradients of a batch"),
        ("odsw", {"inner": "ckd"}, ""),
    ],
)
def test_options_and_what_is_inside_decide_what_is_needed_whole(name, options, whole, make_data):
    assert objective_of(STRATEGIES[name], make_data(), **options).needs_whole == whole


@every_strategy
def test_can_be_copied_and_pickled_after_a_training(cls, make_data):
    data = make_data()
    objective = objective_of(cls, data)
    fit(objective, data, max_epochs=1)
    state = objective.state_dict()
    for again in (copy.deepcopy(objective), pickle.loads(pickle.dumps(objective))):
        torch.testing.assert_close(again.state_dict(), state, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("name", [name for name, cls in STRATEGIES.items() if cls.needs_teachers])
def test_teachers_may_have_any_floating_point_type_and_are_told_apart(name, dtype, make_data):
    data, digests = make_data(), set()
    for seed in (0, 1):
        teachers = {m: Embeddings(*(x.to(dtype) for x in own)) for m, own in teachers_of(data, seed).items()}
        with seeded(0):
            student = BACKBONES["late"](data)
        objective = build_objective(STRATEGIES[name], student, data, teachers, {})
        digests.add(objective.settings()["teachers"])
        fit(objective, data, max_epochs=1)
    assert len(digests) == 2
