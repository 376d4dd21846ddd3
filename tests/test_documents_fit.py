"""Texts cut to a number of tokens: whatever the text and however tokens are counted."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_cli.documents import fit, parts

Measure = Callable[[str], int]


def _merged(text: str) -> int:
    """As a tokenizer does: not additive, and a cut word can be more tokens than a whole one."""
    whole = {"paragraph", "sentence", "words"}
    return sum(1 if word in whole else len(word) for word in re.findall(r"\w+|\W", text))


MEASURES: list[Measure] = [len, lambda text: len(text.encode()), _merged, lambda t: len(t) // 4]
TEXTS = st.one_of(
    st.text(),
    st.lists(st.sampled_from(["words", " ", ". ", "\n", "\n\n", "é", "paragraph", "x"])).map(
        "".join
    ),
)


@given(TEXTS, st.sampled_from(MEASURES), st.integers(0, 60))
def test_what_fits_is_a_beginning_that_fits(text: str, measure: Measure, limit: int) -> None:
    result = fit(text, measure, limit)
    assert text.startswith(result)
    assert measure(result) <= limit
    assert result == text or measure(text) > limit


@given(TEXTS, st.sampled_from(MEASURES), st.integers(12, 60))
def test_parts_are_the_whole_text_and_each_fits(text: str, measure: Measure, limit: int) -> None:
    found = parts(text, measure, limit)
    assert "".join(found) == text
    assert all(part and measure(part) <= limit for part in found)


@given(TEXTS, st.integers(1, 60))
def test_at_least_half_of_what_would_fit_is_taken(text: str, limit: int) -> None:
    assert len(fit(text, len, limit)) >= min(len(text), limit // 2 - 1)


PROSE = "".join(
    f"Sentence {number} of this. Another one follows it.\nLine two of {number}.\n\n"
    for number in range(5000)
)


def test_a_cut_is_where_a_paragraph_line_sentence_or_word_ends() -> None:
    assert fit(PROSE, len, 1000).endswith(".\n\n")
    assert fit(PROSE.replace("\n\n", "\n"), len, 1000).endswith(".\n")
    assert fit(PROSE.replace("\n", " "), len, 1000).endswith(". ")
    assert fit("word " * 1000, len, 1001).endswith("word ")
    assert fit("x" * 1000, len, 100) == "x" * len(fit("x" * 1000, len, 100))


@pytest.mark.parametrize("limit", [10, 1000, 30_000])
def test_few_measurements_are_made_and_none_of_all_of_a_long_text(limit: int) -> None:
    measured: list[int] = []

    def count(text: str) -> int:
        measured.append(len(text))
        return len(text) // 4

    result = fit(PROSE, count, limit)
    assert len(measured) <= 12
    assert sum(measured) <= 20 * max(len(result), 4 * limit)


def test_a_character_that_does_not_fit_is_an_error_not_a_loop() -> None:
    with pytest.raises(ValueError, match="more than 2"):
        parts("日本", lambda text: len(text.encode()), 2)
    assert fit("日本", lambda text: len(text.encode()), 2) == ""
    assert parts("", len, 0) == []
