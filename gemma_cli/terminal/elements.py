"""Rich's Markdown elements where no text may be lost and no later line may move an earlier one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, ListElement, Markdown, TableElement
from rich.padding import Padding
from rich.style import Style
from rich.syntax import ANSISyntaxTheme, Syntax
from rich.table import Table
from rich.text import Text

from gemma_cli.terminal.sanitize import clean

# A column narrower than this is no longer read as one.
_COLUMN = 6

# The terminal's own palette, without its white, black and yellow: readable on
# light and on dark backgrounds.
_CODE_COLOURS = ANSISyntaxTheme(
    {
        ("Comment",): Style(dim=True, italic=True),
        ("Keyword",): Style(color="magenta"),
        ("Literal", "String"): Style(color="green"),
        ("Literal", "Number"): Style(color="cyan"),
        ("Name", "Function"): Style(color="blue"),
        ("Name", "Class"): Style(color="blue", bold=True),
        ("Name", "Decorator"): Style(color="cyan"),
        ("Name", "Tag"): Style(color="blue"),
        ("Generic", "Deleted"): Style(color="red"),
        ("Generic", "Inserted"): Style(color="green"),
        ("Generic", "Heading"): Style(bold=True),
    }
)


def highlighted(language: str, context: Sequence[str], code: Sequence[str]) -> Text:
    """Lines of code with colours; context: the lines before them, which are not shown."""
    syntax = Syntax("", language or "text", theme=_CODE_COLOURS, tab_size=4)
    text = syntax.highlight(clean("\n".join((*context, *code))))
    lines = text.split("\n", allow_blank=True)[len(context) : len(context) + len(code)]
    shown = Text("\n", overflow="fold").join(lines)
    shown.expand_tabs(4)
    return shown


class _Code(CodeBlock):
    """Code within a list or a quote, or indented; at the top a fence is shown in pieces."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip().split("\n")
        yield Padding(highlighted(self.lexer_name, (), code), (0, 0, 0, 2))


class _Heading(Heading):
    """To the left, as all other text is."""

    LEVEL_ALIGN = {}  # noqa: RUF012 - the base class declares it


class _List(ListElement):
    """Room for two digits from the first number on, so that no later item moves it."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.list_type == "bullet_list_open":
            yield from super().__rich_console__(console, options)
            return
        start = 1 if self.list_start is None else self.list_start
        for number, item in enumerate(self.items, start):
            yield from item.render_number(console, options, number, max(number, 99))


class _Table(TableElement):
    """Columns where they fit; else each row as lines of "heading: cell". No cell is cut."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        header = self.header.row.cells if self.header and self.header.row else []
        headings = [cell.content for cell in header]
        body = self.body.rows if self.body else []
        rows = [[cell.content for cell in row.cells] for row in body]
        for heading in headings:
            heading.stylize("markdown.table.header")
        if _least_width(headings, rows) <= options.max_width:
            yield _columns(headings, rows)
            return
        for number, row in enumerate(rows):
            if number:
                yield Text("")
            for heading, cell in zip_longest(headings, row, fillvalue=Text("")):
                yield Text.assemble(heading, ": ", cell, overflow="fold")
        if not rows:
            yield Text("\n").join(headings)


def _least_width(headings: list[Text], rows: list[list[Text]]) -> int:
    columns = zip_longest(headings, *rows, fillvalue=Text(""))
    widest = [max(cell_len(cell.plain) for cell in column) for column in columns]
    return sum(min(width, _COLUMN) for width in widest) + 2 * len(widest) + 1


def _columns(headings: list[Text], rows: list[list[Text]]) -> Table:
    table = Table(
        box=box.SIMPLE, pad_edge=False, style="markdown.table.border", collapse_padding=True
    )
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


ELEMENTS = {
    **Markdown.elements,
    "heading_open": _Heading,
    "fence": _Code,
    "code_block": _Code,
    "bullet_list_open": _List,
    "ordered_list_open": _List,
    "table_open": _Table,
}
