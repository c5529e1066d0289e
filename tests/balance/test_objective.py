"""Plain joint training: the objective that every strategy starts from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pyg_ckd.balance import DistillationWrapper, Objective, as_objective
from pyg_ckd.balance.curriculum import DifficultyCurriculum
from pyg_ckd.balance.pareto import MMPareto
from pyg_ckd.balance.ranking import with_softmax
from pyg_ckd.balance.wrapper import ObjectiveWrapper
from pyg_ckd.data.negatives import SharedNegatives
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR, AdaptedBackbone, as_backbone
from tests.balance.test_ckd import random_teachers
from tests.nn.models.zoo import BACKBONES, Toy, built, doubled

TRIPLES = [(0, 1, 2), (3, 0, 4), (3, 0, 4)]
NOTHING = torch.zeros(0, dtype=torch.int64)
BATCH = TripletBatch(*torch.tensor(TRIPLES).t(), NOTHING, NOTHING, NOTHING)


def student(data) -> VBPR:
    return built(lambda data: VBPR.from_data(data, embedding_dim=4), data)


@pytest.mark.parametrize("view", [None, "mod1"])
@pytest.mark.parametrize("eps", [0.0, 1e-10])
def test_loss_is_bpr_on_the_trained_view_plus_the_weighted_penalty(view, eps, make_data):
    data = make_data()
    model = student(data)
    terms = Objective(model, l2=0.2, view=view, bpr_eps=eps).loss(*doubled(data), BATCH)
    out = model(*doubled(data), view)
    score = (out.user @ out.item.t()).tolist()
    bpr = -sum(math.log(eps + 1 / (1 + math.exp(score[u][j] - score[u][i]))) for u, i, j in TRIPLES) / 3
    squares = sum(out.user[u].square().sum() + out.item[[i, j]].square().sum() for u, i, j in TRIPLES)
    assert terms["bpr"].item() == pytest.approx(bpr, abs=1e-10)
    assert terms["l2"].item() == pytest.approx(0.2 * 0.5 * squares.item() / 3)
    assert terms.keys() == {"bpr", "l2"}


def test_penalty_of_weight_zero_is_left_out(make_data):
    data = make_data()
    assert Objective(student(data), l2=0.0).loss(*doubled(data), BATCH).keys() == {"bpr"}


def test_strategy_needs_to_override_one_method_only(make_data):
    class Margin(Objective):
        """Asks for larger margins."""

        def balance(self, out, batch):
            return {"margin": -out[self.view].margin(batch.user, batch.positive, batch.negative).mean()}

    data = make_data()
    objective = Margin(student(data))
    terms = objective.loss(*doubled(data), BATCH)
    expected = objective(*doubled(data)).margin(*BATCH[:3]).mean()
    assert terms["margin"].item() == pytest.approx(-expected.item())
    assert objective.settings()["objective"] == "Margin"


def test_objective_answers_like_its_student(make_data):
    data = make_data()
    model = student(data)
    objective = Objective(model)
    assert torch.equal(torch.cat(objective(*doubled(data), "mod0")), torch.cat(model(*doubled(data), "mod0")))
    assert objective.modalities == model.modalities
    assert objective.num_random_triples == 0
    assert objective.epoch_statistics() == {}


@pytest.mark.parametrize("options", [{"l2": 0.5}, {"view": "mod0"}, {"bpr_eps": 1e-10}], ids=str)
def test_settings_tell_apart_objectives_with_other_arguments(options, make_data):
    model = student(make_data())
    assert Objective(model).settings() == Objective(model).settings()
    assert Objective(model).settings() != Objective(model, **options).settings()


def test_any_module_becomes_an_objective_and_objectives_stay(make_data):
    data = make_data()
    model = student(data)
    assert as_objective(model, data).student is model
    wrapper = DistillationWrapper(model, None)
    assert as_objective(wrapper, data) is wrapper
    toy = Toy(12, {m: data["item"][m].size(1) for m in data.modalities})
    adapted = as_objective(toy, data).student
    assert isinstance(adapted, AdaptedBackbone)
    assert adapted.module is toy


def test_bad_arguments_are_refused(make_data):
    model = student(make_data())
    with pytest.raises(InputError, match="found Linear, expected a backbone"):
        Objective(nn.Linear(1, 1))
    for l2 in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"l2: found {l2}"):
            Objective(model, l2=l2)
    with pytest.raises(InputError, match="unknown modality 'mod9'"):
        Objective(model, view="mod9")


def weighted(data, weights, **options):
    class Weighted(Objective):
        """Weighs triples."""

        def triple_weights(self, out, batch):
            return weights

    return Weighted(student(data), l2=0.0, **options)


@pytest.mark.parametrize("eps", [0.0, 1e-10])
def test_weights_of_triples_weigh_their_terms_of_the_main_loss(eps, make_data):
    data = make_data()
    weights = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
    objective = weighted(data, weights, bpr_eps=eps)
    terms = objective.loss(*doubled(data), BATCH)
    margin = objective(*doubled(data)).margin(*BATCH[:3])
    expected = sum(w * -math.log(eps + 1 / (1 + math.exp(-m))) for w, m in zip(weights, margin.tolist(), strict=True))
    assert terms["bpr"].item() == pytest.approx(expected.item() / 3, abs=1e-10)
    objective.check_epoch()


def test_weights_of_triples_carry_no_gradient(make_data):
    data = make_data()
    given = torch.ones(3, dtype=torch.float64, requires_grad=True)
    weighted(data, given * 2).loss(*doubled(data), BATCH)["bpr"].backward()
    assert given.grad is None


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_weights_of_triples_that_are_negative_or_not_finite_are_refused_after_the_epoch(value, make_data):
    data = make_data()
    objective = weighted(data, torch.tensor([1.0, value, 1.0], dtype=torch.float64))
    objective.loss(*doubled(data), BATCH)
    with pytest.raises(InputError, match=r"Weighted.triple_weights: found negative, infinite or NaN weights"):
        objective.check_epoch()
    objective.check_epoch()  # Said once.


def test_weights_of_triples_of_another_size_or_kind_are_refused(make_data):
    data = make_data()
    with pytest.raises(InputError, match=r"Weighted.triple_weights: found shape \[2\], expected \[3\]"):
        weighted(data, torch.ones(2)).loss(*doubled(data), BATCH)
    with pytest.raises(InputError, match=r"Weighted.triple_weights: found torch.int64, expected floating-point"):
        weighted(data, torch.ones(3, dtype=torch.int64)).loss(*doubled(data), BATCH)


def test_a_term_that_the_main_loss_has_is_refused(make_data):
    class Double(Objective):
        """Names its term as the main loss does."""

        def balance(self, out, batch):
            return {"bpr": out[self.view].margin(*batch[:3]).mean()}

    data = make_data()
    with pytest.raises(InputError, match=r"Double\.balance: found a term named 'bpr'"):
        Double(student(data)).loss(*doubled(data), BATCH)


def test_the_default_backward_is_that_of_the_sum_of_all_terms(make_data):
    data = make_data()
    one, two = Objective(student(data), l2=0.3), Objective(student(data), l2=0.3)
    one.backward(one.loss(*doubled(data), BATCH), lambda loss: loss.backward())
    sum(two.loss(*doubled(data), BATCH).values()).backward()
    for mine, theirs in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-6, atol=1e-8)


def test_views_may_differ_from_step_to_step_and_be_empty(make_data):
    class Rotating(Objective):
        """Trains another view in every step, and asks for the id part."""

        step = 0

        @property
        def views(self):
            self.step += 1
            return [frozenset([self.modalities[self.step % 2]]), frozenset()]

        def balance(self, out, batch):
            return {"ids": out[frozenset()].margin(*batch[:3]).square().mean()}

    data = make_data()
    objective = Rotating(student(data), l2=0.0)
    for view in ("mod1", "mod0"):
        terms = objective.loss(*doubled(data), BATCH)
        margin, ids = (objective(*doubled(data), v).margin(*BATCH[:3]) for v in (view, []))
        assert terms["bpr"].item() == pytest.approx(nn.functional.softplus(-margin).mean().item(), abs=1e-10)
        assert terms["ids"].item() == pytest.approx(ids.square().mean().item(), abs=1e-10)


def test_weights_of_the_sampler_are_checked_and_multiply_those_of_the_strategy(make_data):
    data = make_data()
    own = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    drawn = torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64)
    both = weighted(data, own).loss(*doubled(data), BATCH.weighted(drawn))["bpr"]
    assert both.item() == pytest.approx(
        weighted(data, own * drawn).loss(*doubled(data), BATCH)["bpr"].item(), abs=1e-12
    )
    with pytest.raises(InputError, match=r"the sampler: found shape \[3, 1\], expected \[3\]"):
        Objective(student(data)).loss(*doubled(data), BATCH.weighted(drawn.unsqueeze(-1)))
    with pytest.raises(InputError, match=r"Weighted\.triple_weights: found list, expected a tensor"):
        weighted(data, [1.0, 1.0, 1.0]).loss(*doubled(data), BATCH)
    objective = Objective(student(data))
    objective.loss(*doubled(data), BATCH.weighted(-drawn))
    with pytest.raises(InputError, match="negative, infinite or NaN weights"):
        objective.check_epoch()
    objective.loss(*doubled(data), BATCH.weighted(-drawn))
    objective.begin_fit()  # A training begins.
    objective.check_epoch()


@pytest.mark.parametrize("name", ["VBPR", "VBPR sum", "EarlyFusionLightGCN", "MGCN", "adapted"])
@pytest.mark.parametrize("count", [None, 4])
def test_a_softmax_takes_the_place_of_bpr_and_leaves_all_other_terms(name, count, make_data):
    data = make_data()
    objective = Objective(built(BACKBONES[name], data), l2=0.1, view="mod1")
    batch = BATCH.weighted(torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64))
    objective.triple_weights = lambda out, batch: torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    torch.manual_seed(1)
    terms = objective.loss(*doubled(data), batch)
    objective.shared_negatives = SharedNegatives(count)
    torch.manual_seed(1)
    found = objective.loss(*doubled(data), batch)
    torch.manual_seed(1)
    user, item = objective(*doubled(data), "mod1")
    drawn = list(range(item.size(0))) if count is None else torch.randint(item.size(0), (count,)).tolist()
    expected = 0.0
    for weight, (u, i, _) in zip((0.5, 4.0, 3.0), TRIPLES, strict=True):
        scores = [(user[u] @ item[j]).item() for j in [i, *(j for j in drawn if j != i)]]
        expected += weight / 3 * (math.log(sum(map(math.exp, scores))) - scores[0])
    assert found.pop("softmax").item() == pytest.approx(expected, abs=1e-9)
    terms.pop("bpr")
    assert found.keys() == terms.keys()
    for term in terms:
        assert found[term].item() == pytest.approx(terms[term].item(), abs=1e-12)


def test_the_softmax_of_a_subgraph_is_over_its_items_by_their_own_numbers(make_data):
    data = make_data()
    features, _ = doubled(data)
    model = student(data)
    n_id_dict = {"user": torch.tensor([4, 0, 3]), "item": torch.tensor([5, 1, 7, 2])}
    nothing = {("user", "rates", "item"): torch.zeros(2, 0, dtype=torch.int64)}
    out = model.outputs(features, nothing, [None], n_id_dict)[0]
    batch = TripletBatch(*torch.tensor([(0, 1, 2), (2, 3, 0)]).t(), NOTHING, NOTHING, NOTHING)
    weight = torch.arange(1.0, data["item"].num_nodes + 1, dtype=torch.float64)
    shared = SharedNegatives(3, weight)
    torch.manual_seed(0)
    found = with_softmax({"bpr": torch.zeros(())}, out, batch, shared, "model")["softmax"]
    torch.manual_seed(0)
    drawn, _ = shared.draw(4, torch.device("cpu"), n_id_dict["item"])
    user, item = (table[n_id_dict[kind]] for table, kind in zip(model(*doubled(data)), ("user", "item"), strict=True))
    of = weight[n_id_dict["item"]]
    expected = 0.0
    for u, i in ((0, 1), (2, 3)):
        others = [(user[u] @ item[j]).item() - math.log(of[j] / of.mean()) for j in drawn.tolist() if j != i]
        own = (user[u] @ item[i]).item()
        expected += (math.log(sum(map(math.exp, [own, *others]))) - own) / 2
    assert found.item() == pytest.approx(expected, abs=1e-9)


def step(cls, data, around=None):
    objective = cls(built(BACKBONES["VBPR"], data))
    objective = objective if around is None else around(objective)
    return objective.loss(*doubled(data), BATCH)


VISUAL = frozenset(["mod0"])


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ([], r"Mine.views: found no view, expected at least one, the trained one first; return \[self.view\]"),
        ([["mod0"]], r"Mine.views: found \['mod0'\] for a view, expected a frozenset .* write frozenset\(\['mod0'\]\)"),
        ([VISUAL, {"mod1"}], r"Mine.views: found \{'mod1'\} for a view, expected a frozenset of modalities"),
        ("mod0", r"Mine.views: found 'mod0', expected a list of views, such as \[self.view\]"),
        (VISUAL, r"Mine.views: found \{mod0\}, expected a list of views"),
        (None, r"Mine.views: found None, expected a list of views"),
        ([frozenset(["mod7"])], r"Mine.views: unknown modality 'mod7': did you mean .*mod0"),
        ([VISUAL, 3], r"Mine.views: view: found 3, expected names of modalities"),
    ],
)
def test_views_that_cannot_be_are_refused_by_the_name_of_the_strategy(views, message, make_data):
    Mine = type("Mine", (Objective,), {"views": property(lambda self: views)})
    with pytest.raises(InputError, match=message):
        step(Mine, make_data())


def test_views_that_are_no_property_are_refused(make_data):
    Mine = type("Mine", (Objective,), {"views": lambda self: [self.view]})
    with pytest.raises(InputError, match=r"Mine.views: found a method, expected a property; write @property above it"):
        step(Mine, make_data())


def test_views_of_a_wrapper_are_refused_by_its_name(make_data):
    Around = type("Around", (ObjectiveWrapper,), {"further_views": lambda self: [["mod0"]]})
    with pytest.raises(InputError, match=r"Around.further_views: found \['mod0'\] for a view"):
        step(Objective, make_data(), Around)


def test_an_output_that_was_not_asked_for_is_named(make_data):
    class Mine(Objective):
        def balance(self, out, batch):
            assert out.get(VISUAL) is None
            return {"own": out[VISUAL].margin(*batch[:3]).mean()}

    class Around(ObjectiveWrapper):
        def weigh(self, out, batch):
            return out[frozenset()].margin(*batch[:3])

    message = (
        r"Mine: found no output of the view {mod0} in this step, expected one of {mod0, mod1}; add it to Mine.views"
    )
    with pytest.raises(InputError, match=message):
        step(Mine, make_data())
    with pytest.raises(InputError, match=r"Around: found no output of the view {} .* add it to Around.further_views"):
        step(Objective, make_data(), Around)


@pytest.mark.parametrize("kind", [dict.fromkeys, lambda views: dict.fromkeys(views).keys(), tuple, iter])
def test_views_may_be_given_in_anything_that_has_an_order(kind, make_data):
    Mine = type("Mine", (Objective,), {"views": property(lambda self: kind([self.view, VISUAL]))})
    assert step(Mine, make_data()).keys() == step(Objective, make_data()).keys()


def test_outputs_are_a_plain_dict_and_other_missing_keys_stay_what_they_are(make_data):
    class Mine(Objective):
        def balance(self, out, batch):
            assert type(out) is dict
            return {}["own"]

    with pytest.raises(KeyError, match="own"):
        step(Mine, make_data())


def test_a_strategy_in_the_place_of_a_backbone_is_refused_with_its_student(make_data):
    data = make_data()
    for found in (Objective(student(data)), MMPareto(student(data)), DifficultyCurriculum(MMPareto(student(data)))):
        kind = type(found).__name__
        message = (
            rf"student: found the strategy {kind} in DistillationWrapper, expected its backbone; .*: dyncim and odsw"
        )
        with pytest.raises(InputError, match=message):
            DistillationWrapper(found, random_teachers(found.student))
        with pytest.raises(InputError, match=rf"model: found {kind}, which trains a backbone, .* pass its .student"):
            as_backbone(found, data)
    assert DistillationWrapper(found.student, random_teachers(found.student))
