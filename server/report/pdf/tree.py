"""A page as a tree of elements: our own HTML is well nested (a test), so the standard library's parser is enough."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"meta", "br", "link", "img", "hr", "input"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    inside: list[Element | str] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()

    @property
    def elements(self) -> list[Element]:
        return [e for e in self.inside if isinstance(e, Element)]

    def walk(self) -> Iterator[Element]:
        """Itself and everything inside, in the order of the text."""
        yield self
        for e in self.elements:
            yield from e.walk()

    def first(self, tag: str, style: str = "") -> Element | None:
        return next((e for e in self.walk() if e.tag == tag and (not style or style in e.classes)), None)

    @property
    def text(self) -> str:
        """What can be read, with single spaces."""
        return " ".join("".join(e if isinstance(e, str) else f" {e.text} " if e.tag == "br" else e.text for e in self.inside).split())


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("")
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {k: v or "" for k, v in attrs})
        self._open[-1].inside.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].inside.append(Element(tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if self._open[-1].tag == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].inside.append(data)


def read(html: str) -> Element:
    """The body of a page."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.root.first("body") or reader.root
