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

_NAMES = (
    r"a|abbr|acronym|address|area|article|aside|audio|b|base|bdi|bdo|big|blockquote|body|br|button|canvas"
    r"|caption|center|cite|code|col|colgroup|data|datalist|dd|del|details|dfn|dialog|dir|div|dl|dt|em|embed"
    r"|fieldset|figcaption|figure|font|footer|form|frame|frameset|h1|h2|h3|h4|h5|h6|head|header|hgroup|hr|html"
    r"|i|iframe|img|input|ins|kbd|label|legend|li|link|main|map|mark|marquee|math|menu|meta|meter|nav|nobr"
    r"|noscript|object|ol|optgroup|option|output|p|param|path|picture|pre|progress|q|rp|rt|ruby|s|samp|script"
    r"|search|section|select|slot|small|source|span|strike|strong|style|sub|summary|sup|svg|table|tbody|td"
    r"|template|textarea|tfoot|th|thead|time|title|tr|track|tt|u|ul|var|video|wbr"
)
_ATTRIBUTE = r"""(?:\s+|(?<=["']))[\w:@.-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+)"""
_FLAG = (
    r"\s+(?:allowfullscreen|async|autofocus|autoplay|checked|compact|controls|default|defer|disabled|download|hidden"
    r"|ismap|itemscope|loop|multiple|muted|noshade|novalidate|nowrap|open|playsinline|readonly|required|reversed"
    r"|selected|webkitallowfullscreen|mozallowfullscreen|data-[\w-]+)"
    r"|(?<=[\"'])\s+[\w:@.-]+(?=[\s/>])"  # Any word behind a value in quotation marks.
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
