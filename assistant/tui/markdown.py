"""How a reply is drawn: Markdown, but nothing the model wrote is hidden or becomes a link."""

from __future__ import annotations

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from textual.content import Content
from textual.widgets import Markdown
from textual.widgets.markdown import MarkdownBlock, MarkdownFence


class ReplyFence(MarkdownFence):
    """A code block that is coloured only if it names its language: guessing asks every lexer, for every new token."""

    @classmethod
    def highlight(cls, code: str, language: str, ansi: bool = False, dark: bool = False) -> Content:
        """Colour the code by the first word of its info string."""
        name = language.split()[0] if language.split() else "text"
        return MarkdownFence.highlight(code, name, ansi=ansi, dark=dark)


class ReplyMarkdown(Markdown):
    """A reply's text. It has to be displayable already."""

    BLOCKS: dict[str, type[MarkdownBlock]] = {  # noqa: RUF012  declared as an instance variable by Markdown
        **Markdown.BLOCKS,
        "fence": ReplyFence,
        "code_block": ReplyFence,
    }

    def __init__(self) -> None:
        super().__init__(parser_factory=make_parser, open_links=False)


def make_parser() -> MarkdownIt:
    """A parser that leaves HTML, links, images, references and entities as they were written.

    Textual would drop HTML and references, and show a link under another name than its address; an entity could spell
    a character that `displayable` has just taken out.
    """
    parser = MarkdownIt("gfm-like", {"html": False, "linkify": False})
    parser.disable(["link", "image", "autolink", "reference", "entity", "linkify"])
    parser.core.ruler.push("keep_line_breaks", _keep_line_breaks)
    return parser


def _keep_line_breaks(state: StateCore) -> None:
    """A line feed inside a paragraph ends the line; Markdown proper would make it a blank."""
    for token in state.tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
