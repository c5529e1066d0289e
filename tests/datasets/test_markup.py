"""Markup is no text, what looks like it is, and texts may be missing in every way that people write it."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch

from pyg_ckd.datasets import encode_batches, text_features
from pyg_ckd.datasets.markup import plain_text
from pyg_ckd.datasets.sources.lines import read_lines
from pyg_ckd.datasets.sources.metadata import read_metadata
from pyg_ckd.errors import InputError

TEXTS = {
    "<p>Red <b>shoe</b></p>": "Red shoe",
    "<ul><li>one</li><li>two</li></ul>": "one two",
    "line<br>break<BR/>and<br />more": "line break and more",
    '<a href="http://x.y/?a=1&b=2" target=_blank>link</a>': "link",
    '<img src="a>b.jpg" alt="a picture" />lamp': "lamp",
    "<td nowrap>cell</td><input disabled value='3'>": "cell",
    "&lt;p&gt;escaped&lt;/p&gt;": "escaped",
    "&amp;lt;br&amp;gt;twice": "twice",
    "<script>var a = 1 < 2; document.write('<p>no</p>')</script>yes": "yes",
    "<style type='text/css'>p > a { color: red }</style>yes": "yes",
    "kept <script>cut short": "kept",
    "<!-- comment <b>no</b> -->yes": "yes",
    "<!DOCTYPE html><html><head><title>no</title></head><body>yes</body></html>": "yes",
    "<o:p>office</o:p>": "office",
    "H<sub>2</sub>O and m<sup>2</sup>": "H2O and m2",
    "fish &amp; chips&nbsp;&#39;n&#x27; &eacute;clair": "fish & chips 'n' éclair",
    '<iframe src="x" width=5 allowfullscreen></iframe>film': "film",
    '<video playsinline muted src="a.mp4"></video>film': "film",
    '<p class="a"data-x="1">close</p>': "close",
    '<a href="x" target>bare</a>': "bare",
    '<p data-mce-fragment="1" data-y>shop</p>': "shop",
    "cof&shy;fee and cof\u00adfee, zero\u200bwidth, &#8203;red\ufeff": "coffee and coffee, zerowidth, red",
    "weight < 3 kg, size > 2 cm": "weight < 3 kg, size > 2 cm",
    "a < b and c > d": "a < b and c > d",
    "a<b and c>d": "a<b and c>d",
    "I <3 it": "I <3 it",
    "x <- y -> z, 1<2>0": "x <- y -> z, 1<2>0",
    "mail <me@example.org> <unknown>": "mail <me@example.org> <unknown>",
    "AT&T R&D": "AT&T R&D",
    " two\n lines\t": "two lines",
}
MISSING = [None, float("nan"), np.nan, np.float32("nan"), pd.NA, pd.NaT, "", "  \n", "&nbsp;", "<br/>", b"", [], [None]]
MISSING += [Decimal("nan"), np.datetime64("NaT"), torch.tensor(float("nan")), "\u200b", ("", float("nan"))]


@pytest.mark.parametrize(("text", "expected"), TEXTS.items(), ids=TEXTS.values())
def test_texts_are_what_people_read(text, expected, tmp_path):
    assert plain_text(text) == expected
    path = tmp_path / "meta.json"
    path.write_text(
        json.dumps({"id": "A", "title": text}) + "\n" + json.dumps({"id": "B", "title": [text, None]}) + "\n"
    )
    assert read_metadata(path, ["A", "B"], "id", ["title"]).texts == [expected] * 2


def test_plain_texts_stay_and_long_ones_take_no_time():
    assert plain_text("<" * 50_000) == "<" * 50_000
    assert plain_text("<a " * 20_000).startswith("<a <a")
    assert plain_text('<a b="' * 20_000)


@pytest.mark.parametrize("kind", [list, np.array, pd.Series, tuple], ids=lambda kind: kind.__name__)
def test_markup_has_no_influence_on_features(kind):
    plain = ["red shoe rubber", "coffee grinder steel", "garden hose green", "green lamp"]
    marked = [f'<div class="big"><p>{text.replace(" ", "</p><p>")}</p></div>&lt;br&gt;' for text in plain]
    one, other = (text_features(kind(np.array(texts, dtype=object)), dim=3)[0] for texts in (plain, marked))
    np.testing.assert_allclose(np.abs(one), np.abs(other), atol=1e-6)
    seen: list[str] = []
    text_features(kind(np.array(marked, dtype=object)), lambda batch: seen.extend(batch) or np.ones((len(batch), 1)))
    assert seen == plain


@pytest.mark.parametrize("missing", MISSING, ids=repr)
@pytest.mark.parametrize("kind", ["list", "objects", "column", "text column"])
def test_missing_texts_of_every_kind_are_missing(missing, kind):
    texts = ["red shoes", missing, "blue shoes", missing]
    given = {"list": texts, "objects": np.array(texts, dtype=object), "column": pd.Series(texts, dtype=object)}
    if kind == "text column":
        if not isinstance(missing, (str, float, type(None), type(pd.NA))):
            return
        given[kind] = pd.Series([None if isinstance(t, float) else t for t in texts], dtype="string")
    x, has = text_features(given[kind], dim=2)
    assert has.tolist() == [True, False, True, False]
    assert (x[1] == 0).all()
    assert (x[0] != 0).any()


def test_missing_texts_of_a_catalogue_are_missing(tmp_path):
    path = tmp_path / "meta.json"
    values = [None, float("nan"), "", [], [None, ""], {}, [float("nan")]]
    path.write_text("".join(json.dumps({"id": f"A{n}", "title": v}) + "\n" for n, v in enumerate(values)))
    items = [f"A{n}" for n in range(len(values))]
    assert read_metadata(path, items, "id", ["title"]).texts == [""] * len(values)
    assert read_metadata(path, items, "id", "title").texts == [""] * len(values)


def test_numbers_are_texts_and_a_single_text_is_no_list():
    assert plain_text(1984) == "1984"
    assert text_features([1984, "blue shoes"], dim=1)[1].tolist() == [True, True]
    with pytest.raises(InputError, match=r"texts: found 'red shoes' .str., expected a list of texts"):
        text_features("red shoes")
    assert plain_text(b"caf\xc3\xa9") == "café"
    assert plain_text(["red", None, ("<b>shoe</b>", "new")]) == "red shoe new"
    with pytest.raises(InputError, match="texts: found a dict, expected a list of texts in the order of the items"):
        text_features({"a": "red shoes"})
    with pytest.raises(InputError, match="texts: found a frame, expected one of its columns"):
        text_features(pd.DataFrame({"title": ["red shoes"]}))
    with pytest.raises(InputError, match="got 'red shoes', expected a list of inputs"):
        encode_batches("red shoes", len)


def test_byte_order_marks_of_catalogues_are_no_letters(tmp_path):
    path = tmp_path / "meta.json"
    path.write_text(json.dumps({"id": "A", "title": "red"}) + "\n", encoding="utf-8-sig")
    assert read_metadata(path, ["A"], "id", ["title"]).texts == ["red"]
    assert [line[:1] for _, line in read_lines(path)] == [b"{"]


@pytest.mark.parametrize("packed", [False, True])
def test_catalogues_in_utf_16_are_read(tmp_path, packed):
    path = tmp_path / "meta.json"
    content = (json.dumps({"id": "Ä", "title": "größe"}, ensure_ascii=False) + "\n").encode("utf-16")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert read_metadata(path, ["Ä"], "id", ["title"]).texts == ["größe"]
