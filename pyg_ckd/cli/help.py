"""Help texts within 80 columns: layout, and docstrings without the marks of reStructuredText."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

WIDTH = 79
COLUMN = 24

_DEFAULT = re.compile(r"\s*\(default: (?:[^(),]|\([^()]*\))*(?:,\s*((?:[^()]|\([^()]*\))*))?\)")
"""A default in a docstring: the value, which the layout shows by itself, and what is said about it."""
_ROLE = re.compile(r":(?:[a-z]+:)?[a-z]+:`([^`]*)`")
_REFERENCE = re.compile(r"[,;]\s+see\s+:(?:[a-z]+:)+`[^`]*`(?:(?:,|\s+and)\s+:(?:[a-z]+:)+`[^`]*`)*(?!\s+for\b)")
"""A reference in a docstring to another page, which a terminal has not."""
_WRAPPER = re.compile(r"\\(?:math\w+|boldsymbol|textrm|textbf|text|bar|tilde|hat|overline|operatorname)\s*\{([^{}]*)\}")
_OPERATORS = {r"\cdot": "*", r"\times": "x", r"\leq": "<=", r"\le": "<=", r"\geq": ">=", r"\ge": ">=", r"\in": "in"}


def clean(text: str) -> str:
    r"""Return a text of a docstring as plain words: no roles, no quotes around code, no LaTeX.

    Args:
        text: The text, such as ``Weight :math:`\lambda` of the penalty, see :func:`~pyg_ckd.nn.l2_penalty```.
    """
    text = _DEFAULT.sub(lambda found: f" (default: {found[1]})" if found[1] else "", text)
    text = re.sub(r":math:`([^`]*)`", lambda found: _formula(found[1]), text)
    text = _ROLE.sub(lambda found: _name(found[1]), text)
    text = re.sub(r"`([^`<]+?)\s*<[^>`]*>`_+", r"\1", text)  # A link.
    text = re.sub(r"\s*\[\w+\]_", "", text)  # A footnote.
    text = re.sub(r"``([^`]*)``", r"\1", text)
    text = re.sub(r"(?<![\w*])\*{1,2}([^*\s][^*]*?)\*{1,2}(?![\w*])", r"\1", text)
    return " ".join(text.replace("`", "").split())


def _name(target: str) -> str:
    """Return what a role shows: the title before an address, and the last name of a path."""
    title = re.sub(r"\s*<[^>]*>$", "", target)
    if title.startswith("~") or re.fullmatch(r"pyg_ckd[\w.]*", title):
        return title.lstrip("~").rpartition(".")[2]
    return title


def _formula(latex: str) -> str:
    before = ""
    while before != latex:
        before, latex = latex, _WRAPPER.sub(r"\1", latex)
    for command, sign in _OPERATORS.items():
        latex = re.sub(re.escape(command) + r"(?![a-z])", sign, latex)
    latex = re.sub(r"\\[,;:! ]", " ", latex)
    return " ".join(re.sub(r"[\\{}]", "", latex).split())


def first_line(target: Any) -> str:
    """Return the first line of a docstring as plain words.

    Args:
        target: A class or a function.
    """
    doc = inspect.cleandoc(target.__doc__ or "")
    return clean(doc.partition("\n")[0])


def arguments_of(target: Callable[..., Any]) -> dict[str, str]:
    """Return what a docstring in Google's style says about each argument, as plain words, without references.

    Args:
        target: A class or a function.
    """
    doc = inspect.cleandoc(target.__doc__ or "")
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", doc, flags=re.MULTILINE)
    if section is None:
        return {}
    found: dict[str, str] = {}
    name = ""
    for line in textwrap.dedent(section[1]).splitlines():
        start = re.match(r"\*{0,2}(\w+)(?: \([^)]*\))?:\s*(.*)", line)
        if start is not None:
            name = start[1]
            found[name] = start[2]
        elif name:
            found[name] += f" {line.strip()}"
    return {key: clean(_REFERENCE.sub("", text)) for key, text in found.items()}


def item(name: str, text: str) -> list[str]:
    """Return the lines of an option or a command: its name on the left, what it is on the right.

    Args:
        name: The name.
        text: What it is.
    """
    gap = " " * COLUMN
    lines = textwrap.wrap(text, WIDTH, initial_indent=gap, subsequent_indent=gap, break_on_hyphens=False) or [gap]
    left = f"  {name}"
    if len(left) > COLUMN - 2:
        return [left, *lines] if text else [left]
    return [(left.ljust(COLUMN) + lines[0][COLUMN:]).rstrip(), *lines[1:]]


def paragraph(text: str) -> list[str]:
    """Return a text in lines.

    Args:
        text: The text.
    """
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False)


def with_default(name: str, text: str, default: Any) -> str:
    """Return the text of an option with its default at the end.

    Args:
        name: The name of the option.
        text: What it is; if it is nothing but a symbol of a formula, the name is put in front.
        default: The default; a text that speaks of it already stays as it is.
    """
    if len(text.split()) == 1:
        text = f"{name.rpartition('.')[2].replace('_', ' ').capitalize()}, {text.rstrip('.')} in the formulas."
    if "default" in text:
        return text
    if isinstance(default, (list, tuple)):
        written = ",".join(map(str, default)) or "[]"
    elif isinstance(default, bool):
        written = str(default).lower()
    else:
        written = "none" if default is None else str(default)
    return f"{text} (default: {written})".strip()
