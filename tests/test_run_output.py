"""What of an answer `gemma run` writes: all of it, without Markdown, or its first code block."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_cli.chat.codeblocks import code_blocks
from gemma_cli.terminal.plaintext import PlainText
from tests.conftest import Gemma
from tests.scripted_model import scripted_gemma4


def says(tmp_path: Path, *words: str) -> str:
    return str(scripted_gemma4(tmp_path / "said.gguf", words, small=True))


def run(gemma: Gemma, model: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return gemma("run", "-m", model, "-t", "0", "--ctx", "512", "--no-cache", *arguments, "x")


def test_extract_writes_the_first_code_block_alone(gemma: Gemma, tmp_path: Path) -> None:
    model = says(
        tmp_path,
        "Here",
        ":\n",
        "```py\n",
        "print(1)\n",
        "  two\n",
        "```\n",
        "Text\n",
        "```sh\n",
        "no\n",
    )
    done = run(gemma, model, "--extract")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "print(1)\n  two\n"
    whole = run(gemma, model)
    assert whole.stdout.startswith("Here:\n```py\nprint(1)\n")
    saved = run(gemma, model, "-x", "--save")
    assert saved.stdout == done.stdout
    shown = gemma("history", "export", "1").stdout
    assert "no\n" in shown  # what is saved is the whole answer


def test_an_answer_without_code_is_a_failure_that_loses_nothing(
    gemma: Gemma, tmp_path: Path
) -> None:
    done = run(gemma, says(tmp_path, "No ", "code"), "-x")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no fenced code block" in done.stderr
    assert "No code" in done.stderr


def test_a_block_that_was_cut_is_said(gemma: Gemma, tmp_path: Path) -> None:
    done = run(gemma, says(tmp_path, "```\n", "half", " a line"), "-x")
    assert (done.returncode, done.stdout) == (0, "half a line\n")
    assert "not complete" in done.stderr


def test_format_text_takes_the_markdown_off(gemma: Gemma, tmp_path: Path) -> None:
    model = says(tmp_path, "# Title\n\n", "**bold** ", "[here](http://x.y)\n\n", "- one\n", "- two")
    done = run(gemma, model, "--format", "text")
    assert done.stdout == "Title\n\nbold here (http://x.y)\n\n- one\n- two\n"
    assert run(gemma, model, "--format", "md").stdout == run(gemma, model).stdout


MARKDOWN = """# A *title*

Some **bold**, `code` and ~~old~~ [link](http://a.b) <http://c.d> ![picture](p.png)
next line

Setext
======

- one
- two
  - nested

    more
- three

3. c
4. d

~~~python
def f():

    return 1
~~~
> quoted **text**
> > deeper

| a | b |
|---|---|
| `1` | 2 |

[ref]: http://r.s

A [ref] and &amp; an entity \\* done.

---
    indented code
"""

PLAIN = """A title

Some bold, code and old link (http://a.b) http://c.d picture (p.png)
next line

Setext

- one
- two
  - nested

    more
- three

3. c
4. d

def f():

    return 1

quoted text

deeper

a\tb
1\t2

A ref (http://r.s) and & an entity * done.

indented code
"""


def plain(pieces: list[str]) -> str:
    writer = PlainText()
    return "".join(map(writer.feed, pieces)) + writer.end()


def test_plain_text_of_everything() -> None:
    assert plain([MARKDOWN]) == PLAIN


@pytest.mark.parametrize("seed", range(20))
def test_pieces_make_no_difference(seed: int) -> None:
    order = random.Random(seed)
    pieces = []
    at = 0
    while at < len(MARKDOWN):
        size = order.randint(1, 12)
        pieces.append(MARKDOWN[at : at + size])
        at += size
    assert plain(pieces) == PLAIN


@given(st.lists(st.text(alphabet="ab *_`~#>-|[]()!\\\n1.:", max_size=12), max_size=12))
def test_any_text_comes_out_the_same_in_any_pieces(pieces: list[str]) -> None:
    whole = "".join(pieces)
    assert plain(pieces).split() == plain([whole]).split()


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("no code", []),
        ("```\na\n```", ["a\n"]),
        ("```py\na\n~~~\nb\n```\n~~~\nc\n", ["a\n~~~\nb\n", "c\n"]),
        ("````\n```\n````\n", ["```\n"]),
        ("1. x:\n\n    ```sh\n    ls\n      -l\n    ```\n", ["ls\n  -l\n"]),
        ("``` a`b\nc\n", []),
        ("```\na\u2028b\x0cc\n```", ["a\u2028b\x0cc\n"]),
        ("```\n```\n", [""]),
    ],
)
def test_code_blocks(text: str, blocks: list[str]) -> None:
    assert code_blocks(text) == blocks
