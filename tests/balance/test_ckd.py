"""The distillation objective against its definition, worked out triple by triple."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_ckd.balance import DistillationWrapper
from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.sampler import TripletBatch, TripletSampler
from pyg_ckd.errors import InputError
from pyg_ckd.nn import MMGCN, VBPR, Backbone, EarlyFusionLightGCN
from pyg_ckd.scoring.embeddings import Embeddings
from tests.nn.models.zoo import built, doubled, every_multimodal_backbone

KAPPA, GENERIC, TAU, L2 = 0.3, 2.0, 0.7, 0.05
BACKBONES = {
    "VBPR": lambda data: VBPR.from_data(data, embedding_dim=4),
    "MMGCN": lambda data: MMGCN.from_data(data, embedding_dim=4, num_layers=2, latent_dims=4),
    "EarlyFusionLightGCN": lambda data: EarlyFusionLightGCN.from_data(data, embedding_dim=4),
}


def random_teachers(model: Backbone, scale: float = 1.0) -> dict[str, Embeddings]:
    generator = torch.Generator().manual_seed(11)
    sizes = (model.num_users, model.num_items)
    return {
        m: Embeddings(*(scale * torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in sizes))
        for m in model.modalities
    }


def one_batch(data, num_random_triples: int) -> TripletBatch:
    sampler = TripletSampler(
        data[RATES].edge_index, 12, 9, batch_size=20, num_random_triples=num_random_triples, seed=5
    )
    return next(iter(sampler))


def score(out: Embeddings, user: int, item: int) -> Tensor:
    return (out.user[user] * out.item[item]).sum()


def margin(out: Embeddings, user: int, first: int, second: int) -> Tensor:
    return score(out, user, first) - score(out, user, second)


def by_hand(
    model: Backbone, teachers, features, graph, batch: TripletBatch, specific: bool, generic: bool, reweight: bool
) -> dict[str, Tensor]:
    """Follow section 2 of the design, one triple and one modality at a time."""
    names = model.modalities
    full = model(features, graph)
    alone = {m: model(features, graph, [m]) for m in names}
    without = {m: model(features, graph, [n for n in names if n != m]) for m in names}
    triples = list(zip(*(x.tolist() for x in batch[:3]), strict=True))
    randoms = list(zip(*(x.tolist() for x in batch[3:]), strict=True))
    generic_loss = {}
    for m in names if teachers and generic else ():
        losses = []
        for triple in randoms:
            s, a = margin(alone[m], *triple) / TAU, torch.sigmoid(margin(teachers[m], *triple) / TAU)
            losses.append(-(a * torch.log(torch.sigmoid(s)) + (1 - a) * torch.log(torch.sigmoid(-s))))
        generic_loss[m] = sum(losses) / len(losses)
    totals = {"bpr": 0.0, "specific": 0.0, "generic": 0.0, "unimodal": 0.0}
    for triple in triples:
        joint = margin(full, *triple)
        totals["bpr"] = totals["bpr"] - torch.log(torch.sigmoid(joint))
        effect = {
            m: min(max(((joint - margin(without[m], *triple)) / margin(alone[m], *triple)).item(), 1e-8), 10.0)
            for m in names
        }
        for m in names:
            num = len(names)
            weight = num / (num - 1) * (1 - effect[m] / sum(effect.values())) if reweight else 1.0
            student = margin(alone[m], *triple)
            if teachers:
                gap = margin(teachers[m], *triple) - student
                totals["specific"] = totals["specific"] + weight * (gap if gap > 0 else 0 * gap)
                if generic:
                    totals["generic"] = totals["generic"] + weight * generic_loss[m]
            else:
                totals["unimodal"] = totals["unimodal"] - weight * torch.log(torch.sigmoid(student))
    mean = {name: total / len(triples) for name, total in totals.items()}
    terms = {"bpr": mean["bpr"]}
    squares = [
        (full.user[u].square().sum() + full.item[i].square().sum() + full.item[j].square().sum()) / 2
        for u, i, j in triples
    ]
    terms["l2"] = L2 * sum(squares) / len(triples)
    if not teachers:
        return terms | {"unimodal": KAPPA * mean["unimodal"]}
    if specific:
        terms["specific"] = KAPPA * mean["specific"]
    if generic:
        terms["generic"] = KAPPA * GENERIC * mean["generic"]
    return terms


SWITCHES = [
    {"with_teachers": teachers, "specific": specific, "generic": generic, "reweight": reweight}
    for teachers, specific, generic, reweight in product((True, False), repeat=4)
    if (specific or generic) and (teachers or (specific and generic))
]


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: "-".join(k for k, on in s.items() if on) or "none")
@pytest.mark.parametrize("num_modalities", [2, 3])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_loss_and_gradient_equal_the_definition_for_every_switch(backbone, num_modalities, switches, make_data):
    data = make_data(modalities=num_modalities)
    model, reference = built(BACKBONES[backbone], data), built(BACKBONES[backbone], data)
    features, graph = doubled(data)
    switches = dict(switches)
    teachers = random_teachers(model) if switches.pop("with_teachers") else None
    wrapper = DistillationWrapper(
        model,
        teachers,
        distillation_weight=KAPPA,
        generic_weight=GENERIC,
        temperature=TAU,
        num_random_triples=15,
        l2=L2,
        **switches,
    )
    batch = one_batch(data, wrapper.num_random_triples)
    assert batch.random_user.numel() == (15 if teachers and switches["generic"] else 0)
    terms = wrapper.loss(features, graph, batch)
    expected = by_hand(reference, teachers, features, graph, batch, **switches)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), abs=1e-10), name
    sum(terms.values()).backward()
    sum(expected.values()).backward()
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-9, rtol=1e-9)


def wrap(data, **options) -> DistillationWrapper:
    model = built(BACKBONES["VBPR"], data)
    return DistillationWrapper(model, options.pop("teachers", random_teachers(model)), **options)


@pytest.mark.parametrize("num_modalities", [2, 3])
def test_effects_relative_to_the_ids_divide_by_the_margin_without_the_empty_view(num_modalities, make_data):
    data = make_data(modalities=num_modalities)
    model = built(BACKBONES["MMGCN"], data)
    features, graph = doubled(data)
    wrapper = DistillationWrapper(
        model, random_teachers(model), distillation_weight=KAPPA, generic=False, l2=0.0, effect_base="id"
    )
    assert len(wrapper.views) == len(set(wrapper.views)) == {2: 4, 3: 8}[num_modalities]
    assert wrapper.views[0] == set(data.modalities)
    batch = one_batch(data, 0)
    names = model.modalities
    full, empty = model(features, graph), model(features, graph, [])
    expected, effects = 0.0, torch.zeros(len(names), dtype=torch.float64)
    triples = list(zip(*(x.tolist() for x in batch[:3]), strict=True))
    teachers = random_teachers(model)
    for triple in triples:
        alone = {m: margin(model(features, graph, [m]), *triple) for m in names}
        effect = {}
        for m in names:
            without = margin(model(features, graph, [n for n in names if n != m]), *triple)
            ratio = (margin(full, *triple) - without) / (alone[m] - margin(empty, *triple))
            effect[m] = min(max(ratio.item(), 1e-8), 10.0)
        effects += torch.tensor(list(effect.values()), dtype=torch.float64)
        for m in names:
            weight = len(names) / (len(names) - 1) * (1 - effect[m] / sum(effect.values()))
            gap = (margin(teachers[m], *triple) - alone[m]).item()
            expected += KAPPA * weight * max(gap, 0.0) / len(triples)
    assert wrapper.loss(features, graph, batch)["specific"].item() == pytest.approx(expected, abs=1e-9)
    found = wrapper.epoch_statistics()
    assert [found[f"effect/{m}"] for m in names] == pytest.approx((effects / len(triples)).tolist(), abs=1e-9)


@every_multimodal_backbone
def test_effects_relative_to_the_ids_are_there_for_every_backbone(make, make_data):
    data = make_data(modalities=3)
    model = built(make, data)
    wrapper = DistillationWrapper(model, None, effect_base="id", distillation_weight=KAPPA)
    features, graph = doubled(data)
    graphs = wrapper.begin_epoch(features, wrapper.prepare(features, graph))
    terms = wrapper.loss(features, graphs, one_batch(data, 0))
    sum(terms.values()).backward()
    assert all(torch.isfinite(term) for term in terms.values())
    found = wrapper.epoch_statistics()
    assert sum(found[f"weight/{m}"] for m in data.modalities) == pytest.approx(3)
    assert all(1e-8 <= found[f"effect/{m}"] <= 10 for m in data.modalities)


def test_relative_to_the_ids_additive_modalities_all_weigh_one(make_data):
    """In VBPR, what a modality adds to the others is what it adds to the ids."""
    data = make_data(modalities=3)
    found = {}
    for base in ("paper", "id"):
        wrapper = wrap(data, num_random_triples=5, effect_base=base)
        wrapper.loss(*doubled(data), one_batch(data, 5))
        found[base] = wrapper.epoch_statistics()
    for m in data.modalities:
        assert found["id"][f"effect/{m}"] == pytest.approx(1.0, abs=1e-9)
        assert found["id"][f"weight/{m}"] == pytest.approx(1.0, abs=1e-9)
        assert found["paper"][f"weight/{m}"] != pytest.approx(1.0, abs=1e-3)


def test_weights_off_still_track_effects(make_data):
    data = make_data()
    on, off = wrap(data, num_random_triples=5), wrap(data, num_random_triples=5, reweight=False)
    for wrapper in (on, off):
        wrapper.loss(*doubled(data), one_batch(data, 5))
    on, off = on.epoch_statistics(), off.epoch_statistics()
    assert [on[f"effect/{m}"] for m in data.modalities] == [off[f"effect/{m}"] for m in data.modalities]
    assert [off[f"weight/{m}"] for m in data.modalities] == [1.0, 1.0]
    assert [on[f"weight/{m}"] for m in data.modalities] != [1.0, 1.0]


def test_teacher_that_is_overtaken_everywhere_leaves_no_specific_loss(make_data):
    data = make_data()
    student = built(BACKBONES["VBPR"], data)
    features, graph = doubled(data)
    batch = one_batch(data, 0)
    alone = {m: student(features, graph, m).detach() for m in student.modalities}
    wrapper = DistillationWrapper(student, alone, generic=False)
    specific = wrapper.loss(features, graph, batch)["specific"]  # A teacher that the student equals, but for rounding.
    assert specific.item() == pytest.approx(0, abs=1e-15)
    assert wrapper.loss(features, graph, batch)["specific"].grad_fn is not None


def test_teachers_are_frozen_copies_that_travel_with_the_state(make_data):
    data = make_data()
    model = built(BACKBONES["VBPR"], data)
    teachers = {m: Embeddings(*(x.requires_grad_() for x in out)) for m, out in random_teachers(model).items()}
    wrapper = DistillationWrapper(model, teachers)
    before = {m: [x.detach().clone() for x in out] for m, out in teachers.items()}
    with torch.no_grad():
        teachers["mod0"].user.zero_()
    for m, tables in before.items():
        assert all(torch.equal(a, b) for a, b in zip(wrapper.teacher(m), tables, strict=True))
        assert not wrapper.teacher(m).user.requires_grad
    assert {name.split(".")[0] for name, _ in wrapper.named_parameters()} == {"student"}
    assert "teacher_user_mod0" in wrapper.state_dict()


def test_wrapper_answers_like_its_student(make_data):
    data = make_data(modalities=3)
    wrapper = wrap(data)
    features, graph = doubled(data)
    for view in (None, "mod1", ["mod0", "mod2"]):
        assert torch.equal(torch.cat(wrapper(features, graph, view)), torch.cat(wrapper.student(features, graph, view)))
    assert len(wrapper.views) == 7
    assert wrapper.views[0] == set(data.modalities)


def test_plain_defaults_are_those_of_the_paper(make_data):
    wrapper = wrap(make_data())
    assert (wrapper.distillation_weight, wrapper.generic_weight, wrapper.temperature) == (0.01, 5.0, 0.1)
    assert (wrapper.specific, wrapper.generic, wrapper.reweight) == (True, True, True)


def test_saturated_margins_keep_loss_and_gradient_finite(make_data):
    data = make_data()
    model = built(BACKBONES["VBPR"], data)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(100)
    wrapper = DistillationWrapper(model, random_teachers(model, 100.0), num_random_triples=20)
    terms = wrapper.loss(*doubled(data), one_batch(data, 20))
    sum(terms.values()).backward()
    assert all(torch.isfinite(value) for value in terms.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_settings_name_every_switch(make_data):
    first, second = wrap(make_data()).settings(), wrap(make_data(), reweight=False, temperature=0.2).settings()
    assert {key for key in first if first[key] != second[key]} == {"reweight", "temperature"}
    third = wrap(make_data(), effect_base="id").settings()
    assert {key for key in first if first[key] != third[key]} == {"effect_base"}
    assert first["backbone"] == "VBPR"


def test_columns_of_a_teacher_in_which_all_items_agree_are_left_out_and_move_no_margin(make_data):
    data = make_data()
    model = built(BACKBONES["VBPR"], data)
    rows = torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([1, 0])
    expected, teachers = {}, {}
    for m, (user, item) in random_teachers(model).items():
        expected[m] = Embeddings(user, item).margin(*rows)
        same = item.new_tensor([[3.0, 0.0]]).expand(item.size(0), 2)
        teachers[m] = Embeddings(torch.cat([torch.ones_like(user[:, :2]), user], 1), torch.cat([same, item], 1))
    width = next(iter(teachers.values())).user.size(1)
    wrapper = DistillationWrapper(model, teachers)
    for m, margin in expected.items():
        assert wrapper.teacher(m).user.size(1) == wrapper.teacher(m).item.size(1) == width - 2
        torch.testing.assert_close(wrapper.teacher(m).margin(*rows), margin)


def test_a_teacher_that_likes_all_items_alike_is_no_error(make_data):
    model = built(BACKBONES["VBPR"], make_data())
    flat = {m: Embeddings(user, torch.ones_like(item)) for m, (user, item) in random_teachers(model).items()}
    wrapper = DistillationWrapper(model, flat)
    rows = torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([1, 0])
    assert all((wrapper.teacher(m).margin(*rows) == 0).all() for m in model.modalities)


def test_teacher_that_is_missing_unknown_or_of_other_sizes_is_refused(make_data):
    data = make_data(modalities=["visual", "textual"])
    model = built(BACKBONES["VBPR"], data)
    good = random_teachers(model)
    with pytest.raises(InputError, match="found none for modality 'textual'"):
        DistillationWrapper(model, {"visual": good["visual"]})
    with pytest.raises(InputError, match="unknown modality of a teacher 'visul': did you mean 'visual'"):
        DistillationWrapper(model, {"visul": good["visual"], "textual": good["textual"]})
    short = Embeddings(good["visual"].user[1:], good["visual"].item)
    with pytest.raises(InputError, match="teacher 'visual': found 11 users and 9 items, expected 12 and 9"):
        DistillationWrapper(model, good | {"visual": short})
    narrow = Embeddings(good["visual"].user[:, 1:], good["visual"].item)
    broken = Embeddings(good["visual"].user.clone().fill_(float("nan")), good["visual"].item)
    for teacher in (narrow, broken):
        with pytest.raises(InputError, match=r"teacher 'visual': .* expected tables of one width without NaN"):
            DistillationWrapper(model, good | {"visual": teacher})


def test_single_modality_is_refused(make_data):
    model = built(BACKBONES["VBPR"], make_data(modalities=1))
    with pytest.raises(InputError, match=r"found 1 modality .*expected at least two to balance"):
        DistillationWrapper(model, random_teachers(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"specific": False, "generic": False}, "both off"),
        ({"distillation_weight": -1.0}, "distillation_weight: found -1.0"),
        ({"generic_weight": float("nan")}, "generic_weight: found nan"),
        ({"temperature": 0.0}, "temperature: found 0.0"),
        ({"temperature": float("nan")}, "temperature: found nan"),
        ({"num_random_triples": 0}, "num_random_triples: found 0"),
        ({"l2": -0.1}, "l2: found -0.1"),
        ({"effect_base": "ids"}, "unknown effect_base 'ids': did you mean 'id'"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options, message, make_data):
    with pytest.raises(InputError, match=message):
        wrap(make_data(), **options)


def test_student_that_is_no_backbone_is_refused(make_data):
    with pytest.raises(InputError, match="found Linear, expected a backbone; adapt any other module with as_backbone"):
        DistillationWrapper(torch.nn.Linear(2, 2), None)


def test_one_term_is_enough_to_train_on(make_data):
    """A step of plain gradient descent on the distillation terms alone brings the student nearer to its teachers."""
    data = make_data()
    model = built(BACKBONES["VBPR"], data)
    features, graph = doubled(data)
    teachers = random_teachers(model)
    wrapper = DistillationWrapper(model, teachers, distillation_weight=1.0, num_random_triples=200, l2=0.0)
    batch = one_batch(data, 200)

    def gap() -> float:
        total = 0.0
        for m in model.modalities:
            student = model(features, graph, m).margin(*batch[3:])
            target = torch.sigmoid(teachers[m].margin(*batch[3:]) / 0.1)
            total += F.binary_cross_entropy_with_logits(student / 0.1, target).item()
        return total

    before = gap()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(20):
        optimizer.zero_grad()
        wrapper.loss(features, graph, batch)["generic"].backward()
        optimizer.step()
    assert gap() < before


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (lambda model, tables: model, "teacher 'mod0': found VBPR, expected its embeddings"),
        (lambda model, tables: tuple(x.numpy() for x in tables), "teacher 'mod0': found ndarray and ndarray"),
        (lambda model, tables: tuple(x.long() for x in tables), "teacher 'mod0': found torch.int64 and torch.int64"),
    ],
)
def test_a_teacher_that_is_no_pair_of_tables_is_refused(teacher, message, make_data):
    data = make_data()
    model = VBPR.from_data(data)
    tables = torch.ones(data["user"].num_nodes, 2), torch.ones(data["item"].num_nodes, 2)
    with pytest.raises(InputError, match=message):
        DistillationWrapper(model, {m: teacher(model, tables) for m in data.modalities})
    with pytest.raises(InputError, match="ckd: found list, expected a dict"):
        DistillationWrapper(model, [tables])
