"""Texts of hardly any words, which leave a decomposition nothing to do."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from pyg_ckd.datasets import text_features

FEW = {
    "one word": (["shoe", "shoe shoe", "shoe"], (3, 1)),
    "one word, one of them missing": (["shoe", "", "shoe"], (3, 1)),
    "one word, one text": (["shoe"], (1, 1)),
    "one text": (["red shoe"], (1, 1)),
    "one text, two missing": (["", "red shoe", None], (3, 1)),
    "alike": (["red shoe", "red shoe"], (2, 2)),
}


@pytest.mark.parametrize(("texts", "shape"), FEW.values(), ids=FEW.keys())
def test_texts_of_few_words_have_features(texts, shape):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, has = text_features(texts)
    assert (x.shape, x.dtype) == (shape, np.float32)
    assert has.tolist() == [bool(text) for text in texts]
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), has.astype(float), atol=1e-6)  # As TF-IDF weights are scaled.
