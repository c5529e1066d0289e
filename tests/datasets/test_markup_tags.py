"""Tags in every form that catalogues hold them, and texts with angle brackets that are no tags."""

from __future__ import annotations

import time

import pytest

from pyg_ckd.datasets.markup import plain_text

TAGS = {
    "<br / >": "before the bracket is a blank",
    "<img src=x / >": "behind the slash is a blank",
    "<p class=>": "the value is missing",
    "<a href=x target=>": "the last value is missing",
    "<p id=1 class>": "a name is alone",
    "<p class id=1 title>": "names are alone",
    "<td width=5 nowrap height>": "a flag between",
    "<blink>": "left the standard",
    "<basefont size=2>": "left the standard",
    "<applet>": "left the standard",
    "<image src=x>": "a word with an attribute",
    "<line x1='0' y1=\"1\"/>": "of a drawing",
    "<rect/>": "of a drawing",
    "<g />": "of a drawing",
    "</text>": "of a drawing",
    "<mi>": "of a formula",
    "<?php echo 1 ?>": "of a program",
}
STAY = [
    "a < b",
    "a < b / c > d",
    "a<b and c>d",
    "a <b x=1 or c>d",
    "if a <b then c => d",
    "<3 and </3",
    "x <y> z",
    "see <image> and <line> and <text>",
    "send <data name> here",
    "List<String>",
    "5<g",
]


@pytest.mark.parametrize("tag", TAGS)
def test_tags_are_no_words(tag):
    assert plain_text(f"red {tag}shoe") == "red shoe"
    assert plain_text(f"red{tag.upper()}shoe") == "red shoe"


@pytest.mark.parametrize("text", STAY)
def test_texts_that_look_like_tags_stay(text):
    assert plain_text(text) == text


@pytest.mark.parametrize("tag", ["b", "i", "em", "strong", "u", "small", "sup", "mark"])
def test_words_that_are_partly_set_off_stay_whole(tag):
    assert plain_text(f"<{tag}>R</{tag}>ed shoe, <{tag} class=x>big</{tag}>.") == "Red shoe, big."
    assert plain_text(f"<p><{tag}>Red</{tag}></p><{tag}>shoe</{tag}>") == "Red shoe"


@pytest.mark.parametrize("part", ["<b ", "<p a=1 ", "<p class ", "<p class= ", "<image x=1", "<br" + " " * 50, "</ "])
def test_tags_without_an_end_take_no_time(part):
    start = time.perf_counter()
    plain_text(part * 5_000)
    plain_text(part + part[2:] * 5_000)
    plain_text(part + " " * 20_000)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "part", [' a="b" class', " a='b' id", ' a="b" data-x', " a='b' checked", ' a="b" x', ' a="b" class id']
)
@pytest.mark.parametrize("tag", ["<a", "<b", "<image"])
def test_words_behind_values_take_no_time(part, tag):
    start = time.perf_counter()
    assert plain_text(f"{tag}{part * 300}").startswith(tag)
    assert plain_text(f"x{tag}{part * 300} >y") == ("xy" if tag == "<b" else "x y")
    assert time.perf_counter() - start < 5
