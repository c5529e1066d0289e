"""EliMRec's effects against the published code, and its tables against a loop."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pyg_ckd import Trainer, evaluate
from pyg_ckd.balance.elimrec import FUSIONS, EliMRec, total_effect
from pyg_ckd.balance.fusion import score_variances
from pyg_ckd.data.inputs import item_masks, unpack
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from pyg_ckd.scoring import Embeddings
from tests.conftest import TOLERANCE
from tests.nn.models.zoo import BACKBONES, built, doubled


def test_effects_equal_the_published_code(golden):
    file = golden("balance/elimrec")
    names = [key.removeprefix("pre_fusion_user_") for key in file if key.startswith("pre_fusion_user_")]
    rows = [[F.normalize(file[f"pre_fusion_{kind}_{m}"]) for kind in ("user", "item")] for m in names]
    cosines = torch.stack([user @ item.t() for user, item in rows])
    score = file["score"]
    for fusion in FUSIONS:
        total = total_effect(score, cosines, fusion)
        direct = total_effect(score.mean(dim=1, keepdim=True).expand_as(score), cosines, fusion)
        for key, value in {"total_effect": total, "direct_effect": direct, "indirect_effect": total - direct}.items():
            assert torch.allclose(value, file[f"{fusion}/{key}"], rtol=0, atol=TOLERANCE), (fusion, key)


def scores(tables: Embeddings) -> torch.Tensor:
    return tables.user @ tables.item.t()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("backbone", ["VBPR", "EarlyFusionLightGCN", "MMGCN"])
def test_scores_are_those_of_the_view_plus_cosines_in_units_of_the_users_spread(backbone, make_data):
    data = make_data(modalities=3)
    model = built(BACKBONES[backbone], data)
    objective = EliMRec(model, effect=0.7).double()
    full, *alone = model.forward_views(*doubled(data), [None, *data.modalities])
    spread = scores(full).std(dim=1, unbiased=False)
    for view in (data.modalities, ["mod0", "mod2"], ["mod1"], []):
        expected = scores(model(*doubled(data), view))
        for m, (user, item) in zip(data.modalities, alone, strict=True):
            if m in view:
                varies = (item != item[:1]).any(dim=0)
                cosine = F.cosine_similarity(user[:, None, varies], item[None, :, varies], dim=-1)
                expected = expected + 0.7 / 2 * spread.unsqueeze(-1) * cosine
        torch.testing.assert_close(scores(objective(*doubled(data), view)), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(score_variances(full).sqrt(), spread, rtol=0, atol=1e-10)


@pytest.mark.usefixtures("double")
def test_the_exact_effect_ranks_and_the_expansion_comes_close_to_it_for_small_cosines(make_data):
    data = make_data(modalities=2)
    model = built(BACKBONES["VBPR"], data)
    objective = EliMRec(model).double()
    exact = objective.indirect_effect(*doubled(data))
    assert 0 <= evaluate(exact, data, k=5)["recall@5"] <= 1
    score = scores(model(*doubled(data)))
    cosines = torch.stack([fit.user @ fit.item.t() for fit in exact.fits])
    gap = score - score.mean(dim=1, keepdim=True)
    found = exact.scores(torch.arange(12))
    torch.testing.assert_close(found, gap * cosines.sigmoid().prod(dim=0), rtol=0, atol=1e-10)
    spread = score.std(dim=1, unbiased=False, keepdim=True)  # The expansion point: here, where gap is the spread.
    small = 1e-3 * cosines
    logarithm = torch.log(spread * small.sigmoid().prod(dim=0))
    first_order = (spread + spread / 2 * small.sum(dim=0)) / spread
    constant = logarithm - first_order
    assert (constant - constant.mean(dim=1, keepdim=True)).abs().max() < 1e-5


def test_the_expansion_point_is_chosen_on_the_validation_part(make_data):
    data = make_data(modalities=2)
    objective = EliMRec(VBPR.from_data(data, embedding_dim=4), effect=2.0)
    history = Trainer(max_epochs=2, batch_size=8, monitor="recall@5", device="cpu", progress=False).fit(objective, data)
    features, graph = unpack(data)
    found = {}
    for beta in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0):
        objective.beta.fill_(beta)
        found[beta] = evaluate(objective, data, split="val", k=5)["recall@5"]
    value = history.best_value
    assert value == pytest.approx(max(found.values()))
    for values, chosen in (([5, 4, 3, 2, 1, 0], 0.0), ([0, 1, 2, 3, 4, 5], 8.0), ([0, 0, 7, 7, 0, 0], 1.0)):
        given = iter(values)
        objective.before_validation(features, graph, lambda tables, given=given: float(next(given)))
        assert float(objective.beta) == chosen
    assert "effect" in history.rows[0]


def test_an_item_has_no_fit_in_a_modality_that_it_lacks(make_data):
    data = make_data(modalities=2)
    data["item"].has_mod1 = torch.arange(9) != 4
    objective = EliMRec(built(BACKBONES["VBPR"], data).float(), has=item_masks(data))
    fit = objective.indirect_effect(*unpack(data)).fits[1]
    assert not fit.item[4].any()
    assert fit.item[3].norm().item() == pytest.approx(1, abs=1e-6)


def test_bad_input_is_refused(make_data):
    data = make_data()
    model = built(BACKBONES["VBPR"], data)
    with pytest.raises(InputError, match=r"effect: found -1\.0, expected a number of zero or more"):
        EliMRec(model, effect=-1.0)
    with pytest.raises(InputError, match="unknown fusion 'ruby': did you mean 'rubi'"):
        EliMRec(model).indirect_effect(*doubled(data), fusion="ruby")
