"""Texts as people read them: without the tags, scripts and entities of HTML, and empty where there is none."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from pyg_ckd.errors import InputError

_NAMES = (
    r"a|abbr|acronym|address|area|article|aside|audio|b|base|bdi|bdo|big|blockquote|body|br|button|canvas"
    r"|caption|center|cite|code|col|colgroup|data|datalist|dd|del|details|dfn|dialog|dir|div|dl|dt|em|embed"
    r"|fieldset|figcaption|figure|font|footer|form|frame|frameset|h1|h2|h3|h4|h5|h6|head|header|hgroup|hr|html"
    r"|i|iframe|img|input|ins|kbd|label|legend|li|link|main|map|mark|marquee|math|menu|meta|meter|nav|nobr"
    r"|noscript|object|ol|optgroup|option|output|p|param|path|picture|pre|progress|q|rp|rt|ruby|s|samp|script"
    r"|search|section|select|slot|small|source|span|strike|strong|style|sub|summary|sup|svg|table|tbody|td"
    r"|template|textarea|tfoot|th|thead|time|title|tr|track|tt|u|ul|var|video|wbr"
)
_ATTRIBUTE = r"""\s+[\w:@.-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+)"""
_FLAG = (
    r"\s+(?:async|autoplay|checked|compact|controls|defer|disabled|hidden|loop|multiple|muted|noshade|nowrap|selected)"
)
_TAG = re.compile(
    rf"<(?:/\s*)?(?:{_NAMES}|\w+:\w+)\b(?:{_ATTRIBUTE}|{_FLAG})*\s*/?>|<!doctype[^<>]*>|<\?xml[^<>]*>",
    re.IGNORECASE,
)
_JOINED = re.compile(r"</?(?:sub|sup|wbr)\b\s*/?>", re.IGNORECASE)  # Inside of words.
_HIDDEN = re.compile(
    r"<(script|style|template|noscript|head)\b[^<>]*>.*?(?:</\s*\1\s*>|\Z)|<!--.*?(?:-->|\Z)|<!\[CDATA\[|\]\]>",
    re.IGNORECASE | re.DOTALL,
)
_FLOATS = (float, np.floating)
_ROUNDS = 3  # Texts that were escaped more than once.


def plain_text(value: Any) -> str:
    """Return a text in one line, without HTML: tags, comments, scripts, styles; entities are resolved.

    What only looks like a tag stays, such as ``a < b and c > d``.

    Args:
        value: The text; nothing (:obj:`None`, NaN, ``pandas.NA``) is an empty text, and anything else as it is printed.
    """
    if is_missing(value):
        return ""
    text = str(value).encode("utf-8", "replace").decode()  # JSON may hold halves of characters.
    for _ in range(_ROUNDS):
        before = text
        text = _TAG.sub(" ", _JOINED.sub("", _HIDDEN.sub(" ", text))) if "<" in text or "]]>" in text else text
        text = html.unescape(text)
        if text == before:
            break
    return " ".join(text.split())


def is_missing(value: Any) -> bool:
    """Return whether there is no text: :obj:`None`, NaN or ``pandas.NA``."""
    return (
        value is None
        or value is pd.NA
        or value is pd.NaT
        or (isinstance(value, (float, np.floating)) and value != value)
    )


def plain_texts(texts: Iterable[Any]) -> list[str]:
    """Return texts as :func:`plain_text` does.

    Args:
        texts: A list, an array or a column of texts.

    Raises:
        InputError: If it is a single text.
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable) or isinstance(texts, Tensor):
        raise InputError(f"texts: found {texts!r:.60} ({type(texts).__name__}), expected a list of texts, one per item")
    if hasattr(texts, "columns"):
        raise InputError("texts: found a frame, expected one of its columns, such as frame['title']")
    return list(map(plain_text, texts))
