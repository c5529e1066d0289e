"""Closed forms that cannot be fitted: features that are not finite, and too many items."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from pyg_ckd.data.mapped import register
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import ease, ease_content, embed, fit_baseline, item_knn_content
from pyg_ckd.nn import VBPR
from pyg_ckd.study.baselines import baseline_run, fit
from pyg_ckd.study.settings import StudySettings

WITH_CONTENT: dict[str, Callable] = {
    "ease-content, additive": ease_content,
    "ease-content, collective": partial(ease_content, form="collective"),
    "item-knn-content": item_knn_content,
    "fit ease-content": lambda data: fit_baseline("ease-content", data, "recall@5"),
    "fit item-knn-content": lambda data: fit_baseline("item-knn-content", data, "recall@5"),
}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("make_model", WITH_CONTENT.values(), ids=WITH_CONTENT)
def test_values_that_are_not_finite_are_refused_with_modality_and_row(make_model, value, make_data):
    data = make_data(20, 12)
    data["item"].mod1[4, 1] = value
    expected = r"^features of 'mod1': found NaN or infinite values, first in row 4; impute them$"
    with pytest.raises(InputError, match=expected):
        make_model(data)


def test_the_error_is_that_of_backbones(make_data):
    data = make_data(20, 12)
    data["item"].mod0[7] = torch.nan
    with pytest.raises(InputError) as of_backbone:
        embed(VBPR.from_data(data), data)
    with pytest.raises(InputError) as of_baseline:
        ease_content(data)
    assert str(of_baseline.value) == str(of_backbone.value)


def test_sparse_and_mapped_features_are_looked_at_too(make_data, tmp_path):
    data = make_data(20, 12)
    x = data["item"].mod0.clone()
    x[3, 0] = torch.nan
    data["item"].mod0 = x.to_sparse()
    with pytest.raises(InputError, match=r"^features of 'mod0': found NaN or infinite values, first in row 3"):
        ease_content(data)
    np.save(tmp_path / "mod0.npy", x.numpy())
    data["item"].mod0 = register(torch.from_numpy(np.load(tmp_path / "mod0.npy", "c")), tmp_path / "mod0.npy")
    with pytest.raises(
        InputError, match=r"mod0\.npy: features of 'mod0': found NaN or infinite values, first in row 3"
    ):
        ease_content(data)


def test_what_is_not_read_may_be_anything(make_data):
    data = make_data(20, 12)
    expected = ease_content(data, modalities=["mod0"]).scores(torch.arange(20)), ease(data).scores(torch.arange(20))
    data["item"].mod1[4, 1] = torch.nan
    found = ease_content(data, modalities=["mod0"]).scores(torch.arange(20)), ease(data).scores(torch.arange(20))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def fit_in_study(name, data):
    return fit(baseline_run(name, {}, "data", "recall@5", StudySettings(), 0), data, "recall@5")


@pytest.mark.parametrize(
    ("call", "name", "mend"),
    [
        (ease, "ease", "use item-knn or LightGCN, or raise max_items"),
        (ease_content, "ease-content", "use item-knn-content or a model that is trained, or raise max_items"),
        (
            lambda data: fit_baseline("ease", data),
            "ease",
            "use item-knn, or call pyg_ckd.evaluation.ease with a larger max_items",
        ),
        (
            lambda data: fit_baseline("ease-content", data),
            "ease-content",
            "use item-knn-content, or call pyg_ckd.evaluation.ease_content with a larger max_items",
        ),
        (lambda data: fit_in_study("ease", data), "ease", "compare with item-knn or lightgcn, which take any number"),
        (
            lambda data: fit_in_study("ease-content", data),
            "ease-content",
            "compare with item-knn-content or lightgcn, which take any number",
        ),
    ],
    ids=["ease", "ease_content", "fit ease", "fit ease-content", "study ease", "study ease-content"],
)
def test_a_catalogue_too_large_for_a_closed_form_is_refused_with_what_this_call_can_do(call, name, mend, make_data):
    data = make_data(20, 20)
    data["item"].num_nodes = 20_001
    with pytest.raises(InputError) as error:
        call(data)
    begins = f"{name}: found 20001 items, expected at most 20000: a closed form holds three matrices of 20001 x 20001"
    assert str(error.value).startswith(begins)
    assert str(error.value).endswith(f"; {mend}")
