"""Texts in scripts without blanks between words, and texts that have no words in common."""

from __future__ import annotations

import unicodedata
import warnings

import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from pyg_ckd.datasets import text_features

ALIKE = {
    "Chinese": ("红色跑鞋", "蓝色跑鞋", "玻璃瓶"),
    "Japanese": ("赤いランニングシューズ", "青いランニングシューズ", "ガラスびん"),
    "Thai": ("รองเท้าวิ่งสีแดง", "รองเท้าวิ่งสีน้ำเงิน", "ขวดแก้ว"),
    "Lao": ("ເກີບແລ່ນສີແດງ", "ເກີບແລ່ນສີຟ້າ", "ກະຕຸກ"),
    "Khmer": ("ស្បែកជើងរត់ក្រហម", "ស្បែកជើងរត់ខៀវ", "ដប"),
    "Burmese": ("ပြေးဖိနပ်အနီ", "ပြေးဖိနပ်အပြာ", "ဖန်ပုလင်း"),
}
ENGLISH = ["red running shoes", "blue running shoes", "a glass bottle", "Café, naïve", "glass bottle 12, blue", "x"]


def cosines(texts: list[str]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x, _ = text_features(texts, dim=100)
    return x @ x.T


@pytest.mark.parametrize("texts", ALIKE.values(), ids=ALIKE.keys())
def test_texts_that_share_words_are_alike_without_blanks(texts):
    got = cosines(list(texts))
    assert got[0, 1] > 0.2
    assert got[0, 1] > got[0, 2] + 0.1


def test_pairs_of_neighbouring_characters_count_as_words():
    texts = ["跑鞋红", "红跑鞋", "鞋", "红 鞋", "Nike跑鞋 shoes", "nike shoes"]
    words = ["aa bb", "cc aa", "dd", "ee dd", "nike aa shoes", "nike shoes"]
    np.testing.assert_allclose(cosines(texts), cosines(words), atol=1e-6)


def test_one_text_is_the_same_in_every_normal_form_and_width():
    texts = ["ガラスびん", unicodedata.normalize("NFD", "ガラスびん"), "ｶﾞﾗｽびん"]
    np.testing.assert_allclose(cosines(texts), np.ones((3, 3)), atol=1e-6)


def test_other_texts_keep_their_bits():
    vectorizer = TfidfVectorizer(strip_accents="unicode", stop_words="english", sublinear_tf=True, max_features=1 << 16)
    weights = vectorizer.fit_transform(ENGLISH)[:5]
    expected = TruncatedSVD(4, random_state=0).fit_transform(weights).astype(np.float32)
    x, has = text_features(ENGLISH, dim=4)
    assert has.tolist() == [True] * 5 + [False]
    assert np.array_equal(x[has], expected)


def test_words_that_occur_in_one_text_only_are_told():
    with pytest.warns(UserWarning, match=r"found 10 of 10 without a word that .* encoder, such as encoder='"):
        text_features([f"red{n} shoe{n}" for n in range(10)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text_features([f"red{n} shoe" for n in range(10)])
        text_features([f"{['hat', 'shoe'][n % 2]} ref{n}" for n in range(40)])
        text_features([f"red{n} shoe{n}" for n in range(9)])
