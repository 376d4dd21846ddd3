"""Markdown as printed lines, in units that stay as they are while more text comes.

A unit is a top-level block; lists are cut into their items and fenced code into
pieces of some lines, so that a long one can be settled bit by bit. The lines of
a unit depend on nothing after it, which makes a streamed answer look exactly as
one that is rendered in one go.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, RenderableType
from rich.markdown import Markdown
from rich.text import Text
from rich.theme import Theme

from gemma_cli.terminal.elements import ELEMENTS, highlighted
from gemma_cli.terminal.sanitize import clean

# Lines of code that are highlighted together. The piece before is their context,
# and nothing more: a line costs the same at the end of a long block.
CODE_PIECE = 32

_LEAST_WIDTH, _INDENT = 8, 4

_TRAILING = re.compile(r"(?: |\x1b\[[\d;]*m)+$")

_THEME = Theme(
    {
        "markdown.code": "cyan",
        "markdown.code_block": "none",
        "markdown.block_quote": "dim",
        "markdown.h1": "bold underline",
        "markdown.link": "underline",
        "markdown.link_url": "dim",
        "markdown.item.bullet": "bold",
        "markdown.item.number": "bold",
        "markdown.hr": "dim",
        "markdown.table.border": "dim",
        "markdown.table.header": "bold",
    }
)


@dataclass(frozen=True, slots=True)
class Unit:
    """Something whose lines are final once the next unit has begun.

    first_line, of the parsed text. glued: no empty line before it. kind:
    "item" and "code" are parts of a longer list or fence. number: of an item.
    context: code before this piece, for the highlighting.
    """

    tokens: Sequence[Token]
    first_line: int
    glued: bool = False
    kind: str = "block"
    number: int = 0
    code: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    opens: bool = False
    closes: bool = False


@dataclass(frozen=True, slots=True)
class Before:
    """What of the first block was settled already and is no longer in the text."""

    kind: str = "nothing"
    number: int = 0
    context: tuple[str, ...] = field(default=())


def make_parser() -> MarkdownIt:
    # HTML is shown as written: a terminal has no use for it, and Rich would drop
    # every <word>. An image becomes a link, so that its address is seen. References
    # such as [1] and their definitions are shown as written too: a definition often
    # comes last, when what refers to it is printed, and its address would vanish.
    parser = MarkdownIt("commonmark", {"html": False})
    return parser.enable(["strikethrough", "table"]).disable(["image", "reference"])


def parse(parser: MarkdownIt, text: str, before: Before) -> list[Unit]:
    """The units of a text."""
    units: list[Unit] = []
    for block in _top_level(parser.parse(text)):
        units += _units_of(block, before if not units else Before())
    return units


def _units_of(block: list[Token], before: Before) -> Iterator[Unit]:
    head = block[0]
    line = head.map[0] if head.map else 0
    if head.type == "fence":
        yield from _code_pieces(head, line, before)
    elif head.type in ("bullet_list_open", "ordered_list_open"):
        number = int(head.attrs.get("start", 1))
        glued = before.kind == "item"
        if glued:
            number = before.number
        for item in _top_level(block[1:-1]):
            start = item[0].map[0] if item[0].map else line
            yield Unit((head, *item, block[-1]), start, glued, "item", number)
            glued, number = True, number + 1
    else:
        yield Unit(block, line)


def _code_pieces(fence: Token, line: int, before: Before) -> Iterator[Unit]:
    code = fence.content.split("\n")
    if code[-1] == "":
        code.pop()
    going_on = before.kind == "code"
    context = before.context
    for start in range(0, max(len(code), 1), CODE_PIECE):
        piece = tuple(code[start : start + CODE_PIECE])
        opens = start == 0 and not going_on
        closes = start + CODE_PIECE >= len(code)
        yield Unit((fence,), line, not opens, "code", 0, piece, context, opens=opens, closes=closes)
        context = piece


def _top_level(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """Runs of tokens that belong together on the outermost level."""
    block: list[Token] = []
    depth = 0
    for token in tokens:
        block.append(token)
        depth += token.nesting
        if depth == 0:
            yield block
            block = []


class LineRenderer:
    """Units to lines with escape sequences of its own, and none of the text's."""

    def __init__(self, colour: bool) -> None:
        self._out = io.StringIO()
        self._console = Console(
            file=self._out,
            force_terminal=True,
            legacy_windows=False,
            no_color=not colour,
            highlight=False,
            markup=False,
            emoji=False,
            theme=_THEME,
        )

    def lines(self, unit: Unit, width: int) -> list[str]:
        if unit.kind == "code":
            return self._code(unit, width)
        # Lists and quotes take their indent; what is in them keeps a width that can be read,
        # and if need be the terminal breaks the lines.
        width = max(width, _LEAST_WIDTH + _INDENT * _depth(unit.tokens))
        rendered = self._print(_Blocks([_cleaned(token) for token in unit.tokens], unit), width)
        while rendered and not rendered[-1]:
            rendered.pop()
        while rendered and not rendered[0]:
            rendered.pop(0)
        if unit.kind == "item" and not rendered:
            ordered = unit.tokens[0].type == "ordered_list_open"
            return [f" {unit.number:>2}" if ordered else " •"]
        return rendered

    def _code(self, unit: Unit, width: int) -> list[str]:
        language = clean(unit.tokens[0].info).split(maxsplit=1)[:1]
        name = language[0] if language else ""
        lines = []
        if unit.opens:
            lines += self._print(Text(f"─── {name}".rstrip(), style="dim", no_wrap=True), width)
        if unit.code:
            lines += self._print(highlighted(name, unit.context, unit.code), width)
        if unit.closes:
            lines += self._print(Text("───", style="dim"), width)
        return lines

    def _print(self, renderable: RenderableType, width: int) -> list[str]:
        self._out.seek(0)
        self._out.truncate()
        self._console.print(renderable, width=max(width, 1), end="")
        lines = self._out.getvalue().split("\n")
        if lines[-1] == "":
            lines.pop()
        return [_TRAILING.sub(_without_spaces, line) for line in lines]


def _depth(tokens: Sequence[Token]) -> int:
    deepest = depth = 0
    for token in tokens:
        if token.type.startswith(("list_item", "blockquote")):
            depth += token.nesting
            deepest = max(deepest, depth)
    return deepest


def _without_spaces(match: re.Match[str]) -> str:
    return "\x1b[0m" if match.start() and "\x1b" in match[0] else ""


def _cleaned(token: Token) -> Token:
    """Entities such as &#x202e; become characters while parsing: cleaned after it."""
    children = token.children
    if children:
        children = [_cleaned(child) for child in _without_autolinks(children)]
    attrs = {
        key: clean(value) if isinstance(value, str) else value for key, value in token.attrs.items()
    }
    return token.copy(content=clean(token.content), children=children, attrs=attrs)


def _without_autolinks(tokens: Sequence[Token]) -> list[Token]:
    """An address that is its own text is shown once."""
    return [
        token
        for token in tokens
        if not (token.type in ("link_open", "link_close") and token.markup == "autolink")
    ]


class _Blocks(Markdown):
    """Rich's Markdown over tokens that are parsed already."""

    elements = ELEMENTS

    def __init__(self, tokens: list[Token], unit: Unit) -> None:
        super().__init__("", hyperlinks=False)
        if unit.kind == "item":
            tokens[0] = tokens[0].copy(attrs={**tokens[0].attrs, "start": unit.number})
        self.parsed = tokens
