"""Streamed Markdown on a terminal emulator against the same text rendered in one go."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Iterator
from copy import copy
from typing import Any

import pyte
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gemma_cli.terminal import markdown
from gemma_cli.terminal.blocks import Before, LineRenderer, make_parser, parse
from gemma_cli.terminal.markdown import StreamingMarkdown

CORPUS = {
    "prose": "# Why the sky is *blue*\n\nLight of **short** waves, such as `blue`, is scattered "
    "more.\nThis continues the paragraph  \nafter a hard break.\n\nSecond\n======\n\nEnd.",
    "lists": "Some points:\n\n- one\n- two\n  - deeper\n  - deeper still\n\n    with a paragraph\n"
    "- three\n\n\n1. first\n2. second\n\n   more of it\n3. third\n"
    + "".join(f"{n}. item {n}\n" for n in range(4, 15))
    + "\n* other\n+ marker\n",
    "ones": "7. a\n7. b\n7. c\n\ntext\n\n1) x\n1) y",
    "code": "Look:\n\n```python\ndef f(x):\n    '''doc\n    more'''\n    return x\n```\n\n    "
    "indented\n    code\n\n~~~\nno language\n~~~\nafter",
    "long code": "Here\n\n```c\n/* a comment\n"
    + "".join(f"   line {n} of it, which is `not` *markdown*\n" for n in range(40))
    + "*/\n"
    + "".join(f"int x{n} = {n};\n\n" for n in range(30))
    + "```\nDone.",
    "open code": "```sh\necho 'never closed'\n" + "ls\n" * 70,
    "table": "| name | value |\n|:-----|------:|\n| a | 1 |\n| long name here | 22222 |\n\nend\n",
    "tall table": "| n | square |\n|---|---|\n"
    + "".join(f"| {n} | {n * n} |\n" for n in range(40)),
    "quotes": "> one\n> two\nlazy\n\n> > nested\n>\n> - list\n> - in quote\n\n---\n\n***\ntext",
    "html": "List<String> and <b>bold</b>\n\n<div>\n\nText & &lt;escaped&gt; &amp;\n\n<!-- c -->\n",
    "links": "[home]: http://example.org 'T'\n\nSee [home] and [x](http://a.b) and <http://c.d> "
    "and ![image](http://e.f/g.png).\n\n- [home]\n",
    "wide": "日本語の文章はとても長くて折り返します。全角文字です。\n\n- 項目一\n- 項目二\n\n"
    "| 名前 | 値 |\n|---|---|\n| あ | い |\n\nעברית ועוד\n",
    "not yet": "- a\n--\n\n- a\n---\nb\n\ntext\n-\n\n| a | b |\n|--\n\n[ref]:\n/url\n\n[ref] *open",
    "nested": "> - one\n>   1. two\n>\n>      > - three\n>      >\n>      >   ```py\n"
    ">      >   x = 1\n>      >   ```\n> - four\n\n- > quoted\n  > > deeper\n\n  | a | b |\n"
    "  |---|---|\n  | 1 | 2 |\n- ```sh\n  ls\n  ```\n- # heading\n",
    "wide table": "| a heading that is long | another one | third |\n|---|:-:|--:|\n"
    + "".join(f"| some words in row {n} | `code {n}` | {'9' * n} |\n" for n in range(1, 30)),
    "table of wide characters": "| 日本語の見出し | emoji |\n|---|---|\n"
    "| 全角文字の内容です | 👍🏽 👩‍👩‍👧 é ñ |\n| עברית | b |\n",
    "many columns": "|" + "h|" * 20 + "\n|" + "-|" * 20 + "\n|" + "cell|" * 20 + "\n\nend\n",
    "emoji": "👩‍👩‍👧‍👦 family, 👍🏽 thumb, 🇩🇪 flag, ❤️ heart, e\u0301, a\u0308\u0301\u0323. " * 4,
    "right to left": "# שלום\n\nمرحبا **بالعالم** و `code` ثم [link](http://x.y).\n\n"
    "- אחת\n- שתיים\n",
    "odd languages": "```c++ title=x\nint a;\n```\n```{.python}\nx = 1\n```\n"
    "```no-such-language\ny\n```\n```console\n$ ls\n```\n```json\n"
    '{"a": [1, null]}\n```\n````md\n```\nx\n```\n````\n',
    "long line": "word" * 100
    + "\n\n```\n"
    + "x" * 200
    + "\n```\n\n<http://example.org/"
    + "p/" * 60
    + ">",
    "reference after its use": "See [home] and [1].\n\n- x\n\n[home]: http://e.org\n[1]: /u 'T'\n",
    "nothing": "",
    "blank": "\n\n \n",
    "tight end": "para\n\n- item\n    - deep\n        - deeper\n\n            code in it\n\nend",
}


class _KeepsWhatIsCleared(pyte.HistoryScreen):
    """Clearing the whole screen moves what stood there into the scrollback, as tmux does."""

    def erase_in_display(self, how: int = 0, *args: Any, **kwargs: Any) -> None:
        if how == 0 and (self.cursor.y, self.cursor.x) == (0, 0):
            rows = (self.buffer[y] for y in range(self.lines))
            self.history.top.extend(copy(row) for row in rows if row)
        super().erase_in_display(how, *args, **kwargs)


class Screen:
    """A terminal of some size; what was written to it, scrollback included."""

    def __init__(self, columns: int, lines: int) -> None:
        self.screen = _KeepsWhatIsCleared(columns, lines, history=100_000, ratio=1)
        self.screen.set_mode(pyte.modes.LNM)  # the tty makes LF a CR LF
        self._stream = pyte.Stream(self.screen)
        self.written = ""

    def write(self, text: str) -> int:
        self.written += text
        self._stream.feed(text)
        return len(text)

    def flush(self) -> None:
        pass

    def fileno(self) -> int:
        raise io.UnsupportedOperation

    def rows(self) -> list[str]:
        """Text with its colours, row by row, without the empty rows at the end."""
        history = [_row(line, self.screen.columns) for line in self.screen.history.top]
        shown = [_row(self.screen.buffer[y], self.screen.columns) for y in range(self.screen.lines)]
        rows = history + shown
        while rows and not rows[-1]:
            rows.pop()
        return rows


def _row(line: dict[int, pyte.screens.Char], columns: int) -> str:
    cells = [line[x] for x in range(columns)]
    while cells and cells[-1].data == " ":
        cells.pop()
    return "|".join(f"{c.data}{c.fg}{c.bold}" for c in cells)


class _Timeless(StreamingMarkdown):
    """Paints at every piece, on a terminal whose size the test says."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(screen, live=True, colour=True)  # type: ignore[arg-type]
        self._of = screen

    def _size(self) -> tuple[int, int]:
        return self._of.screen.columns, self._of.screen.lines


@pytest.fixture(autouse=True)
def _every_piece_is_painted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markdown, "_FRAME_S", 0.0)
    monkeypatch.setattr(markdown, "_PAINT_SHARE", 0)
    monkeypatch.setenv("TERM", "xterm-256color")


def streamed(pieces: Iterator[str] | list[str], columns: int, lines: int) -> Screen:
    screen = Screen(columns, lines)
    answer = _Timeless(screen)
    for piece in pieces:
        answer.feed(piece)
    answer.close()
    return screen


def in_one_go(text: str, columns: int, lines: int) -> list[str]:
    """The units of the whole text, printed one after the other: no stream, no tail."""
    renderer = LineRenderer(colour=True)
    printed: list[str] = []
    for unit in parse(make_parser(), text, Before()):
        block = renderer.lines(unit, columns)
        if printed and block and not unit.glued:
            printed.append("")
        printed += block
    screen = Screen(columns, lines)
    screen.write("".join(f"{line}\n" for line in printed))
    return screen.rows()


def cut(text: str, seed: int) -> list[str]:
    """The text in pieces of 1 to 9 characters."""
    rng = random.Random(seed)
    pieces, at = [], 0
    while at < len(text):
        step = rng.randint(1, 9)
        pieces.append(text[at : at + step])
        at += step
    return pieces


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (31, 10), (12, 5)])
@pytest.mark.parametrize("name", CORPUS)
def test_a_stream_ends_as_if_rendered_in_one_go(name: str, columns: int, lines: int) -> None:
    text = CORPUS[name]
    shown = streamed(cut(text, seed=columns), columns, lines)
    assert shown.rows() == in_one_go(text, columns, lines)


FRAGMENTS = st.sampled_from(
    ["- ", "* ", "1. ", "2) ", "> ", "# ", "```\n", "~~~", "    ", "  ", "\t", "\n", "\n\n", "---",
     "===", "| a | b |\n", "|---|---|\n", "*", "**", "`", "[a]", "(u)", "word", "word ", "日本",
     "\\", "&amp;", "<b>", ">> ", ">\n", "> - ", "> | c | d |\n> |---|---|\n", "  - ", "   1. ",
     "[r]: /u\n", "[r]", "![i](u)", "<http://a.b>", "http://c.d ", "~~", "é", "👩‍👧", "שלום ",
     "***\n", "| 日本語の列 | x |\n", "```py\ndef f():\n"]
)  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@example(pieces=["# [r]\n", "- ```\n", "[r]: /u\n"], size=(20, 5))
@example(pieces=["- a\n", "-", "-", "-", "x\n", "\n", "b"], size=(24, 8))
@given(
    pieces=st.lists(FRAGMENTS, max_size=30),
    size=st.tuples(st.integers(2, 40), st.integers(2, 12)),
)
def test_any_markdown_cut_anywhere(pieces: list[str], size: tuple[int, int]) -> None:
    assert streamed(pieces, *size).rows() == in_one_go("".join(pieces), *size)


def test_no_address_is_lost() -> None:
    text = "![i](http://a.b/i.png) [x](http://c.d) <http://e.f> [r] http://g.h\n\n[r]: http://i.j\n"
    shown = "".join(row[:1] for rows in in_one_go(text, 200, 5) for row in rows.split("|"))
    for address in ("a.b/i.png", "c.d", "e.f", "g.h", "i.j"):
        assert f"http://{address}" in shown


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    words=st.lists(st.text("abcdefghij", min_size=1, max_size=12), min_size=1, max_size=12),
    marks=st.lists(
        st.sampled_from(["- ", "> ", "1. ", "# ", "```py\n", "| a | b |\n|---|---|\n| x | "]),
        max_size=5,
    ),
    columns=st.integers(3, 40),
)
def test_no_word_is_lost_however_narrow(words: list[str], marks: list[str], columns: int) -> None:
    text = "".join(marks) + " ".join(words).upper() + "\n"
    rows = in_one_go(text, columns, 6)
    shown = "".join(cell[:1] for row in rows for cell in row.split("|"))
    assert re.sub("[^A-J]", "", shown) == "".join(words).upper()


@pytest.mark.parametrize("columns", [12, 20, 40, 120])
def test_no_cell_is_lost_however_wide_the_table(columns: int) -> None:
    for name, letters in (("many columns", "cl"), ("wide table", "9"), ("tall table", "0369")):
        rows = in_one_go(CORPUS[name], columns, 10)
        shown = "".join(cell[:1] for row in rows for cell in row.split("|"))
        for letter in letters:
            assert shown.count(letter) == CORPUS[name].count(letter), (name, letter)


# Black, white and yellow as text, bright ones too: each is invisible on some background.
_UNREADABLE = re.compile(r"\x1b\[(?:\d+;)*(?:3[037]|9[037]|[34]8;|4\d|10\d)(?:;\d+)*m")


@pytest.mark.parametrize("name", CORPUS)
def test_colours_are_readable_on_light_and_dark(name: str) -> None:
    written = streamed([CORPUS[name]], 80, 24).written
    assert not _UNREADABLE.search(written)
    assert "\x1b]8" not in written


@pytest.mark.parametrize("name", CORPUS)
def test_no_colour_leaves_bold_and_dim(name: str) -> None:
    renderer = LineRenderer(colour=False)
    for unit in parse(make_parser(), CORPUS[name], Before()):
        for codes in re.findall(r"\x1b\[([\d;]*)m", "".join(renderer.lines(unit, 80))):
            assert set(codes.split(";")) <= {"", "0", "1", "2", "3", "4", "9"}
