"""What a browser would show of a report, read without the code that wrote it."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = ("meta", "img", "source", "br", "wbr")


class Page(HTMLParser):
    """Collects text, links, pictures and tables, and complains about tags that do not match.

    A table is found under its caption: a list of rows, each a list of texts; titles of groups are rows of one text.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.links, self.texts, self.open, self.alts = [], [], [], [], []
        self.elements: list[tuple[str, dict]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.bold: dict[str, set[tuple[str, str]]] = {}
        self._rows: list[list[str]] = []
        self._bold: list[tuple[str, str]] = []
        self._best, self._parts, self._caption = False, [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.elements.append((tag, attrs))
        self.links += [value for key, value in attrs.items() if key in ("src", "href", "srcset")]
        if tag == "img":
            self.alts.append(attrs["alt"])
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._rows, self._bold, self._caption = [], [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th", "caption"):
            self._parts, self._best = [], "best" in attrs.get("class", "").split()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        text = " ".join("".join(self._parts).split()) if tag in ("td", "th", "caption") else ""
        if tag in ("td", "th"):
            self._rows[-1].append(text)
            if self._best:
                self._bold.append((self._rows[-1][0], text))
        elif tag == "caption":
            self._caption = text
        elif tag == "table":
            assert self._caption not in self.tables, f"two tables are called {self._caption!r}"
            self.tables[self._caption] = self._rows
            self.bold[self._caption] = set(self._bold)

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.texts.append(data)
            self._parts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).replace("\N{NO-BREAK SPACE}", " ").split())
