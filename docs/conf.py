"""Settings of the documentation site, which `make docs` builds in `docs/_build`."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

import pyg_ckd

project = "pyg-ckd"
author = "The pyg-ckd developers"
copyright = author
version = release = pyg_ckd.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
root_doc = "index"
exclude_patterns = ["_build", "README.md"]  # Part of index.md, see `complete`.
templates_path = ["_templates"]

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autosummary_generate = True
autosummary_imported_members = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Shapes", "notes_style")]
maximum_signature_line_length = 78
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"pyg-ckd {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_math_renderer = "mathml"
pygments_style = "friendly"


ACCENTED = re.compile(r"\\(?:bar|hat|tilde|dot|ddot|overline|widehat|widetilde)\{(?:[^{}]|\{[^{}]*\})*\}")
LONG = 40
"""Letters of LaTeX from which a formula within a line may be wider than a phone."""


def formula(latex: str, block: bool) -> str:
    """Return a formula as MathML, which browsers show without a script and without a network."""
    latex = re.sub(r"\\[bB]igg?[lrm]?(?![a-zA-Z])|\\textstyle", "", latex)  # Browsers choose the sizes.
    latex = ACCENTED.sub(r"{\g<0>{}}", latex.replace("{align*}", "{aligned}"))  # Or indices stand under letters.
    lines = [line.strip() for line in re.split(r"\n\s*\n", latex.strip())]
    if block and "&" in latex and not latex.lstrip().startswith(r"\begin"):
        lines = [r"\begin{aligned}" + r" \\ ".join(lines) + r"\end{aligned}"]
    try:
        return "".join(latex2mathml.tex2mathml(line, as_block=block) for line in lines)
    except (MathError, AttributeError) as error:
        raise ExtensionError(f"formula {latex!r}: {error}, expected what docutils turns into MathML") from error


def visit_inline(self: Any, node: nodes.math) -> None:
    """Write a formula within a line."""
    kind = "math long" if len(node.astext()) > LONG else "math"
    self.body.append(f'<span class="{kind}">{formula(node.astext(), block=False)}</span>')
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.math_block) -> None:
    """Write a formula of its own, whose parts may stand on lines of their own."""
    self.body.append(f'<div class="math">{formula(node.astext(), block=True)}</div>')
    raise nodes.SkipNode


def toctree(pages: Iterable[str], caption: str = "") -> str:
    """Return what adds pages to the sidebar."""
    options = [f":caption: {caption}"] if caption else []
    return "\n".join(["", "```{toctree}", *options, ":glob:", ":hidden:", "", *pages, "```", ""])


def complete(app: Sphinx, docname: str, source: list[str]) -> None:
    """Add to pages what readers of the repository do not need: sidebars, and links to pages that only the site has."""
    if docname == "index":
        source[0] = (Path(app.srcdir) / "README.md").read_text(encoding="utf-8")
    source[0] = re.sub(r"\]\((?:\.\./)+CONTRIBUTING\.md", "](/contributing.md", source[0])
    if docname == "index":
        for section in source[0].split("\n## ")[1:]:
            pages = re.findall(r"\]\(/?([\w/]+)\.(?:md|rst)\)", section)
            source[0] += toctree(dict.fromkeys(pages), section.partition("\n")[0])
    elif docname.endswith("/README"):
        source[0] += toctree(["*"])
    elif docname == "performance":
        source[0] += toctree(["results/benchmarks/*", "results/benchmarks/*/*"])


def found(name: str) -> Any:
    """Return the object of a dotted name, or nothing."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:cut]))
            for part in parts[cut:]:
                value = getattr(value, part)
        except (ImportError, AttributeError):
            continue
        return value
    return None


def collect(app: Sphinx, env: Any) -> None:
    """Note under which name every object is documented."""
    for name, entry in env.domains["py"].objects.items():
        if entry.objtype in ("class", "function") and not entry.aliased:
            HOMES[id(found(name))] = name


def resolve(app: Sphinx, env: Any, node: Any, contnode: Any) -> Any:
    """Link a name that is documented under another address, such as ``pyg_ckd.Trainer``."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("pyg_ckd."):
        return None
    owner, _, member = target.rpartition(".")
    home = HOMES.get(id(found(target)))
    if home is None and id(found(owner)) in HOMES:
        home = f"{HOMES[id(found(owner))]}.{member}"
    domain = env.domains["py"]
    if home is None or home not in domain.objects:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", home, node, contnode)


HOMES: dict[int, str] = {}


def shorten(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Show only the branch of the page in the sidebar: all names on every page would be slow on a phone."""
    toctree = context.get("toctree")
    if toctree is not None:
        context["toctree"] = lambda **options: toctree(**{**options, "collapse": True})


def setup(app: Sphinx) -> None:
    """Add formulas without a script and links to names under all of their addresses."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.connect("source-read", complete)
    app.connect("env-updated", collect)
    app.connect("missing-reference", resolve)
    app.connect("html-page-context", shorten, priority=100)
