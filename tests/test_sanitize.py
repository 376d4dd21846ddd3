from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_cli.terminal.sanitize import clean, clean_line

ANY_TEXT = st.text(alphabet=st.characters())  # lone surrogates included


@pytest.mark.parametrize(
    ("dirty", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("line\r\nline\rline", "line\nlineline"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("\x1b]52;c;ZXZpbA==\x07", "]52;c;ZXZpbA=="),
        ("\x9b2J\x9d0;title\x9c", "2J0;title"),
        ("a\x00b\x7fc\x85d", "abcd"),
        ("user\u202etxt.exe", "user\ufffdtxt.exe"),
        ("\u2066a\u2069\u061c", "\ufffda\ufffd\ufffd"),
        ("\u05d0\u200f!\u200e", "\u05d0\u200f!\u200e"),
        ("half \ud83d a pair", "half \ufffd a pair"),
        ("日本語 👩‍🚀 é", "日本語 👩‍🚀 é"),
    ],
)
def test_clean(dirty: str, shown: str) -> None:
    assert clean(dirty) == shown


def test_a_name_stays_on_its_line() -> None:
    assert clean_line("a\nb\tc\r\nd\u2028e\u2029f") == "a b c d e f"
    assert clean_line("\x1b[2Jname") == "[2Jname"


@given(ANY_TEXT)
def test_nothing_that_steers_a_terminal_is_left(text: str) -> None:
    shown = clean(text)
    shown.encode("utf-8")
    assert all(char in "\n\t" or unicodedata.category(char) != "Cc" for char in shown)
    assert not any(
        unicodedata.bidirectional(char) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI"}
        for char in shown
    )
    assert "\n" not in clean_line(text)


@given(ANY_TEXT, ANY_TEXT)
def test_a_stream_may_be_cut_anywhere(left: str, right: str) -> None:
    assert clean(left) + clean(right) == clean(left + right)
    assert clean(clean(left)) == clean(left)
