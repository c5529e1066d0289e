"""Texts as people read them: without the tags, scripts and entities of HTML, and empty where there is none."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from pyg_ckd.errors import InputError

_INSIDE = "b|big|del|em|i|ins|mark|nobr|s|small|strike|strong|sub|sup|tt|u|wbr"  # Inside of words, like <b>R</b>ed.
_NAMES = (
    r"a|abbr|acronym|address|applet|area|article|aside|audio|base|basefont|bdi|bdo|bgsound|blink|blockquote|body|br"
    r"|button|canvas|caption|center|cite|code|col|colgroup|data|datalist|dd|details|dfn|dialog|dir|div|dl|dt|embed"
    r"|fieldset|figcaption|figure|font|footer|form|frame|frameset|h1|h2|h3|h4|h5|h6|head|header|hgroup|hr|html"
    r"|iframe|img|input|isindex|kbd|keygen|label|legend|li|link|main|map|marquee|math|menu|menuitem|meta|meter"
    r"|mfrac|mi|mn|mo|mrow|msqrt|msub|msubsup|msup|mtext|multicol|nav|noembed|noframes|noscript|object|ol|optgroup"
    r"|option|output|p|param|path|picture|plaintext|pre|progress|q|rb|rect|rp|rt|rtc|ruby|samp|script|search|section"
    r"|select|slot|source|span|style|summary|svg|table|tbody|td|template|textarea|tfoot|th|thead|time|title|tr|track"
    r"|tspan|ul|var|video|xmp"
)
_WORDS = r"circle|defs|ellipse|g|ilayer|image|layer|line|listing|polygon|polyline|spacer|stop|symbol|text|use"
"""Names of tags that people write between angle brackets, too: they are tags with an attribute or a slash."""
_ATTRIBUTE = r"""(?:\s+|(?<=["']))[\w:@.-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+)"""
_USUAL, _OTHER = (
    r"alt|class|href|src|style",
    r"align|border|dir|height|id|lang|name|rel|role|target|title|type|value|width",
)
_WORD = (
    r"(?:allowfullscreen|async|autofocus|autoplay|checked|compact|controls|default|defer|disabled|download|hidden"
    r"|ismap|itemscope|loop|multiple|muted|noshade|novalidate|nowrap|open|playsinline|readonly|required|reversed"
    rf"|selected|webkitallowfullscreen|mozallowfullscreen|data-[\w-]+|{_USUAL})(?=[\s/>])"
)
_BARE = rf"\s+(?:{_OTHER})(?=[\s/>])"  # Words, which have to follow an attribute.
_FLAG = (
    rf"\s+{_WORD}"
    rf"|\s+(?:{_USUAL}|{_OTHER})=(?=\s*/?\s*>)"  # Without a value.
    # Any other word behind a value in quotation marks; what two alternatives matched would be tried in 2^n ways.
    rf"|(?<=[\"'])(?!\s+{_WORD}|{_BARE})\s+[\w:@.-]+(?=[\s/>])"
)
_REST = rf"(?:{_FLAG})*(?:{_ATTRIBUTE}(?:{_FLAG}|{_BARE})*)*"
_END = r"(?:\s*/)?\s*>"
_TAG = re.compile(
    rf"<(?:/\s*)?(?:{_NAMES}|\w+:\w+)\b{_REST}{_END}|<!doctype[^<>]*>|<\?(?:xml|php)[^<>]*>"
    rf"|<(?:{_WORDS})\b(?={_ATTRIBUTE}|\s*/){_REST}{_END}|</\s*(?:{_WORDS})\s*>",
    re.IGNORECASE,
)
_JOINED = re.compile(rf"<(?:/\s*)?(?:{_INSIDE})\b{_REST}{_END}", re.IGNORECASE)
_HIDDEN = re.compile(
    r"<(script|style|template|noscript|head)\b[^<>]*>.*?(?:</\s*\1\s*>|\Z)|<!--.*?(?:-->|\Z)|<!\[CDATA\[|\]\]>",
    re.IGNORECASE | re.DOTALL,
)
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))  # Places inside of words where a line may break.
_ROUNDS = 3  # Texts that were escaped more than once.


def plain_text(value: Any) -> str:
    """Return a text in one line, without HTML: tags, comments, scripts, styles; entities are resolved.

    What only looks like a tag stays, such as ``a < b and c > d``.

    Args:
        value: The text; nothing (:obj:`None`, NaN, ``pandas.NA``) is an empty text, lists are joined, and anything else
            is as it is printed.
    """
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=str)
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        return " ".join(filter(None, map(plain_text, value)))
    if is_missing(value):
        return ""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    text = text.encode("utf-8", "replace").decode()  # JSON may hold halves of characters.
    for _ in range(_ROUNDS):
        before = text
        text = _TAG.sub(" ", _JOINED.sub("", _HIDDEN.sub(" ", text))) if "<" in text or "]]>" in text else text
        text = html.unescape(text)
        if text == before:
            break
    return " ".join(text.translate(_INVISIBLE).split())


def is_missing(value: Any) -> bool:
    """Return whether there is no text: :obj:`None`, NaN, NaT or ``pandas.NA``, of whatever library."""
    value = value.item() if isinstance(value, Tensor) and value.dim() == 0 else value
    return pd.api.types.is_scalar(value) and bool(pd.isna(value))


def plain_texts(texts: Iterable[Any]) -> list[str]:
    """Return texts as :func:`plain_text` does.

    Args:
        texts: A list, an array or a column of texts.

    Raises:
        InputError: If it is a single text.
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable) or isinstance(texts, Tensor):
        raise InputError(f"texts: found {texts!r:.60} ({type(texts).__name__}), expected a list of texts, one per item")
    if isinstance(texts, Mapping):
        raise InputError("texts: found a dict, expected a list of texts in the order of the items")
    if hasattr(texts, "columns"):
        raise InputError("texts: found a frame, expected one of its columns, such as frame['title']")
    return list(map(plain_text, texts))
