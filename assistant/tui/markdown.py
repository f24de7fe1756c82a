"""Draws a reply as Markdown. Hides no text that the model wrote, and makes no links. Knows nothing about the chat."""

from __future__ import annotations

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from textual.content import Content
from textual.widgets import Markdown
from textual.widgets.markdown import MarkdownBlock, MarkdownFence


class ReplyFence(MarkdownFence):
    """A code block with colours only if it names its language.

    Guessing the language would run every lexer again for each new token.
    """

    @classmethod
    def highlight(cls, code: str, language: str, ansi: bool = False, dark: bool = False) -> Content:
        """Colour the code. The language is the first word of `language`, the block's info string."""
        name = language.split()[0] if language.split() else "text"
        return MarkdownFence.highlight(code, name, ansi=ansi, dark=dark)


class ReplyMarkdown(Markdown):
    """The text of a reply. The caller makes the text displayable first."""

    BLOCKS: dict[str, type[MarkdownBlock]] = {  # noqa: RUF012  Markdown declares it as an instance variable
        **Markdown.BLOCKS,
        "fence": ReplyFence,
        "code_block": ReplyFence,
    }

    def __init__(self) -> None:
        super().__init__(parser_factory=make_parser, open_links=False)


def make_parser() -> MarkdownIt:
    """Make a parser that keeps HTML, links, images, references and entities as plain text.

    Textual would drop HTML and references, and would show a link's name in place of its address. An entity could spell
    a character that `displayable` has removed.
    """
    parser = MarkdownIt("gfm-like", {"html": False, "linkify": False})
    parser.disable(["link", "image", "autolink", "reference", "entity", "linkify"])
    parser.core.ruler.push("keep_line_breaks", _keep_line_breaks)
    return parser


def _keep_line_breaks(state: StateCore) -> None:
    """Keep line feeds inside a paragraph as line breaks. Standard Markdown turns them into spaces."""
    for token in state.tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
