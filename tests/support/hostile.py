"""Texts that try to run, to hide or to break something, and what a page may hold."""

from __future__ import annotations

import unicodedata
from html.parser import HTMLParser

HOSTILE = (
    "</script><script>document.title='HACKED'</script><img src=x onerror=\"document.title='HACKED'\">"
    "\u202egnp.exe \x1b[31mred \x00 \u2028 ]]> <!-- {{ 7*7 }} {% x %} &lt;b&gt; ' \" `\ud800 javascript:alert(1)"
)
ELEMENTS_THAT_LOAD = {"img", "iframe", "object", "embed", "link", "base", "form", "video", "audio", "source", "image"}


class ReadPage(HTMLParser):
    """A page as a parser sees it: its elements, their attributes, and the text in each kind of element."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self._inside: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._inside[-1] if self._inside else "", []).append(data)

    def attributes(self, tag: str) -> list[dict[str, str]]:
        """The attributes of every element of this kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def check_is_inert(page: str) -> ReadPage:
    """Assert that a page loads nothing, runs only its own script, and shows no hidden character."""
    read = ReadPage(page)
    assert not {tag for tag, _ in read.elements} & ELEMENTS_THAT_LOAD
    for _, attributes in read.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes), attributes
        for name in ("src", "href", "action", "srcset", "xlink:href"):
            assert "//" not in attributes.get(name, "")
            assert ":" not in attributes.get(name, "")
    assert len(read.attributes("script")) <= 2
    hidden = {character for character in page if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}
    assert hidden <= {"\n"}
    return read
